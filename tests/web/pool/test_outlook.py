"""What a waiting job has before it: place, seconds, and the sentence that says who is ahead and why."""

from __future__ import annotations

import dataclasses
import time

import pytest

from foreman.core import lanes
from foreman.core.jobs import State
from foreman.web.pool import prospects
from tests.web.calls.test_resume import order
from tests.web.jobs.test_jobs import CHAT, show, submit
from tests.web.puppet import tag

LANE_M = lanes.lane_key("m", "d1" * 32, {})
LANE_OTHER = lanes.lane_key("other", "d2" * 32, {})


def held(lane: str, model: str) -> dict:
    return {"lane": lane, "model": model, "since": time.time()}


@pytest.fixture
async def caller(gateway, dial, monkeypatch):
    monkeypatch.setattr(prospects, "MAX_AGE", 0.0)
    monkeypatch.setattr(prospects, "_SHARE", 0.0)
    return await dial(gateway)


@pytest.fixture
async def seen(gateway, caller):
    """A job's outlook after the inventory has been read anew."""

    async def look(job_id: str):
        await gateway.inventory.fresh(0.0)
        job = await show(caller, job_id)
        return job["position"], job["eta_seconds"], job["waiting_for"]

    return look


async def test_nothing_is_loaded(caller, worker, seen) -> None:
    await submit(caller)
    assert await seen(await submit(caller)) == (2, 10.0 + 5.0, "target 'gpu1' to load m: 1 job ahead")


async def test_its_own_lane_is_loaded(caller, worker, seen) -> None:
    await worker.publish("gpu1", "m", resident=[held(LANE_M, "m")], loads={LANE_M: 9.0}, slots=2)
    await submit(caller)
    await submit(caller)
    job_id = await submit(caller)
    assert await seen(job_id) == (3, 3.3, "a free slot on 'gpu1', which has m loaded and 2 jobs of it ahead")


async def test_what_began_since_the_target_was_looked_at_has_taken_its_slot(caller, worker, gateway, seen) -> None:
    await worker.publish("gpu1", "m", resident=[held(LANE_M, "m")], loads={LANE_M: 9.0})
    await gateway.inventory.fresh(0.0)
    reply = await caller.post("/jobs", CHAT)
    assert (reply.json()["position"], reply.json()["eta_seconds"]) == (1, 0.0)
    await worker.claim()  # and its target has not told of it yet
    reply = await caller.post("/jobs", CHAT)
    assert (reply.json()["position"], reply.json()["eta_seconds"]) == (1, 0.6 * 5.0)
    assert (await seen(reply.json()["job_id"]))[:2] == (1, 0.6 * 5.0)


async def test_another_lane_is_loaded_swaps_are_included(caller, worker, seen) -> None:
    tags = [("m", "d1" * 32), ("other", "d2" * 32)]
    await worker.publish(
        "gpu1",
        tags=[tag(name, digest) for name, digest in tags],
        resident=[held(LANE_OTHER, "other")],
        loads={LANE_M: 9.0, LANE_OTHER: 4.0},
    )
    await submit(caller, model="other")
    job_id = await submit(caller)
    position, eta, why = await seen(job_id)
    assert (position, eta) == (2, 5.0 + 9.0)
    assert why == "target 'gpu1' to swap to m: it drains other (1 job of it before the swap)"


async def test_it_loads(caller, worker, seen) -> None:
    await worker.publish("gpu1", "m", loads={LANE_M: 9.0})
    job_id = await submit(caller)
    await worker.claim(to=State.LOADING)
    position, eta, why = await seen(job_id)
    assert (position, why) == (None, "target 'gpu1' loads m")
    assert 0 < eta <= 9.0


async def test_its_target_is_down_or_paused(caller, worker, seen) -> None:
    job_id = await submit(caller)
    await worker.publish("gpu1", "m", state="down", since=1_800_000_000.0, error="connection refused")
    why = "target 'gpu1', which is down since 2027-01-15T08:00:00.000Z: connection refused"
    assert await seen(job_id) == (1, None, why)
    await worker.publish("gpu1", "m", state="paused")
    assert await seen(job_id) == (1, None, "target 'gpu1', which is paused")


