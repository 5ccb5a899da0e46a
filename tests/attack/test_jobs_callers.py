"""Who sees which jobs, and what a cancel meets (contract 5, 9 TOKENS and READ_TOKEN); over sockets."""

from __future__ import annotations

import asyncio
import json
import time
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio

from foreman.demo.ollama import FakeOllama
from foreman.protocols.job_object import rfc3339
from tests.attack.ground import CHAT, Site, site, until
from tests.exchange import exchange
from tests.receivers import Receivers

if TYPE_CHECKING:
    from tests.exchange import Answer

pytestmark = pytest.mark.asyncio(loop_scope="module")
NEVER = {"not_before": rfc3339(time.time() + 86_400)}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def receivers():
    async with Receivers() as made:
        yield made


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def at(tmp_path_factory, valkey, receivers):
    fake = FakeOllama(models=["alpha", "beta"], tokens=2, max_loaded=1)
    tokens = {"token": "boss", "tokens": "ann=anna,bob=bobby?priority=low", "read_token": "eye"}
    allow = f"127.0.0.1:{receivers.port}"
    folder = tmp_path_factory.mktemp("callers")
    async with site(folder, valkey, fake, "one", models="0", webhook_allow=allow, **tokens) as made:
        await made.house.until(lambda tags: len(tags.get("models", [])) >= 2, "/api/tags")
        yield made


async def ask(at: Site, who: str, method: str, path: str, body: Any = None, key: str | None = None) -> Answer:
    headers = {"Authorization": f"Bearer {who}"} | ({} if key is None else {"Idempotency-Key": key})
    payload = None if body is None and method == "GET" else json.dumps(body).encode() if body is not None else b""
    return await exchange(at.url, method, path, payload, headers)


async def submitted(at: Site, who: str, key: str | None = None, **fields: Any) -> str:
    answer = await ask(at, who, "POST", "/jobs", {**CHAT, **fields}, key)
    assert answer.status == 202, answer.body
    return str(json.loads(answer.body)["job_id"])


