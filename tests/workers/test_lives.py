"""Targets that go down, workers that leave, are lost or killed: who runs the jobs then, and how often."""

import asyncio
import contextlib
import os
import signal
import sys
from pathlib import Path

import pytest

from foreman.core.errors import Code, Failure
from foreman.core.jobs import State
from foreman.settings import load
from foreman.store.keys import INBOX
from tests.workers.conftest import wait_until
from workers import service
from workers.service import Worker

ROOT = Path(__file__).parents[2]


async def test_a_down_target_keeps_its_jobs_without_using_an_attempt_and_serves_them_when_it_is_back(ollama, floor):
    fake = await ollama(["a"])
    here = await floor(gpu=fake)
    await fake.stop()
    caller = await here.submit("a")
    await wait_until(lambda: not here.worker.targets["gpu"].up)
    status = await wait_until(lambda: _down(here))
    assert "cannot be reached" in status.error
    job = await here.job(caller)
    assert (job.state, job.attempt, job.seq) == (State.QUEUED, 1, 3)  # claimed once, back once, and never since
    await fake.start()
    await caller.ended()
    job = await here.final(caller)
    assert (job.state, job.attempt) == (State.DONE, 1)


async def test_an_order_that_makes_no_sense_ends_one_life_and_no_more(ollama, floor):
    fake = await ollama(["a"])
    here = await floor(gpu=fake)
    before = here.worker.id
    queue = here.worker._queue
    await queue._connection.command("RPUSH", queue.keys.of(INBOX, "worker", before), "{}")
    await wait_until(lambda: here.worker.id != before)
    caller = await (await here.submit("a")).ended()
    assert caller.calls[-1] == "end"


async def _down(here):
    status = await here.status("gpu")
    return status if status.state == "down" else None


async def test_a_target_that_dies_in_mid_answer_is_down_and_comes_back(ollama, floor):
    fake = await ollama(["a"], tokens=9)
    here = await floor(gpu=fake)
    fake.gate(after=2)
    caller = await here.submit("a")
    await caller.until(lambda c: len(c.units) == 2)
    await fake.stop()
    await caller.ended()
    assert caller.failure.code == Code.UPSTREAM_TRUNCATED
    await wait_until(lambda: not here.worker.targets["gpu"].up)
    fake.clear()
    await fake.start()
    after = await (await here.submit("a")).ended()
    assert after.calls[-1] == "end"


async def test_a_second_worker_stands_by_and_takes_over_when_the_first_leaves(ollama, floor):
    fake = await ollama(["a"])
    here = await floor(gpu=fake)
    await (await here.submit("a")).ended()
    second = Worker(here.settings, here.store, "wk-second", here.link)
    await second.start()
    try:
        await here.worker.stop(0)
        await wait_until(lambda: second.targets and second.targets["gpu"].up)
        job = await here.final(await (await here.submit("a")).ended())
        assert job.worker == "wk-second"
        assert "loading_ms" not in job.timings  # it took over what the first had published
        assert len(fake.loads) == 1
    finally:
        await second.stop(0)


async def test_stopping_lets_a_run_end_within_the_grace(ollama, floor):
    fake = await ollama(["a"])
    here = await floor(gpu=fake)
    gate = fake.gate(after=1)
    caller = await here.submit("a")
    await gate.reached()
    waiting = await here.submit("a")
    async with asyncio.TaskGroup() as group:
        stopping = group.create_task(here.worker.stop(20))
        await wait_until(lambda: here.worker.targets["gpu"].stopping)
        gate.open()
        await caller.ended()
        await stopping
    assert (await here.job(caller)).state is State.DONE
    assert (await here.job(waiting)).state is State.QUEUED
    assert await here.queue.workers() == []


