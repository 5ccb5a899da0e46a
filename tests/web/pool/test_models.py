"""Which target a call's model leads it to, and who may change what a target has."""

from __future__ import annotations

import time

import pytest

from foreman.core.jobs import Slot
from foreman.link.channel import Framing, Head
from foreman.store.records import TargetStatus
from foreman.web.pool import inventory
from tests.web.calls.test_chat import CHAT, LINES
from tests.web.conftest import wait_until
from tests.web.puppet import JSON

# ------------------------------------------------------------------ models


@pytest.mark.parametrize("odd", ["0.\u00b2", "0." + "9" * 5000, "", "odd"])
def test_the_lowest_version_whatever_a_target_calls_its_own(odd):
    versions = ["0.24.0", "0.9.1", odd]
    targets = [TargetStatus(one, "http://x", "ollama", "up", 0.0, 0.0, "w", version=one) for one in versions]
    assert inventory.version(targets) in {"0.9.1", odd}


async def test_an_unknown_model_is_a_404_in_the_paths_own_words(gateway, dial):
    caller = await dial(gateway)
    for path, body, words in (
        ("/api/chat", {**CHAT, "model": "nope"}, {"error": "model 'nope' not found"}),
        ("/api/embed", {"model": "nope"}, {"error": 'model "nope" not found, try pulling it first'}),
        (
            "/v1/chat/completions",
            {**CHAT, "model": "nope"},
            {"error": {"message": "model 'nope' not found", "type": "not_found_error", "param": None, "code": None}},
        ),
    ):
        reply = await caller.post(path, body)
        assert (reply.status, reply.json()) == (404, words)
        assert reply.header("X-Foreman-Error") == "model_not_found"


async def test_a_model_pulled_a_moment_ago_is_found_by_a_fresh_probe(gateway, worker, dial, store):
    caller = await dial(gateway)
    inbox = await store.inbox("worker", worker.name)
    inbox.watch(["gpu1"])
    caller.ask("POST", "/api/chat", {**CHAT, "model": "new"})
    while (order := await inbox.receive()) is None or order.verb != "probe":
        pass
    await worker.publish("gpu1", "m:latest", "new:latest")
    await (await worker.claim()).done(*LINES)
    assert (await caller.reply()).status == 200


async def test_a_model_that_comes_right_after_a_look_for_another_is_found(gateway, worker, dial, monkeypatch):
    caller = await dial(gateway)
    assert (await caller.post("/api/chat", {**CHAT, "model": "nope"})).status == 404
    monkeypatch.setattr(inventory, "PROBE_WAIT", 20.0)  # the look is not old enough for another
    caller.ask("POST", "/api/chat", {**CHAT, "model": "new"})
    await worker.publish("gpu1", "m:latest", "new:latest")
    await (await worker.claim()).done(*LINES)
    assert (await caller.reply()).status == 200


async def test_a_look_that_began_before_the_call_came_says_nothing_of_its_model(gateway, worker, dial, monkeypatch):
    monkeypatch.setattr(inventory, "PROBE_WAIT", 20.0)
    earlier = time.time()
    caller = await dial(gateway)
    caller.ask("POST", "/api/chat", {**CHAT, "model": "new"})
    await worker.publish("gpu1", "m:latest", probed_at=earlier)
    await wait_until(lambda: gateway.inventory.targets[0].probed_at == earlier)
    await worker.publish("gpu1", "m:latest", "new:latest")
    await (await worker.claim()).done(*LINES)
    assert (await caller.reply()).status == 200


async def test_a_model_by_its_id_is_looked_for_too(gateway, worker, dial, store):
    caller = await dial(gateway)
    inbox = await store.inbox("worker", worker.name)
    inbox.watch(["gpu1"])
    caller.ask("GET", "/v1/models/new")
    while (order := await inbox.receive()) is None or order.verb != "probe":
        pass
    await worker.publish("gpu1", "m:latest", "new:latest")
    reply = await caller.reply()
    assert (reply.status, reply.json()["id"]) == (200, "new")


async def test_without_a_reachable_target_an_unknown_model_queues(gateway, worker, dial):
    await worker.publish("gpu1", state="down", tags=[])
    await wait_until(lambda: gateway.inventory.targets[0].state == "down")
    caller = await dial(gateway)
    caller.ask("POST", "/api/chat", {**CHAT, "model": "anything"})
    run = await worker.claim()
    assert run.job.model == "anything"
    await run.done(*LINES)
    assert (await caller.reply()).status == 200


async def test_names_of_one_digest_share_a_lane(gateway, worker, dial):
    await worker.publish("gpu1", "m:latest", "alias:latest")
    await wait_until(lambda: len(gateway.inventory.targets[0].tags) == 2)
    lanes = []
    for name in ("m", "alias", "Alias:latest"):
        caller = await dial(gateway)
        caller.ask("POST", "/api/chat", {**CHAT, "model": name})
        run = await worker.claim()
        lanes.append(run.job.lane)
        await run.done(*LINES)
        assert (await caller.reply()).complete
    assert len(set(lanes)) == 1


