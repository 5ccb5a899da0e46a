"""Every pair of states, against the table and against the scripts: they may not differ by one."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from foreman.core.errors import Code, Failure
from foreman.core.jobs import TERMINAL, TRANSITIONS, Slot, State, sources
from foreman.store import keys as k
from foreman.store.records import Counts
from foreman.store.scripts import EDGES

if TYPE_CHECKING:
    from tests.store.ground import Ground

RESET = Failure(Code.UPSTREAM_UNREACHABLE, "It reset the connection.")


@pytest.mark.parametrize("to", State)
@pytest.mark.parametrize("source", State)
async def test_a_move_is_made_exactly_where_the_table_allows_it(ground: Ground, source: State, to: State) -> None:
    job_id, epoch = await ground.in_state(source)
    before = await ground.queue.get(job_id)
    seen = await ground.events(job_id)
    if to is State.QUEUED:
        moved = await ground.queue.hand_back(job_id, epoch, reason="test", failure=None) is not None
    elif source is State.QUEUED and to not in TERMINAL:
        moved = await ground.queue.claim(await ground.owner(), "lane-a", Slot.DRAIN, to) is not None
    else:
        moved = await ground.queue.transition(job_id, None if source is State.QUEUED else epoch, to, reason="test")

    after = await ground.queue.get(job_id)
    assert after is not None
    assert moved == (to in TRANSITIONS[source])
    if moved:
        assert after.state is to
        assert after.previous_state is source
        assert after.seq == len(seen) + 1 == len(await ground.events(job_id))
    else:
        assert after == before
        assert await ground.events(job_id) == seen


def test_the_scripts_get_the_table_and_nothing_else():
    assert set(EDGES.split()) == {f"{source}>{to}" for to in State for source in sources(to)}


@pytest.mark.parametrize("source", [State.LOADING, State.WORKING])
async def test_an_old_epoch_changes_nothing(ground: Ground, source: State) -> None:
    job_id, epoch = await ground.in_state(source)
    before = await ground.queue.get(job_id)
    for stale in (epoch - 1, epoch + 1):
        for to in (State.WORKING, State.DONE, State.FAILED, State.CANCELLED):
            assert not await ground.queue.transition(job_id, stale, to, reason="zombie")
        assert await ground.queue.hand_back(job_id, stale, reason="zombie", failure=None) is None
    assert await ground.queue.get(job_id) == before


async def test_without_an_epoch_only_a_queued_job_moves(ground: Ground) -> None:
    job_id, _ = await ground.in_state(State.WORKING)
    assert not await ground.queue.transition(job_id, None, State.FAILED, reason="down too long", failure=RESET)
    other = await ground.submit(lane="lane-b")
    assert not await ground.queue.transition(other, 0, State.FAILED, reason="zombie")
    assert await ground.queue.transition(other, None, State.FAILED, reason="down too long", failure=RESET)
    job = await ground.queue.get(other)
    assert job is not None
    assert job.error == RESET.as_dict()


async def test_only_claim_leads_into_a_run_and_only_hand_back_into_the_lane(ground: Ground) -> None:
    job_id = await ground.submit()
    for to in (State.LOADING, State.WORKING):
        assert not await ground.queue.transition(job_id, None, to, reason="test")
    claimed = await ground.claim(await ground.owner())
    assert not await ground.queue.transition(job_id, claimed.job.epoch, State.QUEUED, reason="test")


async def test_an_unknown_job_moves_nowhere(ground: Ground) -> None:
    assert not await ground.queue.transition("nobody", 1, State.DONE, reason="test")
    assert await ground.queue.hand_back("nobody", 1, reason="test", failure=None) is None
    assert await ground.queue.get("nobody") is None
    assert await ground.queue.get("nobody:events") is None


async def test_a_run_leaves_its_times_usage_and_events(ground: Ground) -> None:
    own = await ground.owner()
    job_id = await ground.submit()
    claimed = await ground.claim(own, State.LOADING)
    epoch = claimed.job.epoch
    assert claimed.job.started_at is None
    assert await ground.queue.counts() == Counts(0, 1, 0, 0, 0, 0)
    assert await ground.queue.transition(job_id, epoch, State.WORKING, reason="loaded")
    assert await ground.queue.counts() == Counts(0, 0, 1, 0, 0, 0)
    usage, timings = {"prompt_tokens": 3, "completion_tokens": 9}, {"ttft_ms": 12.5}
    assert await ground.queue.transition(job_id, epoch, State.DONE, reason="done", usage=usage, timings=timings)
    job = await ground.queue.get(job_id)
    assert job is not None
    assert (job.usage, job.timings, job.error) == (usage, timings, None)
    assert job.started_at is not None
    assert job.finished_at is not None
    assert job.claimed_at is not None
    assert job.created_at <= job.claimed_at <= job.started_at <= job.finished_at
    assert await ground.events(job_id) == [
        ("queued", "submitted"),
        ("loading", "claimed"),
        ("working", "loaded"),
        ("done", "done"),
    ]


@pytest.mark.parametrize("end", sorted(TERMINAL))
async def test_an_ended_job_is_in_no_list_and_expires(ground: Ground, end: State) -> None:
    job_id, _ = await ground.in_state(end, deadline_in=60.0)
    look = ground.look
    for template, parts in (
        (k.QUEUED, ("drain",)), (k.LANE, ("drain", "lane-a")), (k.LANES, ("drain",)), (k.FACTS, ("drain", "lane-a")),
        (k.RUNNING, ("loading",)), (k.RUNNING, ("working",)), (k.DEADLINES, ()), (k.WORKER_JOBS, ("wk-1",)),
        (k.GATEWAY_JOBS, ("gw-1",)), (k.REQUEST, (job_id,)),
    ):  # fmt: skip
        assert not await look.exists(ground.key(template, *parts)), template.name
    for template in (k.JOB, k.EVENTS):
        assert 590 < await look.ttl(ground.key(template, job_id)) <= 600
    assert await look.zrange(ground.key(k.ENDED, "sync", end.value), 0, -1) == [job_id]
    counts = await ground.queue.counts()
    assert counts == Counts(0, 0, 0, **{state.value: int(state is end) for state in TERMINAL})


async def test_an_async_job_keeps_its_request_for_the_job_ttl(ground: Ground) -> None:
    from foreman.core.jobs import Surface

    job_id, _ = await ground.in_state(State.DONE, surface=Surface.ASYNC, gateway=None)
    for template in (k.JOB, k.EVENTS, k.REQUEST):
        assert 3590 < await ground.look.ttl(ground.key(template, job_id)) <= 3600


async def test_of_sync_jobs_only_so_many_are_kept(ground: Ground) -> None:
    ended = ground.key(k.ENDED, "sync", "done")
    job_id, epoch = await ground.in_state(State.WORKING)
    now = int((await ground.queue.survey(Slot.DRAIN)).now * 1000)
    oldest = "01AAAAAAAAAAAAAAAAAAAAAAAA"
    await ground.look.hset(ground.key(k.JOB, oldest), "state", "done")
    await ground.look.xadd(ground.key(k.EVENTS, oldest), {"state": "done"})
    await ground.look.zadd(ended, {oldest: now - 1000} | {f"other-{number}": now for number in range(9_999)})
    await ground.queue.transition(job_id, epoch, State.DONE, reason="done")
    assert await ground.look.zcard(ended) == 10_000
    assert not [key async for key in ground.look.scan_iter(match=f"*{oldest}*")]
    assert await ground.queue.get(job_id) is not None


async def test_two_who_end_a_job_at_once_end_it_once(ground: Ground) -> None:
    job_id, epoch = await ground.in_state(State.WORKING)
    ends = [State.DONE, State.FAILED, State.CANCELLED] * 3
    moved = await asyncio.gather(*(ground.queue.transition(job_id, epoch, end, reason="race") for end in ends))
    assert sum(moved) == 1
    assert len(await ground.events(job_id)) == 3


async def test_the_gateway_is_told_unless_the_link_tells_it(ground: Ground) -> None:
    inbox = await ground.store.inbox("gateway", "gw-1")
    own = await ground.owner()
    silent = await ground.submit(lane="lane-b")
    claimed = await ground.claim(own, lane="lane-b")
    assert await ground.queue.transition(silent, claimed.job.epoch, State.DONE, reason="done", notify=False)
    told = await ground.submit()
    claimed = await ground.claim(own)
    assert await ground.queue.transition(told, claimed.job.epoch, State.FAILED, reason="reset", failure=RESET)
    notice = await inbox.receive()
    assert notice is not None
    assert (notice.job_id, notice.state, notice.epoch) == (told, State.FAILED, claimed.job.epoch)
    assert notice.error == RESET.as_dict()


class TestHandBack:
    async def test_in_good_order_it_costs_no_attempt_and_keeps_the_place(self, ground: Ground) -> None:
        own = await ground.owner()
        first = await ground.submit()
        claimed = await ground.claim(own, State.LOADING)
        second = await ground.submit()
        state = await ground.queue.hand_back(first, claimed.job.epoch, reason="stopping", failure=None)
        assert state is State.QUEUED
        job = await ground.queue.get(first)
        assert job is not None
        assert (job.attempt, job.epoch, job.worker, job.target) == (1, claimed.job.epoch + 1, None, None)
        assert job.due == claimed.job.due
        assert await ground.queue.position(first) == 1
        assert await ground.queue.position(second) == 2
        assert (await ground.claim(own)).job.id == first

    async def test_a_failure_uses_an_attempt_until_none_is_left(self, ground: Ground) -> None:
        own = await ground.owner()
        job_id = await ground.submit()
        for attempt in (1, 2):
            claimed = await ground.claim(own)
            assert claimed.job.attempt == attempt
            back = await ground.queue.hand_back(job_id, claimed.job.epoch, reason="reset", failure=RESET)
            assert back is State.QUEUED
        claimed = await ground.claim(own)
        assert await ground.queue.hand_back(job_id, claimed.job.epoch, reason="reset", failure=RESET) is State.FAILED
        job = await ground.queue.get(job_id)
        assert job is not None
        assert (job.state, job.attempt, job.error) == (State.FAILED, 3, RESET.as_dict())

    async def test_it_wakes_the_target_and_tells_the_gateway(self, ground: Ground) -> None:
        own = await ground.owner()
        gateway, worker = await ground.store.inbox("gateway", "gw-1"), await ground.store.inbox("worker", "wk-1")
        job_id = await ground.submit(targets=("gpu1",))
        claimed = await ground.claim(own)
        worker.watch(["gpu1"])
        while (order := await worker.receive()) is not None and order.slot != "drain":
            pass
        await ground.queue.hand_back(job_id, claimed.job.epoch, reason="reset", failure=RESET)
        order = await worker.receive()
        assert order is not None
        assert (order.verb, order.target, order.slot) == ("wake", "gpu1", "drain")
        notice = await gateway.receive()
        assert notice is not None
        assert (notice.job_id, notice.state, notice.error) == (job_id, State.QUEUED, None)

    async def test_the_lane_gets_its_facts_again(self, ground: Ground) -> None:
        own = await ground.owner()
        job_id = await ground.submit(options={"num_ctx": 4096}, digest="sha256:1")
        claimed = await ground.claim(own)
        assert not await ground.look.exists(ground.key(k.FACTS, "drain", "lane-a"))
        await ground.queue.hand_back(job_id, claimed.job.epoch, reason="reset", failure=RESET)
        (lane,) = (await ground.queue.survey(Slot.DRAIN)).lanes
        assert (lane.model, lane.digest, lane.options) == ("llama3:latest", "sha256:1", {"num_ctx": 4096})
        assert lane.classes == (0, 0, 1)

    async def test_one_that_somebody_wishes_away_does_not_run_again(self, ground: Ground) -> None:
        job_id, epoch = await ground.in_state(State.WORKING)
        await ground.queue.cancel(job_id, Failure(Code.CALLER_GONE, "The caller left."))
        assert await ground.queue.hand_back(job_id, epoch, reason="reset", failure=RESET) is State.CANCELLED
        job = await ground.queue.get(job_id)
        assert job is not None
        assert job.error is not None
        assert job.error["code"] == "caller_gone"


@pytest.mark.parametrize("first", [State.LOADING, State.WORKING])
async def test_it_started_when_it_first_worked_however_often_it_is_run(ground: Ground, first: State) -> None:
    own = await ground.owner()
    job_id = await ground.submit()
    epoch = (await ground.claim(own, first)).job.epoch
    if first is State.LOADING:
        assert await ground.queue.transition(job_id, epoch, State.WORKING, reason="loaded")
    await ground.look.hset(ground.key(k.JOB, job_id), "started_at", 1000)  # as long ago
    assert await ground.queue.hand_back(job_id, epoch, reason="leaving", failure=None) is State.QUEUED
    again = await ground.claim(own, first)
    if first is State.LOADING:
        assert await ground.queue.transition(job_id, again.job.epoch, State.WORKING, reason="loaded")
    assert (await ground.queue.get(job_id)).started_at == 1.0
