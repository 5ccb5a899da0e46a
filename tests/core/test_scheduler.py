"""choose(), rule by rule: one board in, one decision out. A load of 8 s makes a quantum of 32 s and a stay of 128 s."""

import math
from dataclasses import replace

import pytest

from foreman.core.jobs import Priority
from foreman.core.scheduler import (
    Drain,
    Hold,
    LaneView,
    Policy,
    Reason,
    Resident,
    Swap,
    TargetView,
    Wait,
    choose,
    due,
    quantum,
    stay,
    turn,
)

LOW, NORMAL, HIGH = Priority
POLICY = Policy()
NEVER = 10_000.0
"""A due that is far ahead."""


def lane(name, head_due=NEVER, head_class=HIGH, *, behind=(), model=None, left_at=None, load=8.0):
    counts = [0, 0, 0]
    for priority in (head_class, *behind):
        counts[priority] += 1
    return LaneView(name, model or name, head_due, head_class, tuple(counts), left_at, load)


def held(name, loaded_at=0.0, *, running=0, model=None, load=8.0, **facts):
    return Resident(name, model or name, loaded_at, running, load, **facts)


def target(*residents, slots=1, places=1, **facts):
    return TargetView("t", slots, places, residents, **facts)


def decide(lanes, on, now=0.0):
    decision = choose(lanes, on, now, POLICY)
    mirrored = replace(on, residents=on.residents[::-1])
    assert choose(lanes[::-1], mirrored, now, POLICY) == decision, "the order of the facts decides"
    return decision


# ------------------------------------------------------------------------------------------------ the moments


@pytest.mark.parametrize(
    ("deadline", "service", "moment"),
    [
        (None, 5.0, 220.0),
        (200.0, 5.0, 195.0),  # the deadline asks for it earlier
        (1000.0, 5.0, 220.0),  # its class does
        (103.0, 5.0, 100.0),  # hopeless: no better than just arrived
    ],
)
def test_a_job_is_due_by_its_class_or_its_deadline_but_never_before_it_came(deadline, service, moment):
    assert due(100.0, 120.0, deadline, service) == moment


@pytest.mark.parametrize(("left_at", "moment"), [(None, 100.0), (10.0, 100.0), (90.0, 122.0)])
def test_a_cut_lane_has_its_turn_when_its_load_is_paid_for(left_at, moment):
    assert turn(100.0, left_at, 8.0, POLICY) == moment


def test_a_quantum_is_paid_by_the_mean_of_both_loads():
    assert quantum(8.0, 8.0, POLICY) == 32.0
    assert quantum(2.0, 60.0, POLICY) == quantum(60.0, 2.0, POLICY) == 124.0
    assert quantum(8.0, 8.0, Policy(swap_budget=0.1)) == pytest.approx(72.0)


@pytest.mark.parametrize(
    ("load", "outranked", "seconds"),
    [
        (8.0, False, 128.0),
        (8.0, True, 32.0),
        (30.0, False, 300.0),  # capped
        (90.0, False, 360.0),  # but never below one quantum
    ],
)
def test_a_stay_is_four_quanta_among_equals_and_one_for_a_higher_class(load, outranked, seconds):
    assert stay(load, load, POLICY, outranked=outranked) == seconds


def test_loads_that_take_no_time_leave_time_for_a_job_between_two_swaps():
    assert quantum(0.0, 0.0, POLICY) == pytest.approx(4 * 0.2)
    assert quantum(0.0, 8.0, POLICY) == quantum(8.0, 0.0, POLICY) == pytest.approx(4 * 4.1)


@pytest.mark.parametrize("budget", [0.0, 1.0, -0.1, 1.5, math.nan])
def test_a_budget_that_is_no_share_is_refused(budget):
    with pytest.raises(ValueError, match="strictly between 0 and 1"):
        Policy(swap_budget=budget)


# ------------------------------------------------------------------------------------------------ rules 1 and 2


