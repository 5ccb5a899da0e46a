"""A worker in this loop, in front of fakes, over the embedded store; callers are recording sinks on a local link."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
from dataclasses import dataclass, field

import pytest

from foreman.core.errors import Code
from foreman.core.jobs import TERMINAL, Priority, Slot, State, Surface
from foreman.core.lanes import canonical, lane_key
from foreman.demo.ollama import FakeOllama
from foreman.link.local import LocalLink
from foreman.settings import load
from foreman.store.records import GatewayPresence, NewJob
from tests.waiting import wait_until
from workers.service import Worker

_numbers = itertools.count(1)


class Caller:
    """A sink that writes everything down, as the relay of a gateway would be."""

    def __init__(self, job_id: str) -> None:
        self.job_id = job_id
        self.calls: list[str] = []
        self.epochs: list[int] = []
        self.heads = []
        self.units: list[bytes] = []
        self.failure = None
        self.feedback = None
        self.over = asyncio.Event()
        self.changed = asyncio.Event()

    @property
    def body(self) -> bytes:
        return b"".join(self.units)

    def _note(self, call: str) -> None:
        assert not self.over.is_set(), f"{call} after the end"
        self.calls.append(call)
        self.changed.set()

    def started(self, epoch, feedback):
        self._note("started")
        self.epochs.append(epoch)
        self.feedback = feedback

    def working(self):
        self._note("working")

    def head(self, head):
        self._note("head")
        self.heads.append(head)

    def data(self, unit):
        self.units.append(unit)
        self.changed.set()

    def held(self, waits):
        self.changed.set()

    def end(self):
        self._note("end")
        self.over.set()

    def error(self, failure):
        self._note(f"error {failure.code}")
        self.failure = failure
        self.over.set()

    def lost(self):
        self._note("lost")

    async def until(self, predicate, timeout: float = 60):
        async with asyncio.timeout(timeout):
            while not predicate(self):
                self.changed.clear()
                await self.changed.wait()

    async def ended(self, timeout: float = 60):
        async with asyncio.timeout(timeout):
            await self.over.wait()
        return self


class Door:
    """The gateway's end."""

    def __init__(self) -> None:
        self.callers: dict[str, Caller] = {}

    def accept(self, job_id):
        return self.callers.get(job_id)


@dataclass
class Floor:
    """One worker and what stands around it."""

    settings: object
    store: object
    link: LocalLink
    door: Door
    worker: Worker
    gateway: str
    others: list = field(default_factory=list)

    @property
    def queue(self):
        return self.store.queue

    async def submit(
        self,
        model,
        *,
        endpoint="/api/chat",
        slot=Slot.DRAIN,
        priority=Priority.HIGH,
        stream=True,
        body=None,
        options=None,
        digest=None,
        gateway_less=False,
        **more,
    ) -> Caller:
        """Queue a sync job and wait for it as its gateway would."""
        job_id = f"01TEST{next(_numbers):020d}"
        caller = Caller(job_id)
        self.door.callers[job_id] = caller
        if body is None:
            body = {"model": model, "messages": [{"role": "user", "content": "hi"}]}
            if endpoint == "/api/generate":
                body = {"model": model, "prompt": "hi"}
            elif slot is Slot.EMBED:
                body = {"model": model, "input": "hi"}
            if options:
                body["options"] = options
            if endpoint.startswith("/v1") and stream:
                body["stream"] = True
            if endpoint.startswith("/api") and not stream and slot is Slot.DRAIN:
                body["stream"] = False
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        await self.queue.submit(
            NewJob(
                id=job_id,
                surface=Surface.ASYNC if gateway_less else Surface.SYNC,
                endpoint=endpoint,
                model=model,
                canonical=canonical(model),
                lane=lane_key(model, digest, options or {}),
                slot=slot,
                priority=priority,
                request=raw,
                max_wait=self.settings.due_after[priority],
                options=options or {},
                digest=digest,
                stream=stream,
                gateway=None if gateway_less else self.gateway,
                **more,
            )
        )
        return caller

    async def job(self, caller: Caller):
        return await self.queue.get(caller.job_id)

    async def final(self, caller: Caller):
        """The job once it is terminal."""

        async def ended():
            job = await self.job(caller)
            return job if job.state in TERMINAL else None

        return await wait_until(ended)

    async def status(self, name: str):
        return next((status for status in await self.queue.targets() if status.name == name), None)

    async def up(self, *names: str):
        """Until the targets are up and published."""

        async def all_up():
            states = {status.name: status.state for status in await self.queue.targets()}
            return all(states.get(name) == "up" for name in names)

        await wait_until(all_up)


@pytest.fixture
async def ollama():
    """A factory: `await ollama(models, …)` is a running fake; all are stopped after the workers in front of them."""
    async with contextlib.AsyncExitStack() as stack:

        async def make(models, **how) -> FakeOllama:
            fake = await stack.enter_async_context(FakeOllama(models, **how))
            fake.openai = how.get("kind") == "openai"
            return fake

        yield make


@pytest.fixture
async def floor(ollama, store, pool, valkey, monkeypatch, tmp_path):
    """A factory: `await floor(alpha=fake, …, setting=value)` starts a worker in front of fakes and waits until they are up."""
    monkeypatch.chdir(tmp_path)
    async with contextlib.AsyncExitStack() as stack:

        async def announce(gateway):
            while True:
                await store.queue.announce(GatewayPresence(gateway, "", 0, 0.0))
                await asyncio.sleep(1)

        async def make(*, start=True, wait=True, options="", **named) -> Floor:
            fakes = {name: value for name, value in named.items() if hasattr(value, "url")}
            given = {name: value for name, value in named.items() if name not in fakes}
            targets = ",".join(
                f"{name}={fake.url}?kind={'openai' if getattr(fake, 'openai', False) else 'ollama'}{options}"
                for name, fake in fakes.items()
            )
            settings = load(targets=given.pop("targets", targets), redis_url=valkey, pool=pool, **given)
            link, door = LocalLink(), Door()
            gateway = f"gw-{next(_numbers)}"
            link.register(gateway, door)
            presence = asyncio.get_running_loop().create_task(announce(gateway))
            stack.callback(presence.cancel)
            worker = Worker(settings, store, f"wk-{next(_numbers)}", link)
            made = Floor(settings, store, link, door, worker, gateway)
            if start:
                await worker.start()
                stack.push_async_callback(worker.stop, 0)
                if wait:
                    await made.up(*fakes)
            return made

        yield make


__all__ = ["Caller", "Code", "Floor", "State", "wait_until"]
