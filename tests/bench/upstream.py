"""The model server of the bench: answers as an Ollama does, at a fixed pace, for as little CPU as Python can.

Run as a process by run.py (`upstream.py PORT`). Each token line carries the CLOCK_MONOTONIC time of its write in ns, so
that whoever reads it knows the way's latency. The request says how many tokens at what pace: its `options` carry
`bench_tokens` and `bench_rate`. One process-wide timer wheel, one write per token and stream, TCP_NODELAY.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import socket
import sys
import time

MODEL = "bench:latest"
DIGEST = "b" * 64
TOKENS = re.compile(rb'"bench_tokens":\s*(\d+)')
RATE = re.compile(rb'"bench_rate":\s*([\d.]+)')
LENGTH = re.compile(rb"content-length:\s*(\d+)", re.IGNORECASE)
PAD = "x" * 14


def _json(value: object) -> bytes:
    body = json.dumps(value).encode()
    return (
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json; charset=utf-8\r\nContent-Length: %d\r\n\r\n" % len(body)
    ) + body


_ENTRY = {
    "name": MODEL,
    "model": MODEL,
    "size": 1,
    "digest": DIGEST,
    "details": {"family": "bench"},
    "modified_at": "2026-01-01T00:00:00Z",
}
FIXED = {
    b"/api/tags": _json({"models": [_ENTRY]}),
    b"/api/ps": _json(
        {"models": [{**_ENTRY, "expires_at": "2318-01-01T00:00:00Z", "size_vram": 1, "context_length": 4096}]}
    ),
    b"/api/version": _json({"version": "0.24.0"}),
    b"/": _json("Ollama is running"),
    b"/api/generate": _json({"model": MODEL, "response": "", "done": True, "done_reason": "load"}),
}
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n"


def token_line() -> bytes:
    """One chunk of the answer, 131 bytes of NDJSON on average, with the moment of its write."""
    line = (
        b'{"model":"bench","created_at":"2026-01-01T00:00:00Z","message":{"role":"assistant","content":"%s"},"t":%d,"done":false}\n'
        % (PAD.encode(), time.monotonic_ns())
    )
    return b"%x\r\n%b\r\n" % (len(line), line)


def last_line(count: int) -> bytes:
    """The end of the answer, with its final chunk."""
    line = (
        b'{"model":"bench","created_at":"2026-01-01T00:00:00Z","message":{"role":"assistant","content":""},"done":true,"done_reason":"stop","eval_count":%d}\n'
        % count
    )
    return b"%x\r\n%b\r\n0\r\n\r\n" % (len(line), line)


class Server(asyncio.Protocol):
    """One connection; requests come one after another."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self.buffer = b""
        self.left = 0
        self.sent = 0
        self.interval = 0.02
        self.next_at = 0.0
        self.timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]
        sock = transport.get_extra_info("socket")
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def connection_lost(self, exc: Exception | None) -> None:
        if self.timer:
            self.timer.cancel()

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        while True:
            head, sep, rest = self.buffer.partition(b"\r\n\r\n")
            if not sep:
                return
            found = LENGTH.search(head)
            length = int(found[1]) if found else 0
            if len(rest) < length:
                return
            self.buffer = rest[length:]
            self.answer(head.split(b" ", 2)[1].split(b"?")[0], rest[:length])

    def answer(self, path: bytes, body: bytes) -> None:
        assert self.transport
        if path != b"/api/chat":
            self.transport.write(FIXED.get(path) or _json({}))
            return
        tokens, rate = TOKENS.search(body), RATE.search(body)
        self.left = int(tokens[1]) if tokens else 20
        self.sent = 0
        self.interval = 1 / float(rate[1]) if rate else 0.005
        self.transport.write(HEAD + token_line())
        self.left -= 1
        self.sent += 1
        loop = asyncio.get_running_loop()
        self.next_at = loop.time() + self.interval
        self.timer = loop.call_at(self.next_at, self.tick)

    def tick(self) -> None:
        transport = self.transport
        if transport is None or transport.is_closing():
            return
        if self.left <= 0:
            transport.write(last_line(self.sent))
            return
        transport.write(token_line())
        self.left -= 1
        self.sent += 1
        self.next_at += self.interval
        self.timer = asyncio.get_running_loop().call_at(self.next_at, self.tick)


async def main(port: int) -> None:
    server = await asyncio.get_running_loop().create_server(Server, "127.0.0.1", port, backlog=1024)
    print("READY", server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    import uvloop

    uvloop.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 0))
