"""What operators look at: lanes at a glance, what was counted, the last runs and failures, how processes do."""

from __future__ import annotations

import os

import pytest
from structlog.testing import capture_logs

from foreman.core.errors import Code, Failure
from foreman.core.jobs import Priority, Slot, State
from foreman.store import keys as k
from foreman.store.pulse import Pulse
from foreman.store.swaps import SwapRecord
from tests.waiting import wait_until

LATE = Failure(Code.STALLED, 'nothing came: "code": "x"')


@pytest.fixture
def views(ground):
    return ground.store.views


async def end(ground, job, to=State.DONE, **more) -> None:
    assert await ground.queue.transition(job.id, job.epoch, to, reason="test", **more)


async def run(ground, own, to=State.DONE, *, timings=None, usage=None, failure=None, **changes) -> str:
    job_id = await ground.submit(**changes)
    claimed = await ground.claim(own, lane=changes.get("lane", "lane-a"))
    await end(ground, claimed.job, to, timings=timings, usage=usage, failure=failure)
    return job_id


async def test_lanes_the_deepest_and_those_that_are_due_first(ground, views) -> None:
    for number in range(6):
        await ground.submit(lane=f"lane-{number}", canonical=f"Model-{number}:latest", max_wait=100.0 + number)
    await ground.submit(lane="lane-5", canonical="Model-5:latest", max_wait=200.0)
    await ground.submit(lane="lane-e", slot=Slot.EMBED, max_wait=500.0, priority=Priority.LOW)
    glance = await views.lanes(4)
    assert (glance.total, glance.jobs) == (7, 8)
    assert [(lane.lane, lane.depth) for lane in glance.lanes] == [
        *(("lane-5", 2), ("lane-0", 1)),
        *(("lane-1", 1), ("lane-2", 1)),
    ]
    assert [lane.position for lane in glance.lanes] == [6, 1, 2, 3]
    found = await views.lanes(10, "MODEL-3")
    assert (found.total, [lane.model for lane in found.lanes]) == (1, ["Model-3:latest"])
    (embed,) = (await views.lanes(10, "lane-e")).lanes
    assert (embed.slot, embed.head_class, embed.position) == (Slot.EMBED, Priority.LOW, 1)


async def test_the_oldest_is_not_always_the_head(ground, views) -> None:
    old = await ground.submit(max_wait=1000.0)
    await ground.look.hset(ground.key(k.JOB, old), "created_at", 5000)
    await ground.submit(max_wait=0.0)
    (lane,) = (await views.lanes(10)).lanes
    assert lane.oldest_since == 5.0
    await ground.look.hset(ground.key(k.JOB, old), "not_before", 7000)
    (lane,) = (await views.lanes(10)).lanes
    assert lane.oldest_since == 7.0, "before its time it did not wait"


async def test_ends_are_counted_in_the_step_that_ends(ground, views) -> None:
    own = await ground.owner()
    timings = {"queued_ms": 3.2, "ttft_ms": 1.0, "tpot_ms": 0.5, "total_ms": 2_000_000.0}
    await run(ground, own, timings=timings, usage={"prompt_tokens": 7, "completion_tokens": 5}, caller="anna")
    await run(ground, own, timings={"queued_ms": 1.0, "ttft_ms": 9.0, "total_ms": 9.5}, stream=False)
    await run(ground, own, State.FAILED, failure=LATE, endpoint="/v1/messages")
    queued = await ground.submit()
    await ground.queue.cancel(queued, Failure(Code.CALLER_GONE, "gone"))
    counts = (await views.meters()).counts
    assert {name: count for name, count in counts.items() if not name.startswith(("bucket", "sum"))} == {
        "jobs:done:/api/chat": 2,
        "jobs:failed:/v1/messages": 1,
        "jobs:cancelled:/api/chat": 1,
        "failures:stalled": 1,
        "cancels:caller_gone": 1,
        "tokens:prompt": 7,
        "tokens:completion": 5,
    }
    assert {name: count for name, count in counts.items() if name.startswith("bucket")} == {
        "bucket:queue_wait:2": 1,
        "bucket:queue_wait:0": 1,
        "bucket:ttft:0": 1,
        "bucket:tpot:0": 1,
        "bucket:total:21": 1,
        "bucket:total:4": 1,
    }
    assert (counts["sum:queue_wait"], counts["sum:tpot"], counts["sum:total"]) == (4200, 500, 2_000_009_500)


async def test_ending_twice_counts_once(ground, views) -> None:
    own = await ground.owner()
    job_id = await ground.submit()
    claimed = await ground.claim(own)
    await end(ground, claimed.job)
    assert not await ground.queue.transition(job_id, claimed.job.epoch, State.DONE, reason="test")
    assert (await views.meters()).counts == {"jobs:done:/api/chat": 1}


async def test_loads_are_timed(ground, views) -> None:
    swap = SwapRecord(target="gpu1", lane="a", model="m", reason="due", t0=100.0, loaded=103.5)
    await ground.store.swaps.record(swap)
    counts = (await views.meters()).counts
    assert counts == {"bucket:load:12": 1, "sum:load": 3_500_000}


