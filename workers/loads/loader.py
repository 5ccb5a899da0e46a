"""A swap: unload the victim where its place is needed, then preload the lane (the `loading` state).

The dispatcher begins a `Load` when a choice says so and the victim is idle; the job that asked for it waits on
`Load.done`. I measure how long it took, tell the residency what is true now, and hold a lane whose preload the target
refused or broke three times in a row, or kept silent about. I carry no caller's request and never send a second lane's load beside the first.
"""

from __future__ import annotations

import asyncio
import enum
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import structlog

from foreman.core.lanes import RUNNER_OPTIONS
from foreman.protocols.keep_alive import insert_keep_alive
from foreman.upstream import probe
from foreman.upstream.faults import Fault, Kind

if TYPE_CHECKING:
    from collections.abc import Mapping

    from foreman.tasks import Tasks
    from foreman.upstream.client import Client
    from workers.clock import StoreClock
    from workers.loads.residency import Held, Residency

log = structlog.get_logger(__name__)

REFUSALS: Final = 3
"""Preloads of a lane refused or broken in a row until its loads are held."""
HOLD: Final = 30.0
"""Seconds for which they are held."""
_REFUSED_KEPT: Final = 512
"""Lanes whose refusals are counted at once."""
_UNLOAD_WAIT: Final = 10.0
"""Seconds until a victim that ps still lists no longer holds up the load: the target itself waits for it then."""
_UNLOAD_POLL: Final = 0.05
_BESIDE: Final = frozenset({"shift"})
"""Runner options that stand beside `options` in a request."""


class Outcome(enum.Enum):
    """How a load ended."""

    LOADED = "loaded"
    REFUSED = "refused"
    """Answered, but not with a load: nobody's answer. The job is sent once and the target's words to it stand."""
    BROKEN = "broken"
    """No answer; `Load.fault` says why."""
    CLOSED = "closed"
    """Given up: its job was cancelled and no other waits."""


@dataclass(frozen=True, slots=True)
class Order:
    """What is to be loaded."""

    lane: str
    model: str
    """The name to load it by."""
    digest: str | None
    options: Mapping[str, Any]
    """Its runner options."""
    victim: Held | None
    reason: str
    embedding: bool = False
    """An embedding model, which only `/api/embed` loads."""
    cut: bool = False
    """The victim still has queued jobs."""


class Load:
    """One load under way. `done` is set exactly once and never fails."""

    def __init__(self, order: Order) -> None:
        self.order = order
        self.done: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self.fault: Fault | None = None
        self.seconds = 0.0
        self.begun_at = 0.0
        """By the store's clock."""
        self.wanted = asyncio.Event()
        """Set once the way to the job's caller is open: a caller that is gone with its gateway costs no load."""
        self._begun = asyncio.get_running_loop().time()
        self._task: asyncio.Task[None] | None = None

    @property
    def lane(self) -> str:
        """The lane that is loaded."""
        return self.order.lane

    def age(self) -> float:
        """Seconds since it was begun."""
        return asyncio.get_running_loop().time() - self._begun

    def run(self, task: asyncio.Task[None]) -> None:
        """The task that does it."""
        self._task = task

    def close(self) -> None:
        """Give it up: the preload's connection is closed, which makes the target stop loading."""
        if self._task is not None:
            self._task.cancel()
        self.settle(Outcome.CLOSED)

    def settle(self, outcome: Outcome) -> None:
        """End it."""
        if not self.done.done():
            self.done.set_result(outcome)


