"""`make soak`: foreman under mixed traffic for minutes, and whether its memory and open sockets stay where they are.

    python tests/bench/soak.py [--minutes 10] [--pace 10] [--mode one|apart]
    python tests/bench/soak.py --minutes 30 --rate 50 --mode apart [--kills] [--write docs/reliability.md]

With --rate it sends so many calls a second of every kind, of which some are left and some cancelled, while the target and
a receiver of webhooks err; it ends with 1 where memory grew by more than FLAT, a socket or task stayed, or callers came
faster than they were served (then the rest proves nothing). With --kills a process dies each few seconds: then no memory is
compared, but every job that was taken must have ended. With --pace it is demo traffic, and judges nothing. The store is not
judged: it keeps a job for its time, and a webhook's log for a week.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import statistics
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import aiohttp

sys.path.insert(0, str(Path(__file__).parent.parent.parent))

from foreman.demo.traffic import Traffic
from tests.bench.soak_kills import Kills
from tests.faults.report import into
from tests.receivers import Receivers
from tests.rig import House, free_port, rig

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

MODELS: Final = ("alpha", "beta", "gamma")
EMBEDDER: Final = "embedder"
STEP: Final = 5.0
"""Seconds between two samples."""
FLAT: Final = 1.03
"""The mean of the last third over that of the middle third, at most."""
BEHIND: Final = 2.0
"""Seconds' worth of calls that may be open at once, in the mean of a third: more is a backlog."""
SETTLE: Final = 5.0
SETTLED: Final = 120.0
"""Seconds after the last caller from one comparison of the counts to the next, and until they must be what they were."""
EVERY: Final = 5.0
"""Seconds from one fault of the target to the next."""
UPSTREAM: Final = (
    "reset-first",
    "reset-mid",
    "half-line",
    "clean-end",
    "error-line",
    "status",
    "garbage",
    "wrong-length",
)
FLAKY: Final = ["500", "ok", "reset", "ok", "ok"] * 5000
TICKS: Final = os.sysconf("SC_CLK_TCK")


def resident_kib(pid: int) -> int:
    """Resident memory of a process, KiB (proc(5))."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1])
    return 0


def cpu_seconds(pid: int) -> float:
    """What a process has had of the processors since its start."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def sockets(pid: int) -> tuple[int, int]:
    """Open sockets of a process: over TCP (callers, links, targets, receivers), and others (the store's, which is a file)."""
    tcp: set[str] = set()
    for name in ("tcp", "tcp6"):
        with contextlib.suppress(OSError):
            tcp |= {line.split()[9] for line in Path(f"/proc/{pid}/net/{name}").read_text().splitlines()[1:]}
    found = [0, 0]
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            at = str(entry.readlink())
            if at.startswith("socket:["):
                found[at[8:-1] not in tcp] += 1
    return found[0], found[1]


@dataclass(slots=True)
class Seen:
    """One process: a sample each STEP, and its counts before the first caller and after the last."""

    pid: int
    rss: list[int] = field(default_factory=list)
    """KiB."""
    store: list[int] = field(default_factory=list)
    """Connections to the store."""
    before: tuple[int, int] = (0, 0)
    after: tuple[int, int] = (0, 0)
    """TCP sockets, tasks."""
    idle: tuple[int, int] = (0, 0)
    """Connections to the store, likewise: those to it are kept open for the next burst."""
    born: float = field(default_factory=time.monotonic)
    used: float = 0.0
    """Since when it is looked at, and what it had had of the processors by then."""
    cpu: float = 0.0
    """Share of a core it had."""

    def renew(self, pid: int) -> None:
        """It was killed; its next life."""
        self.pid, self.born, self.used = pid, time.monotonic(), 0.0
        self.rss.clear()
        self.store.clear()

    def begin(self) -> None:
        """From now on what it has of the processors counts."""
        self.born, self.used = time.monotonic(), cpu_seconds(self.pid)

    def end(self) -> None:
        """Until now."""
        self.cpu = (cpu_seconds(self.pid) - self.used) / (time.monotonic() - self.born)

    @property
    def growth(self) -> float:
        """The mean of the last third over that of the middle one; 1 where it was too short to tell."""
        middle, last = thirds(self.rss)
        return last / middle if middle else 1.0


