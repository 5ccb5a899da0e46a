"""Story: the stream is live. The model server sends a line, then blocks until the test has received it, in both relay
channels and every dialect."""

from __future__ import annotations

import asyncio
from typing import Any

import aiohttp
import pytest
import pytest_asyncio

from foreman.demo.ollama import FakeOllama
from tests.clients.cases import ASK, CHAT
from tests.rig import House, rig

pytestmark = pytest.mark.asyncio(loop_scope="module")

DIALECTS: dict[str, tuple[str, dict[str, Any], dict[str, str]]] = {
    "chat": ("/api/chat", {"model": CHAT, "messages": ASK}, {}),
    "chat as SSE": ("/api/chat", {"model": CHAT, "messages": ASK}, {"Accept": "text/event-stream"}),
    "generate": ("/api/generate", {"model": CHAT, "prompt": "x"}, {}),
    "v1 chat": ("/v1/chat/completions", {"model": CHAT, "messages": ASK, "stream": True}, {}),
    "v1 completions": ("/v1/completions", {"model": CHAT, "prompt": "x", "stream": True}, {}),
    "v1 messages": ("/v1/messages", {"model": CHAT, "messages": ASK, "max_tokens": 50, "stream": True}, {}),
    "v1 responses": ("/v1/responses", {"model": CHAT, "input": "x", "stream": True}, {}),
}


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=["one", "apart"])
async def pair(request, tmp_path_factory):
    async with (
        FakeOllama(models=["alpha"], tokens=6) as fake,
        rig(tmp_path_factory.mktemp("live"), f"main={fake.url}", request.param) as house,
    ):
        yield fake, house


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_each_line_arrives_before_the_next_is_made(pair: tuple[FakeOllama, House], dialect: str) -> None:
    fake, house = pair
    path, body, headers = DIALECTS[dialect]
    gate = fake.gate(after=1)
    async with (
        asyncio.timeout(60),
        aiohttp.ClientSession() as session,
        session.post(house.url + path, json=body, headers=headers) as reply,
    ):
        received = await reply.content.readany()
        assert received
        for _ in range(3):
            await gate.reached()
            await gate.release(1)
            more = await reply.content.readany()
            assert more, "a line that was made before the next one must have been on its way"
        gate.open()
        rest = await reply.content.read()
        assert rest
