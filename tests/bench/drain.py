"""The drain on the running system, against the same requests sent straight to the model server: ratios of one run.

`python tests/bench/drain.py [NAME …]` starts `foreman serve` in front of the stateful fake (which swaps as Ollama does) and
prints one block per scenario: bursts, a busy model and a stranger, a person beside a batch, how honest ETAs are, claims
per second. Nothing is asserted: a shared machine is slow when it pleases.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import multiprocessing
import random
import statistics
import sys
import tempfile
import time
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import aiohttp

sys.path.insert(0, str(Path(__file__).parents[2]))

from foreman.core.jobs import Priority, Slot, State, Surface
from foreman.demo.ollama import FakeOllama
from foreman.settings import load as settings_of
from foreman.store.client import connect, redis_client
from foreman.store.embedded import EmbeddedServer
from foreman.store.records import NewJob, WorkerPresence
from tests.rig import rig

if TYPE_CHECKING:
    from foreman.store.client import Store

RUN = 0.09
"""Seconds of an answer: nine tokens."""
LOAD = 0.4


def fake(models: str = "abc", *, slots: int = 4, load: float = LOAD, run: float = RUN) -> FakeOllama:
    return FakeOllama(list(models), tokens=9, token_seconds=run / 9, load_seconds=load, max_loaded=1, slots=slots)


async def chat(session: aiohttp.ClientSession, url: str, model: str, tokens: int = 9, **headers: str) -> float:
    """One call to its end; seconds until its first byte."""
    began = time.monotonic()
    ask = {"model": model, "messages": [{"role": "user", "content": "hi"}], "options": {"num_predict": tokens}}
    async with session.post(f"{url}/api/chat", json=ask, headers=headers) as reply:
        first = await reply.content.readany()
        waited = time.monotonic() - began
        rest = await reply.content.read()
        assert b'"done":true' in first + rest, (reply.status, first + rest)
    return waited


def targets(server: FakeOllama, slots: int = 4) -> str:
    return f"gpu={server.url}?slots={slots}&resident=1"


def session() -> aiohttp.ClientSession:
    return aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), timeout=aiohttp.ClientTimeout(total=600))


# ------------------------------------------------------------------------------------------------ scenarios


async def burst(folder: Path) -> None:
    """3 models x 20 interleaved requests."""

    async def all_at_once(url: str) -> float:
        began = time.monotonic()
        async with session() as calls:
            await asyncio.gather(*(chat(calls, url, "abc"[number % 3]) for number in range(60)))
        return time.monotonic() - began

    async with fake() as server:
        straight, loads = await all_at_once(server.url), len(server.loads)
    async with fake() as server, rig(folder, targets(server), models=3) as house:
        drained = await all_at_once(house.url)
        least = 3 * LOAD + 60 * RUN / 4
        print("burst: 3 models x 20 interleaved requests, 1 resident, 4 slots, loads of 400 ms")
        print(f"  straight   {loads:3d} loads  {straight:6.2f} s")
        print(f"  foreman    {len(server.loads):3d} loads  {drained:6.2f} s   (least possible {least:.2f} s)")
        print(f"  ratio      {straight / drained:.1f} x shorter")
        ledger = (await house.get("/ops/state"))["ledger"]
        print(f"  ledger     {ledger}")


async def stranger(folder: Path) -> None:
    """Six clients keep one model busy, one call for another comes."""
    seconds = 8.0

    async def window(url: str, *, disturbed: bool) -> tuple[int, float | None]:
        done, stop = 0, time.monotonic() + seconds
        async with session() as calls:

            async def busy() -> None:
                nonlocal done
                while time.monotonic() < stop:
                    await chat(calls, url, "a")
                    done += time.monotonic() < stop

            async def other() -> float:
                await asyncio.sleep(2.0)
                return await chat(calls, url, "b")

            await chat(calls, url, "a")
            waited = None
            async with asyncio.TaskGroup() as group:
                for _ in range(6):
                    group.create_task(busy())
                if disturbed:
                    try:
                        waited = await asyncio.wait_for(other(), 3 * seconds)
                    except TimeoutError:
                        waited = math.inf
        return done, waited

    print("stranger: six clients keep one model busy (4 slots, loads of 400 ms), one call for another comes after 2 s")
    for name in ("straight", "foreman"):
        async with fake() as server:
            if name == "straight":
                alone, (kept, waited) = (
                    (await window(server.url, disturbed=False))[0],
                    await window(server.url, disturbed=True),
                )
            else:
                async with rig(folder, targets(server), models=3, due_after="high=1s") as house:
                    alone = (await window(house.url, disturbed=False))[0]
                    kept, waited = await window(house.url, disturbed=True)
            note = (
                ""
                if name == "straight"
                else f"   bound {1.0 + 4 * 4 * LOAD + RUN + LOAD:.2f} s (due 1 s, stay of 4 quanta, a run, its load)"
            )
            print(
                f"  {name:10s} first byte after {waited:5.2f} s   the busy model keeps {kept / alone:.0%} of its {alone / seconds:.0f} calls/s{note}"
            )


async def person(folder: Path) -> None:
    """A person beside a low-priority batch of 500."""
    async with fake() as server, rig(folder, targets(server), models=3) as house, session() as calls:
        lines = "\n".join(
            json.dumps({"model": "a", "messages": [{"role": "user", "content": str(n)}], "priority": "low"})
            for n in range(500)
        )
        async with calls.post(f"{house.url}/jobs/batch", data=lines) as reply:
            await reply.read()
        waits = []
        await asyncio.sleep(1.0)
        while (await house.get("/ops/state"))["jobs"]["queued"] > 60:
            waits.append(await chat(calls, house.url, "b"))
            await asyncio.sleep(random.Random(len(waits)).uniform(0.2, 1.2))
        history = (await house.get("/ops/swaps"))["targets"][0]["residencies"]
        spans = [_seconds(one["loaded"]) - _seconds(one["began"]) for one in history]
        load = max(spans, default=LOAD)
        quantum = 4 * load
        print("person: calls of class high for another model beside a low-priority batch of 500")
        print(
            f"  {len(waits)} calls waited {statistics.mean(waits):.2f} s in the mean, {max(waits):.2f} s at most   bound by rule 3c {quantum + RUN + load:.2f} s (quantum, a run, the load; loads took up to {load:.2f} s)"
        )
        print(f"  {len(server.loads)} loads")


async def eta(folder: Path) -> None:
    """The first ETA of jobs that waited for a second or more."""
    for kind, goal in (("one length", 25), ("mixed", 35)):
        with tempfile.TemporaryDirectory(dir=folder) as own:
            await _eta_of(kind, goal, Path(own))


async def _eta_of(kind: str, goal: int, folder: Path) -> None:
    async with (
        fake("abcd", slots=1, load=0.8, run=0.2) as server,
        rig(folder, targets(server, 1), models=4) as house,
        session() as calls,
    ):
        draw = random.Random(7)

        async def submit(model: str) -> tuple[str, float | None]:
            tokens = 9 if kind == "one length" else min(120, max(1, round(draw.lognormvariate(math.log(9), 0.6))))
            ask = {"model": model, "messages": [], "priority": "high", "options": {"num_predict": tokens}}
            ask["messages"] = [{"role": "user", "content": "hi"}]
            async with calls.post(f"{house.url}/jobs", json=ask) as reply:
                told = await reply.json()
                return told["job_id"], told["eta_seconds"]

        async def finished(ids: list[str]) -> list[dict]:
            return [await (await calls.get(f"{house.url}/jobs/{one}?wait=60")).json() for one in ids]

        await finished([(await submit(model))[0] for model in "abcd" * 4])  # warm
        told = []
        end = time.monotonic() + 45
        while time.monotonic() < end:
            told.append(await submit(draw.choices("abcd", (5, 3, 2, 1))[0]))
            await asyncio.sleep(draw.expovariate(0.62 / 0.2))
        errors, close = [], 0
        for (_, expected), job in zip(told, await finished([one for one, _ in told]), strict=True):
            waited = _seconds(job["started_at"]) - _seconds(job["created_at"])
            if waited >= 1.0 and expected is not None:
                errors.append(abs(expected - waited) / waited)
                close += abs(expected - waited) <= max(0.5, 0.25 * waited)
        print(f"eta, {kind}: {len(told)} jobs in 4 lanes at load 0.6, {len(errors)} waited 1 s or more; warm estimates")
        print(
            f"  median relative error {statistics.median(errors):.0%} (goal {goal} %)   within max(0.5 s, 25 %): {close / len(errors):.0%}"
        )


def _seconds(stamp: str) -> float:
    return datetime.fromisoformat(stamp).timestamp()


# ------------------------------------------------------------------------------------------------ claims per second

JOBS = 8000
LANES = 4


def _claimer(url: str, number: int, out: multiprocessing.Queue) -> None:
    async def work() -> None:
        store = await connect(settings_of(redis_url=url, pool="bench"), url)
        queue = store.queue
        await queue.enroll(WorkerPresence(f"wk-{number}", 0.0, 0.0, ()))
        own = await queue.own(f"gpu{number}", f"wk-{number}")
        assert own is not None
        cursor, claimed, began = "", 0, time.monotonic()
        while True:
            await queue.renew(f"wk-{number}")
            for _ in range(100):
                got, seen = await queue.claim_and_look(
                    own, f"lane{(number + claimed) % LANES}", Slot.DRAIN, State.WORKING, cursor
                )
                cursor = seen.cursor
                if got is None:
                    break
                claimed += 1
                await queue.transition(got.job.id, got.job.epoch, State.DONE, reason="answered", notify=False)
            else:
                continue
            break
        out.put((claimed, time.monotonic() - began))
        await store.close()

    asyncio.run(work())


async def _queue_jobs(store: Store, prefix: str) -> None:
    """JOBS jobs over LANES lanes; `prefix`: how their ids begin."""
    for number in range(JOBS):
        await store.queue.submit(
            NewJob(
                f"{prefix}{number:019d}",
                Surface.ASYNC,
                "/api/chat",
                "m",
                "m:latest",
                f"lane{number % LANES}",
                Slot.DRAIN,
                Priority.NORMAL,
                b"{}",
                60.0,
            )
        )


async def _store_seconds(url: str) -> float:
    """CPU time of the store's server since its start."""
    redis = redis_client(url)
    used = await redis.info("cpu")
    await redis.aclose()
    return float(used["used_cpu_user"]) + float(used["used_cpu_sys"])


