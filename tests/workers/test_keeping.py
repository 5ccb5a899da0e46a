"""Async jobs through a worker: what is kept of their answers, and that nothing of a lost run is."""

from __future__ import annotations

import json
import re

import aiohttp
import pytest

from foreman.core.errors import Code, Failure
from foreman.core.jobs import Priority, Slot, State
from foreman.link.channel import Framing, Head
from foreman.protocols.fold import PATHS
from foreman.store.errors import StoreUnavailableError
from tests.workers.conftest import wait_until
from workers.runs.keeping import Keeping

TIMES = re.compile(rb'"(created_at|\w+_duration)":("[^"]*"|\d+)')
CHAT = {"model": "a", "messages": [{"role": "user", "content": "hi"}]}
PROMPT = {"model": "a", "prompt": "hi"}


async def sent(here, body=CHAT, *, endpoint="/api/chat", **more):
    """A job of the async surface, as POST /jobs submits it."""
    stream = body.get("stream", endpoint in PATHS)
    return await here.submit(
        "a", endpoint=endpoint, body=body, priority=Priority.NORMAL, gateway_less=True, stream=stream, **more
    )


async def completion(here, job):
    """The bytes that are kept of a job's answer."""
    found = await here.store.answers.get(job, "completion")
    assert found is not None
    artifact, body = found
    assert (artifact.size, artifact.content_type) == (len(body), "application/json")
    return body


async def direct(fake, path, body):
    async with aiohttp.ClientSession(fake.url) as session, session.post(path, json=body) as reply:
        return await reply.read()


def asked_of(fake, path):
    return [json.loads(request.body) for request in fake.requests_to(path)]


@pytest.mark.parametrize("stream", [None, True, False])
@pytest.mark.parametrize(
    ("endpoint", "question"), [("/api/chat", CHAT), ("/api/chat", CHAT | {"think": True}), ("/api/generate", PROMPT)]
)
async def test_a_native_job_runs_streamed_and_keeps_the_whole(ollama, floor, endpoint, question, stream):
    fake = await ollama(["a"], tokens=5)
    here = await floor(gpu=fake)
    caller = await sent(here, question if stream is None else question | {"stream": stream}, endpoint=endpoint)
    job = await here.final(caller)
    assert (job.state, job.error) == (State.DONE, None)
    assert [body.get("stream", True) for body in asked_of(fake, endpoint) if len(body) > 2][-1] is True
    whole = await direct(fake, endpoint, question | {"stream": False})
    kept = await completion(here, job)
    assert TIMES.sub(b"", kept) == TIMES.sub(b"", whole)
    assert job.usage == {
        "prompt_tokens": json.loads(kept)["prompt_eval_count"],
        "completion_tokens": json.loads(kept)["eval_count"],
    }
    assert job.timings.keys() >= {"queued_ms", "ttft_ms", "tpot_ms", "total_ms"}
    assert caller.calls == []


async def test_the_job_object_has_the_result_inline(ollama, floor):
    fake = await ollama(["a"], tokens=3)
    here = await floor(gpu=fake)
    job = await here.final(await sent(here))
    [shown] = await here.store.answers.shown(job)
    assert shown.inline == json.loads(await completion(here, job))
    assert shown.inline["done"] is True


async def test_a_v1_job_goes_with_stream_false_and_is_kept_as_it_came(ollama, floor):
    fake = await ollama(["a"], tokens=4)
    here = await floor(gpu=fake)
    body = CHAT | {"stream": True, "stream_options": {"include_usage": True}}
    job = await here.final(await sent(here, body, endpoint="/v1/chat/completions"))
    [request] = asked_of(fake, "/v1/chat/completions")
    assert (request["stream"], request["stream_options"]) == (False, None)
    answer = json.loads(await completion(here, job))
    assert answer["object"] == "chat.completion"
    assert job.usage["completion_tokens"] == 4
    assert "tpot_ms" not in job.timings


async def test_embeddings_and_loads_are_kept_as_they_came(ollama, floor):
    fake = await ollama(["a"])
    here = await floor(gpu=fake)
    embedded = await sent(here, {"model": "a", "input": "hi"}, endpoint="/api/embed", slot=Slot.EMBED)
    loaded = await sent(here, {"model": "a"}, endpoint="/api/generate")
    assert json.loads(await completion(here, await here.final(embedded)))["embeddings"]
    assert json.loads(await completion(here, await here.final(loaded)))["done_reason"] == "load"