async def test_show_goes_to_no_openai_target(gateway, worker, dial):
    await worker.publish("gpu1", "m:latest", kind="openai")
    await wait_until(lambda: gateway.inventory.targets[0].kind == "openai")
    reply = await (await dial(gateway)).post("/api/show", {"model": "m"})
    assert (reply.status, reply.json()) == (404, {"error": "model 'm' not found"})


async def test_an_unload_goes_to_the_target_that_holds_the_model(gateway, worker, dial):
    held = [{"name": "m:latest", "digest": "d1" * 32}]
    await worker.publish("gpu1", "m:latest")
    await worker.publish("gpu2", "m:latest", ps=held)
    await wait_until(lambda: len(gateway.inventory.targets) == 2)
    caller = await dial(gateway)
    caller.ask("POST", "/api/generate", {"model": "m", "keep_alive": "0s"})
    run = await worker.claim(Slot.SIDE, "gpu2")
    assert run.job.target_only == "gpu2"
    await run.done(b"{}", head=JSON)
    assert (await caller.reply()).complete


async def test_a_cloud_model_runs_beside_the_drain(gateway, worker, dial):
    caller = await dial(gateway)
    caller.ask("POST", "/api/chat", CHAT | {"model": "gpt-oss:120b-cloud"})
    run = await worker.claim(Slot.SIDE)
    await run.done(*LINES)
    assert (await caller.reply()).complete


async def test_a_target_can_be_picked(gateway, worker, dial):
    await worker.publish("gpu2", "m:latest")
    await wait_until(lambda: len(gateway.inventory.targets) == 2)
    caller = await dial(gateway)
    caller.ask("POST", "/api/chat", CHAT, X_Foreman_Target="gpu2")
    run = await worker.claim(target="gpu2")
    assert run.job.target_only == "gpu2"
    await run.done(*LINES)
    assert (await caller.reply()).complete


# ------------------------------------------------------------------ model management


async def test_management_streams_its_progress_beside_the_drain(gateway, worker, dial):
    caller = await dial(gateway)
    caller.ask("POST", "/api/pull", {"model": "new"})
    run = await worker.claim(Slot.SIDE)
    await run.done(b'{"status":"pulling manifest"}\n', b'{"status":"success"}\n')
    assert (await caller.reply()).chunks[-1] == b'{"status":"success"}\n'
    caller.ask("DELETE", "/api/delete", {"model": "m"})
    run = await worker.claim(Slot.SIDE)
    assert run.claimed.method == "DELETE"
    await run.done(head=Head(200, (), Framing.RAW))
    reply = await caller.reply()
    assert (reply.status, reply.body) == (200, b"")


async def test_management_takes_any_name_but_keeps_little_of_it(gateway, worker, dial):
    caller = await dial(gateway)
    for model in ("", "x" * 100_000):
        caller.ask("POST", "/api/pull", {"model": model, "stream": False})
        run = await worker.claim(Slot.SIDE)
        assert len(run.job.model) <= 512
        assert run.job.lane
        await run.done(b'{"error":"invalid model name"}', head=Head(400, JSON.headers, Framing.RAW))
        assert (await caller.reply()).status == 400


async def test_management_refused_names_the_setting(open_gateway, worker, dial):
    gateway = await open_gateway(model_management="false")
    caller = await dial(gateway)
    for method, path in (("POST", "/api/pull"), ("POST", "/api/create"), ("DELETE", "/api/delete")):
        caller.ask(method, path, {"model": "m"})
        reply = await caller.reply()
        assert reply.status == 403
        assert "FOREMAN_MODEL_MANAGEMENT" in reply.json()["error"]
        if reply.header("Connection") == "close":
            caller = await dial(gateway)


async def test_management_with_several_targets_wants_one_named(open_gateway, worker, dial):
    await worker.publish("gpu2", "m:latest")
    gateway = await open_gateway(model_management="true")
    await wait_until(lambda: len(gateway.inventory.targets) == 2)
    reply = await (await dial(gateway)).post("/api/pull", {"model": "x"})
    assert reply.status == 400
    assert "gpu1, gpu2" in reply.json()["error"]
    caller = await dial(gateway)
    caller.ask("POST", "/api/pull", {"model": "x"}, X_Foreman_Target="gpu2")
    run = await worker.claim(Slot.SIDE, "gpu2")
    await run.done(b'{"status":"success"}\n')
    assert (await caller.reply()).status == 200


async def test_blobs_are_sent_to_the_target_itself(gateway, dial):
    digest = f"sha256:{'0' * 64}"
    caller = await dial(gateway)
    head = await caller.get(f"/api/blobs/{digest}", method="HEAD")
    assert head.status == 403
    reply = await caller.post(f"/api/blobs/{digest}", b"x" * 1000)
    assert reply.status == 403
    assert "http://127.0.0.1:11434" in reply.json()["error"]
