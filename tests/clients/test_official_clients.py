"""The official Ollama and OpenAI clients, Python and JavaScript, in front of foreman: the answers they get straight from
the model server, also while every call first waits three heartbeats in the queue."""

from __future__ import annotations

import asyncio
import functools
import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import aiohttp
import ollama
import openai
import pytest
import pytest_asyncio

from foreman.demo.ollama import FakeOllama
from tests.clients.cases import ASK, CHAT, EMBED, OLLAMA, OPENAI, Case, settled
from tests.needs import needs
from tests.rig import House, rig
from tests.tap import Tap

pytestmark = pytest.mark.asyncio(loop_scope="module")

HERE = Path(__file__).parent
MODES = ("one", "apart")


EARLY = {"headers_after": "100ms", "heartbeat": "100ms", "json_headers_after": "100ms"}


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=MODES)
async def pair(request, tmp_path_factory):
    """A model server, and a foreman with its default patience in front of it."""
    async with (
        FakeOllama(models=["alpha", "beta", "embedder"]) as fake,
        rig(tmp_path_factory.mktemp("clients"), f"main={fake.url}", request.param, models=3) as house,
    ):
        yield fake, house


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=MODES)
async def early(request, tmp_path_factory):
    """The same with heartbeats that begin soon, for callers that are made to wait."""
    async with (
        FakeOllama(models=["alpha", "beta", "embedder"]) as fake,
        rig(tmp_path_factory.mktemp("early"), f"main={fake.url}", request.param, models=3, **EARLY) as house,
    ):
        yield fake, house


def plain(value: Any) -> Any:
    """A client's own objects as JSON values."""
    if hasattr(value, "model_dump"):
        return value.model_dump(mode="json", exclude_none=True)
    return value


async def collect(call: Any, *, stream: bool) -> dict[str, Any]:
    """What an async call gives: its items, or its error."""
    try:
        answer = await call
        items = [plain(item) async for item in answer] if stream else [plain(answer)]
    except (ollama.ResponseError, openai.APIError) as error:
        return {"error": {"message": str(error), "status": getattr(error, "status_code", None)}}
    return {"items": items}


def method_of(client: Any, path: str) -> Any:
    """`client.chat.completions.create` for "chat.completions.create"."""
    return functools.reduce(getattr, path.split("."), client)


async def all_at_once(client: Any, cases: dict[str, Case]) -> dict[str, Any]:
    """Every case, concurrently, through one async client."""
    calls = {
        name: collect(method_of(client, method)(**args), stream=args.get("stream", False))
        for name, (method, args) in cases.items()
    }
    return dict(zip(calls, await asyncio.gather(*calls.values()), strict=True))


async def ollama_async(url: str, cases: dict[str, Case]) -> dict[str, Any]:
    client = ollama.AsyncClient(host=url)
    async with client._client:
        return await all_at_once(client, cases)


async def ollama_sync(url: str, cases: dict[str, Case]) -> dict[str, Any]:
    client = ollama.Client(host=url)

    def one(method: str, args: dict[str, Any]) -> dict[str, Any]:
        try:
            answer = method_of(client, method)(**args)
            return {"items": [plain(item) for item in answer] if args.get("stream") else [plain(answer)]}
        except ollama.ResponseError as error:
            return {"error": {"message": str(error), "status": error.status_code}}

    loop = asyncio.get_running_loop()
    with client._client, ThreadPoolExecutor(len(cases)) as threads:
        answers = await asyncio.gather(*(loop.run_in_executor(threads, one, *case) for case in cases.values()))
    return dict(zip(cases, answers, strict=True))


async def openai_async(url: str, cases: dict[str, Case]) -> dict[str, Any]:
    async with openai.AsyncOpenAI(base_url=url + "/v1", api_key="none", max_retries=0) as client:
        return await all_at_once(client, cases)


async def node(kind: str, url: str, cases: dict[str, Case]) -> dict[str, Any]:
    modules = needs.path("node-clients")
    file = Path(os.environ.get("TMPDIR", "/tmp"), f"foreman-cases-{os.getpid()}-{kind}.json")
    args = {
        name: [method, {"stream": False, **given} if kind == "ollama" else given]
        for name, (method, given) in cases.items()
    }
    file.write_text(json.dumps(args))
    process = await asyncio.create_subprocess_exec(
        *("node", str(HERE / "node" / "call.mjs"), kind, url, str(file), "concurrent"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "FOREMAN_TEST_NODE_MODULES": str(modules)},
    )
    out, err = await asyncio.wait_for(process.communicate(), 60)
    file.unlink()
    assert process.returncode == 0, err.decode()
    return json.loads(out.splitlines()[-1])  # the clients print remarks of their own before it


