"""Survey and claim in one round trip: only where there is nothing to choose, and never past the guards of a claim."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foreman.core.jobs import Priority, Slot, State, Surface
from foreman.core.scheduler import Drain, LaneView, Policy, Resident, TargetView, choose
from foreman.store.errors import FencedError
from foreman.store.records import Changes, NewJob, Taken, WorkerPresence

if TYPE_CHECKING:
    from foreman.store.client import Store

moments = st.floats(0, 1e6, allow_nan=False)


@given(
    now=moments,
    due=moments,
    left_at=st.none() | moments,
    cls=st.sampled_from(Priority),
    depth=st.integers(1, 50),
    running=st.integers(0, 3),
    others=st.integers(0, 2),
    victim=st.none() | st.sampled_from(["mine", "other0"]),
)
def test_the_only_lane_that_waits_is_drained_whatever_else_is_true(
    now, due, left_at, cls, depth, running, others, victim
):
    """What take.lua does without asking is what `choose` would have said."""
    lane = LaneView("mine", "m", due, cls, (depth, 0, 0), left_at=left_at)
    residents = (
        Resident("mine", "m", now - 5, running),
        *(Resident(f"other{i}", f"o{i}", now - 5, 0, idle_since=now) for i in range(others)),
    )
    target = TargetView("t", slots=4, places=len(residents), residents=residents, victim=victim)
    decision = choose([lane], target, now, Policy())
    assert isinstance(decision, Drain)
    assert decision.lane == "mine"


async def fill(store: Store, lane: str, *ids: str, target_only: str | None = None) -> None:
    for job_id in ids:
        await store.queue.submit(
            NewJob(
                job_id.ljust(26, "0"),
                *(Surface.ASYNC, "/api/chat", "m", "m:latest", lane, Slot.DRAIN, Priority.NORMAL, b"{}", 60.0),
                target_only=target_only,
            )
        )


@pytest.fixture
async def own(store: Store):
    await store.queue.enroll(WorkerPresence("wk", 0.0, 0.0, ()))
    owned = await store.queue.own("gpu", "wk")
    assert owned is not None
    return owned


async def test_takes_the_head_and_says_whether_more_waits(store: Store, own) -> None:
    await fill(store, "a", "01A", "01B")
    first = await store.queue.take(own, Slot.DRAIN, ["z", "a"])
    assert isinstance(first, Taken)
    assert (first.claimed.job.id[:3], first.claimed.job.state, first.more) == ("01A", State.WORKING, True)
    second = await store.queue.take(own, Slot.DRAIN, ["a"])
    assert isinstance(second, Taken)
    assert (second.claimed.job.id[:3], second.more) == ("01B", False)
    empty = await store.queue.take(own, Slot.DRAIN, ["a"])
    assert isinstance(empty, Changes)
    assert empty.lanes == ()


@pytest.mark.parametrize(
    ("lanes", "free"), [(("a", "b"), ["a", "b"]), (("a",), ["b"]), (("a",), [])], ids=["two", "not resident", "none"]
)
async def test_where_there_is_something_to_choose_it_surveys(store: Store, own, lanes, free) -> None:
    for number, lane in enumerate(lanes):
        await fill(store, lane, f"01{number}")
    found = await store.queue.take(own, Slot.DRAIN, free)
    assert isinstance(found, Changes)
    assert {lane.lane for lane in found.lanes} == set(lanes)


async def test_never_takes_what_another_target_alone_may_have(store: Store, own) -> None:
    await fill(store, "a", "01A", target_only="elsewhere")
    assert isinstance(await store.queue.take(own, Slot.DRAIN, ["a"]), Changes)


async def test_is_fenced_like_a_claim(store: Store, own) -> None:
    await fill(store, "a", "01A")
    await store.queue.retire("wk")
    with pytest.raises(FencedError):
        await store.queue.take(own, Slot.DRAIN, ["a"])
