"""The bound that operators see beside each lane's wait: nothing waits longer, on one target or several, whatever comes later."""

from __future__ import annotations

import dataclasses
import random

import pytest

from foreman.core.fairness import Policy
from foreman.core.forecast import Prospect, forecast
from foreman.core.jobs import Priority, Slot
from foreman.simulate.drain import Drainer
from foreman.simulate.trace import TraceTarget
from foreman.store.records import TargetStatus
from foreman.store.views import Glance, LaneGlance
from foreman.web.pool.bounds import Bounds
from tests.simulate.worlds import agent, job, lane, world

EPSILON = 0.06
"""What is told is rounded to a tenth of a second."""


def status(name, lanes, loads, **facts):
    tags = [{"name": each} for each in lanes]
    return TargetStatus(name, "http://x", "ollama", "up", 0.0, 0.0, "w", tags=tags, loads=loads, **facts)


def holds(lane, since, load=8.0, model=None):
    return {"lane": lane, "model": model or lane, "since": since, "load": load}


def glance(*lanes, now=0.0, total=None):
    return Glance(now, len(lanes) if total is None else total, len(lanes), lanes)


def waits(name, due, since=0.0, position=1, left_at=None, model=None):
    return LaneGlance(Slot.DRAIN, name, f"{model or name}:latest", 1, due, Priority.HIGH, since, position, left_at)


def told(lanes, *targets, **more):
    return Bounds(Policy(), lambda: 4.0).of(glance(*lanes, **more), targets)


ONE = 8 + 128 + 4
"""A residency: its load, a stay of four quanta, a run."""


LOADS = dict.fromkeys("abcd", 8.0)


def test_it_is_the_rest_of_a_residency_one_of_each_lane_before_and_the_own_load():
    lanes = [waits("a", 5.0), waits("b", 6.0, position=2)]
    found = told(lanes, status("t", "ab", LOADS))
    assert found == {("a", "drain"): 5 + ONE + 8, ("b", "drain"): 6 + 2 * ONE + 8}


def test_once_its_turn_has_come_what_has_the_place_is_known():
    lane = waits("a", 5.0)
    assert (
        told([lane], status("t", "a", LOADS, resident=[holds("c", 10.0)]), now=30.0)["a", "drain"] == 10 + 128 + 4 + 8
    )
    assert told([lane], status("t", "a", LOADS), now=30.0)["a", "drain"] == 30 + 8, "the place is free"
    loading = status("t", "a", LOADS, loading="c", load_ends_at=33.0)
    assert told([lane], loading, now=30.0)["a", "drain"] == 33 + 128 + 4 + 8


def test_the_resident_waits_for_a_run_until_it_may_be_cut():
    lane, target = waits("a", 5.0), status("t", "a", LOADS, resident=[holds("a", 10.0)])
    assert told([lane], target, now=30.0)["a", "drain"] == 30 + 4
    assert told([lane], target, now=100.0)["a", "drain"] == 100 + 4 + 32 + ONE + 8


def test_a_lane_that_was_cut_waits_for_its_turn_and_for_who_comes_before_that():
    lanes = [waits("a", 5.0, left_at=20.0), waits("b", 40.0, position=2)]
    assert told(lanes, status("t", "ab", LOADS))["a", "drain"] == 20 + 32 + 2 * ONE + 8


def test_lanes_that_are_not_shown_count_as_far_as_jobs_are_before():
    target = status("t", "a", LOADS)
    assert told([waits("a", 5.0, position=4)], target, total=3)["a", "drain"] == 5 + 3 * ONE + 8
    assert told([waits("a", 5.0, position=2)], target, total=3)["a", "drain"] == 5 + 2 * ONE + 8


def test_of_several_targets_the_one_that_promises_least_counts_and_none_that_is_away():
    quick, slow = status("t", "ab", LOADS), status("u", "a", {"a": 60.0})
    assert told([waits("a", 5.0)], quick, slow)["a", "drain"] == 5 + 60 + 300 + 4 + 60
    assert told([waits("a", 5.0)], quick, dataclasses.replace(slow, state="down"))["a", "drain"] == 5 + ONE + 8
    home = dataclasses.replace(quick, resident=[holds("a", 0.0)])
    assert told([waits("a", 5.0)], home, slow, now=6.0)["a", "drain"] == 6 + 4, "rule 8: it waits where it is loaded"
    assert told([waits("b", 5.0)], slow) == {}


# ------------------------------------------------------------------------------------------------ against what happens


