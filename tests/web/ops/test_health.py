"""What `/healthz` says of what goes wrong around a gateway, and what to do."""

from __future__ import annotations

import asyncio

from foreman.web.ops import health
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


def test_a_process_that_is_behind_is_named_once_with_all_its_roles():
    def said(role: str, pid: int, lag_ms: float) -> dict:
        return {"role": role, "id": f"{role}-1", "pid": pid, "loop_lag_worst_ms": lag_ms}

    shared, apart = health._late([said("background", 7, 1203.0), said("gateway", 7, 1198.0), said("worker", 8, 2000.0)])
    assert shared.startswith("background background-1, gateway gateway-1 were 1.2 s behind")
    assert apart.startswith("worker worker-1 was 2.0 s behind")
    assert health._late([said("gateway", 7, 900.0)]) == []


async def test_an_address_that_stands_in_the_error_is_not_told_twice(gateway, worker, dial):
    url = "http://127.0.0.1:11434"
    await worker.publish("gpu1", url=url, state="down", since=0.0, error=f"{url} cannot be reached")
    await wait_until(lambda: gateway.inventory.targets and gateway.inventory.targets[0].state == "down")
    reason = next(one for one in await reasons(await dial(gateway)) if "gpu1" in one)
    assert reason == f"target 'gpu1' is down since 1970-01-01T00:00:00Z: {url} cannot be reached"
