"""Sync jobs that outlive their caller, through a worker: every reader gets the answer from its beginning, and it is kept."""

from __future__ import annotations

import asyncio
import json
from types import SimpleNamespace

import pytest

from foreman.core.errors import Code
from foreman.core.jobs import Slot, State
from foreman.link.channel import Framing
from foreman.protocols.link import parse_head
from foreman.store.records import Order
from tests.workers.conftest import Caller, wait_until
from workers.drain.orders import Orders


async def joined(here, first: Caller, name: str) -> Caller:
    """A further reader of a job."""
    reader = here.door.callers[name] = Caller(name)
    await here.queue.attach(first.job_id, here.gateway, name)
    return reader


@pytest.mark.parametrize("when", ["queued", "running", "begun"])
async def test_a_second_reader_gets_all_of_it_whenever_it_comes(ollama, floor, when):
    fake = await ollama(["a"], tokens=5)
    here = await floor(gpu=fake)
    gate = fake.gate(after=2 if when == "begun" else 0)
    blocker = await here.submit("a") if when == "queued" else None
    if blocker:
        await gate.reached()
    first = await here.submit("a", finish=True)
    if when == "queued":
        second = await joined(here, first, "R2")
    else:
        await gate.reached()
        if when == "begun":
            await first.until(lambda c: len(c.units) == 2)
        second = await joined(here, first, "R2")
        await second.until(lambda c: c.units if when == "begun" else "working" in c.calls)
    gate.open()
    await first.ended()
    await second.ended()
    assert first.calls == second.calls == ["started", "working", "head", "end"]
    assert first.units == second.units
    assert len(fake.requests_to("/api/chat")) == (2 if blocker else 1)


async def test_what_is_kept_is_the_stream_and_the_whole(ollama, floor):
    here = await floor(gpu=await ollama(["a"], tokens=5))
    caller = await (await here.submit("a", finish=True)).ended()
    job = await here.final(caller)
    assert await here.store.answers.stream(job) == caller.body
    _, whole = await here.store.answers.get(job, "completion")
    assert json.loads(whole)["message"]["content"] == "".join(json.loads(u)["message"]["content"] for u in caller.units)
    status, _, framing = parse_head(job.answer_head.encode())
    assert (status, framing) == (200, Framing.NDJSON)
    assert (await here.queue.kept(job.id)).body


async def test_an_answer_that_is_no_stream_is_kept_as_it_came(ollama, floor):
    here = await floor(gpu=await ollama(["a"], tokens=5))
    caller = await (await here.submit("a", stream=False, finish=True)).ended()
    job = await here.final(caller)
    artifact, body = await here.store.answers.get(job, "completion")
    assert (body, artifact.content_type) == (caller.body, "application/json; charset=utf-8")
    assert await here.store.answers.stream(job) == caller.body


@pytest.mark.parametrize("tokens", [5, 300])
async def test_of_events_too_the_stream_and_the_whole_are_kept(ollama, floor, tokens):
    here = await floor(gpu=await ollama(["a"], tokens=tokens))
    caller = await (await here.submit("a", endpoint="/v1/chat/completions", finish=True)).ended()
    job = await here.final(caller)
    artifact, whole = await here.store.answers.get(job, "completion")
    assert artifact.content_type == "application/json"
    assert json.loads(whole)["object"] == "chat.completion"
    assert len(json.loads(whole)["choices"][0]["message"]["content"].split()) >= tokens / 2
    assert await here.store.answers.stream(job) == caller.body


async def test_of_a_pull_its_last_word_is_kept_as_the_whole(ollama, floor):
    here = await floor(gpu=await ollama(["a"]))
    pull = await here.submit("new", endpoint="/api/pull", slot=Slot.SIDE, body={"model": "new"}, finish=True)
    caller = await pull.ended()
    job = await here.final(caller)
    artifact, whole = await here.store.answers.get(job, "completion")
    assert (whole, artifact.content_type) == (b'{"status":"success"}', "application/json")
    assert await here.store.answers.stream(job) == caller.body


async def test_it_runs_on_without_anybody(ollama, floor):
    fake = await ollama(["a"], tokens=5)
    here = await floor(gpu=fake)
    gate = fake.gate(after=1)
    caller = await here.submit("a", finish=True)
    await gate.reached()
    await caller.until(lambda c: c.units)
    caller.feedback.cancel(Code.CALLER_GONE)
    await caller.until(lambda c: "lost" in c.calls)
    gate.open()
    job = await here.final(caller)
    assert (job.state, job.usage["completion_tokens"]) == (State.DONE, 5)
    assert (await here.store.answers.stream(job)).count(b"\n") == 6


