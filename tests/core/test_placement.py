"""Rule 8: which of several targets may load a lane, and that one of them does."""

from foreman.core.decisions import Hold, Reason, Swap, Wait
from foreman.core.fairness import Policy
from foreman.core.jobs import Priority
from foreman.core.placement import homes_suffice, sooner
from foreman.core.scheduler import choose
from foreman.core.views import LaneView, Offer, Resident, TargetView

POLICY = Policy()
HIGH = Priority.HIGH


def lane(name="a", depth=1, load=8.0, service=5.0, homes=(), due=100.0, **facts):
    return LaneView(
        name, name, due, HIGH, (0, 0, depth), load_seconds=load, service_seconds=service, homes=homes, **facts
    )


def may(view, *idle, target="t", now=0.0):
    return not homes_suffice(view, now, POLICY) and not sooner(view, target, 1, idle, now)


def test_a_lane_without_a_home_may_be_loaded_by_anybody():
    assert may(lane())


def test_a_second_home_comes_when_the_first_needs_more_than_three_loads_and_runs():
    home = (Offer("home", 5.0),)
    assert not may(lane(depth=7, homes=home)), "35 s are less than 3 × 13"
    assert not may(lane(depth=7, service=5.0, load=20 / 3, homes=home)), "and 35 s no more than 35"
    assert may(lane(depth=8, homes=home))


def test_a_target_with_many_slots_is_sooner_done():
    idle = [Offer("other", 2.0, load_seconds=8.0)]
    assert sooner(lane(depth=10), "t", 1, idle, 0.0) == ["other"], "10 × 5 s there, 10 × 2 s here"
    assert sooner(lane(depth=10), "a", 4, idle, 0.0) == [], (
        "four slots count for 2.5: as soon as there, and a name before it"
    )


def test_a_load_under_way_counts_as_far_as_it_has_to_go():
    home = (Offer("home", 5.0, ready_at=20.0),)
    assert may(lane(depth=4, homes=home), now=0.0)
    assert not may(lane(depth=4, homes=home), now=15.0)


def test_the_soonest_of_several_homes_counts():
    assert not may(lane(depth=8, homes=(Offer("slow", 50.0), Offer("fast", 1.0))))


def test_an_idle_target_that_is_sooner_done_has_it():
    assert not may(lane(depth=2), Offer("idle", 2.0, load_seconds=8.0))
    assert may(lane(depth=2), Offer("idle", 9.0, load_seconds=8.0))


def test_of_equal_idle_targets_the_first_by_name_has_it():
    assert may(lane(), Offer("u", 5.0, load_seconds=8.0))
    assert not may(lane(), Offer("s", 5.0, load_seconds=8.0))
    assert sooner(lane(), "t", 1, [Offer("t", 1.0)], 0.0) == [], "it is no rival of its own"


def test_each_idle_target_takes_one_lane_and_the_next_lane_is_ours():
    lanes = [lane("first", due=1.0), lane("second", due=2.0)]
    faster = [Offer("s", 5.0, load_seconds=1.0)]
    decision = choose(lanes, TargetView("t", 1, 1), 0.0, POLICY, lambda _: faster)
    assert decision == Swap("second", None, Reason.ROOM, cut=False)
    decision = choose(lanes[:1], TargetView("t", 1, 1), 0.0, POLICY, lambda _: faster)
    assert decision == Wait(None, Hold.HOME)


def test_a_lane_at_home_elsewhere_neither_challenges_nor_outranks():
    busy = LaneView("low", "low", 50.0, Priority.LOW, (3, 0, 0))
    target = TargetView("t", 1, 1, (Resident("low", "low", 0.0, 1),))
    away = lane(due=500.0, homes=(Offer("home", 1.0),))
    assert choose([busy, away], target, 40.0, POLICY) == Wait(None, Hold.SLOTS)
    assert choose([busy, lane(due=500.0)], target, 40.0, POLICY).lane == "a"


def test_a_measured_pace_counts_instead_of_a_run():
    assert lane(service=4.0).pace(slots=1) == 4.0
    assert lane(service=4.0).pace(slots=3) == 2.0
    assert lane(service=4.0, pace_seconds=1.5).pace(slots=3) == 1.5
