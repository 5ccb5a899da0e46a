"""The relay as a script: what a worker says in, what the caller gets out, on a virtual clock."""

from __future__ import annotations

import asyncio
import json

import pytest

from foreman.core.errors import Code, Failure
from foreman.link.channel import Framing, Head
from foreman.web.calls.relay import HOLD
from tests.web.calls.relay_script import DONE, EVENT, LAST, LINE, NDJSON, OPENAI, RAW, SSE, Script

pytestmark = pytest.mark.looptime


# ------------------------------------------------------------------ the plain way


async def test_a_stream_goes_out_unit_by_unit_with_the_targets_own_type():
    s = Script()
    s.start(NDJSON, LINE, LINE, LAST)
    s.relay.end()
    assert s.wire.status == 200
    assert s.wire.sent == [LINE, LINE, LAST]
    assert s.wire.end == "finished"
    assert s.wire.length is None
    assert s.wire.headers == {
        "Content-Type": "application/x-ndjson",
        "X-Accel-Buffering": "no",
        "Cache-Control": "no-cache",
        "X-Foreman-Job-Id": "JOB",
    }


async def test_the_head_waits_for_the_first_unit():
    s = Script()
    s.start(NDJSON)
    assert s.wire.status is None
    s.relay.data(LINE)
    assert s.wire.status == 200


async def test_a_whole_answer_is_held_to_its_end_and_gets_a_length():
    s = Script(stream=False, head_after=None)
    s.start(RAW, b'{"a":', b"1}")
    assert s.wire.status is None
    s.relay.end()
    assert (s.wire.status, s.wire.length, s.wire.body, s.wire.end) == (200, 7, b'{"a":1}', "finished")
    assert "Cache-Control" not in s.wire.headers


async def test_held_bytes_count_as_taken_so_that_the_worker_does_not_pause():
    s = Script(stream=False, head_after=None)
    worker = s.start(RAW, b"x" * 1000)
    assert worker.credits == 1000


