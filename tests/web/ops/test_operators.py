"""The operators' verbs: what they do to the pool, who may use them, and what the log says afterwards."""

from __future__ import annotations

from urllib.parse import quote

import pytest

from foreman.core.jobs import State
from tests.web.calls.test_chat import CHAT
from tests.web.conftest import wait_until
from tests.web.test_openapi import validate

TOKENS = {"token": "op", "tokens": "anna=a?priority=high", "read_token": "look"}
JOB = {"model": "m", "messages": []}


@pytest.fixture
async def caller(gateway, dial):
    return await dial(gateway)


async def state(caller, **headers) -> dict:
    return (await caller.get("/ops/state", **headers)).json()


async def lane_of(caller) -> str:
    """A lane with a queued job."""
    await caller.post("/jobs", JOB)
    return (await state(caller))["lanes"][0]["lane"]


async def test_a_lane_is_paused_and_resumed(caller, worker, store) -> None:
    lane = await lane_of(caller)
    path = f"/ops/lanes/{quote(lane, safe='')}"
    reply = await caller.post(f"{path}/pause?for=2h", b"")
    validate("post", "/ops/lanes/{lane}/pause", reply)
    assert reply.status == 200
    shown = (await state(caller))["lanes"][0]
    assert (shown["lane"], shown["paused"], shown["paused_until"]) == (lane, True, reply.json()["until"])
    reply = await caller.post(f"{path}/resume", b"")
    validate("post", "/ops/lanes/{lane}/resume", reply)
    assert (reply.json()["paused"], reply.json()["changed"]) == (False, True)
    assert (await caller.post(f"{path}/resume", b"")).json()["changed"] is False
    assert not (await state(caller))["lanes"][0]["paused"]


async def test_a_paused_lane_without_jobs_can_still_be_seen_and_resumed(caller, worker) -> None:
    lane = await lane_of(caller)
    await caller.post(f"/ops/lanes/{quote(lane, safe='')}/pause", b"")
    cleared = await caller.post(f"/ops/lanes/{quote(lane, safe='')}/clear", b"")
    validate("post", "/ops/lanes/{lane}/clear", cleared)
    assert cleared.json() == {"lane": lane, "cancelled": 1, "left": 0}
    shown = await state(caller)
    assert [(one["lane"], one["depth"], one["paused"]) for one in shown["lanes"]] == [(lane, 0, True)]
    assert (shown["jobs"]["queued"], shown["jobs"]["cancelled"]) == (0, 1)
    await caller.post(f"/ops/lanes/{quote(lane, safe='')}/resume", b"")
    assert (await state(caller))["lanes"] == []


async def test_a_lane_that_only_runs_or_is_only_loaded_can_be_paused(caller, worker) -> None:
    await caller.post("/jobs", JOB)
    run = await worker.claim()
    lane = run.job.lane
    assert (await caller.post(f"/ops/lanes/{quote(lane, safe='')}/pause", b"")).status == 200
    await caller.post(f"/ops/lanes/{quote(lane, safe='')}/resume", b"")
    await run.end(State.DONE)
    assert (await caller.post(f"/ops/lanes/{quote(lane, safe='')}/pause", b"")).status == 404
    await worker.publish("gpu1", "m:latest", resident=[{"lane": lane, "model": "m:latest", "since": 1.0}])

    async def held() -> bool:
        return bool((await state(caller))["targets"][0]["resident"])

    await wait_until(held)
    assert (await caller.post(f"/ops/lanes/{quote(lane, safe='')}/pause", b"")).status == 200


async def test_a_target_is_paused_until_it_is_resumed(caller, worker) -> None:
    reply = await caller.post("/ops/targets/gpu1/pause?unload=true", b"")
    validate("post", "/ops/targets/{target}/pause", reply)
    target = (await state(caller))["targets"][0]
    assert target["state"] == "paused"
    assert target["pause"] == {"since": reply.json()["since"], "until": None, "unload": True}
    reply = await caller.post("/ops/targets/gpu1/resume", b"")
    validate("post", "/ops/targets/{target}/resume", reply)
    target = (await state(caller))["targets"][0]
    assert (target["state"], target["pause"]) == ("up", None)


async def test_clearing_tells_the_callers_that_wait(gateway, worker, dial) -> None:
    waiting, operator = await dial(gateway), await dial(gateway)
    waiting.ask("POST", "/api/chat", CHAT)

    async def lane() -> str | None:
        return next((one["lane"] for one in (await state(operator))["lanes"]), None)

    name = await wait_until(lane)
    assert (await operator.post(f"/ops/lanes/{quote(name, safe='')}/clear", b"")).json()["cancelled"] == 1
    reply = await waiting.reply()
    assert reply.header("X-Foreman-Error") == "cancelled"
    assert "an operator cleared its lane" in reply.json()["error"]


