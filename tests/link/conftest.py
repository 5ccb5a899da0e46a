"""Each test of this folder runs on asyncio and on uvloop; those that take `channel` also over both channels."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
import uvloop

from foreman.link.local import LocalLink
from tests.link.fakes import GATEWAY, Channel, FakeDoor, linked

# looptime asks for the thread's loop even around a test without one; unasked for, a loop nobody closes would be made.
asyncio.set_event_loop(None)


def pytest_asyncio_loop_factories(config, item):
    if item.get_closest_marker("looptime"):
        return {"asyncio": asyncio.new_event_loop}  # the virtual clock patches this one
    return {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


def pytest_collection_modifyitems(items):
    # uvloop warns from inside a handle's close; raised as an error there, the loop never ends, and a red test that left
    # a socket open hangs the whole run. On asyncio the same leak is still an error.
    here = str(Path(__file__).parent)
    for item in items:
        if str(item.path).startswith(here) and "uvloop" in item.name:
            item.add_marker(pytest.mark.filterwarnings("default::ResourceWarning"))


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
