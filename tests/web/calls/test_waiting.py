"""What ends a wait: leaving, deadlines, targets that are down, the store's notices, a gateway that stops."""

from __future__ import annotations

import asyncio
import gc
import os
import time

import pytest

from foreman.core.errors import Code, Failure
from foreman.core.jobs import Slot, State
from foreman.store.keys import INBOX
from foreman.store.records import NewJob
from foreman.web import app
from foreman.web.calls.call import Ticket
from tests.web.calls.test_chat import CHAT, LINES, WHOLE
from tests.web.conftest import wait_until
from tests.web.puppet import JSON, NDJSON, SSE

STREAM = {**CHAT, "stream": True}


async def only_call(gateway):
    """The one call that waits, once its job is queued."""
    return await wait_until(lambda: next(iter(gateway.waiting.calls.values()), None))


async def state_of(store, job_id):
    job = await store.queue.get(job_id)
    return None if job is None else job.state


async def queued(gateway, store):
    call = await only_call(gateway)
    await wait_until(lambda: is_in(store, call.job_id, State.QUEUED))
    return call


async def is_in(store, job_id, state):
    return await state_of(store, job_id) is state


# ------------------------------------------------------------------ leaving


@pytest.mark.parametrize("body", [CHAT, {**CHAT, "stream": False}])
async def test_a_caller_that_leaves_while_queued_takes_its_job_along(gateway, worker, dial, store, body):
    caller = await dial(gateway)
    caller.ask("POST", "/api/chat", body)
    call = await queued(gateway, store)
    await caller.close()
    await wait_until(lambda: is_in(store, call.job_id, State.CANCELLED))
    assert gateway.waiting.calls == {}
    assert (await store.queue.survey(Slot.DRAIN)).lanes == ()


async def test_a_caller_that_leaves_while_its_job_is_being_submitted(gateway, worker, dial, store, monkeypatch):
    submit, submitted = store.queue.submit, asyncio.Event()

    async def slow(new):
        answer = await submit(new)
        submitted.set()
        await asyncio.Event().wait()
        return answer

    monkeypatch.setattr(store.queue, "submit", slow)
    caller = await dial(gateway)
    caller.ask("POST", "/api/chat", CHAT)
    await submitted.wait()
    call = await only_call(gateway)
    await caller.close()
    await wait_until(lambda: is_in(store, call.job_id, State.CANCELLED))


@pytest.fixture
def no_recovery(monkeypatch):
    """The gateway looks after nothing that was lost on the way: what arrives has come by the first way."""
    monkeypatch.setattr(app, "RECOVER", 3600)


@pytest.mark.parametrize("body", [CHAT, {**CHAT, "stream": False}])
@pytest.mark.parametrize("loading", [True, False])
async def test_a_caller_that_leaves_cancels_its_run(no_recovery, gateway, worker, dial, body, loading):
    caller = await dial(gateway)
    caller.ask("POST", "/api/chat", body)
    run = await worker.claim(to=State.LOADING if loading else State.WORKING)
    if not loading:
        run.outlet.working()
    await asyncio.sleep(0)
    await caller.close()
    async with asyncio.timeout(60):
        assert await run.cancelled is Code.CALLER_GONE


async def test_a_caller_that_leaves_in_mid_stream_cancels_its_run(gateway, worker, dial):
    caller = await dial(gateway)
    caller.ask("POST", "/api/chat", CHAT)
    run = await worker.claim()
    run.begin(NDJSON, LINES[0])
    await caller.head()
    await caller.close()
    async with asyncio.timeout(60):
        assert await run.cancelled is Code.CALLER_GONE
    for _ in range(3):
        run.outlet.data(LINES[1])  # what still comes hurts nobody
        await asyncio.sleep(0)


async def test_a_caller_that_half_closes_has_left(gateway, worker, dial, store):
    caller = await dial(gateway)
    caller.ask("POST", "/api/chat", CHAT)
    call = await queued(gateway, store)
    caller.writer.write_eof()
    await wait_until(lambda: is_in(store, call.job_id, State.CANCELLED))


# ------------------------------------------------------------------ heartbeats over real sockets


