"""Native calls through a worker to a /v1 server: Ollama's words come back, streamed and live."""

import json

import pytest

from foreman.core.jobs import State


@pytest.mark.parametrize("endpoint", ["/api/chat", "/api/generate"])
async def test_a_native_stream_is_translated_line_by_line_as_it_comes(ollama, floor, endpoint):
    fake = await ollama(["a"], kind="openai", tokens=5)
    here = await floor(vllm=fake)
    gate = fake.gate(after=3)
    caller = await here.submit("a", endpoint=endpoint)
    await gate.reached()
    await caller.until(lambda c: c.units)
    await gate.release()
    await caller.ended()
    job = await here.final(caller)
    lines = [json.loads(unit) for unit in caller.units]
    assert caller.heads[0].headers == (("Content-Type", "application/x-ndjson"),)
    assert [line["done"] for line in lines] == [False] * (len(lines) - 1) + [True]
    assert {line["model"] for line in lines} == {"a"}
    assert (job.state, job.usage["completion_tokens"]) == (State.DONE, 5)
    assert fake.requests_to("/v1/chat/completions")


async def test_a_whole_native_answer_is_translated(ollama, floor):
    fake = await ollama(["a"], kind="openai", tokens=3)
    here = await floor(vllm=fake)
    caller = await (await here.submit("a", stream=False)).ended()
    answer = json.loads(caller.body)
    assert (answer["done"], answer["eval_count"]) == (True, 3)
    assert answer["message"]["content"]


@pytest.mark.parametrize("unload", [False, True])
async def test_a_load_that_never_happens_is_answered_here(ollama, floor, unload):
    fake = await ollama(["a"], kind="openai")
    here = await floor(vllm=fake)
    body = json.dumps({"model": "a"} | ({"keep_alive": 0} if unload else {})).encode()
    caller = await (await here.submit("a", body=body)).ended()
    assert json.loads(caller.body)["done_reason"] == ("unload" if unload else "load")
    assert not fake.requests_to("/v1/chat/completions")


async def test_what_the_dialect_has_no_word_for_is_a_400_with_its_name(ollama, floor):
    fake = await ollama(["a"], kind="openai")
    here = await floor(vllm=fake)
    body = json.dumps({"model": "a", "prompt": "x", "context": [1, 2]}).encode()
    caller = await (await here.submit("a", endpoint="/api/generate", body=body)).ended()
    assert (caller.failure.status, "context" in caller.failure.message) == (400, True)
    assert (await here.final(caller)).error["code"] == "bad_request"


async def test_a_refusal_is_said_in_ollamas_words(ollama, floor):
    fake = await ollama(["a"], kind="openai")
    here = await floor(vllm=fake)
    fake.fault("status", status=429, words="slow down")
    caller = await (await here.submit("a")).ended()
    assert (caller.heads[0].status, json.loads(caller.body)) == (429, {"error": "slow down"})
    assert (await here.final(caller)).state is State.FAILED


@pytest.mark.parametrize("kind", ["clean-end", "reset-mid"])
async def test_a_cut_translated_stream_is_truncated(ollama, floor, kind):
    fake = await ollama(["a"], kind="openai", tokens=5)
    here = await floor(vllm=fake)
    fake.fault(kind, after=3)
    caller = await (await here.submit("a")).ended()
    assert caller.failure.code == "upstream_truncated"
