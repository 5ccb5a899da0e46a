"""Story: sixty interleaved calls for three models cost three loads, and a newcomer beside an endless stream is served."""

from __future__ import annotations

import asyncio

import aiohttp
import pytest

from foreman.demo.ollama import FakeOllama
from tests.rig import rig

MODELS = ("alpha", "beta", "gamma")
BOUND = 10 * (0.2 + 4 * (1 / 0.2 - 1) * 0.05 + 2 * 0.05 + 0.1)
"""Seconds in which the newcomer's answer must be whole: ten times its due, a stay of four quanta, two loads, two runs."""


async def call(session: aiohttp.ClientSession, url: str, model: str, **more: object) -> None:
    body = {"model": model, "messages": [{"role": "user", "content": "x"}], "stream": False, **more}
    async with session.post(url + "/api/chat", json=body) as reply:
        answer = await reply.json(content_type=None)
        assert reply.status == 200, answer
        assert answer["done"] is True


@pytest.mark.parametrize("mode", ["one", "apart"])
async def test_sixty_interleaved_calls_cost_three_loads(tmp_path, mode):
    async with (
        FakeOllama(models=list(MODELS), load_seconds=0.1, max_loaded=1, tokens=3, token_seconds=0.001) as fake,
        rig(tmp_path, f"main={fake.url}", mode, models=3) as house,
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session,
        asyncio.TaskGroup() as group,
    ):
        for turn in range(60):
            group.create_task(call(session, house.url, MODELS[turn % 3]))
    loads = [load.model for load in fake.loads]
    assert len(loads) <= 3, loads


async def test_straight_to_the_model_server_they_cost_many(tmp_path):
    """The control: without the queue the same sixty calls, one after another, load at each change of model."""
    async with (
        FakeOllama(models=list(MODELS), load_seconds=0.001, max_loaded=1, tokens=1, token_seconds=0.001) as fake,
        aiohttp.ClientSession() as session,
    ):
        for turn in range(60):
            await call(session, fake.url, MODELS[turn % 3])
    assert len(fake.loads) == 60


async def test_a_fourth_lane_beside_an_endless_stream_of_the_first_is_served(tmp_path):
    """With fast loads the quantum is short: the newcomer waits for its due and one stay, however busy the first lane."""
    async with (
        FakeOllama(models=[*MODELS, "delta"], load_seconds=0.05, max_loaded=1, tokens=2, token_seconds=0.005) as fake,
        rig(tmp_path, f"main={fake.url}", models=4, due_after="high=200ms,normal=1s,low=5s") as house,
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session,
    ):
        stop = asyncio.Event()

        async def endless() -> int:
            count = 0
            while not stop.is_set():
                await call(session, house.url, "alpha")
                count += 1
            return count

        async with asyncio.timeout(60), asyncio.TaskGroup() as group:
            feeders = [group.create_task(endless()) for _ in range(4)]
            await house.until(lambda state: state["jobs"]["done"] > 20)
            async with asyncio.timeout(BOUND):
                await call(session, house.url, "delta")
            busy_after = fake.loads[-1].model
            await call(session, house.url, "alpha")
            stop.set()
        assert busy_after == "delta:latest"
        assert sum(feeder.result() for feeder in feeders) > 8