async def test_the_tokens_of_a_long_answer_are_counted_too(ollama, floor):
    fake = await ollama(["a"])
    here = await floor(gpu=fake)
    body = {"model": "a", "input": [f"text {number}" for number in range(400)]}
    job = await here.final(await sent(here, body, endpoint="/api/embed", slot=Slot.EMBED))
    kept = await completion(here, job)
    assert len(kept) > 262_144
    assert job.usage == {"prompt_tokens": json.loads(kept)["prompt_eval_count"]}
    [shown] = await here.store.answers.shown(job)
    assert (shown.inline, shown.url) == (None, f"/jobs/{job.id}/artifacts/completion")


async def test_an_answer_of_megabytes_is_kept_whole(ollama, floor):
    fake = await ollama(["a"], tokens=1200)
    here = await floor(gpu=fake)
    question = CHAT | {"logprobs": True, "top_logprobs": 20}
    kept = await completion(here, await here.final(await sent(here, question)))
    assert len(kept) > 1 << 20
    whole = json.loads(await direct(fake, "/api/chat", question | {"stream": False}))
    assert json.loads(kept)["logprobs"] == whole["logprobs"]


async def test_an_openai_target_answers_a_native_job_in_ollamas_words(ollama, floor):
    fake = await ollama(["a"], kind="openai", tokens=5)
    here = await floor(vllm=fake)
    job = await here.final(await sent(here, CHAT | {"stream": False}))
    answer = json.loads(await completion(here, job))
    [request] = asked_of(fake, "/v1/chat/completions")
    assert request["stream"] is True
    assert (answer["done"], answer["eval_count"]) == (True, 5)
    assert list(answer)[:3] == ["model", "created_at", "message"]
    assert answer["message"]["content"]
    assert job.usage["completion_tokens"] == 5


CUTS = {
    "reset-mid": {"after": 3},
    "close-mid": {"after": 3},
    "clean-end": {"after": 3},
    "half-line": {"after": 3},
    "wrong-length": {},
    "reset-first": {},
}


@pytest.mark.parametrize("kind", CUTS)
async def test_a_cut_answer_is_asked_for_again_and_nothing_of_it_kept(ollama, floor, kind):
    fake = await ollama(["a"], tokens=6)
    here = await floor(gpu=fake)
    fake.fault(kind, **CUTS[kind])
    job = await here.final(await sent(here))
    assert (job.state, job.attempt) == (State.DONE, 2)
    whole = await direct(fake, "/api/chat", CHAT | {"stream": False})
    assert json.loads(await completion(here, job))["message"] == json.loads(whole)["message"]
    reasons = [event.reason for event in await here.queue.events(job.id)]
    assert {"upstream_truncated", "upstream_unreachable"} & set(reasons)


async def test_a_translated_answer_that_was_cut_is_asked_for_again(ollama, floor):
    fake = await ollama(["a"], kind="openai", tokens=5)
    here = await floor(vllm=fake)
    fake.fault("clean-end", after=3)
    job = await here.final(await sent(here))
    assert (job.state, job.attempt) == (State.DONE, 2)
    assert json.loads(await completion(here, job))["eval_count"] == 5


async def test_cuts_without_end_use_up_the_attempts(ollama, floor):
    fake = await ollama(["a"], tokens=6)
    here = await floor(gpu=fake)
    fake.fault("clean-end", after=2, times=-1)
    job = await here.final(await sent(here))
    assert (job.state, job.attempt, job.error["code"]) == (State.FAILED, 3, "upstream_truncated")
    assert job.artifacts == ()


async def test_a_worker_that_leaves_gives_its_job_to_the_next(ollama, floor):
    fake = await ollama(["a"], tokens=6)
    first = await floor(gpu=fake)
    gate = fake.gate(after=3)
    caller = await sent(first)
    await gate.reached()
    await first.worker.stop(0)
    gate.open()
    second = await floor(gpu=fake)
    job = await second.final(caller)
    assert (job.state, job.attempt, job.epoch) == (State.DONE, 1, 3)
    assert json.loads(await completion(second, job))["eval_count"] == 6


async def test_a_refusal_is_final_and_keeps_nothing(ollama, floor):
    fake = await ollama(["a"])
    here = await floor(gpu=fake)
    fake.fault("status", status=418, words="no such brew")
    job = await here.final(await sent(here))
    assert (job.state, job.attempt, job.error["code"], job.artifacts) == (State.FAILED, 1, "upstream_error", ())
    assert "no such brew" in job.error["message"]


def test_a_refusal_in_any_words_is_no_answer_to_judge():
    """What the executor says of it stands: a proxy's page of HTML, however long."""
    refused: list[Failure] = []
    keeping = Keeping("/api/chat", 10, refused.append)
    keeping.head(Head(502, (), Framing.RAW))
    keeping.data(b"<html>Bad Gateway")
    keeping.end()
    assert refused == []


