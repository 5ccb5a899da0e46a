"""Each script test runs twice: on fakeredis, and on the embedded server through our own wire."""

from __future__ import annotations

from typing import TYPE_CHECKING

import fakeredis
import fakeredis.aioredis
import pytest

from foreman.store import keys as k
from foreman.store.client import Store, locator, redis_client
from foreman.store.url import parse
from foreman.store.wire import Wire
from tests.store.ground import LIMITS, FakeConnection, Ground, raw

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@pytest.fixture(params=["fakeredis", "valkey"])
async def ground(request: pytest.FixtureRequest, pool: str) -> AsyncIterator[Ground]:
    """A fresh pool; afterwards every key without a TTL must be one that may live."""
    if request.param == "fakeredis":
        server = fakeredis.FakeServer()
        look = fakeredis.aioredis.FakeRedis(server=server, decode_responses=True)

        async def connect() -> FakeConnection:
            return FakeConnection(raw(fakeredis.aioredis.FakeRedis(server=server)))

        main = await connect()
    else:
        url = request.getfixturevalue("valkey")
        where = parse(url)
        look = redis_client(url, decode_responses=True)

        async def connect() -> Wire:
            wire = Wire(where, locator(where))
            await wire.open(5.0)
            return wire

        main = await connect()
    store = Store(main, connect, pool, LIMITS)
    made = Ground(store, look)
    try:
        yield made
        await no_leaks(made)
    finally:
        await store.close()
        if keys := [key async for key in look.scan_iter(match=f"{made.keys.prefix}*", count=1000)]:
            await look.delete(*keys)
        await look.aclose()


async def no_leaks(ground: Ground) -> None:
    """Every key is spelled in keys.py, and one without a TTL is permanent or has a living owner."""
    leaks = []
    async for key in ground.look.scan_iter(match=f"{ground.keys.prefix}*", count=1000):
        template = ground.keys.template(key)
        if template is None:
            leaks.append(f"{key}: not spelled in keys.py")
        elif await ground.look.type(key) not in {template.kind, "none"}:
            leaks.append(f"{key}: not a {template.kind}")
        elif await ground.look.ttl(key) == -1 and not await _may_live(ground, template, key):
            leaks.append(f"{key}: {template.life.name}, but it has no TTL and no owner")
    assert not leaks


async def _may_live(ground: Ground, template: k.Template, key: str) -> bool:
    look, rest = ground.look, key.removeprefix(ground.keys.prefix).split(":", 2)
    if template in k.PERMANENT:
        return True
    if template in {k.JOB, k.REQUEST, k.EVENTS, k.ARTIFACT}:
        living = await look.hget(ground.key(k.JOB, rest[1]), "state") in {"queued", "loading", "working"}
        return living or bool(await look.zcard(ground.key(k.OUTBOX, rest[1])))
    if template is k.IDEMPOTENCY:
        job_id = (await look.get(key)).partition(" ")[0]
        return await look.hget(ground.key(k.JOB, job_id), "state") in {"queued", "loading", "working"}
    if template is k.JOBS:
        counts = await ground.queue.counts()
        return counts.queued + counts.loading + counts.working > 0
    if template in {k.DELIVERY, k.DELIVERY_BODY}:
        return await look.zscore(ground.key(k.OUTBOX, rest[1].split("_")[1]), rest[1]) is not None
    if template is k.FACTS:
        return bool(await look.exists(ground.key(k.LANE, rest[1], rest[2])))
    if template in {k.WORKER, k.WORKER_JOBS, k.WORKER_TARGETS}:
        return await look.zscore(ground.key(k.WORKERS), rest[1]) is not None
    if template is k.GATEWAY_JOBS:
        return await look.zscore(ground.key(k.GATEWAYS), rest[1]) is not None
    if template is k.TARGET:
        return await look.zscore(ground.key(k.WORKERS), await look.hget(key, "owner")) is not None
    return template.life is k.Life.OWNED  # lists of the living: Redis removes them with their last member
