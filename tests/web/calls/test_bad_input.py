"""What strangers and broken clients send: a 4xx or a closed connection, and no trace in the store."""

from __future__ import annotations

import asyncio
import contextlib
import json

import pytest
import structlog

from foreman.core.jobs import Slot
from foreman.web import body, connection
from tests.web.calls.test_chat import CHAT, WHOLE
from tests.web.conftest import wait_until
from tests.web.puppet import JSON


@pytest.fixture
async def no_trace(store):
    yield
    counts = await store.queue.counts()
    assert (counts.queued, counts.loading, counts.working, counts.failed, counts.cancelled) == (0,) * 5


@pytest.mark.parametrize(
    ("path", "sent", "status", "said"),
    [
        ("/api/chat", b"", 400, "missing request body"),
        ("/api/generate", b"", 400, "missing request body"),
        ("/api/embed", b"", 400, "missing request body"),
        ("/api/show", b"", 400, "missing request body"),
        ("/v1/chat/completions", b"", 400, "EOF"),
        ("/api/chat", b"{x}", 400, "invalid character 'x' looking for beginning of object key string"),
        ("/api/chat", b'{"model":"m', 400, "unexpected EOF"),
        ("/api/chat", b"[]", 400, "json: cannot unmarshal array into Go value of type api.ChatRequest"),
        (
            *("/api/chat", b'{"model":7}', 400),
            "json: cannot unmarshal number into Go struct field ChatRequest.model of type string",
        ),
        ("/api/chat", b"{}", 400, "model is required"),
        ("/api/generate", b"{}", 404, "model '' not found"),
        ("/api/embed", b"{}", 404, "model '' not found"),
        ("/api/embeddings", b"{}", 400, "model is required"),
        ("/api/show", b"{}", 400, "model is required"),
        ("/api/chat", b'{"model":"a//b"}', 400, "invalid model name"),
        ("/api/chat", b'{"model":"m","keep_alive":"soon"}', 400, 'time: invalid duration "soon"'),
        ("/v1/chat/completions", b'{"model":"m"}', 400, "[] is too short - 'messages'"),
        ("/v1/messages", b'{"model":"m"}', 400, "max_tokens is required and must be positive"),
        ("/api/chat", b'{"model":"\xff\xfe"}', 400, "invalid model name"),
        ("/api/chat", b'{"model\xff":"m"}', 400, "model is required"),
    ],
)
async def test_ollamas_words_for_what_it_refuses(gateway, dial, no_trace, path, sent, status, said):
    reply = await (await dial(gateway)).post(path, sent)
    assert reply.status == status
    error = reply.json()["error"]
    assert (error if isinstance(error, str) else error["message"]) == said
    assert reply.header("X-Foreman-Error") in {"bad_request", "model_not_found"}


async def test_a_nesting_bomb_is_refused_quickly(gateway, dial, no_trace):
    caller = await dial(gateway)
    async with asyncio.timeout(60):
        reply = await caller.post("/api/chat", b'{"model":"m","messages":' + b"[" * 1_000_000)
    assert reply.status == 400


async def test_content_type_does_not_matter(gateway, worker, dial):
    caller = await dial(gateway)
    caller.ask("POST", "/api/chat", {**CHAT, "stream": False}, Content_Type="application/x-www-form-urlencoded")
    await (await worker.claim()).done(WHOLE, head=JSON)
    assert (await caller.reply()).body == WHOLE


async def test_a_chunked_body_is_read_whole(gateway, worker, dial):
    payload = json.dumps({**CHAT, "stream": False}).encode()
    caller = await dial(gateway)
    caller.send(b"POST /api/chat HTTP/1.1\r\nHost: %s\r\nTransfer-Encoding: chunked\r\n\r\n" % caller.host.encode())
    for at in range(0, len(payload), 7):
        piece = payload[at : at + 7]
        caller.send(b"%x\r\n%b\r\n" % (len(piece), piece))
    caller.send(b"0\r\n\r\n")
    run = await worker.claim()
    assert run.claimed.request == payload
    await run.done(WHOLE, head=JSON)
    assert (await caller.reply()).body == WHOLE


async def test_a_gzipped_body_is_not_inflated(gateway, dial, no_trace):
    reply = await (await dial(gateway)).post("/api/chat", b"\x1f\x8b\x08\x00bomb", Content_Encoding="gzip")
    assert reply.status == 400


# ------------------------------------------------------------------ size


async def test_an_announced_body_above_the_limit_is_refused_unread(open_gateway, worker, dial, no_trace):
    gateway = await open_gateway(max_body="1KiB")
    caller = await dial(gateway)
    caller.ask("POST", "/v1/chat/completions", b"{", Content_Length="99999999")
    reply = await caller.reply()
    assert reply.status == 413
    assert "FOREMAN_MAX_BODY" in reply.json()["error"]["message"]
    assert reply.header("X-Foreman-Error") == "payload_too_large"
    assert reply.header("Connection") == "close"


