"""The relay as a script: what a worker says in, what the caller gets out, on a virtual clock."""

from __future__ import annotations

import asyncio
import json

import pytest

from foreman.core.errors import Code, Failure
from foreman.link.channel import Framing, Head
from foreman.web.dialect import Dialect
from foreman.web.relay import HOLD, Manner, Phase, Relay

pytestmark = pytest.mark.looptime

NATIVE = Dialect("/api/chat")
OPENAI = Dialect("/v1/chat/completions")
RESPONSES = Dialect("/v1/responses")
ANTHROPIC = Dialect("/v1/messages")
NDJSON = Head(200, (("Content-Type", "application/x-ndjson"),), Framing.NDJSON)
SSE = Head(200, (("Content-Type", "text/event-stream"), ("X-Request-Id", "r1")), Framing.SSE)
RAW = Head(200, (("Content-Type", "application/json; charset=utf-8"),), Framing.RAW)
REFUSED = Head(400, (("Content-Type", "application/json; charset=utf-8"),), Framing.RAW)
LINE = b'{"message":{"content":"a"},"done":false}\n'
LAST = b'{"message":{"content":""},"done":true,"done_reason":"stop"}\n'
EVENT = b'data: {"choices":[]}\n\n'
DONE = b"data: [DONE]\n\n"


class FakeWire:
    """Writes down what is sent and when."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.idle_since = self.loop.time()
        self.backlog = False
        self.status = None
        self.headers = {}
        self.length = None
        self.sent = []
        self.at = []
        self.end = None

    def commit(self, status, headers, length):
        assert self.status is None, "one head only"
        self.status, self.headers, self.length = status, dict(headers), length
        self.idle_since = self.loop.time()

    def chunk(self, data, credit=0):
        assert self.end is None, "nothing after the end"
        self.sent.append(data)
        self.at.append(round(self.loop.time(), 2))
        self.idle_since = self.loop.time()

    def finish(self):
        assert self.end is None
        self.end = "finished"

    def abort(self):
        assert self.end is None
        self.end = "aborted"

    @property
    def body(self):
        return b"".join(self.sent)


class Worker:
    """The other end of a run, as the relay sees it."""

    def __init__(self) -> None:
        self.cancelled = []
        self.credits = 0

    def cancel(self, code):
        self.cancelled.append(code)

    def credit(self, taken):
        self.credits += taken


class Script:
    """One call: `relay` gets what a worker says, `wire` shows what went out."""

    def __init__(self, **manner) -> None:
        self.wire = FakeWire()
        given = {"dialect": NATIVE, "stream": True, "head_after": 20.0, "heartbeat": 15.0, **manner}
        self.relay = Relay(self.wire, Manner(**given), "JOB")
        self.workers = []

    def start(self, head=None, *units, epoch=1, working=True):
        worker = Worker()
        self.workers.append(worker)
        self.relay.started(epoch, worker)
        if working:
            self.relay.working()
        if head is not None:
            self.relay.head(head)
        for unit in units:
            self.relay.data(unit)
        return worker

    async def words(self):
        """Answer the relay's wish for words, as the handler does, until the test ends."""
        while True:
            await self.relay.event.wait()
            self.relay.event.clear()
            if self.relay.wants_words:
                self.relay.say("queued position=3 eta=41s")


@pytest.fixture
def speaking():
    tasks = []

    def speak(script):
        tasks.append(asyncio.get_running_loop().create_task(script.words()))
        return script

    yield speak
    for task in tasks:
        task.cancel()


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


async def test_no_done_after_a_targets_own_error_line():
    s = Script(wrap=True)
    s.start(NDJSON, LINE, b'{"error":"boom"}\n')
    s.relay.end()
    assert s.wire.sent[1:] == [b'data: {"error":"boom"}\n\n']


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
