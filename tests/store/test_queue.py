"""submit, survey, claim, cancel and the questions: what goes in comes out, once, in order."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from foreman.core.errors import Code, Failure
from foreman.core.jobs import Priority, Slot, State, Surface
from foreman.store import keys as k
from foreman.store.errors import FencedError
from foreman.store.records import CancelOutcome, Changes, Counts, Ownership
from tests.store.ground import LIMITS, Ground, new_id, new_job

GONE = Failure(Code.CALLER_GONE, "The caller left.")
CANCELLED = Failure(Code.CANCELLED, "Cancelled by its owner.")


class TestSubmit:
    async def test_the_record_comes_back_as_it_went_in(self, ground: Ground) -> None:
        new = new_job(caller="webui", target_only="gpu1", deadline_in=60.0, max_wait=5.0, service=2.0)
        submitted = await ground.queue.submit(new)
        assert (submitted.job_id, submitted.place.position, submitted.queued) == (new.id, 1, 1)
        job = await ground.queue.get(new.id)
        assert job is not None
        assert (job.id, job.state, job.surface, job.endpoint) == (new.id, State.QUEUED, Surface.SYNC, "/api/chat")
        assert (job.model, job.lane, job.slot, job.priority) == ("llama3", "lane-a", Slot.DRAIN, Priority.HIGH)
        assert (job.attempt, job.epoch, job.seq, job.previous_state) == (1, 0, 1, None)
        assert (job.caller, job.target_only, job.gateway, job.worker) == ("webui", "gpu1", "gw-1", None)
        assert job.deadline is not None
        assert job.deadline - job.created_at == pytest.approx(60.0)
        assert job.due - job.created_at == pytest.approx(5.0)
        assert await ground.events(new.id) == [("queued", "submitted")]

    @pytest.mark.parametrize(
        ("max_wait", "deadline_in", "service", "due"),
        [
            (5.0, None, 2.0, 5.0),
            (120.0, 10.0, 2.0, 8.0),  # the deadline less the run comes first
            (5.0, 1.0, 30.0, 0.0),  # a hopeless deadline does not make it due before it was there
            (0.0, None, 2.0, 0.0),
        ],
    )
    async def test_due(self, ground: Ground, max_wait, deadline_in, service, due) -> None:
        job_id = await ground.submit(max_wait=max_wait, deadline_in=deadline_in, service=service)
        job = await ground.queue.get(job_id)
        assert job is not None
        assert job.due - job.created_at == pytest.approx(due)

    async def test_sent_again_it_changes_nothing(self, ground: Ground) -> None:
        new = new_job()
        first = await ground.queue.submit(new)
        assert await ground.queue.submit(new) == first
        assert await ground.queue.counts() == Counts(1, 0, 0, 0, 0, 0)
        await ground.claim(await ground.owner())
        await ground.queue.submit(new)
        assert await ground.queue.counts() == Counts(0, 0, 1, 0, 0, 0)
        assert len(await ground.events(new.id)) == 2

    async def test_the_last_tenth_is_for_class_high(self, ground: Ground) -> None:
        for _ in range(18):
            await ground.submit(priority=Priority.LOW)
        for priority in (Priority.LOW, Priority.NORMAL):
            with pytest.raises(Failure) as refused:
                await ground.submit(priority=priority)
            assert refused.value.code is Code.QUEUE_FULL
            assert refused.value.retry_after == 60.0  # nothing has ended yet: no rate to tell by
        for _ in range(2):
            await ground.submit(priority=Priority.HIGH)
        with pytest.raises(Failure, match="server busy"):
            await ground.submit(priority=Priority.HIGH)
        for slot in (Slot.EMBED, Slot.SIDE):  # those don't count
            await ground.submit(slot=slot, priority=Priority.LOW)
        assert (await ground.queue.counts()).queued == LIMITS.max_queue + 2

    async def test_a_refused_one_leaves_no_trace(self, ground: Ground) -> None:
        for _ in range(20):
            await ground.submit()
        new = new_job(lane="lane-z", gateway="gw-9", deadline_in=5.0)
        with pytest.raises(Failure):
            await ground.queue.submit(new)
        assert await ground.queue.get(new.id) is None
        assert not [key async for key in ground.look.scan_iter(match=f"*{new.id}*")]
        assert [lane.lane for lane in (await ground.queue.survey(Slot.DRAIN)).lanes] == ["lane-a"]
        assert await ground.look.zcard(ground.key(k.DEADLINES)) == 0

    async def test_retry_after_follows_the_rate_of_the_last_minute(self, ground: Ground) -> None:
        for _ in range(30):
            await ground.queue.cancel(await ground.submit(), CANCELLED)
        for _ in range(20):
            await ground.submit()
        with pytest.raises(Failure) as refused:
            await ground.submit()
        assert refused.value.retry_after == 2.0  # 30 ended in a minute: a place each 2 s

    async def test_positions_count_all_lanes_of_the_slot_by_due(self, ground: Ground) -> None:
        low = await ground.submit(lane="lane-a", max_wait=1800.0)
        high = await ground.submit(lane="lane-b", max_wait=5.0)
        embed = await ground.submit(slot=Slot.EMBED)
        assert [await ground.queue.position(job) for job in (high, low, embed)] == [1, 2, 1]
        assert await ground.queue.position("nobody") is None


class TestSurvey:
    async def test_it_tells_all_a_choice_needs(self, ground: Ground) -> None:
        assert (await ground.queue.survey(Slot.DRAIN)).lanes == ()
        first = await ground.submit(
            lane="sha256:x|num_ctx=4", digest="sha256:x", options={"num_ctx": 4}, priority=Priority.LOW, max_wait=9.0
        )
        head = await ground.submit(lane="sha256:x|num_ctx=4", priority=Priority.NORMAL, max_wait=1.0)
        await ground.submit(lane="sha256:x|num_ctx=4", priority=Priority.HIGH, max_wait=5.0)
        await ground.submit(lane="lane-e", slot=Slot.EMBED)
        await ground.queue.cut("gpu1", "sha256:x|num_ctx=4")
        survey = await ground.queue.survey(Slot.DRAIN)
        (lane,) = survey.lanes
        job = await ground.queue.get(head)
        assert job is not None
        assert (lane.lane, lane.head_id, lane.head_class) == ("sha256:x|num_ctx=4", head, Priority.NORMAL)
        assert (lane.head_due, lane.head_enqueued_at) == (job.due, job.created_at)
        assert (lane.model, lane.digest, lane.options) == ("llama3:latest", "sha256:x", {"num_ctx": 4})
        assert lane.classes == (1, 1, 1)
        assert lane.left_at["gpu1"] == pytest.approx(survey.now, abs=5)
        assert not lane.paused
        assert first != head

    async def test_the_target_asked_for_is_the_lanes(self, ground: Ground) -> None:
        await ground.submit(lane="lane-a@gpu2", target_only="gpu2")
        (lane,) = (await ground.queue.survey(Slot.DRAIN)).lanes
        assert lane.head_target_only == "gpu2"

    async def test_a_lane_goes_on_for_others_behind_a_job_that_asked_for_a_target(self, ground: Ground) -> None:
        own, other = await ground.owner(), await ground.owner("wk-2", "gpu2")
        asked = await ground.submit(target_only="gpu1")
        assert await ground.queue.claim(other, "lane-a", Slot.DRAIN, State.WORKING) is None
        free = await ground.submit()
        (lane,) = (await ground.queue.survey(Slot.DRAIN)).lanes
        assert (lane.head_id, lane.head_target_only) == (asked, None)
        claimed = await ground.queue.claim(other, "lane-a", Slot.DRAIN, State.WORKING)
        assert claimed is not None
        assert claimed.job.id == free
        (lane,) = (await ground.queue.survey(Slot.DRAIN)).lanes
        assert lane.head_target_only == "gpu1"
        assert (await ground.claim(own)).job.id == asked

    async def test_the_lanes_target_is_that_of_what_waits_now(self, ground: Ground) -> None:
        own = await ground.owner()
        await ground.submit()
        await ground.submit(target_only="gpu2")
        await ground.claim(own)
        (lane,) = (await ground.queue.survey(Slot.DRAIN)).lanes
        assert lane.head_target_only == "gpu2"
        assert isinstance(await ground.queue.take(own, Slot.DRAIN, ["lane-a"]), Changes)

    async def test_a_job_that_has_left_its_lane_counts_no_more(self, ground: Ground) -> None:
        own = await ground.owner()
        for priority in (Priority.HIGH, Priority.HIGH, Priority.LOW):
            await ground.submit(priority=priority)
        await ground.claim(own)
        (lane,) = (await ground.queue.survey(Slot.DRAIN)).lanes
        assert lane.classes == (1, 0, 1)

    async def test_a_job_that_came_back_is_due_as_before(self, ground: Ground) -> None:
        own = await ground.owner()
        await ground.submit(max_wait=-60.0)
        (before,) = (await ground.queue.survey(Slot.DRAIN)).lanes
        job = (await ground.claim(own)).job
        await ground.queue.hand_back(job.id, job.epoch, reason="shutdown", failure=None)
        (after,) = (await ground.queue.survey(Slot.DRAIN)).lanes
        assert (after.head_id, after.head_due, after.classes) == (before.head_id, before.head_due, before.classes)

    async def test_a_cut_is_remembered_while_the_lane_is_empty_and_forgotten_in_time(self, ground: Ground) -> None:
        await ground.queue.cut("gpu1", "lane-a")  # empty: nothing was cut
        assert not await ground.look.exists(ground.key(k.FACTS, "drain", "lane-a"))
        job_id = await ground.submit()
        await ground.queue.cut("gpu1", "lane-a")
        await ground.queue.cancel(job_id, CANCELLED)
        assert 3500 < await ground.look.ttl(ground.key(k.FACTS, "drain", "lane-a")) <= 3600
        await ground.submit()
        assert await ground.look.ttl(ground.key(k.FACTS, "drain", "lane-a")) == -1, "while it has jobs it has facts"
        (lane,) = (await ground.queue.survey(Slot.DRAIN)).lanes
        assert list(lane.left_at) == ["gpu1"]
        assert lane.classes == (0, 0, 1)


class TestClaim:
    async def test_it_brings_all_a_run_needs(self, ground: Ground) -> None:
        own = await ground.owner()
        body = bytes(range(256)) * 4
        job_id = await ground.submit(
            request=body, headers={"anthropic-version": "2023-06-01"}, stream=False, method="DELETE",
            options={"num_ctx": 4}, digest="sha256:x", unload=True,
        )  # fmt: skip
        claimed = await ground.claim(own, State.LOADING)
        job = await ground.queue.get(job_id)
        assert claimed.job == job
        assert claimed.request == body
        assert (claimed.headers, claimed.stream, claimed.method) == (
            {"anthropic-version": "2023-06-01"},
            False,
            "DELETE",
        )
        assert (claimed.options, claimed.canonical, claimed.digest) == ({"num_ctx": 4}, "llama3:latest", "sha256:x")
        assert claimed.unload
        assert (claimed.job.worker, claimed.job.target, claimed.job.epoch) == ("wk-1", "gpu1", 1)
        assert claimed.now == claimed.job.claimed_at
        assert [running.id for running in await ground.queue.running()] == [job_id]

    async def test_nothing_to_be_had(self, ground: Ground) -> None:
        own = await ground.owner()
        assert await ground.queue.claim(own, "lane-a", Slot.DRAIN, State.WORKING) is None
        await ground.submit()
        assert await ground.queue.claim(own, "lane-b", Slot.DRAIN, State.WORKING) is None
        assert await ground.queue.claim(own, "lane-a", Slot.EMBED, State.WORKING) is None

    async def test_by_due_then_by_arrival(self, ground: Ground) -> None:
        own = await ground.owner()
        late = [await ground.submit(max_wait=1000.0) for _ in range(3)]
        soon = [await ground.submit(max_wait=0.0) for _ in range(3)]
        assert [(await ground.claim(own)).job.id for _ in range(6)] == soon + late

    async def test_many_who_claim_at_once_share_the_lane(self, ground: Ground) -> None:
        own = await ground.owner()
        jobs = [await ground.submit() for _ in range(10)]
        taken = await asyncio.gather(*(ground.queue.claim(own, "lane-a", Slot.DRAIN, State.WORKING) for _ in range(14)))
        assert sorted(claimed.job.id for claimed in taken if claimed) == jobs
        assert (await ground.queue.survey(Slot.DRAIN)).lanes == ()

    async def test_who_does_not_own_the_target_is_fenced(self, ground: Ground) -> None:
        own = await ground.owner()
        job_id = await ground.submit()
        for stale in (replace(own, epoch=own.epoch + 1), replace(own, worker="wk-2"), Ownership("gpu2", "wk-1", 1)):
            with pytest.raises(FencedError):
                await ground.queue.claim(stale, "lane-a", Slot.DRAIN, State.WORKING)
        await ground.lapse(k.WORKERS, "wk-1")
        with pytest.raises(FencedError):
            await ground.queue.claim(own, "lane-a", Slot.DRAIN, State.WORKING)
        assert await ground.events(job_id) == [("queued", "submitted")]

    async def test_heads_past_their_deadline_fail_on_the_way(self, ground: Ground) -> None:
        own = await ground.owner()
        inbox = await ground.store.inbox("gateway", "gw-1")
        hopeless = await ground.submit(deadline_in=60.0)
        good = await ground.submit()
        await ground.late(hopeless)
        assert (await ground.claim(own)).job.id == good
        job = await ground.queue.get(hopeless)
        assert job is not None
        assert job.error is not None
        assert (job.state, job.error["code"]) == (State.FAILED, "deadline_exceeded")
        notice = await inbox.receive()
        assert notice is not None
        assert notice.job_id == hopeless

    async def test_a_record_that_was_lost_does_not_block_its_lane(self, ground: Ground) -> None:
        own = await ground.owner()
        lost, good = await ground.submit(), await ground.submit()
        await ground.look.delete(ground.key(k.JOB, lost), ground.key(k.REQUEST, lost), ground.key(k.EVENTS, lost))
        assert (await ground.claim(own)).job.id == good
        assert (await ground.queue.survey(Slot.DRAIN)).lanes == ()
        assert await ground.store.answers.recount() == -len(new_job().request), "counted anew, nothing is missing"


class TestCancel:
    async def test_a_queued_job_is_out_at_once_and_wakes_nobody(self, ground: Ground) -> None:
        job_id = await ground.submit()
        assert await ground.queue.cancel(job_id, GONE) is CancelOutcome.CANCELLED
        job = await ground.queue.get(job_id)
        assert job is not None
        assert job.state is State.CANCELLED
        assert (await ground.queue.survey(Slot.DRAIN)).lanes == ()
        assert await ground.queue.cancel(job_id, GONE) is CancelOutcome.TERMINAL
        assert await ground.queue.cancel(new_id(), GONE) is CancelOutcome.UNKNOWN
        assert not await ground.look.exists(ground.key(k.INBOX, "gateway", "gw-1"))  # it was the gateway's own wish

    async def test_a_running_one_is_flagged_and_its_worker_told_once(self, ground: Ground) -> None:
        job_id, epoch = await ground.in_state(State.WORKING)
        inbox = await ground.store.inbox("worker", "wk-1")
        while (order := await inbox.receive()) is not None and order.verb != "wake":
            pass
        for failure in (CANCELLED, GONE):
            assert await ground.queue.cancel(job_id, failure) is CancelOutcome.WISHED
        order = await inbox.receive()
        assert order is not None
        assert (order.verb, order.job_id, order.epoch, order.code) == ("cancel", job_id, epoch, "cancelled")
        assert order.target == "gpu1"
        assert await ground.look.llen(ground.key(k.INBOX, "worker", "wk-1")) == 0
        job = await ground.queue.get(job_id)
        assert job is not None
        assert (job.state, job.cancel_reason) == (State.WORKING, "cancelled")  # a wish is no state

    async def test_other_codes_end_it_as_failed(self, ground: Ground) -> None:
        job_id = await ground.submit()
        interrupted = Failure(Code.INTERRUPTED, "Bytes had been passed on.")
        inbox = await ground.store.inbox("gateway", "gw-1")
        assert await ground.queue.cancel(job_id, interrupted) is CancelOutcome.CANCELLED
        job = await ground.queue.get(job_id)
        assert job is not None
        assert (job.state, job.error) == (State.FAILED, interrupted.as_dict())
        notice = await inbox.receive()
        assert notice is not None
        assert (notice.state, notice.error) == (State.FAILED, interrupted.as_dict())


class TestQuestions:
    async def test_counts_and_lists(self, ground: Ground) -> None:
        own = await ground.owner()
        done = await ground.submit()
        claimed = await ground.claim(own)
        await ground.queue.transition(done, claimed.job.epoch, State.DONE, reason="done")
        cancelled = await ground.submit()
        await ground.queue.cancel(cancelled, CANCELLED)
        loading, working = await ground.submit(), await ground.submit()
        await ground.claim(own, State.LOADING)
        await ground.claim(own, State.WORKING)
        later, sooner = await ground.submit(max_wait=50.0), await ground.submit(slot=Slot.EMBED, max_wait=1.0)
        assert await ground.queue.counts() == Counts(2, 1, 1, 1, 0, 1)
        everything = [job.id for job in await ground.queue.recent(frozenset(State), 10)]
        assert everything[:2] == [sooner, later]
        assert set(everything[2:4]) == {loading, working}
        assert everything[4:] == [cancelled, done]
        assert [job.id for job in await ground.queue.recent(frozenset({State.DONE}), 10)] == [done]
        assert len(await ground.queue.recent(frozenset(State), 3)) == 3

    async def test_events(self, ground: Ground) -> None:
        job_id, _ = await ground.in_state(State.WORKING)
        first, second = await ground.queue.events(job_id)
        assert (first.seq, first.state, first.previous_state, first.worker) == (1, State.QUEUED, None, None)
        assert (second.seq, second.state, second.previous_state) == (2, State.WORKING, State.QUEUED)
        assert (second.worker, second.reason, second.attempt) == ("wk-1", "claimed", 1)
        assert first.time <= second.time
        assert await ground.queue.events("nobody") == []

    async def test_ping(self, ground: Ground) -> None:
        assert 0 < await ground.queue.ping() < 10


async def test_a_call_that_waits_at_a_gateway_out_of_reach_is_passed_over(ground: Ground) -> None:
    """Nobody would get its answer from here; one that outlives its caller, and async jobs, run all the same."""
    own = await ground.owner()
    far = await ground.submit(gateway="gw-far", max_wait=0.0)
    near = await ground.submit(gateway="gw-near")
    assert await ground.queue.reach("wk-1", ("gw-far",))
    assert (await ground.claim(own)).job.id == near
    assert await ground.queue.claim(own, "lane-a", Slot.DRAIN, State.LOADING) is None
    assert await ground.queue.position(far) == 1
    outlives = await ground.submit(gateway="gw-far", finish=True)
    assert (await ground.claim(own)).job.id == outlives
    assert await ground.queue.reach("wk-1", ())
    assert (await ground.claim(own)).job.id == far
    await ground.lapse(k.WORKERS, "wk-1")
    assert not await ground.queue.reach("wk-1", ("gw-far",)), "it begins no lease anew"
