"""Story: fire and forget. An orchestrator hands in a night's work in one request and goes; gateway and store are killed on
the way; in the morning it looks at the list, and nothing is missing."""

from __future__ import annotations

import asyncio
import json
import signal

import aiohttp
import pytest

from foreman.demo.ollama import FakeOllama
from tests.rig import rig

JOBS = 60


def night() -> bytes:
    """Jobs for two models, mixed, each with its number; one line is wrong."""
    lines = [
        {"model": ("alpha", "beta")[number % 2], "prompt": "x", "endpoint": "/api/generate", "metadata": {"n": number}}
        for number in range(JOBS)
    ]
    return b"".join(json.dumps(line).encode() + b"\n" for line in [*lines[:10], {"model": "nope"}, *lines[10:]])


async def listed(session: aiohttp.ClientSession, url: str, state: str) -> list[dict[str, object]]:
    found, cursor = [], ""
    while True:
        async with session.get(f"{url}/jobs?state={state}&limit=7&cursor={cursor}") as reply:
            page = await reply.json()
        found += page["jobs"]
        if page["next_cursor"] is None:
            return found
        cursor = page["next_cursor"]


@pytest.mark.parametrize("mode", ["one", "apart"])
async def test_a_nights_work(tmp_path, mode: str) -> None:
    async with (
        FakeOllama(models=["alpha", "beta"], tokens=2) as fake,
        rig(tmp_path, f"main={fake.url}", mode, models=2) as house,
        aiohttp.ClientSession() as session,
    ):
        gate = fake.gate()
        async with session.post(f"{house.url}/jobs/batch", data=night()) as reply:
            assert reply.status == 200
            answers = [json.loads(line) async for line in reply.content]
        assert len(answers) == JOBS + 1
        assert answers[10]["error"]["code"] == "model_not_found"
        ids = [answer["job_id"] for answer in answers if "job_id" in answer]
        await gate.reached()
        name = "serve" if mode == "one" else "gateway"
        await house.stop(name, signal.SIGKILL)
        await house.spawn(name, *(() if mode == "one" else ("--role", "gateway")))
        gate.open()
        await house.until(lambda state: state["jobs"]["done"] == JOBS, timeout=40)
        done = await listed(session, house.url, "done")
        assert [job["job_id"] for job in done] == ids[::-1]
        assert [job["metadata"]["n"] for job in done] == list(range(JOBS))[::-1]
        assert all(job["result"]["response"] and job["artifacts"][0]["name"] == "completion" for job in done)
        assert len(fake.ledger.loads) <= (4 if mode == "one" else 2), (
            "drained model by model, in whatever order they came"
        )
        async with session.get(f"{house.url}/jobs/{ids[0]}/events") as reply:
            events = (await reply.json())["events"]
        assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
        assert [event["state"] for event in events][-1] == "done"


async def test_a_job_is_cancelled_while_it_runs(tmp_path) -> None:
    async with (
        FakeOllama(models=["alpha"], tokens=2) as fake,
        rig(tmp_path, f"main={fake.url}", "apart") as house,
        aiohttp.ClientSession(base_url=house.url) as session,
    ):
        fake.gate(after=1)
        async with session.post(
            "/jobs", json={"model": "alpha", "messages": [{"role": "user", "content": "x"}]}
        ) as reply:
            where = reply.headers["Location"]
        await house.until(lambda state: state["jobs"]["working"] == 1)
        await house.until(lambda _: any(seen.lines for seen in fake.ledger.requests if seen.path == "/api/chat"))
        async with asyncio.timeout(60), session.delete(where) as reply:
            job = await reply.json()
        assert (reply.status, job["state"], job["previous_state"]) == (200, "cancelled", "working")
        assert job["error"]["code"] == "cancelled"
        async with session.post(f"{where}/retry") as reply:
            assert reply.status == 202
            again = (await reply.json())["links"]["self"]
        async with session.get(f"{again}?wait=30") as reply:
            job = await reply.json()
        assert (job["state"], job["retry_of"]) == ("done", where.rpartition("/")[2])