def traffic(seed):
    """A world of one to three targets that has not run yet: calls, agents and feeds to two to five lanes."""
    chance = random.Random(seed)
    lanes = [
        lane(f"l{n}", chance.choice([0.5, 2, 8, 20, 60]), chance.choice("mnop")) for n in range(chance.randint(2, 5))
    ]
    names = [each.lane for each in lanes]
    jobs = [
        job(chance.choice(names), chance.choice([0.5, 3, 9]), chance.uniform(0, 400), chance.choice(list(Priority)))
        for _ in range(chance.randint(10, 80))
    ]
    agents = [agent([(chance.uniform(0, 6), name, 2.0) for _ in range(15)]) for name in chance.sample(names, 2)]
    targets = [
        TraceTarget(f"t{n}", chance.choice([0.5, 1, 2]), chance.choice([0.7, 1]), 1, chance.choice([1, 1, 2]))
        for n in range(chance.choice([1, 2, 3]))
    ]
    made = world(lanes, jobs, agents, targets=targets, chooser=Drainer)
    for name in chance.sample(names, chance.randint(0, 2)):
        made.feed(name, 3.0, Priority.HIGH, until=600.0, depth=2)
    return made


def looked_at(made):
    """What a gateway would see now."""
    dues = sorted(job.due for each in made.lanes.values() for job in each.waiting.values())
    lanes = []
    for name, each in made.lanes.items():
        if each.waiting:
            due, since = each.head().due, min(job.arrived for job in each.waiting.values())
            left = max((server.left_at[name] for server in made.servers if name in server.left_at), default=None)
            lanes.append(waits(name, due, since, dues.index(due) + 1, left, each.spec.model))
    targets = []
    for server in made.servers:
        load = server.loading
        targets.append(
            status(
                server.name,
                "mnop",
                {name: server.load_seconds(each.spec) for name, each in made.lanes.items()},
                resident=[
                    holds(one.lane, one.loaded_at, one.load_seconds, made.lanes[one.lane].spec.model)
                    for one in server.residents.values()
                ],
                places=server.spec.resident,
                loading=load and load.lane,
                load_ends_at=load and load.load_began + load.load_seconds,
            )
        )
    return glance(*lanes, now=made.now), targets


def foretold(made, name):
    """The ETA of a lane's next job."""
    prospects = []
    for server in made.servers:
        made.chooser._refresh(server)
        load, index = server.loading, made.chooser.indexes[server.name]
        ends = load and load.load_began + load.load_seconds
        prospects.append(Prospect(made.chooser.view(server), index, ends, claimed=0))
    return forecast(name, 0, prospects, made.now, Policy()).eta_seconds


def soonest(made, name):
    """Seconds that must pass until a lane works: its load, and what is left of one under way."""
    waits = []
    for server in made.servers:
        load = server.loading
        rest = load.load_began + load.load_seconds - made.now if load else 0.0
        mine = load is not None and load.lane == name
        own = 0.0 if mine else server.load_seconds(made.lanes[name].spec)
        waits.append(0.0 if name in server.residents else rest + own)
    return min(waits)


@pytest.mark.parametrize("seed", range(12))
def test_no_forecast_is_past_the_bound_or_before_what_is_possible(seed):
    made, told = traffic(seed), []

    def look():
        glance, targets = looked_at(made)
        told.append((glance, targets, {one.lane: foretold(made, one.lane) for one in glance.lanes}))
        for name, eta in told[-1][2].items():
            assert eta >= soonest(made, name) - EPSILON

    for moment in range(0, 600, 7):
        made.at(moment + 0.5, look)
    run = made.run()
    bounds = Bounds(Policy(), lambda: max(job.ended - job.started for job in run.jobs))
    for seen, targets, etas in told:
        found = bounds.of(seen, targets)
        for one in seen.lanes:
            assert etas[one.lane] <= found[one.lane, "drain"] - (seen.now - one.oldest_since) + EPSILON
    assert any(etas for *_, etas in told)


@pytest.mark.parametrize("seed", [*range(20), 103, 159, 199, 234, 256])
def test_nothing_waits_longer_than_its_bound_said_at_any_time(seed):
    made, looks = traffic(seed), {}
    made.listeners.append(lambda what, _: looks.update({made.now: looked_at(made)} if what == "arrived" else {}))
    run = made.run()
    longest = max(job.ended - job.started for job in run.jobs)
    bounds = Bounds(Policy(), lambda: longest)
    starts = {name: sorted(job.started for job in run.jobs if job.lane == name) for name in run.lanes}
    for now, (seen, targets) in list(looks.items())[:: max(1, len(looks) // 60)]:
        found = bounds.of(seen, targets)
        for each in seen.lanes:
            first = next(at for at in starts[each.lane] if at >= now)
            assert first <= each.oldest_since + found[each.lane, "drain"] + EPSILON
