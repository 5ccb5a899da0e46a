"""Story: the wire between worker and gateway is cut while both live. Before its first byte the call runs again in silence;
after it, its caller gets an error line, never a second beginning."""

from __future__ import annotations

import asyncio
import json

import aiohttp
import pytest

from foreman.demo.ollama import FakeOllama
from tests.rig import free_port, rig
from tests.tap import Tap

ASK = {"model": "alpha", "messages": [{"role": "user", "content": "x"}]}


@pytest.mark.parametrize("bytes_sent", [False, True])
async def test_a_cut_link(tmp_path, bytes_sent):
    port = free_port()
    async with (
        FakeOllama(models=["alpha"], tokens=4) as fake,
        Tap(f"http://127.0.0.1:{port}") as tap,
        rig(
            *(tmp_path, f"main={fake.url}", "apart"),
            link_addr=f"127.0.0.1:{port},{tap.url.removeprefix('http://')}",
        ) as house,
        aiohttp.ClientSession() as session,
    ):
        received = asyncio.Event()
        gate = fake.gate(after=1 if bytes_sent else 0)
        async with asyncio.timeout(60), asyncio.TaskGroup() as group:

            async def call() -> list[dict]:
                async with session.post(house.url + "/api/chat", json=ASK) as reply:
                    assert reply.status == 200, await reply.text()
                    lines = []
                    async for line in reply.content:
                        lines.append(json.loads(line))
                        received.set()
                    return lines

            task = group.create_task(call())
            await gate.reached()
            if bytes_sent:
                await received.wait()
            tap.cut()
            await fake.until(lambda f: f.cancels == 1)
            gate.open()
        last = task.result()[-1]
        if bytes_sent:
            assert "error" in last
            assert not any(line.get("done") for line in task.result())
        else:
            assert last["done"] is True
            assert len(fake.requests_to("/api/chat")) == 2
