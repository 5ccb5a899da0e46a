"""What 10,000 jobs in one request cost the chats that stream meanwhile, and the gateway in memory.

    python tests/bench/batch.py [--passes 3] [--jobs 10000] [--streams 20] [--rate 50] [--designs foreman-one,foreman-apart]

Each pass starts foreman anew, lets chats stream without the batch and then beside it (FOREMAN_MAX_QUEUE=20000; the jobs
are `low`, of a lane of their own, so that they stay queued), and compares the two windows of equal length: the tokens that came in
them, and how long a token was on its way. Ratios in one run; medians over the passes.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import aiohttp
import uvloop

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parent.parent.parent))

from designs import DESIGNS, process, ready_port
from load import Caller, Sample, request_bytes
from run import HERE, quantile

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from designs import Running

WARM = 2.0
"""Seconds that the chats stream before anything is measured."""


@dataclass(frozen=True, slots=True)
class Window:
    """What the chats got in a piece of time."""

    pace: float
    """Tokens per second and stream."""
    p50: float
    p99: float
    """Of the tokens' way, in ms."""


@dataclass(frozen=True, slots=True)
class Pass:
    """One start of foreman."""

    alone: Window
    beside: Window
    took: float
    """Seconds for the batch, from its first byte to its last answer."""
    before: float
    peak: float
    after: float
    """Resident memory of the gateway's process in MiB: before the batch, at most, 2 s after its end."""


def resident(pid: int) -> float:
    """MiB."""
    text = Path(f"/proc/{pid}/status").read_text()
    return int(text.split("VmRSS:")[1].split()[0]) / 1024


@contextlib.asynccontextmanager
async def chats(port: int, streams: int, rate: float) -> AsyncIterator[Sample]:
    """Callers whose answers don't end while the block runs."""
    loop, sample = asyncio.get_running_loop(), Sample()
    transports = []
    for _ in range(streams):
        caller = (request_bytes(port, 1_000_000, rate), sample, loop.create_future(), 1)
        transports.append((await loop.create_connection(lambda caller=caller: Caller(*caller), "127.0.0.1", port))[0])
    try:
        yield sample
    finally:
        for transport in transports:
            transport.close()


def window(sample: Sample, first: int, seconds: float, streams: int) -> Window:
    """What came from token `first` on."""
    ways = sorted(sample.latency[first:])
    return Window(len(ways) / seconds / streams, 1e3 * quantile(ways, 0.5), 1e3 * quantile(ways, 0.99))


def lines(jobs: int) -> bytes:
    """The batch: each line a chat of some 700 bytes, in another lane than the chats'."""
    job = {
        "model": "bench",
        "messages": [{"role": "user", "content": "x" * 600}],
        "options": {"num_ctx": 2048},
        "priority": "low",
    }
    return b"".join(json.dumps(job | {"metadata": {"n": n}}).encode() + b"\n" for n in range(jobs))


async def submit(port: int, body: bytes, jobs: int) -> float:
    """Seconds until all lines were answered, each with a job."""
    began = time.monotonic()
    headers = {"Content-Type": "application/x-ndjson"}
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"http://127.0.0.1:{port}/jobs/batch", data=body, headers=headers) as reply,
    ):
        answers = [json.loads(line) for line in (await reply.read()).splitlines()]
    took = time.monotonic() - began
    assert len({answer["job_id"] for answer in answers}) == jobs, answers[-1]
    return took


async def measure(running: Running, args: argparse.Namespace) -> Pass:
    """Chats beside a batch, then for as long without one."""
    gateway = running.pids[0]
    body = lines(args.jobs)
    async with chats(running.port, args.streams, args.rate) as sample:
        await asyncio.sleep(WARM)
        before = peak = resident(gateway)
        first = sample.tokens
        async with asyncio.TaskGroup() as group:
            submitting = group.create_task(submit(running.port, body, args.jobs))
            while not submitting.done():
                await asyncio.sleep(0.05)
                peak = max(peak, resident(gateway))
        took = submitting.result()
        beside = window(sample, first, took, args.streams)
        await asyncio.sleep(WARM)
        after, first, began = resident(gateway), sample.tokens, time.monotonic()
        await asyncio.sleep(took)
        alone = window(sample, first, time.monotonic() - began, args.streams)
        assert not sample.failed
    return Pass(alone, beside, took, before, peak, after)


async def bench(args: argparse.Namespace) -> dict[str, list[Pass]]:
    """All passes, by design."""
    found: dict[str, list[Pass]] = {name: [] for name in args.designs}
    async with process(sys.executable, str(HERE / "upstream.py"), "0") as upstream:
        port = await ready_port(upstream)
        for number in range(args.passes):
            for name in args.designs:
                async with DESIGNS[name](port) as running:
                    one = await measure(running, args)
                found[name].append(one)
                print(f"pass {number + 1}/{args.passes} {name} {one}", file=sys.stderr, flush=True)
    return found


def table(found: dict[str, list[Pass]]) -> str:
    """Medians over the passes, as Markdown; the ratio is taken inside a pass."""
    out = [
        "| design | token pace, beside ÷ without | token on its way p50 / p99 ms, without | beside | batch | gateway before / peak / after MiB |",
        "|---|---|---|---|---|---|",
    ]
    for name, passes in found.items():
        ratio = statistics.median(one.beside.pace / one.alone.pace for one in passes)
        way = {
            which: " / ".join(
                f"{statistics.median(getattr(getattr(one, which), key) for one in passes):.2f}"
                for key in ("p50", "p99")
            )
            for which in ("alone", "beside")
        }
        memory = " / ".join(
            f"{statistics.median(getattr(one, key) for one in passes):.0f}" for key in ("before", "peak", "after")
        )
        took = statistics.median(one.took for one in passes)
        out.append(f"| {name} | {ratio:.3f} | {way['alone']} | {way['beside']} | {took:.1f} s | {memory} |")
    return "\n".join(out)


def main() -> None:
    """Parse, run, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--passes", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=10_000)
    parser.add_argument("--streams", type=int, default=20)
    parser.add_argument("--rate", type=float, default=50)
    parser.add_argument("--designs", default="foreman-one,foreman-apart")
    args = parser.parse_args()
    args.designs = args.designs.split(",")
    os.environ["FOREMAN_MAX_QUEUE"] = "20000"
    found = uvloop.run(bench(args))
    git = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    print(
        f"{args.passes} passes, {args.jobs} jobs beside {args.streams} chats of {args.rate:g} tokens/s, commit "
        f"{git.stdout.strip() or 'unknown'}, Python {sys.version.split()[0]}, {time.strftime('%Y-%m-%d')}"
    )
    print(table(found))


if __name__ == "__main__":
    main()
