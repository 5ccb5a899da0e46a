"""What a target does beside the drain for its own sake: pins loaded, idle lanes unloaded, pauses kept, stuck loads freed.

The dispatcher asks me at each waking, before it chooses: I do what is due, say whether anything may be claimed now, and
when I must be asked again. I claim nothing and choose no lane.
"""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, Final

import structlog

from foreman.core.jobs import Slot
from foreman.core.lanes import lane_key
from foreman.upstream.faults import Fault
from workers.loads.loader import Order

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from workers.drain.target import Target
    from workers.loads.residency import Held

log = structlog.get_logger(__name__)

STUCK_AFTER: Final = 10.0
"""Seconds at least, and three expected loads, until a load beside running residents counts as stuck behind them: the server
must put one out and waits for it to be idle, while new calls keep it alive (ollama#17408)."""
PIN: Final = "pin"
"""The reason of a pinned model's load."""
_AGAIN: Final = 0.25
"""Seconds between two looks at what is stuck or waits to be idle."""


class Keeper:
    """The housekeeping of one target."""

    def __init__(self, target: Target, idle_unload: float | None) -> None:
        self._target = target
        self._idle_unload = idle_unload
        self.holds = False
        """Nothing of the drain may be claimed now."""

    async def act(self) -> float:
        """Do what is due. Returns when to ask again at the latest, infinite for never; sets `holds`."""
        if self._nothing_to_keep():
            self.holds = False
            return math.inf
        now = self._target.clock.now()
        self.holds = False
        paused = self._target.lanes.paused_until(now)
        if paused is not None:
            self.holds = True
            if self._target.lanes.unloads():
                await self._empty("pause")
            return paused
        if self._target.openai or not self._target.up:
            return math.inf
        if (soon := await self._free_what_is_stuck(now)) is not None:
            return soon
        return min(await self._pin(now), await self._unload_idle(now))

    def _nothing_to_keep(self) -> bool:
        """The usual case, told in a few looks: this stands before every choice."""
        target = self._target
        return (
            self._idle_unload is None
            and not target.settings.pin
            and not target.lanes.pauses
            and target.loader.current is None
            and target.stuck is None
            and Slot.EMBED not in target.slots.values()
        )

    # -- pause

    async def _empty(self, why: str) -> None:
        """Unload all that foreman loaded, once nothing runs."""
        target = self._target
        if target.openai or not target.up or target.loader.current is not None:
            return
        busy = target.busy()
        for held in (*target.residency.held, *target.residency.pinned):
            if held.ours and held.lane not in busy:
                await self._unload(held, why)
        for identity in target.residency.embedding_loaded:
            name = target.residency.name_of(identity)
            if name is not None and not target.running(Slot.EMBED):
                await self._try(target.loader.unload_model(name, identity))

    # -- stuck

    async def _free_what_is_stuck(self, now: float) -> float | None:
        """Claim nothing while a load is stuck; put its residents out once they are idle. None where nothing is stuck."""
        target = self._target
        load = target.loader.current
        stuck = [load.lane] if load is not None and load.age() > self._patience(load.lane) else []
        if not stuck:
            stuck = [
                run.job.lane
                for job_id, run in target.runs.items()
                if target.slots.get(job_id) is Slot.EMBED
                and run.times.first is None
                and run.times.working is not None
                and time.monotonic() - run.times.working > self._patience(run.job.lane)
                and target.residency.identity(run.claimed.canonical, run.claimed.digest)
                not in target.residency.embedding_loaded
            ]
        if not stuck or not target.residency.held:
            target.stuck = None
            return None
        self.holds = True
        if target.stuck is None:
            target.stuck = (
                f"the load of {stuck[0]} waits for residents to become idle: nothing is claimed until it is through"
            )
            log.warning("target.load_stuck", target=target.name, lane=stuck[0])
            target.publish_wanted.set()
        busy = target.busy()
        idle = [held for held in target.residency.held if held.lane not in busy]
        if idle and len(idle) == len(target.residency.held):
            if load is not None:
                target.residency.crowded(now)
            for held in idle:
                await self._unload(held, "unload")
            if load is None:
                target.residency.embed_fits = False
        return now + _AGAIN

    def _patience(self, lane: str) -> float:
        return max(STUCK_AFTER, 3 * self._target.residency.load_seconds(lane))

    # -- pins

    async def _pin(self, now: float) -> float:
        """Load a pinned model that is not there; where its place is taken, wait until somebody can leave it."""
        target, residency = self._target, self._target.residency
        missing = residency.unpinned()
        if not missing or target.loader.current is not None:
            return math.inf
        again = math.inf
        for model in missing:
            identity = residency.identity(model)
            lane = residency.lane_of(lane_key(model, identity if identity != model else None, {}), model)
            if (until := target.loader.held_until(lane)) > now:
                target.stuck = f"the pinned model {model} can't be loaded: see the server's log, or take it out of pin"
                again = min(again, until)
                continue
            victim = None
            if residency.full:
                busy = target.busy()
                victim = next((held for held in residency.held if held.lane not in busy), None)
                if victim is None:
                    self.holds = True
                    return now + _AGAIN
                if not await self._unload(victim, "swap"):
                    return now + _AGAIN
            log.info("target.pinning", target=target.name, model=model)
            load = target.begin_load(
                Order(lane, model, None, {}, None, PIN, embedding=residency.only_embeds(identity)), cut=False
            )
            load.wanted.set()
            return math.inf
        return again

    # -- idle

    async def _unload_idle(self, now: float) -> float:
        """Put out what had no job for `FOREMAN_IDLE_UNLOAD`."""
        span, target = self._idle_unload, self._target
        if span is None or target.loader.current is not None:
            return math.inf
        again = math.inf
        busy = target.busy()
        for held in target.residency.held:
            if not held.ours or held.idle_since is None or held.lane in busy or target.lanes.waiting(held.lane):
                continue
            if held.idle_since + span <= now:
                await self._unload(held, "idle")
            else:
                again = min(again, held.idle_since + span)
        return min(again, await self._unload_idle_embeddings(span, now))

    async def _unload_idle_embeddings(self, span: float, now: float) -> float:
        target, again = self._target, math.inf
        for identity in target.residency.embedding_loaded:
            used, name = target.residency.embed_used.get(identity), target.residency.name_of(identity)
            if used is None or name is None or target.running(Slot.EMBED):
                continue
            if used + span > now:
                again = min(again, used + span)
            else:
                del target.residency.embed_used[identity]
                await self._try(target.loader.unload_model(name, identity))
        return again

    async def _unload(self, held: Held, why: str) -> bool:
        self._target.history.leaves(held.lane, why, self._target.clock.now())
        log.info("target.unloading", target=self._target.name, lane=held.lane, reason=why)
        return await self._try(self._target.loader.unload(held))

    async def _try(self, unload: Awaitable[None]) -> bool:
        try:
            await unload
        except Fault as fault:
            log.warning("target.unload_failed", target=self._target.name, error=fault.message)
            return False
        finally:
            self._target.residents_changed()
        return True
