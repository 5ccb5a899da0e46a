"""What both channels promise, one suite over both: order, cancel, credit, epochs, isolation, loss."""

from __future__ import annotations

import pytest

from foreman.core.errors import Code, Failure
from tests.link.fakes import HEAD, FakeControl, wait_until


async def test_an_answer_arrives_as_it_was_said(channel):
    sink = channel.door.expect("job-1")
    outlet = await channel.open(epoch=7)
    outlet.working()
    outlet.head(HEAD)
    outlet.data(b"one\n")
    outlet.data(b"")
    outlet.data(b"two\n")
    outlet.end()
    await wait_until(lambda: "end" in sink.names)
    assert sink.calls == [
        ("started", 7),
        ("working",),
        ("head", HEAD),
        ("data", b"one\n"),
        ("data", b""),
        ("data", b"two\n"),
        ("end",),
    ]


async def test_a_failure_arrives_with_all_its_words(channel):
    sink = channel.door.expect("job-1")
    outlet = await channel.open()
    outlet.working()
    outlet.error(Failure(Code.UPSTREAM_TRUNCATED, "cut off – ende", status=599, retryable=False, retry_after=2.5))
    await wait_until(lambda: "error" in sink.names)
    said = sink.failure
    assert (said.code, said.message, said.status) == (Code.UPSTREAM_TRUNCATED, "cut off – ende", 599)
    assert (said.retryable, said.retry_after) == (False, 2.5)


async def test_a_caller_that_leaves_cancels_the_run(channel):
    sink = channel.door.expect("job-1")
    control = FakeControl()
    await channel.open(control=control)
    await wait_until(lambda: sink.feedback)
    sink.feedback.cancel(Code.CALLER_GONE)
    sink.feedback.cancel(Code.DEADLINE_EXCEEDED)
    await wait_until(lambda: control.orders)
    assert control.orders == [Code.CALLER_GONE]


async def test_a_job_nobody_waits_for_is_cancelled(channel):
    control = FakeControl()
    outlet = await channel.open("job-unknown", control=control)
    await wait_until(lambda: control.orders)
    assert control.orders == [Code.CALLER_GONE]
    outlet.head(HEAD)
    outlet.data(b"to nobody")
    outlet.end()


async def test_a_slow_reader_pauses_the_run_at_its_window_and_resumes_it_at_half(channel):
    sink = channel.door.expect("job-1", credits=False)
    control = FakeControl()
    outlet = await channel.open(control=control, window=1000)
    outlet.head(HEAD)
    outlet.data(b"x" * 1000)
    assert control.orders == []
    outlet.data(b"x")
    assert control.orders == ["pause"]
    await wait_until(lambda: len(sink.body) == 1001)
    sink.feedback.credit(500)
    sink.feedback.credit(1)
    await wait_until(lambda: len(control.orders) == 2)
    assert control.orders == ["pause", "resume"]
    outlet.data(b"x" * 501)
    assert control.orders == ["pause", "resume", "pause"]


async def test_a_gateway_that_leaves_cancels_its_runs_and_loses_its_sinks(channel):
    sink = channel.door.expect("job-1")
    control = FakeControl()
    outlet = await channel.open(control=control)
    outlet.head(HEAD)
    outlet.data(b"half an ans")
    await wait_until(lambda: sink.body)
    await channel.gateway_leaves()
    await wait_until(lambda: control.orders)
    assert control.orders == [Code.CALLER_GONE]
    assert sink.names[-1] == "lost"
    outlet.data(b"wer")
    outlet.end()
    assert sink.names[-1] == "lost"


@pytest.mark.parametrize("call", ["started", "working", "head", "data", "end"])
async def test_a_sink_that_raises_ends_its_own_job_only(channel, call):
    broken = channel.door.expect("job-1", raises={call})
    healthy = channel.door.expect("job-2")
    control = FakeControl()
    outlet = await channel.open("job-1", control=control)
    other = await channel.open("job-2")
    for each in (outlet, other):
        each.working()
        each.head(HEAD)
        each.data(b"unit")
        each.end()
    await wait_until(lambda: "end" in healthy.names)
    assert healthy.names == ["started", "working", "head", "data", "end"]
    assert broken.names[-2:] == ([call, "error"] if call != "end" else ["data", "end"])
