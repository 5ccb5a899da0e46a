"""Answers that can be read again: by their key, from any byte, while they come and after; and what is refused."""

from __future__ import annotations

import asyncio
import json

import pytest

from foreman.core.errors import answered
from foreman.core.jobs import Slot, State
from foreman.store.answers import Answer
from tests.web.conftest import wait_until
from tests.web.puppet import NDJSON

CHAT = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
LINES = [b'{"message":{"content":"a"},"done":false}\n', b'{"message":{"content":"b"},"done":false}\n']
LAST = b'{"message":{"content":""},"done":true,"done_reason":"stop"}\n'
WHOLE = b"".join([*LINES, LAST])
EVENTS = b"".join(b"data: " + line.strip() + b"\n\n" for line in [*LINES, LAST]) + b"data: [DONE]\n\n"
KEY = {"Idempotency_Key": "turn-1"}
AS_EVENTS = {"Accept": "text/event-stream"}


async def ended(run, body: bytes = WHOLE, head=NDJSON) -> None:
    """The run is done, its answer kept, as a worker has it."""
    from dataclasses import replace

    from foreman.protocols.link import head_json

    answer = replace(Answer.of(body), head=head_json(head.status, head.headers, head.framing).decode(), stream=body)
    assert await run.puppet.store.queue.transition(
        run.job.id, run.job.epoch, State.DONE, reason="test", notify=False, answer=answer
    )


async def finished(gateway, worker, dial, **headers):
    """A keyed call that is over; its job id."""
    caller = await dial(gateway)
    caller.ask("POST", "/api/chat", CHAT, **(headers or KEY))
    run = await worker.claim()
    run.begin(NDJSON)
    for line in [*LINES, LAST]:
        run.outlet.data(line)
    run.outlet.end()
    reply = await caller.reply()
    assert reply.body == WHOLE
    await ended(run)
    return run.job.id


async def order(worker):
    """The next order to attach."""
    inbox = await worker.store.inbox("worker", worker.name)

    async def next_one():
        got = await inbox.receive()
        return got if got is not None and got.verb == "attach" else None

    return await wait_until(next_one)


async def test_the_same_key_after_the_end_gets_the_kept_answer_and_runs_nothing(gateway, worker, dial):
    job_id = await finished(gateway, worker, dial)
    caller = await dial(gateway)
    reply = await caller.post("/api/chat", CHAT, **KEY)
    assert (reply.status, reply.body, reply.header("X-Foreman-Job-Id")) == (200, WHOLE, job_id)
    assert reply.chunks == [*LINES, LAST]
    assert reply.header("Content-Type") == "application/x-ndjson"
    reply = await caller.post("/api/chat", CHAT, **KEY, **AS_EVENTS)
    assert reply.body == EVENTS
    assert (await worker.store.queue.survey(Slot.DRAIN)).lanes == ()


async def test_a_kept_answer_outlives_its_model(gateway, worker, dial):
    job_id = await finished(gateway, worker, dial)
    caller = await dial(gateway)
    queued = (await caller.post("/jobs", CHAT, **KEY)).json()["job_id"]
    await worker.publish("gpu1", "another")
    await gateway.inventory.fresh(0.0)
    reply = await caller.post("/api/chat", CHAT, **KEY)
    assert (reply.status, reply.body, reply.header("X-Foreman-Job-Id")) == (200, WHOLE, job_id)
    reply = await caller.post("/jobs", CHAT, **KEY)
    assert (reply.status, reply.json()["job_id"]) == (200, queued)
    for path in ("/api/chat", "/jobs"):
        assert (await caller.post(path, CHAT, Idempotency_Key="turn-2")).status == 404
        assert (await caller.post(path, CHAT)).status == 404


async def test_another_body_or_path_under_a_key_is_422(gateway, worker, dial):
    await finished(gateway, worker, dial)
    caller = await dial(gateway)
    for path, body in (("/api/chat", CHAT | {"x": 1}), ("/api/generate", CHAT)):
        reply = await caller.post(path, body, **KEY)
        assert reply.status == 422
        assert "Idempotency-Key" in reply.json()["error"]


@pytest.mark.parametrize("key", ["", "x" * 256, "caf\u00e9"])
async def test_a_key_that_is_none_is_422(gateway, dial, key):
    reply = await (await dial(gateway)).post("/api/chat", CHAT, Idempotency_Key=key)
    assert reply.status == 422


