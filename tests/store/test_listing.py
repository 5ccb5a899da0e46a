"""Jobs that wait for their time, keys that are sent twice, the list and its cursors, word of an end."""

from __future__ import annotations

import dataclasses
import time

import pytest

from foreman.core.errors import Code, Failure
from foreman.core.jobs import Priority, Slot, State, Surface
from foreman.store import keys as k
from foreman.store import listing
from foreman.store.records import CancelOutcome, Kept, Notice, Wanted
from foreman.store.roster import SYNC_TTL
from tests.store.ground import LIMITS, Ground, gateway, new_id, new_job

CANCELLED = Failure(Code.CANCELLED, "Cancelled by its owner.")
ASYNC = {"surface": Surface.ASYNC, "gateway": None, "priority": Priority.NORMAL}


async def ids(ground: Ground, below: str | None = None, limit: int = 100, **wanted) -> tuple[list[str], str | None]:
    page = await ground.queue.page(Wanted(**wanted), below, limit)
    return [job.id for job in page.jobs], page.next


class TestNotBefore:
    async def test_until_then_it_is_queued_in_no_lane(self, ground: Ground) -> None:
        begins = time.time() + 3600
        new = new_job(**ASYNC, not_before=begins, max_wait=5.0, deadline_in=60.0, service=2.0)
        submitted = await ground.queue.submit(new)
        assert (submitted.place.position, submitted.queued) == (0, 1)
        job = await ground.queue.get(new.id)
        assert job is not None
        assert job.state is State.QUEUED
        assert job.not_before == pytest.approx(begins, abs=0.01)
        assert job.due == pytest.approx(begins + 5, abs=0.01), "due counts from then"
        assert job.deadline == pytest.approx(begins + 60, abs=0.01), "and so does the deadline"
        assert await ground.queue.position(new.id) is None
        assert (await ground.queue.counts()).queued == 1
        assert not (await ground.queue.survey(Slot.DRAIN)).lanes
        assert [one.id for one in await ground.queue.recent(frozenset({State.QUEUED}), 5)] == [new.id]
        await ground.queue.recover()
        assert not (await ground.queue.survey(Slot.DRAIN)).lanes

    async def test_at_its_time_recover_puts_it_into_its_lane(self, ground: Ground) -> None:
        own = await ground.owner()
        job_id = await ground.submit(**ASYNC, not_before=time.time() + 3600)
        assert await ground.queue.claim(own, "lane-a", Slot.DRAIN, State.WORKING) is None
        await ground.look.zadd(ground.key(k.DELAYED, "drain"), {job_id: 1})
        await ground.queue.recover()
        await ground.queue.recover()
        (lane,) = (await ground.queue.survey(Slot.DRAIN)).lanes
        assert (lane.head_id, sum(lane.classes)) == (job_id, 1)
        assert (await ground.claim(own)).job.id == job_id
        assert await ground.events(job_id) == [("queued", "submitted"), ("working", "claimed")]

    async def test_in_the_past_is_now(self, ground: Ground) -> None:
        job_id = await ground.submit(**ASYNC, not_before=time.time() - 60, max_wait=5.0)
        job = await ground.queue.get(job_id)
        assert job is not None
        assert job.due == pytest.approx(job.created_at + 5)
        assert await ground.queue.position(job_id) == 1

    async def test_it_counts_as_queued_and_is_cancelled_without_a_trace(self, ground: Ground) -> None:
        waiting = [await ground.submit(**ASYNC, not_before=time.time() + 60) for _ in range(18)]
        with pytest.raises(Failure, match="server busy"):
            await ground.submit(**ASYNC)
        for job_id in waiting:
            assert await ground.queue.cancel(job_id, CANCELLED) is CancelOutcome.CANCELLED
        assert (await ground.queue.counts()).queued == 0
        assert not await ground.look.exists(ground.key(k.DELAYED, "drain"), ground.key(k.FACTS, "drain", "lane-a"))


class TestIdempotencyKey:
    async def test_the_same_key_and_body_is_the_same_job(self, ground: Ground) -> None:
        first = new_job(**ASYNC, idempotency_key="k", fingerprint="f")
        await ground.queue.submit(first)
        again = await ground.queue.submit(dataclasses.replace(first, id=new_id()))
        assert (again.job_id, again.known) == (first.id, True)
        assert (await ground.queue.counts()).queued == 1
        assert (await ground.queue.submit(first)).known is False, "the very same id: its reply was lost"

    async def test_another_body_is_refused(self, ground: Ground) -> None:
        await ground.submit(**ASYNC, idempotency_key="k", fingerprint="f")
        with pytest.raises(Failure, match="Idempotency-Key") as refused:
            await ground.submit(**ASYNC, idempotency_key="k", fingerprint="g")
        assert refused.value.status == 422

    @pytest.mark.parametrize("change", [{"caller": "n8n"}, {"surface": Surface.SYNC}, {"idempotency_key": "k2"}])
    async def test_keys_are_told_apart_by_token_and_surface(self, ground: Ground, change) -> None:
        job = {**ASYNC, "idempotency_key": "k", "fingerprint": "f", "caller": "webui"}
        await ground.submit(**job)
        await ground.submit(**(job | change))
        assert (await ground.queue.counts()).queued == 2

    @pytest.mark.parametrize("end", [State.FAILED, State.CANCELLED])
    async def test_it_is_free_again_after_a_bad_end(self, ground: Ground, end: State) -> None:
        job_id = await ground.submit(**ASYNC, idempotency_key="k", fingerprint="f")
        assert await ground.queue.transition(job_id, None, end, reason="test")
        again = await ground.queue.submit(new_job(**ASYNC, idempotency_key="k", fingerprint="g"))
        assert not again.known

    async def test_it_stays_with_a_job_that_is_done(self, ground: Ground) -> None:
        job_id, _ = await ground.in_state(State.DONE, **ASYNC, idempotency_key="k", fingerprint="f")
        again = await ground.queue.submit(new_job(**ASYNC, idempotency_key="k", fingerprint="f"))
        assert (again.job_id, again.known) == (job_id, True)


