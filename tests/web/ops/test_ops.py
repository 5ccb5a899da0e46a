"""What operators see: health, readiness, the snapshot, the page."""

from __future__ import annotations

import asyncio
import time

import pytest

from foreman.core.errors import Code, Failure
from foreman.store import checks
from foreman.store.errors import StoreUnavailableError
from foreman.store.keys import ARQ_HEALTH, INBOX
from foreman.web.dashboard.overview import overview
from foreman.web.dashboard.page import Frame
from foreman.web.ops import health
from tests.web.calls.test_chat import CHAT, LINES, WHOLE
from tests.web.conftest import wait_until
from tests.web.puppet import JSON, NDJSON

NASTY = "<script>alert(1)</script>&\"'"


@pytest.fixture
async def background(store):
    """A background worker's sign of life."""
    await store.queue._connection.command("SET", store.queue.keys.of(ARQ_HEALTH), "well", "PX", 60_000)


async def test_health_when_all_is_well(gateway, background, dial):
    await wait_until(lambda: gateway.inventory.targets)
    reply = await (await dial(gateway)).get("/healthz")
    assert reply.status == 200
    said = reply.json()
    assert (said["status"], said["degraded"], said["reasons"]) == ("ok", False, [])


async def test_health_names_what_is_wrong(gateway, worker, dial):
    await worker.publish("gpu1", state="down", since=0.0, error="connection refused", embed_fits=False)
    await wait_until(lambda: gateway.inventory.targets and gateway.inventory.targets[0].state == "down")
    caller = await dial(gateway)
    said = (await caller.get("/healthz")).json()
    assert said["status"] == "ok"
    assert said["degraded"] is True
    assert (
        "'gpu1' (http://127.0.0.1:11434) is down since 1970-01-01T00:00:00Z: connection refused" in said["reasons"][0]
    )
    assert "OLLAMA_MAX_LOADED_MODELS" in said["reasons"][1]
    assert (await caller.get("/readyz")).status == 200, "a missing target is no reason not to take calls"


async def test_health_without_a_background_worker(gateway, dial):
    await wait_until(lambda: gateway.inventory.targets)
    said = (await (await dial(gateway)).get("/healthz")).json()
    assert said["degraded"] is True
    assert "foreman serve --role background" in said["reasons"][0]


async def test_a_store_that_can_be_read_and_not_written_is_away(gateway, background, dial, store, monkeypatch):
    caller = await dial(gateway)
    assert (await caller.get("/readyz")).status == 200

    async def full(*_args):
        raise StoreUnavailableError("The store refuses work for now: MISCONF")

    monkeypatch.setattr(store.queue, "announce", full)
    await wait_until(lambda: not gateway.inventory.store_answers())
    assert (await caller.get("/readyz")).status == 503
    (reason,) = (await caller.get("/healthz")).json()["reasons"]
    assert reason.startswith("the store takes no writes: The store refuses work for now: MISCONF")
    assert "see its memory, its disk" in reason
    monkeypatch.undo()
    await wait_until(gateway.inventory.store_answers)
    assert (await caller.get("/readyz")).status == 200


async def test_health_without_any_worker(open_gateway, dial):
    gateway = await open_gateway()
    await wait_until(gateway.inventory.store_answers)
    said = (await (await dial(gateway)).get("/healthz")).json()
    assert said["degraded"] is True
    assert "no worker has announced a target" in said["reasons"][0]


async def test_the_store_is_looked_at_again(gateway, background, worker, dial, store, monkeypatch):
    """It may have been restarted with other settings since the start."""
    caller = await dial(gateway)
    await wait_until(lambda: gateway.inventory.targets)
    monkeypatch.setattr(health, "LOOK", 0.0)

    async def careless(_connection):
        return checks.judge(
            {"aof_enabled": "0", "maxmemory": "100", "used_memory": "95", "aof_last_write_status": "err"}
        )

    monkeypatch.setattr(checks, "check", careless)
    reasons = (await caller.get("/healthz")).json()["reasons"]
    for word, reason in zip(("keeps no append-only file", "Raise maxmemory", "its disk"), reasons, strict=True):
        assert word in reason


async def test_a_loop_that_is_behind_is_a_reason_and_a_line_in_the_log(
    gateway, background, worker, dial, store, capsys
):
    caller = await dial(gateway)
    await wait_until(lambda: gateway.inventory.targets)
    time.sleep(health.LAG + 0.3)  # noqa: ASYNC251 - this is what keeps a loop busy

    async def late() -> list[str]:
        return [one for one in (await caller.get("/healthz")).json()["reasons"] if "behind" in one]

    async with asyncio.timeout(60):
        while not (found := await late()):  # noqa: ASYNC110 - asked over HTTP, there is no event to wait for
            await asyncio.sleep(0.05)
    assert "its machine is too busy" in found[0]
    assert "loop.lag" in capsys.readouterr().out


