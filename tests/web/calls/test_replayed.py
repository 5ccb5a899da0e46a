"""A relay that goes on where its caller was, as a script on a virtual clock: heartbeats, failures, cuts."""

from __future__ import annotations

import asyncio

import pytest

from foreman.core.errors import Code, Failure
from foreman.web.calls.manner import Manner
from foreman.web.calls.replayed import CREDIT_STEP, Replayed
from tests.web.calls.relay_script import LAST, LINE, NATIVE, NDJSON, RAW, FakeWire, Worker

pytestmark = pytest.mark.looptime
LOST = Failure(Code.INTERRUPTED, "lost")


def relay(begin: int = 0, **manner):
    wire = FakeWire()
    given = {"dialect": NATIVE, "stream": True, "head_after": 20.0, "heartbeat": 15.0, **manner}
    return Replayed(wire, Manner(**given), "JOB", begin), wire


def begin(made: Replayed, *units: bytes, epoch: int = 1, head=NDJSON) -> Worker:
    worker = Worker()
    made.started(epoch, worker)
    made.working()
    made.head(head)
    for unit in units:
        made.data(unit)
    return worker


@pytest.mark.parametrize(("at", "beats"), [(0, 2), (5, 0), (len(LINE), 0)])
async def test_no_heartbeat_where_the_caller_may_stand_in_the_middle_of_a_line(at, beats):
    made, wire = relay(at)
    await asyncio.sleep(51)
    assert wire.status == 200
    assert wire.sent == [b" "] * beats
    begin(made, LINE, LINE)
    assert wire.sent[beats:] == [part for part in (LINE[at:], LINE) if part]
    await asyncio.sleep(16)
    assert wire.sent[-1] == b" ", "from a whole line on they come again"
    made.close()


@pytest.mark.parametrize(("at", "cut"), [(0, b""), (5, b"\n")])
async def test_a_failure_ends_the_line_that_the_caller_has_begun(at, cut):
    made, wire = relay(at)
    await asyncio.sleep(21)
    made.fail(LOST)
    assert wire.body == cut + b'{"error":"lost"}\n'


async def test_after_a_cut_the_same_run_goes_on_and_each_byte_is_sent_once():
    made, wire = relay()
    begin(made, LINE, LINE)
    made.lost()
    assert wire.end is None
    begin(made, LINE, LINE, LINE, LAST)
    made.end()
    assert wire.sent == [LINE, LINE, LINE, LAST]
    assert wire.end == "finished"


async def test_a_run_lost_before_its_first_byte_is_followed_by_any_other():
    made, wire = relay()
    begin(made)
    made.lost()
    begin(made, LINE, LAST, epoch=3)
    made.end()
    assert wire.body == LINE + LAST


async def test_what_is_left_out_is_credited_in_steps():
    made, wire = relay(3 * CREDIT_STEP)
    worker = begin(made, *[b"x" * (CREDIT_STEP // 2 - 1) + b"\n"] * 6)
    assert worker.credits == 3 * CREDIT_STEP
    assert wire.sent == []
    made.close()


async def test_a_whole_answer_goes_on_too():
    made, wire = relay(3, stream=False, head_after=None)
    begin(made, b'{"a":', b"1}", head=RAW)
    made.end()
    assert (wire.body, wire.length) == (b'":1}', 4)


async def test_a_big_whole_answer_goes_on_after_a_cut():
    body = b"x" * (3 << 19)
    made, wire = relay(stream=False, head_after=None)
    begin(made, body, b"y", head=RAW)
    assert wire.body == body + b"y"
    made.lost()
    begin(made, body, b"yz", head=RAW)
    made.end()
    assert wire.body == body + b"yz"


async def test_past_the_end_in_a_committed_answer_is_told_in_band():
    made, wire = relay(10_000)
    await asyncio.sleep(21)
    begin(made, LINE, LAST)
    made.end()
    assert b"past the end" in wire.body
    assert made.failure.status == 416