async def test_a_body_that_grows_above_the_limit_is_refused(open_gateway, worker, dial, no_trace):
    gateway = await open_gateway(max_body="1KiB")
    caller = await dial(gateway)
    caller.send(b"POST /api/chat HTTP/1.1\r\nHost: %s\r\nTransfer-Encoding: chunked\r\n\r\n" % caller.host.encode())
    caller.send(b"400\r\n" + b" " * 1024 + b"\r\n" + b"400\r\n" + b" " * 1024 + b"\r\n")
    reply = await caller.reply()
    assert reply.status == 413
    assert "error" in reply.json()


async def test_a_body_at_the_limit_is_taken(open_gateway, worker, dial):
    payload = json.dumps({**CHAT, "stream": False}).encode()
    gateway = await open_gateway(max_body=str(len(payload)))
    caller = await dial(gateway)
    caller.ask("POST", "/api/chat", payload)
    await (await worker.claim()).done(WHOLE, head=JSON)
    assert (await caller.reply()).status == 200


async def test_20_mib_go_through(gateway, worker, dial):
    payload = json.dumps({**CHAT, "stream": False, "images": "A" * (20 << 20)}).encode()
    caller = await dial(gateway)
    caller.ask("POST", "/api/chat", payload)
    run = await worker.claim()
    assert run.claimed.request == payload
    await run.done(WHOLE, head=JSON)
    assert (await caller.reply()).body == WHOLE


# ------------------------------------------------------------------ halves and snails


async def test_a_half_sent_body_leaves_nothing(gateway, dial, no_trace):
    caller = await dial(gateway)
    caller.ask("POST", "/api/chat", b'{"model":"m"', Content_Length="5000")
    await caller.close()
    again = await dial(gateway)
    assert (await again.get("/api/version")).status == 200


async def test_a_body_shorter_than_announced_ends_the_connection(gateway, dial, no_trace):
    caller = await dial(gateway)
    caller.ask("POST", "/api/chat", b'{"model":"m"}', Content_Length="5000")
    caller.writer.write_eof()
    assert await caller.ended()


async def test_a_silent_body_is_a_408(gateway, dial, no_trace, monkeypatch):
    monkeypatch.setattr(body.read_body, "__kwdefaults__", {"silence": 0.1})
    caller = await dial(gateway)
    caller.ask("POST", "/api/chat", b'{"model":"m"', Content_Length="5000")
    reply = await caller.reply()
    assert reply.status == 408
    assert reply.header("Connection") == "close" or await caller.ended()


async def test_a_dripping_body_is_borne_while_it_drips(gateway, worker, dial, monkeypatch):
    monkeypatch.setattr(body.read_body, "__kwdefaults__", {"silence": 5.0})
    payload = json.dumps({**CHAT, "stream": False}).encode()
    caller = await dial(gateway)
    caller.ask("POST", "/api/chat", payload[:1], Content_Length=str(len(payload)))
    for at in range(1, len(payload)):
        caller.send(payload[at : at + 1])
        await caller.writer.drain()
    run = await worker.claim()
    assert run.claimed.request == payload
    await run.done(WHOLE, head=JSON)
    assert (await caller.reply()).status == 200


@pytest.mark.parametrize("sent", [b"", b"GET /api/ver", b"GET / HTTP/1.1\r\nHost: x\r\nX-Slow: "])
async def test_a_head_that_does_not_come_closes_the_connection(open_gateway, worker, dial, monkeypatch, sent):
    said: list[str] = []
    monkeypatch.setattr(connection.log, "info", lambda event, **_: said.append(event))
    monkeypatch.setattr(connection, "HEAD_WITHIN", 0.2)
    gateway = await open_gateway()
    caller = await dial(gateway)
    caller.send(sent)
    assert await caller.ended()
    assert said == (["request.head_too_slow"] if sent else []), "browsers connect in advance, and say nothing"


async def test_a_slow_second_head_closes_the_connection_but_idling_does_not(open_gateway, worker, dial, monkeypatch):
    monkeypatch.setattr(connection, "HEAD_WITHIN", 0.2)
    gateway = await open_gateway()
    caller, idle = await dial(gateway), await dial(gateway)
    assert (await idle.get("/api/version")).status == 200
    assert (await caller.get("/api/version")).status == 200
    caller.send(b"GET /api/ver")
    assert await caller.ended()
    assert (await idle.get("/api/version")).status == 200


@pytest.mark.parametrize(
    "sent",
    [
        b"hello\r\n\r\n",
        b"GET / HTTP/9.9\r\nHost: x\r\n\r\n",
        b"GET /\x00 HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"POST /api/chat HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n",
        b"POST /api/chat HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nBad\x01Header: y\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 100_000 + b"\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    ],
)
async def test_what_is_no_http_gets_a_400_and_the_end(gateway, dial, no_trace, sent):
    caller = await dial(gateway)
    caller.send(sent)
    reply = await caller.reply()
    assert reply.status == 400
    assert reply.header("Connection") == "close"
    assert await caller.ended()


