"""`make bench`: what foreman's relay costs beside nginx and a plain aiohttp pass-through, as ratios in one run.

    python tests/bench/run.py [--passes 5] [--loads light,100x50,400x50] [--designs …] [--json FILE]

Each pass runs every design in a random order on the same upstream; ratios to the aiohttp pass-through are taken inside
a pass, then the median over the passes is printed. CPU is what the kernel says each process was on a core (schedstat),
store included, over a steady window, divided by the tokens received in it. At the end: how fast a leaving reaches the target.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import uvloop

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parent.parent.parent))

import cancel
from designs import DESIGNS, Running, available, process, ready_port
from load import Sample, run_load

HERE = Path(__file__).parent
YARDSTICK = "aiohttp"


@dataclass(frozen=True, slots=True)
class Load:
    """One kind of work."""

    streams: int
    rate: float
    tokens: int
    times: int
    stagger: float
    window: tuple[float, float] | None
    """Seconds after the start between which CPU is measured; None: the whole run."""


LOADS = {
    "light": Load(streams=4, rate=200, tokens=20, times=30, stagger=0.1, window=None),
    "100x50": Load(streams=100, rate=50, tokens=300, times=1, stagger=1.5, window=(2.0, 5.5)),
    "400x50": Load(streams=400, rate=50, tokens=300, times=1, stagger=1.5, window=(2.0, 5.5)),
}


def family(pids: tuple[int, ...]) -> set[int]:
    """The processes and all their descendants."""
    found = set(pids)
    parents: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            text = stat.read_text()
        except OSError:
            continue
        parents.setdefault(int(text.rpartition(")")[2].split()[1]), []).append(int(stat.parent.name))
    todo = list(pids)
    while todo:
        for child in parents.get(todo.pop(), []):
            if child not in found:
                found.add(child)
                todo.append(child)
    return found


def cpu_seconds(pids: tuple[int, ...]) -> float:
    """Time on a core of these processes and their children, all threads, in seconds."""
    total = 0
    for pid in family(pids):
        for stat in Path(f"/proc/{pid}/task").glob("*/schedstat"):
            try:
                total += int(stat.read_text().split()[0])
            except OSError:
                continue
    return total / 1e9


async def measure(running: Running, load: Load) -> dict[str, float]:
    """One design under one load."""
    start_cpu = cpu_seconds(running.pids)
    sample_box: list[Sample] = []

    async def go() -> None:
        sample_box.append(
            await run_load(
                running.port,
                streams=load.streams,
                rate=load.rate,
                tokens=load.tokens,
                times=load.times,
                stagger=load.stagger,
            )
        )

    began = time.monotonic()
    if load.window is None:
        await go()
        spent, tokens = cpu_seconds(running.pids) - start_cpu, sample_box[0].tokens
    else:
        async with asyncio.TaskGroup() as group:
            group.create_task(go())
            await asyncio.sleep(load.window[0])
            first = cpu_seconds(running.pids)
            await asyncio.sleep(load.window[1] - load.window[0])
            spent = cpu_seconds(running.pids) - first
        tokens = int(load.streams * load.rate * (load.window[1] - load.window[0]))
    sample = sample_box[0]
    wall = time.monotonic() - began
    latency, ttft = sorted(sample.latency), sorted(sample.ttft)
    expected = load.streams * load.tokens * load.times
    return {
        "ttft_p50_ms": 1e3 * quantile(ttft, 0.5),
        "ttft_p99_ms": 1e3 * quantile(ttft, 0.99),
        "latency_p50_ms": 1e3 * quantile(latency, 0.5),
        "latency_p99_ms": 1e3 * quantile(latency, 0.99),
        "cpu_us": 1e6 * spent / max(1, tokens),
        "missing": expected - sample.tokens,
        "wall": wall,
    }


def quantile(values: list[float], share: float) -> float:
    """The value below which `share` of the sorted values lie; nan without any."""
    return values[min(len(values) - 1, int(share * len(values)))] if values else float("nan")


async def bench(args: argparse.Namespace) -> list[dict[str, object]]:
    """All passes; one row per pass, design and load."""
    rows: list[dict[str, object]] = []
    chooser = random.Random(args.seed)
    async with process(sys.executable, str(HERE / "upstream.py"), "0") as upstream:
        port = await ready_port(upstream)
        for number in range(args.passes):
            names = list(args.designs)
            chooser.shuffle(names)
            for name in names:
                async with DESIGNS[name](port) as running:
                    for load in args.loads:
                        row = await measure(running, LOADS[load])
                        rows.append({"pass": number, "design": name, "load": load, **row})
                        print(
                            f"pass {number + 1}/{args.passes} {name:14} {load:7} ttft {row['ttft_p50_ms']:.2f} ms"
                            f"  latency {row['latency_p50_ms']:.3f}/{row['latency_p99_ms']:.2f} ms  cpu {row['cpu_us']:.1f} µs"
                            + (f"  MISSING {row['missing']:.0f}" if row["missing"] else ""),
                            file=sys.stderr,
                            flush=True,
                        )
    return rows


def table(rows: list[dict[str, object]], designs: list[str], loads: list[str]) -> str:
    """The medians, and the medians of the ratios to the yardstick in the same pass, as Markdown."""
    out = []
    for load in loads:
        out += [
            f"\n### {load}\n",
            "| design | TTFT p50 / p99 ms | token latency p50 / p99 ms | CPU µs/token | TTFT × aiohttp | CPU × aiohttp |",
            "|---|---|---|---|---|---|",
        ]
        base = {r["pass"]: r for r in rows if r["load"] == load and r["design"] == YARDSTICK}
        for name in designs:
            mine = [r for r in rows if r["load"] == load and r["design"] == name]

            def med(key: str, mine: list[dict[str, object]] = mine) -> float:
                return statistics.median(float(str(r[key])) for r in mine)

            def ratio(
                key: str, mine: list[dict[str, object]] = mine, base: dict[object, dict[str, object]] = base
            ) -> str:
                found = [float(str(r[key])) / float(str(base[r["pass"]][key])) for r in mine if r["pass"] in base]
                return f"{statistics.median(found):.2f}" if found else "–"

            out.append(
                f"| {name} | {med('ttft_p50_ms'):.2f} / {med('ttft_p99_ms'):.2f} | {med('latency_p50_ms'):.3f} / "
                f"{med('latency_p99_ms'):.2f} | {med('cpu_us'):.1f} | {ratio('ttft_p50_ms')} | {ratio('cpu_us')} |"
            )
    return "\n".join(out)


def main() -> None:
    """Parse, run, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--passes", type=int, default=5)
    parser.add_argument("--loads", default=",".join(LOADS))
    parser.add_argument("--designs", default=",".join(DESIGNS))
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--cancels", type=int, default=300, help="times a call is left in each state; 0: never")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    args.loads, missing = args.loads.split(","), available()
    for why in missing.values():
        print(f"left out: {why}", file=sys.stderr)
    args.designs = [name for name in args.designs.split(",") if name not in missing]
    rows = uvloop.run(bench(args))
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    ).stdout.strip()
    print(
        f"{args.passes} passes, commit {commit or 'unknown'}, Python {sys.version.split()[0]}, {time.strftime('%Y-%m-%d')}"
    )
    print(table(rows, args.designs, args.loads))
    if args.cancels:
        print(
            f"\n### Caller gone → upstream socket closed, {args.cancels} times each (queued: until its job is over)\n"
        )
        print(asyncio.run(cancel.table(args.cancels)))
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
