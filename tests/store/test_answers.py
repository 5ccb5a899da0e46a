"""Kept answers: written with `done` and by nothing else, shown inline up to the limit, gone with their job."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import pytest

from foreman.core.jobs import Slot, State, Surface
from foreman.protocols.job_object import INLINE_LIMIT
from foreman.store import keys as k
from foreman.store.answers import Answer

if TYPE_CHECKING:
    from tests.store.ground import Ground

BODY = b'{"model":"llama3","message":{"role":"assistant","content":"\xc3\xa4<"},"done":true}'


async def done(ground: Ground, body: bytes = BODY, surface: Surface = Surface.ASYNC) -> str:
    """A job that has ended with this answer."""
    job_id, epoch = await ground.in_state(State.WORKING, surface=surface)
    assert await ground.queue.transition(job_id, epoch, State.DONE, reason="answered", answer=Answer.of(body))
    return job_id


async def test_an_answer_comes_back_byte_for_byte(ground: Ground) -> None:
    job = await ground.queue.get(await done(ground))
    assert job is not None
    found = await ground.store.answers.get(job, "completion")
    assert found is not None
    artifact, body = found
    assert body == BODY
    assert (artifact.content_type, artifact.size) == ("application/json", len(BODY))
    assert artifact.sha256 == hashlib.sha256(BODY).hexdigest()
    assert await ground.store.answers.get(job, "thumbnail") is None
    [shown] = await ground.store.answers.shown(job)
    assert (shown.inline, shown.url) == ({"model": "llama3", "message": {"role": "assistant", "content": "ä<"}, "done": True}, None)  # fmt: skip


@pytest.mark.parametrize(("size", "inline"), [(INLINE_LIMIT, True), (INLINE_LIMIT + 1, False)])
async def test_the_limit_is_inclusive(ground: Ground, size: int, inline: bool) -> None:
    body = b'"' + b"x" * (size - 2) + b'"'
    job = await ground.queue.get(await done(ground, body))
    assert job is not None
    [shown] = await ground.store.answers.shown(job)
    assert (shown.inline is not None, shown.url is None, shown.size) == (inline, inline, size)
    if not inline:
        assert shown.url == f"/jobs/{job.id}/artifacts/completion"


async def test_a_fenced_end_keeps_nothing(ground: Ground) -> None:
    """A worker that lost its lease and comes back with an answer of its own."""
    job_id, epoch = await ground.in_state(State.WORKING, surface=Surface.ASYNC)
    assert await ground.queue.hand_back(job_id, epoch, reason="test", failure=None) is State.QUEUED
    late = Answer.of(b'"late"')
    assert not await ground.queue.transition(job_id, epoch, State.DONE, reason="answered", answer=late)
    assert not [key async for key in ground.look.scan_iter(match="*:artifact:*") if job_id in key]
    claimed = await ground.queue.claim(await ground.owner(), "lane-a", Slot.DRAIN, State.WORKING)
    assert claimed is not None
    assert await ground.queue.transition(
        job_id, claimed.job.epoch, State.DONE, reason="answered", answer=Answer.of(BODY)
    )
    job = await ground.queue.get(job_id)
    assert job is not None
    found = await ground.store.answers.get(job, "completion")
    assert found is not None
    assert found[1] == BODY


async def test_only_done_has_an_answer(ground: Ground) -> None:
    job_id, epoch = await ground.in_state(State.WORKING, surface=Surface.ASYNC)
    assert await ground.queue.transition(job_id, epoch, State.CANCELLED, reason="cancelled", answer=Answer.of(BODY))
    job = await ground.queue.get(job_id)
    assert job is not None
    assert job.artifacts == ()
    assert not await ground.look.exists(ground.key(k.ARTIFACT, job_id, "completion"))


@pytest.mark.parametrize("surface", Surface)
async def test_it_lives_as_long_as_its_job(ground: Ground, surface: Surface) -> None:
    job_id = await done(ground, surface=surface)
    of_job = await ground.look.pttl(ground.key(k.JOB, job_id))
    of_answer = await ground.look.pttl(ground.key(k.ARTIFACT, job_id, "completion"))
    assert of_job - 1000 < of_answer <= of_job
    assert of_answer > 0
