"""What a job leaves behind, over sockets: artifacts and the webhook log."""

from __future__ import annotations

import hashlib
import json

import pytest

from foreman.core.jobs import State
from foreman.protocols.job_object import INLINE_LIMIT
from foreman.store import keys as k
from foreman.store.answers import Answer
from foreman.store.deliveries import Outcome, Pace
from tests.web.jobs.test_jobs import CHAT, UNKNOWN, error, show, submit

URL = "http://93.184.215.14/hook"
PACE = Pace(schedule=(0.0, 60.0))


@pytest.fixture
async def caller(gateway, dial):
    return await dial(gateway)


async def finished(caller, worker, body: bytes, **fields) -> str:
    """A job that is done, with this answer."""
    job_id = await submit(caller, **fields)
    run = await worker.claim()
    answer = Answer.of(body)
    assert await worker.store.queue.transition(job_id, run.job.epoch, State.DONE, reason="answered", answer=answer)
    return job_id


class TestArtifacts:
    async def test_a_short_answer_stands_inline(self, caller, worker) -> None:
        body = b'{"message": {"content": "h\xc3\xa4"}, "done": true}'
        job_id = await finished(caller, worker, body)
        seen = await show(caller, job_id)
        digest = hashlib.sha256(body).hexdigest()
        assert seen["result"] == json.loads(body)
        assert seen["artifacts"] == [
            {
                "name": "completion",
                "content_type": "application/json",
                "size": len(body),
                "sha256": digest,
                "inline": json.loads(body),
                "url": None,
            }
        ]
        reply = await caller.get(f"/jobs/{job_id}/artifacts/completion")
        assert (reply.status, reply.body) == (200, body)
        assert (reply.header("Content-Type"), reply.header("ETag")) == ("application/json", f'"{digest}"')
        assert (await caller.get("/jobs")).json()["jobs"][0]["result"] == json.loads(body)

    @pytest.mark.parametrize("size", [INLINE_LIMIT, INLINE_LIMIT + 1, 5 << 20])
    async def test_a_long_one_has_a_url(self, caller, worker, size: int) -> None:
        body = b'"' + b"x" * (size - 2) + b'"'
        job_id = await finished(caller, worker, body)
        seen = await show(caller, job_id)
        (artifact,) = seen["artifacts"]
        assert (artifact["size"], artifact["sha256"]) == (size, hashlib.sha256(body).hexdigest())
        if size <= INLINE_LIMIT:
            assert artifact["inline"] == seen["result"] == json.loads(body)
            return
        assert (seen["result"], artifact["inline"]) == (None, None)
        reply = await caller.get(artifact["url"])
        assert reply.body == body
        assert reply.header("ETag") == f'"{artifact["sha256"]}"'

    async def test_known_by_its_tag(self, caller, worker) -> None:
        job_id = await finished(caller, worker, b"{}")
        path = f"/jobs/{job_id}/artifacts/completion"
        tag = (await caller.get(path)).header("ETag")
        for shown in (tag, f"W/{tag}", f'"other", {tag}', "*"):
            reply = await caller.get(path, If_None_Match=shown)
            assert (reply.status, reply.body, reply.header("ETag")) == (304, b"", tag)
        assert (await caller.get(path, If_None_Match='"other"')).status == 200
        assert (await caller.get(path, method="HEAD")).header("Content-Length") == "2"

    async def test_what_is_not_there(self, caller, worker, store, valkey) -> None:
        job_id = await finished(caller, worker, b"{}")
        assert "'x'" in error(await caller.get(f"/jobs/{job_id}/artifacts/x"), 404)
        error(await caller.get(f"/jobs/{UNKNOWN}/artifacts/completion"), 404)
        await store.queue._connection.command("DEL", store.queue.keys.of(k.ARTIFACT, job_id, "completion"))
        error(await caller.get(f"/jobs/{job_id}/artifacts/completion"), 410)
        waiting = await submit(caller)
        error(await caller.get(f"/jobs/{waiting}/artifacts/completion"), 404)

    async def test_a_page_of_long_answers_ends_early(self, caller, worker) -> None:
        body = b'"' + b"x" * (INLINE_LIMIT - 2) + b'"'
        made = [await finished(caller, worker, body) for _ in range(10)]
        seen, cursor, pages = [], "", 0
        while cursor is not None:
            page = (await caller.get(f"/jobs?limit=100{cursor and '&cursor=' + cursor}")).json()
            seen += [job["job_id"] for job in page["jobs"]]
            cursor, pages = page["next_cursor"], pages + 1
        assert (seen, pages) == (made[::-1], 2)


