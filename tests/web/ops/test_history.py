"""What operators look back at: failures by code, swaps and jobs per target, receivers."""

from __future__ import annotations

import time

import pytest

from foreman.core.errors import Code, Failure
from foreman.core.jobs import State
from foreman.store.swaps import SwapRecord
from tests.web.test_openapi import validate

JOB = {"model": "m", "messages": []}


async def test_failures_by_code(gateway, worker, dial) -> None:
    caller = await dial(gateway)
    job_id = (await caller.post("/jobs", JOB)).json()["job_id"]
    await (await worker.claim()).end(State.FAILED, Failure(Code.STALLED, "nothing came"))
    reply = await caller.get("/ops/failures")
    validate("get", "/ops/failures", reply)
    (group,) = reply.json()["failures"]
    assert (group["code"], group["count"], group["job_ids"]) == ("stalled", 1, [job_id])
    assert (group["message"], group["models"], group["targets"]) == ("nothing came", ["m"], ["gpu1"])


async def test_swaps_and_jobs_of_the_last_hours(gateway, worker, dial, store) -> None:
    caller, now = await dial(gateway), time.time()
    for name, end in (("old", now - 5000), ("gone", now - 60), ("held", None)):
        swap = SwapRecord("gpu1", name, "m:latest", "due", t0=now - 7200, loaded=now - 7190)
        await store.swaps.record(swap)
        if end is not None:
            await store.swaps.gone("gpu1", name, end, "swap")
    job_id = (await caller.post("/jobs", JOB)).json()["job_id"]
    await (await worker.claim()).end(State.DONE)
    reply = await caller.get("/ops/swaps")
    validate("get", "/ops/swaps", reply)
    (target,) = reply.json()["targets"]
    assert [one["lane"] for one in target["residencies"]] == ["gone", "held"]
    assert [one["ended_by"] for one in target["residencies"]] == ["swap", None]
    assert [(one["job_id"], one["state"]) for one in target["jobs"]] == [(job_id, "done")]
    longer = (await caller.get("/ops/swaps?hours=3")).json()["targets"][0]
    assert [one["lane"] for one in longer["residencies"]] == ["old", "gone", "held"]


@pytest.mark.parametrize("hours", ["0", "-1", "x", "25", "nan", "1e9"])
async def test_a_span_that_is_none(gateway, dial, hours) -> None:
    reply = await (await dial(gateway)).get(f"/ops/swaps?hours={hours}")
    validate("get", "/ops/swaps", reply)
    assert reply.status == 422


async def test_counts_by_hour_and_day(gateway, worker, dial, store) -> None:
    caller = await dial(gateway)
    await caller.post("/jobs", JOB)
    await (await worker.claim()).end(State.DONE)
    reply = await caller.get("/ops/counts")
    validate("get", "/ops/counts", reply)
    (hour,) = reply.json()["counts"]
    assert (hour["jobs"], hour["webhooks"]) == ({"async": {"done": 1}}, {})
    assert hour["begins"].endswith(":00:00.000Z")
    assert (await caller.get("/ops/counts?by=day")).json() == {"counts": []}, "hours are folded after two days"
    assert (await caller.get("/ops/counts?by=year")).status == 422


async def test_receivers(open_gateway, worker, dial) -> None:
    caller = await dial(await open_gateway(webhook_allow="hook.example"))
    await caller.post("/jobs", JOB | {"state_webhook_url": "https://hook.example/x"})
    reply = await caller.get("/ops/receivers")
    validate("get", "/ops/receivers", reply)
    (receiver,) = reply.json()["receivers"]
    assert (receiver["url"], receiver["open"]) == ("https://hook.example/x", 1)


async def test_who_may_look_back(open_gateway, worker, dial) -> None:
    caller = await dial(await open_gateway(token="op", tokens="anna=a", read_token="look"))
    for path, reader in (
        ("/ops/failures", 200),
        ("/ops/swaps", 200),
        ("/ops/counts", 200),
        ("/ops/trace", 200),
        ("/ops/receivers", 403),
    ):
        statuses = [
            (await caller.get(path, Authorization=f"Bearer {token}")).status for token in ("op", "look", "a", "x")
        ]
        assert statuses == [200, reader, 403, 401]
