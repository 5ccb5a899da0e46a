"""Each test of this folder runs on asyncio and on uvloop; those that take `channel` also over both channels."""

from __future__ import annotations

import asyncio

import pytest
import uvloop

from foreman.link.local import LocalLink
from tests.link.fakes import GATEWAY, Channel, FakeDoor, linked


def pytest_asyncio_loop_factories(config, item):
    return {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


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