async def test_a_header_that_says_two_things_is_refused(gateway, dial):
    for name, values, path, status in (
        ("Idempotency-Key", ("a", "b"), "/api/chat", 422),
        ("Idempotency-Key", ("a", "b"), "/jobs", 422),
        ("X-Foreman-Deadline", ("1", "2"), "/api/chat", 400),
        ("X-Foreman-Priority", ("low", "high"), "/api/chat", 400),
        ("X-Foreman-Target", ("gpu1", "gpu2"), "/api/chat", 400),
        ("X-Foreman-On-Disconnect", ("finish", "cancel"), "/api/chat", 400),
    ):
        caller = await dial(gateway)
        first, second = values
        reply = await caller.post(path, CHAT, **{name: f"{first}\r\n{name.lower()}: {second}"})
        assert reply.status == status, name
        assert name in reply.body.decode()


async def test_the_same_header_twice_is_one(gateway, worker, dial):
    job_id = await finished(gateway, worker, dial)
    reply = await (await dial(gateway)).post("/api/chat", CHAT, Idempotency_Key="turn-1\r\nIdempotency-Key: turn-1")
    assert (reply.status, reply.header("X-Foreman-Job-Id")) == (200, job_id)


async def test_the_deadline_of_a_call_that_was_attached_ends_its_wait_and_not_the_job(gateway, worker, dial):
    first = await dial(gateway)
    first.ask("POST", "/api/chat", CHAT, **KEY)
    run = await worker.claim()
    reply = await (await dial(gateway)).post("/api/chat", CHAT, **KEY, X_Foreman_Deadline="0.05")
    assert (reply.status, reply.header("X-Foreman-Error")) == (504, "deadline_exceeded")
    await run.done(*LINES, LAST)
    assert (await first.reply()).body == WHOLE


async def test_a_key_is_of_one_surface(gateway, worker, dial):
    job_id = await finished(gateway, worker, dial)
    reply = await (await dial(gateway)).post("/jobs", CHAT, **KEY)
    assert reply.status == 202
    assert reply.json()["job_id"] != job_id


@pytest.mark.parametrize("state", [State.FAILED, State.CANCELLED])
async def test_a_key_is_free_again_where_there_is_no_answer(gateway, worker, dial, state):
    first = await dial(gateway)
    first.ask("POST", "/api/chat", CHAT, **KEY)
    run = await worker.claim()
    from foreman.core.errors import Code, Failure

    failure = Failure(Code.STALLED if state is State.FAILED else Code.CANCELLED, "no")
    run.outlet.error(failure)
    await run.end(state, failure)
    await first.reply()
    second = await dial(gateway)
    second.ask("POST", "/api/chat", CHAT, **KEY)
    again = await worker.claim()
    assert again.job.id != run.job.id


@pytest.mark.parametrize("how", [KEY, {"X_Foreman_On_Disconnect": "finish"}])
async def test_a_caller_that_leaves_costs_its_job_nothing(gateway, worker, dial, how):
    caller = await dial(gateway)
    caller.ask("POST", "/api/chat", CHAT, **how)
    await wait_until(lambda: any(call.submitted for call in gateway.waiting.calls.values()))
    await caller.close()
    await wait_until(lambda: not gateway.waiting.calls)
    run = await worker.claim()
    assert run.job.cancel_reason is None
    assert run.job.finish


async def test_on_disconnect_takes_two_words(gateway, dial):
    reply = await (await dial(gateway)).post("/api/chat", CHAT, X_Foreman_On_Disconnect="maybe")
    assert reply.status == 400
    assert "finish or cancel" in reply.json()["error"]


@pytest.mark.parametrize("form", ["lines", "events"])
async def test_from_any_byte_of_a_kept_answer(gateway, worker, dial, form):
    job_id = await finished(gateway, worker, dial)
    caller = await dial(gateway)
    whole, headers = (WHOLE, {}) if form == "lines" else (EVENTS, AS_EVENTS)
    for offset in {*range(0, len(whole), 5), *range(60, 90), len(whole) - 1, len(whole)}:
        reply = await caller.get(f"/jobs/{job_id}/stream?offset={offset}", **headers)
        assert (reply.status, reply.body) == (200, whole[offset:]), offset
        assert reply.header("X-Foreman-Job-Id") == job_id
    reply = await caller.get(f"/jobs/{job_id}/stream?offset=000{len(whole)}", **headers)
    assert (reply.status, reply.body) == (200, b"")
    for past in ("9" * 19, "9" * 20_000):
        assert (await caller.get(f"/jobs/{job_id}/stream?offset={past}", **headers)).status == 416
    reply = await caller.get(f"/jobs/{job_id}/stream?offset={len(whole) + 1}", **headers)
    assert reply.status == 416
    assert reply.json()["error"]["code"] == "bad_request"


@pytest.mark.parametrize("offset", ["-1", "x", "1.5", "", "+1", "NaN", "\u0663"])
async def test_an_offset_that_is_none(gateway, worker, dial, offset):
    job_id = await finished(gateway, worker, dial)
    reply = await (await dial(gateway)).get(f"/jobs/{job_id}/stream?offset={offset}")
    assert reply.status == 400


