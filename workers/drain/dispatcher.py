"""The drain of one target: look → choose → act, for ever.

The worker runs me per owned target. I am woken by the store's wake-ups, ended runs and loads, and the moment a choice
names; I ask core.scheduler what to do and have it done. I decide nothing and carry nothing.
"""

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING, Final

import structlog

from foreman.core import scheduler
from foreman.core.jobs import Slot, State, Surface
from foreman.core.scheduler import Drain, Hold, Linger, Policy, Resident, Swap, TargetView, Wait
from foreman.store.errors import StoreUnavailableError
from workers.drain.keeper import Keeper
from workers.loads.loader import Order

if TYPE_CHECKING:
    from foreman.core.scheduler import Decision, LaneView
    from foreman.core.views import Offer
    from foreman.store.records import Claimed, LaneFacts, NewJob, Ownership
    from workers.drain.target import Target

log = structlog.get_logger(__name__)

POLL: Final = 1.0
"""Seconds at most between two looks: a wake-up that was lost costs no more."""
HOMES: Final = 0.5
"""Seconds between two looks at what the other targets hold, while a lane waits for one of them (rule 8)."""
_STORE_AWAY: Final = 0.2


class Dispatcher:
    """The drain of one target."""

    def __init__(self, target: Target, policy: Policy, idle_unload: float | None = None) -> None:
        self._target = target
        self._lanes = target.lanes
        self._policy = policy
        self._keeper = Keeper(target, idle_unload)
        self._victim: str | None = None
        self._missed: set[str] = set()
        """Lanes whose claim came to nothing in this waking: what is known of them is behind the truth."""
        self._strays: dict[str, float] = {}
        """Lanes that run although they are not loaded (their load was refused), and since when."""
        self._rests = False
        """It waits for an event, with nothing left to do."""

    async def run(self) -> None:
        """Drain until cancelled. Raises FencedError when the target is another worker's by now."""
        wake, clock = self._target.wakes[Slot.DRAIN], self._target.clock
        while True:
            wake.clear()
            self._missed.clear()
            try:
                until = await self._keeper.act()
                if not self._keeper.holds:
                    until = min(until, await self._turns())
                elif self._target.unseen:
                    await self._look()
                    if self._lanes.paused_until(clock.now()) is None:
                        wake.set()  # resumed, or held by what the keeper looks at again
            except StoreUnavailableError:
                self._target.unseen = True
                until = clock.now() + _STORE_AWAY
            until = min(until, self._lanes.next_resume(clock.now()))
            self._rests = True
            try:
                async with asyncio.timeout(min(POLL, max(0.001, until - clock.now()))):
                    await wake.wait()
            except TimeoutError:
                self._target.unseen = True
            self._rests = False

    async def _turns(self) -> float:
        """Act until there is nothing to do before the moment that is returned (infinite: before the next event)."""
        target = self._target
        while target.ready:
            if target.residency.expire(target.clock.now(), target.busy()):
                target.residents_changed()
            if target.unseen:
                free = self._free_residents()
                taken = await self._take(free) if free else None
                if not free:
                    await self._look()
                if taken is not None:
                    self._victim = None
                    target.start(taken, Slot.DRAIN)
                    self._note_idle()
                    continue
            elif not self._lanes.any_waiting():  # a run has ended, and the store has said already that nothing waits
                self._note_idle()
                return math.inf
            if self._lanes.paused_until(target.clock.now()) is not None:
                target.wakes[Slot.DRAIN].set()  # the keeper's now
                return math.inf
            if await self._serve_pinned():
                continue
            decision = await self._choose()
            self._victim = decision.victim
            self._show(decision)
            if isinstance(decision, Wait | Linger):
                return self._until(decision)
            if not await self._act(decision):
                return self._until(decision)
        return math.inf

    # ------------------------------------------------------------------------ asked by who submits in this process

    def wake(self, slot: Slot) -> None:
        """See `store.queue.Owner`."""
        self._target.wake(slot)

    def offer(self, new: NewJob) -> Ownership | None:
        """See `store.queue.Owner`: only where a `take` of it would come to a claim, were it all that waits."""
        target = self._target
        unsure = not self._rests or target.wakes[Slot.DRAIN].is_set() or target.unseen or self._lanes.any_waiting()
        if unsure or self._keeper.holds or not target.ready:
            return None
        if new.surface is not Surface.SYNC or new.slot is not Slot.DRAIN or new.not_before is not None:
            return None
        if target.residency.expire(target.clock.now(), target.busy()):
            target.residents_changed()
        lane = target.residency.lane_of(new.lane, new.canonical, new.digest)
        if lane not in self._free_residents() or target.residency.pins(
            target.residency.identity(new.canonical, new.digest)
        ):
            return None
        target.slots[new.id], target.lane_of[new.id] = Slot.DRAIN, lane
        return target.own

    def given(self, claimed: Claimed) -> None:
        """See `store.queue.Owner`."""
        self._victim = None
        self._target.start(claimed, Slot.DRAIN)
        self._note_idle()

    def withdraw(self, job_id: str) -> None:
        """See `store.queue.Owner`."""
        self._target.slots.pop(job_id, None)
        self._target.lane_of.pop(job_id, None)
        self._target.wake(Slot.DRAIN)  # who looked meanwhile saw a place less

    # ------------------------------------------------------------------------ look

    async def _take(self, free: list[str]) -> Claimed | None:
        """The only lane's head in one round trip; what the store then says is good until somebody wakes us."""
        target = self._target
        target.unseen = False
        taken = await target.take(free)
        if taken is None:
            await self._look_at_embeddings()
            return None
        if taken.more:
            target.unseen = True
        else:
            self._lanes.emptied(target.clock.now())
        return taken.claimed

    async def _look(self) -> None:
        """Bring the lanes up to date."""
        target = self._target
        target.unseen = False
        await target.look()
        await self._look_at_embeddings()

    async def _look_at_embeddings(self) -> None:
        """ADR-0013: what pushes out the resident takes its turn like everybody."""
        target = self._target
        survey = None if target.residency.embed_fits else await target.queue.survey(Slot.EMBED)
        self._lanes.embeddings(survey, target.clock.now())

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
        slots = target.settings.slots
        free = [
            held.lane
            for held in target.residency.held
            if running.get(held.lane, 0) < slots and target.may_have(held.name)
        ]
        return free + [held.lane for held in target.residency.pinned if target.pinned_running(held.lane) < slots]

    def _note_idle(self) -> None:
        """Since when residents have nothing to do."""
        target = self._target
        target.residency.idle(self._lanes.all_waiting(), target.running(Slot.DRAIN), target.clock.now())

    # ------------------------------------------------------------------------ choose

    async def _choose(self) -> Decision:
        target = self._target
        if self._somebody_needs_a_place():
            await target.ask_others()
        now = target.clock.now()
        self._lanes.resumed(now)
        self._lanes.runs_learned(now)
        self._bar(now)
        self._note_idle()
        rivals = target.rivals
        state = self._state(now)
        idle = self._idle if rivals.any else None
        return scheduler.choose(self._lanes.index, state, now, self._policy, idle)

    def _idle(self, view: LaneView) -> list[Offer]:
        """What idle targets offer for a lane; nothing for one that asked for this target."""
        if view.lane in self._lanes.only_here:
            return []
        return self._target.rivals.idle(view.lane, self._lanes.model(view.lane), self._lanes.all_waiting())

    def _somebody_needs_a_place(self) -> bool:
        """Whether a lane waits that is not resident: then it matters what other targets hold (rule 8)."""
        index, residency = self._lanes.index, self._target.residency
        return len(index) > sum(1 for held in residency.held if index.get(held.lane) is not None)

    def _bar(self, now: float) -> None:
        """Leave out what may not be claimed now: held loads, claims that came to nothing, lanes that run without a load."""
        target = self._target
        running = target.running(Slot.DRAIN)
        loading = None if target.loader.current is None else target.loader.current.lane
        strays = {lane for lane in running if not target.residency.holds(lane) and lane != loading}
        self._strays = {lane: self._strays.get(lane, now) for lane in strays}
        held = {
            lane for lane, until in target.loader.held().items() if until > now and not target.residency.holds(lane)
        }
        refused = frozenset(self._missed | (set() if target.openai else strays) | held)
        if refused != target.refused:
            touched = refused ^ target.refused
            target.refused = refused
            self._lanes.touch(touched, now)

    def _state(self, now: float) -> TargetView:
        """The target as the choice sees it."""
        target, residency = self._target, self._target.residency
        running = target.running(Slot.DRAIN)
        if target.openai:  # it never loads: whatever it lists is resident, and all share its slots
            everything = {*(view.lane for view in self._lanes.index), *running}
            residents = [Resident(lane, lane, 0.0, running.get(lane, 0)) for lane in sorted(everything)]
            return TargetView(
                target.name, target.settings.slots, max(1, len(everything)), tuple(residents), shared_slots=True
            )
        load = target.loader.current
        leaving = load.order.victim.lane if load is not None and load.order.victim is not None else None
        residents = []
        for held in residency.held:
            if held.lane == leaving:
                continue
            pace = target.learned.pace(held.lane, now)
            residents.append(
                Resident(
                    held.lane,
                    held.identity,
                    held.loaded_at,
                    running.get(held.lane, 0),
                    load_seconds=held.load_seconds,
                    idle_since=held.idle_since,
                    linger_spent=held.linger_spent,
                    service_seconds=pace.service_seconds,
                    gaps=pace.gaps,
                    arrival_rate=pace.rate,
                )
            )
        # A lane that runs although its load was refused has a place for as long as it runs: nothing else is sent, and
        # nothing more of it is claimed.
        for lane, since in self._strays.items():
            residents.append(Resident(lane, target.identity_of(lane), since, running[lane]))
        return TargetView(
            target.name,
            target.settings.slots,
            residency.places,
            tuple(residents),
            loading=None if load is None else load.lane,
            victim=self._victim,
        )

    def _until(self, decision: Decision) -> float:
        """When to ask again at the latest; infinite for never."""
        target, now = self._target, self._target.clock.now()
        if isinstance(decision, Linger):
            target.residency.lingers(decision.lane, now)
        moments = [until for until in target.loader.held().values() if until > now]
        if not isinstance(decision, Drain) and decision.until is not None:
            moments.append(decision.until)
        if isinstance(decision, Wait) and decision.why == Hold.HOME:
            moments.append(now + HOMES)
        return min(moments, default=math.inf)

    def _show(self, decision: Decision) -> None:
        """What the page says comes next."""
        coming = {"lane": decision.lane, "reason": decision.reason} if isinstance(decision, Swap) else None
        if coming != self._target.next:
            self._target.next = coming
            self._target.publish_wanted.set()

    # ------------------------------------------------------------------------ act

    async def _serve_pinned(self) -> bool:
        """Claim for a pinned model's own slot; whether a job was claimed."""
        target = self._target
        held = {one.lane: one for one in target.residency.pinned}
        for lane in list(self._lanes.pinned):
            running = target.pinned_running(lane)
            if lane in held and running < target.settings.slots:
                return await self._claim(lane, State.WORKING) is not None
            if lane not in held and running == 0 and self._beside_its_pin(lane):
                return await self._claim(lane, State.WORKING) is not None
        return False

    def _beside_its_pin(self, lane: str) -> bool:
        """Other runner options of a pinned model that is loaded and idle: the server reloads it where it stands."""
        target = self._target
        identity = target.residency.identity(self._lanes.model(lane))
        mine = [held for held in target.residency.pinned if held.identity == identity]
        return bool(mine) and target.pinned_running(mine[0].lane) == 0

    async def _claim(self, lane: str, to: State) -> Claimed | None:
        """Claim the head of a lane and start it where it needs no load; None when nothing was to be had."""
        found = self._lanes.queue(lane, self._target.clock.now())
        if found is None:
            self._missed.add(lane)
            return None
        claimed = await self._claim_from(lane, *found, to)
        if claimed is not None and to is State.WORKING:
            self._target.start(claimed, Slot.DRAIN)
        return claimed

    async def _claim_from(self, lane: str, slot: Slot, facts: LaneFacts, to: State) -> Claimed | None:
        target = self._target
        claimed, seen = await target.queue.claim_and_look(target.own, facts.lane, slot, to, self._lanes.cursor)
        await target.saw(seen)
        if claimed is None:
            self._missed.add(lane)
        elif slot is Slot.EMBED:
            await self._look_at_embeddings()
        return claimed

    async def _act(self, decision: Drain | Swap) -> bool:
        """Carry a decision out; False when an event must come first."""
        target = self._target
        if isinstance(decision, Drain):
            await self._claim(decision.lane, State.WORKING)
            return True
        victim = next((held for held in target.residency.held if held.lane == decision.victim), None)
        if decision.victim is not None and target.running(Slot.DRAIN).get(decision.victim):
            return False
        found = self._lanes.queue(decision.lane, target.clock.now())
        if found is None:
            self._missed.add(decision.lane)
            return True
        claimed = await self._claim_from(decision.lane, *found, State.LOADING)
        if claimed is None:
            return True
        order = Order(
            lane=decision.lane,
            model=claimed.job.model,
            digest=claimed.digest,
            options=claimed.options,
            victim=victim,
            reason=decision.reason,
            embedding=found[0] is Slot.EMBED,
        )
        load = target.begin_load(order, cut=decision.cut)
        self._victim = None
        target.start(claimed, Slot.DRAIN, load)
        if decision.cut and decision.victim is not None:
            for slot, queue in self._lanes.queues(decision.victim):
                await target.queue.cut(target.name, queue, slot)
        return True
