"""Story: the plug is pulled. A worker dies by SIGKILL with one job running and five waiting; nobody's call is lost."""

from __future__ import annotations

import asyncio
import json
import signal

import aiohttp
import pytest

from foreman.demo.ollama import FakeOllama
from tests.rig import rig

ASK = {"model": "alpha", "messages": [{"role": "user", "content": "x"}]}


async def lines(
    session: aiohttp.ClientSession, url: str, first: asyncio.Event | None = None
) -> list[dict[str, object]]:
    """All lines of a streamed chat; `first` is set when one has come."""
    async with session.post(url + "/api/chat", json=ASK) as reply:
        assert reply.status == 200, await reply.text()
        seen = []
        async for line in reply.content:
            seen.append(json.loads(line))
            if first:
                first.set()
        return seen


@pytest.mark.parametrize("bytes_sent", [False, True])
async def test_kill_the_worker_with_one_running_and_five_waiting(tmp_path, bytes_sent):
    async with (
        FakeOllama(models=["alpha"], tokens=4, token_seconds=0.001) as fake,
        rig(tmp_path, f"main={fake.url}", "apart") as house,
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session,
    ):
        gate = fake.gate(after=1 if bytes_sent else 0)
        began = asyncio.Event()
        async with asyncio.timeout(60), asyncio.TaskGroup() as group:
            running = group.create_task(lines(session, house.url, began))
            if bytes_sent:
                await began.wait()
            else:
                await house.until(lambda state: state["jobs"]["working"] == 1)
            waiting = [group.create_task(lines(session, house.url)) for _ in range(5)]
            await house.until(lambda state: state["jobs"]["queued"] == 5)
            await house.stop("worker", signal.SIGKILL)
            gate.open()
            await house.spawn("worker-2", "--role", "worker")
        for task in waiting:
            assert task.result()[-1]["done"] is True
        last = running.result()[-1]
        if bytes_sent:
            assert "error" in last, "after its first byte a sync answer is never spliced from two runs"
            assert "done" not in last
        else:
            assert last["done"] is True, "before its first byte the job is silently run again"
        state = await house.get("/ops/state")
        assert (state["jobs"]["queued"], state["jobs"]["loading"], state["jobs"]["working"]) == (0, 0, 0)
