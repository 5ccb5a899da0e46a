"""How long from a submit to a worker with the body in hand, and how many jobs a second: `python -m tests.bench.store`.

Submitter and worker are two processes on an embedded server of their own (append-only file on), as gateway and worker
are with their roles apart. Prints a table; asserts nothing. The figures in docs/adr/0015 come from here.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import subprocess
import sys
import tempfile
import time
from typing import Any

import redis.asyncio
import uvloop

from foreman.core.ids import UlidFactory
from foreman.core.jobs import Priority, Slot, State, Surface
from foreman.store.client import Store, connect, redis_client
from foreman.store.embedded import EmbeddedServer
from foreman.store.errors import StoreUnavailableError
from foreman.store.records import NewJob, WorkerPresence
from foreman.store.scripts import script
from tests.conftest import StoreSettings

JOBS = 500
"""Latency: jobs one after another, RATE a second."""
RATE = 300
BULK = 6000
"""Throughput: jobs from PRODUCERS at once."""
PRODUCERS = 64
BODY = b'{"model":"llama3","messages":[{"role":"user","content":"' + b"x" * 740 + b'"}]}'
new_id = UlidFactory(lambda: time.time_ns() // 1_000_000, secrets.randbits)


class RedisPy:
    """The same narrow interface over redis-py, for comparison."""

    def __init__(self, client: redis.asyncio.Redis) -> None:
        self._client = client

    async def command(self, *args: Any) -> Any:
        return await self._client.execute_command(*args)

    async def script(self, name: str, *args: Any) -> Any:
        entry = script(name)
        try:
            return await self.command("EVALSHA", entry.sha, 1, *args)
        except redis.exceptions.NoScriptError:
            return await self.command("EVAL", entry.source, 1, *args)

    async def close(self) -> None:
        await self._client.aclose()


async def opened(url: str, way: str) -> Store:
    settings = StoreSettings("bench", max_queue=1_000_000)
    store = await connect(settings, url)
    if way == "redis-py":
        await store.close()

        async def another() -> Any:
            client = redis_client(url)
            client.response_callbacks.clear()
            return RedisPy(client)

        store = Store(await another(), another, "bench", store.queue._limits)
    return store


def new_job() -> NewJob:
    return NewJob(
        id=new_id(), surface=Surface.SYNC, endpoint="/api/chat", model="llama3", canonical="llama3:latest", lane="a",
        slot=Slot.DRAIN, priority=Priority.HIGH, request=BODY, max_wait=5.0, gateway="gw-1", targets=("gpu1",),
    )  # fmt: skip


async def work(url: str, way: str, count: int, durable: str) -> None:
    """The worker's process: wake-up, claim until nothing is left, done; prints when each job was in hand (ns)."""
    store = await opened(url, way)
    await store.queue.enroll(WorkerPresence("wk-1", 0.0, 0.0, ()))
    own = await store.queue.own("gpu1", "wk-1")
    assert own is not None
    inbox = await store.inbox("worker", "wk-1")
    inbox.watch(["gpu1"])
    print("ready", flush=True)
    done = 0
    beat = time.monotonic()
    pending: set[asyncio.Task[Any]] = set()
    async with asyncio.TaskGroup() as group:
        while done < count:
            if time.monotonic() - beat > 1:
                await store.queue.renew("wk-1")
                beat = time.monotonic()
            claimed = await store.queue.claim(own, "a", Slot.DRAIN, State.WORKING)
            if claimed is None:
                await inbox.receive()
                continue
            print(claimed.job.id, time.monotonic_ns())
            task = group.create_task(
                store.queue.transition(claimed.job.id, claimed.job.epoch, State.DONE, reason="done", notify=False)
            )
            pending.add(task)
            task.add_done_callback(pending.discard)
            if len(pending) > 64:
                await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            done += 1
    await store.close()


async def measure(url: str, way: str, durability: str) -> None:
    """Both loads, one way of talking to the store; one line of the table."""
    figures: list[str] = []
    for count, producers in ((JOBS, 1), (BULK, PRODUCERS)):
        worker = subprocess.Popen(
            [sys.executable, "-m", "tests.bench.store", "work", url, way, str(count), durability],
            stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert worker.stdout is not None
        assert worker.stdout.readline() == "ready\n"
        store = await opened(url, way)
        sent: dict[str, int] = {}
        acked: list[float] = []

        async def produce(
            share: int, pause: float, store: Store = store, sent: dict[str, int] = sent, acked: list[float] = acked
        ) -> None:
            for _ in range(share):
                job = new_job()
                sent[job.id] = time.monotonic_ns()
                await store.queue.submit(job)
                acked.append((time.monotonic_ns() - sent[job.id]) / 1e3)
                if pause:
                    await asyncio.sleep(pause)

        begun = time.monotonic_ns()
        shares = [count // producers + (number < count % producers) for number in range(producers)]
        reading = asyncio.to_thread(worker.stdout.read)
        async with asyncio.TaskGroup() as group:
            text = group.create_task(reading)
            for share in shares:
                group.create_task(produce(share, 1 / RATE if producers == 1 else 0.0))
        taken = {line.split()[0]: int(line.split()[1]) for line in text.result().splitlines()}
        worker.wait()
        if producers == 1:
            starts = [(taken[job_id] - at) / 1e3 for job_id, at in sent.items()]
            figures += [quantiles(starts), quantiles(acked)]
        else:
            figures.append(f"{count / (max(taken.values()) - begun) * 1e9:,.0f}")
        with contextlib.suppress(StoreUnavailableError):
            await store.close()
    print(f"| {way} | {durability} | {' | '.join(figures)} |", flush=True)


def quantiles(values: list[float]) -> str:
    values = sorted(values)
    return f"{values[len(values) // 2]:.0f} / {values[len(values) * 99 // 100]:.0f}"


async def main() -> None:
    print("| client | append-only file | submit → in hand p50 / p99 µs | submit p50 / p99 µs | jobs/s, whole life |")
    print("|---|---|---|---|---|")
    for durability in ("everysec", "always"):
        with tempfile.TemporaryDirectory() as folder:
            server = EmbeddedServer(folder, durability)
            url = server.start()
            try:
                for way in ("wire", "redis-py") * 3:
                    await measure(url, way, durability)
            finally:
                server.stop()


if __name__ == "__main__":
    if sys.argv[1:2] == ["work"]:
        uvloop.run(work(sys.argv[2], sys.argv[3], int(sys.argv[4]), sys.argv[5]))
    else:
        uvloop.run(main())