def next_lane(*lanes, now=0.0):
    """Whom an empty target loads."""
    decision = decide(list(lanes), target(), now)
    assert decision == Swap(decision.lane, None, Reason.ROOM, cut=False)
    return decision.lane


def test_of_the_overdue_the_earliest_turn_is_next_whatever_its_class():
    assert next_lane(lane("a", 50, HIGH), lane("b", 40, LOW), lane("c", 101, HIGH), now=100) == "b"


def test_a_lane_is_overdue_from_its_turn_on():
    assert next_lane(lane("a", 150, HIGH), lane("b", 100, LOW), now=100) == "b"
    assert next_lane(lane("a", 150, HIGH), lane("b", 100, LOW), now=99.9) == "a"


def test_with_none_overdue_the_highest_class_is_next_then_the_earliest_turn_then_the_name():
    assert next_lane(lane("a", 50, NORMAL), lane("b", 90, HIGH), lane("c", 80, HIGH)) == "c"
    assert next_lane(lane("b", 50), lane("a", 50), lane("c", 50)) == "a"


def test_after_a_cut_the_turn_decides_and_not_the_due():
    assert next_lane(lane("old", 5, left_at=90), lane("new", 60), now=125) == "new"


# ------------------------------------------------------------------------------------------------ rules 3 to 5


def test_nothing_queued_is_nothing_to_do():
    assert decide([], target(held("a"))) == Wait(None, Hold.IDLE)


def test_a_resident_drains_slot_by_slot():
    lanes = [lane("a", behind=[HIGH] * 3)]
    assert decide(lanes, target(held("a", running=1), slots=2)) == Drain("a")
    assert decide(lanes, target(held("a", running=2), slots=2)) == Wait(None, Hold.SLOTS)


def test_an_empty_resident_gives_its_place_at_once():
    assert decide([lane("b")], target(held("a", loaded_at=99)), 100) == Swap("b", "a", Reason.EMPTY, cut=False)


def test_a_resident_that_still_runs_jobs_is_not_empty():
    assert decide([lane("b")], target(held("a", running=1)), 100) == Wait(NEVER, Hold.TURN)


def test_a_resident_drains_to_the_end_of_its_stay_though_another_is_overdue():
    lanes = [lane("a", 10, behind=[HIGH]), lane("b", 20)]
    assert decide(lanes, target(held("a")), 127.9) == Drain("a")
    assert decide(lanes, target(held("a", running=1)), 127.9) == Wait(128, Hold.STAY)
    assert decide(lanes, target(held("a")), 128) == Swap("b", "a", Reason.DUE, cut=True)


def test_a_resident_drains_past_its_stay_while_nobody_is_overdue():
    lanes = [lane("a", 10), lane("b", 500)]
    assert decide(lanes, target(held("a")), 400) == Drain("a")
    assert decide(lanes, target(held("a", running=1)), 400) == Wait(500, Hold.TURN)


def test_the_stay_is_short_when_any_waiting_lane_outranks_all_that_is_left():
    batches = [lane("a", 10, LOW), lane("b", 20, LOW)]
    assert decide(batches, target(held("a")), 40) == Drain("a")
    person = lane("p", 500, HIGH)
    assert decide([*batches, person], target(held("a")), 40) == Swap("b", "a", Reason.DUE, cut=True)


def test_a_higher_class_waits_for_one_quantum():
    lanes = [lane("a", 10, LOW, behind=[NORMAL]), lane("b", 500, HIGH)]
    assert decide(lanes, target(held("a")), 31) == Drain("a")
    assert decide(lanes, target(held("a", running=1)), 31) == Wait(32, Hold.QUANTUM)
    assert decide(lanes, target(held("a")), 32) == Swap("b", "a", Reason.CLASS, cut=True)


def test_an_equal_among_all_that_is_left_keeps_the_place_though_the_head_is_lower():
    lanes = [lane("a", 10, LOW, behind=[HIGH]), lane("b", 500, HIGH)]
    assert decide(lanes, target(held("a")), 100) == Drain("a")