async def test_stopping_past_the_grace_gives_back_what_has_no_byte_and_fails_what_has(ollama, floor):
    fake = await ollama(["a"], slots=2)
    here = await floor(gpu=fake, options="&slots=2")
    await (await here.submit("a")).ended()
    fake.gate(after=1)
    spliced = await here.submit("a")
    await spliced.until(lambda c: c.units)
    gate = fake.gate()
    silent = await here.submit("a")
    await gate.reached()
    await here.worker.stop(0)
    job = await here.job(silent)
    assert (job.state, job.attempt) == (State.QUEUED, 1)
    assert silent.calls[-1] == "lost"
    job = await here.job(spliced)
    assert (job.state, job.error["code"]) == (State.FAILED, "interrupted")
    assert spliced.failure.code == Code.INTERRUPTED
    await fake.until(lambda f: f.cancels == 2)


async def test_a_target_that_is_told_otherwise_is_served_once_at_a_time(ollama, floor):
    fake = await ollama(["a"])
    here = await floor(gpu=fake)
    gate = fake.gate()
    caller = await here.submit("a")
    await gate.reached()
    before = here.worker.targets["gpu"]
    here.worker.retarget(load(targets=f"gpu={fake.url}?slots=2", redis_url=here.settings.redis_url).target_list)
    await wait_until(lambda: before.stopping)
    waiting = await here.submit("a")
    assert (await here.job(waiting)).state is State.QUEUED
    assert here.worker.targets["gpu"] is before
    gate.open()
    await caller.ended()
    await waiting.ended()
    assert here.worker.targets["gpu"].settings.slots == 2


async def test_a_life_that_ends_while_a_target_leaves_leaves_nothing_behind(ollama, floor):
    fake = await ollama(["a"])
    here = await floor(gpu=fake)
    gate = fake.gate()
    caller = await here.submit("a")
    await gate.reached()
    anew = load(targets=f"gpu={fake.url}?slots=2", redis_url=here.settings.redis_url).target_list
    here.worker.retarget(anew)
    await wait_until(lambda: here.worker.targets["gpu"].stopping)  # it leaves once its run has ended
    old = here.worker.id
    await here.queue.retire(old)
    await wait_until(lambda: here.worker.id != old)
    gate.open()
    await wait_until(lambda: "gpu" in here.worker.targets and here.worker.targets["gpu"].up)
    await caller.ended()
    assert (await here.final(caller)).state is State.DONE
    assert here.worker.targets["gpu"].settings.slots == 2


async def test_a_worker_whose_lease_is_lost_drops_everything_and_begins_anew(ollama, floor):
    fake = await ollama(["a"])
    here = await floor(gpu=fake)
    gate = fake.gate()
    caller = await here.submit("a")
    await gate.reached()
    old = here.worker.id
    await here.queue.retire(old)  # as after a SIGSTOP of more than 4 s: its lease is over, its jobs are back
    await fake.until(lambda f: f.cancels == 1)
    gate.open()
    await caller.ended()
    job = await here.final(caller)
    assert job.state is State.DONE
    assert job.worker == here.worker.id != old
    assert caller.calls.count("started") == 2


async def test_targets_join_and_leave_while_it_works(ollama, floor):
    first, second = await ollama(["a"]), await ollama(["a"])
    here = await floor(first=first)
    gate = first.gate(after=1)
    running = await here.submit("a")
    await gate.reached()
    joined = load(targets=f"second={second.url}", redis_url=here.settings.redis_url).target_list
    here.worker.retarget(joined)
    await here.up("second")
    waiting = await (await here.submit("a")).ended()
    assert (await here.final(waiting)).target == "second"
    assert not running.over.is_set()
    gate.open()
    await running.ended()
    assert (await here.final(running)).state is State.DONE
    await wait_until(lambda: _gone(here, "first"))
    here.worker.retarget(load(targets=f"second={first.url}", redis_url=here.settings.redis_url).target_list)
    await wait_until(lambda: _at(here, "second", first.url))  # the same name, another server
    assert (await here.final(await (await here.submit("a")).ended())).state is State.DONE


async def test_a_target_that_was_renamed_leaves_the_list(ollama, floor, monkeypatch):
    monkeypatch.setattr("workers.service.RENAMED", 0.05)
    fake = await ollama(["a"])
    before = await floor(old=fake)
    await before.worker.stop(0)
    assert (await before.status("old")).state == "down"
    here = await floor(new=fake)
    await wait_until(lambda: _gone(here, "old"))
    assert (await here.status("new")).state == "up"


