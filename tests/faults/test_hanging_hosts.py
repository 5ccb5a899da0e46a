"""Hosts that hang delay nobody: more of their events than there are places, and who answers is told beside them.

The hosts that hang do so for longer than this test lasts: with their attempts in everybody's way nothing would arrive.
"""

from __future__ import annotations

import contextlib
import random
import time
from typing import TYPE_CHECKING

import pytest

import workers.background
from foreman.core.ids import UlidFactory
from foreman.core.jobs import Priority, Slot, Surface
from foreman.settings import load
from foreman.store.records import NewJob
from tests.receivers import Receivers
from tests.waiting import wait_until
from workers.background import Background
from workers.deliveries.post import Patience

if TYPE_CHECKING:
    from pathlib import Path

    from foreman.store.client import Store

HOSTS = 5
URLS = 250
"""Of each host; in sum more than there are places."""
new_id = UlidFactory(lambda: int(time.time() * 1000), random.Random(7).getrandbits)


async def told(store: Store, url: str) -> None:
    """A job whose first event goes to this URL."""
    await store.queue.submit(
        NewJob(
            id=new_id(), surface=Surface.ASYNC, endpoint="/api/chat", model="m", canonical="m:latest", lane="m:latest",
            slot=Slot.DRAIN, priority=Priority.NORMAL, request=b"{}", max_wait=5.0, state_webhook_url=url,
        )
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.timeout(240)
async def test_who_answers_is_told_beside_hosts_that_hang(
    store: Store, pool: str, valkey: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(workers.background, "_JOB_TIMEOUT", 600)
    settings = load(redis_url=valkey, pool=pool, webhook_allow="127.0.0.1")
    background = Background(settings, store, Patience(connect=600, total=600))
    async with contextlib.AsyncExitStack() as stack:
        well, *hung = [await stack.enter_async_context(Receivers()) for _ in range(1 + HOSTS)]
        await background.start()
        stack.push_async_callback(background.stop)
        for number in range(URLS):
            for host in hung:
                host.kinds[f"/{number}"] = ["gate"]
                await told(store, f"{host.url}/{number}")
        for number in range(100):
            await told(store, f"{well.url}/{number % 10}")
        await wait_until(lambda: sum(map(len, well.seen.values())) == 100, timeout=120)
        assert sum(host.connections for host in hung) > 500, "they have what they are allowed"
        for host in hung:
            host.gate.set()
        await wait_until(lambda: sum(len(host.seen) for host in hung) == HOSTS * URLS, timeout=120)
