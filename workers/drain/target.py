"""One target that this worker owns: its state, its runs, and who must be told when either changes.

The dispatcher, the slots beside it and the inventory share me; each writes its own part and wakes the others by my
events. I decide nothing and ask the store for nothing.
"""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING

import structlog

from foreman.core.jobs import Slot
from foreman.core.lanes import canonical
from foreman.core.targets import OPENAI
from foreman.protocols.keep_alive import parse_keep_alive
from foreman.store.records import Taken
from foreman.tasks import Tasks
from foreman.upstream.client import Client
from workers.clock import StoreClock
from workers.drain.history import History
from workers.drain.lanes import Lanes
from workers.drain.learned import Learned
from workers.drain.orders import Orders
from workers.drain.prefill import Prefills
from workers.drain.rivals import Rivals
from workers.loads.loader import Loader, Outcome
from workers.loads.residency import Residency
from workers.runs import requests
from workers.runs.context import RunContext
from workers.runs.executor import UNSTREAMED, Run

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from foreman.core.fairness import Policy
    from foreman.core.targets import TargetSettings
    from foreman.link.channel import Channels
    from foreman.settings import Settings
    from foreman.store.queue import Queue
    from foreman.store.records import Changes, Claimed, LaneFacts, Ownership, Survey, TargetStatus
    from foreman.store.swaps import Swaps
    from foreman.upstream.faults import Fault
    from workers.loads.loader import Load, Order

log = structlog.get_logger(__name__)


