"""The drain of one target: survey → choose → act, for ever.

The worker runs me per owned target. I am woken by the store's wake-ups, ended runs and loads, and the moment a choice
names; I ask core.scheduler what to do and have it done. I decide nothing and carry nothing.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

import structlog

from foreman.core import scheduler
from foreman.core.jobs import Slot, State
from foreman.core.scheduler import Drain, LaneView, Linger, Policy, Resident, Swap, TargetView, Wait
from foreman.store.errors import StoreUnavailableError
from foreman.store.records import Taken
from workers.loader import Order

if TYPE_CHECKING:
    from foreman.core.scheduler import Decision
    from foreman.store.records import LaneFacts, Survey
    from workers.target import Target

log = structlog.get_logger(__name__)

POLL: Final = 1.0
"""Seconds at most between two surveys: a wake-up that was lost costs no more."""
_STORE_AWAY: Final = 0.2


class Dispatcher:
    """The drain of one target."""

    def __init__(self, target: Target, policy: Policy) -> None:
        self._target = target
        self._policy = policy
        self._victim: str | None = None
        self._slots: dict[str, Slot] = {}
        """Where the lanes of the last survey are queued."""
        self._missed: set[str] = set()
        """Lanes whose claim came to nothing in this waking: the survey was behind the truth."""

    async def run(self) -> None:
        """Drain until cancelled. Raises FencedError when the target is another worker's by now."""
        wake = self._target.wakes[Slot.DRAIN]
        while True:
            wake.clear()
            self._missed.clear()
            try:
                until = await self._turns()
            except StoreUnavailableError:
                self._target.unseen = True
                until = self._target.clock.now() + _STORE_AWAY
            delay = POLL if until is None else min(POLL, max(0.001, until - self._target.clock.now()))
            try:
                async with asyncio.timeout(delay):
                    await wake.wait()
            except TimeoutError:
                self._target.unseen = True

    async def _turns(self) -> float | None:
        """Act until there is nothing to do before the moment that is returned (None: before the next event)."""
        target = self._target
        while target.ready:
            found: Taken | Survey | None = None
            if free := self._free_residents():
                if not target.unseen:  # a run has ended, and the store has said already that nothing waits
                    self._note_idle()
                    return None
                found = await self._take(free)
            if isinstance(found, Taken):
                self._victim = None
                target.start(found.claimed, Slot.DRAIN)
                self._note_idle()
                continue
            lanes = await self._survey(found)
            now = target.clock.now()
            views = [self._view(lane) for lane in lanes.values()]
            decision = scheduler.choose(views, self._state(lanes, now), now, self._policy)
            self._victim = decision.victim
            self._show(decision)
            if isinstance(decision, Wait | Linger):
                return decision.until
            if not await self._act(decision):
                return decision.until if isinstance(decision, Swap) else None
        return None

    async def _take(self, free: list[str]) -> Taken | Survey:
        """Take; what the store then says of the drain is good until somebody wakes us."""
        target = self._target
        target.unseen = False
        found = await target.take(free)
        if found.more if isinstance(found, Taken) else found.lanes:
            target.unseen = True
        return found

    def _note_idle(self) -> None:
        """Since when residents have nothing to do, where no survey tells."""
        target = self._target
        target.residency.idle((), target.running(Slot.DRAIN), target.clock.now())

    def _free_residents(self) -> list[str]:
        """Resident lanes that could take a job now, where nothing but the queue itself could hold it.

        If one of them is all that waits, `choose` says to drain it, whatever else it is told (a test holds that).
        """
        target = self._target
        if target.openai or target.loader.current is not None or not target.residency.embed_fits or self._missed:
            return []
        running = target.running(Slot.DRAIN)
        if any(not target.residency.holds(lane) for lane in running):
            return []
        return [
            held.lane
            for held in target.residency.held
            if running.get(held.lane, 0) < target.settings.slots and target.may_have(held.name)
        ]

    async def _survey(self, drain: Survey | None) -> dict[str, LaneFacts]:
        """The lanes that may be drained here and now; `drain`: the survey of the drain, where it is known."""
        target = self._target
        self._slots.clear()
        surveys = [drain or await target.survey(Slot.DRAIN)]
        if not target.residency.embed_fits:  # ADR-0013: what pushes out the resident takes its turn like everybody
            surveys.append(await target.survey(Slot.EMBED))
        found: dict[str, LaneFacts] = {}
        for slot, survey in zip((Slot.DRAIN, Slot.EMBED), surveys, strict=False):
            for lane in survey.lanes:
                if lane.lane in self._missed or self._load_held(lane.lane) or not target.takes(lane):
                    continue
                if lane.lane not in found or lane.head_due < found[lane.lane].head_due:
                    found[lane.lane] = lane
                    self._slots[lane.lane] = slot
        return found

    def _load_held(self, lane: str) -> bool:
        target = self._target
        return not target.residency.holds(lane) and target.loader.held_until(lane) > target.clock.now()

    def _view(self, lane: LaneFacts) -> LaneView:
        return LaneView(
            lane=lane.lane,
            model=self._target.residency.identity(lane.model, lane.digest),
            head_due=lane.head_due,
            head_class=lane.head_class,
            classes=lane.classes,
            left_at=lane.left_at.get(self._target.name),
            load_seconds=self._target.residency.load_seconds(lane.lane),
        )

    def _state(self, lanes: dict[str, LaneFacts], now: float) -> TargetView:
        """The target as the choice sees it."""
        target, residency = self._target, self._target.residency
        running = target.running(Slot.DRAIN)
        if target.openai:  # it never loads: whatever it lists is resident, and all share its slots
            everything = {*lanes, *running}
            residents = [Resident(lane, lane, 0.0, running.get(lane, 0)) for lane in sorted(everything)]
            return TargetView(
                target.name, target.settings.slots, max(1, len(everything)), tuple(residents), shared_slots=True
            )
        residency.idle(lanes, running, now)
        load = target.loader.current
        leaving = load.order.victim.lane if load is not None and load.order.victim is not None else None
        residents = [
            Resident(
                held.lane,
                held.identity,
                held.loaded_at,
                running.get(held.lane, 0),
                load_seconds=held.load_seconds,
                idle_since=held.idle_since,
            )
            for held in residency.held
            if held.lane != leaving
        ]
        loading = None if load is None else load.lane
        # A lane that runs although its load was refused has a place for as long as it runs: nothing else is sent.
        residents += [
            Resident(lane, lane, now, count)
            for lane, count in running.items()
            if not residency.holds(lane) and lane != loading
        ]
        return TargetView(
            target.name, target.settings.slots, residency.places, tuple(residents), loading=loading, victim=self._victim
        )

    def _show(self, decision: Decision) -> None:
        """What the page says comes next."""
        coming = {"lane": decision.lane, "reason": decision.reason} if isinstance(decision, Swap) else None
        if coming != self._target.next:
            self._target.next = coming
            self._target.publish_wanted.set()

    async def _act(self, decision: Drain | Swap) -> bool:
        """Carry a decision out; False when an event must come first."""
        target = self._target
        slot = self._slots[decision.lane]
        if isinstance(decision, Drain):
            claimed = await target.queue.claim(target.own, decision.lane, slot, State.WORKING)
            if claimed is None:
                self._missed.add(decision.lane)
            else:
                target.start(claimed, Slot.DRAIN)
            return True
        victim = next((held for held in target.residency.held if held.lane == decision.victim), None)
        if decision.victim is not None and target.running(Slot.DRAIN).get(decision.victim):
            return False
        claimed = await target.queue.claim(target.own, decision.lane, slot, State.LOADING)
        if claimed is None:
            self._missed.add(decision.lane)
            return True
        order = Order(
            lane=decision.lane,
            model=claimed.job.model,
            digest=claimed.digest,
            options=claimed.options,
            victim=victim,
            reason=decision.reason,
            embedding=slot is Slot.EMBED,
        )
        load = target.loader.begin(order)
        load.done.add_done_callback(lambda _: target.load_ended())
        self._victim = None
        target.start(claimed, Slot.DRAIN, load)
        if decision.cut and decision.victim is not None:
            await target.queue.cut(target.name, decision.victim)
        return True
