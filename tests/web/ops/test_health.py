"""What `/healthz` says of what goes wrong around a gateway, and what to do."""

from __future__ import annotations

import asyncio

from foreman.web.pool import inventory
from tests.waiting import wait_until


async def reasons(caller) -> list[str]:
    return (await caller.get("/healthz")).json()["reasons"]


async def test_a_process_that_is_short_of_files_is_a_reason(gateway, worker, dial, store):
    said = {"version": "1", "since": 1.0, "pid": 1, "loop_lag_ms": 0.0, "rss_bytes": 1, "tasks": 1}
    found: list[str] = []
    async with asyncio.timeout(60):
        while not found:
            await store.views.live("gateway", "gw-full", said | {"files_worst": 1000, "files_limit": 1024})
            await store.views.live("gateway", "gw-well", said | {"files_worst": 900, "files_limit": 1024})
            await store.views.live("gateway", "gw-older", said)
            found = [one for one in await reasons(await dial(gateway)) if "files" in one]
    (reason,) = found
    assert reason.startswith("gateway gw-full had 1000 of 1024 files open")
    assert "LimitNOFILE" in reason


async def test_a_store_that_answers_seconds_late_is_not_called_gone(gateway, worker, dial, store, monkeypatch):
    await wait_until(lambda: gateway.inventory.targets)
    monkeypatch.setattr(inventory, "_SILENT", 0.3)
    monkeypatch.setattr(store.queue, "targets", asyncio.Event().wait)
    await wait_until(lambda: not gateway.inventory.store_answers())
    (reason,) = await reasons(await dial(gateway))
    assert "seconds late" in reason
    assert "start it" not in reason
