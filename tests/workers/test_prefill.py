"""A call closed while the server reads its prompt: the slot stays taken until it has read it, and the dispatcher knows."""

from __future__ import annotations

import asyncio

from foreman.core.errors import Code, Failure
from foreman.core.jobs import State
from tests.workers.conftest import wait_until

PREFILL = 0.6
GONE = Failure(Code.CALLER_GONE, "gone")


async def left(here, fake) -> float:
    """A caller that leaves in mid-prefill; when the server began to read its prompt."""
    seen = len(fake.requests_to("/api/chat"))
    caller = await here.submit("a")
    await wait_until(lambda: len(fake.requests_to("/api/chat")) > seen)
    asked = fake.requests_to("/api/chat")[-1]
    await wait_until(lambda: "prefill" in asked.phase_at)
    caller.feedback.cancel(Code.CALLER_GONE)
    job = await here.final(caller)
    assert job.state is State.CANCELLED
    return asked.phase_at["prefill"]


async def test_the_next_call_goes_when_the_slot_is_free(ollama, floor):
    fake = await ollama(["a"], tokens=2, prefill_seconds=PREFILL)
    here = await floor(gpu=fake)
    await (await here.submit("a")).ended()
    began = await left(here, fake)
    second = await (await here.submit("a")).ended()
    assert second.failure is None
    asked = fake.requests_to("/api/chat")[-1]
    assert asked.at - began >= PREFILL * 0.8, "it was kept here while the slot was taken"
    assert asked.phase_at["prefill"] - asked.phase_at["waiting"] < PREFILL * 0.5, (
        "it did not stand in the server's queue"
    )
    assert here.worker.targets["gpu"].prefills.busy() == {}


async def test_a_waiter_that_leaves_meanwhile_is_never_sent(ollama, floor):
    fake = await ollama(["a"], tokens=2, prefill_seconds=PREFILL)
    here = await floor(gpu=fake)
    await (await here.submit("a")).ended()
    await left(here, fake)
    sent = len(fake.requests_to("/api/chat"))
    waiter = await here.submit("a")
    await here.queue.cancel(waiter.job_id, GONE)
    await wait_until(lambda: not here.worker.targets["gpu"].prefills.busy())
    await (await here.submit("a")).ended()
    assert len(fake.requests_to("/api/chat")) == sent + 1


async def test_a_close_in_mid_stream_frees_the_slot_at_once(ollama, floor):
    fake = await ollama(["a"], tokens=5, prefill_seconds=0.05)
    here = await floor(gpu=fake)
    await (await here.submit("a")).ended()
    gate = fake.gate(after=1)
    caller = await here.submit("a")
    await caller.until(lambda c: c.units)
    await gate.reached()
    caller.feedback.cancel(Code.CALLER_GONE)
    await here.final(caller)
    assert here.worker.targets["gpu"].prefills.busy() == {}
    gate.open()
    await (await here.submit("a")).ended()


async def test_of_a_lane_that_never_answered_nothing_is_guessed(ollama, floor):
    fake = await ollama(["a"], tokens=2, prefill_seconds=0.1)
    here = await floor(gpu=fake)
    await left(here, fake)
    assert here.worker.targets["gpu"].prefills.busy() == {}
    await asyncio.wait_for((await here.submit("a")).ended(), 20)
