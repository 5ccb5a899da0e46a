"""Through a real nginx: live under its defaults and with gzip, where another server's stream comes all at once; and a
queue of 5 s behind a time-out of 1 s, streamed or not, in every official client."""

from __future__ import annotations

import asyncio
import contextlib
import json
import zlib
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
import pytest_asyncio

from foreman.demo.ollama import FakeOllama
from tests.clients.cases import ASK, CHAT, Case
from tests.clients.test_official_clients import node, ollama_async, ollama_sync, openai_async
from tests.needs import needs
from tests.proxies.proxies import DEFAULTS, GZIP, Arrivals, nginx, plain
from tests.rig import House, rig

if TYPE_CHECKING:
    from pathlib import Path

    from tests.proxies.proxies import Proxy

pytestmark = [pytest.mark.asyncio(loop_scope="module"), needs("nginx")]

BODY = {"model": CHAT, "messages": ASK, "stream": True}
EVENTS = {"Accept": "text/event-stream"}
DIALECTS: dict[str, tuple[str, dict[str, Any], dict[str, str]]] = {
    "chat": ("/api/chat", BODY, {}),
    "chat as SSE": ("/api/chat", BODY, EVENTS),
    "v1 chat": ("/v1/chat/completions", BODY, {}),
    "v1 messages": ("/v1/messages", {**BODY, "max_tokens": 50}, {}),
}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def pair(tmp_path_factory):
    """A model server and foreman in front of it, that gives up its silence early."""
    early = {"headers_after": "300ms", "heartbeat": "300ms", "json_headers_after": "500ms"}
    async with (
        FakeOllama(models=["alpha"], tokens=6) as fake,
        rig(tmp_path_factory.mktemp("nginx"), f"main={fake.url}", **early) as house,
    ):
        yield fake, house


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=["defaults", "gzip"])
async def proxied(request, pair: tuple[FakeOllama, House], tmp_path_factory):
    """An nginx before foreman, and whether it compresses."""
    zipped = request.param == "gzip"
    server = (GZIP if zipped else "") + DEFAULTS
    async with nginx(tmp_path_factory.mktemp("proxied"), pair[1].url, server) as proxy:
        yield proxy, zipped


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_each_token_comes_through_before_the_next_is_made(
    pair: tuple[FakeOllama, House], proxied: tuple[Proxy, bool], dialect: str
) -> None:
    fake, _ = pair
    proxy, zipped = proxied
    path, body, headers = DIALECTS[dialect]
    gate = fake.gate(after=1)
    async with (
        asyncio.timeout(60),
        aiohttp.ClientSession(auto_decompress=False) as session,
        session.post(
            proxy.url + path, json=body, headers={**headers, "Accept-Encoding": "gzip" if zipped else "identity"}
        ) as reply,
    ):
        assert reply.headers.get("Content-Encoding") == ("gzip" if zipped else None)
        unzip = zlib.decompressobj(31)
        seen = b""

        async def more() -> None:
            nonlocal seen
            before = len(seen)
            while len(seen) == before:
                piece = await reply.content.readany()
                assert piece
                seen += unzip.decompress(piece) if zipped else piece

        await more()
        for _ in range(3):
            await gate.reached()
            await gate.release(1)
            await more()  # a token that was made before the next one must have come through
        gate.open()
        rest = await reply.content.read()
        seen += unzip.decompress(rest) if zipped else rest
        assert b"done" in seen or b"[DONE]" in seen or b"message_stop" in seen


@pytest.mark.parametrize("how", ["defaults", "gzip"])
async def test_another_servers_stream_comes_all_at_once(tmp_path: Path, how: str) -> None:
    """The control: nginx keeps what it gets until the end, so that the first byte comes after the last was written."""
    server = DEFAULTS if how == "defaults" else GZIP + DEFAULTS.replace("; }", "; proxy_http_version 1.1; }")
    arrivals = Arrivals()
    async with (
        plain() as control,
        nginx(tmp_path, control.url, server) as proxy,
        aiohttp.ClientSession() as session,
        session.post(proxy.url + "/api/chat", json=BODY) as reply,
    ):
        async for piece in reply.content.iter_any():
            assert control.ended.is_set()
            arrivals.came(piece)
        print(f"control, {how}: bytes came at {arrivals} s")  # noqa: T201 - -rP shows it


