"""The lease's own thread: renews whatever the loop does, tells once when the lease was over, sits out an absence."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from foreman.store import keys as k
from foreman.store.client import Store, connect, redis_client
from foreman.store.embedded import EmbeddedServer
from foreman.store.lease import LeaseKeeper
from tests.store.ground import gateway, worker
from tests.waiting import wait_until

if TYPE_CHECKING:
    from redis import Redis

FAST = {"interval": 0.02}


async def until(store: Store, url: str, registry: k.Template = k.WORKERS, who: str = "wk-1") -> float | None:
    async with redis_client(url) as client:
        return await client.zscore(store.queue.keys.of(registry), who)


@pytest.mark.parametrize(("registry", "who"), [(k.WORKERS, "wk-1"), (k.GATEWAYS, "gw-1")])
async def test_it_renews_while_the_loop_is_busy(
    store: Store, valkey: str, pool: str, registry: k.Template, who: str
) -> None:
    await store.queue.enroll(worker())
    await store.queue.announce(gateway())
    keeper = LeaseKeeper(valkey, pool, who, lambda: None, **FAST)
    keeper.start()
    before = await until(store, valkey, registry, who)
    time.sleep(0.3)  # noqa: ASYNC251 - the loop is blocked on purpose
    after = await until(store, valkey, registry, who)
    keeper.stop()
    assert before is not None
    assert after is not None
    assert after - before > 200


async def test_whatever_a_renewal_dies_of_the_next_one_comes(
    store: Store, valkey: str, pool: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await store.queue.enroll(worker())
    keeper = LeaseKeeper(valkey, pool, "wk-1", lambda: None, **FAST)
    renew, left, renewed = keeper._renew, [MemoryError(), ValueError("odd")], threading.Event()

    def dies_first(client: Redis) -> bool:
        if left:
            raise left.pop()
        done = renew(client)
        renewed.set()
        return done

    monkeypatch.setattr(keeper, "_renew", dies_first)
    keeper.start()
    assert await asyncio.to_thread(renewed.wait, 60)
    keeper.stop()


async def test_a_lost_lease_is_told_once_on_the_loop_until_it_is_renewed(
    store: Store, valkey: str, pool: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await store.queue.enroll(worker())
    told: list[str] = []
    keeper = LeaseKeeper(valkey, pool, "wk-1", lambda: told.append(threading.current_thread().name), **FAST)
    beats: list[int] = []
    renew = keeper._renew

    def counted(client: Redis) -> bool:
        beats.append(1)
        return renew(client)

    monkeypatch.setattr(keeper, "_renew", counted)
    keeper.start()
    try:
        await store.queue.retire("wk-1")
        await wait_until(lambda: len(told) == 1)
        assert told == [threading.current_thread().name]
        beats_then = len(beats)
        await wait_until(lambda: len(beats) > beats_then + 5)
        assert len(told) == 1
        await store.queue.enroll(worker())
        given = await until(store, valkey)
        async with asyncio.timeout(60):
            while await until(store, valkey) == given:
                pass
        await store.queue.retire("wk-1")
        await wait_until(lambda: len(told) == 2)
    finally:
        keeper.stop()


async def test_without_a_loop_it_tells_from_its_thread(valkey: str, pool: str) -> None:
    told = threading.Event()
    keeper = LeaseKeeper(valkey, pool, "wk-ghost", told.set, **FAST)
    await asyncio.to_thread(keeper.start)
    await wait_until(told.is_set)
    await asyncio.to_thread(keeper.stop)


async def test_it_survives_a_killed_server_and_the_lease_does_too(tmp_path: Path, pool: str) -> None:
    from tests.conftest import StoreSettings

    server = EmbeddedServer(tmp_path, "always")
    url = server.start()
    store = await connect(StoreSettings(pool), url)
    told: list[int] = []
    keeper = LeaseKeeper(url, pool, "wk-1", lambda: told.append(1), **FAST)
    try:
        await store.queue.enroll(worker())
        keeper.start()
        assert server.pid is not None
        os.kill(server.pid, signal.SIGKILL)
        await wait_until(lambda: server.restarts == 1)
        before = await until(store, url)
        async with asyncio.timeout(60):
            while await until(store, url) == before:
                pass
        assert not told
    finally:
        keeper.stop()
        await store.close()
        server.stop()


ZOMBIE = """
import sys, time
from foreman.store.lease import LeaseKeeper
url, pool = sys.argv[1:]
keeper = LeaseKeeper(url, pool, "wk-1", lambda: print("lost", flush=True), interval=0.02)
keeper.start()
print("renewing", flush=True)
sys.stdin.read()
keeper.stop()
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGSTOP")
async def test_a_stopped_process_learns_that_its_lease_is_over(store: Store, valkey: str, pool: str) -> None:
    await store.queue.enroll(worker())
    process = subprocess.Popen(
        [sys.executable, "-c", ZOMBIE, valkey, pool],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2],
    )  # fmt: skip
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "renewing\n"
        process.send_signal(signal.SIGSTOP)
        async with redis_client(valkey) as client:
            await client.zadd(store.queue.keys.of(k.WORKERS), {"wk-1": 1}, xx=True)
        await store.queue.recover()
        process.send_signal(signal.SIGCONT)
        while (line := process.stdout.readline()).startswith("20"):  # the log's line of the same
            pass
        assert line == "lost\n"
    finally:
        process.kill()
        process.communicate()