async def test_the_log_tells_who_did_what_and_what_came_of_it(open_gateway, worker, dial) -> None:
    caller = await dial(await open_gateway(**TOKENS))
    op = {"Authorization": "Bearer op"}
    await caller.post("/jobs", JOB, **op)
    lane = (await state(caller, **op))["lanes"][0]["lane"]
    path = f"/ops/lanes/{quote(lane, safe='')}"
    await caller.post(f"{path}/pause", b"", **op)
    await caller.post(f"{path}/clear", b"", **op)
    await caller.post("/ops/targets/gpu1/pause?unload=true&for=1h", b"", **op)
    await caller.post("/ops/targets/gpu1/resume", b"", **op)
    await caller.post("/ops/targets/gpu1/resume", b"", **op)
    reply = await caller.get("/ops/audit", **op)
    validate("get", "/ops/audit", reply)
    deeds = reply.json()["audit"]
    assert {deed["who"] for deed in deeds} == {"operator"}
    assert [(deed["action"], deed["kind"], deed["name"]) for deed in deeds] == [
        ("resume", "target", "gpu1"),
        ("resume", "target", "gpu1"),
        ("pause", "target", "gpu1"),
        ("clear", "lane", lane),
        ("pause", "lane", lane),
    ]
    outcomes = [deed["outcome"] for deed in deeds]
    assert outcomes[2].startswith("paused until 2")
    assert outcomes[2].endswith("Z, unloaded")
    assert (*outcomes[:2], *outcomes[3:]) == (
        "was not paused",
        "resumed",
        "1 job cancelled",
        "paused until resumed",
    )
    assert len((await caller.get("/ops/audit?limit=2", **op)).json()["audit"]) == 2


async def test_what_operators_do_to_jobs_stands_in_the_log(open_gateway, worker, dial) -> None:
    caller = await dial(await open_gateway(**TOKENS))
    op, anna = {"Authorization": "Bearer op"}, {"Authorization": "Bearer a"}
    first, second = [(await caller.post("/jobs", JOB, **anna)).json()["job_id"] for _ in range(2)]
    assert (await caller.get(f"/jobs/{first}", method="DELETE", **op)).json()["state"] == "cancelled"
    await caller.get(f"/jobs/{second}", method="DELETE", **anna)  # its own: nobody's business
    third = (await caller.post(f"/jobs/{first}/retry", b"", **op)).json()["job_id"]
    reply = await caller.get("/ops/audit", **op)
    validate("get", "/ops/audit", reply)
    said = [(deed["who"], deed["action"], deed["name"], deed["outcome"]) for deed in reply.json()["audit"]]
    assert said == [
        ("operator", "retry", first, f"as job {third}"),
        ("operator", "cancel", first, "cancelled in the queue"),
    ]
    page = (await caller.get("/ui/audit", **op)).body.decode()
    assert f"/ui/jobs/{first}" in page
    assert f"/ui/jobs/{third}" in page


@pytest.mark.parametrize(
    "path", ["/ops/lanes/l/pause", "/ops/lanes/l/resume", "/ops/lanes/l/clear", "/ops/targets/gpu1/pause"]
)
async def test_named_callers_and_readers_may_not_act(open_gateway, worker, dial, path) -> None:
    caller = await dial(await open_gateway(**TOKENS))
    for token in ("a", "look"):
        reply = await caller.post(path, b"", Authorization=f"Bearer {token}")
        assert (reply.status, reply.header("X-Foreman-Error")) == (403, "forbidden")
    assert (await caller.post(path, b"")).status == 401
    assert (await state(caller, Authorization="Bearer look"))["targets"][0]["state"] == "up"


async def test_who_may_read_the_log(open_gateway, worker, dial) -> None:
    caller = await dial(await open_gateway(**TOKENS))
    statuses = [
        (await caller.get("/ops/audit", Authorization=f"Bearer {token}")).status for token in ("op", "look", "a", "x")
    ]
    assert statuses == [200, 200, 403, 401]


@pytest.mark.parametrize(("origin", "status"), [("http://127.0.0.1:1", 403), ("http://evil.example", 403)])
async def test_a_page_of_another_origin_may_not_act(caller, worker, origin, status) -> None:
    reply = await caller.post("/ops/targets/gpu1/pause", b"", Origin=origin)
    assert reply.status == status
    assert (await state(caller))["targets"][0]["state"] == "up"


async def test_our_own_page_may_act(caller, worker) -> None:
    reply = await caller.post("/ops/targets/gpu1/pause", b"", Origin=f"http://{caller.host}")
    assert reply.status == 200


@pytest.mark.parametrize(
    ("path", "status", "word"),
    [
        ("/ops/targets/gpu1/pause?for=soon", 422, "for: use a number with ms, s, m or h"),
        ("/ops/targets/gpu1/pause?for=0", 422, "for:"),
        ("/ops/targets/gpu1/pause?for=", 422, "for:"),
        ("/ops/lanes/any/pause?unload=true", 422, "unload:"),
        ("/ops/targets/gpu1/pause?for=1e9", 422, "for:"),
        ("/ops/targets/gpu1/pause?for=900h", 422, "at most 30 days"),
        ("/ops/targets/gpu1/pause?unload=perhaps", 422, "unload:"),
        ("/ops/targets/nope/pause", 404, "no target 'nope' is known here"),
        ("/ops/lanes/nope%2F%F0%9F%90%98/clear", 404, "no lane 'nope/🐘' is known here"),
        ("/ops/lanes/nope/resume", 404, "/ops/state lists them"),
    ],
)
async def test_wrong_wishes_say_what_is_wrong(caller, worker, path, status, word) -> None:
    reply = await caller.post(path, b"")
    assert reply.status == status
    assert word in reply.json()["error"]["message"]
    assert (await caller.get("/ops/audit")).json() == {"audit": []}
