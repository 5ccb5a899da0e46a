"""Webhooks under bad receivers and killed processes (contract 6): order, bytes, loss, what is left; over sockets."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import signal
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest
from standardwebhooks.webhooks import Webhook

from foreman.demo.ollama import FakeOllama
from foreman.protocols import webhook
from foreman.store.client import redis_client
from foreman.store.embedded import EmbeddedServer
from foreman.store.keys import Keys, Life
from tests.attack.ground import CHAT, Site, site, until
from tests.exchange import exchange
from tests.receivers import Receivers

if TYPE_CHECKING:
    from pathlib import Path

    from tests.exchange import Answer

ENDS = {"done", "failed", "cancelled"}
FAST = "0s,50ms,50ms,50ms,50ms,50ms,50ms,50ms"
SECRETS = ["whsec_" + base64.b64encode(b"new" * 9).decode(), "old, plain".replace(", ", "-")]


@pytest.fixture
async def receivers():
    async with Receivers() as made:
        yield made


@contextlib.asynccontextmanager
async def house(folder: Path, valkey: str, receivers: Receivers, mode: str = "one", **settings: str):
    fake = FakeOllama(models=["alpha"], tokens=3)
    settings = {"webhook_allow": f"127.0.0.1:{receivers.port}", "webhook_schedule": FAST} | settings
    async with site(folder, valkey, fake, mode, **settings) as made:
        yield made


async def get(at: Site, path: str, method: str = "GET") -> Any:
    answer: Answer = await exchange(at.url, method, path, b"" if method == "POST" else None)
    assert answer.status in {200, 202}, answer.body
    return json.loads(answer.body)


async def submitted(at: Site, url: str, **fields: Any) -> str:
    answer = await at.post("/jobs", {**CHAT, "state_webhook_url": url, **fields})
    assert answer.status == 202, answer.body
    return str(json.loads(answer.body)["job_id"])


async def told(receivers: Receivers, path: str, times: int = 1, timeout: float = 60) -> list[dict[str, Any]]:
    """The events at a path once a terminal one has come so many times."""
    await receivers.until(lambda it: sum(one.event["state"] in ENDS for one in it.seen[path]) >= times, timeout)
    return [one.event for one in receivers.seen[path]]


async def open_deliveries(at: Site) -> int:
    async with redis_client(at.store_url) as client:
        return int(await client.zcard(f"foreman:{at.pool}:deliveries"))


async def at_rest(at: Site, timeout: float = 60) -> None:
    """Until no delivery is on its way."""

    async def none() -> bool:
        return await open_deliveries(at) == 0

    await until(none, timeout)


async def endless(at: Site) -> set[str]:
    """Keys of the pool without a TTL that nothing living owns."""
    keys = Keys(at.pool)
    found = set()
    async with redis_client(at.store_url) as client:
        async for raw in client.scan_iter(match=f"*{at.pool}*", count=1000):
            key = raw.decode()
            if await client.ttl(key) != -1:
                continue
            template = keys.template(key)
            if template is None or template.life is not Life.FOREVER:
                found.add(key.removeprefix(keys.prefix))
    return found


HOUSEHOLD = (
    "gateways",
    "workers",
    "worker:",
    "target:",
    "gateway:",
    "inbox:",
    "targets",
    "status:",
    "cron",
    "arq:cron",
)
"""Keys of the living."""


def orphans(keys: set[str]) -> set[str]:
    return {key for key in keys if not key.startswith(HOUSEHOLD)}


@pytest.mark.parametrize("kind", ["500", "timeout", "reset", "redirect", "429", "long", "garbage", "drip", "drip-body"])
async def test_a_bad_receiver_gets_order_and_same_bytes_and_delays_nobody(tmp_path, valkey, receivers, kind) -> None:
    receivers.kinds["/bad"] = [kind, kind, "ok"]
    async with house(tmp_path, valkey, receivers) as at:
        bad = await submitted(at, f"{receivers.url}/bad")
        good = [await submitted(at, f"{receivers.url}/good/{number}") for number in range(5)]
        for number in range(5):
            events = await told(receivers, f"/good/{number}", timeout=14)
            assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
        if kind in {"timeout", "drip", "drip-body"}:  # 15 s per attempt are proved elsewhere
            assert receivers.open[("/bad", f"evt_{bad}")] <= 1
            return
        await told(receivers, "/bad")
        await at_rest(at)
        seen = receivers.seen["/bad"]
        bytes_of: dict[str, set[bytes]] = {}
        for one in seen:
            bytes_of.setdefault(one.id, set()).add(one.body)
        assert all(len(bodies) == 1 for bodies in bytes_of.values())
        assert all(a.event["seq"] <= b.event["seq"] for a, b in pairwise(seen))
        assert not receivers.trouble
        assert "/landed" not in receivers.seen
        log = (await get(at, f"/jobs/{bad}/deliveries"))["deliveries"]
        left_out = {line["seq"] for line in log if line["error"] == "superseded"}
        assert {event.event["seq"] for event in seen} | left_out == {line["seq"] for line in log}
        assert all(len(line["reply"] or "") <= 1024 for line in log)
        assert seen[-1].event["state"] == "done"
        assert len(good) == 5


async def test_signed_by_both_secrets_while_one_is_replaced(tmp_path, valkey, receivers) -> None:
    async with house(tmp_path, valkey, receivers, webhook_secret=",".join(SECRETS)) as at:
        job_id = await submitted(at, f"{receivers.url}/a")
        await told(receivers, "/a")
        for one in receivers.seen["/a"]:
            assert one.id == f"evt_{job_id}_{one.event['seq']}"
            assert len(one.headers["webhook-signature"].split()) == 2
            for secret in SECRETS:
                webhook.verify([secret], one.headers, one.body, int(one.headers["webhook-timestamp"]))
            Webhook(SECRETS[0]).verify(one.body, one.headers)
            assert one.headers["x-foreman-signature"] == webhook.original_signature(SECRETS[0], one.body)


async def test_unsigned_without_a_secret_and_only_what_was_wanted(tmp_path, valkey, receivers) -> None:
    async with house(tmp_path, valkey, receivers) as at:
        await submitted(at, f"{receivers.url}/a", webhook_events=["job.working", "done"])
        events = await told(receivers, "/a")
        assert [event["type"] for event in events] == ["job.working", "job.done"]
        for one in receivers.seen["/a"]:
            assert not {"webhook-signature", "x-foreman-signature", "cookie", "authorization"} & set(one.headers)


async def test_410_ends_it_and_redelivery_meets_what_it_meets(tmp_path, valkey, receivers) -> None:
    receivers.kinds |= {"/gone": ["410"], "/slow": ["gate"], "/twice": ["ok"]}
    async with house(tmp_path, valkey, receivers) as at:
        gone = await submitted(at, f"{receivers.url}/gone")
        slow = await submitted(at, f"{receivers.url}/slow", webhook_events=["done"])
        twice = await submitted(at, f"{receivers.url}/twice")
        events = await told(receivers, "/twice")
        await receivers.until(lambda it: it.seen["/slow"])
        running = await get(at, f"/deliveries/{receivers.seen['/slow'][0].id}/redeliver", "POST")
        assert running["status"] == "waiting"
        last = f"evt_{twice}_{events[-1]['seq']}"
        for _ in range(3):
            count = len(receivers.seen["/twice"])
            assert (await get(at, f"/deliveries/{last}/redeliver", "POST"))["status"] in {"sent", "waiting"}
            await receivers.until(lambda it, count=count: len(it.seen["/twice"]) > count)
        assert len({one.body for one in receivers.seen["/twice"] if one.id == last}) == 1
        receivers.gate.set()
        await at_rest(at)
        assert len(receivers.seen["/slow"]) == 1
        assert len(receivers.seen["/gone"]) == 1
        assert (await get(at, f"/jobs/{gone}?wait=20"))["state"] == "done"
        assert len((await get(at, f"/jobs/{slow}/deliveries"))["deliveries"]) == 1
        assert not receivers.trouble


async def test_a_resend_that_meets_410_ends_the_jobs_deliveries(tmp_path, valkey, receivers) -> None:
    async with house(tmp_path, valkey, receivers) as at:
        gate = at.fake.gate(after=1, model="alpha")
        job_id = await submitted(at, f"{receivers.url}/a")
        await gate.reached()
        await receivers.until(lambda it: it.seen["/a"] and it.seen["/a"][-1].event["state"] == "working")
        await at_rest(at)
        receivers.kinds["/a"] = ["410"]
        count = len(receivers.seen["/a"])
        await get(at, f"/deliveries/{receivers.seen['/a'][-1].id}/redeliver", "POST")
        await receivers.until(lambda it: len(it.seen["/a"]) > count)
        await at_rest(at)
        gate.open()
        assert (await get(at, f"/jobs/{job_id}?wait=20"))["state"] == "done"
        await at_rest(at)
        assert [one.event["state"] for one in receivers.seen["/a"]].count("done") == 0


async def test_nothing_is_left_but_what_ends_by_itself(tmp_path, valkey, receivers) -> None:
    receivers.kinds |= {"/500": ["500"], "/410": ["410"], "/reset": ["reset"], "/long": ["long"]}
    async with house(tmp_path, valkey, receivers, webhook_schedule="0s,20ms") as at:
        before = orphans(await endless(at))
        for path in ("/ok", "/500", "/410", "/reset", "/long", "/ok"):
            for more in ({}, {"webhook_events": ["failed"]}, {"priority": "low"}):
                await submitted(at, receivers.url + path, **more)
        gone = await submitted(at, f"{receivers.url}/500", not_before="2026-11-21T00:00:00Z")
        await get(at, f"/jobs/{gone}", "DELETE")
        await at.settled()
        await at_rest(at)
        assert orphans(await endless(at)) - before <= {"jobs"} - {"jobs"}
        assert "Traceback" not in at.log()


@pytest.mark.parametrize("victim", ["background", "worker", "gateway"])
async def test_a_killed_process_loses_no_end(tmp_path, valkey, receivers, victim) -> None:
    receivers.kinds |= {"/flaky": ["500", "reset"] * 4 + ["ok"], "/gate": ["gate", "ok"]}
    async with house(tmp_path, valkey, receivers, "apart", webhook_schedule=",".join(["200ms"] * 30)) as at:
        paths = ["/flaky", "/ok", "/gate"]
        ids = [await submitted(at, receivers.url + path) for path in paths]
        await receivers.until(lambda it: it.seen["/gate"])
        await at.house.stop(victim, signal.SIGKILL)
        receivers.gate.set()
        await at.house.spawn(victim, "--role", victim)
        for path, job_id in zip(paths, ids, strict=True):
            events = await told(receivers, path, timeout=30)
            assert events[-1]["job_id"] == job_id
            same: dict[str, set[bytes]] = {}
            for one in receivers.seen[path]:
                same.setdefault(one.id, set()).add(one.body)
            assert all(len(bodies) == 1 for bodies in same.values())
        await at_rest(at, 30)
        for job_id in ids:
            events = (await at.house.until(lambda it: it.get("events"), f"/jobs/{job_id}/events"))["events"]
            assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
            assert sum(event["state"] in ENDS for event in events) == 1


async def test_a_killed_store_loses_no_end(tmp_path, receivers) -> None:
    receivers.kinds["/flaky"] = ["500"] * 3 + ["ok"]
    server = EmbeddedServer(tmp_path / "store", "always")
    url = await asyncio.to_thread(server.start)
    try:
        async with house(tmp_path, url, receivers, webhook_schedule=",".join(["300ms"] * 30)) as at:
            job_id = await submitted(at, f"{receivers.url}/flaky")
            await receivers.until(lambda it: it.seen["/flaky"])
            os.kill(server.pid, signal.SIGKILL)
            await told(receivers, "/flaky", timeout=30)
            assert (await at.house.until(lambda it: it.get("state") == "done", f"/jobs/{job_id}"))["job_id"] == job_id
            await at_rest(at)
    finally:
        await asyncio.to_thread(server.stop)


async def test_a_job_outlives_its_time_until_it_has_been_told(tmp_path, valkey, receivers) -> None:
    receivers.kinds["/a"] = ["gate", "ok"]
    async with house(tmp_path, valkey, receivers, job_ttl="300ms") as at:
        job_id = await submitted(at, f"{receivers.url}/a")
        await receivers.until(lambda it: it.seen["/a"])
        await at.settled()
        other = json.loads((await at.post("/jobs", CHAT)).body)["job_id"]
        await at.house.until(lambda it: "job_id" not in it, f"/jobs/{other}")
        assert (await get(at, f"/jobs/{job_id}"))["state"] == "done"
        receivers.gate.set()
        last = (await told(receivers, "/a"))[-1]
        assert last["result"]["done"] is True
        await at_rest(at)
        await at.house.until(lambda it: "job_id" not in it, f"/jobs/{job_id}")
        assert (await get(at, f"/jobs/{job_id}/deliveries"))["deliveries"]
