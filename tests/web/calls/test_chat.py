"""Calls from socket to socket: gateway, store and link are real, the worker does what the test says."""

from __future__ import annotations

import asyncio
import json

import pytest

from foreman.core.errors import Code, Failure
from foreman.core.jobs import Priority, Slot, State
from foreman.link.channel import Framing, Head
from tests.web.conftest import wait_until
from tests.web.puppet import JSON, NDJSON, SSE

LINES = (
    b'{"model":"m","message":{"role":"assistant","content":"a"},"done":false}\n',
    b'{"model":"m","message":{"role":"assistant","content":"b"},"done":false}\n',
    b'{"model":"m","message":{"role":"assistant","content":""},"done":true,"done_reason":"stop"}\n',
)
CHAT = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
EVENTS = (b'data: {"choices":[{"delta":{"content":"a"}}]}\n\n', b"data: [DONE]\n\n")
WHOLE = b'{"model":"m","message":{"role":"assistant","content":"ab"},"done":true}'


async def test_a_chat_streams_line_by_line_while_the_target_still_speaks(gateway, worker, dial):
    caller = await dial(gateway)
    caller.ask("POST", "/api/chat", CHAT)
    run = await worker.claim()
    run.begin(NDJSON, LINES[0])
    reply = await caller.head()
    assert reply.status == 200
    assert await caller.chunk() == LINES[0]
    run.outlet.data(LINES[1])
    assert await caller.chunk() == LINES[1]
    run.outlet.data(LINES[2])
    run.outlet.end()
    await caller.rest(reply)
    assert reply.chunks == [LINES[2]]
    assert reply.complete
    assert dict(reply.headers).keys() == {
        *("Content-Type", "X-Accel-Buffering", "Cache-Control", "X-Foreman-Job-Id", "Date", "Transfer-Encoding")
    }
    assert reply.header("X-Foreman-Job-Id") == run.job.id


async def test_units_of_one_turn_stay_chunks_of_their_own(gateway, worker, dial):
    caller = await dial(gateway)
    caller.ask("POST", "/api/chat", CHAT)
    await (await worker.claim()).done(*LINES)
    assert (await caller.reply()).chunks == list(LINES)


async def test_what_a_job_is_told_of_its_request(gateway, worker, dial):
    body = b'{"model": "M", "messages": [{"role":"user","content":"hi"}], "options": {"num_ctx": 8192}, "mystery": 1}'
    caller = await dial(gateway)
    caller.ask("POST", "/api/chat", body)
    run = await worker.claim()
    claimed, job = run.claimed, run.job
    assert claimed.request == body
    assert (job.model, claimed.canonical, job.slot, job.priority) == ("M", "m:latest", Slot.DRAIN, Priority.HIGH)
    assert claimed.options == {"num_ctx": 8192}
    assert job.lane == "d1d1d1d1d1d1d1d1?num_ctx=8192"
    assert (job.endpoint, claimed.method, claimed.stream, job.gateway) == ("/api/chat", "POST", True, gateway.id)
    await run.done(*LINES)
    assert (await caller.reply()).complete


@pytest.mark.parametrize(
    ("path", "body", "head", "units", "slot"),
    [
        ("/api/generate", {"model": "m", "prompt": "x"}, NDJSON, LINES, Slot.DRAIN),
        ("/v1/chat/completions", {**CHAT, "stream": True}, SSE, EVENTS, Slot.DRAIN),
        ("/v1/completions", {"model": "m", "prompt": "x", "stream": True}, SSE, EVENTS, Slot.DRAIN),
        ("/v1/responses", {"model": "m", "input": "x", "stream": True}, SSE, EVENTS[:1], Slot.DRAIN),
        ("/v1/messages", {**CHAT, "max_tokens": 9, "stream": True}, SSE, EVENTS[:1], Slot.DRAIN),
        ("/api/chat", {**CHAT, "stream": False}, JSON, (WHOLE,), Slot.DRAIN),
        ("/v1/chat/completions", CHAT, JSON, (WHOLE,), Slot.DRAIN),
        ("/api/embed", {"model": "m", "input": "x"}, JSON, (b'{"embeddings":[]}',), Slot.EMBED),
        ("/api/embeddings", {"model": "m", "prompt": "x"}, JSON, (b'{"embedding":[]}',), Slot.EMBED),
        ("/v1/embeddings", {"model": "m", "input": "x"}, JSON, (b'{"data":[]}',), Slot.EMBED),
        ("/api/show", {"model": "m"}, JSON, (b'{"details":{}}',), Slot.SIDE),
        ("/api/chat", {"model": "m"}, JSON, (b'{"done_reason":"load"}',), Slot.DRAIN),
        ("/api/generate", {"model": "m", "keep_alive": 0}, JSON, (b'{"done_reason":"unload"}',), Slot.SIDE),
    ],
)
async def test_every_queued_path_answers_through_its_slot(gateway, worker, dial, path, body, head, units, slot):
    caller = await dial(gateway)
    caller.ask("POST", path, body)
    run = await worker.claim(slot)
    assert run.job.endpoint == path
    assert run.claimed.unload is ("keep_alive" in body)
    await run.done(*units, head=head)
    reply = await caller.reply()
    assert reply.status == 200
    assert reply.body == b"".join(units)
    assert reply.header("Content-Type") == dict(head.headers)["Content-Type"]
    assert reply.header("X-Foreman-Job-Id") == run.job.id
    streams = head is not JSON
    assert (reply.header("Cache-Control") == "no-cache") is streams
    assert (reply.header("Transfer-Encoding") == "chunked") is streams