async def test_beside_the_drain(caller, worker, seen) -> None:
    fields = {"endpoint": "/api/embed", "input": "x"}
    await submit(caller, **fields)
    assert await seen(await submit(caller, **fields)) == (2, 5.0, "its turn beside the drain: 1 job ahead")


async def test_the_answer_to_a_submit_says_the_same(caller, worker, gateway) -> None:
    await worker.publish("gpu1", "m", loads={LANE_M: 9.0})
    await gateway.inventory.fresh(0.0)
    reply = await caller.post("/jobs", CHAT)
    assert (reply.json()["position"], reply.json()["eta_seconds"]) == (1, 9.0)


async def test_a_lanes_eta_is_that_of_its_next_job_and_within_the_bound_beside_it(caller, worker, gateway) -> None:
    slow = {LANE_M: [60.0, 60.0, 0.0, -1.0, 60.0]}
    await worker.publish("gpu1", "m", resident=[held(LANE_M, "m")], loads={LANE_M: 9.0}, paces=slow)
    await gateway.inventory.fresh(0.0)
    for _ in range(5):
        await submit(caller)
    (lane,) = (await caller.get("/ops/state")).json()["lanes"]
    assert (lane["depth"], lane["eta_seconds"]) == (5, 0.0), "what the others wait for are its own runs"
    running = [{"job_id": "x", "lane": LANE_M, "state": "working", "since": 0.0}]
    await worker.publish("gpu1", "m", resident=[held(LANE_M, "m")], loads={LANE_M: 9.0}, paces=slow, running=running)
    await gateway.inventory.fresh(0.0)
    gateway.feed._snapshots._records._etas_until = 0.0
    (lane,) = (await caller.get("/ops/state")).json()["lanes"]
    assert lane["bound_seconds"] < 0.6 * 60.0, "an operator's gateway knows runs of five seconds"
    assert 0 < lane["eta_seconds"] <= lane["bound_seconds"]


async def test_other_options_of_a_loaded_model_wait_for_its_place_though_another_is_free(caller, worker, seen) -> None:
    drains = [held(LANE_M, "m") | {"model": "M:latest"}]
    await worker.publish("gpu1", "m", resident=drains, loads={LANE_M: 9.0}, places=2)
    await submit(caller)
    assert (await seen(await submit(caller, options={"num_ctx": 512})))[1] == 5.0 + 9.0


async def test_a_deadline_that_cannot_be_made_is_refused_at_once(caller, worker, gateway) -> None:
    warm = {"resident": [held(LANE_M, "m")], "loads": {LANE_M: 9.0}, "paces": {LANE_M: [2.0, 2.0, 0.0, -1.0, 1.5]}}
    await worker.publish("gpu1", "m", **warm)
    await gateway.inventory.fresh(0.0)
    reply = await caller.post("/jobs", CHAT | {"deadline_seconds": 1})
    assert (reply.status, reply.json()["error"]["code"]) == (422, "deadline_exceeded")
    assert "1.5 s" in reply.json()["error"]["message"]
    assert (await caller.post("/jobs", CHAT | {"deadline_seconds": 60})).status == 202
    await worker.publish("gpu1", "m", **warm | {"resident": []})
    await gateway.inventory.fresh(0.0)
    reply = await caller.post("/jobs", CHAT | {"deadline_seconds": 8})
    assert (reply.status, reply.json()["error"]["code"]) == (422, "deadline_exceeded")  # its load alone takes 9 s


async def test_what_nobody_has_measured_makes_nobody_late(caller, worker, gateway) -> None:
    await worker.publish("gpu1", "m")
    await gateway.inventory.fresh(0.0)
    assert (await caller.post("/jobs", CHAT | {"deadline_seconds": 0.5})).status == 202


async def test_a_pinned_lane_waits_for_no_swap(caller, worker, seen) -> None:
    await worker.publish("gpu1", "m", resident=[held(LANE_M, "m") | {"pinned": True}], loads={LANE_M: 9.0})
    position, eta, why = await seen(await submit(caller))
    assert (position, eta) == (1, 0.0)
    assert why == "a free slot on 'gpu1': 0 jobs ahead"


