"""The story of numbers that are true: what `/ops/state`, its feed and `/metrics` say is what a recount of the store finds.

Jobs come, wait, run, fail and are cancelled all the while. The recount is one script over the records themselves, so it
sees one moment; where nothing moved between two recounts, what was asked in between must agree with both.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import aiohttp
from prometheus_client.parser import text_string_to_metric_families

from foreman.demo.ollama import FakeOllama
from foreman.store.client import redis_client
from tests.rig import rig

if TYPE_CHECKING:
    from pathlib import Path

RECOUNT = """
local found = {}
for _, id in ipairs(redis.call('ZRANGE', KEYS[1] .. 'jobs', 0, -1)) do
  local v = redis.call('HMGET', KEYS[1] .. 'job:' .. id, 'state', 'lane', 'slot', 'target', 'endpoint', 'not_before')
  if v[1] then found[#found + 1] = {id, v[1], v[2], v[3], v[4] or '', v[5], v[6] or ''} end
end
return found
"""
MODELS = [f"model-{number}" for number in range(6)]
AGREED = 6
"""Moments at which all must have agreed."""


async def test_numbers_equal_a_recount_while_jobs_come_and_go(tmp_path: Path) -> None:
    async with (
        FakeOllama(models=MODELS, tokens=3, load_seconds=0.3, token_seconds=0.05) as fake,
        rig(tmp_path, f"one={fake.url},two={fake.url}", mode="apart", models=len(MODELS)) as house,
        aiohttp.ClientSession(house.url) as session,
    ):
        look = redis_client(house.env["FOREMAN_REDIS_URL"], decode_responses=True)
        agreed, moved = 0, 0
        async with asyncio.timeout(50), asyncio.TaskGroup() as group:
            traffic = group.create_task(_traffic(session))
            while agreed < AGREED:
                before = await look.eval(RECOUNT, 1, "foreman:default:")
                state = await house.get("/ops/state")
                text = await (await session.get("/metrics")).text()
                if await look.eval(RECOUNT, 1, "foreman:default:") == before:
                    agreed += _agrees(before, state)
                    moved += _metrics_agree(before, text)
                await asyncio.sleep(0.05)
            traffic.cancel()
        assert moved, "the metrics, which are a second old at most, agreed at least once"
        await look.aclose()


def _agrees(jobs: list[list[str]], state: dict) -> bool:
    """Compare; False where there is nothing to compare yet."""
    counts = Counter(job[1] for job in jobs)
    assert {name: counts[name] for name in state["jobs"]} == state["jobs"]
    depth = Counter((job[2], job[3]) for job in jobs if job[1] == "queued" and job[3] != "side" and not job[6])
    assert {(lane["lane"], lane["slot"]): lane["depth"] for lane in state["lanes"] if lane["depth"]} == dict(depth)
    running = {(job[0], job[4]) for job in jobs if job[1] in {"loading", "working"}}
    assert {(job["job_id"], target["name"]) for target in state["targets"] for job in target["running"]} == running
    lanes = Counter(job[2] for job in jobs if job[1] in {"loading", "working"})
    assert {lane["lane"]: lane["running"] for lane in state["lanes"] if lane["running"]} == dict(lanes)
    return bool(counts["queued"] and running and counts["done"])


def _metrics_agree(jobs: list[list[str]], text: str) -> bool:
    """Whether the counters are those of this moment: a scrape may be answered by one of a second ago."""
    ended = Counter((job[1], job[5]) for job in jobs if job[1] in {"done", "failed", "cancelled"})
    told = {
        (sample.labels["state"], sample.labels["endpoint"]): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == "foreman_jobs_total" and sample.value
    }
    assert all(told.get(key, 0) <= count for key, count in ended.items()), "never more than there were"
    return told == dict(ended)


async def _traffic(session: aiohttp.ClientSession) -> None:
    """Bursts over all lanes; some jobs are cancelled, some can't succeed, some wait for their time."""
    number = 0
    while True:
        for _ in range(6):
            number += 1
            body = {"model": MODELS[number % len(MODELS)], "messages": [{"role": "user", "content": "hi"}]}
            if number % 7 == 0:
                body["not_before"] = (datetime.now(UTC) + timedelta(days=1)).isoformat()
            async with session.post("/jobs", data=json.dumps(body)) as reply:
                said = await reply.json()
            if number % 5 == 0 and "job_id" in said:
                await (await session.delete(f"/jobs/{said['job_id']}")).read()
        await asyncio.sleep(0.7)