class Target:
    """An owned target.

    Args:
        rivals: asks what the pool's targets hold, all of them; at most a moment old.
    """

    def __init__(
        self,
        settings: Settings,
        target: TargetSettings,
        own: Ownership,
        queue: Queue,
        channels: Channels,
        *,
        rivals: Callable[[], Awaitable[list[TargetStatus]]],
        swaps: Swaps,
        policy: Policy,
    ) -> None:
        self.settings = target
        self.name = target.name
        self.openai = target.kind == OPENAI
        self.own = own
        self.queue = queue
        self.clock = StoreClock()
        self.tasks = Tasks(f"target[{target.name}]")
        self.client = Client(target.url, target.token)
        self.residency = Residency(target.resident, target.pin)
        self.learned = Learned(target.slots)
        self.history = History(target.name, swaps)
        self.rivals = Rivals(target.name)
        self.refused: frozenset[str] = frozenset()
        """Lanes that may not be claimed or loaded for now: their loads are held, or the last claim came to nothing."""
        self.lanes = Lanes(target.name, policy, self.residency, self.learned, self.takes, self.rivals)
        self.stuck: str | None = None
        """What holds up its loads, in one sentence."""
        self.loader = Loader(
            self.client,
            self.residency,
            self.clock,
            self.tasks,
            keep_alive=parse_keep_alive(settings.keep_alive),
            patience=settings.upstream_timeout * UNSTREAMED,
        )
        self.prefills = Prefills(lambda: self.wake(Slot.DRAIN))
        self._context = self._make_context(settings, channels)
        self._session = requests.seconds(json.loads(parse_keep_alive(settings.keep_alive)))
        """Seconds that a model stays after a call that says nothing of it."""
        self._ask_rivals = rivals
        self._others: list[TargetStatus] = []
        self.runs: dict[str, Run] = {}
        self.orders = Orders()
        self.slots: dict[str, Slot] = {}
        """Job id → the slot of ours it takes, or that is kept for it (an embedding that drains counts as `drain`)."""
        self.lane_of: dict[str, str] = {}
        """Job id → its lane here (workers.drain.lanes)."""
        self._pinned: set[str] = set()
        """Runs of pinned lanes: beside the drain."""
        self.up = False
        self.since = self.clock.now()
        self.error: str | None = "not asked yet"
        self.next: dict[str, str] | None = None
        """The lane that is to be loaded next and why, for the page."""
        self.stopping = False
        self.wakes = {slot: asyncio.Event() for slot in Slot}
        self.unseen = True
        """Something may wait in the drain that the store has not been asked about."""
        self.probe_wanted = asyncio.Event()
        self.look_wanted = asyncio.Event()
        self.publish_wanted = asyncio.Event()
        self.idle = asyncio.Event()
        self.idle.set()
        self.unsettled: dict[asyncio.Task[None], str] = {}
        """Runs whose ends are not written yet → their jobs."""
        self._only = frozenset(map(canonical, target.only))
        self._never = frozenset(map(canonical, target.never))

    def _make_context(self, settings: Settings, channels: Channels) -> RunContext:
        """What all runs here share."""
        return RunContext(
            target=self.settings,
            client=self.client,
            queue=self.queue,
            channels=channels,
            keep_alive=parse_keep_alive(settings.keep_alive),
            own_name=self.residency.own_name,
            upstream_timeout=settings.upstream_timeout,
            window=settings.spool_bytes,
            max_answer=settings.max_answer,
            ended=self._ended,
            down=self.down,
            unwanted=self._unwanted,
            spawn=self.tasks.spawn,
        )

    # -- what others read

    async def survey(self, slot: Slot) -> Survey:
        """The lanes of a slot, with what the other targets hold where that matters for `takes`."""
        return await self._learn(await self.queue.survey(slot))

    async def take(self, free: list[str]) -> Taken | None:
        """The next job of the drain where one of the lanes in `free` is all that waits; else `lanes` is up to date."""
        queues = [queue for lane in free for slot, queue in self.lanes.queues(lane) if slot is Slot.DRAIN]
        taken = await self.queue.take(self.own, Slot.DRAIN, list({*free, *queues}), self.lanes.cursor)
        if isinstance(taken, Taken):
            return taken
        await self.saw(taken)
        return None

    async def look(self) -> None:
        """Bring `lanes` up to date."""
        await self.saw(await self.queue.changes(Slot.DRAIN, self.lanes.cursor))

    async def saw(self, changes: Changes) -> None:
        """What the store says of the drain's lanes is known here from now on."""
        self.clock.observe(changes.now)
        if not all(self.residency.knows(facts.model) for facts in changes.lanes):
            await self.ask_others()
        self.lanes.apply(changes)

    async def ask_others(self) -> None:
        """What the pool's other targets are up to; at most a moment old."""
        statuses = await self._ask_rivals()
        if statuses is self._others:
            return
        unknown = self._others_tags() != (self._others_tags(statuses))
        self._others = statuses
        touched = self.rivals.learn(statuses)
        if unknown:
            self.lanes.rebuild(self.clock.now())
        elif touched:
            self.lanes.touch(touched, self.clock.now())

    def identity_of(self, lane: str) -> str:
        """The model of a lane that runs here."""
        for job_id, run in self.runs.items():
            if self.lane_of[job_id] == lane:
                return self.residency.identity(run.claimed.canonical, run.claimed.digest)
        return lane

    def _others_tags(self, statuses: list[TargetStatus] | None = None) -> dict[str, int]:
        return {status.name: len(status.tags) for status in (self._others if statuses is None else statuses)}

    async def _learn(self, survey: Survey) -> Survey:
        self.clock.observe(survey.now)
        if not all(self.residency.knows(lane.model) for lane in survey.lanes):
            await self.ask_others()
        return survey

    def takes(self, lane: LaneFacts) -> bool:
        """Whether a lane's head may run here.

        Not in the inventory: only where no target is known to have it, so that the caller gets some server's own words.
        One that is down counts: its jobs wait for it.
        """
        if lane.paused or lane.head_target_only not in {None, self.name}:
            return False
        if self.refused and self.residency.lane_of(lane.lane, lane.model, lane.digest) in self.refused:
            return False
        if not self.may_have(lane.model):
            return False
        return self.residency.knows(lane.model) or not any(
            any(canonical(str(entry.get("name"))) == lane.model for entry in rival.tags)
            for rival in self._others
            if rival.name != self.name
        )

    def may_have(self, model: str) -> bool:
        """Whether the operator lets this target serve the model (`only`, `never`)."""
        if not self._only and not self._never:
            return True
        name = canonical(model)
        return name not in self._never and (not self._only or name in self._only)

    def running(self, slot: Slot) -> dict[str, int]:
        """Lane → runs in flight in one slot, and prefills for nobody; those of pinned lanes are not the drain's."""
        counts: dict[str, int] = {}
        for job_id, taken in self.slots.items():
            if taken is slot and job_id not in self._pinned:
                lane = self.lane_of[job_id]
                counts[lane] = counts.get(lane, 0) + 1
        if slot is Slot.DRAIN:
            for lane, unseen in self.prefills.busy().items():
                counts[lane] = counts.get(lane, 0) + unseen
        return counts

    def pinned_running(self, lane: str) -> int:
        """Runs in flight of a pinned lane's model, whatever their options."""
        identities = {held.lane: held.identity for held in self.residency.pinned}
        mine = identities.get(lane)
        return sum(1 for job_id in self._pinned if identities.get(self.lane_of[job_id]) == mine)

    def busy(self) -> set[str]:
        """The lanes with runs in flight in any slot."""
        return set(self.lane_of.values())

    @property
    def ready(self) -> bool:
        """Whether jobs may be claimed."""
        return self.up and not self.stopping

    # -- what happens

    def start(self, claimed: Claimed, slot: Slot, load: Load | None = None) -> Run:
        """Run a job that was just claimed."""
        self.clock.observe(claimed.now)
        run = Run(claimed, self._context, load)
        job = claimed.job
        lane = self.residency.lane_of(job.lane, claimed.canonical, claimed.digest)
        self.runs[job.id] = run
        self.slots[job.id] = slot
        self.lane_of[job.id] = lane
        self.idle.clear()
        self.publish_wanted.set()
        task = self.tasks.spawn(run.run(), f"run[{job.id}]")
        self.unsettled[task] = job.id
        task.add_done_callback(self.unsettled.__delitem__)
        if slot is not Slot.SIDE:
            self.learned.claimed(lane, job.created_at, claimed.now)
        if slot is Slot.DRAIN and not self.openai:
            if self.residency.pins(self.residency.identity(claimed.canonical, claimed.digest)):
                self._pinned.add(job.id)
            else:
                self.history.claimed(lane, job.created_at, job.id, self.residency.places)
        self.orders.begun(run)
        return run

    def begin_load(self, order: Order, *, cut: bool) -> Load:
        """Load a lane; its victim, if any, is idle."""
        load = self.loader.begin(order)
        if order.victim is not None:
            self.history.leaves(order.victim.lane, "swap", load.begun_at)
        load.done.add_done_callback(lambda _: self._load_ended(load, cut=cut))
        return load

    def _load_ended(self, load: Load, *, cut: bool) -> None:
        """A load is through, or given up: the history, the next choice, a look, and the news of it."""
        if load.done.result() is Outcome.LOADED:
            self.history.loaded(load, self.residency, self.clock.now(), cut=cut)
            self.lanes.loads_learned(self.clock.now())
            self.learned.loaded(load.lane, self.clock.now())
        self.residents_changed()
        self.wake(Slot.DRAIN)
        self.look_wanted.set()
        self.publish_wanted.set()

    def residents_changed(self) -> None:
        """Tell the history who has come and gone since the last time."""
        self.history.note(self.residency, self.clock.now())

    def down(self, fault: Fault) -> None:
        """It takes no connections: claim nothing until a probe gets through."""
        if self.up or self.error != fault.message:
            log.warning("target.down", target=self.name, url=self.settings.url, error=fault.message)
        if self.up:
            self.since = self.clock.now()
            self.residency.forget()
            self.prefills.forget()
            self.residents_changed()
            self.probe_wanted.set()
        self.up, self.error = False, fault.message
        self.publish_wanted.set()

    def came_up(self) -> None:
        """A probe got through."""
        if not self.up:
            log.info("target.up", target=self.name, url=self.settings.url)
            self.since = self.clock.now()
            self.up, self.error = True, None
            self.wake()

    def wake(self, slot: Slot | None = None) -> None:
        """There may be something to do in this slot (None: in any)."""
        if slot is None or slot is Slot.DRAIN:
            self.unseen = True
        for one in [slot] if slot is not None else list(Slot):
            self.wakes[one].set()

    def stop(self) -> None:
        """Claim nothing more; what runs goes on."""
        self.stopping = True
        self.publish_wanted.set()

    def drop(self) -> None:
        """The right to the target is lost: every run stops and writes nothing."""
        self.stopping = True
        for run in list(self.runs.values()):
            run.drop()
        if self.loader.current is not None:
            self.loader.current.close()

    def give_back(self) -> None:
        """The worker leaves: what still runs goes back into its lane, or ends with an error once its caller has bytes."""
        for run in list(self.runs.values()):
            run.give_back()

    async def settled(self) -> None:
        """Until the ends of all runs are written."""
        if self.unsettled:
            await asyncio.wait(self.unsettled)

    async def close(self) -> None:
        """End everything."""
        self.drop()
        self.prefills.forget()
        await self.tasks.close()
        await self.client.close()

    def _ended(self, run: Run) -> None:
        """A run has let go of the target; what is written of it comes later."""
        slot = self.slots.pop(run.job.id, None)
        self.runs.pop(run.job.id, None)
        lane = self.lane_of.pop(run.job.id, run.job.lane)
        if slot is Slot.DRAIN and not self.openai and run.job.id not in self._pinned:
            self.prefills.ended(lane, run)
        self._pinned.discard(run.job.id)
        if slot is Slot.DRAIN and run.times.working is not None:
            self.residency.used(lane, requests.session(run.claimed, self._session), self.clock.now())
        if slot is not None and slot is not Slot.SIDE:
            self.learned.ended(lane, self.clock.now(), run.ran_seconds, more=self.lanes.waiting(lane))
        if not self.runs:
            self.idle.set()
        if slot is Slot.EMBED and not self.openai:
            self.residency.embeds(run.claimed.canonical, run.claimed.digest, self.clock.now())
        if slot is Slot.SIDE and run.job.endpoint != "/api/show":
            self.probe_wanted.set()  # a model may have come or gone
        if slot is not None:
            self.wakes[slot].set()
        self.look_wanted.set()
        self.publish_wanted.set()

    def _unwanted(self, load: Load) -> None:
        self.tasks.spawn(self._keep_or_close(load), "unwanted")

    async def _keep_or_close(self, load: Load) -> None:
        """A cancelled load is closed, unless another job of its lane waits for it."""
        try:
            if load.order.embedding:
                survey = await self.survey(Slot.EMBED)
                wanted = any(lane.lane == load.lane and self.takes(lane) for lane in survey.lanes)
            else:
                await self.look()
                wanted = self.lanes.queue(load.lane, self.clock.now()) is not None
        except Exception:  # noqa: BLE001 - whatever keeps the store from answering, a load nobody is known to want ends
            wanted = False
        if not wanted:
            load.close()
        self.wake(Slot.DRAIN)
