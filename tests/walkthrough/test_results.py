"""Story: what comes of a job. Its worker is killed in mid-answer; the next one runs it again, and one whole answer is kept.
And whatever its size, who was told has the same in hand as who asks."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import re
import signal

import aiohttp

from foreman.demo.ollama import FakeOllama
from tests.receivers import Receivers
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


SIZES = {"just fits": 262_144, "one byte more": 262_145, "five megabytes": 5 << 20}


async def sized(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """A model server whose models answer with exactly so many bytes."""
    with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        asked = re.search(r"(?i)content-length: (\d+)", head)
        body = json.loads(await reader.readexactly(int(asked[1])) if asked else b"{}")
        if head.startswith("POST"):
            start, end = (
                b'{"choices":[{"message":{"content":"',
                b'"}}],"usage":{"prompt_tokens":1,"completion_tokens":2}}',
            )
            answer = start + b"x" * (SIZES[body["model"]] - len(start + end)) + end
        else:
            answer = json.dumps({"object": "list", "data": [{"id": name} for name in SIZES]}).encode()
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(answer))
        writer.write(answer)
        await writer.drain()
    writer.close()


async def test_an_answer_of_any_size_by_webhook_and_by_asking(tmp_path):
    server = await asyncio.start_server(sized, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with (
        server,
        Receivers() as receivers,
        rig(tmp_path, f"main={url}?kind=openai", models=3, webhook_allow="127.0.0.1") as house,
        aiohttp.ClientSession(house.url) as session,
        asyncio.timeout(60),
    ):
        for number, (model, size) in enumerate(SIZES.items(), 1):
            job = JOB | {"model": model, "endpoint": "/v1/chat/completions", "webhook_events": ["done"]}
            async with session.post("/jobs", json=job | {"state_webhook_url": receivers.url + "/hook"}) as reply:
                assert reply.status == 202, await reply.text()
            await receivers.until(lambda it, number=number: len(it.seen["/hook"]) == number, 30)
            told = receivers.seen["/hook"][-1].event
            assert told == await house.get(f"/jobs/{told['job_id']}"), "who asks reads what was told"
            [artifact] = told["artifacts"]
            path = f"/jobs/{told['job_id']}/artifacts/completion"
            async with session.get(path) as reply:
                body = await reply.read()
                assert reply.headers["ETag"] == f'"{artifact["sha256"]}"'
            assert (len(body), hashlib.sha256(body).hexdigest()) == (size, artifact["sha256"])
            assert artifact["size"] == size
            if size <= 262_144:
                assert artifact["inline"] == told["result"] == json.loads(body)
                assert artifact["url"] is None
            else:
                assert (artifact["inline"], told["result"], artifact["url"]) == (None, None, path)
