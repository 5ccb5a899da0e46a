"""Story: the gateway is killed in mid-answer. Its worker goes on; the caller comes back to the next gateway with what it has, and
gets the rest, no byte lost or doubled. Should the worker die as well, nothing is ever spliced from two runs."""

from __future__ import annotations

import asyncio
import json
import signal
from typing import Any

import aiohttp

from foreman.demo.ollama import FakeOllama
from tests.rig import free_port, rig
from tests.tap import Tap

ASK = {"model": "alpha", "messages": [{"role": "user", "content": "x"}]}
KEY = {"Idempotency-Key": "the turn"}


def who(state: dict[str, Any]) -> set[str]:
    """The workers and gateways that are there."""
    return {one["id"] for one in [*state["workers"], *state["gateways"]]}


async def some(session: aiohttp.ClientSession, url: str, lines: int) -> tuple[str, bytes]:
    """The first lines of an answer, until its gateway is gone: job id and bytes."""
    got = b""
    async with session.post(url + "/api/chat", json=ASK, headers=KEY) as reply:
        while got.count(b"\n") < lines:
            got += await reply.content.readany()
        return reply.headers["X-Foreman-Job-Id"], got


async def test_the_gateway_dies_and_the_answer_goes_on(tmp_path):
    async with (
        FakeOllama(models=["alpha"], tokens=12) as fake,
        rig(tmp_path, f"main={fake.url}", "apart") as house,
        aiohttp.ClientSession() as session,
        asyncio.timeout(60),
    ):
        gate = fake.gate(after=4)
        job_id, got = await some(session, house.url, 4)
        await house.stop("gateway", signal.SIGKILL)
        await house.spawn("gateway", "--role", "gateway")
        await house.until(lambda tags: tags.get("models"), "/api/tags")
        resumed = await session.get(house.url + f"/jobs/{job_id}/stream?offset={len(got)}")
        gate.open()
        whole = got + await resumed.read()
        assert resumed.status == 200
        assert [json.loads(line)["done"] for line in whole.splitlines()] == [False] * 12 + [True]
        assert len(fake.requests_to("/api/chat")) == 1
        await house.until(lambda job: job["state"] == "done", f"/jobs/{job_id}")
        again = await session.post(house.url + "/api/chat", json=ASK, headers=KEY)
        assert (await again.read(), again.headers["X-Foreman-Job-Id"]) == (whole, job_id)
        assert len(fake.requests_to("/api/chat")) == 1


async def test_a_cut_link_is_mended_unseen(tmp_path):
    """The wire between worker and gateway breaks; the caller, whose answer is kept, gets all of it in one stream."""
    port = free_port()
    async with (
        FakeOllama(models=["alpha"], tokens=12) as fake,
        Tap(f"http://127.0.0.1:{port}") as tap,
        rig(
            *(tmp_path, f"main={fake.url}", "apart"),
            link_addr=f"127.0.0.1:{port},{tap.url.removeprefix('http://')}",
        ) as house,
        aiohttp.ClientSession() as session,
        asyncio.timeout(60),
    ):
        gate = fake.gate(after=4)
        async with session.post(house.url + "/api/chat", json=ASK, headers=KEY) as reply:
            got = b""
            while got.count(b"\n") < 4:
                got += await reply.content.readany()
            await gate.reached()
            tap.cut()
            gate.open()
            got += await reply.read()
        assert [json.loads(line)["done"] for line in got.splitlines()] == [False] * 12 + [True]
        assert (len(fake.requests_to("/api/chat")), fake.cancels) == (1, 0)


async def test_both_die_and_nothing_is_spliced(tmp_path):
    async with (
        FakeOllama(models=["alpha"], tokens=12) as fake,
        rig(tmp_path, f"main={fake.url}", "one") as house,
        aiohttp.ClientSession() as session,
        asyncio.timeout(60),
    ):
        gate = fake.gate(after=4)
        job_id, got = await some(session, house.url, 4)
        dead = who(await house.get("/ops/state"))
        assert dead
        await house.stop("serve", signal.SIGKILL)
        gate.open()
        await house.spawn("serve")
        state = await house.until(lambda state: "gateways" in state)
        assert not dead & who(state), "who died with the store is buried at once, not when a lease is over"
        await house.until(lambda job: job.get("state") == "failed", f"/jobs/{job_id}")
        resumed = await session.get(house.url + f"/jobs/{job_id}/stream?offset={len(got)}")
        assert (resumed.status, resumed.headers["X-Foreman-Error"]) == (502, "interrupted")
        await house.until(lambda tags: tags.get("models"), "/api/tags")
        again = await session.post(house.url + "/api/chat", json=ASK, headers=KEY)
        assert again.headers["X-Foreman-Job-Id"] != job_id
        assert json.loads((await again.read()).splitlines()[-1])["done"] is True