class TestPage:
    async def test_newest_first_and_a_cursor_that_stays(self, ground: Ground) -> None:
        made = [await ground.submit() for _ in range(5)]
        first, after = await ids(ground, limit=2)
        assert first == made[:2:-1]
        newer = await ground.submit()
        await ground.queue.cancel(made[3], CANCELLED)
        await ground.queue.cancel(made[1], CANCELLED)
        await ground.look.delete(ground.key(k.JOB, made[1]), ground.key(k.EVENTS, made[1]))  # its time is over
        second, after = await ids(ground, after, limit=2)
        assert second == [made[2], made[0]], "neither shown twice nor left out, whatever came and went"
        assert after is None
        assert (await ids(ground, limit=1))[0] == [newer]

    async def test_filters(self, ground: Ground) -> None:
        other = await ground.submit(
            **ASYNC, endpoint="/api/embed", slot=Slot.EMBED, canonical="nomic:latest", caller="n8n"
        )
        plain = await ground.submit()
        assert await ids(ground, states=frozenset({State.QUEUED, State.DONE})) == ([plain, other], None)
        assert await ids(ground, states=frozenset({State.DONE})) == ([], None)
        for wanted in (
            {"model": "nomic:latest"},
            {"endpoint": "/api/embed"},
            {"surface": Surface.ASYNC},
            {"caller": "n8n"},
        ):
            assert await ids(ground, **wanted) == ([other], None)
        assert await ids(ground, caller="webui") == ([], None)

    async def test_a_long_search_goes_on_where_it_stopped(self, ground: Ground, monkeypatch) -> None:
        monkeypatch.setattr(listing, "LOOK", 2)
        monkeypatch.setattr(listing, "ROUNDS", 2)
        old = await ground.submit(canonical="nomic:latest")
        for _ in range(5):
            await ground.submit()
        found, after = await ids(ground, model="nomic:latest")
        assert found == []
        assert after is not None
        assert await ids(ground, after, model="nomic:latest") == ([old], None)

    async def test_the_list_ends_with_what_is_kept(self, ground: Ground) -> None:
        sync, _ = await ground.in_state(State.CANCELLED)
        kept, _ = await ground.in_state(State.CANCELLED, **ASYNC)
        now = time.time()
        for surface, job_id, ttl in (("sync", sync, SYNC_TTL), ("async", kept, LIMITS.job_ttl)):
            ended = ground.key(k.ENDED, surface, "cancelled")
            await ground.look.zadd(ended, {job_id: (now - ttl - 1) * 1000}, xx=True)
        await ground.look.delete(ground.key(k.JOB, sync), ground.key(k.EVENTS, sync), ground.key(k.REQUEST, sync))
        await ground.queue.recover()
        assert await ground.look.zrange(ground.key(k.JOBS), 0, -1) == [kept], "its time is over, but it is still there"
        await ground.look.delete(ground.key(k.JOB, kept), ground.key(k.EVENTS, kept), ground.key(k.REQUEST, kept))
        await ground.look.zadd(ground.key(k.ENDED, "async", "cancelled"), {kept: 1})
        await ground.queue.recover()
        assert not await ground.look.exists(
            ground.key(k.JOBS), ground.key(k.ENDED, "sync", "cancelled"), ground.key(k.ENDED, "async", "cancelled")
        )


class TestWatch:
    async def test_a_gateway_hears_of_the_end(self, ground: Ground) -> None:
        await ground.queue.announce(gateway("gw-1"))
        inbox = await ground.store.inbox("gateway", "gw-1")
        job_id = await ground.submit(**ASYNC)
        assert await ground.queue.watch(job_id, "gw-1") is State.QUEUED
        assert await ground.queue.watch(job_id, "gw-1") is State.QUEUED
        await ground.queue.cancel(job_id, CANCELLED)
        assert await inbox.receive() == Notice(job_id, State.CANCELLED, 0, None, watched=True)
        assert await inbox.receive() is None
        assert await ground.queue.watch(job_id, "gw-1") is State.CANCELLED
        await ground.queue.leave("gw-1")

    async def test_unknown(self, ground: Ground) -> None:
        assert await ground.queue.watch(new_id(), "gw-1") is None
        assert await ground.queue.watch("a:b", "gw-1") is None


async def test_what_is_kept_of_a_request(ground: Ground) -> None:
    job_id = await ground.submit(**ASYNC, request=b"{}", own_fields="[]", headers={"anthropic-version": "1"})
    assert await ground.queue.kept(job_id) == Kept(b"{}", "[]", {"anthropic-version": "1"})
    sync, _ = await ground.in_state(State.CANCELLED)
    assert await ground.queue.kept(sync) is None
    assert await ground.queue.kept("a:b") is None
