"""What open pages cost: the gateway's CPU, the streams' pace and its memory with feeds open against none, as ratios.

    python tests/bench/pages.py [--pages 50] [--streams 100] [--pace 20] [--rounds 6] [--seconds 8] [--soak MINUTES]

The same streams run all the while through a gateway, a worker and a store of their own; rounds with pages and without
take turns, in a random order within each pair, so that what else the machine does falls on both. CPU is what the kernel
says each process was on a core (schedstat). It judges nothing.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

sys.path.insert(0, str(Path(__file__).parent.parent.parent))

from foreman.demo.ollama import FakeOllama
from tests.bench.soak import resident_kib
from tests.rig import House, rig

SETTLE = 1.5
"""Seconds at the beginning of a round that are not measured."""


class Reader(asyncio.Protocol):
    """One stream's caller: notes when each of its chunks comes."""

    def __init__(self, gaps: list[float]) -> None:
        self.gaps = gaps
        self.last = 0.0

    def data_received(self, _data: bytes) -> None:
        now = time.perf_counter()
        if self.last:
            self.gaps.append(now - self.last)
        self.last = now


class Page(asyncio.Protocol):
    """One open page: takes what comes."""

    def __init__(self) -> None:
        self.taken = 0

    def data_received(self, data: bytes) -> None:
        self.taken += len(data)


@dataclass(slots=True)
class Round:
    """What one round saw."""

    cpu: dict[str, float]
    """Process → seconds on a core, per second."""
    gaps: list[float] = field(default_factory=list)
    """Seconds between two tokens of a stream."""
    rss_kib: int = 0


def on_cpu(pid: int) -> float:
    """Seconds that all threads of a process were on a core (schedstat)."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9


async def open_pages(url: str, count: int) -> list[asyncio.Transport]:
    """Feeds, from this process."""
    loop, where = asyncio.get_running_loop(), urlsplit(url)
    opened = []
    for _ in range(count):
        transport, _ = await loop.create_connection(Page, where.hostname, where.port)
        transport.write(f"GET /ops/events HTTP/1.1\r\nHost: {where.netloc}\r\n\r\n".encode())
        opened.append(transport)
    return opened


async def listen(url: str, count: int) -> None:
    """Keep pages open until stdin ends; run as a process of its own."""
    pages = await open_pages(url, count)
    print("open", flush=True)
    await asyncio.to_thread(sys.stdin.read)
    for page in pages:
        page.abort()


async def one_round(house: House, streams: list[Reader], pages: int, seconds: float) -> Round:
    """Measure for some seconds."""
    other = await _listening(house, pages) if pages else None
    await asyncio.sleep(SETTLE)
    for stream in streams:
        stream.gaps.clear()
    pids = {name: process.pid for name, process in house.processes.items()}
    before, began = {name: on_cpu(pid) for name, pid in pids.items()}, time.perf_counter()
    await asyncio.sleep(seconds)
    took = time.perf_counter() - began
    seen = Round({name: (on_cpu(pid) - before[name]) / took for name, pid in pids.items()})
    seen.gaps = [gap for stream in streams for gap in stream.gaps]
    seen.rss_kib = resident_kib(pids["gateway"])
    if other is not None:
        await _close(other)
    return seen


async def main(args: argparse.Namespace) -> None:
    """Streams, then rounds in pairs, then the ratios."""
    seconds = args.soak * 60 if args.soak else args.rounds * 2 * (args.seconds + SETTLE + 2)
    need = int(args.pace * (seconds + 60))
    with tempfile.TemporaryDirectory() as folder:
        async with (
            FakeOllama(models=["bench"], tokens=need, token_seconds=1 / args.pace, slots=args.streams) as fake,
            rig(Path(folder), f"one={fake.url}?slots={args.streams}", mode="apart") as house,
        ):
            streams = await _start(house.url, args.streams)
            await house.until(lambda state: state["jobs"]["working"] == args.streams)
            if args.soak:
                await _soak(args, house, streams)
                return
            with_pages: list[Round] = []
            without: list[Round] = []
            for _ in range(args.rounds):
                for pages in random.sample([args.pages, 0], 2):
                    seen = await one_round(house, streams, pages, args.seconds)
                    (with_pages if pages else without).append(seen)
                    print(f"{pages:3d} pages: {_line(seen)}", flush=True)
            _tell(args, with_pages, without)


async def _soak(args: argparse.Namespace, house: House, streams: list[Reader]) -> None:
    """Pages open all the time; the gateway's memory in the last third against the middle one."""
    seen: list[int] = []
    step = args.soak * 60 / 30 - SETTLE
    other = await _listening(house, args.pages)
    for number in range(30):
        rss = (await one_round(house, streams, 0, step)).rss_kib
        seen.append(rss)
        print(f"{(number + 1) * args.soak / 30:5.1f} min  {rss / 1024:.1f} MiB", flush=True)
    await _close(other)
    ratio = statistics.fmean(seen[20:]) / statistics.fmean(seen[10:20])
    print(f"{args.pages} pages for {args.soak:g} min: gateway memory, last third against the middle one: {ratio:.3f}")