@pytest.fixture
def store_away(monkeypatch, store):
    """Switch the store off for the gateway."""

    async def away(*_args, **_kwargs):
        raise StoreUnavailableError("The store at unix:///x does not answer (connection refused).")

    def switch():
        for verb in (
            "targets",
            "submit",
            "workers",
            "counts",
            "ping",
            "survey",
            "recent",
            "recover",
            "announce",
            "position",
        ):
            monkeypatch.setattr(store.queue, verb, away)

    return switch


async def test_with_the_store_away(gateway, worker, dial, store_away):
    await wait_until(lambda: gateway.inventory.targets)
    store_away()
    await wait_until(lambda: not gateway.inventory.store_answers())
    caller = await dial(gateway)
    assert (await caller.get("/readyz")).status == 503
    health = await caller.get("/healthz")
    assert health.status == 200
    assert "store does not answer" in health.json()["reasons"][0]
    refused = await caller.post("/api/chat", CHAT)
    assert (refused.status, refused.header("X-Foreman-Error")) == (503, "store_unavailable")
    assert refused.header("Retry-After") == "1"
    openai = await caller.post("/v1/chat/completions", CHAT)
    assert openai.json()["error"]["type"] == "api_error"
    state = (await caller.get("/ops/state")).json()
    assert state["store"]["status"] == "unavailable"
    assert state["targets"][0]["name"] == "gpu1"
    assert b"store does not answer" in (await caller.get("/ui")).body


async def test_calls_that_run_go_on_while_the_store_is_away(gateway, worker, dial, store_away):
    caller = await dial(gateway)
    caller.ask("POST", "/api/chat", CHAT)
    run = await worker.claim()
    run.begin(NDJSON, LINES[0])
    reply = await caller.head()
    store_away()
    await wait_until(lambda: not gateway.inventory.store_answers())
    run.outlet.data(LINES[2])
    run.outlet.end()
    await caller.rest(reply)
    assert reply.body == LINES[0] + LINES[2]
    assert reply.complete


async def test_the_snapshot_has_every_field_of_the_contract(gateway, worker, dial):
    running, queued = await dial(gateway), await dial(gateway)
    running.ask("POST", "/api/chat", CHAT)
    run = await worker.claim()
    queued.ask("POST", "/api/chat", {**CHAT, "stream": False, "options": {"num_ctx": 99}})
    await wait_until(lambda: len(gateway.waiting.calls) == 2)
    await worker.publish(
        *("gpu1", "m:latest"),
        resident=[{"lane": run.job.lane, "model": "m:latest", "since": time.time()}],
        running=[{"job_id": run.job.id, "tokens": 12, "tokens_per_second": 3.5}],
        next={"lane": "x", "reason": "due"},
        swaps=4,
    )
    await gateway._announce()
    caller = await dial(gateway)
    state = (await caller.get("/ops/state")).json()
    assert state.keys() >= {*("now", "version", "store", "jobs", "targets", "lanes", "workers", "gateways", "ledger")}
    assert state["store"]["status"] == "ok"
    assert state["store"]["latency_ms"] > 0
    assert state["jobs"] == {"queued": 1, "loading": 0, "working": 1, "done": 0, "failed": 0, "cancelled": 0}
    (target,) = state["targets"]
    assert target.keys() >= {"name", "url", "kind", "state", "slots", "resident", "running", "next"}
    assert (target["name"], target["state"], target["next"]) == ("gpu1", "up", {"lane": "x", "reason": "due"})
    assert target["resident"][0].keys() >= {"lane", "since"}
    (job,) = target["running"]
    assert job.keys() >= {"job_id", "lane", "state", "since", "tokens", "tokens_per_second"}
    assert (job["job_id"], job["state"], job["tokens"], job["tokens_per_second"]) == (run.job.id, "working", 12, 3.5)
    lane, runs = state["lanes"]
    assert (runs["lane"], runs["depth"], runs["running"]) == (run.job.lane, 0, 1)
    assert lane.keys() >= {
        *("lane", "model", "depth", "oldest_wait_seconds", "bound_seconds", "eta_seconds", "running", "paused")
    }
    assert (lane["lane"], lane["model"], lane["depth"]) == ("d1d1d1d1d1d1d1d1?num_ctx=99", "m:latest", 1)
    (worker_state,) = state["workers"]
    assert (worker_state["id"], worker_state["target"], worker_state["unreachable"]) == ("wk-1", "gpu1", [])
    assert 0 < worker_state["lease_seconds"] <= 4
    assert [(entry["id"], entry["callers"]) for entry in state["gateways"]] == [(gateway.id, 2)]
    assert state["ledger"].keys() >= {"swaps", "fifo_swaps", "seconds_saved", "seconds_for_fairness"}
    assert state["ledger"]["swaps"] == 4
    await run.done(*LINES)
    assert (await running.reply()).complete
    await (await worker.claim()).done(WHOLE, head=JSON)
    assert (await queued.reply()).complete


