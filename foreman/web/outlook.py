"""What a waiting job has before it: its place, the seconds until it works, and a sentence that says who is ahead and why.

web/jobs_api.py asks me for jobs of either surface. I read the inventory and the lanes as they were at most half a second
ago; it is an estimate for a person, decided by nobody and promised to nobody.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from foreman.core.jobs import Job, Slot, State
from foreman.protocols.job_object import rfc3339
from foreman.store.records import Survey

if TYPE_CHECKING:
    from foreman.store.queue import Queue
    from foreman.store.records import LaneFacts, TargetStatus
    from foreman.web.inventory import Inventory
    from foreman.web.waiting import Waiting

MAX_AGE: Final = 0.5
"""Seconds a survey of the lanes serves."""


@dataclass(frozen=True, slots=True)
class Outlook:
    """What lies before a waiting job."""

    position: int | None = None
    eta_seconds: float | None = None
    waiting_for: str | None = None


class Outlooks:
    """The outlooks of one gateway's jobs."""

    def __init__(self, queue: Queue, inventory: Inventory, waiting: Waiting) -> None:
        self._queue = queue
        self._inventory = inventory
        self._waiting = waiting
        self._lock = asyncio.Lock()
        self._at = float("-inf")
        self._survey = Survey(0.0, ())

    async def of(self, job: Job) -> Outlook:
        """The outlook of a job that is queued or loading. Raises StoreUnavailableError."""
        await self._inventory.fresh()
        if job.state is State.LOADING:
            left = max(0.0, self._load(job.lane) - (self._now() - job.changed_at))
            return Outlook(None, round(left, 1), f"target {job.target!r} loads {job.model}")
        if job.not_before is not None and job.not_before > self._now():
            return Outlook(waiting_for=f"its time: it may not start before {rfc3339(job.not_before)}")
        position = await self._queue.position(job.id)
        if position is None:
            return Outlook(waiting_for="its place in the lane")
        return Outlook(
            position,
            await self.eta(job.lane, job.slot, position, job.targets, job.target_only),
            await self._why(job, position),
        )

    async def eta(
        self, lane: str, slot: Slot, position: int, targets: tuple[str, ...], only: str | None
    ) -> float | None:
        """Seconds to `working`: the runs ahead shared by the slots, and each load on the way; None while no target is up."""
        able = [target for target in self._able(targets, only) if target.state == "up"]
        if not able:
            return None
        slots = sum(target.slots for target in able)
        seconds = (position - 1) * self._waiting.run_seconds / slots
        if slot is Slot.DRAIN:
            resident = {str(held.get("lane")) for target in able for held in target.resident}
            lanes = (await self._lanes()).lanes
            mine = next((facts.head_due for facts in lanes if facts.lane == lane), None)
            ahead = [facts.lane for facts in lanes if mine is not None and facts.head_due < mine]
            seconds += sum(self._load(name) for name in {*ahead, lane} - resident)
        return round(seconds, 1)

    async def _why(self, job: Job, position: int) -> str:
        able = self._able(job.targets, job.target_only)
        if not able:
            return "a target: no worker has announced one that has the model"
        if all(target.state == "down" for target in able):
            down = max(able, key=lambda target: target.since)
            why = f": {down.error}" if down.error else ""
            return f"target {down.name!r}, which is down since {rfc3339(down.since)}{why}"
        if all(target.state != "up" for target in able):
            return f"target {able[0].name!r}, which is paused"
        if job.slot is not Slot.DRAIN:
            return f"its turn beside the drain: {_jobs(position - 1)} ahead"
        return self._why_in_drain(job, position, able, (await self._lanes()).lanes)

    def _why_in_drain(self, job: Job, position: int, able: list[TargetStatus], lanes: tuple[LaneFacts, ...]) -> str:
        own = next((facts for facts in lanes if facts.lane == job.lane), None)
        if own is not None and own.paused:
            return "its lane, which is paused"
        home = next((target for target in able if any(held.get("lane") == job.lane for held in target.resident)), None)
        if home is not None:
            depth = 0 if own is None else sum(own.classes)
            return f"a free slot on {home.name!r}, which has {job.model} loaded and {_jobs(max(0, min(position, depth) - 1))} of it ahead"
        busy = next((target for target in able if target.resident), able[0])
        held = str(busy.resident[0].get("model") or busy.resident[0].get("lane")) if busy.resident else None
        waits = next(
            (sum(facts.classes) for facts in lanes if busy.resident and facts.lane == busy.resident[0].get("lane")), 0
        )
        if busy.loading is not None:
            return f"target {busy.name!r}, which loads a model" + (" of its lane" if busy.loading == job.lane else "")
        if held is None:
            return f"target {busy.name!r} to load {job.model}: {_jobs(position - 1)} ahead"
        return f"target {busy.name!r} to swap to {job.model}: it drains {held} ({_jobs(waits)} waiting), {_jobs(position - 1)} ahead by due"

    def _able(self, targets: tuple[str, ...], only: str | None) -> list[TargetStatus]:
        """The targets that may take it."""
        if only is not None:
            return [target for target in self._inventory.targets if target.name == only]
        return [target for target in self._inventory.targets if not targets or target.name in targets]

    def _load(self, lane: str) -> float:
        """Seconds this lane's load took last, else as long as the others' on the mean; 0 where none was seen."""
        own = [target.loads[lane] for target in self._inventory.targets if lane in target.loads]
        seen = own or [seconds for target in self._inventory.targets for seconds in target.loads.values()]
        return max(own) if own else sum(seen) / len(seen) if seen else 0.0

    async def _lanes(self) -> Survey:
        async with self._lock:
            now = asyncio.get_running_loop().time()
            if now - self._at >= MAX_AGE:
                self._survey, self._at = await self._queue.survey(Slot.DRAIN), now
        return self._survey

    @staticmethod
    def _now() -> float:
        return time.time()


def _jobs(count: int) -> str:
    return f"{count} job" if count == 1 else f"{count} jobs"