class Loader:
    """The loads of one target, one at a time.

    Args:
        keep_alive: the JSON that is sent (`FOREMAN_KEEP_ALIVE` through `parse_keep_alive`).
        patience: seconds that a preload may take; 0 for ever.
    """

    def __init__(
        self,
        client: Client,
        residency: Residency,
        clock: StoreClock,
        tasks: Tasks,
        *,
        keep_alive: str,
        patience: float,
    ) -> None:
        self._client = client
        self._residency = residency
        self._clock = clock
        self._tasks = tasks
        self._keep_alive = keep_alive
        self._patience = patience
        self._refused: dict[str, int] = {}
        self._held_until: dict[str, float] = {}
        self.current: Load | None = None
        self.swaps = 0
        """Loads that were carried out since this worker owns the target."""

    def held(self) -> dict[str, float]:
        """The lanes whose loads are held, or were a moment ago, and until when."""
        return self._held_until

    def held_until(self, lane: str) -> float:
        """Until when the lane's loads are held, by the store's clock; 0 where they are not."""
        return self._held_until.get(lane, 0.0)

    def begin(self, order: Order) -> Load:
        """Start a load. The caller has made sure that none is under way and that the victim runs nothing."""
        assert self.current is None, "one load at a time per target"
        load = Load(order)
        load.begun_at = self._clock.now()
        self.current = load
        load.run(self._tasks.spawn(self._carry_out(load), f"load[{order.lane}]"))
        load.done.add_done_callback(lambda _: self._ended(load))
        return load

    async def unload(self, held: Held) -> None:
        """Put a lane out and wait until ps has lost it. Raises Fault."""
        await self.unload_model(held.name, held.identity)
        self._residency.unloaded(held.lane)

    async def unload_model(self, name: str, identity: str) -> None:
        """Put a model out and wait until ps has lost it. Raises Fault."""
        body = json.dumps({"model": name, "keep_alive": 0}).encode()
        reply = await self._client.fetch("POST", "/api/generate", body, timeout=_UNLOAD_WAIT)
        if reply.status >= 400:
            log.warning("target.unload_refused", model=name, status=reply.status)
        loop = asyncio.get_running_loop()
        give_up = loop.time() + _UNLOAD_WAIT
        while loop.time() < give_up:
            listed = {
                str(entry.get("digest") or "").removeprefix("sha256:") for entry in await probe.loaded(self._client)
            }
            if identity not in listed:
                break
            await asyncio.sleep(_UNLOAD_POLL)
        else:
            log.warning("target.unload_slow", model=name, waited_s=_UNLOAD_WAIT)

    async def _make_room(self, victim: Held) -> None:
        """Unload; a server that makes no sense of that is left to evict by itself. Raises Fault when it is down."""
        try:
            await self.unload(victim)
        except Fault as fault:
            if fault.kind is Kind.REFUSED:
                raise
            log.warning("target.unload_failed", lane=victim.lane, error=fault.message)
            self._residency.unloaded(victim.lane)

    def _ended(self, load: Load) -> None:
        if self.current is load:
            self.current = None

    async def _carry_out(self, load: Load) -> None:
        try:
            load.settle(await self._swap(load))
        except Fault as fault:
            load.fault = fault
            if fault.kind is not Kind.REFUSED:  # that one is down, and says nothing of this lane
                self._refuse(load.lane, fault.message, at_once=fault.kind is Kind.STALLED)
            # Garbage is an answer of a kind: asking again would get the same, so the job itself asks once.
            load.settle(Outcome.REFUSED if fault.kind is Kind.GARBAGE else Outcome.BROKEN)
        finally:
            load.settle(Outcome.CLOSED)

    async def _swap(self, load: Load) -> Outcome:
        order, loop = load.order, asyncio.get_running_loop()
        await load.wanted.wait()
        begun = loop.time()
        if order.victim is not None:
            twin = order.victim.identity == self._residency.identity(order.model, order.digest)
            if self._residency.must_unload and not twin:
                await self._make_room(order.victim)
        status = await self._preload(order)
        load.seconds = loop.time() - begun
        if status >= 400:
            self._refuse(order.lane, f"status {status}")
            return Outcome.REFUSED
        self._refused.pop(order.lane, None)
        self.swaps += 1
        asked_at = self._clock.now()
        self._residency.loaded(
            order.lane, order.model, order.digest, now=asked_at, seconds=load.seconds, embedding=order.embedding
        )
        await self._look(asked_at)
        log.info("target.loaded", lane=order.lane, seconds=round(load.seconds, 3), reason=order.reason)
        return Outcome.LOADED

    async def _look(self, asked_at: float) -> None:
        """After a load: what did it push out? A target that won't say is believed to hold what it held."""
        try:
            ps = await probe.loaded(self._client)
        except Fault:
            return
        # Busy or not: who is not listed beside what was just loaded has been pushed out by it.
        change = self._residency.observe(ps, now=self._clock.now(), asked_at=asked_at)
        if change.vanished:
            self._residency.pushed_out(self._clock.now())

    async def _preload(self, order: Order) -> int:
        """Load without a word from any caller; the status."""
        payload: dict[str, Any] = {"model": order.model}
        options = {name: order.options[name] for name in RUNNER_OPTIONS if order.options.get(name) is not None}
        payload |= {name: options.pop(name) for name in _BESIDE & options.keys()}
        if options:
            payload["options"] = options
        path = "/api/embed" if order.embedding else "/api/generate"
        if not order.embedding:
            payload["stream"] = False
        body = insert_keep_alive(json.dumps(payload).encode(), self._keep_alive)
        reply = await self._client.fetch("POST", path, body, timeout=self._patience or None)
        return reply.status

    def _refuse(self, lane: str, why: str, *, at_once: bool = False) -> None:
        """It came to nothing; the third time in a row, or at once where it took all its time, others are let pass."""
        count = self._refused.pop(lane, 0) + 1
        log.warning("target.load_refused", lane=lane, error=why, in_a_row=count)
        now = self._clock.now()
        self._held_until = {held: until for held, until in self._held_until.items() if until > now}
        if count >= REFUSALS or at_once:
            self._held_until[lane] = now + HOLD
            return
        self._refused[lane] = count
        if len(self._refused) > _REFUSED_KEPT:  # callers name options, and so lanes, without end
            del self._refused[next(iter(self._refused))]
