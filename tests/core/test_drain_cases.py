"""What the drain is for, and the smallest case in which each simpler rule goes wrong (ADR-0009, "Simpler rules").

Every case runs twice where it can: with the rule as it is, and with the simpler one in its place, which must fail. So
a case that no longer bites is noticed.
"""

import itertools
import math
import random
import statistics

import pytest

from foreman.core import fairness, index, scheduler
from foreman.core.jobs import Priority
from foreman.core.scheduler import Policy, Reason, due
from tests.core.drain_bounds import check_bounds
from tests.core.drain_simulation import Lane, Simulation, past_due, waits

LOW, NORMAL, HIGH = Priority
STAY = 4 * 32.0
"""Four quanta of two loads of 8 s."""


def poisson(simulation, load, until, seed):
    """Calls to the lanes by turns of a coin: together they keep the target busy for the share `load` of its time."""
    chance, mean, spread = random.Random(seed), 4.0, math.sqrt(math.log(1 + 0.7**2))
    moment = chance.expovariate(load / mean)
    while moment < until:
        run = chance.lognormvariate(math.log(mean) - spread**2 / 2, spread)
        simulation.submit(chance.choice(list(simulation.lanes)), run, at=moment)
        moment += chance.expovariate(load / mean)
    return simulation.run()


# ------------------------------------------------------------------------------------------------ what it is for


@pytest.mark.parametrize("priority", Priority)
def test_sixty_interleaved_requests_to_three_models_cost_three_loads_and_fifo_sixty(priority):
    lanes = [Lane("a"), Lane("b"), Lane("c")]
    simulation = Simulation(lanes)
    calls = [lane.name for _ in range(20) for lane in lanes]
    for lane in calls:
        simulation.submit(lane, 5.0, priority=priority)
    check_bounds(simulation.run())
    assert len(simulation.loads) == 3
    assert [load.reason for load in simulation.loads] == [Reason.ROOM, Reason.EMPTY, Reason.EMPTY]
    assert sum(this != that for this, that in itertools.pairwise(calls)) == 59, "swaps in order of arrival"


def test_a_fourth_lane_is_served_within_its_bound_while_the_first_never_runs_empty():
    simulation = Simulation([Lane(name) for name in "abcd"])
    simulation.feed("a", 3.0, until=3600, depth=5)
    for lane in "bc":
        simulation.feed(lane, 3.0, until=1800, depth=2)
    late = simulation.submit("d", 3.0, at=600)
    check_bounds(simulation.run())
    residency = 8 + STAY + 3
    # The rest of the residency that has the place, one residency of each of the two others, and the load of its own.
    assert late.started <= late.due + 3 * residency + 8
    assert late.started > late.due, "the case does not press"


def test_a_lane_that_comes_to_an_endless_stream_of_one_lane_waits_for_one_residency():
    simulation = Simulation([Lane("a"), Lane("d")])
    simulation.feed("a", 3.0, until=3600, depth=5)
    late = simulation.submit("d", 3.0, at=600)
    simulation.run()
    # The stream has long stayed its time: what it runs when the turn comes is all that is waited for.
    assert late.due <= late.started <= late.due + 3 + 8


def test_a_person_beside_a_nightly_batch_waits_for_a_quantum_and_not_for_the_batch():
    simulation = Simulation([Lane("batch"), Lane("chat")])
    for _ in range(500):
        simulation.submit("batch", 6.0, priority=LOW)
    first = simulation.submit("chat", 2.0, at=1000)
    second = simulation.submit("chat", 2.0, at=1040)
    simulation.run()
    assert first.started - first.arrived <= 6 + 8
    assert second.started - second.arrived <= 32 + 6 + 8
    assert [load.reason for load in simulation.loads if load.lane == "chat"] == [Reason.CLASS, Reason.DUE]


def test_two_lanes_that_never_run_empty_pay_no_more_than_six_percent_in_swaps():
    simulation = Simulation([Lane("a"), Lane("b")])
    for lane in "ab":
        simulation.feed(lane, 2.0, until=8000, depth=2)
    check_bounds(simulation.run())
    loading = sum(load.residency.load for load in simulation.loads)
    assert loading / simulation.now == pytest.approx(0.2 / (4 - 3 * 0.2), rel=0.05)


