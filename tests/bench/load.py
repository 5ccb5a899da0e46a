"""The callers of the bench: many streams on raw sockets, measuring each token's way for as little CPU as Python can.

run.py calls `run_load` on its own uvloop loop. Latency of a token = its read here minus the CLOCK_MONOTONIC time that the
upstream wrote into it; TTFT = the first of them minus the moment the request was sent.
"""

from __future__ import annotations

import asyncio
import json
import re
import socket
import time
from dataclasses import dataclass, field

STAMP = re.compile(rb'"t":(\d+)')


@dataclass(slots=True)
class Sample:
    """What one load saw."""

    ttft: list[float] = field(default_factory=list)
    """Seconds from sending a request to its first token."""
    latency: list[float] = field(default_factory=list)
    """Seconds from the upstream's write of a token to our read."""
    tokens: int = 0
    failed: int = 0


class Caller(asyncio.Protocol):
    """One stream: send, read to the end mark, close or go again."""

    def __init__(self, request: bytes, sample: Sample, done: asyncio.Future[None], times: int) -> None:
        self.request = request
        self.sample = sample
        self.done = done
        self.times = times
        self.transport: asyncio.Transport | None = None
        self.sent_at = 0
        self.first = True
        self.tail = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.send()

    def send(self) -> None:
        assert self.transport
        self.first = True
        self.sent_at = time.monotonic_ns()
        self.transport.write(self.request)

    def data_received(self, data: bytes) -> None:
        now = time.monotonic_ns()
        sample = self.sample
        for stamp in STAMP.findall(data):
            if self.first:
                self.first = False
                sample.ttft.append((now - self.sent_at) / 1e9)
            sample.latency.append((now - int(stamp)) / 1e9)
            sample.tokens += 1
        seen = self.tail + data if self.tail else data
        if b'"done":true' in seen:
            self.tail = b""
            self.times -= 1
            if self.times > 0 and self.transport:
                # The final chunk may come apart from the last line: a breath, then the next request.
                asyncio.get_running_loop().call_later(0.002, self.send)
            else:
                self.finish()
        else:
            self.tail = data[-16:]

    def finish(self) -> None:
        if not self.done.done():
            self.done.set_result(None)
        if self.transport:
            self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.done.done():
            self.sample.failed += 1
            self.done.set_result(None)


def request_bytes(port: int, tokens: int, rate: float) -> bytes:
    """The HTTP request of one stream."""
    body = json.dumps(
        {
            "model": "bench",
            "messages": [{"role": "user", "content": "x" * 600}],
            "options": {"bench_tokens": tokens, "bench_rate": rate},
        }
    ).encode()
    return (
        b"POST /api/chat HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
        % (port, len(body))
    ) + body


async def run_load(port: int, *, streams: int, rate: float, tokens: int, times: int, stagger: float) -> Sample:
    """`streams` callers, started over `stagger` seconds, each sending `times` requests of `tokens` tokens at `rate`/s."""
    loop = asyncio.get_running_loop()
    sample = Sample()
    request = request_bytes(port, tokens, rate)
    dones: list[asyncio.Future[None]] = []

    async def start(index: int) -> None:
        await asyncio.sleep(stagger * index / streams)
        done = dones[index]
        try:
            await loop.create_connection(lambda: Caller(request, sample, done, times), "127.0.0.1", port)
        except OSError:
            sample.failed += 1
            done.set_result(None)

    dones.extend(loop.create_future() for _ in range(streams))
    async with asyncio.TaskGroup() as group:
        for index in range(streams):
            group.create_task(start(index))
    await asyncio.wait(dones, timeout=120)
    return sample
