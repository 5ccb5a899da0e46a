"""How long is waited for what (contract 4): JSON heads, targets that are down, unknown models, loads that are refused, snails."""

from __future__ import annotations

import asyncio
import json
import time
from typing import TYPE_CHECKING

import pytest
import pytest_asyncio

from foreman.demo.ollama import FakeOllama
from tests.attack.ground import ASK, CHAT, Site, site, until
from tests.exchange import exchange, read_chunk

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

pytestmark = pytest.mark.asyncio(loop_scope="module")
HEAD_WITHIN = 10.0
"""Seconds for a request's head."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def at(tmp_path_factory, valkey) -> AsyncIterator[Site]:
    fake = FakeOllama(models=["alpha", "beta", "embedder"], tokens=4, max_loaded=1)
    async with site(
        tmp_path_factory.mktemp("limits"),
        valkey,
        fake,
        "apart",
        models="3",
        headers_after="300ms",
        json_headers_after="200ms",
        heartbeat="100ms",
        down_wait="1s",
    ) as made:
        await made.alive()
        yield made
        fake.clear()


JSON_CALLS = [
    ("/api/chat", {**CHAT, "stream": False}),
    ("/v1/chat/completions", CHAT),
    ("/v1/messages", {**CHAT, "max_tokens": 5}),
    ("/api/embed", {"model": "embedder", "input": "x"}),
    ("/v1/embeddings", {"model": "embedder", "input": "x"}),
]


@pytest.mark.parametrize(("path", "body"), JSON_CALLS)
async def test_json_gets_its_head_and_a_space_a_heartbeat_where_that_is_set(
    at: Site, path: str, body: dict[str, object]
) -> None:
    gate = at.fake.gate(path=path)
    caller = await at.dial()
    caller.ask(path, body)
    await gate.reached()
    head = await caller.head()
    assert head.status == 200
    assert (head.header("Content-Type") or "").startswith("application/json")
    async with asyncio.timeout(60):
        assert [await read_chunk(caller.reader) for _ in range(3)] == [b" "] * 3
        gate.open()
        said = b""
        while chunk := await read_chunk(caller.reader):
            said += chunk
    assert said.lstrip(b" ")[:1] == b"{"
    json.loads(said)
    await at.settled()


@pytest.mark.parametrize(("path", "body"), JSON_CALLS[:3])
async def test_a_failure_after_the_head_of_json_cuts_the_socket(at: Site, path: str, body: dict[str, object]) -> None:
    gate = at.fake.gate(path=path)
    at.fake.fault("status", path=path, status=500, words="no luck")
    caller = await at.dial()
    caller.ask(path, body)
    await gate.reached()
    assert (await caller.head()).status == 200
    gate.open()
    got = await caller.rest()
    assert b"0\r\n\r\n" not in got, got
    assert b"no luck" not in got
    await at.settled()


async def test_embeddings_that_push_out_the_resident_take_their_turn_and_health_says_so(at: Site) -> None:
    """This target holds one model at a time."""
    for _ in range(2):
        await at.alive()
        answer = await at.post("/api/embed", {"model": "embedder", "input": "x"})
        assert answer.status == 200
    health = await at.house.until(lambda health: health["degraded"], "/healthz")
    assert any("OLLAMA_MAX_LOADED_MODELS" in reason for reason in health["reasons"])
    held = at.fake.gate(path="/api/chat")
    caller = await at.dial()
    caller.ask("/api/chat", CHAT)
    await held.reached()
    behind = await at.dial()
    behind.ask("/api/embed", {"model": "embedder", "input": "x"})
    await at.house.until(lambda state: state["jobs"]["queued"] == 1)
    held.open()
    assert (await caller.answer()).status == 200
    assert (await behind.answer()).status == 200
    await at.settled()


@pytest.mark.parametrize("stream", [True, False])
async def test_a_target_that_stays_down_is_named_after_the_wait(at: Site, stream: bool) -> None:
    await at.fake.stop()
    try:
        began = time.monotonic()
        answer = await at.post("/v1/chat/completions", {**CHAT, "stream": stream}, timeout=20)
        assert time.monotonic() - began > 0.9
        if stream:
            event = answer.body.split(b"\n\n")[-2].splitlines()[-1]
            words = json.loads(event.removeprefix(b"data: "))["error"]["message"]
            assert b": waiting target=main down_for=" in answer.body
        else:
            assert not answer.whole, "it had its head by then"
            words = "main since"
        assert "main" in words
        assert "since" in words
    finally:
        await at.fake.start()
    await at.house.until(lambda state: state["targets"][0]["state"] == "up")
    await at.alive()


async def test_an_unknown_model_is_probed_for_once_and_then_a_404(at: Site) -> None:
    for path, words in (
        ("/api/chat", "model 'newcomer' not found"),
        ("/api/embed", 'model "newcomer" not found, try pulling it first'),
        ("/api/show", "model 'newcomer' not found"),
    ):
        before = len(at.fake.requests_to("/api/tags"))
        answer = await at.post(path, {"model": "newcomer", "messages": ASK, "input": "x"})
        assert (answer.status, json.loads(answer.body)["error"]) == (404, words)
        assert len(at.fake.requests_to("/api/tags")) <= before + 2
    before = len(at.fake.requests_to("/api/tags"))
    await asyncio.gather(*(at.post("/api/chat", {"model": f"herd{n}", "messages": ASK}) for n in range(20)))
    assert len(at.fake.requests_to("/api/tags")) <= before + 3, "at most one probe a second, whoever asks"


async def test_a_model_that_came_by_another_way_is_found(at: Site) -> None:
    copied = await exchange(at.fake.url, "POST", "/api/copy", b'{"source":"alpha","destination":"twin"}')
    assert copied.status == 200
    await at.alive()
    loads = len(at.fake.loads)
    answer = await at.post("/api/chat", {"model": "twin", "messages": ASK, "stream": False})
    async with asyncio.timeout(60):
        while answer.status == 404:  # a look at the target less than a second ago, for somebody else, is not repeated
            answer = await at.post("/api/chat", {"model": "twin", "messages": ASK, "stream": False})
    assert (answer.status, json.loads(answer.body)["model"]) == (200, "twin")
    assert len(at.fake.loads) == loads, "aliases share a runner"
    await exchange(at.fake.url, "DELETE", "/api/delete", b'{"model":"twin"}')


async def test_ps_is_fresh_within_a_second(at: Site) -> None:
    for model in ("alpha", "beta", "alpha"):
        answer = await at.post("/api/chat", {"model": model, "messages": ASK, "stream": False})
        assert answer.status == 200

        def holds(ps: dict[str, list[dict[str, str]]], model: str = model) -> bool:
            return [entry["name"] for entry in ps["models"]] == [f"{model}:latest"]

        await at.house.until(holds, "/api/ps", timeout=10)
    answer = await at.post("/api/generate", {"model": "alpha", "keep_alive": 0})
    assert json.loads(answer.body)["done_reason"] == "unload"
    await at.house.until(lambda ps: ps["models"] == [], "/api/ps", timeout=10)


async def test_a_refused_preload_is_nobodys_answer(at: Site) -> None:
    """The job itself is sent, once; its words stand, and where it works they are an answer."""
    await at.alive()
    at.fake.fault("load-fails", model="beta", times=1, status=500)
    answer = await at.post("/api/chat", {"model": "beta", "messages": ASK, "stream": False})
    assert (answer.status, json.loads(answer.body).get("done")) == (200, True), answer
    await at.alive()
    for _ in range(2):
        at.fake.fault("load-fails", model="beta", times=2, status=500, words="out of memory")
        answer = await at.post("/api/chat", {"model": "beta", "messages": ASK, "stream": False}, timeout=20)
        if answer.status == 200:
            assert not answer.whole, "its head was out"
        else:
            assert (answer.status, json.loads(answer.body)) == (500, {"error": "out of memory"})
    at.fake.clear()
    loads = len(at.fake.loads)
    held = await at.dial()
    held.ask("/api/chat", {"model": "beta", "messages": ASK})
    await at.house.until(lambda state: state["jobs"]["queued"] == 1)
    await at.alive_beside()
    assert all(load.model != "beta:latest" for load in at.fake.loads[loads:]), "its loads are held for 30 s"
    held.close()
    await at.settled()


@pytest.mark.slow
async def test_snails_are_closed_after_ten_seconds(tmp_path_factory, valkey) -> None:
    """Nothing, half a head, a header at a time; a connection between two requests is no snail."""
    async with site(tmp_path_factory.mktemp("snails"), valkey, FakeOllama(models=["alpha"])) as at:
        await outlast(at)


async def outlast(at: Site) -> None:
    """Three snails against foreman's patience."""
    idle = await at.dial()
    idle.ask("/api/version", b"", method="GET")
    assert (await idle.answer()).status == 200
    snails = [await at.dial() for _ in range(3)]
    snails[1].send(b"POST /api/chat HT")
    snails[2].send(b"POST /api/chat HTTP/1.1\r\nHost: %b\r\n" % snails[2].host.encode())
    began = time.monotonic()

    async def drip(end: asyncio.Task[bytes]) -> None:
        sent = 0
        while not end.done():
            sent += 1
            await until(lambda due=began + sent: end.done() or time.monotonic() > due, 45)
            snails[2].send(b"X: y\r\n")

    async with asyncio.timeout(40), asyncio.TaskGroup() as group:
        ends = [group.create_task(snail.rest(40)) for snail in snails]
        group.create_task(drip(ends[2]))
    assert [end.result() for end in ends] == [b"", b"", b""]
    assert time.monotonic() - began > HEAD_WITHIN - 1
    idle.ask("/api/version", b"", method="GET")
    assert (await idle.answer()).status == 200
    assert at.log().count("request.head_too_slow") >= 2, "the first one never said a word"
