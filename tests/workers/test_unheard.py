"""Jobs that the store gave a worker which never heard of it: the reply to their claim was lost, the worker lives on."""

from __future__ import annotations

import asyncio

import pytest

from foreman.core.jobs import Slot, State
from foreman.store.errors import StoreUnavailableError


def lose_one_reply(monkeypatch, queue, verb: str) -> list[str]:
    """The next call of this verb that claims a job is done by the store and never answered; the list says so then."""
    real, lost = getattr(queue, verb), []

    async def call(*args, **more):
        reply = await real(*args, **more)
        if not lost and (getattr(reply, "claimed", None) or getattr(reply, "job", None) or isinstance(reply, tuple)):
            lost.append(verb)
            raise StoreUnavailableError("the connection was cut")
        return reply

    monkeypatch.setattr(queue, verb, call)
    return lost


@pytest.mark.parametrize(
    ("verb", "slot"), [("take", Slot.DRAIN), ("claim_and_look", Slot.DRAIN), ("claim", Slot.EMBED)]
)
async def test_a_claim_whose_reply_is_lost_runs_all_the_same_and_costs_no_attempt(
    ollama, floor, monkeypatch, verb, slot
):
    fake = await ollama(["a"])
    here = await floor(gpu=fake)
    if verb == "take":  # which is asked where the lane is resident
        await (await here.submit("a")).ended()
    lost = lose_one_reply(monkeypatch, here.queue, verb)
    how = {"endpoint": "/api/embed", "stream": False} if slot is Slot.EMBED else {}
    caller = await (await here.submit("a", slot=slot, **how)).ended()
    assert lost == [verb]
    assert caller.calls[-1] == "end"
    job = await here.final(caller)
    assert (job.state, job.attempt, job.epoch) == (State.DONE, 1, 3)
    assert "unheard" in [event.reason for event in await here.queue.events(job.id)]


async def test_a_run_whose_end_takes_long_to_write_is_known(ollama, floor, monkeypatch):
    fake = await ollama(["a"])
    here = await floor(gpu=fake)
    real, asked, free = here.queue.transition, asyncio.Event(), asyncio.Event()

    async def slow(job_id, epoch, to, **more):
        if to is State.DONE:
            asked.set()
            await free.wait()
        return await real(job_id, epoch, to, **more)

    monkeypatch.setattr(here.queue, "transition", slow)
    caller = await (await here.submit("a")).ended()
    await asked.wait()
    for _ in range(3):
        await here.worker._unheard.look(here.worker.id)
    free.set()
    job = await here.final(caller)
    assert (job.state, job.epoch) == (State.DONE, 1)