async def claims(folder: Path) -> None:
    """Claims per second over one store with 4 workers, each claim with its look at what changed, each job brought to its end."""
    server = EmbeddedServer(folder)
    url = await asyncio.to_thread(server.start)
    try:
        store = await connect(settings_of(redis_url=url, pool="bench"), url)
        began = time.monotonic()
        await _queue_jobs(store, "01BENCH")
        submitted = JOBS / (time.monotonic() - began)
        for workers in (1, 4):
            if workers == 4:
                await _queue_jobs(store, "01BENCI")
            busy = await _store_seconds(url)
            out: multiprocessing.Queue = multiprocessing.Queue()
            processes = [multiprocessing.Process(target=_claimer, args=(url, number, out)) for number in range(workers)]
            for process in processes:
                process.start()
            found = [await asyncio.to_thread(out.get) for _ in processes]
            for process in processes:
                process.join()
            busy = await _store_seconds(url) - busy
            seconds = max(seconds for _, seconds in found)
            print(
                f"claims: {workers} worker(s) over one store: {JOBS / seconds:,.0f} claims/s, each with its look and brought to its end"
                + (f" (submits, one after the other: {submitted:,.0f}/s)" if workers == 1 else "")
            )
            print(
                f"  the store's one thread ran for {busy / seconds:.0%} of the time, {busy / JOBS * 1e6:.0f} µs a job: with a core of its own, no more than {JOBS / busy:,.0f}/s"
            )
        await store.close()
    finally:
        await asyncio.to_thread(server.stop)


SCENARIOS = {"burst": burst, "stranger": stranger, "person": person, "eta": eta, "claims": claims}


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", choices=[*SCENARIOS, []])
    for name in parser.parse_args().names or SCENARIOS:
        with tempfile.TemporaryDirectory() as folder:
            await SCENARIOS[name](Path(folder))
        print(flush=True)


if __name__ == "__main__":
    asyncio.run(main())
