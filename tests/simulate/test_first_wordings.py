"""What the drain is for, and the smallest case in which each simpler rule goes wrong (ADR-0021, "Simpler rules").

Every simpler rule is put in the place of the true one, and must do badly in its case; so a case that no longer bites is
noticed. Where a bound forbids what it does, the checks of the bounds must say so, too.
"""

import contextlib
import itertools
import math
import random
import statistics

import pytest

from foreman.core import fairness, index, scheduler
from foreman.core.decisions import Reason
from foreman.core.fairness import Policy
from foreman.simulate import world as engine
from foreman.simulate.drain import Drainer
from tests.simulate.bounds import check_bounds
from tests.simulate.worlds import HIGH, LOW, NORMAL, agent, job, lane, past_due, waits, world

STAY = 4 * 32.0
"""Four quanta of two loads of 8 s."""
SHORT = dict.fromkeys((HIGH, NORMAL, LOW), 15.0)


def poisson(loads, busy, seed, until=7200.0):
    """Calls to two lanes by turns of a coin: together they keep the target busy for the share `busy` of its time."""
    chance, mean, spread = random.Random(seed), 4.0, math.sqrt(math.log(1 + 0.7**2))
    moment, jobs = chance.expovariate(busy / mean), []
    while moment < until:
        run = chance.lognormvariate(math.log(mean) - spread**2 / 2, spread)
        jobs.append(job(chance.choice("ab"), run, moment))
        moment += chance.expovariate(busy / mean)
    return [lane("a", loads[0]), lane("b", loads[1])], jobs


# ------------------------------------------------------------------------------------------------ what it is for


@pytest.mark.parametrize("priority", [LOW, NORMAL, HIGH])
def test_sixty_interleaved_requests_to_three_models_cost_three_loads_and_fifo_sixty(priority):
    calls = [name for _ in range(20) for name in "abc"]
    run = world([lane("a"), lane("b"), lane("c")], [job(name, 5.0, 0.0, priority) for name in calls]).run()
    check_bounds(run)
    assert [residency.reason for residency in run.residencies] == [Reason.ROOM, Reason.EMPTY, Reason.EMPTY]
    assert sum(this != that for this, that in itertools.pairwise(calls)) == 59, "swaps in order of arrival"


def test_a_fourth_lane_is_served_within_its_bound_while_the_first_never_runs_empty():
    made = world([lane(name) for name in "abcd"], [job("d", 3.0, 600.0)])
    made.feed("a", 3.0, HIGH, until=3600, depth=5)
    for name in "bc":
        made.feed(name, 3.0, HIGH, until=1800, depth=2)
    run = made.run()
    check_bounds(run)
    late = next(job for job in run.jobs if job.lane == "d")
    residency = 8 + STAY + 3
    # The rest of the residency that has the place, one residency of each of the two others, and the load of its own.
    assert late.due < late.started <= late.due + 3 * residency + 8


def test_a_lane_that_comes_to_an_endless_stream_of_one_lane_waits_for_one_run():
    made = world([lane("a"), lane("d")], [job("d", 3.0, 600.0)])
    made.feed("a", 3.0, HIGH, until=3600, depth=5)
    late = next(job for job in made.run().jobs if job.lane == "d")
    # The stream has long stayed its time: what it runs when the turn comes is all that is waited for.
    assert late.due <= late.started <= late.due + 3 + 8


def test_a_person_beside_a_nightly_batch_waits_for_a_quantum_and_not_for_the_batch():
    batch = [job("batch", 6.0, 0.0, LOW) for _ in range(500)]
    run = world([lane("batch"), lane("chat")], [*batch, job("chat", 2.0, 1000.0), job("chat", 2.0, 1040.0)]).run()
    first, second = waits(run, "chat")
    assert first <= 6 + 8
    assert second <= 32 + 6 + 8
    assert [load.reason for load in run.residencies if load.lane == "chat"] == [Reason.CLASS, Reason.DUE]


def test_two_lanes_that_never_run_empty_pay_no_more_than_six_percent_in_swaps():
    made = world([lane("a"), lane("b")])
    for name in "ab":
        made.feed(name, 2.0, HIGH, until=8000, depth=2)
    run = made.run()
    check_bounds(run)
    loading = sum(residency.load_seconds for residency in run.residencies)
    assert loading / run.now == pytest.approx(0.2 / (4 - 3 * 0.2), rel=0.05)


# ------------------------------------------------------------------------------------------------ the small cases


def two_agents_and_a_low_job():
    """Two agents on two lanes, whose calls come just as the other's lane has run empty; one job of the lowest class."""
    agents = [agent([(4.0, name, 2.0)] * 200) for name in "ab"]
    made = world(
        [lane("a"), lane("b"), lane("c")],
        [job("c", 2.0, 20.0, LOW)],
        agents,
        max_wait={HIGH: 60.0, NORMAL: 60.0, LOW: 300.0},
        policy=Policy(linger_round_trips=0.0),
        chooser=Drainer,
    )
    return made.run(), lambda run: past_due(run, "c")


def two_backlogs_and_a_newcomer():
    """Five hundred jobs in each of two lanes, and one in a third that comes ten seconds later: its time past due."""
    jobs = [*(job(name, 4.0) for name in "ab" * 500), job("new", 4.0, 10.0)]
    made = world([lane("a"), lane("b"), lane("new")], jobs, max_wait=SHORT, chooser=Drainer)
    return made.run(), lambda run: past_due(run, "new")


