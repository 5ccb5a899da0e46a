"""The story of numbers that are true: what `/ops/state`, its feed and `/metrics` say is what a recount of the store finds.

Jobs come, wait, run, fail and are cancelled all the while. The recount is one script over the records themselves, so it
sees one moment; where nothing moved between two recounts, what was asked in between must agree with both.
"""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import aiohttp
from prometheus_client.parser import text_string_to_metric_families

from foreman.demo.ollama import FakeOllama
from foreman.store.client import redis_client
from tests.attack.ground import until
from tests.recount import Recount, recount
from tests.rig import rig

if TYPE_CHECKING:
    from pathlib import Path

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
        agreed = 0
        async with asyncio.timeout(50), asyncio.TaskGroup() as group:
            traffic = group.create_task(_traffic(session))
            while agreed < AGREED:
                before = await recount(look, "foreman:default:")
                state = await house.get("/ops/state")
                text = await _text(session, "/metrics")
                if await recount(look, "foreman:default:") == before:
                    assert before.differs(state) == []
                    counts = before.counts
                    agreed += bool(counts["queued"] and counts["working"] and counts["done"])
                    _metrics_agree(before, text)
                await asyncio.sleep(0.05)
            traffic.cancel()

        async def agree() -> bool:
            return _metrics_agree(await recount(look, "foreman:default:"), await _text(session, "/metrics"))

        await until(agree)  # the metrics are a second old at most: they agree once the traffic has ended
        await look.aclose()


async def _text(session: aiohttp.ClientSession, path: str) -> str:
    async with session.get(path) as reply:
        return await reply.text()


def _metrics_agree(seen: Recount, text: str) -> bool:
    """Whether the counters are those of this moment: a scrape may be answered by one of a second ago."""
    ended = seen.ended
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