async def test_native_chunks_as_events_where_the_caller_reads_them(gateway, worker, dial):
    caller = await dial(gateway)
    caller.ask("POST", "/api/chat", CHAT, Accept="text/html, text/event-stream;q=0.9")
    await (await worker.claim()).done(*LINES)
    reply = await caller.reply()
    assert reply.header("Content-Type") == "text/event-stream"
    assert reply.chunks == [b"data: " + line.strip() + b"\n\n" for line in LINES] + [b"data: [DONE]\n\n"]


async def test_several_lines_of_a_header_go_upstream_as_one(gateway, worker, dial):
    caller = await dial(gateway)
    caller.ask("POST", "/v1/messages", {**CHAT, "max_tokens": 9}, Anthropic_Beta="one\r\nAnthropic-Beta: two")
    run = await worker.claim()
    assert run.claimed.headers == {"anthropic-beta": "one, two"}
    await run.done(WHOLE, head=JSON)
    assert (await caller.reply()).complete


@pytest.mark.parametrize("path", ["/v1/messages", "/jobs"])
async def test_a_header_that_cannot_go_upstream_is_refused(gateway, worker, dial, store, path):
    reply = await (await dial(gateway)).post(path, {**CHAT, "max_tokens": 9}, anthropic_beta="日本")
    assert (reply.status, reply.header("X-Foreman-Error")) == (400, "bad_request")
    assert (await store.queue.counts()).queued == 0


async def test_anthropics_headers_go_upstream_and_no_others(gateway, worker, dial):
    caller = await dial(gateway)
    headers = {"Anthropic-Version": "2023-06-01", "Anthropic-Beta": "x", "X-Api-Key": "k", "Authorization": "Bearer b"}
    caller.ask(
        "POST", "/v1/messages", {**CHAT, "max_tokens": 9}, **{k.replace("-", "_"): v for k, v in headers.items()}
    )
    run = await worker.claim()
    assert run.claimed.headers == {"anthropic-version": "2023-06-01", "anthropic-beta": "x"}
    await run.done(WHOLE, head=JSON)
    assert (await caller.reply()).complete


async def test_the_targets_refusal_keeps_status_body_and_type(gateway, worker, dial):
    refusal = b'{"error":"registry.ollama.ai/library/m does not support tools"}'
    caller = await dial(gateway)
    caller.ask("POST", "/api/chat", CHAT)
    run = await worker.claim()
    await run.done(refusal, head=Head(400, JSON.headers, Framing.RAW))
    reply = await caller.reply()
    assert (reply.status, reply.body) == (400, refusal)
    assert reply.header("X-Foreman-Error") == "upstream_error"
    assert reply.header("X-Foreman-Job-Id") == run.job.id


async def test_a_failure_before_the_first_byte_has_its_status(gateway, worker, dial):
    caller = await dial(gateway)
    caller.ask("POST", "/v1/chat/completions", {**CHAT, "stream": True})
    run = await worker.claim()
    await run.failed(Failure(Code.STALLED, "no byte for 300 s"))
    reply = await caller.reply()
    assert reply.status == 504
    assert reply.json()["error"]["message"] == "no byte for 300 s"
    assert reply.header("X-Foreman-Error") == "stalled"


async def test_an_http_10_caller_gets_a_stream_that_ends_with_the_connection(gateway, worker, dial):
    caller = await dial(gateway)
    caller.ask("POST", "/api/chat", CHAT, version="1.0")
    await (await worker.claim()).done(*LINES)
    reply = await caller.reply()
    assert reply.body == b"".join(LINES)
    assert reply.header("Transfer-Encoding") is None
    assert reply.header("Connection") == "close"


async def test_the_connection_is_kept_for_the_next_call(gateway, worker, dial):
    caller = await dial(gateway)
    for _ in range(3):
        caller.ask("POST", "/api/chat", CHAT)
        await (await worker.claim()).done(*LINES)
        assert (await caller.reply()).complete
    assert (await caller.get("/api/version")).status == 200


async def test_pipelined_calls_are_answered_in_order(gateway, worker, dial):
    caller = await dial(gateway)
    caller.ask("POST", "/api/chat", CHAT)
    caller.ask("GET", "/api/version")
    await (await worker.claim()).done(*LINES)
    assert (await caller.reply()).body == b"".join(LINES)
    assert (await caller.reply()).json() == {"version": "0.24.0"}


