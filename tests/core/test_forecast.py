"""The dry run: when a queued job starts, its place, and who is ahead of it and why. A load takes 8 s, a run 4 s."""

import dataclasses
import random

import pytest

from foreman.core.decisions import Drain, Swap
from foreman.core.fairness import Policy
from foreman.core.forecast import Ahead, Forecast, Prospect, Why, forecast
from foreman.core.index import LaneIndex
from foreman.core.jobs import Priority
from foreman.core.scheduler import choose
from foreman.core.upcoming import Upcoming
from foreman.core.views import LaneView, Resident, TargetView

POLICY = Policy()
LOW, NORMAL, HIGH = Priority


def lane(name, due=1000.0, depth=1, priority=HIGH, **facts):
    counts = [0, 0, 0]
    counts[priority] = depth
    return LaneView(name, name, due, priority, tuple(counts), load_seconds=8.0, service_seconds=4.0, **facts)


def held(name, loaded_at=0.0, running=1, **facts):
    return Resident(name, name, loaded_at, running, 8.0, service_seconds=4.0, **facts)


def prospect(lanes, *residents, slots=1, places=1, name="t", loading=None, ends=None):
    view = TargetView(name, slots, places, residents, loading)
    return Prospect(view, LaneIndex(POLICY, lanes), ends)


def ask(name, ahead, *prospects, now=0.0):
    return forecast(name, ahead, prospects, now, POLICY)


def test_a_job_of_an_idle_resident_starts_at_once():
    assert ask("a", 0, prospect([lane("a")], held("a", running=0))) == Forecast(0.0, 1, "t", 0, ())


def test_a_job_of_a_busy_resident_waits_for_the_rest_of_a_run_and_for_those_before_it():
    on = prospect([lane("a", depth=4)], held("a"))
    assert ask("a", 0, on).eta_seconds == pytest.approx(0.6 * 4)
    assert ask("a", 3, on) == Forecast(pytest.approx(0.6 * 4 + 12), 4, "t", 0, (Ahead("a", "t", Why.LANE, 3),))


def test_free_slots_are_taken_by_those_before_it():
    on = prospect([lane("a", depth=9, pace_seconds=1.0)], held("a", running=1), slots=4)
    assert ask("a", 2, on).eta_seconds == 0.0
    assert ask("a", 3, on).eta_seconds == pytest.approx(1.0)


def test_what_has_begun_meanwhile_takes_free_slots_too():
    on = prospect([lane("a", depth=9, pace_seconds=1.0)], held("a", running=1), slots=4)
    assert forecast("a", 0, [on], 0.0, POLICY, begun=2).eta_seconds == 0.0
    assert forecast("a", 0, [on], 0.0, POLICY, begun=3).eta_seconds > 0.0


def test_the_first_job_of_a_free_target_waits_for_its_load():
    assert ask("a", 0, prospect([lane("a")])) == Forecast(8.0, 1, "t", 1, ())


def test_a_load_under_way_is_waited_for():
    on = prospect([lane("a", depth=3)], loading="a", ends=5.0)
    assert ask("a", 0, on, now=2.0).eta_seconds == pytest.approx(3 + 4), "the job that it was begun for comes first"


def test_a_lane_that_drains_is_ahead_with_all_it_has():
    on = prospect([lane("a", depth=5), lane("b")], held("a"))
    found = ask("b", 0, on)
    assert found.eta_seconds == pytest.approx(0.6 * 4 + 5 * 4 + 8)
    assert found.position == 6
    assert found.ahead == (Ahead("a", "t", Why.RESIDENT, 5),)
    assert found.loads == 1


def test_a_backlog_is_ahead_until_its_stay_is_over():
    on = prospect([lane("a", depth=500), lane("b", due=15.0)], held("a"))
    found = ask("b", 0, on)
    assert found.eta_seconds == pytest.approx(128 + 4 / 2 + 8)
    assert found.position == pytest.approx(1 + 31, abs=1)


def test_a_higher_class_is_ahead_for_a_quantum_only():
    on = prospect([lane("batch", depth=500, priority=LOW), lane("chat", due=900.0)], held("batch"))
    assert ask("chat", 0, on).eta_seconds == pytest.approx(32 + 4 / 2 + 8)


