"""`make faults`: the whole pool under fire, and whether it keeps its promises.

    python tests/faults/run.py [--quick] [--seed N] [--old COMMIT] [--keep] [--write PAGE]

Seeded and bounded: under five minutes, with --quick about one. Prints a table, a line per promise, and ends with 1 where
one was broken; at once where that is one that must hold exactly. What is promised, and what is not, stands in
docs/reliability.md. A phase that takes longer than it may is ended, and what it waited for is printed; so does SIGUSR1.
Whatever else it hangs in, it ends by itself (lastresort.py).
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import json
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

sys.path.insert(0, str(Path(__file__).parents[2]))

from foreman.store.keys import PERMANENT
from tests.faults import judge, report
from tests.faults.callers import Callers
from tests.faults.injectors import TARGETS, Injectors
from tests.faults.lastresort import LastResort
from tests.faults.ledger import Ledger
from tests.faults.numbers import Numbers
from tests.faults.timed import Timed
from tests.faults.topology import Topology
from tests.faults.watch import Watch
from tests.receivers import Receivers
from tests.rig import ROOT

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine

    from tests.faults.judge import Promise

SEED: Final = 20_261_121
LAYOUT: Final = "foreman/store/keys.py"
"""Holds `LAYOUT`: versions that share it can share a pool."""
FAR: Final = 100
"""Commits that an older version may be back."""
UNFIT: Final = "a92d118^..17f3807^"
"""Between these no version reaches a target: beside one of them a run tells nothing."""
START: Final = 60.0
"""Seconds in which all processes must be up."""
HOLD: Final = 75.0
"""Seconds in which whoever is told to stop has stopped: the store is waited for, for 60."""
REST: Final = 110.0
"""Seconds for what is outside of the plan's bound and of START: the judgement, and the end of all processes."""
LEAVE: Final = 20.0
"""Seconds in which a process must be gone after its SIGTERM: no grace here is longer than 5."""
TIME_PASSES: Final = """
local at = '0'
repeat
  local page = redis.call('SCAN', at, 'COUNT', 1000)
  at = page[1]
  for _, key in ipairs(page[2]) do
    if redis.call('PTTL', key) >= 0 then redis.call('DEL', key) end
  end
until at == '0'
"""
"""Every key with a TTL is over."""
FLAKY: Final = ["500", "ok", "reset", "ok", "ok", "429", "ok"] * 300


@dataclass(frozen=True, slots=True)
class Plan:
    """How much of what. Spans in seconds."""

    calls: int
    load: float
    calm: int
    """SIGKILLs of owners, one each `gap`, with nothing else that could cost time."""
    gap: float
    terms: int
    """Rounds of SIGTERMs."""
    storm: float
    zombies: int
    stores: int
    kills: int
    """Of anybody, in the storm."""
    cables: int
    upstream: int
    settle: float = 45.0
    bound: float = 400.0
    """Seconds after which it is over in any case: what all phases may take on a slow machine."""


LEAST: Final = {"SIGKILL": 100, "SIGKILL store": 5, "zombie": 15}
"""Blows without which a full run has shown too little."""
FULL: Final = Plan(2200, 200.0, 18, 3.0, 4, 80.0, 16, 6, 70, 40, 40)
QUICK: Final = Plan(300, 26.0, 3, 2.5, 1, 10.0, 2, 1, 6, 6, 8, 30.0, 100.0)
STANDING: Final = (
    "_pump",
    "_carry",
    "_serve",
    " keep",
    "_there",
    "_watch_epochs",
    " watch",
    " first",
    "_bounded_sleep",
)
"""What waits all through a run, and tells nothing of what holds it up."""