def thirds(values: list[int]) -> tuple[float, float]:
    """The means of the middle third and of the last."""
    third = len(values) // 3
    return (statistics.mean(values[third : 2 * third]), statistics.mean(values[2 * third :])) if third else (0.0, 0.0)


class Load:
    """So many calls a second of every kind, some of which are left or cancelled, while the target errs now and then."""

    def __init__(self, house: House, target: str, hooks: Receivers, rate: float) -> None:
        self.house = house
        self.target = target
        self.hooks = hooks
        self.rate = rate
        self.ends: Counter[str] = Counter()
        """How calls ended, and what was done."""
        self.sent = 0
        self.open = 0
        """Calls that wait for their answer, now."""
        self.jobs: set[str] = set()
        """Taken by foreman."""
        self.chance = random.Random(1)
        self._over = asyncio.Event()

    @property
    def answered(self) -> int:
        return self.ends["answered"]

    async def run(self) -> None:
        """Until `stop`."""
        loop = asyncio.get_running_loop()
        limits = aiohttp.ClientTimeout(total=120)
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), timeout=limits) as self.session:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._faults())
                due = loop.time()
                while not self._over.is_set():
                    due += self.chance.expovariate(self.rate)
                    await self._wait(due - loop.time())
                    group.create_task(self._one())
                    if len(self.hooks.seen) > 1:
                        self.hooks.seen.clear()
            await self._control("clear")

    def stop(self) -> None:
        """No new calls; those under way end."""
        self._over.set()

    async def _wait(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._over.wait(), max(0.0, seconds))

    async def _faults(self) -> None:
        while not self._over.is_set():
            await self._wait(EVERY)
            await self._control("faults", {"kind": self.chance.choice(UPSTREAM), "after": self.chance.randrange(5)})
            self.ends["faults of the target"] += 1

    async def _control(self, what: str, body: dict[str, Any] | None = None) -> None:
        async with self.session.post(f"{self.target}/_fake/{what}", data=json.dumps(body or {})) as reply:
            await reply.read()

    async def _one(self) -> None:
        self.sent += 1
        self.open += 1
        try:
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
        except (aiohttp.ClientError, TimeoutError, OSError):
            self.ends["broken off"] += 1
        finally:
            self.open -= 1

    def _body(self, **more: Any) -> dict[str, Any]:
        return {"model": self.chance.choice(MODELS), "messages": [{"role": "user", "content": "x" * 200}], **more}

    async def _call(self, path: str, *, stream: bool, leave: bool) -> None:
        async with self.session.post(self.house.url + path, json=self._body(stream=stream)) as reply:
            self._taken(reply.headers.get("X-Foreman-Job-Id"))
            async for _ in reply.content:
                if leave:
                    self.ends["left in the middle"] += 1
                    reply.close()
                    return
            self.ends["answered" if reply.status == 200 else f"status {reply.status}"] += 1

    async def _post(self, path: str, body: dict[str, Any]) -> Any:
        async with self.session.post(self.house.url + path, json=body) as reply:
            answer = await reply.read()
            self.ends["answered" if reply.status < 300 else f"status {reply.status}"] += 1
            self._taken(reply.headers.get("X-Foreman-Job-Id"))
            with contextlib.suppress(ValueError):  # a fault of the target's may be garbage
                return json.loads(answer)
            return {}

    def _taken(self, job_id: str | None) -> None:
        self.jobs |= {job_id} if job_id else set()

    async def _job(self) -> None:
        path = self.chance.choice(["/ok", "/ok", "/flaky"])
        job = await self._post("/jobs", self._body(state_webhook_url=f"{self.hooks.url}{path}"))
        self._taken(job.get("job_id"))
        if self.chance.random() < 0.3 and "job_id" in job:
            async with self.session.delete(f"{self.house.url}/jobs/{job['job_id']}") as reply:
                await reply.read()
            self.ends["cancelled"] += 1


async def counts(house: House, seen: dict[str, Seen]) -> dict[str, tuple[int, int]]:
    """TCP sockets and tasks of each process of foreman, now."""
    state = await house.get("/ops/state")
    tasks = {process["role"]: int(process.get("tasks") or 0) for process in state["processes"]}
    return {name: (sockets(seen[name].pid)[0], tasks.get(name, sum(tasks.values()))) for name in house.processes}