async def test_a_pinned_model_with_other_options_waits_for_its_own_runs_and_a_load_only(caller, worker, seen) -> None:
    tags = [tag("m", "d1" * 32), tag("other", "d2" * 32)]
    drains = [held(LANE_M, "m") | {"pinned": True}, held(LANE_OTHER, "other")]
    runs = [{"job_id": "x", "lane": LANE_OTHER}, {"job_id": "y", "lane": LANE_OTHER}]
    facts = {"tags": tags, "resident": drains, "loads": {LANE_M: 9.0, LANE_OTHER: 4.0}, "running": runs}
    await worker.publish("gpu1", **facts)
    await submit(caller, model="other")
    mine = await submit(caller, options={"num_ctx": 512})
    assert (await seen(mine))[1] == 6.5, "the usual load, and nothing of the drain"
    after = await submit(caller, model="other")
    assert (await seen(after))[:2] == (2, 0.6 * 5.0 + 5.0), "it is not in the drain's way either"
    await worker.publish("gpu1", **facts | {"running": [*runs, {"job_id": "z", "lane": LANE_M}]})
    assert (await seen(mine))[1] == 6.5 + 5.0


async def test_a_callers_deadline_is_judged_alike(caller, worker, gateway) -> None:
    await worker.publish("gpu1", "m", loads={LANE_M: 9.0}, paces={LANE_M: [2.0, 2.0, 0.0, -1.0, 1.5]})
    await gateway.inventory.fresh(0.0)
    body = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
    reply = await caller.post("/api/chat", body, **{"X-Foreman-Deadline": "3"})
    assert (reply.status, reply.header("X-Foreman-Error")) == (422, "deadline_exceeded")
    assert "10.5 s" in reply.json()["error"]


async def test_a_known_key_is_answered_whatever_waits_by_now(caller, worker, gateway, dial) -> None:
    """The same call again starts nothing: what a new job could make of its deadline is no reason to refuse it."""
    sync = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
    headers = {"Idempotency-Key": "k", "X-Foreman-Deadline": "3"}
    job = CHAT | {"deadline_seconds": 3}
    first = await caller.post("/jobs", job, **{"Idempotency-Key": "k"})
    (await dial(gateway)).ask("POST", "/api/chat", sync, **headers)
    runs = [await worker.claim(), await worker.claim()]
    (run,) = (run for run in runs if run.job.id != first.json()["job_id"])
    await worker.publish("gpu1", "m", loads={LANE_M: 9.0}, paces={LANE_M: [2.0, 2.0, 0.0, -1.0, 1.5]})
    await gateway.inventory.fresh(0.0)
    reply = await caller.post("/jobs", job, **{"Idempotency-Key": "k"})
    assert (reply.status, reply.json()["job_id"]) == (200, first.json()["job_id"])
    assert (await caller.post("/jobs", job | {"x": 1}, **{"Idempotency-Key": "k"})).status == 422
    again = await dial(gateway)
    again.ask("POST", "/api/chat", sync, **headers)
    assert (await order(worker)).job_id == run.job.id


async def test_a_full_queue_says_when_the_next_job_leaves_it(caller, worker, gateway) -> None:
    queue = gateway._store.queue
    queue._limits = dataclasses.replace(queue._limits, max_queue=2)
    paces = {LANE_M: [20.0, 20.0, 0.0, -1.0, 20.0]}
    running = [{"job_id": "x", "lane": LANE_M, "state": "working", "since": 0.0}]
    await worker.publish("gpu1", "m", resident=[held(LANE_M, "m")], paces=paces, running=running)
    await gateway.inventory.fresh(0.0)
    for _ in range(2):
        await submit(caller)
    reply = await caller.post("/jobs", CHAT)
    assert (reply.status, reply.header("Retry-After")) == (503, "20")


@pytest.mark.parametrize(("holds", "seconds"), [([], "10"), (["m"], "5")])
async def test_a_queue_that_was_filled_before_anything_ran_says_what_is_usual(
    caller, worker, gateway, holds, seconds
) -> None:
    queue = gateway._store.queue
    queue._limits = dataclasses.replace(queue._limits, max_queue=2)
    await worker.publish("gpu1", "m", resident=[held(LANE_M, model) for model in holds])
    await gateway.inventory.fresh(0.0)
    for _ in range(2):
        await submit(caller)
    reply = await caller.post("/jobs", CHAT)
    assert (reply.status, reply.header("Retry-After")) == (503, seconds)
