"""The relay when something ends: failures before and after the head, lost workers, callers that leave."""

from __future__ import annotations

import asyncio
import json

import pytest

from foreman.core.errors import Code, Failure
from foreman.link.channel import Framing, Head
from foreman.web.calls.relay import HOLD, Phase
from tests.web.calls.relay_script import (
    ANTHROPIC,
    DONE,
    EVENT,
    LAST,
    LINE,
    NATIVE,
    NDJSON,
    OPENAI,
    RAW,
    REFUSED,
    RESPONSES,
    SSE,
    Script,
)

pytestmark = pytest.mark.looptime


# ------------------------------------------------------------------ failing before anything was sent


@pytest.mark.parametrize(
    ("of", "content_type", "body"),
    [
        (NATIVE, "application/json; charset=utf-8", b'{"error":"gone"}'),
        (
            OPENAI,
            "application/json",
            b'{"error":{"message":"gone","type":"api_error","param":null,"code":null}}\n',
        ),
    ],
)
async def test_an_early_failure_has_its_true_status(of, content_type, body):
    s = Script(dialect=of)
    s.start()
    s.relay.error(Failure(Code.UPSTREAM_UNREACHABLE, "gone", retry_after=2.1))
    assert s.wire.status == 502
    assert s.wire.headers == {
        "Content-Type": content_type,
        "X-Foreman-Error": "upstream_unreachable",
        "Retry-After": "3",
        "X-Foreman-Job-Id": "JOB",
    }
    assert s.wire.body == body
    assert s.wire.length == len(body)
    assert s.wire.end == "finished"


async def test_the_targets_own_refusal_is_passed_byte_for_byte():
    s = Script()
    s.start(REFUSED, b'{"error":"no ', b'tools"}')
    s.relay.end()
    assert (s.wire.status, s.wire.body) == (400, b'{"error":"no tools"}')
    assert s.wire.headers["X-Foreman-Error"] == "upstream_error"
    assert s.wire.headers["Content-Type"] == "application/json; charset=utf-8"


async def test_a_cut_whole_answer_keeps_a_true_502():
    s = Script(stream=False, head_after=None)
    s.start(RAW, b'{"half":')
    s.relay.error(Failure(Code.UPSTREAM_TRUNCATED, "cut"))
    assert s.wire.status == 502
    assert s.wire.body == b'{"error":"cut"}'


async def test_a_failure_while_queued():
    s = Script()
    s.relay.fail(Failure(Code.DEADLINE_EXCEEDED, "late"))
    assert s.wire.status == 504


# ------------------------------------------------------------------ failing after the head


@pytest.mark.parametrize(
    ("of", "code", "told"),
    [
        (OPENAI, Code.POISON, "false"),
        (ANTHROPIC, Code.DEADLINE_EXCEEDED, "false"),
        (OPENAI, Code.QUEUE_FULL, None),
        (OPENAI, Code.MODEL_NOT_FOUND, None),
        (NATIVE, Code.POISON, None),
    ],
)
async def test_clients_that_send_every_5xx_again_are_told_where_that_is_of_no_use(of, code, told):
    s = Script(dialect=of)
    s.relay.fail(Failure(code, "no"))
    assert s.wire.headers.get("X-Should-Retry") == told


async def test_a_failure_after_the_head_is_a_line():
    s = Script()
    await asyncio.sleep(36)
    s.relay.fail(Failure(Code.UPSTREAM_UNREACHABLE, "down"))
    assert s.wire.body == b' {"error":"down"}\n'
    assert s.wire.end == "finished"


async def test_a_stream_cut_inside_a_line_gets_its_error_on_a_line_of_its_own():
    s = Script()
    s.start(NDJSON, LINE, b'{"mess')
    s.relay.error(Failure(Code.UPSTREAM_TRUNCATED, "cut"))
    assert s.wire.sent == [LINE, b'{"mess', b'\n{"error":"cut"}\n']


@pytest.mark.parametrize(
    ("of", "start"),
    [
        (OPENAI, b'data: {"error":{"message":"cut"'),
        (ANTHROPIC, b'event: error\ndata: {"type":"error","error":{"type":"api_error","message":"cut"}'),
        (RESPONSES, b'event: error\ndata: {"type":"error","code":"upstream_truncated","message":"cut"'),
    ],
)
async def test_a_failure_in_a_stream_of_events_is_the_dialects_own_event(of, start):
    s = Script(dialect=of)
    s.start(SSE, EVENT)
    s.relay.error(Failure(Code.UPSTREAM_TRUNCATED, "cut"))
    assert s.wire.sent[-1].startswith(start)
    assert s.wire.sent[-1].endswith(b"\n\n")
    assert DONE not in s.wire.sent


