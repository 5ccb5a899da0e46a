"""Each script test runs twice: on fakeredis, and on the embedded server through our own wire."""

from __future__ import annotations

from typing import TYPE_CHECKING

import fakeredis
import fakeredis.aioredis
import pytest

from foreman.store.client import Store, locator, redis_client
from foreman.store.url import parse
from foreman.store.wire import Wire
from tests.store.ground import LIMITS, FakeConnection, Ground, raw
from tests.store.leaks import leaks

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
        assert await made.store.answers.recount() == 0, "the payload was counted as it came and went"
    finally:
        await store.close()
        if keys := [key async for key in look.scan_iter(match=f"{made.keys.prefix}*", count=1000)]:
            await look.delete(*keys)
        await look.aclose()


async def no_leaks(ground: Ground) -> None:
    """See leaks.py."""
    assert not await leaks(ground.look, ground.keys.prefix.split(":")[1])
