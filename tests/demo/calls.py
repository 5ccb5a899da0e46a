"""Calls to a fake Ollama that a test keeps in its hand: begun, left, or read to the end.

    call = await begin(fake, "/api/chat", {...}); call.seen.phase; await call.answer(); call.leave()

The record of the request (`call.seen`) is the fake's own.
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tests.exchange import Answer, read_answer

if TYPE_CHECKING:
    from foreman.demo.ollama import FakeOllama, Seen


def chat(model: str, text: str = "Say hi.", **more: Any) -> dict[str, Any]:
    """A chat's body."""
    return {"model": model, "messages": [{"role": "user", "content": text}], **more}


@dataclass(slots=True)
class Call:
    """One request under way."""

    seen: Seen
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def answer(self) -> Answer:
        """Read it to the end and close."""
        async with asyncio.timeout(60):
            try:
                return await read_answer(self.reader)
            finally:
                self.writer.close()

    async def text(self) -> str:
        """The answer's body."""
        return (await self.answer()).body.decode()

    def leave(self) -> None:
        """Close the connection."""
        self.writer.close()


async def begin(fake: FakeOllama, path: str, body: dict[str, Any] | None = None, method: str = "POST") -> Call:
    """Send a request; returns once the fake has it."""
    number = fake.ledger.request_count + 1
    reader, writer = await asyncio.open_connection("127.0.0.1", int(fake.url.rpartition(":")[2]))
    payload = b"" if body is None else json.dumps(body).encode()
    head = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(payload)}\r\n\r\n"
    writer.write(head.encode() + payload)
    seen = await fake.until(lambda fake: next((seen for seen in fake.requests if seen.number == number), None))
    if method == "POST":
        await fake.until(lambda fake: seen.phase != "new")
    return Call(seen, reader, writer)


async def post(fake: FakeOllama, path: str, body: dict[str, Any]) -> Answer:
    """Send a request and read its answer."""
    return await (await begin(fake, path, body)).answer()


async def ps(fake: FakeOllama) -> list[dict[str, Any]]:
    """What /api/ps lists."""
    answer = await (await begin(fake, "/api/ps", method="GET")).answer()
    return list(json.loads(answer.body)["models"])


def lines(answer: Answer) -> list[dict[str, Any]]:
    """The lines of an NDJSON answer."""
    return [json.loads(line) for line in answer.body.splitlines()]