def test_a_resident_that_only_runs_its_last_jobs_is_outranked_by_nobody():
    lanes = [lane("b", 500, HIGH)]
    assert decide(lanes, target(held("a", running=1), slots=4), 100) == Wait(500, Hold.TURN)
    assert decide([lane("b", 50, HIGH)], target(held("a", running=1), slots=4), 100) == Wait(128, Hold.STAY)


def test_a_chosen_victim_claims_nothing_more_and_the_load_waits_for_its_last_job():
    lanes = [lane("a", 10, behind=[HIGH] * 9), lane("b", 20)]
    pending = Swap("b", "a", Reason.DUE, cut=True)
    assert decide(lanes, target(held("a", running=2), slots=4), 130) == pending
    assert decide(lanes, target(held("a", running=2), slots=4, victim="a"), 130) == pending


def test_one_load_at_a_time_but_residents_drain_on():
    lanes = [lane("a", 10), lane("b", 20), lane("c", 30)]
    loading = target(held("a"), places=3, loading="b")
    assert decide(lanes, loading, 500) == Drain("a")
    assert decide(lanes, replace(loading, residents=(held("a", running=1),)), 500) == Wait(None, Hold.LOADING)


def test_a_victim_that_is_being_unloaded_gets_no_call():
    going = target(held("a"), held("c"), places=2, loading="b", victim="a")
    assert decide([lane("a", 10), lane("b", 20)], going, 500) == Wait(None, Hold.LOADING, victim="a")
    assert decide([lane("a", 10), lane("c", 20)], going, 500) == Drain("c", victim="a")


def test_with_several_residents_the_slot_goes_to_the_earliest_due():
    lanes = [lane("a", 30), lane("b", 20)]
    assert decide(lanes, target(held("a"), held("b"), places=2)) == Drain("b")
    assert decide(lanes, target(held("a"), held("b", running=1), places=2)) == Drain("a")


def test_shared_slots_are_for_all_residents_together():
    lanes = [lane("a", 30), lane("b", 20)]
    on = target(held("a", running=1), held("b", running=1), slots=3, places=9, shared_slots=True)
    assert decide(lanes, on) == Drain("b")
    assert decide(lanes, replace(on, slots=2)) == Wait(None, Hold.SLOTS)


def test_a_load_that_can_start_is_sent_before_the_others_drain():
    lanes = [lane("a", 10), lane("b", 20)]
    assert decide(lanes, target(held("a"), places=2)) == Swap("b", None, Reason.ROOM, cut=False)


def test_an_empty_residents_place_is_taken_before_the_others_drain():
    on = target(held("a"), held("c", running=1), slots=2, places=2)
    assert decide([lane("b", 20), lane("c", 10)], on, 15) == Swap("b", "a", Reason.EMPTY, cut=False)


def test_only_who_waits_for_a_place_outranks_a_resident():
    lanes = [lane("a", 5, LOW), lane("c", 6, HIGH), lane("b", 20, LOW)]
    on = target(held("a", running=1), held("c", running=1), places=2)
    assert decide(lanes, on, 100) == Wait(128, Hold.STAY), "c has its place: among equals a stay is four quanta"


# ------------------------------------------------------------------------------------------------ rule 7


def gone(lanes, *residents, victim=None, now=1000.0, slots=4):
    """Whose place `new` takes, which is overdue."""
    on = target(*residents, places=len(residents), slots=slots, victim=victim)
    decision = decide([*lanes, lane("new", 900, LOW)], on, now)
    return decision.victim


def test_the_empty_resident_with_the_fewest_calls_goes_first():
    busy, seldom, often = held("a", running=1), held("b", arrival_rate=0.1), held("c", arrival_rate=0.5)
    assert gone([], busy, often, seldom) == "b"


def test_with_equal_rates_the_longest_idle_goes_first():
    assert gone([], held("a", idle_since=500.0), held("b", idle_since=400.0)) == "b"
    assert gone([], held("a", loaded_at=500.0), held("b", loaded_at=400.0)) == "b"


