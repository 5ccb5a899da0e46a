"""What a target holds and does, asked for and made known: the probe, the look after each job, the publication.

The worker runs me per owned target. I turn probes into residents and `up` or `down`, and the target's whole state into
the record that gateways answer from (ADR-0007), at most each 200 ms. No caller's request ever makes me dial.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

import structlog

from foreman.store.errors import StoreUnavailableError
from foreman.store.records import TargetStatus
from foreman.upstream import probe
from foreman.upstream.faults import Fault, Kind
from workers.drain import beside

if TYPE_CHECKING:
    from foreman.settings import Settings
    from foreman.upstream.probe import Inventory as Found
    from workers.drain.target import Target
    from workers.loads.residency import Held

log = structlog.get_logger(__name__)

PUBLISH_GAP: Final = 0.2
"""Seconds between two publications at least."""
PUBLISH_TICK: Final = 0.5
"""Seconds between two while something runs: token counts move."""
LOOK_GAP: Final = 0.2
"""Seconds between two looks at `/api/ps` at least."""
DOWN_FIRST, DOWN_MOST = 0.25, 2.0
"""Seconds between two probes of a target that is down."""
PACES: Final = 256
"""Queued lanes whose pace is published at most."""
PROBE_GAP: Final = 0.2
"""Seconds between two probes at least, however many ask."""
_PATIENT: Final = 2
"""Probes in a row that may fail, other than by a refused connection, before a target counts as down."""


class Inventory:
    """The eyes and the voice of one target."""

    def __init__(self, target: Target, settings: Settings) -> None:
        self._target = target
        self._settings = settings
        self._found: Found | None = None
        self._probed_at = 0.0
        self._failures = 0
        self._former = False

    async def run(self) -> None:
        """Probe, look and publish until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._probing())
            group.create_task(self._looking())
            group.create_task(self._publishing())

    # -- probe

    async def _probing(self) -> None:
        target, pause = self._target, DOWN_FIRST
        while True:
            target.probe_wanted.clear()
            await self._probe()
            if target.up:
                pause = DOWN_FIRST
                delay = self._settings.poll_interval
            else:
                delay, pause = pause, min(pause * 2, DOWN_MOST)
            await asyncio.sleep(PROBE_GAP)
            try:
                async with asyncio.timeout(max(0.0, delay - PROBE_GAP)):
                    await target.probe_wanted.wait()
            except TimeoutError:
                pass

    async def _probe(self) -> None:
        target = self._target
        asked_at = target.clock.now()
        try:
            found = await probe.probe(target.client, target.settings.kind)
        except Fault as fault:
            self._failures += 1
            if fault.kind is Kind.REFUSED or self._failures >= _PATIENT or not target.up:
                target.down(fault)
            return
        self._failures = 0
        self._found, self._probed_at = found, asked_at
        if target.residency.inventory(found.tags):
            target.lanes.rebuild(target.clock.now())
        if not self._former:
            await self._take_over()
        self._observe(found.ps, asked_at)
        if not target.up:
            target.came_up()
            if self._settings.embed_model is not None:
                target.tasks.spawn(beside.warm(target, self._settings.embed_model, self._settings.keep_alive), "warm")
        target.wake()
        target.publish_wanted.set()

    async def _take_over(self) -> None:
        """Remember what the target's last owner, perhaps ourselves in an earlier life, published of its lanes."""
        try:
            self._target.learned.remember(await self._target.queue.learned(self._target.name))
            for status in await self._target.queue.targets():
                if status.name == self._target.name and status.url == self._target.settings.url:
                    self._target.residency.remember(status.resident, status.loads)
        except StoreUnavailableError:
            return
        self._former = True

    # -- look

    async def _looking(self) -> None:
        """After each job and load: what does it hold now? Within a second, however short the jobs."""
        target = self._target
        while True:
            await target.look_wanted.wait()
            target.look_wanted.clear()
            if target.up and not target.openai and target.loader.current is None:
                await self._look()
            await asyncio.sleep(LOOK_GAP)

    async def _look(self) -> None:
        target = self._target
        asked_at = target.clock.now()
        try:
            ps = await probe.loaded(target.client)
        except Fault as fault:
            if fault.kind is Kind.REFUSED:
                target.down(fault)
            return
        if self._found is not None:
            self._found = probe.Inventory(self._found.version, self._found.tags, ps)
        self._observe(ps, asked_at)
        target.publish_wanted.set()

    def _observe(self, ps: tuple[dict[str, Any], ...], asked_at: float) -> None:
        target = self._target
        if target.openai or target.loader.current is not None:
            return
        change = target.residency.observe(ps, now=target.clock.now(), asked_at=asked_at, busy=target.busy())
        if change:
            log.info("target.changed", target=target.name, appeared=change.appeared, vanished=change.vanished)
            target.residents_changed()
            target.wake()

    # -- publish

    async def _publishing(self) -> None:
        target = self._target
        while True:
            try:
                async with asyncio.timeout(PUBLISH_TICK if target.runs else None):
                    await target.publish_wanted.wait()
            except TimeoutError:
                pass
            await self.publish()
            await asyncio.sleep(PUBLISH_GAP)

    async def publish(self) -> None:
        """Tell what is known now; while the store is away, later."""
        target = self._target
        target.publish_wanted.clear()
        learned, forgotten = target.learned.changes()
        try:
            await target.queue.publish(target.own, self._status(), learned, forgotten)
        except StoreUnavailableError:
            target.learned.unwritten(learned, forgotten)
            target.publish_wanted.set()

    def _status(self) -> TargetStatus:
        target, residency, found = self._target, self._target.residency, self._found
        load = target.loader.current
        return TargetStatus(
            name=target.name,
            url=target.settings.url,
            kind=target.settings.kind,
            state="up" if target.up else "down",
            since=target.since,
            probed_at=self._probed_at,
            worker=target.own.worker,
            slots=target.settings.slots,
            places=residency.places,
            version=None if found is None else found.version,
            tags=[] if found is None else [entry for entry in found.tags if target.may_have(str(entry["name"]))],
            ps=[] if found is None or not target.up else list(found.ps),
            resident=[
                *(_resident(held) for held in residency.held),
                *(_resident(held) | {"pinned": True} for held in residency.pinned),
            ],
            running=self._running(),
            loading=None if load is None else load.lane,
            next=None if target.next is None else dict(target.next),
            error=target.error,
            embed_fits=residency.embed_fits,
            loads=residency.loads,
            swaps=target.loader.swaps,
            paces=target.learned.published(self._lanes_in_play(), target.clock.now()),
            load_ends_at=None if load is None else load.begun_at + residency.load_seconds(load.lane),
            stopping=target.stopping,
            leaving=None if load is None or load.order.victim is None else load.order.victim.lane,
            stuck=target.stuck,
        )

    def _lanes_in_play(self) -> list[str]:
        """The lanes whose pace others reckon with: resident, running and queued ones, within reason."""
        target = self._target
        near = {held.lane for held in (*target.residency.held, *target.residency.pinned)} | target.busy()
        queued = sorted(target.lanes.all_waiting() - near)
        return [*sorted(near), *queued[:PACES]]

    def _running(self) -> list[dict[str, Any]]:
        target = self._target
        return [
            {
                "job_id": job_id,
                "lane": target.lane_of.get(job_id, run.job.lane),
                "state": str(run.state),
                "since": run.job.claimed_at,
                "tokens": run.tokens,
                "tokens_per_second": round(run.tokens_per_second, 1),
            }
            for job_id, run in target.runs.items()
        ]


def _resident(held: Held) -> dict[str, Any]:
    return {
        "lane": held.lane,
        "model": held.name,
        "since": held.loaded_at,
        "load": held.load_seconds,
        "idle_since": held.idle_since,
        "linger_spent": held.linger_spent,
    }