async def test_a_class_and_a_deadline_are_taken_from_headers(gateway, worker, dial):
    caller = await dial(gateway)
    caller.ask("POST", "/api/chat", CHAT, X_Foreman_Priority="low", X_Foreman_Deadline="900.5")
    run = await worker.claim()
    assert run.job.priority is Priority.LOW
    assert run.job.deadline == pytest.approx(run.job.created_at + 900.5, abs=0.01)
    await run.done(*LINES)
    assert (await caller.reply()).complete


async def test_a_deadline_beyond_all_clocks_is_just_a_late_one(gateway, worker, dial):
    caller = await dial(gateway)
    caller.ask("POST", "/api/chat", {**CHAT, "stream": False}, X_Foreman_Deadline="1e300")
    await (await worker.claim()).done(WHOLE, head=JSON)
    assert (await caller.reply()).status == 200


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("X_Foreman_Deadline", "nan"),
        ("X_Foreman_Deadline", "-1"),
        ("X_Foreman_Deadline", "0"),
        ("X_Foreman_Deadline", "1e999"),
        ("X_Foreman_Deadline", "soon"),
        ("X_Foreman_Priority", "urgent"),
        ("X_Foreman_Target", "nowhere"),
    ],
)
async def test_a_wrong_header_is_a_400_and_no_job(gateway, worker, dial, store, name, value):
    caller = await dial(gateway)
    reply = await caller.post("/api/chat", CHAT, **{name: value})
    assert reply.status == 400
    assert name.replace("_", "-") in reply.json()["error"]
    assert reply.header("X-Foreman-Error") == "bad_request"
    assert (await store.queue.counts()).queued == 0


async def test_a_job_refused_after_an_early_head_is_refused_in_band(open_gateway, store, worker, dial, monkeypatch):
    late = asyncio.Event()

    async def full(_new):
        await late.wait()
        raise Failure(Code.QUEUE_FULL, "full", retry_after=7)

    gateway = await open_gateway(headers_after="10ms")
    monkeypatch.setattr(store.queue, "submit", full)
    caller = await dial(gateway)
    caller.ask("POST", "/api/chat", CHAT)
    reply = await caller.head()
    late.set()
    await caller.rest(reply)
    assert (reply.status, reply.body.strip(), reply.complete) == (200, b'{"error":"full"}', True)
    assert (await caller.get("/api/version")).status == 200


async def test_the_queue_full_says_so_in_ollamas_words(open_gateway, store, worker, dial, monkeypatch):
    async def full(_new):
        raise Failure(
            Code.QUEUE_FULL, "server busy, please try again.  maximum pending requests exceeded", retry_after=7
        )

    gateway = await open_gateway()
    monkeypatch.setattr(store.queue, "submit", full)
    reply = await (await dial(gateway)).post("/api/chat", CHAT)
    assert reply.status == 503
    assert reply.json() == {"error": "server busy, please try again.  maximum pending requests exceeded"}
    assert reply.header("Retry-After") == "10", "nothing is loaded: the next place is a load away"
    assert gateway.waiting.calls == {}


# ------------------------------------------------------------------ back-pressure


async def test_a_caller_that_does_not_read_pauses_the_worker_and_loses_nothing(gateway, worker, dial):
    caller = await dial(gateway)
    caller.ask("POST", "/api/chat", CHAT)
    run = await worker.claim()
    run.begin(NDJSON)
    line = b'{"message":{"content":"' + b"x" * 9000 + b'"},"done":false}\n'
    sent = 0
    while not run.paused:
        run.outlet.data(line)
        sent += 1
        await asyncio.sleep(0)
    relay = gateway.waiting.calls[run.job.id].relay
    reply = await caller.head()
    got = [await caller.chunk() for _ in range(sent - 1)]
    assert set(got) == {line}
    await wait_until(lambda: not run.paused)
    run.outlet.data(LINES[2])
    run.outlet.end()
    await caller.rest(reply)
    assert reply.chunks == [line, LINES[2]]
    assert relay.failure is None


async def test_the_job_ends_done_in_the_store(gateway, worker, dial, store):
    caller = await dial(gateway)
    caller.ask("POST", "/api/chat", CHAT)
    run = await worker.claim()
    await run.done(*LINES)
    await caller.reply()
    job = await store.queue.get(run.job.id)
    assert job.state is State.DONE
    await wait_until(lambda: not gateway.waiting.calls)


async def test_a_caller_that_offers_http_2_is_answered_in_http_1(gateway, worker, dial):
    """Java's HttpClient does so on every first request, its body behind."""
    caller = await dial(gateway)
    body = json.dumps(CHAT).encode()
    offer = {"Connection": "Upgrade, HTTP2-Settings", "Upgrade": "h2c", "HTTP2-Settings": "AAEAAEAAAAIAAAAB"}
    caller.ask("POST", "/api/chat", None, Content_Length=str(len(body)), **offer)
    for at in range(0, len(body), 20):
        await caller.writer.drain()
        await asyncio.sleep(0)
        caller.send(body[at : at + 20])
    await (await worker.claim()).done(*LINES)
    assert (await caller.reply()).chunks == list(LINES)
    assert (await caller.get("/api/version")).status == 200
