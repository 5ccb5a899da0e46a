"""The fake in use: answers by capability and dialect, its own wishes, the plain /v1 kind, its process and its remote control."""

from __future__ import annotations

import asyncio
import base64
import json
import sys

import aiohttp
import pytest

from foreman.demo import ledger
from foreman.demo.golang import timestamp
from foreman.demo.ollama import FakeOllama, Seen, model
from tests.demo.calls import begin, chat, lines, post, ps
from tests.exchange import exchange

TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {"type": "object", "properties": {"town": {"type": "string"}, "days": {"type": "integer"}}},
    },
}


@pytest.fixture
async def fake():
    async with FakeOllama(["alpha", "beta", "embedder"], tokens=8) as fake:
        yield fake


def _events(body: bytes) -> list[dict]:
    return [json.loads(line[6:]) for line in body.decode().splitlines() if line.startswith("data: {")]


async def test_the_same_question_gets_the_same_answer(fake: FakeOllama):
    texts = [
        "".join(line["message"]["content"] for line in lines(await post(fake, "/api/chat", chat("alpha", text))))
        for text in ("one", "one", "two")
    ]
    assert texts[0] == texts[1] != texts[2]
    whole = json.loads((await post(fake, "/api/chat", chat("alpha", "one", stream=False))).body)
    assert whole["message"]["content"] == texts[0]
    assert whole["eval_count"] == 8


@pytest.mark.parametrize("path", ["/api/chat", "/v1/chat/completions", "/v1/messages"])
async def test_half_a_surrogate_is_a_question_too(fake: FakeOllama, path: str):
    answer = await post(fake, path, chat("alpha", "a\udcffb", stream=False, max_tokens=8))
    assert answer.status == 200


async def test_length_and_stop_sequences(fake: FakeOllama):
    short = lines(await post(fake, "/api/chat", chat("alpha", options={"num_predict": 3})))
    assert (len(short), short[-1]["done_reason"], short[-1]["eval_count"]) == (4, "length", 3)
    words = json.loads((await post(fake, "/api/generate", {"model": "alpha", "prompt": "x", "stream": False})).body)
    second = words["response"].split()[1]
    stopped = {"model": "alpha", "prompt": "x", "stream": False, "options": {"stop": [f" {second}"]}}
    answer = json.loads((await post(fake, "/api/generate", stopped)).body)
    assert answer["response"] == words["response"].split()[0]
    assert answer["done_reason"] == "stop"


async def test_tools_are_called_once(fake: FakeOllama):
    answer = lines(await post(fake, "/api/chat", chat("alpha", tools=[TOOL])))
    (call,) = answer[0]["message"]["tool_calls"]
    assert call["function"]["name"] == "weather"
    assert set(call["function"]["arguments"]) == {"town", "days"}
    messages = [{"role": "user", "content": "?"}, answer[0]["message"], {"role": "tool", "content": "rain"}]
    after = lines(await post(fake, "/api/chat", {"model": "alpha", "messages": messages, "tools": [TOOL]}))
    assert "tool_calls" not in after[0]["message"]
    assert after[0]["message"]["content"]
    streamed = await post(fake, "/v1/chat/completions", chat("alpha", tools=[TOOL], stream=True))
    choices = [event["choices"][0] for event in _events(streamed.body)]
    assert json.loads(choices[0]["delta"]["tool_calls"][0]["function"]["arguments"])["days"] == 42
    assert choices[-1]["finish_reason"] == "tool_calls"
    response = json.loads(
        (
            await post(
                fake,
                "/v1/responses",
                {"model": "alpha", "input": "?", "tools": [{"type": "function", **TOOL["function"]}]},
            )
        ).body
    )
    assert response["output"][0]["type"] == "function_call"
    tool = {"name": "weather", "input_schema": TOOL["function"]["parameters"]}
    message = json.loads((await post(fake, "/v1/messages", chat("alpha", tools=[tool], max_tokens=50))).body)
    assert (message["content"][0]["type"], message["stop_reason"]) == ("tool_use", "tool_use")


async def test_thinking_has_its_own_place(fake: FakeOllama):
    answer = lines(await post(fake, "/api/chat", chat("alpha", think=True)))
    assert "".join(line["message"].get("thinking", "") for line in answer) == "Let me see what is asked."
    assert answer[-2]["message"]["content"]
    generated = json.loads(
        (await post(fake, "/api/generate", {"model": "alpha", "prompt": "x", "think": "low", "stream": False})).body
    )
    assert generated["thinking"]
    openai = json.loads((await post(fake, "/v1/chat/completions", chat("alpha", reasoning_effort="low"))).body)
    assert openai["choices"][0]["message"]["reasoning"]
    events = [
        event["type"]
        for event in _events(
            (
                await post(
                    fake,
                    "/v1/responses",
                    {"model": "alpha", "input": "x", "stream": True, "reasoning": {"effort": "low"}},
                )
            ).body
        )
    ]
    assert "response.reasoning_summary_text.delta" in events
    assert events[-1] == "response.completed"
    thinking = {"type": "enabled", "budget_tokens": 1024}
    blocks = _events(
        (await post(fake, "/v1/messages", chat("alpha", max_tokens=50, stream=True, thinking=thinking))).body
    )
    starts = [event["content_block"]["type"] for event in blocks if event["type"] == "content_block_start"]
    assert starts == ["thinking", "text"]