def test_who_is_cut_comes_back_by_its_turn():
    on = prospect([lane("a", depth=60), lane("b", due=15.0, depth=500)], held("a"))
    found = ask("a", 50, on)
    # 32 of them run before a is cut at 128 s, then b's stay, then the other 18.
    assert found.eta_seconds == pytest.approx(128 + 2 + 8 + 128 + 2 + 8 + (50 - 31.4) * 4, abs=5)
    assert [who.why for who in found.ahead] == [Why.TURN, Why.LANE]


def test_a_lingering_resident_is_ahead():
    idle = held("a", running=0, idle_since=0.0, gaps=(1.0, 1.0, 1.0))
    found = ask("b", 0, prospect([lane("b", due=5.0)], idle))
    assert found.eta_seconds == pytest.approx(32 + 2 + 8), "its agent calls again and again, until the quantum is over"
    assert found.ahead == (Ahead("a", "t", Why.LINGER, 0),)


def test_a_resident_past_its_stay_takes_nothing_more_though_it_has_a_free_slot():
    on = prospect([lane("a", depth=3), lane("b", due=15.0)], held("a"), slots=4)
    assert ask("a", 0, on, now=100.0).eta_seconds == 0.0
    # From 128 s on it is b's turn: a comes back after b's run and two loads.
    assert ask("a", 0, on, now=130.0).eta_seconds > 8 + 8


def now_drained(name, on, now):
    """How many jobs of a lane the scheduler itself has claimed before anything must happen or any time pass."""
    lanes = {view.lane: view for view in on.lanes}
    target, claimed = on.view, 0
    while True:
        step = choose(list(lanes.values()), target, now, POLICY)
        if isinstance(step, Drain):
            view = lanes.pop(step.lane)
            counts = [0, 0, 0]
            counts[view.head_class] = view.depth - 1
            if view.depth > 1:
                lanes[step.lane] = dataclasses.replace(view, classes=tuple(counts))
            claimed += step.lane == name
            residents = tuple(
                dataclasses.replace(one, running=one.running + (one.lane == step.lane)) for one in target.residents
            )
            target = dataclasses.replace(target, residents=residents, victim=step.victim)
        elif isinstance(step, Swap) and not any(one.running for one in target.residents if one.lane == step.victim):
            lanes.pop(step.lane)
            stay = tuple(one for one in target.residents if one.lane != step.victim)
            target = dataclasses.replace(target, residents=stay, loading=step.lane, victim=None)
        else:
            return claimed


def some_moment(seed):
    """A target at some moment, with a lane that waits and how many of it are before the job that asks."""
    chance, now = random.Random(seed), 1000.0
    slots, names = chance.choice([1, 2, 4]), chance.choice(["a", "ab", "ac", "abc", "acd"])
    waiting = [
        lane(name, now + chance.choice([-300, -20, -1, 5, 100]), chance.randint(1, 6), chance.choice(list(Priority)))
        for name in names
    ]
    residents = []
    for name in chance.choice(["", "a", "ab", "b", "abe", "ae"]):
        running = chance.randint(0, slots)
        facts = {} if running or name in names else {"idle_since": now - 1.0, "gaps": chance.choice([(), (2.0,) * 4])}
        residents.append(held(name, now - chance.choice([1, 20, 31, 33, 127, 129, 400]), running, **facts))
    loads = next(iter(names.strip("".join(one.lane for one in residents))), None) if chance.random() < 0.2 else None
    places = max(1, len(residents) + (loads is not None) + chance.randint(0, 1))
    on = prospect(waiting, *residents, slots=slots, places=places, loading=loads, ends=now + 3)
    return on, chance.randrange(waiting[0].depth), now


def test_it_says_at_once_where_the_scheduler_would_claim_the_job_at_once_and_nowhere_else():
    told = {True: 0, False: 0}
    for seed in range(1500):
        on, ahead, now = some_moment(seed)
        at_once = ahead < now_drained("a", on, now)
        assert (ask("a", ahead, on, now=now).eta_seconds == 0.0) == at_once, seed
        told[at_once] += 1
    assert min(told.values()) > 300, "both happen"


def of_model(model, *facts):
    return [dataclasses.replace(each, model=model) for each in facts]