async def test_the_page_shows_it_all_and_escapes_what_came_from_outside(gateway, worker, dial, store):
    await worker.publish("gpu1", NASTY, "m:latest", url="http://<b>", error=NASTY)
    await wait_until(lambda: len(gateway.inventory.targets[0].tags) == 2)
    failing, waiting = await dial(gateway), await dial(gateway)
    failing.ask("POST", "/api/chat", {**CHAT, "model": NASTY})
    caller = await dial(gateway)
    refused = await failing.reply()
    assert refused.status == 400, "no name for Ollama"
    failing.ask("POST", "/api/chat", CHAT)
    run = await worker.claim()
    await run.failed(Failure(Code.UPSTREAM_ERROR, NASTY))
    assert (await failing.reply()).status == 502
    waiting.ask("POST", "/api/chat", CHAT)
    await wait_until(lambda: queued(store))
    reply = await caller.get("/ui")
    assert reply.status == 200
    text = reply.body.decode()
    assert "<script>" not in text
    assert text.count("<script ") == text.count("</script>") == 2, "the entry, and the values it begins with"
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text
    assert '<noscript><meta http-equiv="refresh" content="5"></noscript>' in text
    for words in ("gpu1", "upstream_error", "Waiting", "Running", "Lanes", "/api/chat"):
        assert words in text
    policy = reply.header("Content-Security-Policy")
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    await (await worker.claim()).done(*LINES)
    assert (await waiting.reply()).complete


async def queued(store):
    return (await store.queue.counts()).queued == 1


def test_the_page_is_whole_with_nothing_to_show():
    state = {
        "now": "2026-11-21T12:00:00Z",
        "version": "1",
        "jobs": dict.fromkeys(("queued", "loading", "working", "done", "failed", "cancelled"), 0),
        "targets": [],
        "lanes": [],
        "ledger": dict.fromkeys(("swaps", "fifo_swaps", "seconds_saved", "seconds_for_fairness")),
    }
    text = overview(Frame("0", "operator", None, closed=False), state, [], [], [])
    assert text.startswith("<!doctype html>")
    assert text.count("<h2>") == 6
    assert "all is well" in text


async def test_the_gateways_place_in_the_store_ends_with_it(open_gateway, worker, store):
    gateway = await open_gateway()
    assert [entry.id for entry in await store.queue.gateways()] == [gateway.id]
    await gateway.stop(0)
    assert await store.queue.gateways() == []


async def test_calls_share_one_failed_attempt_to_reach_the_store(gateway, store, monkeypatch):
    attempts = 0

    async def slow():
        nonlocal attempts
        attempts += 1
        await asyncio.sleep(0.05)
        raise StoreUnavailableError("away")

    await wait_until(lambda: gateway.inventory.targets)
    monkeypatch.setattr(store.queue, "targets", slow)
    outcomes = await asyncio.gather(*(gateway.inventory.fresh(0.0) for _ in range(50)), return_exceptions=True)
    assert all(isinstance(outcome, StoreUnavailableError) for outcome in outcomes)
    assert attempts <= 2


@pytest.mark.parametrize("verb", ["recover", "announce", "targets"])
async def test_a_fault_in_a_loop_costs_one_turn_of_it(gateway, worker, dial, store, monkeypatch, verb):
    real, broke = getattr(store.queue, verb), asyncio.Event()

    async def broken(*args):
        if broke.is_set():
            return await real(*args)
        broke.set()
        raise ValueError("a fault of ours")

    monkeypatch.setattr(store.queue, verb, broken)
    await broke.wait()
    seen = asyncio.Event()
    monkeypatch.setattr(store.queue, verb, lambda *args: (seen.set(), real(*args))[1])
    async with asyncio.timeout(60):
        await seen.wait()


async def test_a_notice_that_makes_no_sense_ends_nothing(gateway, worker, dial, store):
    caller = await dial(gateway)
    caller.ask("POST", "/api/chat", CHAT)
    (call,) = await wait_until(lambda: list(gateway.waiting.calls.values()))
    await wait_until(lambda: call.submitted)
    await store.queue._connection.command("RPUSH", store.queue.keys.of(INBOX, "gateway", gateway.id), "{}")
    await store.queue.cancel(call.job_id, Failure(Code.CANCELLED, "by hand"))
    assert (await caller.reply()).header("X-Foreman-Error") == "cancelled"
