"""One job through a worker to a fake model server and back: what the caller gets and what the store says."""

import asyncio
import gc
import json

import pytest
from aiohttp import web

from foreman.core.errors import Code, Failure
from foreman.core.jobs import State
from foreman.upstream.client import Call
from tests.workers.conftest import wait_until
from workers.runs.executor import Run


async def test_a_stream_comes_back_live_and_whole(ollama, floor):
    fake = await ollama(["a"], tokens=4, load_seconds=0.02)
    here = await floor(gpu=fake)
    gate = fake.gate(after=1)
    caller = await here.submit("a")
    await gate.reached()
    await caller.until(lambda c: len(c.units) == 1)  # the server holds the rest until the first line is here
    assert json.loads(caller.units[0])["done"] is False
    assert (await here.job(caller)).state is State.WORKING
    await gate.release()
    await caller.ended()
    job = await here.final(caller)
    assert caller.calls == ["started", "working", "head", "end"]
    assert caller.heads[0].status == 200
    assert all(unit.endswith(b"\n") for unit in caller.units)
    assert json.loads(caller.units[-1])["done"] is True
    assert (job.state, job.attempt, job.target) == (State.DONE, 1, "gpu")
    assert job.usage["completion_tokens"] == 4
    assert job.timings.keys() == {"queued_ms", "loading_ms", "ttft_ms", "tpot_ms", "total_ms"}


async def test_nothing_of_an_ended_run_waits_for_the_garbage_collector(ollama, floor):
    fake = await ollama(["a"])
    here = await floor(gpu=fake)
    gc.collect()  # of other tests
    gc.disable()
    try:
        await here.final(await (await here.submit("a")).ended())
        await wait_until(lambda: not any(isinstance(one, Run | Call) for one in gc.get_objects()))
    finally:
        gc.enable()


async def test_a_refused_request_passes_as_it_is_and_fails_the_job(ollama, floor):
    fake = await ollama(["a"])
    here = await floor(gpu=fake)
    fake.fault("status", status=418, words="no such brew")
    caller = await (await here.submit("a")).ended()
    job = await here.final(caller)
    assert caller.calls == ["started", "working", "head", "end"]
    assert (caller.heads[0].status, json.loads(caller.body)) == (418, {"error": "no such brew"})
    assert (job.state, job.error["code"]) == (State.FAILED, "upstream_error")
    assert "no such brew" in job.error["message"]


BROKEN = {
    # fault: (how, calls of the caller after `working`, error code, attempts used)
    "half-line": ({}, ["error upstream_truncated"], "upstream_truncated"),
    "half-line after one": (
        {"kind": "half-line", "after": 1},
        ["head", "error upstream_truncated"],
        "upstream_truncated",
    ),
    "reset-mid": ({"after": 1}, ["head", "error upstream_truncated"], "upstream_truncated"),
    "close-mid": ({"after": 2}, ["head", "error upstream_truncated"], "upstream_truncated"),
    "clean-end": ({"after": 2}, ["head", "error upstream_truncated"], "upstream_truncated"),
    "error-line": ({"after": 2}, ["head", "end"], "upstream_error"),
    "garbage": ({"after": 1}, ["head", "error upstream_truncated"], "upstream_truncated"),
    "garbage-http": ({}, ["error upstream_error"], "upstream_error"),
    "endless-line": ({"after": 1, "size": 20_000_000}, ["head", "error upstream_error"], "upstream_error"),
    "wrong-length": ({}, ["head", "error upstream_truncated"], "upstream_truncated"),
}


@pytest.mark.parametrize("name", BROKEN)
async def test_each_way_a_target_breaks_ends_the_job_and_not_the_worker(ollama, floor, name):
    how, calls, code = BROKEN[name]
    fake = await ollama(["a"], tokens=4)
    here = await floor(gpu=fake)
    fake.fault(**({"kind": name} | how))
    caller = await (await here.submit("a")).ended()
    job = await here.final(caller)
    after = await (await here.submit("a")).ended()  # the slot is free, the worker alive
    assert caller.calls == ["started", "working", *calls]
    assert (job.state, job.error["code"], job.attempt) == (State.FAILED, code, 1)
    assert after.calls[-1] == "end"


@pytest.mark.parametrize("endpoint", ["/v1/chat/completions", "/v1/messages", "/v1/responses"])
async def test_a_lost_error_on_v1_is_an_error(ollama, floor, endpoint):
    fake = await ollama(["a"], tokens=4)
    here = await floor(gpu=fake)
    fake.fault("error-line", after=2)
    messages = [{"role": "user", "content": "hi"}]
    body = {"model": "a", "stream": True, "messages": messages, "input": "hi", "max_tokens": 9}
    caller = await (await here.submit("a", endpoint=endpoint, body=body)).ended()
    job = await here.final(caller)
    assert caller.failure is not None
    assert job.error["code"] in {"upstream_error", "upstream_truncated"}