async def test_jobs_that_cannot_be_read_again(gateway, worker, dial):
    caller = await dial(gateway)
    unknown = await caller.get("/jobs/01ARZ3NDEKTSV4RRFFQ69G5FAV/stream")
    assert unknown.status == 404
    sent = await caller.post("/jobs", CHAT)
    reply = await caller.get(f"/jobs/{sent.json()['job_id']}/stream")
    assert reply.status == 409
    assert "sync surface" in reply.json()["error"]["message"]
    plain = await dial(gateway)
    plain.ask("POST", "/api/generate", {"model": "m", "prompt": "hi"})
    run = await worker.claim()
    while run.job.endpoint != "/api/generate":
        run = await worker.claim()
    reply = await caller.get(f"/jobs/{run.job.id}/stream")
    assert reply.status == 409
    assert "Idempotency-Key" in reply.json()["error"]["message"]
    await run.done(LAST)
    await plain.reply()
    reply = await caller.get(f"/jobs/{run.job.id}/stream")
    assert reply.status == 410


async def test_a_key_whose_answer_was_dropped_early_says_so_and_runs_nothing(gateway, worker, dial):
    job_id = await finished(gateway, worker, dial)
    kept = worker.store.queue.keys.prefix + f"job:{job_id}:artifact:"
    await worker.store.answers._connection.command("DEL", kept + "stream", kept + "completion")
    reply = await (await dial(gateway)).post("/api/chat", CHAT, **KEY)
    assert (reply.status, reply.header("X-Foreman-Job-Id")) == (410, job_id)
    assert "another key" in reply.json()["error"]
    assert (await worker.store.queue.counts()).queued == 0


async def test_a_failed_job_says_why(gateway, worker, dial):
    caller = await dial(gateway)
    caller.ask("POST", "/api/chat", CHAT, **KEY)
    run = await worker.claim()
    from foreman.core.errors import Code, Failure

    await run.failed(Failure(Code.STALLED, "silent for 5 s"))
    await caller.reply()
    reply = await caller.get(f"/jobs/{run.job.id}/stream")
    assert (reply.status, reply.header("X-Foreman-Error")) == (504, "stalled")
    assert reply.json()["error"]["message"] == "silent for 5 s"


@pytest.mark.parametrize(("status", "words"), [(400, "no tools here"), (404, "gone"), (500, None)])
async def test_a_refused_job_says_so_by_its_targets_status(gateway, worker, dial, status, words):
    caller = await dial(gateway)
    caller.ask("POST", "/api/chat", CHAT, **KEY)
    run = await worker.claim()
    await run.failed(answered(status, words))
    await caller.reply()
    reply = await caller.get(f"/jobs/{run.job.id}/stream")
    assert (reply.status, reply.header("X-Foreman-Error")) == (status, "upstream_error")
    assert (words or str(status)) in reply.json()["error"]["message"]


async def test_attaching_to_a_running_job_asks_its_worker_and_leaves_out_what_is_known(gateway, worker, dial):
    first = await dial(gateway)
    first.ask("POST", "/api/chat", CHAT, **KEY)
    run = await worker.claim()
    run.begin(NDJSON, LINES[0])
    assert (await first.head()).status == 200
    second = await dial(gateway)
    second.ask("GET", f"/jobs/{run.job.id}/stream?offset={len(LINES[0]) - 3}")
    told = await order(worker)
    assert (told.job_id, told.epoch, told.gateway) == (run.job.id, run.job.epoch, gateway.id)
    outlet = await worker.local.open(told.gateway, told.reader, told.epoch, run, window=1 << 20)
    outlet.working()
    outlet.head(NDJSON)
    for line in [*LINES, LAST]:
        outlet.data(line)
    outlet.end()
    reply = await second.reply()
    assert reply.body == WHOLE[len(LINES[0]) - 3 :]
    assert reply.complete


async def test_a_cut_link_is_attached_to_again_and_nothing_is_lost_or_doubled(gateway, worker, dial):
    caller = await dial(gateway)
    caller.ask("POST", "/api/chat", CHAT, **KEY)
    run = await worker.claim()
    run.begin(NDJSON, LINES[0])
    head = await caller.head()
    assert await caller.chunk() == LINES[0]
    run.outlet.back()
    told = await order(worker)
    outlet = await worker.local.open(told.gateway, told.reader, told.epoch, run, window=1 << 20)
    outlet.head(NDJSON)
    for line in [*LINES, LAST]:
        outlet.data(line)
    outlet.end()
    reply = await caller.rest(head)
    assert LINES[0] + reply.body == WHOLE
    assert reply.complete