async def test_how_the_last_runs_of_lanes_went(ground, views) -> None:
    own = await ground.owner()
    timings = {"queued_ms": 3.0, "ttft_ms": 10.0, "tpot_ms": 2.5}
    await run(ground, own, timings=timings, caller="anna")
    await run(ground, own, State.FAILED, failure=LATE, stream=False, timings={"ttft_ms": 5.0})
    recent = await views.recent(["lane-a", "lane-b"])
    assert recent["lane-b"] == []
    failed, done = recent["lane-a"]
    assert (failed.state, failed.code, failed.ttft, failed.caller) == (State.FAILED, "stalled", None, None)
    assert (done.state, done.ttft, done.tpot, done.queued, done.caller) == (State.DONE, 10.0, 2.5, 3.0, "anna")
    for _ in range(40):
        await run(ground, own)
    assert len((await views.recent(["lane-a"]))["lane-a"]) == 32
    assert await views.recent([]) == {}


async def test_failures_by_code(ground, views) -> None:
    own = await ground.owner()
    stalled = [await run(ground, own, State.FAILED, failure=LATE, model=f"m{number % 2}") for number in range(7)]
    other = await run(ground, own, State.FAILED, failure=Failure(Code.UPSTREAM_ERROR, "no"))
    await run(ground, own)
    found = await views.failures()
    assert (found.looked_at, found.total) == (8, 8)
    groups = {group.code: group for group in found.groups}
    assert groups.keys() == {"stalled", "upstream_error"}
    assert groups["stalled"].count == 7
    assert groups["stalled"].message == LATE.message
    assert len(groups["stalled"].job_ids) == 5
    assert set(groups["stalled"].job_ids) <= set(stalled)
    assert set(groups["stalled"].models) == {"m0", "m1"}
    assert groups["upstream_error"].job_ids == (other,)
    assert groups["upstream_error"].targets == ("gpu1",)


async def test_which_jobs_ran_when(ground, views) -> None:
    own = await ground.owner()
    done = await run(ground, own)
    failed = await run(ground, own, State.FAILED, failure=LATE)
    await ground.queue.cancel(await ground.submit(), Failure(Code.CANCELLED, "by hand"))
    ran = await views.ran(0.0)
    assert {(one.job_id, one.state) for one in ran} == {(done, State.DONE), (failed, State.FAILED)}
    assert all(one.began <= one.ended and (one.target, one.lane) == ("gpu1", "lane-a") for one in ran)
    assert await views.ran(ran[0].ended + 100) == []


async def test_how_processes_do(ground, views) -> None:
    heard = []
    pulse = Pulse(views, "worker", lambda: "wk-1", heard.append)
    await pulse._tell()
    assert heard == [pulse.latency]
    await pulse._tell()
    (said,) = await views.lives()
    assert (said["role"], said["id"], said["loop_lag_ms"]) == ("worker", "wk-1", 0.0)
    assert said["store_latency_ms"] > 0
    assert said["rss_bytes"] is None or said["rss_bytes"] > 1_000_000
    assert said["files_limit"] > said["files_worst"] >= 0
    text = (await ground.look.hget(ground.key(k.LIVE), "worker:wk-1")).partition(" ")[2]
    await ground.look.hset(ground.key(k.LIVE), "worker:wk-1", f"1 {text}")
    assert await views.lives() == [], "nobody has heard of it for long"


async def test_a_process_that_is_short_of_files_says_so_once(ground, views, monkeypatch) -> None:
    from foreman.store import pulse as module

    pulse, opened = Pulse(views, "gateway", lambda: "gw-1"), []
    try:
        pulse._count_files()
        few = pulse.said()["files_worst"]
        monkeypatch.setattr(module, "_files_limit", lambda: few + 10)
        monkeypatch.setattr(module, "SHORT", 1.0)
        with capture_logs() as logs:
            pulse._count_files()
            opened = [os.open(os.devnull, os.O_RDONLY) for _ in range(20)]
            for _ in range(3):
                pulse._count_files()
        assert [entry["event"] for entry in logs] == ["files.short"]
        assert pulse.said()["files_worst"] >= few + 20
    finally:
        for descriptor in opened:
            os.close(descriptor)


async def test_a_loop_that_is_held_up_shows(ground, views, monkeypatch) -> None:
    import asyncio
    import time

    from foreman.store import pulse as module

    monkeypatch.setattr(module, "TICK", 0.01)
    pulse = Pulse(views, "gateway", lambda: "gw-1")
    async with asyncio.TaskGroup() as group:
        beating = group.create_task(pulse.run())
        await asyncio.sleep(0)
        time.sleep(0.05)  # noqa: ASYNC251 - it is the stop
        await wait_until(lambda: pulse.latency is not None)
        beating.cancel()
    assert pulse.lag >= 0.03
