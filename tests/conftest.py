"""Fixtures every suite shares: one real embedded store per run, and a fresh pool of it per test."""

from __future__ import annotations

import asyncio
import itertools
import os
import shutil
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import hypothesis
import pytest

from foreman.store.client import Store, connect, redis_client
from foreman.store.embedded import EmbeddedServer
from tests.store.leaks import leaks

pytest_plugins = ["tests.plugin_needs"]

_pools = itertools.count(1)
_running: dict[str, str] = {}
"""`url` of the shared server, while it runs."""


# Each of the hundreds of processes that the tests start would compile all of foreman anew, at twice the cost of its start.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False


# An example that a busy machine held up for 200 ms and that is quick the next time would count as flaky, and so as red.
hypothesis.settings.register_profile("foreman", deadline=None)
hypothesis.settings.load_profile("foreman")


LONG = ("attack/", "cli/", "client", "demo/", "proxies/", "simulate/", "test_", "walkthrough/", "web/dashboard/")
"""Below tests/: what starts programs or counts long. A worker of xdist gets these files first, so that none is the last."""


OLD = sys.version_info < (3, 11, 5)
"""Of asyncio's cancelled waits these leave rings behind: connections are closed when the garbage collector comes by."""


def pytest_configure(config: pytest.Config) -> None:
    config.option.loadscopereorder = False  # xdist's own: files with many tests first, and those are the quick ones
    if OLD:
        told = "ignore:Exception ignored in. <(function (AbstractConnection|_SelectorTransport).__del__|socket.socket)"
        config.addinivalue_line("filterwarnings", told + ":pytest.PytestUnraisableExceptionWarning")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    items.sort(key=lambda item: not item.path.relative_to(here).as_posix().startswith(LONG))


def pytest_sessionstart() -> None:
    """No loop lies about: looptime asks the policy for one before each test, and would have it made for a sync test."""
    asyncio.set_event_loop(None)


@dataclass(frozen=True)
class StoreSettings:
    """The few settings that the store reads."""

    pool: str
    max_queue: int = 10_000
    max_attempts: int = 3
    job_ttl: float = 86_400.0
    store_bytes: int = 1 << 30


@pytest.fixture(scope="session")
def valkey():
    """The URL of an embedded server that lives as long as this run."""
    folder = tempfile.mkdtemp(prefix="foreman-test-")
    server = EmbeddedServer(folder)
    try:
        yield _running.setdefault("url", server.start())
    finally:
        _running.clear()
        server.stop()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(autouse=True, scope="module")
def _nothing_stays():
    """After any file: the shared server holds no key for ever that has no right to be there (tests/store/leaks.py).

    Then it is emptied: a file that leaves thousands of jobs would else be paid for by each test after it.
    """
    yield
    if "url" not in _running:
        return

    async def look() -> list[str]:
        async with redis_client(_running["url"], decode_responses=True) as client:
            found = await leaks(client)
            await client.flushall()
            return found

    loop = asyncio.new_event_loop()
    try:
        assert not loop.run_until_complete(look())
    finally:
        loop.close()


@pytest.fixture
def pool() -> str:
    """The name of a pool that no other test uses."""
    return f"t{os.getpid()}-{next(_pools)}"


@pytest.fixture
async def store(valkey: str, pool: str):
    """A Store on a fresh pool; all its keys are removed afterwards."""
    made: Store = await connect(StoreSettings(pool), valkey)
    try:
        yield made
        async with redis_client(valkey, decode_responses=True) as look:
            assert not await leaks(look, pool)
    finally:
        await made.close()
        await remove_pool(valkey, pool)


async def remove_pool(url: str, pool: str) -> None:
    """Delete every key of a pool."""
    async with redis_client(url) as client:
        keys = [key async for key in client.scan_iter(match=f"foreman:{pool}:*", count=1000)]
        if keys:
            await client.delete(*keys)