async def test_broken_chunks_in_a_body_are_refused(gateway, dial, no_trace):
    caller = await dial(gateway)
    caller.send(
        b"POST /api/chat HTTP/1.1\r\nHost: %s\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n{}" % caller.host.encode()
    )
    head = await caller.head()
    assert head.status == 400


async def test_a_token_or_cookies_of_many_kilobytes_are_borne(gateway, dial):
    reply = await (await dial(gateway)).get(
        "/api/version", Cookie="x=" + "a" * 20_000, Authorization="Bearer " + "b" * 9_000
    )
    assert reply.status == 200


@pytest.mark.parametrize(("fields", "said"), [(1, b"HTTP/1.0 400 Bad Request"), (100, b"")])
async def test_a_head_without_end_is_not_borne(gateway, dial, no_trace, fields, said):
    caller = await dial(gateway)
    caller.send(b"GET /api/version HTTP/1.1\r\nHost: localhost\r\n")
    for number in range(fields):
        caller.send(b"X-%d: " % number + b"a" * (200_000 // fields) + b"\r\n")
    with contextlib.suppress(ConnectionError):
        assert (await caller.reader.read()).partition(b"\r\n")[0] == said


@pytest.mark.parametrize(
    "head",
    [
        b"GET / HTTP/1.1\r\nCookie: it's-secret=" + b"y" * 40_000,
        b"GET /?secret" + b"y" * 40_000 + b" HTTP/1.1",
        b"GET http://me:secret@[a/ HTTP/1.1\r\nHost: a",
        b"GET / HTTP/1.1\r\nAuthorization: secret\0",
    ],
)
async def test_what_could_not_be_parsed_stands_in_no_log(gateway, dial, head):
    caller = await dial(gateway)
    with structlog.testing.capture_logs() as logs:
        caller.send(head + b"\r\n\r\n")
        assert (await caller.head()).status == 400
    (said,) = (entry["why"] for entry in logs if entry["event"] == "request.malformed")
    assert said
    assert "secret" not in said


async def test_a_request_without_host_is_refused(gateway, dial):
    caller = await dial(gateway)
    caller.send(b"GET / HTTP/1.1\r\n\r\n")
    reply = await caller.reply()
    assert (reply.status, reply.body) == (400, b"400 Bad Request: missing required Host header")


async def test_a_refused_call_keeps_its_connection(gateway, worker, dial):
    caller = await dial(gateway)
    assert (await caller.post("/api/nope", {"a": "b" * 1000})).status == 404
    assert (await caller.post("/api/chat", b"{x}")).status == 400
    caller.ask("POST", "/api/chat", {**CHAT, "stream": False})
    await (await worker.claim()).done(WHOLE, head=JSON)
    assert (await caller.reply()).body == WHOLE


async def test_100_continue_comes_when_the_body_is_read(gateway, worker, dial):
    payload = json.dumps({**CHAT, "stream": False}).encode()
    caller = await dial(gateway)
    caller.ask("POST", "/api/chat", b"", Content_Length=str(len(payload)), Expect="100-continue")
    assert (await caller.head()).status == 100
    caller.send(payload)
    await (await worker.claim()).done(WHOLE, head=JSON)
    assert (await caller.reply()).body == WHOLE


async def test_no_100_continue_for_a_body_that_is_refused(open_gateway, worker, dial):
    gateway = await open_gateway(max_body="1KiB")
    caller = await dial(gateway)
    caller.ask("POST", "/api/chat", b"", Content_Length="5000", Expect="100-continue")
    assert (await caller.reply()).status == 413


@pytest.mark.parametrize(
    ("method", "path", "expects", "status"),
    [
        ("POST", "/nope", "100-continue", 404),
        ("PUT", "/api/chat", "100-Continue", 405),
        ("POST", "/jobs/x/retry", "100-continue", 404),
        ("GET", "/api/version", "100-continue", 200),
        ("POST", "/api/chat", "200-ok", 417),
    ],
)
async def test_no_100_continue_where_nobody_reads_a_body(gateway, dial, method, path, expects, status):
    caller = await dial(gateway)
    caller.ask(method, path, b"", Content_Length="5", Expect=expects)
    assert (await caller.reply()).status == status


async def test_headers_of_a_request_cannot_be_smuggled_into_the_answer(gateway, dial):
    caller = await dial(gateway)
    reply = await caller.get("/", Origin="http://localhost:3000\tX-Evil: 1")
    assert reply.header("X-Evil") is None


async def test_an_answer_to_a_caller_that_has_gone_hurts_nobody(gateway, worker, dial, store):
    caller = await dial(gateway)
    caller.ask("POST", "/api/chat", {**CHAT, "stream": False})
    run = await worker.claim()
    caller.writer.transport.abort()
    await run.done(WHOLE, head=JSON)
    await wait_until(lambda: not gateway.waiting.calls)
    assert (await store.queue.survey(Slot.DRAIN)).lanes == ()