async def test_another_run_never_goes_on_in_mid_answer(gateway, worker, dial):
    caller = await dial(gateway)
    caller.ask("POST", "/api/chat", CHAT, **KEY)
    run = await worker.claim()
    run.outlet.head(NDJSON)
    run.outlet.data(LINES[0])
    head = await caller.head()
    run.outlet.back()
    second = await worker.local.open(gateway.id, run.job.id, run.job.epoch + 1, run, window=1 << 20)
    second.head(NDJSON)
    reply = await caller.rest(head)
    assert json.loads(reply.chunks[-1])["error"]
    assert b'"b"' not in reply.body


async def test_the_job_ends_while_nobody_answers_the_call(gateway, worker, dial):
    """Its worker could not reach this gateway: the kept answer serves."""
    caller = await dial(gateway)
    caller.ask("POST", "/api/chat", CHAT, **KEY)
    run = await worker.claim()
    run.outlet.back()
    await ended(run)
    reply = await caller.reply()
    assert reply.body == WHOLE


async def test_a_stopped_gateway_leaves_the_job_alone(open_gateway, worker, dial):
    gateway = await open_gateway()
    caller = await dial(gateway)
    caller.ask("POST", "/api/chat", CHAT, **KEY)
    run = await worker.claim()
    await gateway.stop(0)
    reply = await caller.reply()
    assert reply.status == 503
    job = await worker.store.queue.get(run.job.id)
    assert (job.state, job.cancel_reason) == (State.WORKING, None)
    other = await open_gateway()
    second = await dial(other)
    second.ask("GET", f"/jobs/{run.job.id}/stream")
    told = await order(worker)
    assert told.gateway == other.id
    await ended(run)
    reply = await second.reply()
    assert reply.body == WHOLE


async def test_a_big_kept_answer_to_a_slow_reader_is_passed_on_in_windows(open_gateway, worker, dial):
    gateway = await open_gateway(spool_bytes=65536)
    job_id = await finished(gateway, worker, dial)
    body = b"".join(b'{"n":%d,"pad":"%s"}\n' % (n, b"x" * 1000) for n in range(15_000)) + LAST
    await worker.store.answers._connection.command(
        "SET", worker.store.queue.keys.prefix + f"job:{job_id}:artifact:stream", body, "KEEPTTL"
    )
    caller = await dial(gateway)
    caller.ask("GET", f"/jobs/{job_id}/stream?offset=2000000")
    call = await wait_until(lambda: next(iter(gateway.waiting.calls.values()), None))
    await wait_until(lambda: call.relay.wire.backlog or not gateway.waiting.calls)
    await asyncio.sleep(0)
    assert sum(len(framed) for framed, _ in call.relay.wire._pending) <= 4 * 65536
    reply = await caller.reply()
    assert reply.body == body[2000000:]


async def test_slow_readers_of_one_kept_answer_share_a_copy_of_it(open_gateway, worker, dial):
    gateway = await open_gateway(spool_bytes=65536)
    job_id = await finished(gateway, worker, dial)
    await worker.store.answers._connection.command(
        *("SET", worker.store.queue.keys.prefix + f"job:{job_id}:artifact:stream"),
        *(b'{"pad":"%s"}\n' % (b"x" * 1000) * 15_000 + LAST, "KEEPTTL"),
    )
    slow = [await dial(gateway) for _ in range(3)]
    for caller in slow:
        caller.ask("GET", f"/jobs/{job_id}/stream")
    calls = gateway.waiting.calls
    await wait_until(lambda: len(calls) == 3 and all(call.relay.wire.backlog for call in calls.values()))
    held = [call.relay.feedback for call in calls.values()]
    assert len({id(one._kept) for one in held}) == 1
    for caller in slow:
        await caller.close()
    await wait_until(lambda: not calls and not any(one._kept.units for one in held))


async def test_a_key_is_of_one_token_and_so_is_the_answer(open_gateway, worker, dial):
    gateway = await open_gateway(token="operator-token", tokens="ann=token-of-ann,bob=token-of-bob")
    ann, bob = {"Authorization": "Bearer token-of-ann"}, {"Authorization": "Bearer token-of-bob"}
    job_id = await finished(gateway, worker, dial, **KEY, **ann)
    caller = await dial(gateway)
    caller.ask("POST", "/api/chat", CHAT, **KEY, **bob)
    run = await worker.claim()
    assert run.job.id != job_id, "the same key of another token is another key"
    other = await dial(gateway)
    assert (await other.get(f"/jobs/{job_id}/stream", **bob)).status == 404
    assert (await other.get(f"/jobs/{job_id}/stream", **ann)).body == WHOLE
    assert (await other.get(f"/jobs/{job_id}/stream", Authorization="Bearer operator-token")).body == WHOLE