async def test_heartbeats_on_the_wire_and_then_the_answer(open_gateway, worker, dial):
    gateway = await open_gateway(headers_after="50ms", heartbeat="50ms")
    caller = await dial(gateway)
    caller.ask("POST", "/api/chat", CHAT)
    reply = await caller.head()
    assert (reply.status, reply.header("Content-Type")) == (200, "application/x-ndjson")
    assert [await caller.chunk() for _ in range(3)] == [b" "] * 3
    await (await worker.claim()).done(*LINES)
    await caller.rest(reply)
    assert b"".join(reply.chunks).lstrip(b" ") == b"".join(LINES)
    assert reply.complete


async def test_a_caller_may_ask_to_see_its_stream_wait(gateway, worker, dial):
    caller = await dial(gateway)
    caller.ask("POST", "/v1/chat/completions", {**CHAT, "stream": True}, X_Foreman_Progress="0.1")
    reply = await caller.head()  # after 20 s, and words after 15 more, by the settings alone
    assert reply.status == 200
    assert reply.header("X-Foreman-Job-Id")
    assert await until_line(caller, b": queued") == b": queued position=1 eta=10s\n"


@pytest.mark.parametrize("value", ["often", "0", "-1", "1e999", ""])
async def test_a_wish_to_see_it_wait_is_a_number_of_seconds(gateway, worker, dial, value):
    caller = await dial(gateway)
    reply = await caller.post("/api/chat", STREAM, X_Foreman_Progress=value)
    assert reply.status == 400
    assert b"X-Foreman-Progress" in reply.body


async def test_comment_lines_tell_state_and_place(open_gateway, worker, dial):
    gateway = await open_gateway(headers_after="50ms", heartbeat="50ms")
    first = await dial(gateway)
    first.ask("POST", "/v1/chat/completions", {**CHAT, "stream": True})
    await only_call(gateway)
    second = await dial(gateway)
    second.ask("POST", "/v1/chat/completions", {**CHAT, "stream": True})
    assert (await second.head()).header("Content-Type") == "text/event-stream"
    assert await until_line(second, b": queued") == b": queued position=2 eta=15s\n"
    run = await worker.claim(to=State.LOADING)
    loading = await until_line(first, b": loading", head=True)
    assert loading == b": loading elapsed=0s\n"
    run.outlet.working()
    assert await until_line(first, b": working") == b": working elapsed=0s\n"
    await worker.publish("gpu1", "m:latest", state="down", since=time.time() - 12)
    assert (await until_line(second, b": waiting")).startswith(b": waiting target=gpu1 down_for=12s\n")


async def until_line(caller, start, *, head=False):
    """The next chunk that begins so."""
    if head:
        await caller.head()
    while not (line := await caller.chunk()).startswith(start):
        pass
    return line


async def test_whole_answers_get_spaces_only_where_that_is_set(open_gateway, worker, dial):
    gateway = await open_gateway(json_headers_after="50ms", heartbeat="50ms")
    caller = await dial(gateway)
    caller.ask("POST", "/api/embed", {"model": "m", "input": "x"})
    reply = await caller.head()
    assert reply.header("Content-Type") == "application/json; charset=utf-8"
    assert await caller.chunk() == b" "
    await (await worker.claim(Slot.EMBED)).done(b'{"embeddings":[]}', head=JSON)
    await caller.rest(reply)
    assert b"".join(reply.chunks).strip() == b'{"embeddings":[]}'
    assert reply.complete


async def test_a_whole_answer_that_fails_after_its_head_is_cut(open_gateway, worker, dial):
    gateway = await open_gateway(json_headers_after="50ms", heartbeat="50ms")
    caller = await dial(gateway)
    caller.ask("POST", "/api/embed", {"model": "m", "input": "x"})
    reply = await caller.head()
    await (await worker.claim(Slot.EMBED)).failed(Failure(Code.UPSTREAM_TRUNCATED, "cut"))
    await caller.rest(reply)
    assert not reply.complete
    assert reply.body.strip() == b""


@pytest.fixture
def only_new_objects():
    """gc sees what the test makes, not all that a run of seven thousand tests has left: to walk that took 15 s of a loop's time."""
    gc.freeze()
    yield
    gc.unfreeze()


