"""Waiting to be told: wake-ups for watched targets, one per slot, and none lost to a cancelled task."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from foreman.core.errors import Code, Failure
from foreman.core.jobs import Slot, State
from foreman.store import keys as k
from foreman.store.errors import ScriptError

if TYPE_CHECKING:
    from tests.store.ground import Ground


async def test_submit_wakes_each_target_that_may_take_it(ground: Ground) -> None:
    for name in ("gpu1", "gpu2", "gpu3"):
        await ground.owner(target=name)

    async def wake(name: str) -> list[str]:
        return sorted(await ground.look.lrange(ground.key(k.WAKE, name), 0, -1))

    await ground.submit(targets=("gpu1", "gpu2"))
    assert [await wake(name) for name in ("gpu1", "gpu2", "gpu3")] == [["drain"], ["drain"], []]
    await ground.submit(targets=("gpu1", "gpu2"), target_only="gpu3", lane="lane-a@gpu3")
    assert [await wake(name) for name in ("gpu1", "gpu2", "gpu3")] == [["drain"], ["drain"], ["drain"]]
    for _ in range(3):
        await ground.submit(slot=Slot.EMBED)
    assert [await wake(name) for name in ("gpu1", "gpu2", "gpu3")] == [["drain", "embed"]] * 3


async def test_a_waiting_worker_is_woken_by_a_submit(ground: Ground) -> None:
    await ground.owner()
    inbox = await ground.store.inbox("worker", "wk-1")
    inbox.watch(["gpu1"])
    while await inbox.receive() is not None:  # what came while it took the target
        pass
    waiting = asyncio.ensure_future(inbox.receive())  # noqa: TID251 - awaited below
    await asyncio.sleep(0)
    await ground.submit()
    order = await waiting
    assert order is not None
    assert (order.verb, order.target, order.slot) == ("wake", "gpu1", "drain")


async def test_nothing_for_a_second_is_none(ground: Ground) -> None:
    assert await (await ground.store.inbox("gateway", "gw-1")).receive() is None


async def test_a_cancelled_wait_loses_no_message(ground: Ground) -> None:
    await ground.owner()
    inbox = await ground.store.inbox("worker", "wk-1")
    inbox.watch(["gpu1"])
    while await inbox.receive() is not None:
        pass
    for _ in range(20):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0):
                await inbox.receive()
        await ground.submit(lane="lane-b")
        order = await inbox.receive()
        assert order is not None
        assert order.verb == "wake"
        while await ground.look.exists(ground.key(k.WAKE, "gpu1")):
            await inbox.receive()


async def test_a_submit_rings_whom_it_reaches_here_and_has_the_store_wake_the_others(ground: Ground) -> None:
    rung: list[Slot] = []

    class Busy:
        """An owner that has no place to offer."""

        wake = staticmethod(rung.append)

        def offer(self, _new: object) -> None:
            """Nothing."""

    ground.queue.owners["gpu1"] = Busy()

    async def woken() -> list[str]:
        return [name for name in ("gpu1", "gpu2", "gpu3") if await ground.look.delete(ground.key(k.WAKE, name))]

    await ground.submit(targets=("gpu1", "gpu2"))
    assert (rung, await woken()) == ([Slot.DRAIN], ["gpu2"])
    await ground.submit(targets=("gpu1",), slot=Slot.EMBED)
    assert (rung, await woken()) == ([Slot.DRAIN, Slot.EMBED], [])
    await ground.submit(targets=("gpu1", "gpu2"), target_only="gpu2")
    assert (rung[2:], await woken()) == ([], ["gpu2"])
    await ground.submit(targets=("gpu1", "gpu2"), target_only="gpu1")
    assert (rung[2:], await woken()) == ([Slot.DRAIN], [])


async def test_what_the_store_refuses_once_is_asked_again(ground: Ground) -> None:
    inbox = await ground.store.inbox("gateway", "gw-1")
    key = ground.key(k.INBOX, "gateway", "gw-1")
    await ground.look.set(key, "somebody else's")
    with pytest.raises(ScriptError, match="WRONGTYPE"):
        await inbox.receive()
    await ground.look.delete(key)
    assert await inbox.receive() is None


@pytest.mark.parametrize("ground", ["valkey"], indirect=True)
async def test_who_could_not_be_told_of_everything_is_told_that(ground: Ground) -> None:
    ground.store.queue._limits = replace(ground.store.queue._limits, max_queue=2000)
    await asyncio.gather(*(ground.submit(gateway="gw-1", lane="a") for _ in range(1001)))
    await ground.store.operators.clear("a", "me", Failure(Code.CANCELLED, "x"))
    inbox = await ground.store.inbox("gateway", "gw-1")
    first = await inbox.receive()
    assert first is not None
    assert first.missed
    second = await inbox.receive()
    assert second is not None
    assert (second.missed, second.state) == (False, State.CANCELLED)
