"""/openapi.json: a valid description, and real answers that keep to it."""

from __future__ import annotations

import json

import jsonschema
import pytest

from foreman.core.errors import Code, Failure
from foreman.core.jobs import State
from foreman.store.answers import Answer
from foreman.web import openapi

CHAT = {"model": "m", "messages": []}
DOCUMENT = openapi.document()


def validate(method: str, path: str, reply) -> None:
    """An answer against what the description says of it."""
    answers = DOCUMENT["paths"][path][method]["responses"]
    assert str(reply.status) in answers, f"{method} {path}: {reply.status} is not described"
    ((kind, content),) = answers[str(reply.status)]["content"].items()
    assert reply.header("Content-Type").partition(";")[0] == kind
    if kind == "application/json":
        schema = content["schema"] | {"components": DOCUMENT["components"]}
        jsonschema.validate(reply.json(), schema, cls=jsonschema.Draft202012Validator)


@pytest.fixture
async def caller(gateway, dial):
    return await dial(gateway)


def test_it_is_valid() -> None:
    assert DOCUMENT["openapi"] == "3.1.0"
    for schema in DOCUMENT["components"]["schemas"].values():
        jsonschema.Draft202012Validator.check_schema(schema)
    text = json.dumps(DOCUMENT)
    for reference in {part.partition('"')[0] for part in text.split('"$ref": "')[1:]}:
        assert reference.rpartition("/")[2] in DOCUMENT["components"]["schemas"]
    names = [one["operationId"] for path in DOCUMENT["paths"].values() for one in path.values()]
    assert len(set(names)) == len(names)


async def test_it_is_served(caller) -> None:
    reply = await caller.get("/openapi.json")
    assert (reply.status, reply.header("Content-Type")) == (200, "application/json")
    assert reply.json() == json.loads(json.dumps(DOCUMENT))


async def test_every_route_of_ours_is_described(gateway) -> None:
    ours = ("/jobs", "/deliveries", "/ops", "/metrics", "/healthz", "/readyz")
    routes = {
        (route.method.lower(), route.resource.canonical)
        for route in gateway._runner.app.router.routes()
        if route.method != "HEAD" and route.resource.canonical.startswith(ours)
    }
    described = {(method, path) for path, methods in DOCUMENT["paths"].items() for method in methods}
    assert described == routes


async def test_answers_in_every_state_keep_to_it(caller, worker) -> None:
    reply = await caller.post("/jobs", CHAT | {"metadata": {"a": 1}, "deadline_seconds": 60})
    validate("post", "/jobs", reply)
    job_id = reply.json()["job_id"]
    one = "/jobs/{job_id}"
    validate("get", one, await caller.get(f"/jobs/{job_id}"))
    run = await worker.claim(to=State.LOADING)
    validate("get", one, await caller.get(f"/jobs/{job_id}"))
    validate("get", "/ops/state", await caller.get("/ops/state"))
    await worker.store.queue.transition(job_id, run.job.epoch, State.WORKING, reason="loaded")
    validate("get", one, await caller.get(f"/jobs/{job_id}"))
    await worker.store.queue.transition(
        job_id,
        run.job.epoch,
        State.DONE,
        reason="test",
        usage={"prompt_tokens": 1, "completion_tokens": 2},
        timings={"queued_ms": 1.5, "total_ms": 2},
        answer=Answer.of(b"{}"),
    )
    validate("get", one, await caller.get(f"/jobs/{job_id}"))
    validate("post", "/jobs/{job_id}/retry", await caller.post(f"/jobs/{job_id}/retry", b""))
    await (await worker.claim()).end(State.FAILED, Failure(Code.STALLED, "nothing came"))
    await caller.post("/jobs", CHAT)
    validate("get", "/jobs", await caller.get("/jobs"))
    validate("get", "/jobs/{job_id}/events", await caller.get(f"/jobs/{job_id}/events"))
    validate("get", "/jobs/{job_id}/request", await caller.get(f"/jobs/{job_id}/request"))
    validate("get", "/jobs/{job_id}/deliveries", await caller.get(f"/jobs/{job_id}/deliveries"))
    artifact = "/jobs/{job_id}/artifacts/{name}"
    validate("get", artifact, await caller.get(f"/jobs/{job_id}/artifacts/completion"))
    validate("get", artifact, await caller.get(f"/jobs/{job_id}/artifacts/x"))
    validate("delete", one, await caller.get(f"/jobs/{job_id}", method="DELETE"))


async def test_refusals_keep_to_it(caller, gateway) -> None:
    validate("post", "/jobs", await caller.post("/jobs", b"{"))
    validate("post", "/jobs", await caller.post("/jobs", CHAT | {"priority": 1}))
    validate("post", "/jobs", await caller.post("/jobs", CHAT | {"model": "nope"}))
    validate("get", "/jobs", await caller.get("/jobs?limit=x"))
    for method in ("get", "delete"):
        validate(method, "/jobs/{job_id}", await caller.get("/jobs/x", method=method.upper()))
    job_id = (await caller.post("/jobs", CHAT)).json()["job_id"]
    validate("post", "/jobs/{job_id}/retry", await caller.post(f"/jobs/{job_id}/retry", b""))
    redeliver = "/deliveries/{delivery}/redeliver"
    validate("post", redeliver, await caller.post("/deliveries/x/redeliver", b""))
    body = CHAT | {"state_webhook_url": "http://93.184.215.14/"}
    job_id = (await caller.post("/jobs", body)).json()["job_id"]
    validate("post", redeliver, await caller.post(f"/deliveries/evt_{job_id}_1/redeliver", b""))
    gateway.calls.leaving = True
    validate("post", "/jobs", await caller.post("/jobs", CHAT))
    validate("get", "/readyz", await caller.get("/readyz"))


async def test_operations_keep_to_it(caller, worker) -> None:
    await caller.post("/jobs", CHAT)
    await caller.post("/jobs/batch", b"{}\n")
    validate("post", "/jobs/batch", await caller.post("/jobs/batch", b"{}\n"))
    await worker.claim()
    await caller.post("/jobs", CHAT)
    for path in ("/healthz", "/readyz", "/ops/state"):
        validate("get", path, await caller.get(path))