@pytest.mark.parametrize("kind", ["error-line", "garbage", "endless-line", "garbage-http"])
async def test_nonsense_is_final_and_keeps_nothing(ollama, floor, kind):
    fake = await ollama(["a"], tokens=6)
    here = await floor(gpu=fake)
    fake.fault(kind, after=2)
    job = await here.final(await sent(here))
    assert (job.state, job.error["code"], job.artifacts) == (State.FAILED, "upstream_error", ())
    assert (await here.final(await sent(here))).state is State.DONE


async def test_a_v1_answer_that_is_no_json_is_an_upstream_error(ollama, floor):
    fake = await ollama(["a"], tokens=6)
    here = await floor(gpu=fake)
    fake.fault("garbage")
    job = await here.final(await sent(here, endpoint="/v1/chat/completions"))
    assert (job.state, job.error["code"]) == (State.FAILED, "upstream_error")
    assert "no JSON" in job.error["message"]


@pytest.mark.parametrize("endpoint", ["/api/chat", "/v1/chat/completions"])
async def test_an_answer_past_the_limit_fails_and_the_target_is_let_go(ollama, floor, endpoint):
    fake = await ollama(["a"], tokens=5000)
    here = await floor(gpu=fake, max_answer="2KiB")
    gate = fake.gate(after=4000)
    job = await here.final(await sent(here, endpoint=endpoint)) if endpoint == "/api/chat" else None
    gate.open()
    job = job or await here.final(await sent(here, endpoint=endpoint))
    await fake.until(lambda f: not f.answering)
    assert (job.state, job.error["code"], job.artifacts) == (State.FAILED, "upstream_error", ())
    assert "FOREMAN_MAX_ANSWER" in job.error["message"]


@pytest.mark.parametrize("stream", [True, False])
async def test_cancelled_while_working_the_target_is_let_go_at_once(ollama, floor, stream):
    fake = await ollama(["a"], tokens=50)
    here = await floor(gpu=fake)
    gate = fake.gate(after=2)
    caller = await sent(here, endpoint="/api/chat" if stream else "/v1/chat/completions")
    await gate.reached()
    await here.queue.cancel(caller.job_id, Failure(Code.CANCELLED, "enough"))
    await fake.until(lambda f: not f.answering)
    job = await here.final(caller)
    assert (job.state, job.artifacts) == (State.CANCELLED, ())


async def test_silence_between_two_lines_is_a_stall(ollama, floor):
    fake = await ollama(["a"], tokens=4)
    here = await floor(gpu=fake, upstream_timeout=0.1)
    fake.fault("hang-mid", after=2)
    job = await here.final(await sent(here, CHAT | {"stream": False}))
    await fake.until(lambda f: not f.answering)
    assert (job.state, job.error["code"]) == (State.FAILED, "stalled")
    assert "silent for 0.1 s" in job.error["message"]


async def test_its_tokens_are_seen_while_it_runs(ollama, floor):
    fake = await ollama(["a"], tokens=50)
    here = await floor(gpu=fake)
    gate = fake.gate(after=7)
    caller = await sent(here, CHAT | {"stream": False})
    await gate.reached()

    async def seen():
        status = await here.status("gpu")
        return [run for run in status.running if run["job_id"] == caller.job_id and run["tokens"] >= 7]

    assert await wait_until(seen)
    await gate.release()
    assert (await here.final(caller)).state is State.DONE


@pytest.mark.parametrize("lost", ["the command", "its reply"])
async def test_an_answer_is_kept_once_the_store_is_back(ollama, floor, monkeypatch, lost):
    fake = await ollama(["a"], tokens=4)
    here = await floor(gpu=fake)
    transition, tries = here.queue.transition, []

    async def away(job_id, epoch, to, **more):
        tries.append(to)
        if to is State.DONE and len(tries) <= 3:
            if lost == "its reply":
                await transition(job_id, epoch, to, **more)
            raise StoreUnavailableError("away")
        return await transition(job_id, epoch, to, **more)

    monkeypatch.setattr(here.queue, "transition", away)
    caller = await sent(here)
    await wait_until(lambda: tries.count(State.DONE) >= 3)
    job = await here.final(caller)
    assert (job.state, job.attempt) == (State.DONE, 1)
    assert json.loads(await completion(here, job))["eval_count"] == 4
    assert [event.state for event in await here.queue.events(job.id)].count(State.DONE) == 1


async def test_a_fault_of_ours_while_an_answer_is_kept_ends_the_job(ollama, floor, monkeypatch):
    async def broken(_):
        raise RecursionError("ours")

    here = await floor(gpu=await ollama(["a"], tokens=4))
    monkeypatch.setattr(Keeping, "answer", broken)
    job = await here.final(await sent(here))
    assert (job.state, job.error["code"]) == (State.FAILED, Code.INTERRUPTED)
