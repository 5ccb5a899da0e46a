"""The two ordered indexes: whatever is put and dropped, they stand as a sort of everything would."""

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from foreman.core import index as index_module
from foreman.core.fairness import Policy, turn
from foreman.core.index import LaneIndex, Ordered
from foreman.core.jobs import Priority
from foreman.core.scheduler import choose
from foreman.core.views import LaneView, Offer, Resident, TargetView

POLICY = Policy()
LANES = st.sampled_from([f"lane{number}" for number in range(30)])


def view(name, due, priority=Priority.HIGH, depth=1, left_at=None, homes=(), model=None):
    counts = [0, 0, 0]
    counts[priority] = depth
    return LaneView(name, model or name, due, priority, tuple(counts), left_at, 8.0, homes=homes)


@settings(derandomize=True, database=None, max_examples=150)
@given(st.lists(st.integers(0, 60), max_size=80))
def test_keys_come_in_order_whatever_is_added_and_removed(numbers):
    ordered, there = Ordered(), set()
    chunk, index_module._CHUNK = index_module._CHUNK, 3
    try:
        for number in numbers:
            key = (number % 20, str(number))
            (ordered.remove if key in there else ordered.add)(key)
            there ^= {key}
            assert list(ordered.after()) == sorted(there)
            assert list(ordered.after((10, ""))) == sorted(key for key in there if key > (10, ""))
    finally:
        index_module._CHUNK = chunk


@settings(derandomize=True, database=None, max_examples=100)
@given(
    st.lists(
        st.tuples(LANES, st.integers(0, 100), st.sampled_from(Priority), st.integers(0, 3), st.none() | st.just(50.0))
    )
)
def test_an_index_that_was_kept_up_to_date_is_the_one_made_afresh(changes):
    index, truth = LaneIndex(POLICY), {}
    for name, due, priority, depth, left_at in changes:
        if depth:
            truth[name] = view(name, float(due), priority, depth, left_at, model=f"model{name[-1]}")
            index.put(truth[name])
        else:
            truth.pop(name, None)
            index.drop(name)
        moments = {lane: turn(each.head_due, each.left_at, each.load_seconds, POLICY) for lane, each in truth.items()}
        assert [each.lane for _, each in index.by_turn()] == sorted(truth, key=lambda lane: (moments[lane], lane))
        by_class = sorted(truth, key=lambda lane: (-truth[lane].head_class, moments[lane], lane))
        assert [each.lane for _, each in index.by_class()] == by_class
        assert index.jobs == sum(each.depth for each in truth.values())
        first = {truth[lane].model: lane for lane in reversed(by_class)}
        passed = {each.model for each in truth.values()}
        assert [each.lane for _, each in index.by_class(passed)] == [
            lane for lane in by_class if lane in first.values()
        ]
        later = [each.lane for _, each in index.by_turn(50.0)]
        assert later == [lane for lane in sorted(truth, key=lambda lane: (moments[lane], lane)) if moments[lane] > 50]


class Counting(LaneIndex):
    """Counts the lanes that are read."""

    reads = 0

    def by_turn(self, after=float("-inf")):
        for item in super().by_turn(after):
            self.reads += 1
            yield item

    def by_class(self, passed=()):
        for item in super().by_class(passed):
            self.reads += 1
            yield item


def test_a_choice_reads_a_few_lanes_of_twenty_thousand():
    chance = random.Random(1)
    index = Counting(POLICY, (view(f"lane{n}", chance.uniform(0, 1000)) for n in range(20_000)))
    target = TargetView("t", 1, 1, (Resident("lane5", "lane5", 400.0, 1),))
    for _ in range(10):
        choose(index, target, 500.0, POLICY)
    assert index.reads <= 10 * 8


def test_lanes_that_wait_for_the_resident_of_their_own_model_are_passed_all_at_once():
    index = Counting(POLICY, (view(f"m?num_ctx={n}", 5000.0 + n, model="m") for n in range(10_000)))
    index.put(view("other", 9000.0, Priority.LOW))
    residents = Resident("m?num_ctx=7", "m", 0.0, 1), Resident("busy", "busy", 0.0, 1)
    choose(index, TargetView("t", 1, 2, residents), 10.0, POLICY)
    assert index.reads <= 10
    assert choose(index, TargetView("t", 1, 2, residents[:1]), 10.0, POLICY).lane == "other"
    assert index.reads <= 20
    for number in range(1000):
        index.put(view(f"other{number}", 9001.0))
    choose(index, TargetView("t", 1, 1, residents[:1]), 10.0, POLICY)
    assert index.reads <= 30, "the only place is the model's own: nobody after it matters"


def test_a_lane_whose_home_is_soon_done_with_it_is_in_neither_order():
    soon, late = Offer("other", 1.0), Offer("other", 100.0)
    index = LaneIndex(POLICY, [view("a", 5.0, homes=(soon,)), view("b", 6.0, homes=(late,))])
    assert [each.lane for _, each in index.by_turn()] == ["b"]
    assert index.get("a") is not None
    assert len(index) == 2
    assert not index.counts("a")
    index.put(view("a", 5.0, depth=100, homes=(soon,)))
    assert [each.lane for _, each in index.by_class()] == ["a", "b"]
    index.put(view("a", 5.0))
    assert index.jobs == 2


def test_a_home_that_still_loads_is_judged_by_when_it_will_be_ready():
    loading = view("a", 5.0, homes=(Offer("other", 1.0, ready_at=160.0),))
    assert LaneIndex(POLICY, [loading], now=100.0).counts("a"), "61 s are more than 3 × 13"
    assert not LaneIndex(POLICY, [loading], now=150.0).counts("a")
    index = LaneIndex(POLICY, [loading])
    assert index.counts("a"), "without a moment it stays in the orders, and each choice judges it"
    assert choose(index, TargetView("t", 1, 1), 150.0, POLICY).until is None
