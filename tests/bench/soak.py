"""`make soak`: foreman under mixed traffic for minutes, and whether its memory and open files stay where they are.

    python tests/bench/soak.py [--minutes 10] [--pace 10] [--mode one|apart]
    python tests/bench/soak.py --minutes 30 --rate 50 --mode apart      # with cancels, people who leave, and faults

Prints a line a minute and, at the end, for each process the mean of the last third against that of the middle third, and,
once all callers are gone, its open sockets and tasks against those before the first of them. With --rate it ends with 1
where memory grew by more than FLAT or a socket or task stayed; with --pace it judges nothing. The store is shown and not
judged: it keeps a job for its time, and a webhook's log for a week.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import logging
import random
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import aiohttp

sys.path.insert(0, str(Path(__file__).parent.parent.parent))

from foreman.demo.ollama import FakeOllama
from foreman.demo.traffic import Traffic
from tests.receivers import Receivers
from tests.rig import House, rig

MODELS = ("alpha", "beta", "gamma")
EMBEDDER = "embedder"
STEP = 5.0
"""Seconds between two samples."""
FLAT = 1.03
"""The mean of the last third over that of the middle third, at most."""
SETTLE = 20.0
"""Seconds after the last caller until the counts are compared."""
UPSTREAM = ("reset-first", "reset-mid", "half-line", "clean-end", "error-line", "status", "garbage", "wrong-length")


def resident_kib(pid: int) -> int:
    """Resident memory of a process, KiB (proc(5))."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1])
    return 0


def open_files(pid: int) -> int:
    """Open file descriptors of a process."""
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def sockets(pid: int) -> int:
    """Open sockets of a process."""
    found = 0
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            found += entry.readlink().name.startswith("socket:") or str(entry.readlink()).startswith("socket:")
    return found


class Load:
    """So many calls a second of every kind, some of which are left or cancelled, while the target errs now and then."""

    def __init__(self, house: House, fake: FakeOllama, rate: float) -> None:
        self.house = house
        self.fake = fake
        self.rate = rate
        self.answered = 0
        self.refused = 0
        self.left = 0
        self.chance = random.Random(1)
        self._over = asyncio.Event()

    async def run(self) -> None:
        """Until `stop`."""
        loop = asyncio.get_running_loop()
        limits = aiohttp.ClientTimeout(total=120)
        connector = aiohttp.TCPConnector(limit=0)
        async with Receivers() as hooks, aiohttp.ClientSession(connector=connector, timeout=limits) as self.session:
            self.hooks = hooks
            async with asyncio.TaskGroup() as group:
                due = loop.time()
                while not self._over.is_set():
                    due += self.chance.expovariate(self.rate)
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(self._over.wait(), max(0.0, due - loop.time()))
                    group.create_task(self._one())
                    if self.chance.random() < 1 / (5 * self.rate):  # a fault of the target each five seconds
                        self.fake.fault(self.chance.choice(UPSTREAM), after=self.chance.randrange(5))
                    if len(hooks.seen) > 1:
                        hooks.seen.clear()

    def stop(self) -> None:
        """No new calls; those under way end."""
        self._over.set()

    async def _one(self) -> None:
        with contextlib.suppress(aiohttp.ClientError, TimeoutError, OSError):
            pick = self.chance.random()
            if pick < 0.70:
                await self._call("/api/chat", stream=True, leave=self.chance.random() < 0.1)
            elif pick < 0.80:
                await self._call("/v1/chat/completions", stream=True, leave=self.chance.random() < 0.1)
            elif pick < 0.90:
                await self._call("/api/chat", stream=False, leave=False)
            elif pick < 0.95:
                await self._post("/api/embed", {"model": EMBEDDER, "input": "x"})
            else:
                await self._job()

    def _body(self, **more: Any) -> dict[str, Any]:
        return {"model": self.chance.choice(MODELS), "messages": [{"role": "user", "content": "x" * 200}], **more}

    async def _call(self, path: str, *, stream: bool, leave: bool) -> None:
        async with self.session.post(self.house.url + path, json=self._body(stream=stream)) as reply:
            async for _ in reply.content:
                if leave:
                    self.left += 1
                    reply.close()
                    return
            self.answered += reply.status == 200
            self.refused += reply.status != 200

    async def _post(self, path: str, body: dict[str, Any]) -> Any:
        async with self.session.post(self.house.url + path, json=body) as reply:
            answer = await reply.read()
            self.answered += reply.status < 300
            with contextlib.suppress(ValueError):  # a fault of the target's may be garbage
                return json.loads(answer)
            return {}

    async def _job(self) -> None:
        job = await self._post("/jobs", self._body(state_webhook_url=f"{self.hooks.url}/ok"))
        if self.chance.random() < 0.3 and "job_id" in job:
            async with self.session.delete(f"{self.house.url}/jobs/{job['job_id']}") as reply:
                await reply.read()


