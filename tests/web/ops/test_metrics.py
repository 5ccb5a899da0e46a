"""/metrics of a gateway: it counts what happened, whoever restarts, and says nothing of a pool it can't see."""

from __future__ import annotations

from urllib.parse import quote

import pytest
from prometheus_client.parser import text_string_to_metric_families

from foreman.core.errors import Code, Failure
from foreman.core.jobs import State
from foreman.store.errors import StoreUnavailableError
from foreman.store.swaps import SwapRecord
from foreman.web.ops import metrics_api
from tests.web.conftest import wait_until

JOB = {"model": "m", "messages": []}


@pytest.fixture(autouse=True)
def always_fresh(monkeypatch):
    monkeypatch.setattr(metrics_api, "MAX_AGE", 0.0)


async def scraped(caller, **headers) -> dict[tuple, float]:
    reply = await caller.get("/metrics", **headers)
    assert reply.status == 200
    assert reply.header("Content-Type").startswith("text/plain; version=")
    return {
        (sample.name, *(sample.labels[label] for label in sorted(sample.labels))): sample.value
        for family in text_string_to_metric_families(reply.body.decode())
        for sample in family.samples
    }


async def test_it_counts_what_happened(gateway, worker, dial, store) -> None:
    caller = await dial(gateway)
    await caller.post("/jobs", JOB)
    run = await worker.claim(to=State.LOADING)
    found = await scraped(caller)
    assert found["foreman_jobs_now", "loading"] == 1
    assert found["foreman_target_running", "gpu1"] == 1
    await store.swaps.record(SwapRecord("gpu1", run.job.lane, "m:latest", "room", t0=10.0, loaded=13.0))
    await store.queue.transition(run.job.id, run.job.epoch, State.WORKING, reason="loaded")
    timings = {"queued_ms": 4.0, "ttft_ms": 100.0, "tpot_ms": 20.0, "total_ms": 3000.0}
    usage = {"prompt_tokens": 5, "completion_tokens": 9}
    await store.queue.transition(run.job.id, run.job.epoch, State.DONE, reason="answered", timings=timings, usage=usage)
    await caller.post("/jobs", JOB)
    await (await worker.claim()).end(State.FAILED, Failure(Code.STALLED, "nothing came"))
    await caller.post("/jobs", JOB)
    found = await scraped(caller)
    (lane,) = [key[1] for key in found if key[0] == "foreman_lane_depth"]
    assert found["foreman_lane_depth", lane] == 1
    assert found["foreman_oldest_wait_seconds", lane] < found["foreman_wait_bound_seconds", lane]
    await caller.post(f"/ops/lanes/{quote(lane, safe='')}/pause", b"")
    held = await scraped(caller)
    assert (held["foreman_pauses",], ("foreman_wait_bound_seconds", lane) in held) == (1, False)
    assert found["foreman_jobs_now", "queued"] == 1
    assert found["foreman_jobs_total", "/api/chat", "done"] == 1
    assert found["foreman_jobs_total", "/api/chat", "failed"] == 1
    assert found["foreman_failures_total", "stalled"] == 1
    assert found["foreman_swaps_total", "room", "gpu1"] == 1
    assert (found["foreman_load_seconds_sum",], found["foreman_load_seconds_count",]) == (3.0, 1)
    assert found["foreman_queue_wait_seconds_count",] == 1
    assert found["foreman_tpot_seconds_sum",] == 0.02
    assert found["foreman_ttft_seconds_count",] == 1
    assert found["foreman_tokens_total", "completion"] == 9
    assert (found["foreman_store_up",], found["foreman_target_up", "gpu1"]) == (1, 1)
    assert (found["foreman_workers",], found["foreman_gateways",]) == (1, 1)


async def test_no_counter_goes_back_when_a_gateway_restarts(open_gateway, worker, dial) -> None:
    first = await open_gateway()
    caller = await dial(first)
    await caller.post("/jobs", JOB)
    await (await worker.claim()).end(State.DONE)
    before = await scraped(caller)
    await caller.close()
    await first.stop(0)
    after = await scraped(await dial(await open_gateway()))
    counters = [
        key for key in before if key[0].startswith("foreman_") and key[0].endswith(("_total", "_count", "_sum"))
    ]
    assert all(after[key] >= before[key] for key in counters if "latency" not in key[0])


async def test_processes_show_how_far_they_are_behind(gateway, worker, dial) -> None:
    caller = await dial(gateway)

    async def told() -> bool:
        return ("foreman_loop_lag_seconds", "gateway") in await scraped(caller)

    await wait_until(told)
    state = (await caller.get("/ops/state")).json()
    assert [(one["role"], one["id"]) for one in state["processes"]] == [("gateway", gateway.id)]
    assert (await scraped(caller))["foreman_store_latency_seconds_count",] >= 1


async def test_the_store_away(gateway, worker, dial, store, monkeypatch) -> None:
    async def away(*_args):
        raise StoreUnavailableError("gone")

    monkeypatch.setattr(store.views, "meters", away)
    found = await scraped(await dial(gateway))
    assert found["foreman_store_up",] == 0
    assert not [key for key in found if key[0].startswith("foreman_jobs")]


async def test_who_may_scrape(open_gateway, worker, dial) -> None:
    caller = await dial(await open_gateway(token="op", read_token="look"))
    assert (await caller.get("/metrics")).status == 401
    for token in ("op", "look"):
        assert await scraped(caller, Authorization=f"Bearer {token}")