async def test_a_model_may_think_unasked():
    async with FakeOllama([model("deep", thinks_unasked=True)]) as fake:
        assert "thinking" in lines(await post(fake, "/api/chat", chat("deep")))[0]["message"]
        assert "thinking" not in lines(await post(fake, "/api/chat", chat("deep", think=False)))[0]["message"]


async def test_formats_are_valid_json(fake: FakeOllama):
    schema = {
        "type": "object",
        "properties": {"age": {"type": "integer"}, "tags": {"type": "array", "items": {"enum": ["a"]}}},
    }
    said = json.loads((await post(fake, "/api/chat", chat("alpha", format=schema, stream=False))).body)
    assert json.loads(said["message"]["content"]) == {"age": 42, "tags": ["a"]}
    streamed = lines(await post(fake, "/api/generate", {"model": "alpha", "prompt": "x", "format": "json"}))
    assert json.loads("".join(line["response"] for line in streamed))


async def test_embeddings_are_steady_and_of_length_one(fake: FakeOllama):
    body = {"model": "embedder", "input": ["one", "two", "one"], "dimensions": 8}
    vectors = json.loads((await post(fake, "/api/embed", body)).body)["embeddings"]
    assert vectors[0] == vectors[2] != vectors[1]
    assert sum(number * number for number in vectors[0]) == pytest.approx(1.0, abs=1e-5)
    coded = json.loads((await post(fake, "/v1/embeddings", {**body, "encoding_format": "base64"})).body)
    assert len(base64.b64decode(coded["data"][0]["embedding"])) == 8 * 4
    refused = await post(fake, "/api/chat", chat("embedder"))
    assert json.loads(refused.body) == {"error": '"embedder" does not support chat'}


async def test_a_request_may_say_how_it_wants_to_be_answered(fake: FakeOllama):
    wishes = {"tokens": 3}
    for path in ("/api/chat", "/v1/chat/completions", "/v1/messages"):
        answer = await post(fake, path, chat("alpha", fake=wishes, max_tokens=50))
        assert answer.status == 200
    assert fake.tokens == 9


async def test_repeatable_answers_are_equal_byte_for_byte():
    async with FakeOllama(["alpha"], tokens=5, repeatable=True) as fake:
        for path in (
            "/api/chat",
            "/api/generate",
            "/v1/chat/completions",
            "/v1/completions",
            "/v1/responses",
            "/v1/messages",
        ):
            body = chat("alpha", prompt="x", input="x", stream=True, max_tokens=9)
            assert (await post(fake, path, body)).chunks == (await post(fake, path, body)).chunks


@pytest.mark.parametrize("stream", [False, True])
async def test_responses_without_input_load_the_model_and_say_nothing(fake: FakeOllama, stream):
    reply = await post(fake, "/v1/responses", {"model": "beta", "stream": stream})
    assert reply.status == 200
    said = _events(reply.body)[-1]["response"] if stream else json.loads(reply.body)
    assert (said["status"], said["output"][0]["content"][0]["text"]) == ("completed", "")
    assert fake.residents == ["beta:latest"]


@pytest.mark.parametrize("path", ["/api/chat", "/v1/responses", "/v1/messages"])
async def test_fast_streams_say_the_same(path: str):
    slow_fast = []
    for fast in (False, True):
        async with FakeOllama(["alpha"], tokens=40, token_seconds=0.001, fast=fast, repeatable=True) as fake:
            answer = await post(fake, path, chat("alpha", input="x", max_tokens=50, stream=True))
            assert fake.tokens == 40
            slow_fast.append(answer.chunks)
    assert slow_fast[0] == slow_fast[1]


async def test_leaving_a_fast_stream_frees_the_slot():
    async with FakeOllama(["alpha"], tokens=1000, token_seconds=0.01, fast=True) as fake:
        call = await begin(fake, "/api/chat", chat("alpha"))
        await fake.until(lambda _: call.seen.lines == 1)
        call.leave()
        await fake.until(lambda fake: fake.cancels == 1 and fake.answering == 0)


