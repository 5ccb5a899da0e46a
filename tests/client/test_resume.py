"""Roles apart, two gateways, the one that streams is killed: the client goes on with the other from the byte it had.

In Python and in JavaScript; what came is compared chunk by chunk with the model server's own answer.
"""

from __future__ import annotations

import asyncio
import json
import signal
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
import pytest_asyncio

from foreman.client import Foreman
from foreman.client.reader import Chunk, Reader
from foreman.demo.ollama import FakeOllama
from tests.clients.cases import ASK, CHAT
from tests.needs import ROOT, needs
from tests.rig import House, free_port, rig

if TYPE_CHECKING:
    from foreman.demo.faults import Gate

pytestmark = pytest.mark.asyncio(loop_scope="module")

BODY = {"model": CHAT, "messages": ASK}
DIALECTS: dict[str, dict[str, Any]] = {
    "/api/chat": BODY,
    "/v1/messages": {**BODY, "max_tokens": 500},
}
TOKENS = 40
BEFORE = 7
"""Tokens that are made before the gateway is killed."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def pair(tmp_path_factory):
    folder = tmp_path_factory.mktemp("resume")
    async with (
        FakeOllama(models=["alpha"], tokens=TOKENS, repeatable=True) as fake,
        rig(folder, f"main={fake.url}", "apart") as house,
    ):
        yield fake, house


async def another_gateway(house: House, name: str) -> str:
    """One more gateway of the pool; its URL once it answers."""
    port = free_port()
    other = House(f"http://127.0.0.1:{port}", {**house.env, "FOREMAN_ADDR": f"127.0.0.1:{port}"}, house.folder)
    house.processes[name] = await other.spawn(name, "--role", "gateway")
    await other.until(lambda tags: tags.get("models"), "/api/tags")
    return other.url


async def direct(fake: FakeOllama, path: str) -> list[dict[str, Any]]:
    """The chunks of the model server's own answer."""
    async with (
        aiohttp.ClientSession() as session,
        session.post(fake.url + path, json={**DIALECTS[path], "stream": True}) as reply,
    ):
        reader = Reader(events=reply.content_type == "text/event-stream")
        return [item.value for item in reader.feed(await reply.read()) if isinstance(item, Chunk)]


async def killed_in_mid_stream(house: House, name: str, gate: Gate, arrived: asyncio.Event) -> None:
    """Let some tokens out; kill the gateway once the caller has them; then let out the rest."""
    await gate.reached()
    await gate.release(BEFORE)
    await arrived.wait()
    await house.stop(name, signal.SIGKILL)
    gate.open()


@pytest.mark.parametrize("path", DIALECTS)
async def test_no_byte_is_lost_or_doubled_when_a_gateway_is_killed(pair: tuple[FakeOllama, House], path: str) -> None:
    fake, house = pair
    expected = await direct(fake, path)
    name = f"victim{path.replace('/', '-')}"
    victim = await another_gateway(house, name)
    gate, arrived, chunks = fake.gate(after=1), asyncio.Event(), []
    asked = len(fake.requests_to(path))
    async with asyncio.timeout(50), asyncio.TaskGroup() as group:
        group.create_task(killed_in_mid_stream(house, name, gate, arrived))
        async with Foreman([victim, house.url]) as foreman, foreman.chat(DIALECTS[path], path=path) as chat:
            async for delta in chat:
                chunks.append(delta.chunk)
                if len(chunks) > BEFORE:
                    arrived.set()
    assert chunks == expected
    assert chat.resumed == 1
    assert len(fake.requests_to(path)) == asked + 1, "one run, not two"
    job = await house.get(f"/jobs/{chat.job_id}")
    assert (job["state"], job["attempt"]) == ("done", 1)


@pytest.mark.parametrize("after", [0.0, 0.01, 0.3])
async def test_who_leaves_the_queue_leaves_nothing_in_it(pair: tuple[FakeOllama, House], after: float) -> None:
    """Its job has a key and would live on: before its head has come the same key finds it, afterwards its id."""
    fake, house = pair
    busy = fake.gate(after=1)
    async with Foreman(house.url) as foreman:
        first = foreman.chat(BODY)
        await anext(first)
        await busy.reached()
        asked = len(fake.requests_to("/api/chat"))
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(after):  # the caller's own patience
                await foreman.chat(BODY).whole()
        await house.until(lambda state: state["jobs"]["queued"] == 0)
        busy.open()
        assert len((await first.whole()).texts) > TOKENS
    assert len(fake.requests_to("/api/chat")) == asked


@needs("node")
async def test_the_browsers_client_goes_on_too(pair: tuple[FakeOllama, House]) -> None:
    fake, house = pair
    expected = await direct(fake, "/api/chat")
    victim = await another_gateway(house, "victim-node")
    gate, arrived, lines = fake.gate(after=1), asyncio.Event(), []
    process = await asyncio.create_subprocess_exec(
        *("node", str(ROOT / "tests" / "client" / "node" / "follow.mjs")),
        *(str(ROOT / "foreman" / "web" / "dashboard" / "foreman-client.js"), json.dumps(BODY), victim, house.url),
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    async with asyncio.timeout(50), asyncio.TaskGroup() as group:
        group.create_task(killed_in_mid_stream(house, "victim-node", gate, arrived))
        async for line in process.stdout:
            lines.append(json.loads(line))
            if len(lines) > BEFORE:
                arrived.set()
        assert await process.wait() == 0
    assert [line for line in lines if "state" not in line] == expected
    assert {"state": "resuming"} in lines