async def test_a_call_that_waits_holds_no_big_body(only_new_objects, gateway, worker, dial, store):
    caller = await dial(gateway)
    big = os.urandom(1 << 20).hex()
    held = big[:64].encode()
    caller.ask("POST", "/api/chat", {**CHAT, "stream": False, "images": [big]})
    await wait_until(lambda: any(call.submitted for call in gateway.waiting.calls.values()))
    (call,) = gateway.waiting.calls.values()
    await wait_until(lambda: call.submitted)
    del big
    gc.collect()
    assert not [found for found in gc.get_objects() if isinstance(found, NewJob | Ticket) and held in found_body(found)]
    run = await worker.claim()
    assert held in run.claimed.request
    await run.done(WHOLE, head=JSON)
    assert (await caller.reply()).complete


def found_body(found: NewJob | Ticket) -> bytes:
    return found.request if isinstance(found, NewJob) else found.body


# ------------------------------------------------------------------ down, late, cancelled, lost


async def test_a_target_that_stays_down_is_named_after_down_wait(open_gateway, worker, dial, store):
    gateway = await open_gateway(down_wait="300ms")
    await worker.publish("gpu1", "m:latest", state="down", since=0.0, error="connection refused")
    await wait_until(lambda: gateway.inventory.targets and gateway.inventory.targets[0].state == "down")
    caller = await dial(gateway)
    reply = await caller.post("/api/chat", CHAT)
    assert reply.status == 502
    assert reply.header("X-Foreman-Error") == "upstream_unreachable"
    said = reply.json()["error"]
    assert "gpu1" in said
    assert "1970-01-01T00:00:00Z" in said
    assert "connection refused" in said
    assert await is_in(store, reply.header("X-Foreman-Job-Id"), State.FAILED)


async def test_a_target_that_comes_up_in_time_answers(open_gateway, worker, dial):
    gateway = await open_gateway(down_wait="30s")
    await worker.publish("gpu1", "m:latest", state="down")
    await wait_until(lambda: gateway.inventory.targets and gateway.inventory.targets[0].state == "down")
    caller = await dial(gateway)
    caller.ask("POST", "/api/chat", CHAT)
    call = await only_call(gateway)
    await wait_until(lambda: call.down_from is not None)
    await worker.publish("gpu1", "m:latest")
    await wait_until(lambda: call.down_from is None)
    await (await worker.claim()).done(*LINES)
    assert (await caller.reply()).complete


async def test_down_wait_0_is_for_ever(open_gateway, worker, dial):
    gateway = await open_gateway(down_wait="0")
    await worker.publish("gpu1", "m:latest", state="down")
    await wait_until(lambda: gateway.inventory.targets and gateway.inventory.targets[0].state == "down")
    caller = await dial(gateway)
    caller.ask("POST", "/api/chat", CHAT)
    call = await only_call(gateway)
    await wait_until(lambda: call.down_from is not None)
    first = call.down_from
    call.down_from -= 1000
    before = gateway.inventory.targets
    await wait_until(lambda: gateway.inventory.targets is not before)
    assert call.down_from == first - 1000
    await (await worker.claim()).done(*LINES)
    assert (await caller.reply()).status == 200


async def test_a_deadline_missed_while_queued_is_a_504(gateway, worker, dial, store):
    caller = await dial(gateway)
    reply = await caller.post("/api/chat", CHAT, X_Foreman_Deadline="0.2")
    assert reply.status == 504
    assert reply.header("X-Foreman-Error") == "deadline_exceeded"
    assert await is_in(store, reply.header("X-Foreman-Job-Id"), State.FAILED)


async def test_a_deadline_missed_while_running_cuts_the_run(gateway, worker, dial):
    caller = await dial(gateway)
    caller.ask("POST", "/api/chat", CHAT, X_Foreman_Deadline="0.3")
    run = await worker.claim()
    async with asyncio.timeout(60):
        assert await run.cancelled is Code.DEADLINE_EXCEEDED
    await run.failed(Failure(Code.DEADLINE_EXCEEDED, "late"))
    assert (await caller.reply()).status == 504