def test_with_none_empty_the_lowest_class_left_goes_first_then_the_latest_due():
    residents = held("a", running=1), held("b", running=1), held("c", running=1)
    assert gone([lane("a", 5, HIGH), lane("b", 5, NORMAL), lane("c", 5, LOW, behind=[HIGH])], *residents) == "b"
    assert gone([lane("a", 5), lane("b", 9), lane("c", 7)], *residents) == "b"
    assert gone([lane("a", 5), lane("c", 7)], *residents) == "b"  # it has nothing left at all


def test_a_resident_whose_stay_is_not_over_keeps_its_place():
    lanes = [lane("a", 5, LOW), lane("b", 5, HIGH)]
    assert gone(lanes, held("a", loaded_at=990, running=1), held("b", running=1)) == "b"


def test_a_lane_takes_the_place_of_its_own_model_and_no_other():
    short, long = lane("m@4k", 10, model="m"), lane("m@8k", 20, model="m")
    on = target(held("m@4k", running=1, model="m"), held("idle"), places=3)
    assert decide([short, long], on, 100) == Wait(128, Hold.STAY)
    assert decide([short, long], on, 128) == Swap("m@8k", "m@4k", Reason.DUE, cut=True)


def variants(at):
    """Two lanes of one model, the first resident and of lower class; the second one's turn comes at `at`."""
    return [lane("m@4k", 10, LOW, model="m"), lane("m@8k", at, HIGH, model="m", load=60)]


def test_while_a_lane_waits_for_its_own_model_the_next_one_takes_a_free_place():
    lanes = [*variants(500), lane("m@2k", 510, HIGH, model="m"), lane("n", 600, LOW)]
    on = target(held("m@4k", running=1, model="m"), places=2)
    assert decide(lanes, on, 100) == Swap("n", None, Reason.ROOM, cut=False)
    assert decide(lanes, on, 136) == Swap("m@8k", "m@4k", Reason.CLASS, cut=True, until=500)


def test_nobody_passes_an_overdue_lane_that_waits_for_its_own_model():
    on = target(held("m@4k", running=1, model="m"), places=2)
    assert decide([*variants(50), lane("n", 60)], on, 100) == Wait(136, Hold.STAY)


def test_nobody_takes_the_place_that_an_earlier_lane_waits_for():
    """The quick lane's quantum is shorter: alone it would have the place by now."""
    on = target(held("m@4k", running=1, model="m"), held("n", running=1), places=2)
    assert decide([*variants(500), lane("quick", 600, HIGH, load=2)], on, 100) == Wait(136, Hold.QUANTUM)


def test_each_of_two_challengers_has_its_timer():
    lanes = [*variants(500), lane("n", 400, LOW), lane("quick", 600, HIGH)]
    on = target(held("m@4k", running=1, model="m"), held("n", 90, running=1), places=2)
    assert decide(lanes, on, 110) == Wait(122, Hold.QUANTUM)


def test_a_chosen_victim_stays_chosen_though_another_would_be_chosen_now():
    lanes = [lane("a", 5, HIGH), lane("b", 5, LOW)]
    residents = held("a", running=1), held("b", running=1)
    assert gone(lanes, *residents) == "b"
    assert gone(lanes, *residents, victim="a") == "a"


def test_the_others_drain_while_the_victim_runs_its_last_jobs():
    lanes = [lane("a", 5), lane("b", 9), lane("new", 90)]
    on = target(held("a", running=1), held("b", running=1), places=2, slots=2)
    assert decide(lanes, on, 200) == Drain("a", victim="b")
    assert decide(lanes, replace(on, victim="b", residents=(held("a", running=2), held("b", running=1))), 200) == Swap(
        "new", "b", Reason.DUE, cut=True
    )


def test_an_arrival_of_its_own_does_not_give_a_chosen_victim_another_stay():
    outranked = [lane("a", 5, LOW), lane("b", 20, HIGH)]
    assert decide(outranked, target(held("a", running=1)), 40).victim == "a"
    arrived = [lane("a", 5, LOW, behind=[HIGH]), lane("b", 20, HIGH)]
    assert decide(arrived, target(held("a", running=1), slots=4, victim="a"), 40) == Swap(
        "b", "a", Reason.DUE, cut=True
    )
    assert decide(arrived, target(held("a", running=1), slots=4), 40) == Drain("a")