async def test_a_failure_in_native_events_is_an_event_without_done():
    s = Script(wrap=True)
    s.start(NDJSON, LINE)
    s.relay.error(Failure(Code.UPSTREAM_TRUNCATED, "cut"))
    said = json.loads(s.wire.sent[-1].removeprefix(b"data: "))
    assert said["error"]["message"] == "cut"
    assert s.wire.end == "finished"


async def test_the_targets_refusal_after_an_early_head_is_told_in_band():
    s = Script()
    await asyncio.sleep(21)
    s.start(Head(500, (), Framing.RAW), b'{"error":"out of memory"}')
    s.relay.end()
    assert s.wire.body == b'{"error":"out of memory"}\n'


async def test_a_committed_answer_that_is_no_stream_is_aborted():
    s = Script(stream=False, head_after=50.0)
    await asyncio.sleep(51)
    s.start(REFUSED, b"{}")
    s.relay.end()
    assert s.wire.end == "aborted"
    assert s.wire.body == b""


async def test_a_whole_answer_cut_after_it_was_streamed_through_is_aborted():
    for stream in (False, True):
        s = Script(stream=stream, head_after=None)
        s.start(RAW, b"x" * (HOLD + 1))
        s.relay.lost()
        assert s.wire.end == "aborted"


# ------------------------------------------------------------------ lost workers


async def test_a_worker_lost_before_the_first_byte_is_replaced_unseen():
    s = Script()
    s.start(NDJSON)
    s.relay.lost()
    assert s.relay.phase is Phase.WAITING
    assert s.relay.feedback is None
    s.start(NDJSON, LINE, LAST, epoch=2)
    s.relay.end()
    assert s.wire.sent == [LINE, LAST]


async def test_what_was_held_of_a_lost_run_is_dropped():
    s = Script(stream=False, head_after=None)
    s.start(RAW, b'{"from":"the first')
    s.relay.lost()
    assert s.relay._held is None
    s.start(RAW, b'{"from":"the second"}', epoch=2)
    s.relay.end()
    assert s.wire.body == b'{"from":"the second"}'


async def test_a_new_run_replaces_one_whose_loss_nobody_told():
    s = Script(stream=False, head_after=None)
    s.start(RAW, b"{")
    s.start(RAW, b"[]", epoch=2)
    s.relay.end()
    assert s.wire.body == b"[]"


async def test_a_worker_of_an_older_epoch_is_sent_away():
    s = Script()
    current = s.start(NDJSON, epoch=3)
    late = s.start(epoch=2, working=False)
    assert late.cancelled == [Code.CALLER_GONE]
    assert s.relay.feedback is current


async def test_a_worker_lost_after_the_first_byte_interrupts():
    s = Script()
    s.start(NDJSON, LINE)
    s.relay.lost()
    assert s.relay.failure.code is Code.INTERRUPTED
    assert json.loads(s.wire.sent[-1]).keys() == {"error"}
    assert s.wire.end == "finished"


async def test_a_second_run_never_goes_on_where_the_first_stopped():
    s = Script()
    s.start(NDJSON, LINE)
    second = s.start(NDJSON, LAST, epoch=2)
    s.relay.end()
    assert LAST not in s.wire.sent
    assert s.wire.end == "finished"
    assert second.cancelled == [Code.CALLER_GONE]


# ------------------------------------------------------------------ leaving


async def test_leaving_hands_out_the_run_to_cancel_and_sends_nothing_more():
    s = Script()
    worker = s.start(NDJSON, LINE)
    assert s.relay.leave() is worker
    s.relay.data(LINE)
    s.relay.end()
    assert s.wire.sent == [LINE]
    assert s.relay.leave() is None


async def test_leaving_while_queued_has_no_run_to_cancel():
    s = Script()
    assert s.relay.leave() is None
    late = s.start()
    assert late.cancelled == [Code.CALLER_GONE]


async def test_failing_a_call_from_here_cancels_its_run():
    s = Script()
    worker = s.start(NDJSON, LINE)
    s.relay.fail(Failure(Code.SHUTTING_DOWN, "bye"))
    assert worker.cancelled == [Code.SHUTTING_DOWN]


async def test_no_timer_is_left_behind():
    s = Script()
    s.start(NDJSON, LINE, LAST)
    s.relay.end()
    assert [timer for timer in asyncio.get_running_loop()._scheduled if not timer.cancelled()] == []
