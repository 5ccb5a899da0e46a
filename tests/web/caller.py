"""A caller over a raw socket: sends bytes as given, reads an answer's head, its chunks one by one, and its end."""

from __future__ import annotations

import asyncio
import contextlib
import json
from dataclasses import dataclass, field
from urllib.parse import urlsplit


@dataclass
class Reply:
    """An answer as it came."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes = b""
    chunks: list[bytes] = field(default_factory=list)
    complete: bool = False
    """It ended properly: final chunk, or as many bytes as announced."""

    def header(self, name: str) -> str | None:
        return next((value for key, value in self.headers if key.lower() == name.lower()), None)

    def json(self):
        return json.loads(self.body)


class Caller:
    """One connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, host: str) -> None:
        self.reader = reader
        self.writer = writer
        self.host = host

    @classmethod
    async def dial(cls, url: str, **kwargs) -> Caller:
        parts = urlsplit(url)
        reader, writer = await asyncio.open_connection(parts.hostname, parts.port, **kwargs)
        return cls(reader, writer, parts.netloc)

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    def ask(self, method: str, path: str, body: object = None, *, version: str = "1.1", **headers: str) -> None:
        """Send a request; a dict goes as JSON."""
        payload = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
        lines = [f"{method} {path} HTTP/{version}", f"Host: {self.host}"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        if body is not None and "Content_Length" not in headers:
            lines.append(f"Content-Length: {len(payload)}")
        self.send(("\r\n".join(lines) + "\r\n\r\n").encode() + payload)

    async def head(self) -> Reply:
        """The head of the next answer."""
        async with asyncio.timeout(60):
            text = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        lines = text.split("\r\n")
        pairs = [line.split(": ", 1) for line in lines[1:] if line]
        return Reply(int(lines[0].split(" ")[1]), [(name, value) for name, value in pairs])

    async def chunk(self) -> bytes:
        """The next HTTP chunk; b"" for the final one."""
        async with asyncio.timeout(60):
            size = int(await self.reader.readuntil(b"\r\n"), 16)
            data = await self.reader.readexactly(size + 2)
        return data[:-2]

    async def reply(self, *, method: str = "POST") -> Reply:
        """A whole answer."""
        reply = await self.head()
        return await self.rest(reply, method=method)

    async def rest(self, reply: Reply, *, method: str = "POST") -> Reply:
        """What follows a head."""
        async with asyncio.timeout(60):
            length = reply.header("Content-Length")
            if method == "HEAD" or reply.status in {204, 304}:
                reply.complete = True
            elif length is not None:
                reply.body = await self.reader.readexactly(int(length))
                reply.complete = True
            elif reply.header("Transfer-Encoding") == "chunked":
                with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
                    while chunk := await self.chunk():
                        reply.chunks.append(chunk)
                    reply.complete = True
                reply.body = b"".join(reply.chunks)
            else:
                reply.body = await self.reader.read()
        return reply

    async def post(self, path: str, body: object, **headers: str) -> Reply:
        self.ask("POST", path, body, **headers)
        return await self.reply()

    async def get(self, path: str, *, method: str = "GET", **headers: str) -> Reply:
        self.ask(method, path, **headers)
        return await self.reply(method=method)

    async def ended(self) -> bool:
        """The gateway closes the connection."""
        async with asyncio.timeout(60):
            try:
                return await self.reader.read() == b""
            except ConnectionError:
                return True

    async def close(self) -> None:
        self.writer.close()
        with contextlib.suppress(ConnectionError):
            await self.writer.wait_closed()
