"""A place that the dispatcher keeps for a job that its own process submits: claimed with it, and never one too many."""

from __future__ import annotations

import asyncio

import pytest

from foreman.core.errors import Code, Failure
from foreman.core.jobs import Slot, State
from foreman.store.errors import StoreUnavailableError
from tests.waiting import wait_until


@pytest.fixture
def asked(monkeypatch):
    """A factory: which verbs a queue sends from now on, and what becomes of the next submit's reply."""

    def watch(queue, reply=None):
        real, said, left = queue._moving, [], [reply]

        async def moving(name, *args):
            said.append(name)
            answer = await real(name, *args)
            if name == "submit" and left[0] is not None:
                error, left[0] = left[0], None
                raise error
            return answer

        monkeypatch.setattr(queue, "_moving", moving)
        return said

    return watch


async def at_rest(here, target="gpu"):
    """Until nothing is left to do there."""
    owner = here.queue.owners[target]
    found = here.worker.targets[target]
    await wait_until(
        lambda: owner._rests and not found.unseen and not found.wakes[Slot.DRAIN].is_set() and not found.unsettled
    )


async def loaded(here, *models):
    for model in models or ("a",):
        await (await here.submit(model)).ended()
    await at_rest(here)


async def test_a_job_of_a_loaded_lane_is_claimed_with_its_submit(ollama, floor, asked):
    fake = await ollama(["a"])
    here = await floor(gpu=fake)
    await loaded(here)
    said = asked(here.queue)
    caller = await (await here.submit("a", targets=("gpu",))).ended()
    job = await here.final(caller)
    assert (job.state, job.epoch, caller.calls[-1]) == (State.DONE, 1, "end")
    assert "take" not in said[: said.index("transition")]


async def test_the_places_of_a_lane_are_kept_for_no_more_than_there_are(ollama, floor):
    fake = await ollama(["a"], slots=8)
    here = await floor(gpu=fake, options="&slots=2")
    await loaded(here)
    gate = fake.gate(times=8)
    callers = await asyncio.gather(*(here.submit("a", targets=("gpu",)) for _ in range(5)))
    await wait_until(lambda: gate.standing == 2)
    assert [(await here.job(caller)).state for caller in callers] == [State.WORKING] * 2 + [State.QUEUED] * 3
    assert len(here.worker.targets["gpu"].slots) == 2
    gate.open()
    for caller in callers:
        assert (await here.final(await caller.ended())).state is State.DONE


async def test_a_kept_place_is_not_swapped_away(ollama, floor, monkeypatch):
    """Between the offer and its reply the lane counts as running: another's load waits for it."""
    fake = await ollama(["a", "b"], max_loaded=1)
    here = await floor(gpu=fake, options="&resident=1")
    await loaded(here)
    owner, target = here.queue.owners["gpu"], here.worker.targets["gpu"]
    (lane,) = (held.lane for held in target.residency.held)
    real, held, free = here.queue._moving, asyncio.Event(), asyncio.Event()

    async def moving(name, *args):
        answer = await real(name, *args)
        if name == "submit" and not held.is_set():
            held.set()
            await free.wait()
        return answer

    monkeypatch.setattr(here.queue, "_moving", moving)
    async with asyncio.TaskGroup() as group:
        first = group.create_task(here.submit("a", targets=("gpu",)))
        await held.wait()
        second = await here.submit("b", targets=("gpu",))
        await wait_until(lambda: owner._rests and target.lanes.any_waiting())
        assert (target.loader.current, target.running(Slot.DRAIN)) == (None, {lane: 1})
        free.set()
    for caller in (first.result(), second):
        assert (await here.final(await caller.ended())).state is State.DONE


@pytest.mark.parametrize("wish", [True, False])
async def test_a_caller_that_leaves_before_the_reply_leaves_no_job_at_work(ollama, floor, asked, wish):
    fake = await ollama(["a"])
    here = await floor(gpu=fake)
    await loaded(here)
    before = len(fake.ledger.requests)
    asked(here.queue, asyncio.CancelledError() if wish else StoreUnavailableError("the connection was cut"))
    ids = set(here.door.callers)
    with pytest.raises((asyncio.CancelledError, StoreUnavailableError)):
        await here.submit("a", targets=("gpu",))
    (job_id,) = set(here.door.callers) - ids
    if wish:
        await here.queue.cancel(job_id, Failure(Code.CALLER_GONE, "it left"))
    job = await here.final(here.door.callers[job_id])
    assert (job.state, job.attempt) == (State.CANCELLED if wish else State.DONE, 1)
    if wish:  # it never came to the target
        assert len([one for one in list(fake.ledger.requests)[before:] if one.path == "/api/chat"]) == 0
    assert here.worker.targets["gpu"].slots == {}