# ------------------------------------------------------------------------------------------------ simpler rules


def two_agents_and_a_low_job():
    """Two agents on two lanes: whenever one of the lanes runs empty, the other has a call waiting."""
    simulation = Simulation([Lane("a"), Lane("b"), Lane("c")], max_wait={HIGH: 60.0, NORMAL: 60.0, LOW: 300.0})
    for lane in "ab":
        simulation.agent([(4.0, lane, 2.0)] * 200)
    simulation.submit("c", 2.0, at=20, priority=LOW)
    return past_due(simulation.run(), "c")


def test_an_empty_place_goes_to_the_overdue_before_the_higher_class(monkeypatch):
    assert two_agents_and_a_low_job() <= 2 * (8 + 2)
    monkeypatch.setattr(scheduler._Board, "_all_in_order", lambda board: (view for _, view in board.index.by_class()))
    assert two_agents_and_a_low_job() > 1000, "until the agents stop"


def two_backlogs_and_a_newcomer():
    simulation = Simulation([Lane("a"), Lane("b"), Lane("new")], max_wait=dict.fromkeys(Priority, 15.0))
    for lane in "ab" * 500:
        simulation.submit(lane, 4.0)
    newcomer = simulation.submit("new", 4.0, at=10)
    simulation.run()
    return newcomer.started - newcomer.due


def test_an_old_backlog_does_not_pass_a_newcomer_again_and_again(monkeypatch):
    assert two_backlogs_and_a_newcomer() <= 2 * (8 + STAY + 4) + 8
    for module in (scheduler, index):
        monkeypatch.setattr(module, "turn", lambda head_due, *_: head_due)
    assert two_backlogs_and_a_newcomer() > 3000, "their heads stay due before it"


@pytest.mark.parametrize(("loads", "load"), [((2.0, 60.0), 0.5), ((3.0, 20.0), 0.8)])
def test_the_quantum_counts_the_load_of_both_lanes(monkeypatch, loads, load):
    """A resident that loads fast would soon be cut for one that loads slowly, which costs the slow load each time."""

    def mean_wait(policy):
        lanes = [Lane("fast", loads[0]), Lane("slow", loads[1])]
        simulation = Simulation(lanes, policy=policy, max_wait=dict.fromkeys(Priority, 15.0))
        return statistics.mean(waits(poisson(simulation, load, until=7200, seed=2)))

    policies = Policy(), Policy(stay_quanta=1)
    both = [mean_wait(policy) for policy in policies]
    for module in (scheduler, fairness):
        monkeypatch.setattr(module, "quantum", lambda own, _, policy: policy.work_per_load * own)
    own = [mean_wait(policy) for policy in policies]
    assert own[0] > 1.2 * both[0]
    assert own[1] > 2 * both[1]


def test_draining_on_while_only_equals_wait_is_faster_for_everybody():
    """Cut after one quantum, the target loses `swap_budget` of its time: above a load of 0.8 the queue only grows."""

    def mean_wait(quanta):
        simulation = Simulation([Lane("a"), Lane("b")], policy=Policy(stay_quanta=quanta))
        return statistics.mean(waits(poisson(simulation, 0.9, until=7200, seed=1)))

    assert mean_wait(1) > 4 * mean_wait(4)


def a_call_beside_hopeless_deadlines(due_of):
    """Jobs that are expected to take half an hour and may take a minute, a few more than the target can do."""
    simulation = Simulation([Lane("a")], max_wait=dict.fromkeys(Priority, 15.0), due_of=due_of)
    for moment in range(0, 3000, 3):
        simulation.submit("a", 3.2, at=moment, deadline=60.0)
    call = simulation.submit("a", 3.2, at=100)
    simulation.run()
    return call.started - call.due


def test_a_hopeless_deadline_is_due_no_earlier_than_it_came():
    half_an_hour = 1800.0

    def unclamped(enqueued_at, max_wait, deadline, _run):
        return enqueued_at + max_wait if deadline is None else min(enqueued_at + max_wait, deadline - half_an_hour)

    assert a_call_beside_hopeless_deadlines(lambda at, wait, deadline, _: due(at, wait, deadline, half_an_hour)) < 30
    assert a_call_beside_hopeless_deadlines(unclamped) > 1000
