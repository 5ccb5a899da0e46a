"""A store that is full (FOREMAN_STORE_BYTES): who loses what, who is refused and how, and that it goes on; over sockets."""

from __future__ import annotations

import json
from typing import Any

from foreman.demo.ollama import FakeOllama
from tests.attack.ground import CHAT, Site, site, until
from tests.cli.process import ran
from tests.exchange import exchange

MIB = 1 << 20
SMALL = {"max_body": "1MiB", "max_answer": "1MiB", "store_bytes": "2MiB"}


def chat(size: int, **fields: Any) -> dict[str, Any]:
    return {**CHAT, "messages": [{"role": "user", "content": "x" * size}], **fields}


async def submitted(at: Site, size: int, **fields: Any) -> str:
    answer = await at.post("/jobs", chat(size, **fields))
    assert answer.status == 202, answer.body
    return str(json.loads(answer.body)["job_id"])


async def held(at: Site) -> int:
    store = (await at.house.get("/ops/state"))["store"]
    assert store["limit_bytes"] == 2 * MIB
    assert store["used_bytes"] <= store["limit_bytes"]
    return int(store["used_bytes"])


async def status(at: Site, path: str, method: str = "GET") -> int:
    return (await exchange(at.url, method, path, b"" if method == "POST" else None)).status


async def test_the_oldest_jobs_lose_their_payload_and_no_more(tmp_path, valkey) -> None:
    async with site(tmp_path, valkey, FakeOllama(models=["alpha"], tokens=3), **SMALL) as at:
        jobs = []
        for _ in range(6):
            jobs.append(await submitted(at, MIB // 2))
            assert (await at.house.get(f"/jobs/{jobs[-1]}?wait=20"))["state"] == "done"
            await held(at)
        old, new = jobs[0], jobs[-1]
        seen = await at.house.get(f"/jobs/{old}")
        assert (seen["state"], seen["result"], seen["artifacts"][0]["inline"]) == ("done", None, None)
        assert seen["usage"]["completion_tokens"] == 3
        for path, method in (
            (f"/jobs/{old}/request", "GET"),
            (f"/jobs/{old}/artifacts/completion", "GET"),
            (f"/jobs/{old}/retry", "POST"),
        ):
            assert await status(at, path, method) == 410
        code, out, err = await ran(tmp_path, "show", old, URL=at.url)
        assert (code, out.split()[:2], "kept no longer" in err) == (0, [old, "done,"], True), out + err
        assert (await at.house.get(f"/jobs/{new}"))["result"]["done"] is True
        assert await status(at, f"/jobs/{new}/retry", "POST") == 202
        await at.settled()


async def test_a_store_full_of_waiting_jobs_refuses_and_takes_again(tmp_path, valkey) -> None:
    async with site(tmp_path, valkey, FakeOllama(models=["alpha"], tokens=3), **SMALL) as at:
        gate = at.fake.gate(after=1, times=-1)
        waiting = [await submitted(at, MIB // 2) for _ in range(3)]
        for path, body in (("/jobs", chat(MIB * 3 // 4)), ("/api/chat", chat(MIB * 3 // 4))):
            answer = await at.post(path, body)
            assert (answer.status, answer.header("X-Foreman-Error")) == (503, "queue_full")
            assert int(answer.header("Retry-After")) > 0
        lines = b"".join(json.dumps(chat(size)).encode() + b"\n" for size in (10, MIB * 3 // 4, 10))
        answer = await at.post("/jobs/batch", lines)
        found = [json.loads(line) for line in answer.body.splitlines()]
        assert [one["error"]["code"] if "error" in one else one["state"] for one in found] == [
            *("queued", "queue_full", "queued")
        ]
        await held(at)
        gate.open()
        for job_id in waiting:
            assert (await at.house.get(f"/jobs/{job_id}?wait=20"))["state"] == "done"
        await at.settled()
        job_id = await submitted(at, MIB * 3 // 4)
        assert (await at.house.get(f"/jobs/{job_id}?wait=20"))["state"] == "done"
        await held(at)


async def test_callers_who_come_and_go_fill_nothing(tmp_path, valkey) -> None:
    async with site(tmp_path, valkey, FakeOllama(models=["alpha"], tokens=3), **SMALL) as at:
        for _ in range(8):
            answer = await at.post("/api/chat", chat(MIB // 2, stream=False))
            assert answer.status == 200

        async def empty() -> bool:
            return await held(at) == 0

        await until(empty)