def test_other_options_of_a_model_take_its_place_and_no_free_one():
    short, long, there = of_model("m", lane("m@4k", depth=5), lane("m@8k"), held("m@4k"))
    on = prospect([short, long, lane("n", due=2000.0)], there, places=2)
    found = ask("m@8k", 0, on)
    assert found.eta_seconds == pytest.approx(0.6 * 4 + 5 * 4 + 8), "the server would reload it where it stands"
    assert Ahead("m@4k", "t", Why.RESIDENT, 5) in found.ahead
    assert ask("n", 0, on).eta_seconds == 8.0, "it passes the one that can't use the free place"


def test_of_two_lanes_of_one_model_the_second_waits_for_the_first():
    both = of_model("m", lane("m@4k", depth=5), lane("m@8k", due=2000.0))
    found = ask("m@8k", 0, prospect(both, places=2))
    assert found.eta_seconds == pytest.approx(8 + 5 * 4 + 8)
    cut = of_model("m", lane("m@4k", depth=500), lane("m@8k", due=15.0))
    back = ask("m@4k", 200, prospect(cut, *of_model("m", held("m@4k")), places=2))
    # Cut at 128 s, when 31.4 of them have begun; back after the other's load and run, by another load.
    assert back.eta_seconds == pytest.approx(128 + 2 + 8 + 4 + 8 + (200 - 31.4) * 4, abs=2)


def test_of_those_that_were_cut_the_earliest_turn_comes_back_first():
    queue = Upcoming(LaneIndex(POLICY, [lane("a"), lane("b")]), {"a", "b"}, [(50.0, "b"), (20.0, "a")])
    assert queue.first_turn()[0] == 20.0
    came = [(view.lane, overdue) for view, overdue in (queue.next_at(30.0), queue.next_at(30.0))]
    assert came == [("a", True), ("b", False)]
    assert queue.next_at(30.0) is None


def test_several_targets_work_side_by_side():
    lanes = [lane(name, due=float(n), depth=10) for n, name in enumerate("abcd")]
    one = ask("d", 0, prospect(lanes))
    two = ask("d", 0, prospect(lanes), prospect(lanes, name="u"))
    assert two.eta_seconds < one.eta_seconds / 1.5
    assert two.target in {"t", "u"}


def test_an_idle_target_takes_a_long_backlog_too_and_no_short_one():
    def asked(depth):
        lanes = [lane("a", depth=depth)]
        return ask("a", depth - 1, prospect(lanes, held("a")), prospect(lanes, name="u")).eta_seconds

    # One from 2.4 s on, the other from 8 s on, each a job in 4 s: together they have begun 100 by then.
    assert asked(100) == pytest.approx((98 * 4 + 2.4 + 8) / 2)
    assert asked(9) == pytest.approx(2.4 + 8 * 4), "three loads and runs take as long"


def test_a_backlog_is_worked_off_by_all_who_hold_it():
    lanes = [lane("a", depth=9)]
    two = ask("a", 8, prospect(lanes, held("a")), prospect(lanes, held("a"), name="u"))
    assert two.eta_seconds == pytest.approx(2.4 + 7 * 4 / 2)


def test_an_idle_target_takes_over_what_another_leaves():
    mine, others = lane("a", depth=8), lane("b", due=15.0)
    found = ask("a", 7, prospect([mine, others], held("a")), prospect([mine], name="u"), now=127.0)
    assert found.target == "u"
    assert found.eta_seconds == pytest.approx(2.4 + 2 + 8 + 7 * 4, abs=3)


def test_a_lane_that_no_target_has_gets_no_forecast():
    assert ask("x", 0, prospect([lane("a")])) is None
    assert ask("x", 0) is None


def test_twenty_thousand_lanes_cost_no_more_than_those_before_it():
    chance = random.Random(2)
    lanes = [lane(f"l{n}", due=chance.uniform(0, 1e6)) for n in range(20_000)]
    first = min(lanes, key=lambda each: each.head_due)

    class Reading(LaneIndex):
        reads = 0

        def get(self, name):
            Reading.reads += 1
            return super().get(name)

    index = Reading(POLICY, lanes)
    found = ask(first.lane, 0, Prospect(TargetView("t", 1, 1), index))
    assert found.position == 1
    assert Reading.reads < 20
