"""However much there is, and whatever it is called: what operators see stays bounded, and says what it leaves out."""

from __future__ import annotations

import asyncio
import json

import pytest
from prometheus_client.parser import text_string_to_metric_families

from foreman import metrics
from foreman.core.jobs import Priority
from foreman.store import keys as k
from foreman.store.client import redis_client
from foreman.web.ops.snapshot import LANES
from tests.store.ground import new_id
from tests.web.conftest import wait_until
from tests.web.ops.test_feed import Listener

MANY = 10_000
NAMES = {
    "html": "<img src=x onerror=alert(1)>&\"'",
    "long": "m" * 200,
    "rtl": "\u202eדגם-עברי",
    "lines": "two\nlines\r\x1b[2J",
    "slashes": "hf.co/a/b%2Fc?x=1",
}


async def seed(store, count: int, models: list[str]) -> None:
    """Lanes with a job each, the first with three, as `submit` leaves them."""
    queue = store.queue
    command, keys = queue._connection.command, queue.keys
    for first in range(0, count, 100):
        calls = []
        for number in range(first, min(count, first + 100)):
            name = models[number] if number < len(models) else f"model-{number}:latest"
            lane = name[:120]
            calls.append(command("SADD", keys.of(k.LANES, "drain"), lane))
            calls.append(command("HSET", keys.of(k.FACTS, "drain", lane), "model", name, "n1", 1))
            for due in range(3 if number == 0 else 1):
                job_id = new_id()
                row = {
                    "state": "queued",
                    "surface": "async",
                    "endpoint": "/api/chat",
                    "model": name,
                    "lane": lane,
                    "slot": "drain",
                    "priority": int(Priority.NORMAL),
                    "attempt": 1,
                    "epoch": 0,
                    "seq": 1,
                    "created_at": 1000 + number,
                    "changed_at": 1000,
                    "due": 2000 + number,
                }
                flat = [part for pair in row.items() for part in pair]
                calls.append(command("HSET", keys.of(k.JOB, job_id), *flat))
                calls.append(command("ZADD", keys.of(k.LANE, "drain", lane), 2000 + number + due, job_id))
                calls.append(command("ZADD", keys.of(k.QUEUED, "drain"), 2000 + number + due, job_id))
        await asyncio.gather(*calls)


@pytest.fixture
async def seeded(store, valkey):
    """Many lanes; gone afterwards in a few commands, before anybody looks at each key."""
    await seed(store, MANY, list(NAMES.values()))
    yield
    async with redis_client(valkey) as client:
        found = [key async for key in client.scan_iter(match=f"{store.queue.keys.prefix}*", count=5000)]
        for first in range(0, len(found), 5000):
            await client.unlink(*found[first : first + 5000])


def parsed(text: bytes) -> dict[tuple, float]:
    return {
        (sample.name, *(sample.labels[label] for label in sorted(sample.labels))): sample.value
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
    }


@pytest.mark.timeout(120)
async def test_ten_thousand_lanes(seeded, gateway, worker, dial) -> None:
    caller = await dial(gateway)
    reply = await caller.get("/ops/state")
    state = reply.json()
    assert len(state["lanes"]) == LANES
    assert len(reply.body) < 200_000
    shown = sum(lane["depth"] for lane in state["lanes"])
    assert state["lanes_more"] == {"lanes": MANY - LANES, "jobs": MANY + 2 - shown}
    assert state["jobs"]["queued"] == MANY + 2
    assert state["lanes"][0]["depth"] == 3, "the deepest first"
    assert {lane["model"] for lane in state["lanes"]} >= set(NAMES.values()), "and those that are due first"
    found = (await caller.get("/ops/lanes?search=MODEL-77&limit=50")).json()
    assert len(found["lanes"]) == 50
    assert found["lanes_more"]["lanes"] == 111 - 50
    assert all("model-77" in lane["model"] for lane in found["lanes"])
    text = await caller.get("/metrics")
    assert len(text.body) < 100_000
    depth = {key[1]: value for key, value in parsed(text.body).items() if key[0] == "foreman_lane_depth"}
    assert (len(depth), sum(depth.values())) == (metrics.LANES + 1, MANY + 2)
    listener = Listener(await dial(gateway))
    await listener.open()
    assert (await listener.event())[0] == "snapshot"
    assert len(listener.state["lanes"]) == LANES
    assert len(json.dumps(listener.state)) < 200_000


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
async def test_a_lane_of_any_name_is_shown_paused_cleared_and_measured(gateway, worker, dial, store, name) -> None:
    from urllib.parse import quote

    await seed(store, 1, [name])
    caller = await dial(gateway)
    (lane,) = (await caller.get("/ops/state")).json()["lanes"]
    assert (lane["lane"], lane["model"]) == (name[:120], name)
    assert parsed((await caller.get("/metrics")).body)["foreman_lane_depth", name[:120]] == 3
    path = f"/ops/lanes/{quote(name[:120], safe='')}"
    assert (await caller.post(f"{path}/pause", b"")).json()["name"] == name[:120]
    assert (await caller.get("/ops/state")).json()["lanes"][0]["paused"]
    assert (await caller.post(f"{path}/resume", b"")).json()["changed"]
    assert (await caller.post(f"{path}/clear", b"")).json() == {"lane": name[:120], "cancelled": 3, "left": 0}
    deeds = (await caller.get("/ops/audit")).json()["audit"]
    assert [deed["name"] for deed in deeds] == [name[:120]] * 3


async def test_nothing_at_all(open_gateway, dial) -> None:
    gateway = await open_gateway()
    await wait_until(gateway.inventory.store_answers)
    caller = await dial(gateway)
    state = (await caller.get("/ops/state")).json()
    assert (state["targets"], state["lanes"], state["workers"]) == ([], [], [])
    assert any("no worker has announced a target" in reason for reason in state["reasons"])
    found = parsed((await caller.get("/metrics")).body)
    assert (found["foreman_jobs_now", "queued"], found["foreman_workers",], found["foreman_lanes",]) == (0, 0, 0)
    assert (await caller.get("/ops/audit")).json() == {"audit": []}
    assert (await caller.get("/ops/lanes?search=x")).json() == {
        "lanes": [],
        "lanes_more": {"lanes": 0, "jobs": 0},
    }
