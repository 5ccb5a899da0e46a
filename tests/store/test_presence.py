"""Workers, gateways, targets: what they say of themselves, and for how long it is believed."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from foreman.core.jobs import Slot
from foreman.store import keys as k
from tests.store.ground import LIMITS, gateway, status, worker

if TYPE_CHECKING:
    from tests.store.ground import Ground


async def test_workers(ground: Ground) -> None:
    await ground.queue.enroll(worker("wk-1", version="0.1"))
    await ground.queue.own("gpu2", "wk-1")
    await ground.queue.own("gpu1", "wk-1")
    (first,) = await ground.queue.workers()
    assert (first.id, first.version, first.targets, first.unreachable) == ("wk-1", "0.1", ("gpu1", "gpu2"), ())
    assert first.expires - first.since == pytest.approx(LIMITS.lease, abs=1.0)
    await ground.queue.enroll(worker("wk-1", version="0.1", unreachable=("gw-1",)))  # says more; loses nothing
    (again,) = await ground.queue.workers()
    assert (again.since, again.targets, again.unreachable) == (first.since, ("gpu1", "gpu2"), ("gw-1",))
    await ground.lapse(k.WORKERS, "wk-1")
    assert await ground.queue.workers() == []


async def test_gateways(ground: Ground) -> None:
    said = gateway("gw-1", link="10.0.0.1:7480", callers=3, version="0.1")
    await ground.queue.announce(said)
    await ground.queue.announce(replace(said, callers=5))
    assert await ground.queue.gateways() == [replace(said, callers=5)]
    await ground.lapse(k.GATEWAYS, "gw-1")
    assert await ground.queue.gateways() == []


async def test_a_new_gateway_is_made_known_to_workers_once(ground: Ground) -> None:
    await ground.queue.enroll(worker("wk-1"))
    for _ in range(3):
        await ground.queue.announce(gateway("gw-1"))
    order = await (await ground.store.inbox("worker", "wk-1")).receive()
    assert order is not None
    assert order.verb == "gateways"
    assert await ground.look.llen(ground.key(k.INBOX, "worker", "wk-1")) == 0


async def test_inventories_in_order_of_name(ground: Ground) -> None:
    second, first = await ground.owner(target="b"), await ground.owner(target="a")
    full = status(
        "b", "wk-1", tags=[{"name": "llama3:latest"}], loads={"lane": 2.5}, next={"lane": "x", "reason": "due"}
    )
    await ground.queue.publish(second, full)
    assert await ground.queue.targets() == [status("a", "wk-1"), full]
    await ground.queue.publish(replace(first, epoch=first.epoch + 9), status("a", "wk-zombie"))
    assert (await ground.queue.targets())[0].worker == "wk-1"


async def test_a_target_without_a_living_owner_is_down(ground: Ground) -> None:
    own = await ground.owner()
    await ground.lapse(k.WORKERS, "wk-1")
    (target,) = await ground.queue.targets()
    assert (target.state, target.error) == (
        "down",
        "no worker looks after it (the last one was wk-1): start `foreman serve --role worker`",
    )
    await ground.look.zadd(ground.key(k.WORKERS), {"wk-1": 5000})
    assert (await ground.queue.targets())[0].since == 5.0, "since the lease was over, not since it came up"
    await ground.queue.recover()
    (target,) = await ground.queue.targets()
    assert target.state == "down"
    assert target.since == pytest.approx((await ground.queue.survey(Slot.DRAIN)).now, abs=60)
    new = await ground.owner("wk-2")
    assert not await ground.look.exists(ground.key(k.ORPHANED, "gpu1"))
    assert (await ground.queue.targets())[0].state == "up"
    assert new.epoch > own.epoch


async def test_an_inventory_that_expired_leaves_the_list(ground: Ground) -> None:
    await ground.owner()
    await ground.look.delete(ground.key(k.STATUS, "gpu1"))
    assert await ground.queue.targets() == []
    assert not await ground.look.exists(ground.key(k.TARGETS))


async def test_a_probe_is_asked_for_once_a_second(ground: Ground) -> None:
    await ground.owner()
    inbox = await ground.store.inbox("worker", "wk-1")
    inbox.watch(["gpu1"])
    for _ in range(3):
        await ground.queue.ask_probe(["gpu1", "gpu2"])
    await ground.queue.ask_probe([])
    assert await ground.look.lrange(ground.key(k.WAKE, "gpu1"), 0, -1) == ["probe"]
    while (order := await inbox.receive()) is not None and order.verb != "probe":
        pass
    assert order is not None
    assert order.target == "gpu1"


async def test_a_target_without_an_owner_is_forgotten_on_demand(ground: Ground) -> None:
    own = await ground.owner("wk-1", "old")
    assert not await ground.queue.forget("old")  # somebody looks after it
    await ground.queue.retire(own.worker)
    assert [status.name for status in await ground.queue.targets()] == ["old"]
    assert await ground.queue.forget("old")
    assert await ground.queue.targets() == []
    assert not await ground.queue.forget("old")