async def _listening(house: House, pages: int) -> asyncio.subprocess.Process:
    other = await asyncio.create_subprocess_exec(
        *(sys.executable, __file__, "--listen", house.url, "--pages", str(pages)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert other.stdout is not None
    await other.stdout.readline()
    return other


async def _close(other: asyncio.subprocess.Process) -> None:
    assert other.stdin is not None
    other.stdin.close()
    await other.wait()


async def _start(url: str, count: int) -> list[Reader]:
    loop, where = asyncio.get_running_loop(), urlsplit(url)
    body = json.dumps({"model": "bench", "messages": [{"role": "user", "content": "x"}]}).encode()
    head = f"POST /api/chat HTTP/1.1\r\nHost: {where.netloc}\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    streams = [Reader([]) for _ in range(count)]
    for stream in streams:
        transport, _ = await loop.create_connection(lambda stream=stream: stream, where.hostname, where.port)
        transport.write(head + body)
    return streams


def _p(gaps: list[float], share: float) -> float:
    return sorted(gaps)[int(share * (len(gaps) - 1))] * 1000


def _line(seen: Round) -> str:
    cpu = ", ".join(f"{name} {share * 100:.1f} %" for name, share in seen.cpu.items())
    gaps = seen.gaps
    pace = f"TPOT mean {statistics.fmean(gaps) * 1000:.2f} p50 {_p(gaps, 0.5):.2f} p99 {_p(gaps, 0.99):.2f} ms"
    return f"{cpu}; {pace}; {seen.rss_kib / 1024:.1f} MiB"


def _tell(args: argparse.Namespace, with_pages: list[Round], without: list[Round]) -> None:
    def ratio(what: str, of: list[float], to: list[float]) -> None:
        pairs = [one / other for one, other in zip(of, to, strict=True)]
        print(f"  {what}: {statistics.median(pairs):.3f} (pairs {min(pairs):.3f} to {max(pairs):.3f})")

    print(
        f"{args.pages} pages open against none, {args.streams} streams at {args.pace}/s, median of {args.rounds} pairs:"
    )
    for name in ("gateway", "worker"):
        ratio(f"{name} CPU", [one.cpu[name] for one in with_pages], [one.cpu[name] for one in without])
    for word, share in (("p50", 0.5), ("p99", 0.99)):
        ratio(f"TPOT {word}", [_p(one.gaps, share) for one in with_pages], [_p(one.gaps, share) for one in without])
    ratio(
        "TPOT mean",
        [statistics.fmean(one.gaps) for one in with_pages],
        [statistics.fmean(one.gaps) for one in without],
    )
    rounds = with_pages + without
    print(
        f"  gateway memory: {min(one.rss_kib for one in rounds) / 1024:.1f} to {max(one.rss_kib for one in rounds) / 1024:.1f} MiB"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pages", type=int, default=50)
    parser.add_argument("--streams", type=int, default=100)
    parser.add_argument("--pace", type=float, default=20.0, help="tokens a second of each stream")
    parser.add_argument("--rounds", type=int, default=6, help="pairs")
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument(
        "--soak", type=float, metavar="MINUTES", help="keep pages open so long, and tell of memory only"
    )
    parser.add_argument("--listen", help=argparse.SUPPRESS)
    given = parser.parse_args()
    asyncio.run(listen(given.listen, given.pages) if given.listen else main(given))
