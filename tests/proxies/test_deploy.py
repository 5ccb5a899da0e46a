"""Every snippet of docs/deploy that can be run here, as it stands there: live, lets callers leave, takes large requests."""

from __future__ import annotations

import asyncio
import functools
import io
import json
from typing import TYPE_CHECKING

import aiohttp
import pytest
import pytest_asyncio

from foreman.demo.ollama import FakeOllama
from tests.clients.cases import ASK, CHAT
from tests.needs import needs
from tests.proxies.proxies import DEPLOY, Proxy, caddy, haproxy, nginx
from tests.rig import House, rig

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.asyncio(loop_scope="module")

BODY = {"model": CHAT, "messages": ASK, "stream": True}
PROXIES = {
    "nginx": functools.partial(nginx, server=(DEPLOY / "nginx.conf").read_text()),
    "caddy": caddy,
    "haproxy": haproxy,
}


SOON = {"headers_after": "300ms", "heartbeat": "300ms", "json_headers_after": "300ms"}
"""HAProxy looks whether a caller is still there only when it has something to send: a heartbeat will do."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def pair(tmp_path_factory):
    async with (
        FakeOllama(models=["alpha"], tokens=6) as fake,
        rig(tmp_path_factory.mktemp("deploy"), f"main={fake.url}", **SOON) as house,
    ):
        yield fake, house


@pytest_asyncio.fixture(
    scope="module", loop_scope="module", params=[pytest.param(name, marks=needs(name)) for name in PROXIES]
)
async def proxy(request, pair: tuple[FakeOllama, House], tmp_path_factory):
    folder: Path = tmp_path_factory.mktemp(request.param)
    async with PROXIES[request.param](folder, pair[1].url) as running:
        yield running


async def test_tokens_come_one_by_one_and_leaving_ends_the_run(pair: tuple[FakeOllama, House], proxy: Proxy) -> None:
    fake, _ = pair
    cancels, gate = fake.cancels, fake.gate(after=1)
    async with asyncio.timeout(60), aiohttp.ClientSession() as session:
        reply = await session.post(proxy.url + "/api/chat", json=BODY)
        assert reply.headers["X-Foreman-Job-Id"]
        assert await reply.content.readline()
        for _ in range(2):
            await gate.reached()
            await gate.release(1)
            assert await reply.content.readline()
        reply.close()
        await fake.until(lambda fake: fake.cancels == cancels + 1)
    gate.open()


async def test_a_caller_that_leaves_the_queue_costs_nothing(pair: tuple[FakeOllama, House], proxy: Proxy) -> None:
    fake, house = pair
    gate = fake.gate(after=1)
    async with aiohttp.ClientSession() as session:
        first = await session.post(proxy.url + "/api/chat", json=BODY)
        await gate.reached()
        asked = len(fake.requests_to("/api/chat"))
        second = await session.post(proxy.url + "/api/chat", json={**BODY, "stream": False})
        second.close()
        await house.until(lambda state: state["jobs"]["queued"] == 0)
        gate.open()
        await first.read()
    assert len(fake.requests_to("/api/chat")) == asked


async def test_a_request_with_pictures_passes(pair: tuple[FakeOllama, House], proxy: Proxy) -> None:
    body = {
        **BODY,
        "stream": False,
        "messages": [{"role": "user", "content": "What is it?", "images": ["A" * (4 << 20)]}],
    }
    async with (
        aiohttp.ClientSession() as session,
        session.post(proxy.url + "/api/chat", data=io.BytesIO(json.dumps(body).encode())) as reply,
    ):
        assert reply.status == 200
        assert (await reply.json())["message"]["content"]