async def test_a_reset_before_the_first_byte_is_run_again_in_silence(ollama, floor):
    fake = await ollama(["a"])
    here = await floor(gpu=fake)
    fake.fault("reset-first", times=2)
    caller = await (await here.submit("a")).ended()
    job = await here.final(caller)
    assert [call for call in caller.calls if call != "working"] == [
        "started",
        "lost",
        "started",
        "lost",
        "started",
        "head",
        "end",
    ]
    assert (job.state, job.attempt) == (State.DONE, 3)


async def test_resets_without_end_use_up_the_attempts(ollama, floor):
    fake = await ollama(["a"])
    here = await floor(gpu=fake)
    fake.fault("reset-first", times=-1)
    caller = await (await here.submit("a")).ended()
    job = await here.final(caller)
    assert caller.failure.code == "upstream_unreachable"
    assert (job.state, job.attempt, job.error["code"]) == (State.FAILED, 3, "upstream_unreachable")


@pytest.mark.parametrize(("kind", "stream"), [("hang-first", True), ("hang-mid", True), ("hang-first", False)])
async def test_silence_is_a_stall(ollama, floor, kind, stream):
    fake = await ollama(["a"], tokens=4)
    here = await floor(gpu=fake, upstream_timeout=0.1)
    fake.fault(kind)
    caller = await (await here.submit("a", stream=stream)).ended()
    job = await here.final(caller)
    await fake.until(lambda f: not f.answering)
    assert (job.state, job.error["code"]) == (State.FAILED, "stalled")


async def test_a_drip_is_no_stall(ollama, floor):
    fake = await ollama(["a"], tokens=1)
    here = await floor(gpu=fake, upstream_timeout=0.5)
    fake.fault("drip", seconds=0.002)
    caller = await (await here.submit("a")).ended()
    assert caller.calls[-1] == "end"


async def test_cancelled_while_working_the_target_is_let_go_at_once(ollama, floor):
    fake = await ollama(["a"], tokens=50)
    here = await floor(gpu=fake)
    fake.gate(after=2)
    caller = await here.submit("a")
    await caller.until(lambda c: len(c.units) == 2)
    caller.feedback.cancel(Code.CALLER_GONE)
    await fake.until(lambda f: f.cancels == 1)
    job = await here.final(caller)
    fake.clear()
    after = await (await here.submit("a")).ended()
    assert (job.state, job.error["code"], job.attempt) == (State.CANCELLED, "caller_gone", 1)
    assert after.calls[-1] == "end"


async def test_cancelled_through_the_store_while_working(ollama, floor):
    fake = await ollama(["a"], tokens=50)
    here = await floor(gpu=fake)
    gate = fake.gate()
    caller = await here.submit("a")
    await gate.reached()
    await here.queue.cancel(caller.job_id, Failure(Code.CANCELLED, "no longer wanted"))
    await fake.until(lambda f: f.cancels == 1)
    job = await here.final(caller)
    assert (job.state, caller.calls[-1]) == (State.CANCELLED, "error cancelled")


async def test_cancelled_while_queued_it_never_costs_a_load(ollama, floor):
    fake = await ollama(["a", "b"])
    here = await floor(gpu=fake, options="&resident=1")
    gate = fake.gate(model="a")
    first = await here.submit("a")
    await gate.reached()
    second = await here.submit("b")
    await here.queue.cancel(second.job_id, Failure(Code.CALLER_GONE, "left"))
    gate.open()
    await first.ended()
    assert (await here.final(second)).state is State.CANCELLED
    await here.final(first)
    assert [load.model for load in fake.loads] == ["a:latest"]


async def test_a_caller_that_is_gone_with_its_gateway_costs_no_load(ollama, floor):
    """Claimed before anybody knew: it is handed back without a word to the target, however often."""
    fake = await ollama(["a", "b"])
    here = await floor(gpu=fake)
    await (await here.submit("a")).ended()
    living, here.gateway = here.gateway, "gw-gone"
    lost = await here.submit("b")
    await wait_until(lambda: _claimed_twice(here, lost))
    await here.queue.cancel(lost.job_id, Failure(Code.CALLER_GONE, "its gateway is dead"))
    assert (await here.final(lost)).attempt == 1
    assert [load.model for load in fake.loads] == ["a:latest"]
    here.gateway = living
    assert (await (await here.submit("b")).ended()).calls[-1] == "end"


async def _claimed_twice(here, caller):
    return (await here.job(caller)).epoch >= 2


async def test_cancelled_while_loading_the_load_is_stopped(ollama, floor):
    fake = await ollama(["a"])
    here = await floor(gpu=fake)
    gate = fake.gate(at="load")
    caller = await here.submit("a")
    await gate.reached()
    assert (await here.job(caller)).state is State.LOADING
    caller.feedback.cancel(Code.CALLER_GONE)
    await fake.until(lambda f: f.ledger.loads_stopped == 1)
    job = await here.final(caller)
    fake.clear()
    after = await (await here.submit("a")).ended()
    assert job.state is State.CANCELLED
    assert after.calls[-1] == "end"


