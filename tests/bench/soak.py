"""`make soak`: foreman under mixed traffic for minutes, and whether its memory and open files stay where they are.

    python tests/bench/soak.py [--minutes 10] [--pace 10] [--mode one|apart]

Prints a line a minute and, at the end, the mean of the last third against that of the middle third for each process.
It judges nothing: flat means a ratio near 1.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent.parent))

from foreman.demo.ollama import FakeOllama
from foreman.demo.traffic import Traffic
from tests.rig import House, rig

MODELS = ("alpha", "beta", "gamma")
EMBEDDER = "embedder"
STEP = 5.0
"""Seconds between two samples."""


def resident_kib(pid: int) -> int:
    """Resident memory of a process, KiB (proc(5))."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1])
    return 0


def open_files(pid: int) -> int:
    """Open file descriptors of a process."""
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


async def watch(house: House, minutes: float, traffic: Traffic) -> dict[str, list[tuple[int, int]]]:
    """Samples (KiB, open files) of each process, one each `STEP` seconds."""
    samples: dict[str, list[tuple[int, int]]] = {name: [] for name in house.processes}
    began = time.monotonic()
    told = 0
    while (passed := time.monotonic() - began) < minutes * 60:
        for name, process in house.processes.items():
            with contextlib.suppress(OSError):
                samples[name].append((resident_kib(process.pid), open_files(process.pid)))
        if passed // 60 >= told:
            told += 1
            now = ", ".join(
                f"{name} {seen[-1][0] / 1024:.0f} MiB {seen[-1][1]} files" for name, seen in samples.items() if seen
            )
            print(f"{passed / 60:5.1f} min  {traffic.answered:7d} answered  {now}", flush=True)
        await asyncio.sleep(STEP)
    return samples


def report(samples: dict[str, list[tuple[int, int]]]) -> None:
    """The last third against the middle third."""
    for name, seen in samples.items():
        third = len(seen) // 3
        if third == 0:
            print(f"{name}: too short to tell")
            continue
        middle, last = seen[third : 2 * third], seen[2 * third :]
        for at, unit in ((0, "KiB"), (1, "files")):
            before, after = (statistics.mean(one[at] for one in part) for part in (middle, last))
            print(f"{name:10} {unit:5}  middle {before:10.0f}  last {after:10.0f}  ratio {after / before:.3f}")


async def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--pace", type=float, default=10)
    parser.add_argument("--mode", choices=["one", "apart"], default="one")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="foreman-soak-") as folder:
        async with (
            FakeOllama(
                models=[*MODELS, EMBEDDER], load_seconds=0.2, max_loaded=2, tokens=50, token_seconds=0.002
            ) as fake,
            rig(Path(folder), f"main={fake.url}?slots=4", asked.mode) as house,
        ):
            traffic = Traffic(house.url, MODELS, EMBEDDER, pace=asked.pace)
            await traffic.start()
            try:
                report(await watch(house, asked.minutes, traffic))
            finally:
                await traffic.stop()


if __name__ == "__main__":
    asyncio.run(main())