CLIENTS = {
    "ollama-python-async": (ollama_async, OLLAMA),
    "ollama-python-sync": (ollama_sync, OLLAMA),
    "ollama-js": (functools.partial(node, "ollama"), OLLAMA),
    "openai-python": (openai_async, OPENAI),
    "openai-js": (functools.partial(node, "openai"), OPENAI),
}
EACH_CLIENT = pytest.mark.parametrize(
    "client", [pytest.param(name, marks=needs("node-clients")) if name.endswith("-js") else name for name in CLIENTS]
)
"""Skipped before a test has begun: what it had prepared at the model server would meet the next one."""


@EACH_CLIENT
async def test_answers_are_those_of_the_model_server(pair: tuple[FakeOllama, House], client: str) -> None:
    fake, house = pair
    run, cases = CLIENTS[client]
    direct = settled(await run(fake.url, cases))
    through = settled(await run(house.url, cases))
    assert through == direct
    assert any("items" in answer for answer in direct.values())


WAITING = {
    api: {
        name: case
        for name, case in cases.items()
        if not name.startswith(("show", "unknown", "no-messages", "embed", "wrong-kind", "unload"))
    }
    for api, cases in (("ollama", OLLAMA), ("openai", OPENAI))
}
"""Calls that queue in the lane and so can be made to wait there."""


@EACH_CLIENT
async def test_answers_after_three_heartbeats_in_the_queue(early: tuple[FakeOllama, House], client: str) -> None:
    fake, house = early
    run, _ = CLIENTS[client]
    waiting = WAITING[client.split("-", maxsplit=1)[0]]
    direct = settled(await run(fake.url, waiting))
    async with Tap(house.url) as tap, aiohttp.ClientSession() as session:
        gate = fake.gate(after=1)
        async with session.post(house.url + "/api/chat", json={"model": CHAT, "messages": ASK}) as holder:
            await holder.content.readany()
            async with asyncio.TaskGroup() as group:
                call = group.create_task(run(tap.url, waiting))
                await tap.until(lambda wires: len([w for w in wires if beats(w) >= 3]) >= len(waiting), timeout=60)
                gate.open()
            await holder.read()
    assert settled(call.result()) == direct


def beats(wire: bytes) -> int:
    """Heartbeats in an answer so far: spaces of NDJSON and JSON, comments of SSE."""
    body = wire.partition(b"\r\n\r\n")[2]
    return (
        body.count(b"\r\n \r\n")
        + body.count(b": queued")
        + body.count(b": waiting")
        + body.count(b": loading")
        + body.count(b": working")
    )


@pytest.mark.parametrize("kind", ["error-line", "reset-mid", "clean-end"])
@EACH_CLIENT
async def test_an_error_after_the_first_byte_reaches_the_program(
    pair: tuple[FakeOllama, House], client: str, kind: str
) -> None:
    """Also where the model server's own end would have passed for a whole answer."""
    fake, house = pair
    run, cases = CLIENTS[client]
    names = [name for name in ("chat-stream", "generate-stream", "completion-stream") if name in cases]
    for name in names:
        fake.fault(kind, after=2)
        answer = (await run(house.url, {name: cases[name]}))[name]
        assert "error" in answer, (name, answer)
        assert answer["error"]["message"]


async def test_curl_shows_tokens_as_they_come(pair: tuple[FakeOllama, House]) -> None:
    fake, house = pair
    curl = needs.path("curl")
    gate = fake.gate(after=2)
    process = await asyncio.create_subprocess_exec(
        *(curl, "-sN", house.url + "/api/chat", "-d", json.dumps({"model": CHAT, "messages": ASK})),
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout
    first = [json.loads(await asyncio.wait_for(process.stdout.readline(), 20)) for _ in range(2)]
    assert [line["done"] for line in first] == [False, False]
    gate.open()
    rest = [json.loads(line) for line in (await process.stdout.read()).splitlines()]
    assert rest[-1]["done"] is True
    await process.wait()


async def test_embeddings_run_beside_a_stream(pair: tuple[FakeOllama, House]) -> None:
    fake, house = pair
    gate = fake.gate(after=1)
    client = ollama.AsyncClient(host=house.url)
    async with (
        client._client,
        aiohttp.ClientSession() as session,
        session.post(house.url + "/api/chat", json={"model": CHAT, "messages": ASK}) as holder,
    ):
        await holder.content.readany()
        answer = await asyncio.wait_for(client.embed(model=EMBED, input="x"), 20)
        assert len(answer.embeddings) == 1
        gate.open()
        await holder.read()
