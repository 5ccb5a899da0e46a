"""The two bounds of ADR-0021 on real workers, in front of the fake that swaps as Ollama does: the simulator's own checks.

What the store keeps of loads and jobs is put beside the moments at which the scheduler was asked and said so, and
tests/simulate/bounds.py judges it as it judges a simulated world. There a choice takes no time. Here it goes through a loop and
a store on a machine that is slow when it pleases: so what was due may be as late as the way from a choice to the store was
measured to be just then, and no later.
"""

from __future__ import annotations

import asyncio
import random
import time
from types import SimpleNamespace

import pytest

from foreman.core import scheduler
from foreman.core.decisions import Drain, Swap
from foreman.core.fairness import Policy, turn
from foreman.core.jobs import Priority
from tests.simulate.bounds import check_bounds
from tests.workers.conftest import wait_until
from workers.drain.target import Target

BUDGET = 0.5
LOAD = 0.25
WAITS = {Priority.HIGH: 0.3, Priority.NORMAL: 0.6, Priority.LOW: 3.0}
TRIPS = 4
"""Turns of the loop and trips to the store from the moment at which something is due to the deed: the timer rings or the run's end
is heard, the store is asked what has changed, the job is claimed, the load begins."""
EVERY = 0.005


class Measured:
    """A real clock: how long a turn of this loop and a trip to the store took, all the time."""

    grain = 0.002
    """The store counts whole milliseconds, and a worker knows its clock to about one."""
    tick = 0.001

    def __init__(self, queue) -> None:
        self._queue = queue
        self._trips = []

    async def measure(self):
        while True:
            began = time.time()
            await asyncio.sleep(EVERY)
            await self._queue.ping()
            self._trips.append((began, time.time()))

    def slack(self, since, until):
        trips = [end - began for began, end in self._trips if began <= until and end >= since]
        return self.grain + TRIPS * max(trips, default=0.0)


class Witness:
    """Hears what the scheduler is asked and says, and the claims for which nobody needs to ask it."""

    def __init__(self, monkeypatch) -> None:
        self.swaps = []
        self.claims = []
        self._choose, self._take = scheduler.choose, Target.take
        monkeypatch.setattr(scheduler, "choose", self.choose)

        async def take(target, free):
            return await self.take(target, free)

        monkeypatch.setattr(Target, "take", take)

    def choose(self, lanes, target, now, policy, idle=None):
        said = self._choose(lanes, target, now, policy, idle)
        if isinstance(said, Swap):
            view = lanes.get(said.lane)
            moment = turn(view.head_due, view.left_at, view.load_seconds, policy)
            self.swaps.append(SimpleNamespace(at=now, lane=said.lane, turn=moment, expected=view.load_seconds))
        elif isinstance(said, Drain):
            left = max(rank for rank, count in enumerate(lanes.get(said.lane).classes) if count)
            placed = {resident.lane for resident in target.residents}
            heads = [view.head_class for view in lanes if view.lane not in placed]
            self.claims.append((now, said.lane, left, max(heads, default=-1)))
        return said

    async def take(self, target, free):
        taken = await self._take(target, free)
        if taken is not None:
            self.claims.append((taken.claimed.now, taken.claimed.job.lane, taken.claimed.job.priority, -1))
        return taken


async def traffic(here, seed, slots, places):
    """A backlog of one lane per place that lasts longer than a stay, then three lanes in three classes; the jobs as they ended."""
    draw = random.Random(seed)
    callers = [await here.submit("a", priority=Priority.NORMAL) for _ in range(60 * slots)]
    if places > 1:
        callers += [await here.submit("c", priority=Priority.NORMAL) for _ in range(60)]
    callers += [await here.submit("b", priority=Priority.NORMAL) for _ in range(10)]
    await callers[-1].ended(60)  # equals only, until the first swap
    for _ in range(45):
        model = draw.choices("abc", (6, 3, 1))[0]
        priority = draw.choices([Priority.HIGH, Priority.NORMAL, Priority.LOW], (2, 3, 1))[0]
        callers.append(await here.submit(model, priority=priority))
        if draw.random() < 0.7:
            await asyncio.sleep(draw.expovariate(1 / 0.05))
    await asyncio.gather(*(caller.ended(120) for caller in callers))
    return [await here.final(caller) for caller in callers]


