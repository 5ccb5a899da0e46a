"""Story: go-llm, the client foreman was made for, spoken to byte for byte as its scanner reads.

It sends `stream` always, `think` and `options` raw, no `keep_alive`, a bearer only with a key; it reads lines of at most
4 MiB, parses every one, and takes the whole body of a status ≥ 300 into its error.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from foreman.demo.ollama import FakeOllama
from tests.clients.cases import TOOLS
from tests.exchange import exchange
from tests.rig import rig

MAX_LINE = 4 * 1024 * 1024


def scan(body: bytes) -> list[Any]:
    """What bufio.Scanner and json.Unmarshal make of a stream: every line must parse, blank ones are an error."""
    lines = body.split(b"\n")
    if lines[-1] == b"":
        lines.pop()
    assert all(len(line) <= MAX_LINE for line in lines)
    return [json.loads(line) for line in lines]


def request(**more: Any) -> bytes:
    body = {"model": "alpha", "messages": [{"role": "user", "content": "Hi"}], "stream": True, "think": False}
    return json.dumps({**body, "options": {"temperature": 0.2}, **more}).encode()


@pytest.mark.parametrize("mode", ["one", "apart"])
async def test_complete_and_stream_also_after_heartbeats_in_the_queue(tmp_path, mode):
    async with (
        FakeOllama(models=["alpha"], tokens=5) as fake,
        rig(tmp_path, f"main={fake.url}", mode, headers_after="100ms", heartbeat="100ms", token="secret") as house,
    ):
        auth = {"Authorization": "Bearer secret", "Content-Type": "application/json"}
        gate = fake.gate(after=0)
        async with asyncio.timeout(60), asyncio.TaskGroup() as group:
            first = group.create_task(exchange(house.url, "POST", "/api/chat", request(), auth))
            await gate.reached()
            waiting = group.create_task(exchange(house.url, "POST", "/api/chat", request(tools=TOOLS), auth))
            complete = group.create_task(exchange(house.url, "POST", "/api/chat", request(stream=False), auth))
            await house.until(lambda state: state["jobs"]["queued"] == 2)
            gate.open()
        for answer in (first.result(), waiting.result()):
            assert answer.status == 200
            assert (answer.header("content-type") or "").startswith("application/x-ndjson")
            chunks = scan(answer.body)
            assert [chunk["done"] for chunk in chunks] == [False] * (len(chunks) - 1) + [True]
            assert chunks[-1]["eval_count"] > 0
        call = next(c for c in scan(waiting.result().body) if c["message"].get("tool_calls"))
        assert isinstance(call["message"]["tool_calls"][0]["function"]["arguments"], dict)
        assert json.loads(complete.result().body)["done"] is True
        sent = json.loads(fake.requests_to("/api/chat")[0].body)
        assert sent.pop("keep_alive") == -1
        assert sent == json.loads(request()), "nothing but keep_alive is added on the way"
        assert fake.requests_to("/api/chat")[0].header("authorization") is None, "our own token stays here"


async def test_what_it_makes_of_errors(tmp_path):
    async with FakeOllama(models=["alpha"]) as fake, rig(tmp_path, f"main={fake.url}", token="secret") as house:
        stranger = await exchange(house.url, "POST", "/api/chat", request())
        assert stranger.status == 401
        assert "error" in json.loads(stranger.body)
        auth = {"Authorization": "Bearer secret"}
        unknown = await exchange(house.url, "POST", "/api/chat", request(model="nobody"), auth)
        assert (unknown.status, json.loads(unknown.body)["error"]) == (404, "model 'nobody' not found")
        fake.fault("reset-mid", after=2)
        cut = await exchange(house.url, "POST", "/api/chat", request(), auth)
        chunks = scan(cut.body)
        assert "error" in chunks[-1], "a cut answer never looks whole"
        assert not any(chunk.get("done") for chunk in chunks)
