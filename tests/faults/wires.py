"""The cables of a fault run: a TCP proxy between each pair, which can be slow, cut, and deaf in one or both directions.

The topology puts one into each address it gives to a process; the injectors spoil it and put it right again. A hole keeps
what it swallows and lets it go when it heals, as TCP's retransmissions would.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import dataclass, field

Address = tuple[str, int]
CHUNK = 65536


@dataclass(eq=False)
class Wire:
    """One cable. `open`, then `port`; connections through it go to `to`."""

    name: str
    to: Address
    port: int = 0
    delay: float = 0.0
    """Seconds each piece takes, each way."""
    refused: list[float] = field(default_factory=list)
    """When nobody took a connection at its far end: what would have been a refusal without a proxy in between."""
    cuts: list[float] = field(default_factory=list)
    """When it was cut, seconds since 1970."""
    holes: list[tuple[float, float]] = field(default_factory=list)
    """From when to when it was deaf."""
    up: asyncio.Event = field(default_factory=asyncio.Event)
    down: asyncio.Event = field(default_factory=asyncio.Event)
    """Set while what goes that way gets through."""
    _ends: set[asyncio.StreamWriter] = field(default_factory=set)
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)
    _server: asyncio.Server | None = None

    async def open(self) -> None:
        """Listen; on the same port again after `close`."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port, limit=CHUNK, backlog=1024)
        self.port = self._server.sockets[0].getsockname()[1]

    async def listen(self, there: bool) -> None:
        """Take connections only while somebody is there who would: a proxy must not turn a refusal into a reset."""
        if not there and self._server is not None:
            self._server.close()
            self._server = None
        elif there and self._server is None:
            await self.open()

    async def close(self) -> None:
        """Cut, and listen no more."""
        if self._server is not None:
            self._server.close()
        self.cut()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def __post_init__(self) -> None:
        self.up.set()
        self.down.set()

    def cut(self) -> None:
        """Reset every connection, as a pulled cable that is put back."""
        self.cuts.append(time.time())
        for writer in list(self._ends):
            writer.transport.abort()
        self._ends.clear()

    async def hole(self, seconds: float, *, up: bool = True, down: bool = True) -> None:
        """Swallow what goes up (away from who dialled), down, or both; let it go afterwards."""
        began = time.time()
        for way, wanted in ((self.up, up), (self.down, down)):
            if wanted:
                way.clear()
        try:
            await asyncio.sleep(seconds)
        finally:
            self.up.set()
            self.down.set()
            self.holes.append((began, time.time()))

    async def slow(self, seconds: float, delay: float) -> None:
        """Let each piece take `delay` seconds for a while."""
        self.delay = delay
        try:
            await asyncio.sleep(seconds)
        finally:
            self.delay = 0.0

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # asyncio.streams asks this task for its exception, and a cancelled one has none to tell
        with contextlib.suppress(asyncio.CancelledError):
            await self._carry(reader, writer)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        ends = [writer]
        try:
            await self.up.wait()
            try:
                up_reader, up_writer = await asyncio.open_connection(*self.to, limit=CHUNK)
            except OSError:
                self.refused.append(time.time())
                raise
            ends.append(up_writer)
            self._ends |= set(ends)
            async with asyncio.TaskGroup() as group:
                group.create_task(self._pump(reader, up_writer, self.up))
                group.create_task(self._pump(up_reader, writer, self.down))
        except* (OSError, RuntimeError):  # uvloop says the latter of a socket that was cut
            pass
        finally:
            self._tasks.discard(task)
            self._ends -= set(ends)
            for end in ends:
                end.transport.abort()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, way: asyncio.Event) -> None:
        while data := await reader.read(CHUNK):
            if self.delay:
                await asyncio.sleep(self.delay)
            await way.wait()
            writer.write(data)
            await writer.drain()
        await way.wait()
        with contextlib.suppress(OSError, RuntimeError):
            writer.write_eof()