async def test_a_cancelled_load_goes_on_while_another_job_of_its_lane_waits(ollama, floor):
    fake = await ollama(["a"])
    here = await floor(gpu=fake)
    gate = fake.gate(at="load")
    first = await here.submit("a")
    await gate.reached()
    second = await here.submit("a")
    first.feedback.cancel(Code.CALLER_GONE)
    assert (await here.final(first)).state is State.CANCELLED
    gate.open()
    await second.ended()
    job = await here.final(second)
    assert job.state is State.DONE
    assert (len(fake.loads), fake.ledger.loads_stopped) == (1, 0)
    assert "loading_ms" not in job.timings  # it found its lane resident


async def test_cancelled_in_prefill(ollama, floor):
    fake = await ollama(["a"], prefill_seconds=30)
    here = await floor(gpu=fake)
    caller = await here.submit("a")
    await fake.until(lambda f: any(seen.phase == "prefill" for seen in f.requests))
    caller.feedback.cancel(Code.CALLER_GONE)
    await fake.until(lambda f: f.cancels == 1)
    assert (await here.final(caller)).state is State.CANCELLED


async def test_a_deadline_cuts_a_running_job(ollama, floor):
    fake = await ollama(["a"], tokens=50)
    here = await floor(gpu=fake)
    fake.gate(after=1)
    caller = await (await here.submit("a", deadline_in=0.3)).ended()
    job = await here.final(caller)
    await fake.until(lambda f: f.cancels == 1)
    assert caller.calls == ["started", "working", "head", "error deadline_exceeded"]
    assert (job.state, job.error["code"]) == (State.FAILED, "deadline_exceeded")


async def test_keep_alive_is_added_where_absent_and_nowhere_else(ollama, floor):
    fake = await ollama(["a"])
    here = await floor(gpu=fake, keep_alive="15m")
    bare = b'{ "model":"a","x":1.0,"messages":[{"role":"user","content":"\xc3\xa9"}]}'
    own = b'{"model":"a","keep_alive":null,"messages":[{"role":"user","content":"x"}]}'
    v1 = b'{"model":"a","messages":[{"role":"user","content":"x"}]}'
    for endpoint, body in (("/api/chat", bare), ("/api/chat", own), ("/v1/chat/completions", v1)):
        await (await here.submit("a", endpoint=endpoint, body=body)).ended()
    sent = [seen.body for seen in fake.requests_to("/api/chat", "/v1/chat/completions")]
    preload = json.loads(fake.requests_to("/api/generate")[0].body)
    assert sent == [b'{"keep_alive":"15m",' + bare[1:], own, v1]
    assert preload == {"keep_alive": "15m", "model": "a", "stream": False}


async def test_a_slow_reader_pauses_the_target_and_goes_on(ollama, floor):
    fake = await ollama(["a"], tokens=400)
    here = await floor(gpu=fake, spool_bytes="4KiB")
    caller = await here.submit("a")
    await caller.until(lambda c: len(c.body) > 4096)
    run = here.worker.targets["gpu"].runs[caller.job_id]
    assert run._call._paused
    seen = 0
    while not caller.over.is_set():
        taken, seen = len(caller.body) - seen, len(caller.body)
        caller.feedback.credit(taken)
        await asyncio.sleep(0)
    assert (await here.final(caller)).state is State.DONE
    assert caller.body.count(b"\n") == 401


async def test_a_comment_of_a_target_that_still_reads_the_prompt_is_no_first_token(floor):
    said, go_on = b'data: {"choices":[{"index":0,"delta":{"content":"a"}}]}\r\n\r\n', asyncio.Event()

    async def models(_request):
        return web.json_response({"object": "list", "data": [{"id": "a"}]})

    async def chat(request):
        answer = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await answer.prepare(request)
        await answer.write(b": ping\r\n\r\n")
        await go_on.wait()
        await answer.write(said + b"data: [DONE]\r\n\r\n")
        return answer

    app = web.Application()
    app.add_routes([web.get("/v1/models", models), web.post("/v1/chat/completions", chat)])
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        here = await floor(targets=f"gpu=http://127.0.0.1:{runner.addresses[0][1]}?kind=openai", wait=False)
        await here.up("gpu")
        caller = await here.submit("a", endpoint="/v1/chat/completions")
        await caller.until(lambda c: c.units)
        assert here.worker.targets["gpu"].runs[caller.job_id].times.first is None
        go_on.set()
        await caller.ended()
        assert (await here.final(caller)).timings["ttft_ms"] > 0
        assert caller.units[:2] == [b": ping\r\n\r\n", said]
    finally:
        await runner.cleanup()