# ------------------------------------------------------------------ 5 s in the queue, 1 s of patience

QUEUED = 5.0
"""Seconds that a call waits behind another."""
WHOLE: dict[str, Case] = {"chat": ("chat", {"model": CHAT, "messages": ASK, "stream": False})}
WHOLE_V1: dict[str, Case] = {"chat": ("chat.completions.create", {"model": CHAT, "messages": ASK})}

WAITING = (("/api/chat", {}), ("/api/chat", EVENTS), ("/v1/chat/completions", {}))


@contextlib.asynccontextmanager
async def held_up(fake: FakeOllama, house: House):
    """The one slot is taken until the given function is called."""
    gate = fake.gate(after=1)
    async with aiohttp.ClientSession() as session:
        first = await session.post(house.url + "/api/chat", json=BODY)
        await gate.reached()
        yield gate.open
        await first.read()


async def stream_times(url: str, path: str, headers: dict[str, str]) -> tuple[Arrivals, bytes]:
    arrivals = Arrivals()
    async with aiohttp.ClientSession() as session, session.post(url + path, json=BODY, headers=headers) as reply:
        assert reply.status == 200
        async for piece in reply.content.iter_any():
            arrivals.came(piece)
    return arrivals, b"".join(piece for _, piece in arrivals.pieces)


@needs("node-clients")
async def test_a_queue_of_5_s_outlives_a_proxy_that_waits_1_s(pair: tuple[FakeOllama, House], tmp_path: Path) -> None:
    """Streams by their heartbeats, calls without streaming (n8n's) by FOREMAN_JSON_HEADERS_AFTER, all at the same time."""
    fake, house = pair
    async with nginx(tmp_path, house.url, DEFAULTS, read_timeout="1s") as proxy, held_up(fake, house) as let_go:
        async with asyncio.timeout(50), asyncio.TaskGroup() as group:
            streams = [group.create_task(stream_times(proxy.url, *case)) for case in WAITING]
            clients = {
                "ollama-python": group.create_task(ollama_async(proxy.url, WHOLE)),
                "ollama-python-sync": group.create_task(ollama_sync(proxy.url, WHOLE)),
                "ollama-js": group.create_task(node("ollama", proxy.url, WHOLE)),
                "openai-python": group.create_task(openai_async(proxy.url, WHOLE_V1)),
                "openai-js": group.create_task(node("openai", proxy.url, WHOLE_V1)),
            }
            await house.until(lambda state: state["jobs"]["queued"] == len(streams) + len(clients))
            await asyncio.sleep(QUEUED)  # the queue itself, not a wait for something
            let_go()
        for name, task in clients.items():
            (item,) = task.result()["chat"]["items"]
            message = item["message"] if name.startswith("ollama") else item["choices"][0]["message"]
            assert message["content"], name
        for task in streams:
            arrivals, body = task.result()
            assert arrivals.pieces[0][0] < QUEUED, "a sign of life while it waits"
            assert b'"done":true' in body or b"[DONE]" in body
            print(f"first byte after {arrivals.pieces[0][0]:.2f} s, last after {arrivals.pieces[-1][0]:.2f} s")  # noqa: T201


async def test_without_heartbeats_the_same_proxy_gives_up(tmp_path: Path) -> None:
    async with (
        plain(silence=3.0) as control,
        nginx(tmp_path, control.url, DEFAULTS, read_timeout="1s") as proxy,
        aiohttp.ClientSession() as session,
        session.post(proxy.url + "/api/chat", json=json.loads(json.dumps(BODY))) as reply,
    ):
        assert reply.status == 504