class Run:
    """One run."""

    def __init__(self, plan: Plan, seed: int, folder: Path, old: Path | None) -> None:
        self.plan = plan
        self.folder = folder
        self.ledger = Ledger(seed)
        self.chance = random.Random(seed + 2)
        self.pool = Topology(folder, old)
        self.hands: Injectors
        self.epochs: dict[str, int] = {}
        self.table = ""
        self._controls: list[asyncio.subprocess.Process] = []

    async def run(self) -> list[Promise]:
        """All phases; the promises."""
        asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, where)
        await self._control("naps")
        await self._control("work", "--work")
        try:
            async with Receivers() as receivers, self.pool, asyncio.TaskGroup() as keepers:
                receivers.kinds |= {f"/flaky/{number}": FLAKY for number in range(3)}
                self.pool.wires["receivers"].to = ("127.0.0.1", receivers.port)
                hooks = f"http://127.0.0.1:{self.pool.wires['receivers'].port}"
                kept = [keepers.create_task(self.pool.keep(name)) for name in self._begin()]
                try:
                    found = await self._phases(receivers, hooks)
                finally:
                    for task in kept:
                        task.cancel()
            return found
        finally:
            for control in self._controls:
                control.terminate()
                await control.wait()

    def pids(self) -> list[int]:
        """All processes that would stay behind."""
        return [*self.pool.pids(), *(control.pid for control in self._controls)]

    async def _control(self, name: str, *args: str) -> None:
        """A process that tells in the file of this name how late the machine is."""
        with (self.folder / name).open("wb") as told:
            made = await asyncio.create_subprocess_exec(
                *(sys.executable, str(Path(__file__).with_name("sleeper.py")), *args), stdout=told
            )
        self._controls.append(made)

    def _begin(self) -> list[str]:
        for name in ("g2", "w3", "b2"):
            self.pool.seats[name].old = self.pool.old is not None
        return list(self.pool.seats)

    async def _phases(self, receivers: Receivers, hooks: str) -> list[Promise]:
        """All of it, or so much of it as there is until the first breach."""
        pool, loop = self.pool, asyncio.get_running_loop()
        say("all processes are started, without a store")
        await asyncio.sleep(1.5)
        pool.store_up()
        self.ledger.blow("store absent at start", "store", self.ledger.began)
        await asyncio.gather(*(pool.ready(name, START) for name in pool.seats if not name.startswith("gpu")))
        say(f"up: {len(pool.seats)} processes{f', three of an older version ({pool.old.name})' if pool.old else ''}")
        callers = Callers(pool, self.ledger, hooks)
        self.hands = Injectors(pool, self.ledger, callers)
        numbers = Numbers(pool)
        watching = loop.create_task(Watch(pool, self.ledger).first())
        beside = [loop.create_task(self._watch_epochs()), loop.create_task(numbers.watch())]
        fire = loop.create_task(self._fire(callers))
        await asyncio.wait({fire, watching}, timeout=self.plan.bound, return_when=asyncio.FIRST_COMPLETED)
        for task in beside:
            task.cancel()
        if fire.done():
            watching.cancel()
            promises = await self._judge(fire.result(), receivers, numbers)
        else:
            if not watching.done():
                where()
            told = watching.result() if watching.done() else [f"not over after {self.plan.bound:g} s"]
            await ended(fire)
            promises = [judge.Promise("what must hold at every moment", "the run ended here", told)]
        self.table = report.table(self.ledger, promises, self._late("naps"), self._late("work"), pool)
        print(self.table)
        return promises

    async def _fire(self, callers: Callers) -> list[str]:
        """The load, and beside it one phase after the other; what is left once all is quiet."""
        pool, ledger, plan = self.pool, self.ledger, self.plan
        try:
            async with asyncio.TaskGroup() as group:
                load = group.create_task(callers.run(plan.calls, plan.load))
                await asyncio.sleep(1)
                await within(plan.calm * plan.gap * 1.2, self._calm())
                await within(plan.terms * 8, self._terms())
                await within(4 + plan.zombies * 5, self._dead())
                for name in ("g2", "w3", "b2"):
                    pool.seats[name].old = False
                await within(plan.storm * 1.05, self._storm())
                say(f"the storm is over, {sum(one.accepted is not None for one in ledger.sent)} jobs taken so far")
                ready = (pool.ready(name, 15) for name in pool.seats if not name.startswith("gpu"))
                await asyncio.gather(*ready, return_exceptions=True)
                await asyncio.wait([load], timeout=plan.settle)
                if not load.done():
                    where()
                    ledger.trouble.append(
                        f"call after call: some got no answer within {plan.settle:g} s of the storm's end"
                    )
                    load.cancel()
        finally:
            await callers.close()
        return await self._settle()

    def _blows(self) -> judge.Promise:
        """Whether the run did what it set out to, or only looked on."""
        done = {kind: sum(blow.kind.startswith(kind) for blow in self.ledger.blows) for kind in LEAST}
        said = ", ".join(f"{done[kind]} of {least} {kind}s" for kind, least in LEAST.items())
        few = self.plan is FULL and any(done[kind] < least for kind, least in LEAST.items())
        return judge.Promise(
            "as many blows as a full run needs",
            said if self.plan is FULL else "a quick run",
            ["the machine was too slow, or the pool stood still: see what the phases waited for"] if few else [],
        )

    async def _judge(self, left: list[str], receivers: Receivers, numbers: Numbers) -> list[Promise]:
        """Everything is quiet: what the ledger and the store say."""
        say("judging")
        jobs = await judge.read(self.pool)
        return [
            *judge.Judge(self.pool, self.ledger, jobs).all(),
            *Timed(self.ledger, jobs, self._late("naps"), self._late("work")).all(),
            await judge.webhooks(self.pool, self.ledger, receivers, jobs),
            numbers.promise(),
            self._blows(),
            await self._keys(left),
        ]

    # ------------------------------------------------------------------ the phases

    async def _calm(self) -> None:
        """One owner killed after the other; beside them gateways and background processes, which workers don't need."""
        say(f"{self.plan.calm} owners of targets are killed in mid-job, gateways and background processes beside them")
        async with asyncio.TaskGroup() as group:
            aside = [group.create_task(self._aside(*names)) for names in (("g1", "g2"), ("b1", "b2"))]
            for number in range(self.plan.calm):
                async with asyncio.TaskGroup() as both:
                    both.create_task(asyncio.sleep(self.plan.gap))
                    both.create_task(self.hands.kill_owner(TARGETS[number % 2]))
            for task in aside:
                task.cancel()

    async def _aside(self, *names: str) -> None:
        """Kill these in turn, until cancelled, but never the last of them."""
        for name in itertools.cycle(names):
            await asyncio.sleep(self.plan.gap)
            await self.hands.another(name)
            await self.hands.kill(name)

    async def _terms(self) -> None:
        """Both owners in mid-job, a gateway and a background process at once, so many times."""
        say(f"{self.plan.terms} times both owners get a SIGTERM in mid-job, and a gateway and a background process too")
        for _, others in zip(range(self.plan.terms), itertools.cycle((("g1", "b1"), ("g2", "b2"))), strict=False):
            async with asyncio.TaskGroup() as group:
                for target in TARGETS:
                    group.create_task(self.hands.terminate_owner(target))
                for name in others:
                    group.create_task(self.hands.terminate(name))

    async def _storm(self) -> None:
        plan, hands, chance = self.plan, self.hands, self.chance
        say(f"the storm: {plan.stores} kills of the store, {plan.kills} of others, cables, targets")

        async def back() -> None:
            await hands.kill(chance.choice(["w1", "w2", "w3", "w1", "w2", "w3", "gpu1", "gpu2"]))

        async def front() -> None:
            await hands.kill(chance.choice(["g1", "g2", "b1", "b2"]))

        outages: list[Callable[[], Awaitable[None]]] = [hands.store_killed] * plan.stores
        outages += [lambda: hands.store_full(2.0), lambda: hands.store_read_only(1.5), lambda: hands.store_demoted(1.0)]
        chance.shuffle(outages)
        ways = iter(outages)

        async def outage() -> None:
            await next(ways)()

        whom = iter(["w3", "g2", "b2"] * 4)
        async with asyncio.TaskGroup() as group:
            group.create_task(self._spread(back, plan.kills // 2))
            group.create_task(self._spread(front, plan.kills // 2))
            group.create_task(self._spread(outage, len(outages)))
            group.create_task(self._spread(hands.cable, plan.cables))
            group.create_task(self._spread(hands.upstream, plan.upstream))
            jumps = [3600.0, -3600.0, 30.0, -30.0]
            group.create_task(self._spread(lambda: hands.clock(next(whom), chance.choice(jumps), 4.0), 6))

    async def _dead(self) -> None:
        """Zombies on both targets at once, and a lease that the store forgets; no other worker dies meanwhile."""
        say(f"{self.plan.zombies} zombies: owners are frozen in mid-job, and woken once others run it")
        async with asyncio.TaskGroup() as group:
            aside = group.create_task(self._aside("b1", "b2"))
            async with asyncio.TaskGroup() as both:
                for index, target in enumerate(TARGETS):
                    both.create_task(self._zombies(target, (self.plan.zombies + index) // 2))
            aside.cancel()

    async def _zombies(self, target: str, count: int) -> None:
        done = 0
        while done < count:
            done += await self.hands.zombie(target)
        await self.hands.amnesia(target)

    async def _spread(self, step: Callable[[], Awaitable[object]], count: int) -> None:
        """`count` steps over the storm, not before one another's end."""
        loop = asyncio.get_running_loop()
        began, gap = loop.time(), self.plan.storm / count
        for number in range(count):
            await asyncio.sleep(max(gap / 2, began + gap * (number + self.chance.random()) - loop.time()))
            await step()

    # ------------------------------------------------------------------ the end

    async def _settle(self) -> list[str]:
        """Until every job has ended, every delivery is over and the dead are buried; what is left after `settle` seconds.

        After an outage of the store the dead are given a lease as the living are: somebody must be there when it ends.
        """
        pool, till = self.pool, time.monotonic() + self.plan.settle
        say("quiet: what still runs, waits or is to be told comes to its end")
        while True:
            left = []
            for kind in ("running:loading", "running:working", "queued:drain", "deliveries"):
                left += [f"{kind} {name}" for name in await pool.look.zrange(pool.key + kind, 0, -1)]
            for kind in ("workers", "gateways"):
                names = await pool.look.zrange(pool.key + kind, 0, -1)
                left += [f"{kind} {name}, who is dead" for name in names if pool.whose(name) is None]
            if not left or time.monotonic() > till:
                return left
            await asyncio.sleep(0.2)

    async def _keys(self, left: list[str]) -> Promise:
        """After a drain and with everybody gone in good order, the store holds what it held before, and what ends by itself."""
        promise = judge.Promise("the store is as it was before", breaches=[f"left over: {name}" for name in left[:10]])
        leaving = {name: asyncio.get_running_loop().create_task(self.hands.leave(name)) for name in self.pool.seats}
        await asyncio.wait(leaving.values(), timeout=LEAVE)
        for name, task in leaving.items():
            if not task.done():
                promise.breaches.append(f"{name} has not left {LEAVE:g} s after its SIGTERM")
                await ended(task)
        promise.breaches += await judge.left_behind(self.pool)
        before = await self.pool.look.dbsize()
        shutil.copytree(self.folder / "store", self.folder / "store-at-the-end")
        await self.pool.look.eval(TIME_PASSES, 0)
        promise.seen = (
            f"{before} keys, {await self.pool.look.dbsize()} once their time is over (permanent: {len(PERMANENT)})"
        )
        return promise

    async def _watch_epochs(self) -> None:
        """A target's epoch never falls."""
        while True:
            for target in TARGETS:
                with contextlib.suppress(Exception):
                    epoch = int(await self.pool.look.hget(f"{self.pool.key}target:{target}", "epoch") or 0)
                    if epoch and epoch < self.epochs.get(target, 0):
                        self.ledger.trouble.append(f"target epoch of {target}: {epoch} after {self.epochs[target]}")
                    self.epochs[target] = max(epoch, self.epochs.get(target, 0))
            await asyncio.sleep(0.1)

    def _late(self, name: str) -> list[tuple[float, float]]:
        lines = (self.folder / name).read_text().splitlines()
        return [(nap["at"], nap["late"]) for nap in map(json.loads, (line for line in lines if line.startswith("{")))]


def where(loop: asyncio.AbstractEventLoop | None = None) -> None:
    """What every task of ours waits for, the same ones together: for a phase that is not over in time, and upon SIGUSR1.

    With a loop, all of that loop's, whatever thread asks.
    """
    stacks: Counter[str] = Counter()
    for task in asyncio.all_tasks(loop):
        step, frames = task.get_coro(), []
        while (frame := getattr(step, "cr_frame", None)) is not None:
            frames.append(f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno} {frame.f_code.co_name}")
            step = step.cr_await  # type: ignore[union-attr] # what has a cr_frame has it
        if not any(one in frame for one in STANDING for frame in frames):
            stacks[" > ".join(frames)] += 1
    for stack, count in stacks.most_common(20):
        print(f"         {count} at {stack}", flush=True)


async def within(seconds: float, phase: Coroutine[Any, Any, None]) -> None:
    """A phase, for so long at most: on a slow machine there are fewer blows, and the table says how many."""
    task = asyncio.get_running_loop().create_task(phase)
    try:
        await asyncio.wait({task}, timeout=seconds)
        if not task.done():
            say(f"that took more than {seconds:.0f} s: on with the next")
            where()
    finally:
        await ended(task)
    if not task.done():
        raise RuntimeError(f"a phase holds on {HOLD:g} s after its end: see above what it waits for")
    if not task.cancelled():
        task.result()


async def ended(task: asyncio.Task[Any]) -> None:
    """Cancel a task and wait for its end: what it spoiled it puts right again. One that holds on is told of, and left behind."""
    task.cancel()
    await asyncio.wait({task}, timeout=HOLD)
    if not task.done():
        say("it can't be cancelled:")
        where()


def say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)


def older(commit: str, folder: Path) -> Path | None:
    """The tree of an older commit, or None where there is none that can share a pool with this one.

    `auto`: the oldest of the last FAR commits with today's LAYOUT that is not UNFIT.
    """

    def git(*args: str) -> bytes | None:
        ran = subprocess.run(["git", "-C", str(ROOT), *args], capture_output=True, check=False)
        return None if ran.returncode else ran.stdout

    def layout(text: str) -> str | None:
        found = re.search(r"^LAYOUT: Final = (\d+)$", text, re.MULTILINE)
        return found and found[1]

    if commit == "auto":
        commit = ""
        wanted = layout((ROOT / LAYOUT).read_text())
        unfit = (git("rev-list", UNFIT) or b"").decode().split()
        for one in (git("rev-list", "--first-parent", f"--max-count={FAR}", "HEAD") or b"").decode().split()[1:]:
            if layout((git("show", f"{one}:{LAYOUT}") or b"").decode()) != wanted:
                break
            commit = commit if one in unfit else one
    packed = git("archive", commit) if commit else None
    if packed is None:
        return None
    tree = folder / f"old-{commit[:7]}"
    tree.mkdir()
    subprocess.run(["tar", "-x", "-C", str(tree)], input=packed, check=True)
    return tree


def main() -> int:
    """Run it; 1 where a promise was broken."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--old", default="auto", help="a commit; '' for none")
    parser.add_argument("--write", type=Path, help="put the table into this page, such as docs/reliability.md")
    parser.add_argument("--keep", action="store_true", help="leave the logs")
    asked = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="foreman-faults-"))
    began = time.monotonic()
    try:
        old = older(asked.old, folder) if asked.old else None
        run = Run(QUICK if asked.quick else FULL, asked.seed, folder, old)
        import uvloop

        bound = START + run.plan.bound + REST
        runner = asyncio.Runner(loop_factory=uvloop.new_event_loop)
        with LastResort(bound, run.pids, lambda: where(runner.get_loop())), runner:
            promises = runner.run(run.run())
        broken = [promise for promise in promises if promise.breaches]
        last = f"seed {asked.seed}, {time.monotonic() - began:.0f} s: {len(broken)} of {len(promises)} promises broken"
        print(last)
        if asked.write:
            report.into(asked.write, "tests/faults/run.py", f"{run.table}\n{last}")
        return 1 if broken else 0
    finally:
        if asked.keep:
            print(f"logs: {folder}")
        else:
            shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
