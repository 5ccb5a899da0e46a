"""A TCP proxy between a client and foreman that lets a test see the bytes on the wire and wait for them.

async with Tap(house.url) as tap: … client(base_url=tap.url) …; await tap.until(lambda wire: wire.count(b" ") >= 3)
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Self
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Callable


class Tap:
    """One listener; each connection through it is kept as the bytes that came down."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._host, self._port = parts.hostname or "127.0.0.1", parts.port or 80
        self.down: list[bytearray] = []
        """What foreman sent, a bytearray per connection, in order of their opening."""
        self._writers: list[asyncio.StreamWriter] = []
        self._changed = asyncio.Event()
        self._server: asyncio.Server | None = None

    @property
    def url(self) -> str:
        """Where a client calls instead of foreman."""
        assert self._server
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *exc: object) -> None:
        assert self._server
        self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen = bytearray()
        self.down.append(seen)
        try:
            up_reader, up_writer = await asyncio.open_connection(self._host, self._port)
        except OSError:
            writer.close()
            return
        self._writers += [writer, up_writer]
        with contextlib.suppress(OSError):
            await asyncio.gather(self._pump(reader, up_writer, None), self._pump(up_reader, writer, seen))

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, seen: bytearray | None) -> None:
        try:
            while data := await reader.read(65536):
                if seen is not None:
                    seen += data
                    self._changed.set()
                writer.write(data)
                await writer.drain()
        finally:
            writer.close()

    def cut(self) -> None:
        """Break every connection through here, as a pulled cable that is put back."""
        for writer in self._writers:
            writer.transport.abort()
        self._writers.clear()

    async def until(self, what: Callable[[list[bytes]], bool], timeout: float = 60) -> None:
        """Wait until `what(bytes down per connection)` is true."""
        async with asyncio.timeout(timeout):
            while not what([bytes(seen) for seen in self.down]):
                self._changed.clear()
                await self._changed.wait()
