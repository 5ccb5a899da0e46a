"""The ground the store's tests stand on: a queue over fakeredis or the embedded server, and hands to prepare it."""

from __future__ import annotations

import itertools
import time
from typing import TYPE_CHECKING, Any

from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError

from foreman.core.ids import UlidFactory
from foreman.core.jobs import Priority, Slot, State, Surface
from foreman.store import keys as k
from foreman.store.errors import ScriptError, StoreUnavailableError
from foreman.store.records import Claimed, GatewayPresence, NewJob, Ownership, TargetStatus, WorkerPresence
from foreman.store.roster import Limits
from foreman.store.scripts import script

if TYPE_CHECKING:
    from foreman.store.client import Store

_bits = itertools.count(1)
new_id = UlidFactory(lambda: int(time.time() * 1000), lambda _: next(_bits))


class FakeConnection:
    """A Connection over a redis-py client: what runs on the wire in production runs on fakeredis through this."""

    def __init__(self, client: Any) -> None:
        self._client = client

    async def command(self, *args: Any) -> Any:
        try:
            # a flat reply and bytes: what RESP says, not what redis-py makes of it
            return await self._client.execute_command(*args, NEVER_DECODE=True) if args else None
        except ResponseError as error:
            raise ScriptError(str(error)) from error
        except (RedisConnectionError, TimeoutError) as error:
            raise StoreUnavailableError(str(error)) from error

    async def script(self, name: str, *args: Any) -> Any:
        return await self.command("EVAL", script(name).source, 1, *args)

    async def close(self) -> None:
        await self._client.aclose()


def raw(client: Any) -> Any:
    """The client with redis-py's own reading of replies switched off."""
    client.response_callbacks.clear()
    return client


class Ground:
    """A pool with helpers that say what a test prepares."""

    def __init__(self, store: Store, look: Any) -> None:
        self.store = store
        self.queue = store.queue
        self.keys = store.queue.keys
        self.look = look
        """A redis-py client, decoding replies, to look behind the curtain."""

    def key(self, template: k.Template, *parts: str) -> str:
        return self.keys.of(template, *parts)

    async def submit(self, **changes: Any) -> str:
        new = new_job(**changes)
        await self.queue.submit(new)
        return new.id

    async def owner(self, worker: str = "wk-1", target: str = "gpu1") -> Ownership:
        """A living worker that owns a target and has published it."""
        await self.queue.enroll(WorkerPresence(worker, 0.0, 0.0, ()))
        own = await self.queue.own(target, worker)
        assert own is not None
        await self.queue.publish(own, status(target, worker))
        return own

    async def claim(self, own: Ownership, to: State = State.WORKING, lane: str = "lane-a") -> Claimed:
        claimed = await self.queue.claim(own, lane, Slot.DRAIN, to)
        assert claimed is not None
        return claimed

    async def in_state(self, state: State, **changes: Any) -> tuple[str, int]:
        """A job driven into `state` by legal moves, and its epoch."""
        own = await self.owner()
        job_id = await self.submit(**changes)
        if state is State.QUEUED:
            return job_id, 0
        if state is State.CANCELLED:
            assert await self.queue.transition(job_id, None, State.CANCELLED, reason="test")
            return job_id, 0
        first = State.LOADING if state is State.LOADING else State.WORKING
        claimed = await self.claim(own, first)
        assert claimed.job.id == job_id
        if state not in {State.LOADING, State.WORKING}:
            assert await self.queue.transition(job_id, claimed.job.epoch, state, reason="test")
        return job_id, claimed.job.epoch

    async def lapse(self, registry: k.Template, who: str) -> None:
        """Let a worker's lease or a gateway's presence be over, as if nobody had renewed it."""
        assert await self.look.zadd(self.key(registry), {who: 1}, xx=True, ch=True) == 1

    async def late(self, job_id: str) -> None:
        """Let a job's deadline have passed."""
        await self.look.hset(self.key(k.JOB, job_id), "deadline", 1)
        await self.look.zadd(self.key(k.DEADLINES), {job_id: 1})

    async def events(self, job_id: str) -> list[tuple[str, str]]:
        """(state, reason) of a job's events; their numbers are checked on the way."""
        entries = await self.look.xrange(self.key(k.EVENTS, job_id))
        assert [entry for entry, _ in entries] == [f"{seq}-0" for seq in range(1, len(entries) + 1)]
        return [(fields["state"], fields["reason"]) for _, fields in entries]


def new_job(**changes: Any) -> NewJob:
    """A sync chat call, changed as the test wants it."""
    values: dict[str, Any] = {
        "id": new_id(),
        "surface": Surface.SYNC,
        "endpoint": "/api/chat",
        "model": "llama3",
        "canonical": "llama3:latest",
        "lane": "lane-a",
        "slot": Slot.DRAIN,
        "priority": Priority.HIGH,
        "request": b'{"model":"llama3"}',
        "max_wait": 5.0,
        "gateway": "gw-1",
    }
    return NewJob(**(values | changes))


def status(target: str, worker: str, **changes: Any) -> TargetStatus:
    values: dict[str, Any] = {
        "name": target,
        "url": f"http://{target}",
        "kind": "ollama",
        "state": "up",
        "since": 1.0,
        "probed_at": 2.0,
        "worker": worker,
    }
    return TargetStatus(**(values | changes))


def gateway(name: str = "gw-1", **changes: Any) -> GatewayPresence:
    return GatewayPresence(**({"id": name, "link": "127.0.0.1:1", "callers": 0, "since": 1.5} | changes))


def worker(name: str = "wk-1", **changes: Any) -> WorkerPresence:
    return WorkerPresence(**({"id": name, "since": 0.0, "expires": 0.0, "targets": ()} | changes))


LIMITS = Limits(max_queue=20, max_attempts=3, job_ttl=3600.0, lease=60.0)
"""Small where a test reaches it; the lease long, so that it ends when a test says so and not on a slow machine."""
