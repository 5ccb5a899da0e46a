"""Webhook receivers of every kind on one port, each path one of them; they write down what reaches them.

async with Receivers() as receivers:
    receivers.kinds["/a"] = ["500", "ok"]     # the first request, then all others
    … receivers.seen["/a"] …
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any, Self

REPLIES = {
    "ok": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
    "500": b"HTTP/1.1 500 Oops\r\nContent-Length: 4\r\n\r\noops",
    "redirect": b"HTTP/1.1 302 Found\r\nLocation: /landed\r\nContent-Length: 0\r\n\r\n",
    "410": b"HTTP/1.1 410 Gone\r\nContent-Length: 0\r\n\r\n",
    "429": b"HTTP/1.1 429 Slow\r\nRetry-After: 1\r\nContent-Length: 0\r\n\r\n",
    "long": b"HTTP/1.1 500 Oops\r\nContent-Length: 1000000\r\n\r\n" + b"x" * 1_000_000,
    "204-body": b"HTTP/1.1 204 No Content\r\nContent-Length: 2\r\n\r\nok",
    "no-chunk": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nok\r\n",
    "garbage": b"SSH-2.0-OpenSSH\r\n\r\n",
}


@dataclass(slots=True)
class Seen:
    """One request as it came."""

    path: str
    headers: dict[str, str]
    body: bytes
    began: float
    """Seconds, monotonic."""
    kind: str
    ended: float | None = None

    @property
    def event(self) -> dict[str, Any]:
        return json.loads(self.body)

    @property
    def id(self) -> str:
        return self.headers["webhook-id"]


@dataclass
class Receivers:
    """The server. `kinds[path]` lists what its requests meet, the last one for all further ones; else `ok`."""

    kinds: dict[str, list[str]] = field(default_factory=dict)
    seen: dict[str, list[Seen]] = field(default_factory=lambda: defaultdict(list))
    trouble: list[str] = field(default_factory=list)
    """Two attempts of one event, or of one job's events at one path, at once."""
    open: dict[tuple[str, str], int] = field(default_factory=lambda: defaultdict(int))
    most: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    """The most requests at once, by path."""
    url: str = ""
    connections: int = 0

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, limit=1 << 24)
        self.port = self._server.sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._writers: set[asyncio.StreamWriter] = set()
        self.changed = asyncio.Event()
        self.gate = asyncio.Event()
        """What `gate` waits for before it answers 200."""
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for writer in list(self._writers):
            writer.transport.abort()
        await self._server.wait_closed()

    async def until(self, predicate: Any, timeout: float = 60) -> None:
        """Wait until `predicate(self)`; it is asked at each request."""
        async with asyncio.timeout(timeout):
            while not predicate(self):
                self.changed.clear()
                await self.changed.wait()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._writers.add(writer)
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, TimeoutError):
            await self._one(reader, writer)
        self._writers.discard(writer)
        writer.close()

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        began = time.monotonic()
        head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        path = head[0].split()[1]
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:] if line)}
        body = await reader.readexactly(int(headers.get("content-length", "0")))
        script = self.kinds.get(path, ["ok"])
        kind = script[min(len(self.seen[path]), len(script) - 1)]
        seen = Seen(path, headers, body, began, kind)
        self.seen[path].append(seen)
        lane = (path, headers.get("webhook-id", "").rpartition("_")[0])
        self.open[lane] += 1
        if self.open[lane] > 1:
            self.trouble.append(f"{seen.id} while another of its job was open at {path}")
        self.most[path] = max(self.most[path], sum(count for (at, _), count in self.open.items() if at == path))
        self.changed.set()
        try:
            await self._reply(kind, reader, writer)
        finally:
            self.open[lane] -= 1
            seen.ended = time.monotonic()
            self.changed.set()

    async def _reply(self, kind: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if kind == "reset":
            writer.transport.abort()
        elif kind == "timeout":
            await reader.read()  # until the sender has had enough
        elif kind == "gate":
            await self.gate.wait()
            writer.write(REPLIES["ok"])
        elif kind in {"drip", "drip-body"}:
            writer.write(
                b"HTTP/1.1 200 OK\r\n" + (b"Content-Length: 100000\r\n\r\n" if kind == "drip-body" else b"X: ")
            )
            with contextlib.suppress(ConnectionError):
                async with asyncio.timeout(60):
                    while not reader.at_eof():
                        writer.write(b"y")
                        await writer.drain()
                        with contextlib.suppress(TimeoutError):
                            await asyncio.wait_for(reader.read(1), 0.05)
        else:
            writer.write(REPLIES[kind])
        with contextlib.suppress(ConnectionError):
            if kind != "reset":
                await writer.drain()