async def _gone(here, name):
    return await here.status(name) is None


async def _at(here, name, url):
    status = await here.status(name)
    return status is not None and status.url == url and status.state == "up"


async def test_a_fault_of_ours_costs_a_target_a_fresh_start_and_no_job(ollama, floor, monkeypatch):
    from foreman.core import scheduler

    fake = await ollama(["a"])
    here = await floor(gpu=fake)
    await (await here.submit("a")).ended()
    choose = scheduler.choose
    broken = []

    def breaks(*args):
        if not broken:
            broken.append(True)
            raise RuntimeError("a bug")
        return choose(*args)

    monkeypatch.setattr(scheduler, "choose", breaks)
    callers = [await here.submit("a", options={"num_ctx": size}) for size in (1, 2)]
    for caller in callers:
        assert (await here.final(await caller.ended())).state is State.DONE
    assert broken


async def test_a_store_that_is_away_kills_nothing(ollama, floor, monkeypatch):
    from foreman.store.errors import StoreUnavailableError

    fake = await ollama(["a"], tokens=4)
    here = await floor(gpu=fake)
    gate = fake.gate(after=1)
    caller = await here.submit("a")
    await caller.until(lambda c: c.units)
    away = True
    script = here.queue._connection.script

    async def maybe(*args):
        if away:
            raise StoreUnavailableError("the store is away")
        return await script(*args)

    monkeypatch.setattr(here.queue._connection, "script", maybe)
    gate.open()
    await caller.ended()  # the running stream goes on to its end
    assert caller.calls[-1] == "end"
    await asyncio.sleep(0)
    away = False
    assert (await here.final(caller)).state is State.DONE
    after = await (await here.submit("a")).ended()
    assert after.calls[-1] == "end"


async def test_a_way_to_no_gateway_gives_the_job_back_without_an_attempt(ollama, floor):
    fake = await ollama(["a"])
    here = await floor(gpu=fake)
    here.link.unregister(here.gateway)
    caller = await here.submit("a")
    events = []

    async def backs():
        job = await here.job(caller)
        events.append(job.state)
        return job.seq >= 3

    await wait_until(backs)
    here.link.register(here.gateway, here.door)
    await caller.ended()
    job = await here.final(caller)
    assert (job.state, job.attempt) == (State.DONE, 1)


WORKER = """
import asyncio, sys
from foreman.settings import load
from foreman.store.client import connect
from workers.service import Worker

async def main():
    settings = load()
    store = await connect(settings, settings.redis_url)
    await Worker(settings, store, "wk-doomed").start()
    print("READY", file=sys.stderr, flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
async def test_a_killed_workers_job_is_claimed_again(ollama, floor, pool, valkey, how):
    fake = await ollama(["a"])
    here = await floor(gpu=fake, start=False)
    env = os.environ | {
        "PYTHONPATH": str(ROOT),
        "FOREMAN_REDIS_URL": valkey,
        "FOREMAN_POOL": pool,
        "FOREMAN_TARGETS": here.settings.targets,
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", WORKER, env=env, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE
    )
    try:
        assert (await process.stderr.readline()).strip() == b"READY"
        await here.up("gpu")
        gate = fake.gate()
        caller = await here.submit("a", gateway_less=True)
        await gate.reached()
        process.send_signal(how)
        await here.worker.start()
        gate.open()
        async with asyncio.timeout(60):  # ten times the promise, which tests/faults measures
            job = await here.final(caller)
        assert (job.state, job.attempt, job.worker) == (State.DONE, 2, here.worker.id)
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
        await here.worker.stop(0)


async def test_a_wish_to_cancel_reaches_the_target_at_once(ollama, floor, monkeypatch):
    monkeypatch.setattr(service, "RECOVER", 3600)  # which would bring it too, a second later
    fake = await ollama(["a"], tokens=50)
    here = await floor(gpu=fake)
    fake.gate(after=1)
    caller = await here.submit("a")
    await caller.until(lambda c: c.units)
    await here.queue.cancel(caller.job_id, Failure(Code.CALLER_GONE, "left"))
    await fake.until(lambda f: f.cancels == 1)
