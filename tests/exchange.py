"""One HTTP exchange on a raw socket, seen byte for byte: status, headers in order, chunks as framed, how it ended.

answer = await exchange(url, "POST", "/api/chat", body)
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from urllib.parse import urlsplit


@dataclass(slots=True)
class Answer:
    """What came back."""

    status: int
    reason: str
    headers: list[tuple[str, str]]
    chunks: list[bytes] = field(default_factory=list)
    """The HTTP chunks of a chunked body, or the whole body as one."""
    framing: str = "none"
    """`chunked`, `length`, `close` or `none`."""
    whole: bool = True
    """The body came to its proper end."""
    after: bytes = b""

    @property
    def body(self) -> bytes:
        """All of it."""
        return b"".join(self.chunks)

    def header(self, name: str) -> str | None:
        """The first value of a header, or None."""
        return next((value for key, value in self.headers if key.lower() == name.lower()), None)


async def exchange(
    url: str,
    method: str,
    path: str,
    body: bytes | None = None,
    headers: dict[str, str] | None = None,
    version: str = "1.1",
    timeout: float = 30,
) -> Answer:
    """Send one request, read one answer, close."""
    parts = urlsplit(url)
    async with asyncio.timeout(timeout):
        reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
        try:
            lines = [f"{method} {path} HTTP/{version}", f"Host: {parts.netloc}"]
            lines += [f"{key}: {value}" for key, value in (headers or {}).items()]
            if body is not None:
                lines.append(f"Content-Length: {len(body)}")
            writer.write("\r\n".join(lines).encode() + b"\r\n\r\n" + (body or b""))
            return await read_answer(reader, head_only=method == "HEAD")
        finally:
            writer.close()


async def read_head(reader: asyncio.StreamReader) -> Answer:
    """The status line and the headers."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    status_line, *rows = head.split("\r\n")[:-2]
    _, code, reason = (status_line + " ").split(" ", 2)
    headers = [(key, value.strip()) for key, _, value in (row.partition(":") for row in rows)]
    return Answer(int(code), reason.strip(), headers)


async def read_answer(reader: asyncio.StreamReader, *, head_only: bool = False) -> Answer:
    """Head and body, however the body is framed."""
    answer = await read_head(reader)
    if head_only or answer.status in {204, 304}:
        return answer
    try:
        if (answer.header("transfer-encoding") or "").lower() == "chunked":
            answer.framing = "chunked"
            while chunk := await read_chunk(reader):
                answer.chunks.append(chunk)
        elif (length := answer.header("content-length")) is not None:
            answer.framing = "length"
            answer.chunks.append(await reader.readexactly(int(length)))
        else:
            answer.framing = "close"
            answer.chunks.append(await reader.read())
    except (asyncio.IncompleteReadError, ConnectionError):
        answer.whole = False
    return answer


async def read_chunk(reader: asyncio.StreamReader) -> bytes:
    """The next HTTP chunk; empty at the last one."""
    size = int((await reader.readuntil(b"\r\n")).split(b";")[0], 16)
    data = await reader.readexactly(size + 2)
    return data[:-2]