async def test_a_reader_that_lags_holds_nobody_and_gets_the_rest_after_the_end(ollama, floor):
    fake = await ollama(["a"], tokens=4000)
    here = await floor(gpu=fake, spool_bytes=65536)
    caller = await here.submit("a", finish=True)
    job = await here.final(caller)
    assert job.state is State.DONE
    assert not caller.over.is_set()
    seen = 0
    while not caller.over.is_set():
        assert len(caller.body) - seen <= 65536 * 2
        fresh = len(caller.body) - seen
        assert fresh
        seen += fresh
        caller.feedback.credit(fresh)
        if not caller.over.is_set():
            await caller.until(lambda c, seen=seen: len(c.body) > seen or c.over.is_set())
    assert caller.body == await here.store.answers.stream(job)


async def test_past_the_limit_it_fails_and_keeps_nothing(ollama, floor):
    here = await floor(gpu=await ollama(["a"], tokens=4000), max_answer=20_000)
    caller = await (await here.submit("a", finish=True)).ended()
    job = await here.final(caller)
    assert (job.state, job.error["code"], job.artifacts) == (State.FAILED, "upstream_error", ())
    assert "FOREMAN_MAX_ANSWER" in caller.failure.message


@pytest.mark.parametrize("after", [0, 2])
async def test_a_cut_before_the_first_byte_runs_again_and_after_it_never(ollama, floor, after):
    fake = await ollama(["a"], tokens=5)
    here = await floor(gpu=fake)
    fake.fault("reset-mid" if after else "reset-first", **({"after": after} if after else {}))
    caller = await (await here.submit("a", finish=True)).ended()
    job = await here.final(caller)
    if after:
        assert (job.state, caller.failure.code, len(caller.heads)) == (State.FAILED, Code.UPSTREAM_TRUNCATED, 1)
    else:
        assert (job.state, job.attempt) == (State.DONE, 2)
        assert caller.calls == ["started", "working", "lost", "started", "working", "head", "end"]


async def test_a_refusal_keeps_its_status_and_bytes(ollama, floor):
    fake = await ollama(["a"])
    here = await floor(gpu=fake)
    fake.fault("status", status=418, words="no such brew")
    caller = await (await here.submit("a", finish=True)).ended()
    job = await here.final(caller)
    assert (caller.heads[0].status, json.loads(caller.body)) == (418, {"error": "no such brew"})
    assert (job.state, job.artifacts) == (State.FAILED, ())


async def test_every_reader_hears_of_a_cancel(ollama, floor):
    fake = await ollama(["a"], tokens=5)
    here = await floor(gpu=fake)
    gate = fake.gate(after=1)
    first = await here.submit("a", finish=True)
    await gate.reached()
    second = await joined(here, first, "R2")
    await second.until(lambda c: c.units)
    worker_run = here.worker.targets["gpu"].runs[first.job_id]
    worker_run.cancel(Code.CANCELLED)
    await first.ended()
    await second.ended()
    assert first.failure.code is second.failure.code is Code.CANCELLED
    gate.open()
    await wait_until(lambda: fake.cancels == 1)


@pytest.mark.parametrize("verb", ["attach", "cancel"])
async def test_an_order_that_overtakes_the_claim_is_obeyed_at_once(ollama, floor, monkeypatch, verb):
    here = await floor(gpu=await ollama(["a"], tokens=5))
    target, claimed = here.worker.targets["gpu"], asyncio.Event()
    start = target.start

    def held(claim, *rest):  # what the store said after the claim is heard before its reply
        order = Order(verb, "gpu", claim.job.id, claim.job.epoch, code="cancelled", gateway=here.gateway, reader="R2")
        here.worker._obey(order)
        claimed.set()
        return start(claim, *rest)

    monkeypatch.setattr(target, "start", held)
    second = here.door.callers["R2"] = Caller("R2")
    first = await here.submit("a", finish=True)
    await claimed.wait()
    if verb == "cancel":
        assert (await here.final(first)).state is State.CANCELLED
    else:
        await first.ended()
        assert (await second.ended()).units == first.units


def test_an_order_for_the_next_run_waits_while_the_last_one_leaves():
    def run(epoch):
        return SimpleNamespace(job=SimpleNamespace(id="J", epoch=epoch), cancel=cancelled.append)

    cancelled, orders = [], Orders()
    orders.come(Order("cancel", "gpu", "J", 2, code="cancelled"), run(1))
    orders.begun(run(1))
    assert not cancelled
    orders.begun(run(2))
    assert cancelled == [Code.CANCELLED]