def mean_wait(loads, busy, seed, quanta=4):
    made = world(*poisson(loads, busy, seed), policy=Policy(stay_quanta=quanta), max_wait=SHORT, chooser=Drainer)
    return made.run(), lambda run: statistics.mean(waits(run))


def a_fast_and_a_slow_load():
    """Loads of 2 and 60 s, busy for half of the time, stays of one quantum."""
    return mean_wait((2.0, 60.0), 0.5, seed=2, quanta=1)


def a_fast_and_a_slow_load_and_much_to_do():
    """Loads of 3 and 20 s, busy for 0.8 of the time, stays of one quantum."""
    return mean_wait((3.0, 20.0), 0.8, seed=3, quanta=1)


def busy_lanes():
    """Two lanes, loads of 8 s, busy for 0.9 of the time."""
    return mean_wait((8.0, 8.0), 0.9, seed=1)


def two_sequential_agents():
    """Two agents on two lanes, a second of thought between calls: the swaps."""
    chance = random.Random(5)
    agents = [
        agent([(chance.uniform(0.5, 1.5), name, chance.uniform(1, 5)) for _ in range(60)], at)
        for name, at in (("a", 0.0), ("b", 0.5))
    ]
    made = world([lane("a"), lane("b")], (), agents, max_wait=SHORT, chooser=Drainer)
    return made.run(), lambda run: len(run.residencies)


def slow_loads_and_strangers():
    """Two lanes that take a minute to load, and calls that know nothing of one another."""
    return mean_wait((60.0, 60.0), 0.4, seed=3)


def a_fast_load_a_slow_one_and_strangers():
    """The same with loads of 2 and 60 s."""
    return mean_wait((2.0, 60.0), 0.4, seed=2)


def hopeless_deadlines():
    """Jobs that are thought to take half an hour and may take a minute, a few more than the target can do, and one call."""
    jobs = [job("a", 3.2, float(moment), HIGH, 60.0) for moment in range(0, 3000, 3)]
    made = world([lane("a")], [*jobs, job("a", 3.2, 100.0)], max_wait=SHORT, chooser=Drainer)
    made.known["a"] = 1800.0
    call = next(each for each in made.run().jobs if each.deadline is None)
    return made, lambda _: call.started - call.due


# ------------------------------------------------------------------------------------------------ the simpler rules


def highest_class_first(patch):
    by_class = lambda board, _: (view for _, view in board.index.by_class())  # noqa: E731 - a rule in one line
    patch.setattr(scheduler._Board, "_all_in_order", by_class)


def overdue_by_due(patch):
    for module in (scheduler, index):
        patch.setattr(module, "turn", lambda head_due, *_: head_due)


def own_load_quantum(patch):
    for module in (scheduler, fairness):
        patch.setattr(module, "quantum", lambda own, _, policy: policy.work_per_load * own)


def one_quantum(patch):
    whole = fairness.stay
    patch.setattr(scheduler, "stay", lambda own, other, policy, outranked: whole(own, other, policy, outranked=True))


def linger_no_longer_than_anothers_due(patch):
    whole = scheduler._Board.lingers_until
    patch.setattr(
        scheduler._Board,
        "lingers_until",
        lambda board, resident, challenger: min(board.first_turn, whole(board, resident, challenger)),
    )


def linger_a_share_of_the_load(patch):
    def lingers_until(board, resident, challenger):
        span = fairness.quantum(resident.load_seconds, challenger.load_seconds, board.policy)
        share = -math.inf if resident.idle_since is None else resident.idle_since + 0.5 * resident.load_seconds
        return min(share, max(resident.loaded_at + span, board.first_turn))

    patch.setattr(scheduler._Board, "lingers_until", lingers_until)


def due_before_it_came(patch):
    patch.setattr(
        engine, "due", lambda at, wait, deadline, run: at + wait if deadline is None else min(at + wait, deadline - run)
    )


TABLE = [
    (highest_class_first, two_agents_and_a_low_job, 20, 1000),
    (overdue_by_due, two_backlogs_and_a_newcomer, 2 * (8 + STAY + 4) + 8, 3000),
    (own_load_quantum, a_fast_and_a_slow_load, 60, 80),
    (own_load_quantum, a_fast_and_a_slow_load_and_much_to_do, 80, 400),
    (one_quantum, busy_lanes, 130, 400),
    (linger_no_longer_than_anothers_due, two_sequential_agents, 20, 40),
    (linger_a_share_of_the_load, slow_loads_and_strangers, 90, 100),
    (linger_a_share_of_the_load, a_fast_load_a_slow_one_and_strangers, 48, 55),
    (due_before_it_came, hopeless_deadlines, 30, 1000),
]
BREAKS_A_BOUND = {highest_class_first, overdue_by_due, own_load_quantum, due_before_it_came}


@pytest.mark.parametrize(
    ("simpler", "case", "at_most", "at_least"), TABLE, ids=lambda each: getattr(each, "__name__", "")
)
def test_a_simpler_rule_does_badly_where_the_true_one_does_well(monkeypatch, simpler, case, at_most, at_least):
    run, measure = case()
    assert measure(run) <= at_most
    simpler(monkeypatch)
    run, measure = case()
    assert measure(run) >= at_least
    with pytest.raises(AssertionError) if simpler in BREAKS_A_BOUND else contextlib.nullcontext():
        check_bounds(run)
