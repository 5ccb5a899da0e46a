"""The browsers' client, run by Node against the scripted gateway of test_client_chat: it does what the Python one does."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from tests.client.test_client_chat import BODY, CUT, EVENTS, HOLD, LOST, TEXT, WORDS, Gateway, Reply, served
from tests.needs import ROOT, needs

pytestmark = needs("node")

GONE = Reply((b"{}",), 404, None)
THOUGHT = b'data: {"message":{"content":"","thinking":"hm"},"done":false}\n\n'
WAITS = b": queued position=2 eta=3s\n: loading elapsed=1s\n: working elapsed=2s\n"


async def chat(*gateways: Gateway, **options: Any) -> dict[str, Any]:
    """What came of one chat."""
    process = await asyncio.create_subprocess_exec(
        *("node", str(ROOT / "tests" / "client" / "node" / "chat.mjs")),
        str(ROOT / "foreman" / "web" / "dashboard" / "foreman-client.js"),
        json.dumps({"url": [gateway.url for gateway in gateways], **options}),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await asyncio.wait_for(process.communicate(), 50)
    assert process.returncode == 0, err.decode()
    found: dict[str, Any] = json.loads(out)
    return found


async def test_waiting_thinking_and_answering():
    async with served(Reply((WAITS[:20], WAITS[20:], THOUGHT, BODY))) as gateway:
        found = await chat(gateway)
    assert found["text"] == TEXT
    assert found["states"] == ["sent", "queued", "loading", "working", "thinking", "answering", "done"]
    assert gateway.keys == [None], "a page's job ends with its connection"


async def test_a_lost_connection_is_resumed_at_the_next_gateway():
    async with (
        served(Reply((EVENTS[0], EVENTS[1][:9], CUT))) as dead,
        served(Reply((BODY[len(EVENTS[0]) :],))) as living,
    ):
        found = await chat(dead, living, key="k")
    assert (found["text"], found["chunks"]) == (TEXT, 5)
    assert living.asked == [("GET", f"/jobs/01J/stream?offset={len(EVENTS[0])}")]


async def test_where_nothing_is_left_the_same_key_reads_over_what_it_had():
    async with served(Reply((*EVENTS[:2], CUT)), GONE, Reply()) as gateway:
        found = await chat(gateway, key="k")
    assert (found["text"], found["chunks"]) == (TEXT, 5)
    assert gateway.keys == ["k", None, "k"]


async def test_a_lost_run_begins_anew_or_is_an_error():
    async with served(Reply((*EVENTS[:2], LOST)), Reply(job="01K")) as gateway:
        found = await chat(gateway, key="k", restart=True)
    assert (found["text"], found["restarts"], found["error"]) == (TEXT, 1, None)
    async with served(Reply((*EVENTS[:2], LOST)), Reply(job="01K")) as gateway:
        found = await chat(gateway, key="k")
    assert found["text"] == WORDS[0] + WORDS[1]
    assert (found["error"]["code"], found["error"]["retryable"]) == ("interrupted", True)
    assert gateway.asked[1:] == [("POST", "/api/chat"), ("DELETE", "/jobs/01K")]


async def test_without_a_key_a_broken_answer_is_an_error():
    async with served(Reply((EVENTS[0], CUT))) as gateway:
        found = await chat(gateway)
    assert found["error"]["retryable"]
    assert gateway.asked == [("POST", "/api/chat")]


async def test_refusals():
    unknown = Reply((b'{"error":"model \'m\' not found"}',), 404, None, {"X-Foreman-Error": "model_not_found"})
    async with served(unknown) as gateway:
        found = await chat(gateway)
    error = {"message": "model 'm' not found", "code": "model_not_found", "status": 404, "retryable": False}
    assert found["error"] == error
    busy = Reply((b'{"error":"busy"}',), 503, None, {"X-Foreman-Error": "queue_full", "Retry-After": "0"})
    async with served(busy, busy, Reply()) as gateway:
        assert (await chat(gateway))["text"] == TEXT


async def test_stop_and_leaving_cancel():
    for how in ("stopAfter", "leaveAfter"):
        async with served(Reply((*EVENTS[:2], HOLD))) as gateway:
            found = await chat(gateway, key="k", **{how: 2})
            assert gateway.asked == [("POST", "/api/chat"), ("DELETE", "/jobs/01J")]
        assert found["text"] == WORDS[0] + WORDS[1]
        assert (found["error"] or {}).get("code") == ("cancelled" if how == "stopAfter" else None)


async def test_stop_before_the_job_is_known_cancels_by_the_same_key():
    async with served(Reply((WAITS, HOLD), job=None), Reply()) as gateway:
        found = await chat(gateway, key="k", stopWhen="queued")
        assert [method for method, _ in gateway.asked] == ["POST", "POST", "DELETE"]
        assert gateway.keys[:2] == ["k", "k"]
    assert found["error"]["code"] == "cancelled"
    async with served(Reply((WAITS, HOLD), job=None)) as gateway:
        await chat(gateway, stopWhen="queued")
        assert [method for method, _ in gateway.asked] == ["POST"]
    async with served(Reply()) as gateway:
        await chat(gateway, key="k", stopWhen="sent")
        assert gateway.asked == []


async def test_an_error_without_a_code_is_looked_up():
    broken = b'event: error\ndata: {"type":"error","error":{"type":"api_error","message":"boom"}}\n\n'
    job = json.dumps({"error": {"code": "upstream_error", "message": "boom", "retryable": False}}).encode()
    async with served(Reply((broken,)), Reply((job,), job=None)) as gateway:
        found = await chat(gateway, path="/v1/messages")
    assert found["error"] == {"message": "boom", "code": "upstream_error", "status": None, "retryable": False}
