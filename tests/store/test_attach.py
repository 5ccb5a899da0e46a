"""Sync jobs that outlive their caller: further readers, what is kept of the answer, and that no run follows one that began."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from foreman.core.errors import Code, Failure
from foreman.core.jobs import Slot, State, Surface
from foreman.store import keys as k
from foreman.store.answers import Answer
from foreman.store.listing import READERS

if TYPE_CHECKING:
    from tests.store.ground import Ground

LOST = Failure(Code.INTERRUPTED, "its worker was lost in mid-answer")
HEAD = '{"status":200,"headers":[],"framing":1}'


async def kept(ground: Ground, state: State = State.WORKING, **more: object) -> tuple[str, int]:
    return await ground.in_state(state, surface=Surface.SYNC, finish=True, gateway="gw-1", **more)


async def orders(ground: Ground) -> list[str]:
    return await ground.look.lrange(ground.key(k.INBOX, "worker", "wk-1"), 0, -1)


async def test_a_reader_of_a_running_job_is_told_to_its_worker_and_noted_for_the_next(ground: Ground) -> None:
    job_id, epoch = await kept(ground)
    assert await ground.queue.attach(job_id, "gw-2", "reader-1") is State.WORKING
    assert await ground.queue.attach(job_id, "gw-2", "reader-1") is State.WORKING
    told = [one for one in await orders(ground) if '"attach"' in one]
    assert len(told) == 2
    assert '"reader":"reader-1"' in told[0]
    job = await ground.queue.get(job_id)
    assert job is not None
    assert job.readers == (("gw-2", "reader-1"),)
    await ground.queue.attach(job_id, "gw-2", "reader-2")
    await ground.queue.detach(job_id, "gw-2", "reader-1")
    await ground.queue.hand_back(job_id, epoch, reason="test", failure=None)
    claimed = await ground.claim(await ground.owner())
    assert claimed.job.readers == (("gw-2", "reader-2"),)
    await ground.queue.detach(job_id, "gw-2", "reader-2")
    job = await ground.queue.get(job_id)
    assert job is not None
    assert job.readers == ()


async def test_every_reader_hears_of_the_end(ground: Ground) -> None:
    job_id, epoch = await kept(ground)
    await ground.queue.attach(job_id, "gw-2", "reader-1")
    await ground.queue.transition(job_id, epoch, State.DONE, reason="answered", notify=False)
    for gateway, name in (("gw-1", job_id), ("gw-2", "reader-1")):
        [notice] = await ground.look.lrange(ground.key(k.INBOX, "gateway", gateway), 0, -1)
        assert f'"job_id":"{name}"' in notice
        assert '"state":"done"' in notice
    assert await ground.queue.attach(job_id, "gw-2", "reader-2") is State.DONE
    assert await ground.queue.attach("01UNKNOWN", "gw-2", "reader-2") is None


async def test_readers_are_bounded(ground: Ground) -> None:
    job_id = await ground.submit(surface=Surface.SYNC, finish=True, gateway="gw-1")
    for number in range(READERS):
        assert await ground.queue.attach(job_id, "gw-1", f"reader-{number}") is State.QUEUED
    with pytest.raises(Failure) as refused:
        await ground.queue.attach(job_id, "gw-1", "one-more")
    assert refused.value.code is Code.QUEUE_FULL


@pytest.mark.parametrize("state", [State.QUEUED, State.WORKING])
async def test_a_dead_gateways_job_runs_on_only_where_it_shall(ground: Ground, state: State) -> None:
    job_id, _ = await kept(ground, state)
    other = await ground.submit(surface=Surface.SYNC, gateway="gw-1", lane="lane-b")
    await ground.lapse(k.GATEWAYS, "gw-1")
    await ground.queue.recover()
    job, gone = await ground.queue.get(job_id), await ground.queue.get(other)
    assert job is not None
    assert gone is not None
    assert (job.state, job.cancel_reason, gone.state) == (state, None, State.CANCELLED)


async def test_request_answer_and_stream_are_kept_as_long_as_the_job(ground: Ground) -> None:
    job_id, epoch = await kept(ground)
    answer = Answer.of(b'{"done":true}')
    answer = Answer(answer.body, answer.record, HEAD, b'{"a":1}\n{"done":true}\n')
    assert await ground.queue.transition(job_id, epoch, State.DONE, reason="answered", answer=answer)
    job = await ground.queue.get(job_id)
    assert job is not None
    assert job.answer_head == HEAD
    assert await ground.store.answers.stream(job) == b'{"a":1}\n{"done":true}\n'
    assert await ground.queue.kept(job_id) is not None
    for key in (ground.key(k.REQUEST, job_id), ground.key(k.ARTIFACT, job_id, "stream"), ground.key(k.JOB, job_id)):
        assert 0 < await ground.look.pttl(key) <= 600_000


async def test_an_answer_that_came_whole_is_kept_once(ground: Ground) -> None:
    job_id, epoch = await kept(ground)
    answer = Answer.of(b'{"done":true}')
    await ground.queue.transition(
        job_id, epoch, State.DONE, reason="answered", answer=Answer(answer.body, answer.record, HEAD)
    )
    job = await ground.queue.get(job_id)
    assert job is not None
    assert await ground.store.answers.stream(job) == b'{"done":true}'
    assert not await ground.look.exists(ground.key(k.ARTIFACT, job_id, "stream"))


@pytest.mark.parametrize("began", [False, True])
async def test_a_lost_run_is_run_again_only_while_nobody_has_a_byte(ground: Ground, began: bool) -> None:
    job_id, epoch = await kept(ground, idempotency_key="k", fingerprint="f")
    if began:
        assert await ground.queue.commit(job_id, epoch, LOST)
    await ground.lapse(k.WORKERS, "wk-1")
    await ground.queue.recover()
    job = await ground.queue.get(job_id)
    assert job is not None
    assert (job.state, job.attempt) == ((State.FAILED, 1) if began else (State.QUEUED, 2))
    if began:
        assert job.error == LOST.as_dict()
        again = await ground.submit(surface=Surface.SYNC, finish=True, idempotency_key="k", fingerprint="f")
        assert again != job_id, "the key is free again"


async def test_a_run_that_lost_its_right_commits_nothing(ground: Ground) -> None:
    job_id, epoch = await kept(ground)
    assert not await ground.queue.commit(job_id, epoch - 1, LOST)
    await ground.queue.hand_back(job_id, epoch, reason="test", failure=None)
    assert not await ground.queue.commit(job_id, epoch, LOST)
    claimed = await ground.queue.claim(await ground.owner(), "lane-a", Slot.DRAIN, State.WORKING)
    assert claimed is not None
    assert await ground.queue.commit(job_id, claimed.job.epoch, LOST)


async def test_a_crowd_of_calls_pushes_out_no_kept_answer(ground: Ground) -> None:
    job_id, epoch = await kept(ground)
    await ground.queue.transition(job_id, epoch, State.DONE, reason="answered", answer=Answer.of(b"{}"))
    ended = ground.key(k.ENDED, "sync", "done")
    now = int((await ground.queue.survey(Slot.DRAIN)).now * 1000)
    await ground.look.zadd(ended, {job_id: now - 1000})
    other, epoch = await ground.in_state(State.WORKING, surface=Surface.SYNC)
    await ground.look.zadd(ended, {f"01CROWD{number:05}": now - 500 for number in range(9_999)})
    await ground.queue.transition(other, epoch, State.DONE, reason="answered")
    assert await ground.look.zcard(ended) == 10_000
    assert await ground.look.zscore(ended, "01CROWD00000") is None
    job = await ground.queue.get(job_id)
    assert job is not None
    assert await ground.store.answers.stream(job) == b"{}"
    await ground.look.delete(ended)
