"""What both channels promise, one suite over both: order, cancel, credit, epochs, isolation, loss."""

from __future__ import annotations

import asyncio
import random

import pytest

from foreman.core.errors import Code, Failure
from foreman.link.local import LocalLink
from tests.link.fakes import GATEWAY, HEAD, WINDOW, FakeControl, FakeDoor, linked, wait_until


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


async def test_a_job_given_back_is_lost_to_its_sink_and_may_come_again(channel):
    sink = channel.door.expect("job-1")
    outlet = await channel.open(epoch=1)
    outlet.working()
    outlet.back()
    outlet.end()
    await wait_until(lambda: "lost" in sink.names)
    again = await channel.open(epoch=2)
    again.working()
    again.error(Failure(Code.STALLED, "no byte for five minutes"))
    await wait_until(lambda: "error" in sink.names)
    assert sink.calls == [
        ("started", 1),
        ("working",),
        ("lost",),
        ("started", 2),
        ("working",),
        ("error", Code.STALLED),
    ]


async def test_a_later_epoch_takes_over_and_the_older_one_is_heard_no_more(channel):
    sink = channel.door.expect("job-1")
    control = FakeControl()
    old = await channel.open(epoch=1, control=control)
    old.working()
    new = await channel.open(epoch=2)
    old.head(HEAD)
    old.data(b"stale")
    new.head(HEAD)
    new.data(b"fresh")
    new.end()
    await wait_until(lambda: "end" in sink.names and control.orders)
    old.end()
    await channel.open("job-2")
    assert sink.calls == [
        *(("started", 1), ("working",), ("lost",)),
        *(("started", 2), ("head", HEAD), ("data", b"fresh"), ("end",)),
    ]
    assert control.orders == [Code.INTERRUPTED]


@pytest.mark.parametrize("stale", [1, 2])
async def test_an_epoch_that_is_not_later_is_refused(channel, stale):
    sink = channel.door.expect("job-1")
    outlet = await channel.open(epoch=2)
    outlet.head(HEAD)
    control = FakeControl()
    late = await channel.open(epoch=stale, control=control)
    late.head(HEAD)
    late.data(b"stale")
    await wait_until(lambda: control.orders)
    assert control.orders == [Code.INTERRUPTED]
    outlet.end()
    await wait_until(lambda: "end" in sink.names)
    control = FakeControl()
    await channel.open(epoch=stale, control=control)
    await wait_until(lambda: control.orders)
    assert sink.names == ["started", "head", "end"]


async def test_a_call_out_of_order_ends_the_job_at_both_ends(channel):
    sink = channel.door.expect("job-1")
    control = FakeControl()
    outlet = await channel.open(control=control)
    outlet.data(b"before any head")
    await wait_until(lambda: control.orders)
    assert control.orders == [Code.INTERRUPTED]
    assert sink.calls == [("started", 1), ("lost",)]


async def test_orders_never_come_from_within_a_call_of_the_outlet(channel):
    """But for `pause`: a sink that cancels while it takes a unit must not re-enter the executor."""
    sink = channel.door.expect("job-1", raises={"data"})
    control = FakeControl()
    outlet = await channel.open(control=control)
    outlet.head(HEAD)
    outlet.data(b"unit")
    assert control.orders == []
    await wait_until(lambda: control.orders)
    assert sink.names[-1] == "lost"


async def test_a_job_that_is_over_hears_no_orders(channel):
    sink = channel.door.expect("job-1")
    control = FakeControl()
    outlet = await channel.open(control=control, window=10)
    outlet.head(HEAD)
    outlet.end()
    await wait_until(lambda: "end" in sink.names)
    sink.feedback.cancel(Code.CALLER_GONE)
    sink.feedback.credit(5)
    await channel.settle()
    assert control.orders == []