async def test_a_job_that_somebody_cancels_ends_its_callers_wait(gateway, worker, dial, store):
    caller = await dial(gateway)
    caller.ask("POST", "/api/chat", CHAT)
    call = await queued(gateway, store)
    await store.queue.cancel(call.job_id, Failure(Code.CANCELLED, "the operator cleared the lane"))
    reply = await caller.reply()
    assert reply.status == 499
    assert reply.header("X-Foreman-Error") == "cancelled"


async def test_a_gateway_that_was_taken_for_dead_says_so_to_its_callers(gateway, worker, dial, store):
    caller = await dial(gateway)
    caller.ask("POST", "/api/chat", CHAT)
    await queued(gateway, store)
    await store.queue.leave(gateway.id)
    gateway._announced_at -= 10
    reply = await caller.reply()
    assert (reply.status, reply.header("X-Foreman-Error")) == (502, "interrupted")


async def test_a_worker_lost_before_the_first_byte_costs_the_caller_nothing(gateway, worker, dial, store):
    caller = await dial(gateway)
    caller.ask("POST", "/api/chat", CHAT)
    run = await worker.claim()
    run.outlet.working()
    await store.queue.hand_back(
        run.job.id, run.job.epoch, reason="test", failure=Failure(Code.INTERRUPTED, "x"), notify=False
    )
    run.outlet.back()
    await (await worker.claim()).done(*LINES)
    assert (await caller.reply()).body == b"".join(LINES)


async def test_the_stores_word_ends_a_run_whose_worker_says_nothing(gateway, worker, dial, store):
    caller = await dial(gateway)
    caller.ask("POST", "/api/chat", CHAT)
    run = await worker.claim()
    await store.queue.hand_back(run.job.id, run.job.epoch, reason="test", failure=None, notify=True)
    call = await only_call(gateway)
    await wait_until(lambda: call.relay.feedback is None)
    await (await worker.claim()).done(*LINES)
    assert (await caller.reply()).body == b"".join(LINES)


@pytest.mark.parametrize("state", [State.DONE, State.FAILED])
async def test_an_end_that_was_lost_with_the_link_leaves_nobody_waiting(gateway, worker, dial, state):
    caller = await dial(gateway)
    caller.ask("POST", "/api/chat", {**CHAT, "stream": False})
    run = await worker.claim()
    run.outlet.working()
    gateway.waiting.calls[run.job.id].relay.lost()  # as when the connection ends between the last frame and its arrival
    failure = None if state is State.DONE else Failure(Code.UPSTREAM_ERROR, "no")
    await run.end(state, failure)
    reply = await caller.reply()
    assert (reply.status, reply.header("X-Foreman-Error")) == (502, failure.code if failure else "interrupted")


async def test_a_worker_lost_in_mid_answer_interrupts_and_the_job_is_not_run_again(gateway, worker, dial, store):
    caller = await dial(gateway)
    caller.ask("POST", "/api/chat", CHAT)
    run = await worker.claim()
    run.begin(NDJSON, LINES[0])
    reply = await caller.head()
    assert await caller.chunk() == LINES[0]
    run.outlet.back()
    await caller.rest(reply)
    assert reply.complete
    assert b'{"error":"the worker was lost' in reply.body
    await store.queue.hand_back(run.job.id, run.job.epoch, reason="test", failure=None)
    job = await wait_until(lambda: ended(store, run.job.id))
    assert job.state is State.FAILED
    assert job.error["code"] == "interrupted"


async def ended(store, job_id):
    job = await store.queue.get(job_id)
    return job if job.state in {State.FAILED, State.CANCELLED, State.DONE} else None


async def test_openai_callers_hear_of_a_lost_worker_by_an_event(gateway, worker, dial):
    caller = await dial(gateway)
    caller.ask("POST", "/v1/chat/completions", STREAM)
    run = await worker.claim()
    run.begin(SSE, b'data: {"choices":[]}\n\n')
    reply = await caller.head()
    run.outlet.back()
    await caller.rest(reply)
    assert reply.chunks[-1].startswith(b'data: {"error":{"message":"the worker was lost')
    assert b"[DONE]" not in b"".join(reply.chunks)


