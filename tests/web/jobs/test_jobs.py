"""The async surface over sockets: submit, look, list, cancel, retry, as docs/api.md says."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime, timedelta

import pytest

from foreman.core import destinations
from foreman.core.errors import Code, Failure
from foreman.core.estimates import LOAD_PRIOR
from foreman.core.ids import is_ulid, ulid
from foreman.core.jobs import Slot, State
from foreman.hosts import Hosts
from foreman.protocols.job_object import NINE, rfc3339
from foreman.store.errors import StoreUnavailableError
from foreman.web.jobs import ends, jobs_api
from foreman.web.jobs.receivers import Receivers
from tests.web.conftest import wait_until

CHAT = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
UNKNOWN = ulid(1, 1)


def dump(value) -> bytes:
    return json.dumps(value).encode()


async def submit(caller, _headers=None, **fields) -> str:
    reply = await caller.post("/jobs", CHAT | fields, **(_headers or {}))
    assert reply.status == 202, reply.body
    return reply.json()["job_id"]


async def show(caller, job_id: str, **headers):
    reply = await caller.get(f"/jobs/{job_id}", **headers)
    assert reply.status == 200, reply.body
    return reply.json()


def error(reply, status: int, code: str = "bad_request") -> str:
    """The message of a refusal, its shape checked on the way."""
    assert reply.status == status, reply.body
    assert reply.header("Content-Type") == "application/json; charset=utf-8"
    assert reply.header("X-Foreman-Error") == code
    body = reply.json()
    assert set(body) == {"error"}
    assert set(body["error"]) == {"code", "message", "retryable"}
    assert body["error"]["code"] == code
    return body["error"]["message"]


@pytest.fixture
async def caller(gateway, dial):
    return await dial(gateway)


class TestSubmit:
    async def test_the_answer(self, caller, store) -> None:
        reply = await caller.post("/jobs", CHAT)
        body = reply.json()
        job_id = body["job_id"]
        assert reply.status == 202
        assert is_ulid(job_id)
        assert reply.header("Location") == f"/jobs/{job_id}"
        assert body == {
            "job_id": job_id,
            "state": "queued",
            "position": 1,
            "eta_seconds": LOAD_PRIOR,
            "links": {"self": f"/jobs/{job_id}", "cancel": f"/jobs/{job_id}", "events": f"/jobs/{job_id}/events"},
        }
        second = (await caller.post("/jobs", CHAT)).json()
        assert second["position"] == 2
        assert second["eta_seconds"] > LOAD_PRIOR, "the load, and the first one's run"

    async def test_foremans_fields_are_taken_off_and_the_rest_goes_as_it_came(self, caller, worker) -> None:
        body = (
            b'{"metadata": {"a": [1, "\xc3\xa4"]}, "model": "m",  "messages": [], "priority":"low" ,'
            b' "unknown": 1e2, "endpoint": "/api/generate", "deadline_seconds": 60, "webhook_events": ["job.done"]}'
        )
        reply = await caller.post("/jobs", body)
        assert reply.status == 202
        job_id = reply.json()["job_id"]
        kept = await caller.get(f"/jobs/{job_id}/request")
        assert (kept.status, kept.body) == (200, body)
        seen = await show(caller, job_id)
        assert (seen["endpoint"], seen["priority"], seen["metadata"]) == ("/api/generate", "low", {"a": [1, "ä"]})
        run = await worker.claim(Slot.DRAIN)
        assert run.claimed.request == b'{"model": "m",  "messages": [], "unknown": 1e2}'
        assert run.job.endpoint == "/api/generate"
        assert run.job.deadline - run.job.created_at == pytest.approx(60)

    async def test_each_endpoint(self, caller, worker) -> None:
        for path, payload, slot in [
            ("/api/chat", CHAT, Slot.DRAIN),
            ("/api/generate", {"model": "m", "prompt": "x"}, Slot.DRAIN),
            ("/api/embed", {"model": "m", "input": "x"}, Slot.EMBED),
            ("/v1/chat/completions", CHAT, Slot.DRAIN),
            ("/v1/embeddings", {"model": "m", "input": "x"}, Slot.EMBED),
            ("/v1/messages", CHAT | {"max_tokens": 5}, Slot.DRAIN),
        ]:
            reply = await caller.post("/jobs", payload | {"endpoint": path}, anthropic_version="2023-06-01")
            assert reply.status == 202, reply.body
            run = await worker.claim(slot)
            assert (run.job.endpoint, json.loads(run.claimed.request)) == (path, payload)
            assert run.claimed.headers == {"anthropic-version": "2023-06-01"}
            await run.end(State.DONE)

    @pytest.mark.parametrize("body", [b"", b"  ", b"{", b'{"model":"m",}', b"[]", b'"m"', b"\xff", b"{}{}"])
    async def test_what_is_no_json_object(self, caller, body: bytes) -> None:
        error(await caller.post("/jobs", body), 400)

    async def test_several_belong_into_a_batch(self, caller) -> None:
        one = json.dumps(CHAT).encode()
        for between in (b"\n", b"", b","):
            assert "/jobs/batch" in error(await caller.post("/jobs", one + between + one), 400)
        assert (await caller.post("/jobs", b"\r\n " + one + b" \r\n\t")).status == 202

    @pytest.mark.parametrize(
        ("field", "value"),
        [
            ("endpoint", "/api/show"),
            ("priority", "urgent"),
            ("webhook_events", ["finished"]),
            ("deadline_seconds", -1),
            ("not_before", "tonight"),
            ("metadata", {"a": "x" * 4090}),
            ("state_webhook_url", 5),
            ("messages", "hi"),
            ("model", 7),
            ("model", ""),
            ("options", {"num_ctx": "many"}),
        ],
    )
    async def test_a_wrong_field_is_named(self, caller, store, field: str, value) -> None:
        message = error(await caller.post("/jobs", CHAT | {field: value}), 422)
        assert field in message or next(iter(value)) in message
        assert (await store.queue.counts()).queued == 0

    async def test_without_a_model(self, caller) -> None:
        for endpoint in ("/api/chat", "/api/generate", "/v1/embeddings"):
            assert "model" in error(await caller.post("/jobs", {"prompt": "x", "endpoint": endpoint}), 422)

    async def test_an_unknown_model(self, caller) -> None:
        assert "'nope'" in error(await caller.post("/jobs", CHAT | {"model": "nope"}), 404, "model_not_found")

    async def test_too_large(self, open_gateway, worker, dial) -> None:
        caller = await dial(await open_gateway(max_body="1KiB"))
        assert "FOREMAN_MAX_BODY" in error(
            await caller.post("/jobs", CHAT | {"x": "y" * 1024}), 413, "payload_too_large"
        )

    async def test_a_full_queue(self, valkey, pool, store, open_gateway, worker, dial) -> None:
        store.queue._limits = type(store.queue._limits)(max_queue=10)
        caller = await dial(await open_gateway())
        for _ in range(9):
            await submit(caller)
        reply = await caller.post("/jobs", CHAT)
        assert "server busy" in error(reply, 503, "queue_full")
        assert reply.json()["error"]["retryable"] is True
        assert int(reply.header("Retry-After")) > 0

    async def test_while_the_gateway_leaves(self, gateway, caller) -> None:
        gateway.calls.leaving = True
        error(await caller.post("/jobs", CHAT), 503, "shutting_down")


class TestWebhookURL:
    async def test_a_public_one_is_taken(self, caller, store) -> None:
        job_id = await submit(caller, state_webhook_url="https://93.184.215.14/hook?a=b", webhook_events=["job.done"])
        job = await store.queue.get(job_id)
        assert (job.state_webhook_url, job.webhook_events) == ("https://93.184.215.14/hook?a=b", {State.DONE})

    @pytest.mark.parametrize(
        "url",
        [
            *("http://127.0.0.1:9009/", "http://localhost:9009/", "http://[::1]/", "http://[::ffff:127.0.0.1]/x"),
            *("http://0.0.0.0/", "http://10.1.2.3/", "http://192.168.1.5:80/", "http://169.254.169.254/latest"),
            *("http://[::ffff:7f00:1]/", "http://[64:ff9b::7f00:1]/", "http://a.localhost/"),
        ],
    )
    async def test_one_that_is_not_public_is_refused_with_the_line_to_add(self, caller, store, url: str) -> None:
        message = error(await caller.post("/jobs", CHAT | {"state_webhook_url": url}), 422)
        assert message.startswith("state_webhook_url: ")
        assert "FOREMAN_WEBHOOK_ALLOW=" in message
        assert (await store.queue.counts()).queued == 0

    @pytest.mark.parametrize(
        "url",
        ["ftp://example.com/", "https://", "https://u:p@example.com/", "http://0x7f000001/", "http://127.1/", "/x"],
    )
    async def test_one_that_nobody_can_allow(self, caller, url: str) -> None:
        message = error(await caller.post("/jobs", CHAT | {"state_webhook_url": url}), 422)
        assert message.startswith("state_webhook_url: ")

    async def test_a_name_that_leads_home(self) -> None:
        names = {"n8n.example": "192.168.1.5", "hook.example": "93.184.215.14"}
        asked = []

        def look_up(host, port, **_kwargs):
            asked.append(host)
            if host not in names:
                raise OSError(host)
            return [(0, 0, 0, "", (names[host], port))]

        hosts = Hosts(look_up)
        receivers = Receivers((), hosts)
        for _ in range(2):
            with pytest.raises(Failure, match=r"FOREMAN_WEBHOOK_ALLOW=n8n\.example:5678"):
                await receivers.check("http://n8n.example:5678/hook")
        assert asked == ["n8n.example"], "remembered"
        await receivers.check("http://hook.example/hook")
        await receivers.check("http://unknown.example/hook")
        await Receivers(destinations.parse("*.example"), hosts).check("http://n8n.example/hook")
        await Receivers(destinations.parse("192.168.0.0/16"), hosts).check("http://n8n.example/hook")

    async def test_what_the_operator_allows(self, open_gateway, worker, dial) -> None:
        caller = await dial(await open_gateway(webhook_allow="localhost:9009,10.0.0.0/8"))
        await submit(caller, state_webhook_url="http://localhost:9009/hook")
        await submit(caller, state_webhook_url="http://10.9.8.7:1/hook")
        error(await caller.post("/jobs", CHAT | {"state_webhook_url": "http://localhost:9010/hook"}), 422)


class TestKeys:
    async def test_202_first_200_after(self, caller) -> None:
        first = await caller.post("/jobs", CHAT, Idempotency_Key="k 1")
        again = await caller.post("/jobs", CHAT, Idempotency_Key="k 1")
        assert (first.status, again.status) == (202, 200)
        assert first.json() == again.json()
        assert again.header("Location") == first.header("Location")

    async def test_it_answers_with_where_the_job_is_by_now(self, caller, worker) -> None:
        await caller.post("/jobs", CHAT, Idempotency_Key="k")
        run = await worker.claim()
        await run.end(State.DONE)
        again = await caller.post("/jobs", CHAT, Idempotency_Key="k")
        assert again.status == 200
        assert (again.json()["state"], again.json()["position"], again.json()["eta_seconds"]) == ("done", None, None)

    async def test_another_body(self, caller) -> None:
        await caller.post("/jobs", CHAT, Idempotency_Key="k")
        assert "Idempotency-Key" in error(await caller.post("/jobs", CHAT | {"a": 1}, Idempotency_Key="k"), 422)

    async def test_many_at_once_are_one_job(self, gateway, dial) -> None:
        callers = [await dial(gateway) for _ in range(8)]
        replies = await asyncio.gather(*(one.post("/jobs", CHAT, Idempotency_Key="k") for one in callers))
        assert sorted(reply.status for reply in replies) == [200] * 7 + [202]
        assert len({reply.json()["job_id"] for reply in replies}) == 1
        posts = (one.post("/jobs", CHAT | {"n": number}, Idempotency_Key="other") for number, one in enumerate(callers))
        assert sorted(reply.status for reply in await asyncio.gather(*posts)) == [202] + [422] * 7
        assert len((await callers[0].get("/jobs")).json()["jobs"]) == 2

    async def test_free_again_after_a_cancel(self, caller) -> None:
        job_id = await submit(caller, {"Idempotency_Key": "k"})
        await caller.get(f"/jobs/{job_id}", method="DELETE")
        assert await submit(caller, {"Idempotency_Key": "k"}) != job_id

    async def test_a_key_that_is_none(self, caller) -> None:
        assert "Idempotency-Key" in error(await caller.post("/jobs", CHAT, Idempotency_Key="k" * 256), 422)


class TestShow:
    async def test_a_queued_job(self, caller) -> None:
        await submit(caller)
        job_id = await submit(caller, metadata={"run": 7}, priority="low")
        seen = await show(caller, job_id)
        assert list(NINE) == [key for key in seen if key in NINE]
        assert {name: seen[name] for name in NINE if name not in {"job_id", "timestamp"}} == {
            "state": "queued",
            "previous_state": None,
            "model": "m",
            "attempt": 1,
            "error": None,
            "result": None,
            "artifacts": None,
        }
        assert (seen["type"], seen["seq"], seen["surface"], seen["caller"]) == ("job.queued", 1, "async", None)
        assert seen["timestamp"] == seen["created_at"]
        assert (seen["started_at"], seen["finished_at"], seen["usage"], seen["timings"]) == (None, None, None, None)
        assert (seen["position"], seen["metadata"], seen["priority"]) == (2, {"run": 7}, "low")
        assert seen["eta_seconds"] > 0
        assert "1 job" in seen["waiting_for"]

    async def test_through_its_states(self, caller, worker) -> None:
        job_id = await submit(caller)
        run = await worker.claim(to=State.LOADING)
        seen = await show(caller, job_id)
        assert (seen["state"], seen["previous_state"], seen["target"], seen["position"]) == (
            "loading",
            "queued",
            "gpu1",
            None,
        )
        assert "loads m" in seen["waiting_for"]
        await worker.store.queue.transition(job_id, run.job.epoch, State.WORKING, reason="loaded")
        seen = await show(caller, job_id)
        assert (seen["state"], seen["type"], seen["seq"]) == ("working", "job.working", 3)
        assert seen["started_at"] is not None
        assert "position" not in seen
        await run.end(State.FAILED, Failure(Code.STALLED, "nothing came"))
        seen = await show(caller, job_id)
        assert seen["error"] == {"code": "stalled", "message": "nothing came", "retryable": True}
        assert seen["timestamp"] == seen["finished_at"]

    async def test_unknown(self, caller) -> None:
        for path in (UNKNOWN, "x", "a:b", UNKNOWN.lower()):
            assert path in error(await caller.get(f"/jobs/{path}"), 404)
        for path in ("request", "events"):
            error(await caller.get(f"/jobs/{UNKNOWN}/{path}"), 404)
        error(await caller.get(f"/jobs/{UNKNOWN}", method="DELETE"), 404)
        error(await caller.post(f"/jobs/{UNKNOWN}/retry", b""), 404)

    async def test_events(self, caller, worker) -> None:
        job_id = await submit(caller)
        run = await worker.claim()
        await run.end(State.DONE)
        reply = await caller.get(f"/jobs/{job_id}/events")
        events = reply.json()["events"]
        assert [(event["seq"], event["state"], event["previous_state"]) for event in events] == [
            (1, "queued", None),
            (2, "working", "queued"),
            (3, "done", "working"),
        ]
        assert [(event["worker"], event["reason"], event["attempt"]) for event in events] == [
            (None, "submitted", 1),
            ("wk-1", "claimed", 1),
            ("wk-1", "test", 1),
        ]

    async def test_a_sync_call_appears_too(self, caller, gateway, dial, worker) -> None:
        chat = await dial(gateway)
        chat.ask("POST", "/api/chat", CHAT)
        run = await worker.claim()
        seen = await show(caller, run.job.id)
        assert (seen["surface"], seen["state"], seen["priority"]) == ("sync", "working", "high")
        await run.done(b'{"done":true}\n')
        await chat.reply()
        seen = await show(caller, run.job.id)
        assert (seen["state"], seen["result"], seen["artifacts"]) == ("done", None, None)
        assert (await caller.get(f"/jobs/{run.job.id}/request")).status == 410
        error(await caller.post(f"/jobs/{run.job.id}/retry", b""), 410)


class TestWait:
    async def test_until_the_end(self, caller, worker, monkeypatch) -> None:
        monkeypatch.setattr(ends, "LOOK_AGAIN", 600.0)  # the notice, not the next look
        job_id = await submit(caller)
        caller.ask("GET", f"/jobs/{job_id}?wait=30")
        run = await worker.claim()
        await run.end(State.DONE)
        reply = await caller.reply()
        assert reply.json()["state"] == "done"

    async def test_a_notice_that_got_lost_costs_a_look(self, gateway, caller, worker, monkeypatch) -> None:
        monkeypatch.setattr(ends, "LOOK_AGAIN", 0.05)
        monkeypatch.setattr(gateway.ends, "notice", lambda _: None)
        job_id = await submit(caller)
        caller.ask("GET", f"/jobs/{job_id}?wait=30")
        await (await worker.claim()).end(State.DONE)
        assert (await caller.reply()).json()["state"] == "done"

    async def test_until_the_time_is_up(self, caller) -> None:
        job_id = await submit(caller)
        reply = await caller.get(f"/jobs/{job_id}?wait=0.05")
        assert reply.json()["state"] == "queued"

    async def test_at_once_for_one_that_has_ended(self, caller) -> None:
        job_id = await submit(caller)
        await caller.get(f"/jobs/{job_id}", method="DELETE")
        assert (await caller.get(f"/jobs/{job_id}?wait=600")).json()["state"] == "cancelled"

    async def test_many_wait_for_one(self, gateway, dial, worker) -> None:
        callers = [await dial(gateway) for _ in range(5)]
        job_id = await submit(callers[0])
        for caller in callers:
            caller.ask("GET", f"/jobs/{job_id}?wait=30")
        run = await worker.claim()
        await run.end(State.DONE)
        for caller in callers:
            assert (await caller.reply()).json()["state"] == "done"
        assert not gateway.ends._waiting

    async def test_a_stop_lets_go(self, gateway, caller) -> None:
        job_id = await submit(caller)
        caller.ask("GET", f"/jobs/{job_id}?wait=600")
        await wait_until(lambda: gateway.ends._waiting)
        gateway.ends.leave()
        assert (await caller.reply()).json()["state"] == "queued"

    @pytest.mark.parametrize("wait", ["x", "-1", "nan"])
    async def test_no_seconds(self, caller, wait) -> None:
        assert "wait" in error(await caller.get(f"/jobs/{await submit(caller)}?wait={wait}"), 422)


class TestCancel:
    async def test_queued(self, caller, store) -> None:
        job_id = await submit(caller)
        reply = await caller.get(f"/jobs/{job_id}", method="DELETE")
        assert reply.status == 200
        first = reply.json()
        assert (first["state"], first["previous_state"], first["error"]["code"]) == ("cancelled", "queued", "cancelled")
        again = await caller.get(f"/jobs/{job_id}", method="DELETE")
        assert (again.status, again.json()) == (200, first), "idempotent"
        assert (await store.queue.counts()).queued == 0

    @pytest.mark.parametrize("state", [State.LOADING, State.WORKING])
    async def test_a_running_one_answers_once_it_is_over(self, caller, worker, store, state: State) -> None:
        inbox = await store.inbox("worker", "wk-1")
        job_id = await submit(caller)
        run = await worker.claim(to=state)
        caller.ask("DELETE", f"/jobs/{job_id}")
        async with asyncio.timeout(60):
            while (order := await inbox.receive()) is None or order.verb != "cancel":
                pass
        assert (order.job_id, order.code) == (job_id, "cancelled")
        await run.end(State.CANCELLED, Failure(Code.CANCELLED, "cut"))
        reply = await caller.reply()
        assert (reply.status, reply.json()["state"]) == (200, "cancelled")

    async def test_a_sync_call_that_waits(self, caller, gateway, dial) -> None:
        """An operator may cancel it: its caller is told, and does not wait for ever."""
        chat = await dial(gateway)
        chat.ask("POST", "/api/chat", CHAT)
        job_id = await wait_until(lambda: next(iter(gateway.waiting.calls), None))
        await wait_until(lambda: gateway.waiting.calls[job_id].submitted)
        reply = await caller.get(f"/jobs/{job_id}", method="DELETE")
        assert (reply.status, reply.json()["state"]) == (200, "cancelled")
        told = await chat.reply()
        assert (told.status, told.header("X-Foreman-Error")) == (499, "cancelled")

    async def test_one_that_does_not_end_in_time(self, caller, worker, monkeypatch) -> None:
        monkeypatch.setattr(jobs_api, "CANCEL_WAIT", 0.05)
        job_id = await submit(caller)
        await worker.claim()
        reply = await caller.get(f"/jobs/{job_id}", method="DELETE")
        assert (reply.status, reply.json()["state"]) == (202, "working")

    @pytest.mark.parametrize("state", [State.DONE, State.FAILED])
    async def test_ended(self, caller, worker, state: State) -> None:
        job_id = await submit(caller)
        run = await worker.claim()
        await run.end(state)
        reply = await caller.get(f"/jobs/{job_id}", method="DELETE")
        assert (reply.status, reply.json()["state"]) == (200, state)


class TestTarget:
    async def test_the_one_that_was_asked_for(self, caller, worker) -> None:
        await worker.publish("gpu2", "m:latest")
        await wait_until(lambda: caller_sees(caller, "gpu2"))
        reply = await caller.post("/jobs", CHAT, X_Foreman_Target="gpu2")
        assert reply.status == 202, reply.body
        job_id = reply.json()["job_id"]
        job = await worker.store.queue.get(job_id)
        assert job.target_only == "gpu2"
        await caller.get(f"/jobs/{job_id}", method="DELETE")
        again = (await caller.post(f"/jobs/{job_id}/retry", b"")).json()["job_id"]
        assert (await worker.store.queue.get(again)).target_only == "gpu2"

    async def test_one_that_is_not_there(self, caller) -> None:
        assert "gpu1" in error(await caller.post("/jobs", CHAT, X_Foreman_Target="gpu9"), 422)


async def caller_sees(caller, target: str) -> bool:
    return target in {one["name"] for one in (await caller.get("/ops/state")).json()["targets"]}


class TestRetry:
    async def test_a_new_job_of_the_same(self, caller, worker) -> None:
        tonight = rfc3339((datetime.now(UTC) + timedelta(hours=1)).timestamp())
        job_id = await submit(caller, metadata={"a": 1}, priority="low", not_before=tonight, deadline_seconds=50)
        error(await caller.post(f"/jobs/{job_id}/retry", b""), 409)
        await caller.get(f"/jobs/{job_id}", method="DELETE")
        reply = await caller.post(f"/jobs/{job_id}/retry", b"")
        assert reply.status == 202
        again = reply.json()["job_id"]
        assert again != job_id
        assert reply.header("Location") == f"/jobs/{again}"
        seen = await show(caller, again)
        assert (seen["retry_of"], seen["metadata"], seen["priority"], seen["position"]) == (job_id, {"a": 1}, "low", 1)
        assert (seen["not_before"], (await show(caller, job_id))["retry_of"]) == (None, None)
        run = await worker.claim()
        assert json.loads(run.claimed.request) == CHAT
        assert run.job.deadline - run.job.created_at == pytest.approx(50)

    async def test_under_a_key(self, caller) -> None:
        job_id = await submit(caller)
        await caller.get(f"/jobs/{job_id}", method="DELETE")
        first = await caller.post(f"/jobs/{job_id}/retry", b"", Idempotency_Key="r")
        again = await caller.post(f"/jobs/{job_id}/retry", b"", Idempotency_Key="r")
        assert (first.status, again.status) == (202, 200)
        assert first.json()["job_id"] == again.json()["job_id"]


class TestNotBefore:
    async def test_it_waits_in_no_lane(self, caller, store) -> None:
        begins = rfc3339((datetime.now(UTC) + timedelta(hours=3)).timestamp())
        reply = await caller.post("/jobs", CHAT | {"not_before": begins})
        assert (reply.status, reply.json()["position"], reply.json()["eta_seconds"]) == (202, None, None)
        seen = await show(caller, reply.json()["job_id"])
        assert (seen["state"], seen["position"], seen["eta_seconds"]) == ("queued", None, None)
        assert seen["not_before"] == begins
        assert begins in seen["waiting_for"]
        assert not (await store.queue.survey(Slot.DRAIN)).lanes

    async def test_it_begins_at_its_time(self, caller, worker) -> None:
        begins = datetime.now(UTC) + timedelta(seconds=0.3)
        job_id = await submit(caller, not_before=begins.isoformat())
        run = await worker.claim()
        assert run.job.id == job_id
        assert run.job.claimed_at >= begins.timestamp() - 0.001

    async def test_in_the_past_and_too_far(self, caller) -> None:
        assert (await caller.post("/jobs", CHAT | {"not_before": "2020-01-01T00:00:00Z"})).json()["position"] == 1
        far = (datetime.now(UTC) + timedelta(days=7, minutes=1)).isoformat()
        assert "not_before" in error(await caller.post("/jobs", CHAT | {"not_before": far}), 422)


class TestList:
    async def test_pages_hold_their_place_while_jobs_come_and_go(self, caller) -> None:
        made = [await submit(caller) for _ in range(7)]
        seen, cursor = [], ""
        while True:
            page = (await caller.get(f"/jobs?limit=2{cursor}")).json()
            seen += [job["job_id"] for job in page["jobs"]]
            if page["next_cursor"] is None:
                break
            cursor = f"&cursor={page['next_cursor']}"
            await submit(caller)
            await caller.get(f"/jobs/{made[-1]}", method="DELETE")
        assert seen == made[::-1]

    async def test_filters(self, caller, worker) -> None:
        await worker.publish("gpu1", "m:latest", "other:latest")
        first = await submit(caller)
        await caller.get(f"/jobs/{first}", method="DELETE")
        second = await submit(caller, endpoint="/api/generate", prompt="x")
        third = await submit(caller, model="other")

        async def found(query: str) -> list[str]:
            reply = await caller.get(f"/jobs?{query}")
            assert reply.status == 200, reply.body
            return [job["job_id"] for job in reply.json()["jobs"]]

        assert await found("") == [third, second, first]
        assert await found("state=queued") == [third, second]
        assert await found("state=queued,cancelled&limit=1") == [third]
        assert await found("state=cancelled&state=done") == [first]
        assert await found("model=m") == [second, first]
        assert await found("model=m:latest&state=queued") == [second]
        assert await found("endpoint=/api/generate") == [second]
        assert await found("surface=sync") == []
        assert await found("model=m&state=&endpoint=&limit=&cursor=") == [second, first]

    @pytest.mark.parametrize("query", ["state=finished", "limit=0", "limit=x", "limit=%C2%B2", "cursor=x", "surface=x"])
    async def test_a_wrong_parameter_is_named(self, caller, query: str) -> None:
        assert query.partition("=")[0] in error(await caller.get(f"/jobs?{query}"), 422)


class TestPagesAndPaths:
    async def test_only_trusted_pages_change_anything(self, open_gateway, worker, dial) -> None:
        caller = await dial(await open_gateway(origins="https://jobs.example.com"))
        job_id = await submit(caller)
        for origin in ("http://localhost:3000", "app://x"):  # Ollama's own list lets these chat
            assert "FOREMAN_ORIGINS" in error(await caller.post("/jobs", CHAT, Origin=origin), 403, "forbidden")
            error(await caller.get(f"/jobs/{job_id}", method="DELETE", Origin=origin), 403, "forbidden")
            assert (await caller.get("/jobs", Origin=origin)).status == 200
        assert (await caller.post("/jobs", CHAT, Origin="https://jobs.example.com")).status == 202
        assert (await caller.post("/jobs", CHAT, Origin=f"http://{caller.host}")).status == 202
        assert "FOREMAN_ORIGINS" in error(
            await caller.post("/jobs", CHAT, Origin="https://evil.example"), 403, "forbidden"
        )
        assert (await caller.get("/jobs", method="OPTIONS", Origin="https://evil.example")).body == b""
        caller.host = "rebound.evil.example"
        assert "Host" in error(await caller.get("/jobs"), 403, "forbidden")

    async def test_unknown_paths_and_methods(self, caller) -> None:
        error(await caller.get("/jobs/a/b/c"), 404)
        reply = await caller.get("/jobs", method="PUT")
        error(reply, 405)
        assert set(reply.header("Allow").split(", ")) == {"GET", "HEAD", "POST"}
        assert (await caller.get("/jobs/")).header("Location") == "/jobs"


class TestStoreAway:
    @pytest.fixture
    async def away(self, store, caller, monkeypatch):
        """The store is gone after a first job was submitted; that job's id."""
        job_id = await submit(caller)

        async def refuse(*_args):
            raise StoreUnavailableError("The store is away.")

        monkeypatch.setattr(store.queue._connection, "command", refuse)
        monkeypatch.setattr(store.queue._connection, "script", refuse)
        return job_id

    async def test_every_call_says_so(self, caller, away) -> None:
        for method, path in [
            ("GET", "/jobs"),
            *(("GET", f"/jobs/{away}{rest}") for rest in ("", "?wait=5", "/request", "/events", "/deliveries")),
            *(("GET", f"/jobs/{away}/artifacts/completion"), ("DELETE", f"/jobs/{away}")),
        ]:
            reply = await caller.get(path, method=method)
            error(reply, 503, "store_unavailable")
            assert reply.header("Retry-After") == "1"
        for path in ("/jobs", f"/jobs/{away}/retry", f"/deliveries/evt_{away}_1/redeliver"):
            error(await caller.post(path, CHAT), 503, "store_unavailable")

    async def test_every_line_of_a_batch_says_so(self, caller, away) -> None:
        reply = await caller.post("/jobs/batch", (dump(CHAT) + b"\n") * 20)
        codes = [json.loads(line)["error"]["code"] for line in reply.body.splitlines()]
        assert codes == ["store_unavailable"] * 20

    async def test_a_reply_that_got_lost_makes_no_second_job(self, caller, store, monkeypatch) -> None:
        queue_submit, lost = store.queue.submit, []

        async def once(new):
            found = await queue_submit(new)
            if not lost:
                lost.append(new.id)
                raise StoreUnavailableError("The connection was lost.")
            return found

        monkeypatch.setattr(store.queue, "submit", once)
        assert await submit(caller) == lost[0]
        assert (await store.queue.counts()).queued == 1