def world(history, jobs, witness, policy, places):
    """What happened, as the checks want it told: a load begins when it is chosen, and so ends who gives it his place."""
    run = SimpleNamespace(residencies=[], withdrawals=[], lanes={}, chooser=SimpleNamespace(policy=policy))
    run.servers = [SimpleNamespace(spec=SimpleNamespace(resident=places))]
    run.jobs = [
        SimpleNamespace(
            lane=job.lane,
            due=job.due,
            serial=job.id,
            arrived=job.created_at,
            started=job.claimed_at,
            ended=job.finished_at,
        )
        for job in jobs
    ]
    there = {}
    for one in history:
        said = [said for said in witness.swaps if said.lane == one.lane and said.at <= one.t0 + Measured.grain][-1]
        victim = there.get(one.victim)
        load = SimpleNamespace(
            lane=one.lane, load_began=said.at, loaded_at=one.loaded, load_seconds=one.loaded - one.t0, turn=said.turn,
            expected=said.expected, victim=victim, there=tuple(there.values()), claims=[], cut=False, ended=None, last_end=0.0,
            sent=one.t0,
        )  # fmt: skip
        run.lanes[one.lane] = SimpleNamespace(spec=SimpleNamespace(model=one.model, load_seconds=said.expected))
        if victim is not None:
            victim.ended, victim.cut = said.at, one.cut
            del there[one.victim]
        there[one.lane] = load
        run.residencies.append(load)
    for load in run.residencies:
        until = load.ended or float("inf")
        load.claims = [
            (at, left, waiting)
            for at, lane, left, waiting in witness.claims
            if lane == load.lane and load.sent <= at <= until
        ]
        mine = [
            job
            for job in run.jobs
            if job.lane == load.lane and load.load_began - Measured.grain <= job.started <= until
        ]
        load.last_end = max(job.ended for job in mine)
        load.last_claim = max(job.started for job in mine)
    return run


@pytest.mark.parametrize(("seed", "slots", "places"), [(1, 1, 1), (2, 2, 1), (3, 1, 2)])
async def test_on_real_workers_both_bounds_hold(ollama, floor, monkeypatch, seed, slots, places):
    fake = await ollama(
        ["a", "b", "c"], max_loaded=places, load_seconds=LOAD, tokens=3, token_seconds=0.01, slots=slots
    )
    due = ",".join(f"{priority.word}={span}s" for priority, span in WAITS.items())
    witness = Witness(monkeypatch)
    here = await floor(gpu=fake, options=f"&resident={places}&slots={slots}", swap_budget=str(BUDGET), due_after=due)
    clock = Measured(here.queue)
    async with asyncio.TaskGroup() as group:
        measuring = group.create_task(clock.measure())
        jobs = await traffic(here, seed, slots, places)
        history = await wait_until(lambda: all_loads(here, len(fake.loads), places))
        measuring.cancel()
    run = world(history, jobs, witness, Policy(swap_budget=BUDGET), places)
    check_bounds(run, clock)
    assert any(load.cut for load in run.residencies)
    for load in run.residencies:  # what was chosen was done
        assert load.sent <= load.load_began + clock.slack(load.load_began, load.sent)
        last = max([load.load_began, *(at for at, *_ in load.claims)])
        assert load.last_claim <= last + clock.slack(last, load.last_claim)
    assert len(run.residencies) < 45, "order of arrival would have taken as many"


async def all_loads(here, count, places):
    found = [one for one in await here.store.swaps.of("gpu") if one.reason != "found"]
    over = sum(one.end is not None for one in found)
    return found if len(found) == count and over >= count - places else None