async def ended(at: Site, job_id: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((await ask(at, "boss", "GET", f"/jobs/{job_id}?wait=20")).body)
    return found


LOOKS = ("", "/request", "/events", "/deliveries", "/artifacts/completion")


async def test_each_sees_its_own_only(at: Site, receivers: Receivers) -> None:
    job_id = await submitted(at, "anna", state_webhook_url=f"{receivers.url}/ann", metadata={"secret": 1})
    assert (await ended(at, job_id))["caller"] == "ann"
    await receivers.until(lambda it: it.seen["/ann"] and it.seen["/ann"][-1].event["state"] == "done")
    seq = receivers.seen["/ann"][-1].event["seq"]
    for look in LOOKS:
        own = await ask(at, "anna", "GET", f"/jobs/{job_id}{look}")
        assert own.status == (await ask(at, "boss", "GET", f"/jobs/{job_id}{look}")).status == 200
        other = await ask(at, "bobby", "GET", f"/jobs/{job_id}{look}")
        unknown = await ask(at, "bobby", "GET", f"/jobs/{job_id[:-1]}{'0' if job_id[-1] != '0' else '1'}{look}")
        assert (other.status, len(other.body)) == (404, len(unknown.body))
        assert (await ask(at, "nobody", "GET", f"/jobs/{job_id}{look}")).status == 401
        looked = await ask(at, "eye", "GET", f"/jobs/{job_id}{look}")
        assert looked.status == (200 if look in {"", "/events"} else 403)
    for method, path in (("DELETE", ""), ("POST", "/retry")):
        assert (await ask(at, "bobby", method, f"/jobs/{job_id}{path}")).status == 404
        assert (await ask(at, "eye", method, f"/jobs/{job_id}{path}")).status == 403
    for who, status in (("bobby", 404), ("eye", 403), ("anna", 202)):
        assert (await ask(at, who, "POST", f"/deliveries/evt_{job_id}_{seq}/redeliver")).status == status
    for who, ids in (("anna", {job_id}), ("bobby", set()), ("eye", {job_id}), ("boss", {job_id})):
        page = json.loads((await ask(at, who, "GET", "/jobs?state=done&limit=500")).body)["jobs"]
        assert ids <= {job["job_id"] for job in page}
        assert who != "bobby" or not page
        assert who != "eye" or all(job["result"] is None and not job["artifacts"] for job in page)
    assert (await ask(at, "eye", "POST", "/jobs", CHAT)).status == 403
    assert (await ask(at, "eye", "POST", "/jobs/batch", CHAT)).status == 403


async def test_the_ceiling_holds_for_jobs_batches_and_retries(at: Site) -> None:
    job_id = await submitted(at, "bobby", priority="high", **NEVER)
    shown = json.loads((await ask(at, "bobby", "GET", f"/jobs/{job_id}")).body)
    assert shown["priority"] == "low"
    await ask(at, "bobby", "DELETE", f"/jobs/{job_id}")
    again = await ask(at, "bobby", "POST", f"/jobs/{job_id}/retry")
    assert (await ended(at, json.loads(again.body)["job_id"]))["priority"] == "low"
    line = await ask(at, "bobby", "POST", "/jobs/batch", {**CHAT, "priority": "high"})
    assert (await ended(at, json.loads(line.body)["job_id"]))["priority"] == "low"
    theirs = await ask(at, "boss", "POST", f"/jobs/{job_id}/retry")
    assert (await ended(at, json.loads(theirs.body)["job_id"]))["caller"] == "bob"


async def test_one_key_of_two_callers(at: Site) -> None:
    ids = {await submitted(at, who, "the-key", **NEVER) for who in ("anna", "bobby", "boss")}
    assert len(ids) == 3
    for job_id in ids:
        await ask(at, "boss", "DELETE", f"/jobs/{job_id}")


@pytest.mark.parametrize("state", ["delayed", "queued", "loading", "working", "done", "cancelled"])
async def test_a_cancel_in_every_state(at: Site, state: str) -> None:
    gates = []
    if state in {"working", "queued"}:
        gates.append(at.fake.gate(after=1, model="alpha"))
    first = await submitted(at, "anna") if state == "queued" else None
    if first:
        await gates[0].reached()
    if state == "loading":
        await ended(at, await submitted(at, "boss", model="beta"))
        gates.append(at.fake.gate(at="load", model="alpha"))
    job_id = await submitted(at, "anna", **(NEVER if state in {"delayed", "cancelled"} else {}))
    if state in {"working", "loading"}:
        await gates[0].reached()
    if state in {"done", "cancelled"}:
        if state == "cancelled":
            await ask(at, "anna", "DELETE", f"/jobs/{job_id}")
        await ended(at, job_id)
    async with asyncio.timeout(60):
        answer = await ask(at, "anna", "DELETE", f"/jobs/{job_id}")
    job = json.loads(answer.body)
    assert (answer.status, job["state"]) == (200, "done" if state == "done" else "cancelled")
    if state not in {"done", "cancelled"}:
        assert (job["error"]["code"], job["previous_state"]) == ("cancelled", "queued" if state == "delayed" else state)
    assert json.loads((await ask(at, "anna", "DELETE", f"/jobs/{job_id}")).body) == job
    events = json.loads((await ask(at, "anna", "GET", f"/jobs/{job_id}/events")).body)["events"]
    assert [event["seq"] for event in events] == list(range(1, job["seq"] + 1))
    for gate in gates:
        gate.open()
    at.fake.clear()
    if first:
        assert (await ended(at, first))["state"] == "done"


async def test_a_living_job_is_retried_by_nobody(at: Site) -> None:
    job_id = await submitted(at, "anna", **NEVER)
    answer = await ask(at, "anna", "POST", f"/jobs/{job_id}/retry")
    assert (answer.status, json.loads(answer.body)["error"]["code"]) == (409, "bad_request")
    waiting = await at.dial()
    waiting.ask(f"/jobs/{job_id}?wait=600", b"", "GET", Authorization="Bearer bobby")
    assert (await waiting.answer()).status == 404
    await ask(at, "anna", "DELETE", f"/jobs/{job_id}")


async def test_a_deadline_missed_while_it_waits_for_its_time(at: Site) -> None:
    soon = rfc3339(time.time() + 0.3)
    job = await ended(at, await submitted(at, "anna", not_before=soon, deadline_seconds=0.000001))
    assert (job["state"], job["error"]["code"]) == ("failed", "deadline_exceeded")
    assert job["not_before"] == soon


async def test_a_job_starts_at_its_time_and_not_before(at: Site) -> None:
    soon = time.time() + 0.5
    job = await ended(at, await submitted(at, "anna", not_before=rfc3339(soon)))
    assert job["state"] == "done"
    assert job["started_at"] >= rfc3339(soon - 0.001)
    assert await until(lambda: "Traceback" not in at.log())