async def counts(house: House) -> dict[str, tuple[int, int]]:
    """Open sockets of each process, and tasks of each role, now."""
    state = await house.get("/ops/state")
    tasks: dict[str, int] = {}
    for process in state["processes"]:
        tasks[process["role"]] = int(process.get("tasks") or 0)
    return {
        name: (sockets(process.pid), tasks.get(name, sum(tasks.values()))) for name, process in house.processes.items()
    }


async def watch(house: House, minutes: float, traffic: Traffic | Load) -> dict[str, list[tuple[int, int]]]:
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


def report(samples: dict[str, list[tuple[int, int]]]) -> bool:
    """The last third against the middle third; whether memory stayed flat."""
    flat = True
    for name, seen in samples.items():
        third = len(seen) // 3
        if third == 0:
            print(f"{name}: too short to tell")
            continue
        middle, last = seen[third : 2 * third], seen[2 * third :]
        for at, unit in ((0, "KiB"), (1, "files")):
            before, after = (statistics.mean(one[at] for one in part) for part in (middle, last))
            print(f"{name:10} {unit:5}  middle {before:10.0f}  last {after:10.0f}  ratio {after / before:.3f}")
            flat = flat and (unit != "KiB" or after / before <= FLAT)
    return flat


async def soak(house: House, fake: FakeOllama, minutes: float, rate: float) -> bool:
    """The whole of it; whether it held."""
    logging.getLogger("aiohttp.server").disabled = True  # the fake's resets are what it was told to do
    await asyncio.sleep(2 * STEP)
    before = await counts(house)
    load = Load(house, fake, rate)
    async with asyncio.TaskGroup() as group:
        group.create_task(load.run())
        samples = await watch(house, minutes, load)
        load.stop()
    print(
        f"{load.answered} answered, {load.left} left in the middle, {load.refused} ended with an error of the target's"
    )
    flat = report(samples)
    fake.clear()
    async with asyncio.timeout(10 * SETTLE):
        while True:
            await asyncio.sleep(SETTLE)
            after = await counts(house)
            over = {
                name: (after[name], before[name]) for name in before if any(map(int.__gt__, after[name], before[name]))
            }
            if not over:
                break
            print(f"not yet back: (sockets, tasks) now, before: {over}")
    print(f"sockets and tasks before {before}, after {after}")
    return flat


async def main() -> int:
    """Run it; 1 where something grew or stayed."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--pace", type=float, default=10)
    parser.add_argument("--rate", type=float, default=0, help="calls a second, instead of --pace")
    parser.add_argument("--mode", choices=["one", "apart"], default="one")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="foreman-soak-") as folder:
        async with (
            FakeOllama(
                models=[*MODELS, EMBEDDER],
                load_seconds=0.2,
                max_loaded=4 if asked.rate else 2,
                slots=16 if asked.rate else None,
                tokens=50,
                token_seconds=0.002,
            ) as fake,
            rig(
                Path(folder),
                f"main={fake.url}?slots={16 if asked.rate else 4}",
                asked.mode,
                job_ttl="2m",
                webhook_allow="127.0.0.1",
                upstream_timeout="5s",
            ) as house,
        ):
            if asked.rate:
                return 0 if await soak(house, fake, asked.minutes, asked.rate) else 1
            traffic = Traffic(house.url, MODELS, EMBEDDER, pace=asked.pace)
            await traffic.start()
            try:
                report(await watch(house, asked.minutes, traffic))
            finally:
                await traffic.stop()
    return 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
