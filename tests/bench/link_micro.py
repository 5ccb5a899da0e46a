"""What a DATA frame costs in our own Python, on either side of either channel: `python tests/bench/link_micro.py`.

No sockets: the worker's transport swallows writes, the gateway is fed bytes from memory, so what is left is ours (the
loop's callbacks and syscalls come on top). `turn` is how many frames one loop turn writes or one read brings: 1 is a
lone stream, 8 a busy link. The last lines send the same frames over a real TCP pair in this process, syscalls included.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent.parent))

import structlog
import uvloop

from foreman.link.channel import Framing, Head
from foreman.link.client import LinkClient, WorkerWire
from foreman.link.local import LocalLink
from foreman.link.server import GatewayWire, LinkServer
from foreman.link.wire import Pace
from foreman.protocols import link as codec
from foreman.protocols.link import Kind
from foreman.protocols.link_hello import WorkerHello
from foreman.store.records import GatewayPresence

UNIT = b'{"model":"llama3.2","created_at":"2026-01-01T00:00:00.000000Z","message":{"role":"assistant","content":" the"},"done":false}\n'
SECRET = b"of the bench"
WINDOW = 1 << 20
STREAMS = 100
CREDIT_EACH = 64 * 1024


class Sink:
    """A relay that does nothing but give credit every 64 KiB."""

    def __init__(self) -> None:
        self.owed = 0
        self.seen = 0

    def started(self, epoch: int, feedback: Any) -> None:
        self.feedback = feedback

    def data(self, unit: bytes) -> None:
        self.seen += 1
        self.owed += len(unit)
        if self.owed >= CREDIT_EACH:
            self.feedback.credit(self.owed)
            self.owed = 0

    def working(self) -> None: ...
    def head(self, head: Head) -> None: ...
    def held(self, waits: bool) -> None: ...
    def end(self) -> None: ...
    def error(self, failure: Any) -> None: ...
    def lost(self) -> None: ...


class Door:
    def __init__(self) -> None:
        self.sinks: dict[str, Sink] = {}

    def accept(self, job_id: str) -> Sink:
        return self.sinks.setdefault(job_id, Sink())


class Control:
    def cancel(self, code: Any) -> None: ...
    def pause(self) -> None: ...
    def resume(self) -> None: ...


class NullTransport:
    """Counts what is written and forgets it."""

    written = 0

    def write(self, data: bytes) -> None:
        self.written += len(data)

    def is_closing(self) -> bool:
        return False

    def set_write_buffer_limits(self, **limits: int) -> None: ...
    def get_extra_info(self, name: str) -> None: ...
    def abort(self) -> None: ...


HEAD = Head(200, (("Content-Type", "application/x-ndjson"),), Framing.NDJSON)


def per_frame(passes: int, frames: int, work: Any) -> float:
    """Median µs of process time per frame over some passes of `work()`."""
    times = []
    for _ in range(passes):
        begin = time.process_time_ns()
        work()
        times.append((time.process_time_ns() - begin) / frames / 1000)
    return statistics.median(times)


async def worker_side(turn: int, passes: int) -> float:
    """`outlet.data` until its bytes are handed to the transport, for `turn` frames a turn."""
    wire = WorkerWire(WorkerHello(SECRET, "wk", "gw", bytes(32)), Pace())
    transport = NullTransport()
    wire.connection_made(transport)  # type: ignore[arg-type]  # stands in for one
    outlets = [wire.open(f"job-{n}", 1, Control(), WINDOW) for n in range(STREAMS)]
    for outlet in outlets:
        outlet.head(HEAD)
        outlet.data(UNIT)
    wire.flush()
    rounds = 800 // turn

    def work() -> None:
        for at in range(rounds):
            wire._flushing = True  # the loop's own call_soon is measured by nobody here
            for n in range(turn):
                outlets[(at * turn + n) % STREAMS].data(UNIT)
            wire._flush_turn()
        for outlet in outlets:
            outlet.credit(1 << 30)

    transport.written = 0
    cost = per_frame(passes, rounds * turn, work)
    assert transport.written == passes * rounds * turn * (len(UNIT) + codec.HEADER_SIZE)
    wire.connection_lost(None)
    return cost


async def gateway_side(turn: int, passes: int) -> float:
    """From the bytes of one read, which hold `turn` frames, to the sink."""
    door = Door()
    server = LinkServer(door, "gw", SECRET, "127.0.0.1:0")
    wire = GatewayWire(server)
    wire.connection_made(NullTransport())  # type: ignore[arg-type]  # stands in for one
    hello = WorkerHello(SECRET, "wk", "gw", bytes(32))
    said = [hello.open()]
    wire.send_now = said.append  # type: ignore[method-assign]  # the gateway's half of the hello
    wire.data_received(said[0])
    wire.data_received(hello.step(*_one(said[1])))
    del wire.send_now
    wire.data_received(b"".join(codec.started(n + 1, 1, f"job-{n}") for n in range(STREAMS)))
    wire.data_received(b"".join(codec.head(n + 1, 200, HEAD.headers, 1) for n in range(STREAMS)))
    reads = [
        b"".join(codec.frame(Kind.DATA, (at * turn + n) % STREAMS + 1, UNIT) for n in range(turn))
        for at in range(800 // turn)
    ]

    def work() -> None:
        for read in reads:
            wire.data_received(read)

    cost = per_frame(passes, len(reads) * turn, work)
    assert sum(sink.seen for sink in door.sinks.values()) == passes * len(reads) * turn
    wire.connection_lost(None)
    return cost


def _one(data: bytes) -> tuple[int, bytes]:
    [(kind, _, payload)] = codec.Decoder().feed(data)
    return kind, payload


async def local(passes: int) -> float:
    """`outlet.data` until the sink has it, in one process."""
    link, door = LocalLink(), Door()
    link.register("gw", door)
    outlets = [await link.open("gw", f"job-{n}", 1, Control(), window=WINDOW) for n in range(STREAMS)]
    for outlet in outlets:
        outlet.head(HEAD)

    def work() -> None:
        for _ in range(10):
            for outlet in outlets:
                outlet.data(UNIT)

    cost = per_frame(passes, 10 * STREAMS, work)
    assert sum(sink.seen for sink in door.sinks.values()) == passes * 10 * STREAMS
    return cost


async def over_tcp(turn: int, passes: int) -> float:
    """Both sides, the loop and the syscalls, in one process: µs per frame."""
    door = Door()
    server = LinkServer(door, "gw", SECRET, "127.0.0.1:0")
    client = LinkClient("wk", SECRET)
    client.update([GatewayPresence("gw", await server.start(), 0, 0.0)])
    outlets = [await client.open("gw", f"job-{n}", 1, Control(), window=WINDOW) for n in range(STREAMS)]
    for outlet in outlets:
        outlet.head(HEAD)
        outlet.data(UNIT)
    times = []
    for _ in range(passes):
        begin = time.process_time_ns()
        for at in range(1600 // turn):
            for n in range(turn):
                outlets[(at * turn + n) % STREAMS].data(UNIT)
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        sent = 1600 // turn * turn
        times.append((time.process_time_ns() - begin) / sent / 1000)
    while sum(sink.seen for sink in door.sinks.values()) < passes * sent + STREAMS:  # noqa: ASYNC110 - these sinks have no event
        await asyncio.sleep(0)
    await client.close()
    await server.stop()
    return statistics.median(times)


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--passes", type=int, default=50)
    passes = parser.parse_args().passes
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(40))
    print(f"µs per DATA frame of {len(UNIT)} bytes, {STREAMS} streams on one link, median of {passes} passes")
    print(f"{'in one process, outlet to sink':<46}{await local(passes):6.2f}")
    for turn in (1, 8, 64):
        print(f"{f'TCP, worker side, {turn} frames a turn':<46}{await worker_side(turn, passes):6.2f}")
    for turn in (1, 8, 64):
        print(f"{f'TCP, gateway side, {turn} frames a read':<46}{await gateway_side(turn, passes):6.2f}")
    for turn in (1, 8, 64):
        print(f"{f'TCP, both sides, loop and syscalls, {turn} a turn':<46}{await over_tcp(turn, passes):6.2f}")


if __name__ == "__main__":
    uvloop.run(main())