class TestWho:
    TOKENS = "webui=tok1?priority=high,n8n=tok2?priority=low"

    @pytest.fixture
    async def guarded(self, open_gateway, worker, dial):
        gateway = await open_gateway(token="boss", tokens=self.TOKENS, read_token="look")
        return await dial(gateway)

    @staticmethod
    def as_(token: str) -> dict[str, str]:
        return {"Authorization": f"Bearer {token}"}

    async def test_nobody(self, guarded) -> None:
        error(await guarded.post("/jobs", CHAT), 401, "unauthorized")
        error(await guarded.get("/jobs"), 401, "unauthorized")

    async def test_each_sees_its_own_and_the_operator_all(self, guarded) -> None:
        mine = await submit(guarded, self.as_("tok1"))
        theirs = await submit(guarded, self.as_("tok2"), priority="high")
        bosss = await submit(guarded, self.as_("boss"))

        async def listed(token: str) -> list[str]:
            return [job["job_id"] for job in (await guarded.get("/jobs", **self.as_(token))).json()["jobs"]]

        assert await listed("tok1") == [mine]
        assert await listed("tok2") == [theirs]
        assert await listed("boss") == await listed("look") == [bosss, theirs, mine]
        seen = await show(guarded, theirs, **self.as_("tok2"))
        assert (seen["caller"], seen["priority"]) == ("n8n", "low"), "its ceiling"
        assert (await show(guarded, mine, **self.as_("boss")))["caller"] == "webui"
        assert (await show(guarded, mine, **self.as_("tok1")))["priority"] == "high", "its default"
        for path in ("", "/request", "/events"):
            error(await guarded.get(f"/jobs/{mine}{path}", **self.as_("tok2")), 404)
        error(await guarded.get(f"/jobs/{mine}", method="DELETE", **self.as_("tok2")), 404)
        error(await guarded.post(f"/jobs/{mine}/retry", b"", **self.as_("tok2")), 404)
        assert (await guarded.get(f"/jobs/{mine}", method="DELETE", **self.as_("boss"))).status == 200
        again = (await guarded.post(f"/jobs/{mine}/retry", b"", **self.as_("boss"))).json()["job_id"]
        assert await listed("tok1") == [again, mine], "the operator's retry is still its owner's job"

    async def test_a_reader_looks_and_no_more(self, guarded) -> None:
        job_id = await submit(guarded, self.as_("boss"))
        look = self.as_("look")
        assert (await show(guarded, job_id, **look))["state"] == "queued"
        assert (await guarded.get(f"/jobs/{job_id}/events", **look)).status == 200
        error(await guarded.get(f"/jobs/{job_id}/request", **look), 403, "forbidden")
        error(await guarded.post("/jobs", CHAT, **look), 403, "forbidden")
        error(await guarded.get(f"/jobs/{job_id}", method="DELETE", **look), 403, "forbidden")
