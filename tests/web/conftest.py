"""A gateway on a real store with a worker on strings, and a caller that sees every byte."""

from __future__ import annotations

import asyncio

import pytest

from foreman.link.local import LocalLink
from foreman.settings import load
from foreman.web.app import Gateway
from foreman.web.calls import waiting
from foreman.web.pool import inventory
from tests import loops
from tests.waiting import wait_until
from tests.web.caller import Caller
from tests.web.puppet import Puppet

__all__ = ["wait_until"]


def pytest_asyncio_loop_factories(config, item):
    return loops.both(item)


def pytest_collection_modifyitems(items):
    loops.spare_uvloop(items, __file__)


@pytest.fixture
def local() -> LocalLink:
    return LocalLink()


@pytest.fixture
async def worker(store, local):
    """A worker that owns `gpu1`, which has the model `m`."""
    puppet = Puppet(store, local)
    await puppet.start()
    await puppet.publish("gpu1", "m:latest")
    yield puppet
    await puppet.stop()


@pytest.fixture
async def open_gateway(store, local, monkeypatch, tmp_path):
    """Start a gateway with settings of the test's own; stopped at the end."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(waiting, "WATCH", 0.02)
    monkeypatch.setattr(inventory, "PROBE_WAIT", 0.2)
    started: list[Gateway] = []

    async def start(**settings) -> Gateway:
        given = {"addr": "127.0.0.1:0", "data_dir": tmp_path, **settings}
        gateway = Gateway(load(**given), store, f"gw-{len(started)}", local)
        await gateway.start()
        started.append(gateway)
        return gateway

    yield start
    for gateway in started:
        await gateway.stop(0)


@pytest.fixture
async def gateway(open_gateway, worker):
    """A gateway as it is by default, in front of `worker`."""
    return await open_gateway()


@pytest.fixture
async def dial():
    """Connections of callers, closed at the end."""
    callers: list[Caller] = []

    async def connect(gateway: Gateway) -> Caller:
        caller = await Caller.dial(gateway.url)
        callers.append(caller)
        return caller

    yield connect
    for caller in callers:
        await caller.close()


@pytest.fixture
def speaking():
    tasks = []

    def speak(script):
        tasks.append(asyncio.get_running_loop().create_task(script.words()))
        return script

    yield speak
    for task in tasks:
        task.cancel()