async def test_a_thousand_jobs_interleave_and_each_keeps_its_order(channel):
    sinks = [channel.door.expect(f"job-{n}") for n in range(1000)]
    outlets = [await channel.open(f"job-{n}") for n in range(1000)]
    order = random.Random(7)
    for outlet in outlets:
        outlet.working()
        outlet.head(HEAD)
    for step in range(10):
        order.shuffle(outlets)
        for outlet in outlets:
            outlet.data(b"%b:%d " % (outlet.job_id.encode(), step))
        await asyncio.sleep(0)
    for outlet in outlets:
        outlet.end()
    await wait_until(lambda: all(sink.names[-1:] == ["end"] for sink in sinks))
    for n, sink in enumerate(sinks):
        assert sink.body == b"".join(b"job-%d:%d " % (n, step) for step in range(10))
        assert sink.names == ["started", "working", "head", *["data"] * 10, "end"]


async def test_nothing_is_held_of_a_job_that_is_over(channel):
    for n, last in enumerate(["end", "error", "back", "refused", "broken", "sink"]):
        channel.door.expect(f"job-{n}", raises={"data"} if last == "sink" else set())
        outlet = await channel.open("job-unknown" if last == "refused" else f"job-{n}")
        if last != "broken":
            outlet.head(HEAD)
        outlet.data(b"unit")
        if last == "error":
            outlet.error(Failure(Code.STALLED, "no byte"))
        elif last in {"end", "back"}:
            getattr(outlet, last)()
        await channel.settle()
        outlet.back()  # what an executor says when it was cancelled
        await channel.settle()
        assert channel.held() == [], last


async def test_units_of_any_size_arrive_whole(channel):
    sink = channel.door.expect("job-1")
    outlet = await channel.open(window=1 << 40)
    units = [random.Random(size).randbytes(size) for size in (0, 1, 9, 65535, 65536, 1 << 20, 5_000_000)]
    outlet.head(HEAD)
    for unit in units:
        outlet.data(unit)
    outlet.end()
    await wait_until(lambda: "end" in sink.names)
    assert [call[1] for call in sink.calls if call[0] == "data"] == units


async def test_a_caller_that_leaves_cancels_the_run(channel):
    sink = channel.door.expect("job-1")
    control = FakeControl()
    await channel.open(control=control)
    await wait_until(lambda: sink.feedback)
    sink.feedback.cancel(Code.CALLER_GONE)
    sink.feedback.cancel(Code.DEADLINE_EXCEEDED)
    await channel.settle()
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
    await channel.settle()
    assert control.orders == ["pause"]
    sink.feedback.credit(1)
    await channel.settle()
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
    assert control.orders == [Code.INTERRUPTED], "not its caller's wish: without a byte passed on it may run again"
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
    assert broken.names[-2:] == ([call, "lost"] if call != "end" else ["data", "end"])


async def test_an_epoch_counts_across_both_channels_of_a_gateway():
    """A worker in the gateway's own process stalls; one behind TCP takes its job over."""
    door = FakeDoor()
    sink = door.expect("job-1")
    local = LocalLink()
    local.register(GATEWAY, door)
    tcp = await linked(door)
    control = FakeControl()
    stalled = await local.open(GATEWAY, "job-1", 1, control, window=WINDOW)
    stalled.head(HEAD)
    successor = await tcp.open(epoch=2)
    successor.head(HEAD)
    await wait_until(lambda: control.orders)
    stalled.data(b"stale")
    successor.data(b"fresh")
    successor.end()
    await wait_until(lambda: "end" in sink.names)
    assert sink.body == b"fresh"
    assert sink.names == ["started", "head", "lost", "started", "head", "data", "end"]
    await tcp.close()


async def test_a_window_that_is_narrowed_pauses_and_one_that_is_widened_resumes(channel):
    sink = channel.door.expect("job-1", credits=False)
    control = FakeControl()
    outlet = await channel.open(control=control, window=1000)
    outlet.head(HEAD)
    outlet.data(b"x" * 600)
    await wait_until(lambda: sink.body)
    assert control.orders == []
    sink.feedback.fit(100)
    await wait_until(lambda: control.orders == ["pause"])
    await wait_until(lambda: sink.held_calls == [True])
    sink.feedback.fit(2000)
    await wait_until(lambda: control.orders == ["pause", "resume"])
    await wait_until(lambda: sink.held_calls == [True, False])
    outlet.back()