class TestDeliveries:
    async def tried(self, store, job_id: str, *outcomes: Outcome) -> None:
        """Attempts at the first delivery of a job."""
        for outcome in outcomes:
            delivery = f"evt_{job_id}_1"
            ticket = await store.queue._connection.command("HGET", store.queue.keys.of(k.DELIVERY, delivery), "ticket")
            attempt = await store.deliveries.begin(delivery, int(ticket), PACE)
            assert attempt is not None
            failed = outcome is Outcome.FAILED
            await store.deliveries.settle(
                attempt,
                outcome,
                PACE,
                status=500 if failed else 204,
                took=0.25,
                error="it answered 500" if failed else "",
                reply="oops" if failed else "",
                delay=0.0,
            )

    async def test_the_log(self, caller, worker, store) -> None:
        job_id = await submit(caller, state_webhook_url=URL)
        assert (await caller.get(f"/jobs/{job_id}/deliveries")).json() == {"deliveries": []}
        await self.tried(store, job_id, Outcome.FAILED, Outcome.DELIVERED)
        reply = await caller.get(f"/jobs/{job_id}/deliveries")
        first, second = reply.json()["deliveries"]
        assert first.pop("time") <= second.pop("time")
        shared = {"id": f"evt_{job_id}_1", "event": "job.queued", "seq": 1, "url": URL, "duration_ms": 250.0}
        assert first == shared | {"attempt": 1, "status": 500, "error": "it answered 500", "reply": "oops"}
        assert second == shared | {"attempt": 2, "status": 204, "error": None, "reply": None}

    async def test_it_outlives_its_job(self, caller, worker, store) -> None:
        job_id = await submit(caller, state_webhook_url=URL)
        await self.tried(store, job_id, Outcome.DELIVERED)
        await caller.get(f"/jobs/{job_id}", method="DELETE")
        await store.queue._connection.command("DEL", store.queue.keys.of(k.JOB, job_id))
        assert (await caller.get(f"/jobs/{job_id}")).status == 404
        assert len((await caller.get(f"/jobs/{job_id}/deliveries")).json()["deliveries"]) == 1

    async def test_send_again(self, caller, worker, store) -> None:
        job_id = await submit(caller, state_webhook_url=URL)
        delivery = f"evt_{job_id}_1"
        await self.tried(store, job_id, Outcome.DELIVERED)
        reply = await caller.post(f"/deliveries/{delivery}/redeliver", b"")
        assert (reply.status, reply.json()) == (202, {"id": delivery, "status": "sent"})
        for unknown in (f"evt_{job_id}_9", f"evt_{UNKNOWN}_1", "x", f"evt_{job_id}_x", "evt_a:b_1"):
            error(await caller.post(f"/deliveries/{unknown}/redeliver", b""), 404)


async def test_each_callers_own(open_gateway, worker, dial, store) -> None:
    caller = await dial(await open_gateway(token="boss", tokens="webui=tok1,n8n=tok2", read_token="look"))

    def as_(token: str) -> dict[str, str]:
        return {"Authorization": f"Bearer {token}"}

    reply = await caller.post("/jobs", CHAT | {"state_webhook_url": URL}, **as_("tok1"))
    job_id = reply.json()["job_id"]
    run = await worker.claim()
    await store.queue.transition(job_id, run.job.epoch, State.DONE, reason="answered", answer=Answer.of(b"{}"))
    paths = (f"/jobs/{job_id}/artifacts/completion", f"/jobs/{job_id}/deliveries")
    for path in paths:
        assert (await caller.get(path, **as_("tok1"))).status == 200
        assert (await caller.get(path, **as_("boss"))).status == 200
        error(await caller.get(path, **as_("tok2")), 404)
        error(await caller.get(path, **as_("look")), 403, "forbidden")
    error(await caller.post(f"/deliveries/evt_{job_id}_1/redeliver", b"", **as_("tok2")), 404)
    assert (await caller.post(f"/deliveries/evt_{job_id}_1/redeliver", b"", **as_("tok1"))).status == 202
    seen = await show(caller, job_id, **as_("look"))
    assert (seen["state"], seen["result"], seen["artifacts"]) == ("done", None, None)
    assert (await caller.get("/jobs", **as_("look"))).json()["jobs"][0]["artifacts"] is None
    assert (await show(caller, job_id, **as_("tok1")))["result"] == {}
