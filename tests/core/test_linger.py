"""Rule 6: how long an empty resident is kept for its next call, and what ends that."""

import math

import pytest

from foreman.core.decisions import Drain, Linger, Reason, Swap
from foreman.core.fairness import Policy
from foreman.core.jobs import Priority
from foreman.core.linger import linger
from foreman.core.scheduler import choose
from foreman.core.views import LaneView, Offer, Resident, TargetView

POLICY = Policy()
HIGH = Priority.HIGH


@pytest.mark.parametrize(
    ("gaps", "gain", "waiting", "seconds"),
    [
        ((), 16.0, 1, 0.0),
        ((1.0, 1.0, 1.0), 16.0, 1, 1.25),
        ((1.0, 2.0, 3.0), 16.0, 1, 3.65),  # each second more is worth it
        ((1.0, 2.0, 30.0), 16.0, 1, 2.45),  # the last is not
        ((1.0, 2.0, math.inf), 16.0, 1, 2.45),
        ((20.0, 30.0), 16.0, 1, 0.0),  # loading costs less than waiting
        ((1.0, 1.0), 16.0, 20, 0.0),  # too many wait
        ((1.0, 1.0), 0.0, 1, 0.0),
        ((1.0, 1.0), -5.0, 0, 0.0),
        ((math.inf,), 16.0, 1, 0.0),
        ((0.0, 0.0), 16.0, 1, 0.05),
    ],
)
def test_the_wait_is_as_long_as_it_pays(gaps, gain, waiting, seconds):
    assert linger(gaps, gain, waiting) == pytest.approx(seconds)


def test_no_other_wait_is_worth_more_than_the_one_that_is_chosen():
    gaps, gain, waiting = (0.4, 0.9, 1.1, 2.5, 6.0, 14.0, 40.0), 16.0, 2

    def worth(w):
        hit = sum(gap <= w for gap in gaps) / len(gaps)
        return hit * gain - waiting * sum(min(gap, w) for gap in gaps) / len(gaps)

    chosen = (linger(gaps, gain, waiting) - 0.05) / 1.2
    assert worth(chosen) == pytest.approx(max(worth(w / 100) for w in range(4500)))


def waiting(due=5000.0, depth=1, name="b", load=8.0):
    return LaneView(name, name, due, HIGH, (0, 0, depth), load_seconds=load, service_seconds=3.0)


def idle(idle_since=100.0, loaded_at=90.0, spent=0.0, gaps=(1.0, 1.0, 1.0), name="a"):
    return Resident(
        name, name, loaded_at, 0, 8.0, idle_since=idle_since, linger_spent=spent, service_seconds=3.0, gaps=gaps
    )


def decide(now, resident, *lanes):
    return choose(lanes or [waiting()], TargetView("t", 1, 1, (resident,)), now, POLICY)


def test_an_empty_resident_is_kept_for_its_next_call_and_goes_when_that_did_not_come():
    assert decide(100.0, idle()) == Linger("a", 101.25)
    assert decide(101.2, idle()) == Linger("a", 101.25)
    assert decide(101.25, idle()) == Swap("b", "a", Reason.EMPTY, cut=False)


def test_a_lane_of_which_nothing_is_known_to_come_is_not_kept():
    assert isinstance(decide(100.0, idle(gaps=())), Swap)
    assert isinstance(decide(100.0, idle(gaps=(math.inf,))), Swap)
    assert isinstance(decide(100.0, idle(idle_since=None)), Swap)


def test_a_call_that_comes_is_served_at_once():
    both = [waiting(), LaneView("a", "a", 5000.0, HIGH, (0, 0, 1))]
    assert decide(100.5, idle(), *both) == Drain("a")


def test_one_residency_lingers_for_a_round_trip_of_loads_at_most():
    assert decide(100.0, idle(spent=15.0)) == Linger("a", 101.0)
    assert isinstance(decide(100.0, idle(spent=16.0)), Swap)
    off = Policy(linger_round_trips=0.0)
    assert isinstance(choose([waiting()], TargetView("t", 1, 1, (idle(),)), 100.0, off), Swap)


def test_inside_its_quantum_it_lingers_though_another_is_overdue_and_later_no_longer_than_anothers_turn():
    overdue = waiting(due=50.0)
    assert decide(100.0, idle(loaded_at=90.0), overdue) == Linger("a", 101.25)
    assert decide(100.0, idle(loaded_at=68.5), overdue) == Linger("a", 100.5), "the quantum ends"
    assert isinstance(decide(100.0, idle(loaded_at=60.0), overdue), Swap)
    assert decide(100.0, idle(loaded_at=60.0), waiting(due=100.75)) == Linger("a", 100.75)


def test_a_crowd_that_waits_ends_it():
    assert isinstance(decide(100.0, idle(), waiting(depth=12)), Linger), "12 s of waiting save 16 s of loads"
    assert isinstance(decide(100.0, idle(), waiting(depth=20)), Swap)
    others = [waiting(name=f"c{n}", depth=4) for n in range(10)]
    assert isinstance(decide(100.0, idle(), *others), Swap)


def beside(resident, *lanes, other=("c", 200.0, 2), homes=()):
    """With a second resident, that runs and has these jobs left: name, due, depth."""
    name, due, depth = other
    there = Resident(name, name, 90.0, 1)
    queue = LaneView(name, name, due, HIGH, (0, 0, depth), service_seconds=3.0, homes=homes)
    return choose([*lanes, queue], TargetView("t", 1, 2, (resident, there)), 100.0, POLICY)


def test_what_another_resident_has_left_neither_waits_for_a_place_nor_has_a_turn():
    assert beside(idle(), waiting(), other=("c", 200.0, 60)) == Linger("a", 101.25), "no crowd: it has its place"
    home = (Offer("elsewhere", 0.01),)
    crowd = waiting(depth=20)
    assert isinstance(beside(idle(), crowd, other=("c", 200.0, 60), homes=home), Swap), (
        "its jobs are not taken off twice"
    )
    late = idle(loaded_at=60.0)
    assert beside(late, waiting(due=100.75), other=("c", 1.0, 2)) == Linger("a", 100.75)


def test_of_two_that_linger_the_first_to_go_is_told():
    both = idle(name="z"), idle(name="a", idle_since=99.5)
    assert choose([waiting()], TargetView("t", 1, 2, both), 100.0, POLICY) == Linger("a", 100.75)


def test_of_two_empty_residents_the_one_that_does_not_linger_goes():
    kept, gone = idle(), idle(name="z", gaps=(200.0, 300.0, 250.0))
    decision = choose([waiting()], TargetView("t", 1, 2, (kept, gone)), 100.0, POLICY)
    assert decision == Swap("b", "z", Reason.EMPTY, cut=False)


def test_while_one_lingers_the_other_drains():
    lanes = [waiting(), LaneView("c", "c", 5000.0, HIGH, (0, 0, 2))]
    view = TargetView("t", 1, 2, (idle(), Resident("c", "c", 90.0, 0)))
    assert choose(lanes, view, 100.0, POLICY) == Drain("c")
