"""What a waiting job has before it: its place, the seconds until it works, and a sentence that says who is ahead and why.

web/jobs/jobs_api.py, web/jobs/submission.py, web/ops/snapshot.py and the heartbeats ask me. I run the scheduler's rules forward over
what workers published (core.forecast); it is an estimate for a person, decided by nobody and promised to nobody.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from foreman.core.estimates import LOAD_PRIOR, SERVICE_PRIOR
from foreman.core.forecast import Why, forecast
from foreman.core.jobs import Job, Priority, Slot, State
from foreman.core.lanes import canonical
from foreman.core.scheduler import LaneView, Policy
from foreman.core.targets import OPENAI
from foreman.protocols.job_object import rfc3339
from foreman.store.records import Place
from foreman.web.pool.prospects import Prospects

if TYPE_CHECKING:
    from foreman.core.forecast import Ahead, Forecast
    from foreman.store.queue import Queue
    from foreman.store.records import NewJob, TargetStatus
    from foreman.web.calls.waiting import Call, Waiting
    from foreman.web.pool.inventory import Inventory

_REST: Final = 0.6
"""Share of a run that one in flight has left on the mean (core.forecast)."""


@dataclass(frozen=True, slots=True)
class Outlook:
    """What lies before a waiting job."""

    position: int | None = None
    eta_seconds: float | None = None
    waiting_for: str | None = None


class Outlooks:
    """The outlooks of one gateway's jobs."""

    def __init__(self, queue: Queue, inventory: Inventory, waiting: Waiting, policy: Policy | None = None) -> None:
        self._queue = queue
        self._inventory = inventory
        self._waiting = waiting
        self._policy = policy or Policy()
        self._prospects = Prospects(queue, inventory, self._policy)

    # ------------------------------------------------------------------------ a job that waits

    async def of(self, job: Job) -> Outlook:
        """The outlook of a job that is queued or loading. Raises StoreUnavailableError."""
        await self._prospects.fresh()
        now = self._prospects.now()
        if job.state is State.LOADING:
            ends = next((one.load_ends_at for one in self._inventory.targets if one.name == job.target), None)
            expected = job.changed_at + self._prospects.load_seconds(job.lane)
            left = max(0.0, (ends or expected) - now)
            return Outlook(None, round(left, 1), f"target {job.target!r} loads {job.model}")
        if job.not_before is not None and job.not_before > now:
            return Outlook(waiting_for=f"its time: it may not start before {rfc3339(job.not_before)}")
        place = await self._queue.place(job.id)
        if place is None:
            return Outlook(waiting_for="its place in the lane")
        position = place.position
        able = self._able(job.targets, job.target_only)
        if (stands := self._stands_still(able, job.lane)) is not None:
            return Outlook(position, None, stands)
        if job.slot is not Slot.DRAIN:
            why = f"its turn beside the drain: {_jobs(position - 1)} ahead"
            return Outlook(position, self._beside(position, job.lane, able), why)
        seen = self._forecast(job.lane, canonical(job.model), place, able)
        if seen is None:
            return Outlook(
                position, self._in_turn(place, job.lane, canonical(job.model), able), self._served(position, able)
            )
        return Outlook(seen.position, round(seen.eta_seconds, 1), self._sentence(job, seen, able))

    async def queued(self, lane: str, slot: Slot, place: Place, targets: tuple[str, ...], only: str | None) -> Outlook:
        """Position and seconds of a queued job, without the sentence; no seconds while no target that may take it is up.

        Args:
            lane: its lane.
            slot: its slot.
            place: where it stands.
            targets: who may take it; empty: all.
            only: the one target that may.
        """
        await self._prospects.fresh()
        able, position = self._able(targets, only), place.position
        if self._stands_still(able, lane) is not None:
            return Outlook(position)
        if slot is not Slot.DRAIN:
            return Outlook(position, self._beside(position, lane, able))
        facts = self._prospects.facts(lane)
        model = lane.partition("?")[0] if facts is None else facts.model
        seen = self._forecast(lane, model, place, able)
        if seen is None:
            return Outlook(position, self._in_turn(place, lane, model, able))
        return Outlook(seen.position, round(seen.eta_seconds, 1))

    async def eta(
        self, lane: str, slot: Slot, position: int, targets: tuple[str, ...], only: str | None, ahead: int = 0
    ) -> float | None:
        """The seconds alone."""
        return (await self.queued(lane, slot, Place(position, ahead), targets, only)).eta_seconds

    async def place(self, call: Call) -> tuple[int, float | None] | None:
        """Place and seconds of a streaming caller's job, for a heartbeat; None when it isn't queued."""
        place = await self._queue.place(call.job_id)
        if place is None:
            return None
        seen = await self.queued(call.lane, Slot.DRAIN, place, call.targets, call.target_only)
        return seen.position or place.position, seen.eta_seconds

    # ------------------------------------------------------------------------ admission

    async def too_late(self, new: NewJob) -> float | None:
        """The seconds until a job that is to be submitted could end, where that is past its deadline; else None.

        Only what was measured counts against it: a lane that nobody has run or loaded is taken to be quick.
        """
        if new.deadline_in is None:
            return None
        await self._prospects.fresh()
        if new.not_before is not None and new.not_before > self._prospects.now():
            return None  # it counts from then
        able = self._able(new.targets, new.target_only)
        if self._stands_still(able, new.lane) is not None:
            return None
        up = [status for status in able if status.state == "up"]
        shortest = min((status.paces.get(new.lane, [0.0] * 5)[-1] for status in up), default=0.0)
        if new.slot is not Slot.DRAIN:
            return shortest if shortest > new.deadline_in else None
        facts = self._prospects.facts(new.lane)
        if facts is None:
            ahead = 0
        else:
            sooner = self._prospects.now() + min(new.max_wait, max(0.0, new.deadline_in - new.service))
            ahead = 0 if sooner < facts.head_due else sum(facts.classes[new.priority :])
        classes = tuple(1 if rank == new.priority else 0 for rank in range(len(Priority)))
        due = self._prospects.now() + min(new.max_wait, max(0.0, new.deadline_in - new.service))
        extra = LaneView(new.lane, new.canonical, due, new.priority, (classes[0], classes[1], classes[2]))
        seen = self._forecast(new.lane, new.canonical, Place(0, ahead), able, extra)
        if seen is None:
            return None
        start = seen.eta_seconds
        resident = any(held.get("lane") == new.lane for status in up for held in status.resident)
        if not resident and not self._prospects.load_known(new.lane, up):
            start = max(0.0, start - self._prospects.load_seconds(new.lane) - 10.0)
        end = start + shortest
        return end if end > new.deadline_in else None

    def run_seconds(self, new: NewJob) -> float | None:
        """How long a job is expected to run; None where nobody has run its lane."""
        known = [
            status.paces[new.lane][0]
            for status in self._able(new.targets, new.target_only)
            if status.state == "up" and new.lane in status.paces
        ]
        return min(known, default=None)

    async def place_free_in(self) -> float | None:
        """Seconds until the next queued job starts, so that there is a place in a full queue; None where nobody knows."""
        await self._prospects.fresh()
        up = [status for status in self._inventory.targets if status.state == "up"]
        moments = []
        for status in up:
            if status.loading is not None and status.load_ends_at is not None:
                moments.append(max(0.0, status.load_ends_at - self._prospects.now()))
            for held in status.resident:
                pace = status.paces.get(str(held.get("lane")))
                if pace is None:  # a burst on a server that has run nothing yet: better what is usual than a minute
                    moments.append(SERVICE_PRIOR)
                else:
                    moments.append(pace[1] if status.running else 0.0)
            if status.kind == OPENAI:
                moments.append(min((pace[1] for pace in status.paces.values()), default=SERVICE_PRIOR))
            elif not status.resident and status.loading is None:
                moments.append(LOAD_PRIOR)
        return min(moments, default=None)

    # ------------------------------------------------------------------------ parts

    def _forecast(
        self, lane: str, model: str, place: Place, able: list[TargetStatus], extra: LaneView | None = None
    ) -> Forecast | None:
        up = [status for status in able if status.state == "up"]
        if self._prospects.pinned(model, up):
            return None  # it has a slot of its own
        name, prospects = self._prospects.of(lane, model, up, extra)
        if not prospects:
            return None
        known = sum(len(status.running) for status in self._inventory.targets)
        begun = max(0, place.in_flight - known)
        return forecast(name, place.ahead, prospects, self._prospects.now(), self._policy, begun)

    def _beside(self, position: int, lane: str, able: list[TargetStatus]) -> float | None:
        """In a slot beside the drain: the runs before it, one after the other."""
        up = [status for status in able if status.state == "up"]
        if not up:
            return None
        run = min((status.paces[lane][0] for status in up if lane in status.paces), default=self._waiting.run_seconds)
        return round((position - 1) * run / len(up), 1)

    def _in_turn(self, place: Place, lane: str, model: str, able: list[TargetStatus]) -> float | None:
        """Where there is nothing to swap: the runs before it, shared by the slots; and a load where nobody holds its lane.

        A pinned model has slots of its own, for all its lanes: only its own runs are before it.
        """
        up = [status for status in able if status.state == "up"]
        if not up:
            return None
        slots = sum(status.slots for status in up)
        runs = [str(entry.get("lane")).partition("?")[0] for status in up for entry in status.running]
        position = place.position
        if self._prospects.pinned(model, up):
            position, runs = place.ahead + 1, [head for head in runs if head == lane.partition("?")[0]]
        running = len(runs)
        waves = max(0, position + min(running, slots) - slots)
        held = any(entry.get("lane") == lane for status in up for entry in status.resident)
        serves = held or any(status.kind == OPENAI for status in up)
        run = self._prospects.pace(lane, up)[0]
        return round(waves * run / slots + (0.0 if serves else self._prospects.load_seconds(lane)), 1)

    def _stands_still(self, able: list[TargetStatus], lane: str) -> str | None:
        """Why nothing can be told of when: nobody may take it now."""
        if not able:
            return "a target: no worker has announced one that has the model"
        if all(target.state == "down" for target in able):
            down = max(able, key=lambda target: target.since)
            why = f": {down.error}" if down.error else ""
            return f"target {down.name!r}, which is down since {rfc3339(down.since)}{why}"
        if all(target.state != "up" for target in able):
            paused = next(target for target in able if target.state == "paused")
            return f"target {paused.name!r}, which is paused{_until(paused)}"
        return "its lane, which is paused" if self._prospects.paused(lane) else None

    def _served(self, position: int, able: list[TargetStatus]) -> str:
        up = next(target for target in able if target.state == "up")
        return f"a free slot on {up.name!r}: {_jobs(position - 1)} ahead"

    def _sentence(self, job: Job, seen: Forecast, able: list[TargetStatus]) -> str:
        """Who is ahead, and why, in the words of a person."""
        target = next((one for one in able if one.name == seen.target), able[0])
        others = [one for one in seen.ahead if one.why not in {Why.LANE, Why.LOADING}]
        own = sum(one.jobs for one in seen.ahead if one.why == Why.LANE)
        if target.stuck is not None:
            return f"target {target.name!r}: {target.stuck}"
        if target.loading is not None and not others:
            same = " of its lane" if target.loading == job.lane else ""
            return f"target {target.name!r}, which loads a model{same}" + (
                f": {_jobs(own)} of its lane ahead" if own else ""
            )
        if not others:
            if not seen.loads:
                return f"a free slot on {target.name!r}, which has {job.model} loaded and {_jobs(own)} of it ahead"
            return f"target {target.name!r} to load {job.model}: {_jobs(own)} ahead"
        first = others[0]
        behind = len({one.lane for one in others[1:]} - {first.lane})
        more = f", then {_lanes(behind)} before it" if behind else ""
        return f"target {target.name!r} to swap to {job.model}: {self._doing(first)}{more}" + (
            f"; {_jobs(own)} of its own lane ahead" if own else ""
        )

    def _doing(self, first: Ahead) -> str:
        name = self._prospects.model(first.lane)
        match first.why:
            case Why.RESIDENT:
                return f"it drains {name} ({_jobs(first.jobs)} of it before the swap)"
            case Why.LINGER:
                return f"it keeps {name} for the next call of its caller, which is expected soon"
            case Why.CLASS:
                return f"{name} comes first, by class and then by due ({_jobs(first.jobs)})"
            case _:
                return f"{name} comes first, whose turn is earlier ({_jobs(first.jobs)})"

    def _able(self, targets: tuple[str, ...], only: str | None) -> list[TargetStatus]:
        """The targets that may take it."""
        if only is not None:
            return [target for target in self._inventory.targets if target.name == only]
        return [target for target in self._inventory.targets if not targets or target.name in targets]


def _until(target: TargetStatus) -> str:
    until = None if target.pause is None else target.pause.until
    return "" if until is None or not math.isfinite(until) else f" until {rfc3339(until)}"


def _jobs(count: int) -> str:
    return f"{count} job" if count == 1 else f"{count} jobs"


def _lanes(count: int) -> str:
    return f"{count} lane" if count == 1 else f"{count} lanes"