async def test_a_whole_answer_above_1_mib_is_streamed_through():
    s = Script(stream=False, head_after=None)
    piece = b"x" * (HOLD // 2)
    s.start(RAW, piece, piece)
    assert s.wire.status is None
    s.relay.data(b"y")
    assert (s.wire.status, s.wire.length) == (200, None)
    s.relay.data(b"z")
    s.relay.end()
    assert s.wire.body == piece + piece + b"yz"


async def test_other_headers_of_the_target_pass_but_not_those_the_gateway_answers_for():
    head = Head(
        200,
        (
            ("Content-Type", "text/event-stream"),
            ("X-Request-Id", "r1"),
            ("Server", "uvicorn"),
            ("Set-Cookie", "a=b"),
            ("Access-Control-Allow-Origin", "*"),
            ("X-Foreman-Job-Id", "other"),
            ("Cache-Control", "private"),
        ),
        Framing.SSE,
    )
    s = Script(dialect=OPENAI)
    s.start(head, EVENT)
    assert s.wire.headers == {
        "Content-Type": "text/event-stream",
        "X-Request-Id": "r1",
        "X-Accel-Buffering": "no",
        "Cache-Control": "no-cache",
        "X-Foreman-Job-Id": "JOB",
    }


# ------------------------------------------------------------------ native chunks as SSE


async def test_native_lines_as_events_end_with_done():
    s = Script(wrap=True)
    s.start(NDJSON, LINE, LAST)
    s.relay.end()
    assert s.wire.headers["Content-Type"] == "text/event-stream"
    assert s.wire.sent == [b"data: " + LINE.strip() + b"\n\n", b"data: " + LAST.strip() + b"\n\n", DONE]


async def test_the_single_object_of_a_load_becomes_one_event():
    s = Script(wrap=True)
    s.start(RAW, b'{"done":true,"done_reason":"load"}')
    s.relay.end()
    assert s.wire.body == b'data: {"done":true,"done_reason":"load"}\n\n' + DONE
    assert s.wire.headers["Content-Type"] == "text/event-stream"


async def test_a_targets_own_error_line_is_an_event_like_every_failure_and_no_done_follows():
    s = Script(wrap=True)
    s.start(NDJSON, LINE, b'{"error":"boom"}\n')
    s.relay.end()
    (event,) = s.wire.sent[1:]
    assert json.loads(event.removeprefix(b"data: "))["error"]["message"] == "boom"


# ------------------------------------------------------------------ waiting


async def test_a_stream_gets_its_head_after_20_s_then_a_space_each_15_s():
    s = Script()
    await asyncio.sleep(19.9)
    assert s.wire.status is None
    await asyncio.sleep(30.2)
    assert s.wire.status == 200
    assert s.wire.headers["Content-Type"] == "application/x-ndjson"
    assert s.wire.headers["Cache-Control"] == "no-cache"
    assert s.wire.sent == [b" ", b" "]
    assert s.wire.at == [35.0, 50.0]
    s.start(NDJSON, LINE, LAST)
    s.relay.end()
    assert s.wire.body == b"  " + LINE + LAST


async def test_events_get_comment_lines_while_they_wait(speaking):
    s = speaking(Script(dialect=OPENAI))
    await asyncio.sleep(50.1)
    assert s.wire.headers["Content-Type"] == "text/event-stream"
    assert s.wire.sent == [b": queued position=3 eta=41s\n"] * 2
    s.start(SSE, EVENT, DONE)
    s.relay.end()
    assert s.wire.sent[2:] == [EVENT, DONE]


async def test_native_events_get_comment_lines_too(speaking):
    s = speaking(Script(wrap=True))
    await asyncio.sleep(35.1)
    assert s.wire.sent == [b": queued position=3 eta=41s\n"]


async def test_a_call_that_does_not_stream_waits_without_a_head():
    s = Script(stream=False, head_after=None)
    await asyncio.sleep(10_000)
    assert s.wire.status is None


async def test_a_call_that_does_not_stream_gets_its_head_where_that_is_set():
    s = Script(stream=False, head_after=50.0)
    await asyncio.sleep(66)
    assert s.wire.status == 200
    assert s.wire.headers == {"Content-Type": "application/json; charset=utf-8", "X-Foreman-Job-Id": "JOB"}
    assert s.wire.sent == [b" "]
    s.start(RAW, b"{}")
    s.relay.end()
    assert s.wire.body == b" {}"
    assert s.wire.end == "finished"


async def test_a_silent_stream_gets_a_heartbeat_15_s_after_its_last_byte():
    s = Script()
    await asyncio.sleep(1)
    s.start(NDJSON, LINE)
    await asyncio.sleep(10)
    s.relay.data(LINE)
    await asyncio.sleep(15.1)
    assert list(zip(s.wire.sent, s.wire.at, strict=True)) == [(LINE, 1.0), (LINE, 11.0), (b" ", 26.0)]


async def test_heartbeats_of_a_stream_keep_their_pace():
    s = Script()
    await asyncio.sleep(1)
    s.start(NDJSON, LINE)
    await asyncio.sleep(50)
    assert s.wire.at == [1.0, 16.0, 31.0, 46.0]


async def test_no_heartbeat_after_the_last_line_or_inside_one():
    for last in (LAST, b'{"status":"success"}\n', b'{"error":"x"}\n', b'{"message":"cut'):
        s = Script()
        s.start(NDJSON, LINE, last)
        await asyncio.sleep(100)
        assert s.wire.sent == [LINE, last]


async def test_no_heartbeat_into_a_pipe_that_nobody_reads():
    s = Script()
    s.start(NDJSON, LINE)
    s.wire.backlog = True
    await asyncio.sleep(100)
    assert s.wire.sent == [LINE]


async def test_events_with_carriage_returns_get_heartbeats_too(speaking):
    s = speaking(Script(dialect=OPENAI))
    s.start(SSE, EVENT.replace(b"\n", b"\r\n"))
    await asyncio.sleep(15.1)
    assert s.wire.sent[-1].startswith(b": ")
    s.relay.fail(Failure(Code.INTERRUPTED, "x"))
    assert s.wire.sent[-1].startswith(b"data: ")


async def test_a_heartbeat_is_never_inside_an_event(speaking):
    s = speaking(Script(dialect=OPENAI))
    s.start(SSE, b"data: cut")
    await asyncio.sleep(100)
    assert s.wire.sent == [b"data: cut"]


async def test_a_load_answered_after_the_early_head_is_one_object():
    s = Script()
    await asyncio.sleep(36)
    s.start(RAW, b'{"done":true}')
    s.relay.end()
    assert s.wire.body == b' {"done":true}'
    assert s.wire.end == "finished"
