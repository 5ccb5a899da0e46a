"""Both bounds of ADR-0021 hold on random traffic: deadlines, cancels, agents, feeds, slots, places, shared models."""

import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from foreman.core.fairness import Policy
from foreman.core.jobs import Priority
from foreman.simulate.report import log
from foreman.simulate.trace import TraceTarget
from tests.simulate.bounds import check_bounds, check_budget, check_order
from tests.simulate.worlds import agent, job, lane, world

RUNS = st.sampled_from([0.1, 0.5, 1.0, 2.5, 6.0, 17.0, 40.0])
GAPS = st.sampled_from([0.0, 0.0, 0.3, 2.0, 9.0, 45.0])
LOADS = st.sampled_from([0.5, 2.0, 8.0, 8.0, 20.0, 60.0])
CLASSES = st.sampled_from(Priority)
MAYBE = st.none() | st.sampled_from([1.0, 10.0, 60.0, 200.0])
WAITS = [{Priority.LOW: 1800.0, Priority.NORMAL: 120.0, Priority.HIGH: 5.0}, dict.fromkeys(Priority, 10.0)]


@st.composite
def traffic(draw):
    """A world that has not run yet: two to five lanes, and jobs that come alone, from agents and from feeds."""
    count = draw(st.integers(2, 5))
    models = [draw(st.sampled_from([f"own{index}", "shared"])) for index in range(count)]
    lanes = [lane(f"lane{index}", draw(LOADS), model) for index, model in enumerate(models)]
    names = st.sampled_from([each.lane for each in lanes])
    limits = MAYBE if draw(st.booleans()) else st.none()
    feeds = draw(st.lists(st.tuples(names, st.integers(1, 3), st.sampled_from([60.0, 300.0]), CLASSES), max_size=3))
    agents = [
        agent(steps, priority=priority)
        for steps, priority in draw(
            st.lists(st.tuples(st.lists(st.tuples(GAPS, names, RUNS), min_size=1), CLASSES), max_size=2)
        )
    ]
    moment, jobs = 0.0, []
    for gap, name, run, priority in draw(st.lists(st.tuples(GAPS, names, RUNS, CLASSES), max_size=60)):
        moment += gap
        jobs.append(job(name, run, moment, priority, draw(limits), draw(limits)))
    made = world(
        lanes,
        jobs,
        agents,
        slots=draw(st.sampled_from([1, 1, 4])),
        places=draw(st.sampled_from([1, 1, 2, 3])),
        policy=Policy(swap_budget=draw(st.sampled_from([0.1, 0.2, 0.2, 0.4]))),
        max_wait=draw(st.sampled_from(WAITS)),
    )
    for name, depth, seconds, priority in feeds:
        made.feed(name, draw(st.sampled_from([2.5, 6.0])), priority, until=seconds, depth=depth)
    return made


@settings(
    derandomize=True,
    database=None,
    deadline=None,
    max_examples=200,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(traffic())
def test_on_any_traffic_both_bounds_hold_and_no_timer_is_missing(made):
    check_bounds(made.run())


def long_traffic(seed, targets=None):
    """More jobs, longer runs and more cancels than a shrinking search tries: rare meetings need many loads."""
    chance = random.Random(seed)
    lanes = [lane(f"lane{index}", chance.choice([0.5, 2, 8, 8, 20, 60]), chance.choice("mnopq")) for index in range(5)]
    names = [each.lane for each in lanes]
    limits = chance.choice([0.0, 0.2, 0.5])
    moment, jobs = 0.0, []
    for _ in range(chance.randint(20, 150)):
        moment += chance.choice([0.0, 0.0, chance.expovariate(1 / 3), chance.expovariate(1 / 20)])
        jobs.append(
            job(
                chance.choice(names),
                chance.lognormvariate(0, 1) * chance.choice([0.5, 3, 6, 20]),
                moment,
                chance.choice(list(Priority)),
                chance.uniform(1, 400) if chance.random() < limits else None,
                chance.uniform(0, 200) if chance.random() < limits else None,
            )
        )
    agents = [
        agent(
            [(chance.expovariate(1 / 3), name, chance.lognormvariate(0.5, 0.7)) for _ in range(chance.randint(5, 30))],
            chance.uniform(0, 60),
            chance.choice(list(Priority)),
        )
        for name in chance.sample(names, chance.randint(0, 3))
    ]
    made = world(
        lanes,
        jobs,
        agents,
        slots=chance.choice([1, 1, 4]),
        places=chance.choice([1, 1, 2, 3]),
        targets=targets,
        max_wait=chance.choice([*WAITS, {Priority.LOW: 600.0, Priority.NORMAL: 20.0, Priority.HIGH: 15.0}]),
    )
    for _ in range(chance.randint(0, 2)):
        name, run, until, depth = (
            chance.choice(names),
            chance.uniform(0.5, 10),
            chance.uniform(10, 600),
            chance.randint(1, 4),
        )
        made.feed(name, run, Priority.HIGH, until, depth)
    return made


@pytest.mark.parametrize("seed", range(80))
def test_on_long_traffic_both_bounds_hold_and_no_timer_is_missing(seed):
    check_bounds(long_traffic(seed).run())


@pytest.mark.parametrize("seed", range(30))
def test_on_several_targets_the_budget_and_the_order_hold_and_nobody_stands_idle(seed):
    chance = random.Random(1000 + seed)
    targets = [
        TraceTarget(
            f"t{n}",
            chance.choice([0.5, 1, 2]),
            chance.choice([0.7, 1, 1.5]),
            chance.choice([1, 4]),
            chance.choice([1, 2]),
        )
        for n in range(chance.choice([2, 3, 4]))
    ]
    run = long_traffic(seed, targets).run()
    check_budget(run)
    check_order(run)


def test_the_same_trace_runs_the_same_way_twice():
    one, two = (long_traffic(3).run() for _ in range(2))
    assert log(one, Policy()) == log(two, Policy())