async def watch(seen: dict[str, Seen], minutes: float, traffic: Traffic | Load) -> list[int]:
    """Samples of each process, one each STEP; how many calls were open at each."""
    began = time.monotonic()
    told, waiting = 0, []
    while (passed := time.monotonic() - began) < minutes * 60:
        for one in seen.values():
            with contextlib.suppress(OSError):
                one.rss.append(resident_kib(one.pid))
                one.store.append(sockets(one.pid)[1])
        waiting.append(traffic.open if isinstance(traffic, Load) else 0)
        if passed // 60 >= told:
            told += 1
            now = ", ".join(f"{name} {one.rss[-1] / 1024:.0f} MiB" for name, one in seen.items())
            print(f"{passed / 60:5.1f} min  {traffic.answered:7d} answered, {waiting[-1]} open  {now}", flush=True)
        await asyncio.sleep(STEP)
    return waiting


async def soak(
    house: House, target: str, pid: int, minutes: float, rate: float, *, kills: bool
) -> tuple[str, list[str]]:
    """The whole of it: the table, and what did not hold."""
    seen = {name: Seen(process.pid) for name, process in house.processes.items()}
    beside = {"the target": pid, "callers": os.getpid()}
    await asyncio.sleep(2 * STEP)
    for name, counted in (await counts(house, seen)).items():
        seen[name].before = counted
        seen[name].idle = (sockets(seen[name].pid)[1], 0)
    async with Receivers() as hooks:
        hooks.kinds["/flaky"] = FLAKY
        load = Load(house, target, hooks, rate)
        for one in seen.values():
            one.begin()
        used = {name: cpu_seconds(other) for name, other in beside.items()}
        killer = Kills(house, lambda name, pid: seen[name].renew(pid))
        began = time.monotonic()
        async with asyncio.TaskGroup() as group:
            group.create_task(load.run())
            killing = group.create_task(killer.run()) if kills else None
            waiting = await watch(seen, minutes, load)
            took = time.monotonic() - began
            shares = {name: (cpu_seconds(other) - used[name]) / took for name, other in beside.items()}
            if killing is not None:
                killing.cancel()
                await asyncio.wait([killing])
                await killer.settled()
            for one in seen.values():
                one.end()
            load.stop()
        if kills:
            await house.until(lambda tags: tags.get("models"), "/api/tags")  # whoever died last is back
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(SETTLED):
                while True:
                    await asyncio.sleep(SETTLE)
                    for name, counted in (await counts(house, seen)).items():
                        seen[name].after = counted
                    if not any(any(map(int.__gt__, one.after, one.before)) for one in seen.values()):
                        break
        for one in seen.values():
            one.idle = (one.idle[0], sockets(one.pid)[1])
    text, found = table(seen, load, waiting, shares, took), wrong(seen, waiting, rate, flat=not kills)
    if kills:
        text += "\n" + "SIGKILLs: " + ", ".join(f"{count} {name}" for name, count in killer.done.items())
        found += await lost(house, load)
    return text, found


async def lost(house: House, load: Load) -> list[str]:
    """Jobs that were taken and have no end."""
    jobs = (await house.get("/ops/state"))["jobs"]
    living = {state: jobs[state] for state in ("queued", "loading", "working") if jobs[state]}
    ended = jobs["done"] + jobs["failed"] + jobs["cancelled"]
    print(f"{len(load.jobs)} jobs were taken as far as callers know, {ended} have ended, {living or 'none'} still live")
    return [f"{jobs}: not all have ended"] * bool(living) + [f"{len(load.jobs) - ended} jobs lost"] * (
        ended < len(load.jobs)
    )


