"""A worker on strings: it owns targets in the real store and answers through the real local link, as a test says."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from foreman.core.jobs import Slot, State
from foreman.link.channel import Framing, Head
from foreman.store.lease import LeaseKeeper
from foreman.store.records import TargetStatus, WorkerPresence

if TYPE_CHECKING:
    from foreman.core.errors import Code, Failure
    from foreman.link.local import LocalLink
    from foreman.store.client import Store
    from foreman.store.records import Claimed

NDJSON = Head(200, (("Content-Type", "application/x-ndjson"),), Framing.NDJSON)
SSE = Head(200, (("Content-Type", "text/event-stream"),), Framing.SSE)
JSON = Head(200, (("Content-Type", "application/json; charset=utf-8"),), Framing.RAW)


def tag(name: str, digest: str = "d1" * 32) -> dict:
    """An entry of /api/tags."""
    return {
        "name": name,
        "model": name,
        "modified_at": "2026-11-21T07:04:49.1Z",
        "size": 98,
        "digest": digest,
        "details": {"parent_model": "", "format": "gguf", "family": "llama", "families": ["llama"]},
    }


class Run:
    """One claimed job in a test's hands; also its `Control`."""

    def __init__(self, puppet: Puppet, claimed: Claimed) -> None:
        self.puppet = puppet
        self.claimed = claimed
        self.job = claimed.job
        self.cancelled: asyncio.Future[Code] = asyncio.get_running_loop().create_future()
        self.paused = False
        self.outlet = None

    def cancel(self, code: Code) -> None:
        if not self.cancelled.done():
            self.cancelled.set_result(code)

    def pause(self) -> None:
        self.paused = True

    def resume(self) -> None:
        self.paused = False

    def begin(self, head: Head, *units: bytes) -> None:
        """The target has the request, and the answer has begun."""
        self.outlet.working()
        self.outlet.head(head)
        for unit in units:
            self.outlet.data(unit)

    async def done(self, *units: bytes, head: Head = NDJSON) -> None:
        """Give a whole answer and end the job well."""
        self.begin(head, *units)
        self.outlet.end()
        await self.end(State.DONE)

    async def failed(self, failure: Failure) -> None:
        """End the job with a failure that the link tells."""
        self.outlet.error(failure)
        await self.end(State.FAILED, failure)

    async def end(self, state: State, failure: Failure | None = None) -> None:
        """The job's last transition."""
        await self.puppet.store.queue.transition(
            self.job.id, self.job.epoch, state, reason="test", failure=failure, notify=False
        )


class Puppet:
    """One worker that owns the targets it publishes."""

    def __init__(self, store: Store, local: LocalLink, name: str = "wk-1") -> None:
        self.store = store
        self.local = local
        self.name = name
        self.owned = {}
        self._keeper = LeaseKeeper(store.url, store.queue.keys.pool, name, lambda: None)

    async def start(self) -> None:
        await self.store.queue.enroll(WorkerPresence(self.name, time.time(), time.time() + 4, ()))
        self._keeper.start()

    async def stop(self) -> None:
        await asyncio.to_thread(self._keeper.stop)

    async def publish(self, name: str = "gpu1", *models: str, **fields) -> None:
        """Own a target and publish what it has."""
        if name not in self.owned:
            self.owned[name] = await self.store.queue.own(name, self.name)
            assert self.owned[name] is not None
        fields = {
            "url": "http://127.0.0.1:11434",
            "kind": "ollama",
            "state": "up",
            "since": time.time(),
            "probed_at": time.time(),
            "worker": self.name,
            "version": "0.24.0",
            "tags": [tag(model) for model in models],
            **fields,
        }
        await self.store.queue.publish(self.owned[name], TargetStatus(name=name, **fields))

    async def claim(self, slot: Slot = Slot.DRAIN, target: str = "gpu1", to: State = State.WORKING) -> Run:
        """The next job of a slot, once there is one."""
        async with asyncio.timeout(60):
            while True:
                for lane in (await self.store.queue.survey(slot)).lanes:
                    claimed = await self.store.queue.claim(self.owned[target], lane.lane, slot, to)
                    if claimed is not None:
                        run = Run(self, claimed)
                        job = claimed.job
                        if job.gateway is not None:
                            run.outlet = await self.local.open(job.gateway, job.id, job.epoch, run, window=1 << 20)
                        return run
                await asyncio.sleep(0.005)