async def test_after_an_outage_a_call_whose_job_has_ended_meanwhile_is_told(gateway, worker, dial, store):
    caller = await dial(gateway)
    caller.ask("POST", "/api/chat", CHAT)
    call = await queued(gateway, store)
    failure = Failure(Code.CANCELLED, "cleared while you were away")
    await store.queue.transition(call.job_id, None, State.FAILED, reason="test", failure=failure, notify=False)
    await gateway.waiting.resync()
    assert (await caller.reply()).header("X-Foreman-Error") == "cancelled"


async def test_a_call_whose_notice_found_no_room_is_told_all_the_same(gateway, worker, dial, store):
    caller = await dial(gateway)
    caller.ask("POST", "/api/chat", CHAT)
    call = await queued(gateway, store)
    failure = Failure(Code.CANCELLED, "cleared with a thousand others")
    await store.queue.transition(call.job_id, None, State.FAILED, reason="test", failure=failure, notify=False)
    inbox = store.queue.keys.of(INBOX, "gateway", gateway.id)
    await store.queue._connection.command("RPUSH", inbox, '{"verb":"missed","missed":true}')
    assert (await caller.reply()).header("X-Foreman-Error") == "cancelled"


# ------------------------------------------------------------------ stopping


async def test_a_gateway_that_stops_lets_its_streams_end(open_gateway, worker, dial):
    gateway = await open_gateway()
    caller, other = await dial(gateway), await dial(gateway)
    caller.ask("POST", "/api/chat", CHAT)
    run = await worker.claim()
    stopping = asyncio.get_running_loop().create_task(gateway.stop(20))
    await wait_until(lambda: gateway.calls.leaving)
    assert (await other.get("/readyz")).status == 503
    refused = await other.post("/api/chat", CHAT)
    assert (refused.status, refused.header("X-Foreman-Error")) == (503, "shutting_down")
    assert refused.header("Retry-After") == "1"
    await run.done(*LINES)
    assert (await caller.reply()).body == b"".join(LINES)
    await stopping
    assert await other.ended()


async def test_who_connects_as_it_leaves_is_told_to_go_elsewhere(open_gateway, dial):
    gateway = await open_gateway()
    early, idle = await dial(gateway), await dial(gateway)
    stopping = asyncio.get_running_loop().create_task(gateway.stop(20))
    await wait_until(lambda: not gateway._server.sockets)
    refused = await early.post("/api/chat", CHAT)
    assert (refused.status, refused.header("X-Foreman-Error")) == (503, "shutting_down")
    await stopping  # not held up for long by one that says nothing
    assert await idle.ended()


async def test_past_the_grace_calls_are_told_and_their_jobs_do_not_live_on(open_gateway, worker, dial, store):
    gateway = await open_gateway()
    waiting, running = await dial(gateway), await dial(gateway)
    running.ask("POST", "/api/chat", CHAT)
    run = await worker.claim()
    run.begin(NDJSON, LINES[0])
    waiting.ask("POST", "/api/chat", {**CHAT, "stream": False})
    await wait_until(lambda: len(gateway.waiting.calls) == 2)
    await gateway.stop(0.05)
    reply = await waiting.reply()
    assert (reply.status, reply.header("X-Foreman-Error")) == (503, "shutting_down")
    cut = await running.reply()
    assert cut.chunks[0] == LINES[0]
    assert b'{"error":"this gateway is stopping' in cut.chunks[-1]
    assert run.cancelled.done()
    assert (await ended(store, reply.header("X-Foreman-Job-Id"))) is not None


async def test_a_second_gateway_answers_from_the_same_queue(open_gateway, worker, dial):
    one, two = await open_gateway(), await open_gateway()
    a, b = await dial(one), await dial(two)
    a.ask("POST", "/api/chat", {**CHAT, "stream": False})
    await only_call(one)
    b.ask("POST", "/api/chat", {**CHAT, "stream": False})
    await only_call(two)
    first = await worker.claim()
    assert first.job.gateway == one.id
    await first.done(WHOLE, head=JSON)
    second = await worker.claim()
    assert second.job.gateway == two.id
    await second.done(WHOLE, head=JSON)
    assert (await a.reply()).body == (await b.reply()).body == WHOLE
