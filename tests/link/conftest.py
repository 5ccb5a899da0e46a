"""Each test of this folder runs on asyncio and on uvloop; those that take `channel` also over both channels."""

from __future__ import annotations

import asyncio

import pytest

from foreman.link.local import LocalLink
from tests import loops
from tests.link.fakes import GATEWAY, Channel, FakeDoor, linked

# looptime asks for the thread's loop even around a test without one; unasked for, a loop nobody closes would be made.
asyncio.set_event_loop(None)


def pytest_asyncio_loop_factories(config, item):
    return loops.both(item)


def pytest_collection_modifyitems(items):
    loops.spare_uvloop(items, __file__)


@pytest.fixture(params=["local", "tcp"])
async def channel(request):
    door = FakeDoor()
    if request.param == "local":
        link = LocalLink()
        link.register(GATEWAY, door)
        yield Channel(door, link, local=link)
        return
    tcp = await linked(door)
    yield tcp
    await tcp.close()