def test_bodies_are_forgotten_oldest_first(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(ledger, "BODIES_KEPT", 10)
    book = ledger.Ledger()
    seen = [book.saw(Seen(0, 0.0, "POST", "/", [])) for _ in range(3)]
    for number, entry in enumerate(seen):
        book.keep(entry, bytes([65 + number]) * 5)
    assert [entry.body for entry in seen] == [b"", b"BBBBB", b"CCCCC"]
    assert book.body_bytes == 10


async def test_names_of_one_digest_share_a_runner(fake: FakeOllama):
    await post(fake, "/api/copy", {"source": "alpha", "destination": "twin"})
    tags = {
        tag["name"]: tag["digest"] for tag in json.loads((await exchange(fake.url, "GET", "/api/tags")).body)["models"]
    }
    assert tags["twin:latest"] == tags["alpha:latest"] != tags["beta:latest"]
    await post(fake, "/api/generate", {"model": "alpha"})
    await post(fake, "/api/chat", chat("twin"))
    assert [load.model for load in fake.loads] == ["alpha:latest"]
    assert [entry["name"] for entry in await ps(fake)] == ["alpha:latest"]
    await post(fake, "/api/generate", {"model": "twin", "keep_alive": 0})
    assert await ps(fake) == []


async def test_management_changes_the_catalogue(fake: FakeOllama):
    pulled = lines(await post(fake, "/api/pull", {"model": "new:1b"}))
    assert pulled[0] == {"status": "pulling manifest"}
    assert pulled[-1] == {"status": "success"}
    assert any(line.get("completed") == line.get("total") for line in pulled[1:-1])
    whole = await post(fake, "/api/pull", {"model": "newer", "stream": False})
    assert json.loads(whole.body) == {"status": "success"}
    assert (
        lines(await post(fake, "/api/create", {"model": "mine", "from": "alpha", "system": "Be brief."}))[-1]["status"]
        == "success"
    )
    neither = await post(fake, "/api/create", {"model": "mine"})
    assert (neither.status, neither.header("content-type")) == (400, "application/json")
    names = {entry.name for entry in fake.catalogue}
    assert {"new:1b", "newer:latest", "mine:latest"} < names
    gone = await exchange(fake.url, "DELETE", "/api/delete", b'{"model":"mine"}')
    assert (gone.status, gone.body) == (200, b"")
    assert (await post(fake, "/api/chat", chat("mine"))).status == 404
    digest = "sha256:" + "0" * 64
    assert (await exchange(fake.url, "HEAD", f"/api/blobs/{digest}")).status == 404
    assert (await exchange(fake.url, "POST", f"/api/blobs/{digest}", b"x")).status == 400
    assert lines(await post(fake, "/api/push", {"model": "alpha"}))[-1]["status"] == "success"


async def test_a_plain_v1_server_has_no_api_and_loads_nothing():
    async with FakeOllama(["alpha", "beta"], kind="openai", load_seconds=60, max_loaded=1, token="secret") as fake:
        assert (await exchange(fake.url, "GET", "/v1/models")).status == 401
        bearer = {"Authorization": "Bearer secret"}
        assert (await exchange(fake.url, "GET", "/api/tags", headers=bearer)).status == 404
        models = json.loads((await exchange(fake.url, "GET", "/v1/models", headers=bearer)).body)
        assert len(models["data"]) == 2
        for name in ("alpha", "beta"):
            body = json.dumps(chat(name)).encode()
            assert (await exchange(fake.url, "POST", "/v1/chat/completions", body, bearer)).status == 200


async def test_one_load_at_a_time_first_come_first_served():
    async with FakeOllama([model("slow", load_seconds=0.05), "alpha", "beta"]) as fake:
        calls = [await begin(fake, "/api/chat", chat(name)) for name in ("slow", "beta", "alpha", "beta")]
        for call in calls:
            assert (await call.answer()).status == 200
        assert [load.model for load in fake.loads] == ["slow:latest", "beta:latest", "alpha:latest"]


async def test_a_caller_that_leaves_as_its_load_is_through_hurts_nobody(monkeypatch: pytest.MonkeyPatch):
    async with FakeOllama(["alpha"]) as fake:
        load = fake.engine._load

        async def left_just_then(pending):
            async def through(_model):
                pending.ready.cancel()

            monkeypatch.setattr(fake.engine, "_read_weights", through)
            await load(pending)
            monkeypatch.undo()

        monkeypatch.setattr(fake.engine, "_load", left_just_then)
        left = await begin(fake, "/api/chat", chat("alpha"))
        assert (await post(fake, "/api/chat", chat("alpha"))).status == 200
        assert fake.ledger.loads_stopped == 1
        left.leave()


async def test_the_idle_with_the_shortest_stay_goes_first():
    async with FakeOllama(["alpha", "beta", "gamma"], max_loaded=2) as fake:
        await post(fake, "/api/generate", {"model": "alpha", "keep_alive": "1h"})
        await post(fake, "/api/generate", {"model": "beta", "keep_alive": "1m"})
        await post(fake, "/api/generate", {"model": "alpha"})
        await post(fake, "/api/generate", {"model": "gamma", "keep_alive": -1})
        assert fake.residents == ["gamma:latest", "alpha:latest"]
        await post(fake, "/api/generate", {"model": "beta"})
        assert fake.residents == ["gamma:latest", "beta:latest"]


async def test_the_shortest_stay_is_not_the_earliest_expiry():
    async with FakeOllama(["alpha", "beta", "gamma"], max_loaded=2) as fake:
        await post(fake, "/api/generate", {"model": "alpha", "keep_alive": "100.000001s"})
        await post(fake, "/api/generate", {"model": "beta", "keep_alive": "100s"})
        assert fake.residents == ["beta:latest", "alpha:latest"], "used later, so it expires later"
        await post(fake, "/api/generate", {"model": "gamma"})
        assert "alpha:latest" in fake.residents


async def test_embedding_models_have_one_slot():
    async with FakeOllama(["embedder"], slots=4) as fake:
        gate = fake.gate()
        first = await begin(fake, "/api/embed", {"model": "embedder", "input": "x"})
        await gate.reached()
        second = await begin(fake, "/api/embed", {"model": "embedder", "input": "x"})
        assert second.seen.phase == "waiting"
        await gate.release()
        for call in (first, second):
            assert (await call.answer()).status == 200


async def test_bodies_are_measured_up_to_two_kib():
    async with FakeOllama(["alpha"]) as fake:
        framings = {}
        for tokens in range(300, 420, 5):
            answer = await post(fake, "/api/chat", chat("alpha", stream=False, fake={"tokens": tokens}))
            framings[len(answer.body)] = answer.framing
        assert framings == {size: "length" if size <= 2048 else "chunked" for size in framings}
        assert set(framings.values()) == {"length", "chunked"}


async def test_an_answer_that_fills_its_limit_ends_by_length(fake: FakeOllama):
    for limit, reason in ((7, "length"), (8, "length"), (9, "stop")):
        answer = lines(await post(fake, "/api/chat", chat("alpha", options={"num_predict": limit})))
        assert answer[-1]["done_reason"] == reason


@pytest.mark.parametrize(
    ("nanoseconds", "text"),
    [(0, "1970-01-01T00:00:00Z"), (1_500_000_000, "1970-01-01T00:00:01.5Z"), (1, "1970-01-01T00:00:00.000000001Z")],
)
def test_moments_are_written_as_go_writes_them(nanoseconds: int, text: str):
    assert timestamp(nanoseconds) == text


async def test_a_slow_unload_is_listed_until_it_is_over():
    async with FakeOllama(["alpha"], unload_seconds=0.1) as fake:
        await post(fake, "/api/generate", {"model": "alpha"})
        await post(fake, "/api/generate", {"model": "alpha", "keep_alive": 0})
        assert len(await ps(fake)) == 1
        assert (await post(fake, "/api/chat", chat("alpha"))).status == 200
        assert len(fake.loads) == 2


async def test_as_a_process_with_remote_control():
    process = await asyncio.create_subprocess_exec(
        *(
            sys.executable,
            "-m",
            "foreman.demo.ollama",
            "--models",
            "one,two",
            "--tokens",
            "4",
            "--load-seconds",
            "0.01",
        ),
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout
    try:
        word, url = (await asyncio.wait_for(process.stdout.readline(), 20)).split()
        assert word == b"READY"
        async with aiohttp.ClientSession(url.decode()) as session:

            async def tell(path: str, **body):
                async with session.post(f"/_fake/{path}", json=body) as reply:
                    assert reply.status == 200
                    return await reply.json()

            await tell("pace", tokens=6)
            await tell("faults", kind="status", status=418, words="no coffee")
            async with session.post("/api/chat", json=chat("one")) as reply:
                assert (reply.status, await reply.json()) == (418, {"error": "no coffee"})
            await tell("gates", after=2)
            async with session.post("/api/chat", json=chat("one")) as reply:
                assert await reply.content.readline()
                assert await reply.content.readline()
                async with session.get("/_fake/state") as state:
                    told = await state.json()
                assert (told["standing"], told["residents"], told["answering"]) == (1, ["one:latest"], 1)
                assert told["seen"][-1]["lines"] == 2
                await tell("gates/release")
                assert len((await reply.read()).splitlines()) == 5
            await tell("clear")
            async with session.get("/_fake/state") as state:
                assert (await state.json())["requests"] == 0
    finally:
        process.terminate()
        assert await asyncio.wait_for(process.wait(), 20) == 0
