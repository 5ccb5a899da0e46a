"""The two bounds of ADR-0009 hold on random traffic: deadlines, cancels, agents, feeds, slots, places, shared models."""

import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from foreman.core.jobs import Priority
from foreman.core.scheduler import Policy, choose
from tests.core.drain_bounds import check_bounds
from tests.core.drain_simulation import Lane, Simulation

RUNS = st.sampled_from([0.1, 0.5, 1.0, 2.5, 6.0, 17.0, 40.0])
GAPS = st.sampled_from([0.0, 0.0, 0.3, 2.0, 9.0, 45.0])
LOADS = st.sampled_from([0.5, 2.0, 8.0, 8.0, 20.0, 60.0])
CLASSES = st.sampled_from(Priority)
MAYBE = st.none() | st.sampled_from([1.0, 10.0, 60.0, 200.0])
WAITS = [{Priority.LOW: 1800.0, Priority.NORMAL: 120.0, Priority.HIGH: 5.0}, dict.fromkeys(Priority, 10.0)]


@st.composite
def traffic(draw):
    """A simulation that has not run yet: two to five lanes, and jobs that come alone, from agents and from feeds."""
    count = draw(st.integers(2, 5))
    models = [draw(st.sampled_from([f"own{index}", "shared"])) for index in range(count)]
    lanes = [Lane(f"lane{index}", draw(LOADS), model) for index, model in enumerate(models)]
    names = st.sampled_from([lane.name for lane in lanes])
    simulation = Simulation(
        lanes,
        slots=draw(st.sampled_from([1, 1, 4])),
        places=draw(st.sampled_from([1, 1, 2, 3])),
        policy=Policy(swap_budget=draw(st.sampled_from([0.1, 0.2, 0.2, 0.4]))),
        max_wait=draw(st.sampled_from(WAITS)),
        decide=steady,
    )
    limits = MAYBE if draw(st.booleans()) else st.none()
    for lane, depth, seconds, priority in draw(
        st.lists(st.tuples(names, st.integers(1, 3), st.sampled_from([60.0, 300.0]), CLASSES), max_size=3)
    ):
        simulation.feed(lane, draw(st.sampled_from([2.5, 6.0])), until=seconds, depth=depth, priority=priority)
    for steps, priority in draw(st.lists(st.tuples(st.lists(st.tuples(GAPS, names, RUNS)), CLASSES), max_size=2)):
        simulation.agent(steps, priority)
    moment = 0.0
    for gap, lane, run, priority in draw(st.lists(st.tuples(GAPS, names, RUNS, CLASSES), max_size=60)):
        moment += gap
        simulation.submit(lane, run, at=moment, priority=priority, deadline=draw(limits), cancel=draw(limits))
    return simulation


def steady(lanes, target, now, policy):
    """choose(), and the same facts in another order."""
    decision = choose(lanes, target, now, policy)
    assert choose(lanes[::-1], target, now, policy) == decision
    return decision


@settings(
    derandomize=True,
    database=None,
    deadline=None,
    max_examples=600,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(traffic())
def test_on_any_traffic_both_bounds_hold_and_no_timer_is_missing(simulation):
    check_bounds(simulation.run())


@pytest.mark.parametrize("seed", range(200))
def test_on_long_traffic_both_bounds_hold_and_no_timer_is_missing(seed):
    """More jobs, longer runs and more cancels than a shrinking search tries: rare meetings need many loads."""
    chance = random.Random(seed)
    lanes = [Lane(f"lane{index}", chance.choice([0.5, 2, 8, 8, 20, 60]), chance.choice("mnopq")) for index in range(5)]
    simulation = Simulation(
        lanes,
        slots=chance.choice([1, 1, 4]),
        places=chance.choice([1, 1, 2, 3]),
        max_wait=chance.choice([*WAITS, {Priority.LOW: 600.0, Priority.NORMAL: 20.0, Priority.HIGH: 15.0}]),
        decide=steady,
    )
    limits = chance.choice([0.0, 0.2, 0.5])
    moment = 0.0
    for _ in range(chance.randint(20, 150)):
        moment += chance.choice([0.0, 0.0, chance.expovariate(1 / 3), chance.expovariate(1 / 20)])
        simulation.submit(
            chance.choice(lanes).name,
            chance.lognormvariate(0, 1) * chance.choice([0.5, 3, 6, 20]),
            at=moment,
            priority=chance.choice(list(Priority)),
            deadline=chance.uniform(1, 400) if chance.random() < limits else None,
            cancel=chance.uniform(0, 200) if chance.random() < limits else None,
        )
    for _ in range(chance.randint(0, 2)):
        simulation.feed(
            chance.choice(lanes).name, chance.uniform(0.5, 10), chance.uniform(10, 600), chance.randint(1, 4)
        )
    check_bounds(simulation.run())
