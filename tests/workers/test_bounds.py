"""The two bounds of ADR-0021 on real workers, in front of the fake that swaps as Ollama does: what the history says they did.

The simulator holds them exactly, on a virtual clock (tests/simulate). Here loads are measured and a machine is slow when it
pleases, so every moment has a grace.
"""

from __future__ import annotations

import asyncio
import random

import pytest

from foreman.core.fairness import Policy, quantum, stay
from foreman.core.jobs import Priority
from tests.workers.conftest import wait_until

BUDGET = 0.5
LOAD = 0.25
GRACE = 0.4
"""Seconds that a moment may be off: a poll of the unload, a busy machine, the estimate of a load."""
WAITS = {Priority.HIGH: 0.3, Priority.NORMAL: 0.6, Priority.LOW: 3.0}


async def traffic(here, seed, slots):
    """A backlog of one lane that lasts longer than a stay, then three lanes in three classes; the jobs as they ended."""
    draw = random.Random(seed)
    callers = [await here.submit("a", priority=Priority.NORMAL) for _ in range(90 * slots)]
    callers += [await here.submit("b", priority=Priority.NORMAL) for _ in range(10)]
    await callers[-1].ended(60)  # equals only, until the first swap
    for _ in range(60):
        model = draw.choices("abc", (6, 3, 1))[0]
        priority = draw.choices([Priority.HIGH, Priority.NORMAL, Priority.LOW], (2, 3, 1))[0]
        callers.append(await here.submit(model, priority=priority))
        if draw.random() < 0.7:
            await asyncio.sleep(draw.expovariate(1 / 0.05))
    await asyncio.gather(*(caller.ended(120) for caller in callers))
    return [await here.final(caller) for caller in callers]


@pytest.mark.parametrize(("seed", "slots"), [(1, 1), (2, 2)])
async def test_on_real_workers_the_budget_holds_and_nobody_starves(ollama, floor, seed, slots):
    fake = await ollama(["a", "b", "c"], max_loaded=1, load_seconds=LOAD, tokens=3, token_seconds=0.01, slots=slots)
    due = ",".join(f"{priority.word}={span}s" for priority, span in WAITS.items())
    here = await floor(gpu=fake, options=f"&resident=1&slots={slots}", swap_budget=str(BUDGET), due_after=due)
    jobs = await traffic(here, seed, slots)
    loads = await wait_until(lambda: all_loads(here, len(fake.loads)))
    policy = Policy(swap_budget=BUDGET, stay_quanta=4.0, stay_cap=300.0)
    for number, load in enumerate(loads):
        if number + 1 < len(loads):
            check_stay(load, loads[number + 1], jobs, policy)
        check_order(number, loads, jobs, policy)
    assert len(loads) < 60, "order of arrival would have taken as many"


async def all_loads(here, count):
    found = [one for one in await here.store.swaps.of("gpu") if one.reason != "found"]
    return found if len(found) == count and all(one.end is not None for one in found[:-1]) else None


def claims(lane, jobs, since, until):
    return [job.claimed_at for job in jobs if job.lane == lane and since <= job.claimed_at < until]


def check_stay(load, after, jobs, policy):
    """A cut residency stayed its quantum (B1), and nobody claimed past the longest stay once the next one's turn had come."""
    spans = load.loaded - load.t0, after.loaded - after.t0
    if after.cut:
        assert after.t0 - load.loaded >= quantum(*spans, policy) - GRACE
    due = min(job.due for job in jobs if job.lane == after.lane and job.claimed_at >= after.t0 - GRACE)
    turn = max(due, load.loaded)
    latest = max(turn, load.loaded + stay(*spans, policy, outranked=False)) + GRACE
    late = [moment for moment in claims(load.lane, jobs, load.t0, after.t0) if moment > latest]
    assert not late, "claimed past its stay while the next one's turn had come"


def check_order(number, loads, jobs, policy):
    """B2 (i): from a lane's turn to its load no lane came twice."""
    load = loads[number]
    head = min(
        (job for job in jobs if job.lane == load.lane and job.claimed_at >= load.t0 - GRACE), key=lambda job: job.due
    )
    left = [
        one.end
        for after, one in zip(loads[1 : number + 1], loads[:number], strict=True)
        if one.lane == load.lane and after.cut and one.end is not None
    ]
    turn = max([head.due, *(end + policy.work_per_load * LOAD for end in left[-1:])])
    between = [one.lane for one in loads[:number] if turn + GRACE < one.t0 < load.t0]
    assert len(set(between)) == len(between), "a lane came twice before another's turn"