def wrong(seen: dict[str, Seen], waiting: list[int], rate: float, *, flat: bool) -> list[str]:
    """What did not hold. `flat`: memory too."""
    middle, last = thirds(waiting)
    if last > max(BEHIND * rate, 1.2 * middle):
        return [f"not sustainable here: {last:.0f} calls were open in the last third, {middle:.0f} in the middle one"]
    found = [f"{name} grew by {one.growth - 1:.1%}" for name, one in seen.items() if flat and one.growth > FLAT]
    for name, one in seen.items():
        found += [f"{name}: {one.after} sockets and tasks, {one.before} before"] * any(
            map(int.__gt__, one.after, one.before)
        )
        middle, last = thirds(one.store)
        if flat and (last > 1.2 * middle + 2 or one.idle[1] > max(one.store, default=0)):
            found.append(f"{name}: {last:.0f} connections to the store, {middle:.0f} before, {one.idle[1]} at rest")
    return found


def table(seen: dict[str, Seen], load: Load, waiting: list[int], shares: dict[str, float], took: float) -> str:
    """What was done, and a line per process."""
    ends = ", ".join(f"{count} {name}" for name, count in load.ends.most_common())
    middle, last = thirds(waiting)
    rest = ", ".join(f"{name} {share:.0%}" for name, share in shares.items())
    lines = [
        f"{took / 60:.0f} min, {load.sent / took:.1f} calls a second: {ends}",
        f"open at once: {middle:.1f} in the middle third, {last:.1f} in the last, {max(waiting)} at most; of a core: {rest}",
        f"{'':11}{'MiB middle':>11}{'MiB last':>11}{'ratio':>8}{'TCP sockets':>13}{'to the store':>14}{'tasks':>9}{'of a core':>11}",
    ]
    for name, one in seen.items():
        before, after = thirds(one.rss)
        pairs = [f"{was} → {now}" for was, now in zip(one.before, one.after, strict=True)]
        store = f"{one.idle[0]} → {one.idle[1]}"
        lines.append(
            f"{name:11}{before / 1024:11.1f}{after / 1024:11.1f}{one.growth:8.3f}{pairs[0]:>13}{store:>14}{pairs[1]:>9}{one.cpu:>11.0%}"
        )
    return "\n".join(lines)


@contextlib.asynccontextmanager
async def target(folder: Path, **options: object) -> AsyncIterator[tuple[str, int]]:
    """A model server in a process of its own: its URL and pid."""
    port = free_port()
    arguments = [text for name, value in options.items() for text in (f"--{name.replace('_', '-')}", str(value))]
    with (folder / "target.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "foreman.demo.ollama", "--port", str(port), *arguments, stdout=log, stderr=log
        )
    try:
        yield f"http://127.0.0.1:{port}", process.pid
    finally:
        process.terminate()
        await process.wait()


async def main() -> int:
    """Run it; 1 where something grew or stayed."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--pace", type=float, default=10)
    parser.add_argument("--rate", type=float, default=0, help="calls a second, instead of --pace")
    parser.add_argument("--mode", choices=["one", "apart"], default="one")
    parser.add_argument("--kills", action="store_true", help="with --rate: a process dies each few seconds")
    parser.add_argument("--write", type=Path, help="with --rate: put the table into this page")
    asked = parser.parse_args()
    slots = 16 if asked.rate else 4
    options = {"models": ",".join((*MODELS, EMBEDDER)), "load_seconds": 0.2, "tokens": 30, "token_seconds": 0.003,
               "slots": slots, "max_loaded": 4 if asked.rate else 2}  # fmt: skip
    settings = {"job_ttl": "2m", "webhook_allow": "127.0.0.1", "upstream_timeout": "5s"}
    with tempfile.TemporaryDirectory(prefix="foreman-soak-") as name:
        folder = Path(name)
        async with (
            target(folder, **options) as (url, pid),
            rig(folder, f"main={url}?slots={slots}", asked.mode, **settings) as house,
        ):
            if not asked.rate:
                traffic = Traffic(house.url, MODELS, EMBEDDER, pace=asked.pace)
                await traffic.start()
                try:
                    await watch({name: Seen(one.pid) for name, one in house.processes.items()}, asked.minutes, traffic)
                finally:
                    await traffic.stop()
                return 0
            text, found = await soak(house, url, pid, asked.minutes, asked.rate, kills=asked.kills)
    held = "nothing lost" if asked.kills else f"flat (within {FLAT - 1:.0%})"
    text += "\n" + ("\n".join(found) or f"{held}, and everything back")
    print(text)
    if asked.write:
        into(asked.write, "tests/bench/soak.py", text)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
