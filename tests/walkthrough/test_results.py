"""Story: what comes of a job. Its worker is killed in mid-answer; the next one runs it again, and one whole answer is kept."""

from __future__ import annotations

import asyncio
import hashlib
import json
import signal

import aiohttp

from foreman.demo.ollama import FakeOllama
from tests.rig import rig

JOB = {"model": "alpha", "messages": [{"role": "user", "content": "x"}], "logprobs": True, "top_logprobs": 20}


async def test_a_long_answer_outlives_the_worker_that_gave_half_of_it(tmp_path):
    async with (
        FakeOllama(models=["alpha"], tokens=400) as fake,
        rig(tmp_path, f"main={fake.url}", "apart") as house,
        aiohttp.ClientSession(house.url) as session,
        asyncio.timeout(60),
    ):
        gate = fake.gate(after=200)
        async with session.post("/jobs", json=JOB) as reply:
            assert reply.status == 202, await reply.text()
            links = (await reply.json())["links"]
        await gate.reached()
        await house.stop("worker", signal.SIGKILL)
        gate.open()
        await house.spawn("worker-2", "--role", "worker")

        async with session.get(links["self"], params={"wait": "50"}) as reply:
            job = await reply.json()
        assert (job["state"], job["attempt"], job["error"]) == ("done", 2, None)
        [artifact] = job["artifacts"]
        assert (job["result"], artifact["inline"], artifact["name"]) == (None, None, "completion")

        async with session.get(artifact["url"]) as reply:
            body = await reply.read()
            assert reply.headers["ETag"].strip('"') == artifact["sha256"] == hashlib.sha256(body).hexdigest()
        assert len(body) == artifact["size"] > 262_144

        async with (
            aiohttp.ClientSession(fake.url) as direct,
            direct.post("/api/chat", json=JOB | {"stream": False}) as reply,
        ):
            asked_directly = json.loads(await reply.read())
        answer = json.loads(body)
        assert (answer["message"], answer["logprobs"]) == (asked_directly["message"], asked_directly["logprobs"])
        assert job["usage"]["completion_tokens"] == answer["eval_count"] == 400
