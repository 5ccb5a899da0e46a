"""Submit and claim in one step: only where nothing waits, and then all that the two would have written."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from foreman.core.errors import Code, Failure
from foreman.core.jobs import Slot, State
from foreman.store import keys as k
from foreman.store.errors import StoreUnavailableError
from foreman.store.operators import Kind
from tests.store.ground import Ground, gateway, new_job

if TYPE_CHECKING:
    from foreman.store.records import Claimed, NewJob, Ownership


class Offering:
    """An owner that has a place for whatever comes."""

    def __init__(self, own: Ownership) -> None:
        self.own = own
        self.asked: list[str] = []
        self.woken: list[Slot] = []
        self.claimed: list[Claimed] = []
        self.withdrawn: list[str] = []

    def wake(self, slot: Slot) -> None:
        self.woken.append(slot)

    def offer(self, new: NewJob) -> Ownership:
        self.asked.append(new.id)
        return self.own

    def given(self, claimed: Claimed) -> None:
        self.claimed.append(claimed)

    def withdraw(self, job_id: str) -> None:
        self.withdrawn.append(job_id)


@pytest.fixture
async def here(ground: Ground) -> Offering:
    owner = Offering(await ground.owner())
    ground.queue.owners["gpu1"] = owner
    return owner


def job(**changes: Any) -> NewJob:
    return new_job(targets=("gpu1", "gpu2"), **changes)


async def places(ground: Ground, job_id: str) -> set[str]:
    """The keys of the pool that name a job, beside its own."""
    found = set()
    for key in await ground.look.keys("*"):
        kind = await ground.look.type(key)
        look = {"zset": lambda one: ground.look.zrange(one, 0, -1), "set": ground.look.smembers}.get(kind)
        if look is not None and job_id in await look(key):
            found.add(key)
    return found


async def test_where_nothing_waits_it_is_the_owners_and_nobody_is_woken(ground: Ground, here: Offering) -> None:
    new = job(options={"num_ctx": 5}, digest="d", deadline_in=60.0, caller="ci", headers={"a": "b"})
    submitted = await ground.queue.submit(new)
    assert (submitted.job_id, submitted.known, submitted.place.position) == (new.id, False, 1)
    assert (here.withdrawn, here.woken, await ground.look.exists(ground.key(k.WAKE, "gpu2"))) == ([], [], 0)
    (claimed,) = here.claimed
    assert claimed.job == await ground.queue.get(new.id)
    assert (claimed.job.state, claimed.job.epoch, claimed.job.worker) == (State.WORKING, 1, "wk-1")
    assert await ground.events(new.id) == [("queued", "submitted"), ("working", "claimed")]


async def test_it_writes_what_submit_and_take_write_in_two_steps(ground: Ground, here: Offering) -> None:
    await ground.queue.announce(gateway())
    first, second = job(deadline_in=60.0), job(deadline_in=60.0)
    await ground.queue.submit(first)
    del ground.queue.owners["gpu1"]
    await ground.queue.submit(second)
    taken = await ground.queue.take(here.own, Slot.DRAIN, ["lane-a"])
    one, two = here.claimed[0], taken.claimed  # type: ignore[union-attr] # it is Taken, or the next line fails
    same = {"id": "", "created_at": 0.0, "due": 0.0, "changed_at": 0.0, "deadline": 0.0, "started_at": 0.0}
    blank = [replace(claimed, now=0.0, job=replace(claimed.job, **same, claimed_at=0.0)) for claimed in (one, two)]
    assert blank[0] == blank[1]
    assert await places(ground, first.id) == await places(ground, second.id)
    assert await ground.events(first.id) == await ground.events(second.id)
    for job_id in (first.id, second.id):
        assert await ground.queue.transition(job_id, 1, State.DONE, reason="test")


@pytest.mark.parametrize("why", ["another lane waits", "paused", "later", "fenced", "lease over"])
async def test_else_it_is_queued_and_its_owner_told(ground: Ground, here: Offering, why: str) -> None:
    more: dict[str, Any] = {}
    if why == "another lane waits":
        await ground.submit(lane="lane-b")
    elif why == "paused":
        await ground.store.operators.pause(Kind.TARGET, "gpu1", "op")
    elif why == "later":
        more = {"not_before": 4e9}
    elif why == "fenced":
        here.own = replace(here.own, epoch=here.own.epoch + 1)
    else:
        await ground.lapse(k.WORKERS, "wk-1")
    new = job(**more)
    await ground.queue.submit(new)
    assert (await ground.queue.get(new.id)).state is State.QUEUED  # type: ignore[union-attr] # it is there
    assert (here.claimed, here.withdrawn, here.woken) == ([], [new.id], [Slot.DRAIN])


async def test_sent_again_it_is_claimed_once(ground: Ground, here: Offering) -> None:
    new = job()
    await ground.queue.submit(new)
    await ground.queue.submit(new)
    assert (len(here.claimed), here.withdrawn) == (1, [new.id])
    assert (await ground.queue.get(new.id)).epoch == 1  # type: ignore[union-attr] # it is there


async def test_one_that_is_refused_or_known_keeps_no_place(ground: Ground, here: Offering) -> None:
    await ground.queue.submit(job(idempotency_key="a", fingerprint="1"))
    known = job(idempotency_key="a", fingerprint="1")
    assert (await ground.queue.submit(known)).known
    other = job(idempotency_key="a", fingerprint="2")
    with pytest.raises(Failure) as refused:
        await ground.queue.submit(other)
    assert refused.value.code is Code.BAD_REQUEST
    assert here.withdrawn == [known.id, other.id]


@pytest.mark.parametrize("how", ["lost", "left", "closed"])
async def test_a_reply_that_nobody_can_use_leaves_no_place_kept(
    ground: Ground, here: Offering, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """The job is claimed, and goes back by workers/unheard.py."""
    real = ground.queue._moving

    async def moving(name: str, *args: Any) -> Any:
        reply = await real(name, *args)
        if how == "lost":
            raise StoreUnavailableError("the connection was cut")
        if how == "left":
            raise asyncio.CancelledError
        ground.queue.owners.clear()
        return reply

    monkeypatch.setattr(ground.queue, "_moving", moving)
    new = job()
    gone = {"lost": StoreUnavailableError, "left": asyncio.CancelledError}.get(how)
    if gone is None:
        await ground.queue.submit(new)
    else:
        with pytest.raises(gone):
            await ground.queue.submit(new)
    assert (here.claimed, here.withdrawn) == ([], [new.id])
    assert await ground.queue.held("wk-1") == {new.id}