def test_a_chosen_victim_drains_on_when_the_challenger_is_gone():
    on = target(held("a", running=1), slots=4, victim="a")
    assert decide([lane("a", 5)], on, 200) == Drain("a")
    assert decide([], on, 200) == Wait(None, Hold.IDLE)


def test_a_chosen_victim_drains_on_when_the_next_challenger_has_no_claim_yet():
    on = target(held("a", running=1), slots=4, victim="a")
    assert decide([lane("a", 5), lane("c", 500)], on, 200) == Drain("a")  # its turn has not come
    assert decide([lane("a", 5), lane("c", 20, load=60)], on, 40) == Drain("a")  # its load asks for a longer quantum
    assert decide([lane("a", 5), lane("c", 20, load=60)], on, 136) == Swap("c", "a", Reason.DUE, cut=True)


def test_a_victim_that_is_not_chosen_any_more_has_its_whole_stay_again():
    lanes = [lane("a", 5), lane("c", 20, load=60)]
    assert decide(lanes, target(held("a", running=1), victim="a"), 40) == Wait(300, Hold.STAY)


# ------------------------------------------------------------------------------------------------ timers


@pytest.mark.parametrize(
    ("lanes", "now", "wait"),
    [
        ([lane("b", 50)], 0, Wait(50, Hold.TURN)),
        ([lane("b", 50, HIGH), lane("c", 30, LOW)], 0, Wait(30, Hold.TURN)),  # another lane's turn comes first
        ([lane("b", 50, left_at=40)], 0, Wait(72, Hold.TURN)),
        ([lane("a", 5, LOW), lane("b", 50, HIGH)], 0, Wait(32, Hold.QUANTUM)),
        ([lane("a", 5, LOW), lane("b", 20, HIGH)], 0, Wait(20, Hold.QUANTUM)),
        ([lane("a", 5, LOW), lane("b", 20, HIGH)], 20, Wait(32, Hold.STAY)),
        ([lane("a", 5), lane("b", 20), lane("c", 60)], 20, Wait(128, Hold.STAY)),  # c's turn is after b's
    ],
)
def test_a_wait_ends_at_the_first_moment_that_may_change_it(lanes, now, wait):
    assert decide(lanes, target(held("a", running=1)), now) == wait


def test_a_load_that_waits_for_its_victims_last_job_is_asked_again_at_the_next_turn():
    """Then another lane is next, and may take a place that this one could not use."""
    lanes = [lane("a", 5, LOW), lane("b", 500, HIGH), lane("c", 300, LOW)]
    running = target(held("a", running=1))
    assert decide(lanes, running, 40) == Swap("b", "a", Reason.CLASS, cut=True, until=300)
    assert decide(lanes, running, 300) == Swap("c", "a", Reason.DUE, cut=True, until=None)
    assert decide(lanes, target(held("a")), 40) == Swap("b", "a", Reason.CLASS, cut=True, until=None)


def test_a_load_that_passed_another_is_asked_again_when_that_one_may_go():
    """The first in order needs a longer quantum of its own model's resident than the second of another resident."""
    lanes = [*variants(500), lane("n", 400, LOW), lane("quick", 600, HIGH)]
    on = target(held("m@4k", running=1, model="m"), held("n", running=1), places=2)
    assert decide(lanes, on, 110) == Swap("quick", "n", Reason.CLASS, cut=True, until=136)
    assert decide(lanes, on, 136) == Swap("m@8k", "m@4k", Reason.CLASS, cut=True, until=500)


def test_with_several_residents_the_first_stay_to_end_is_the_timer():
    lanes = [lane("a", 5), lane("b", 5), lane("c", 20)]
    on = target(held("a", 10, running=1), held("b", 50, running=1), places=2)
    assert decide(lanes, on, 60) == Wait(138, Hold.STAY)
