"""`/metrics`: what the store counted for the whole pool and what this gateway measures itself, for Prometheus.

The app adds my route. I read the store as the snapshots do, once a second however many ask, and hand values to
foreman/metrics.py. With the store away I tell of this gateway only: no number is better than an old one.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from aiohttp import hdrs, web

import foreman
from foreman import metrics
from foreman.protocols.paths import INFERENCE, MANAGEMENT, SHOW
from foreman.store.errors import StoreUnavailableError

if TYPE_CHECKING:
    from foreman.store.swaps import SwapLedger
    from foreman.store.views import Glance, Meters
    from foreman.web.calls.waiting import Waiting
    from foreman.web.ops.feed import Feed
    from foreman.web.ops.snapshot import Snapshots

PATH: Final = "/metrics"
MAX_AGE: Final = 1.0
"""Seconds for which one reading of the store serves."""
ENDPOINTS: Final = frozenset({*INFERENCE, SHOW, *MANAGEMENT})
"""Those of which jobs are made; another is `other`."""


@dataclass(slots=True)
class MetricsAPI:
    """The metrics of one gateway."""

    snapshots: Snapshots
    waiting: Waiting
    feed: Feed
    own: metrics.Own
    _lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    _read_at: float = float("-inf")
    _pool: metrics.Pool | None = None

    def add_routes(self, router: web.UrlDispatcher) -> None:
        """Put the path on the router."""
        router.add_get(PATH, self.serve)

    async def serve(self, _request: web.Request) -> web.StreamResponse:
        """All of them, as text."""
        pool = await self._fresh()
        gateway = metrics.Gateway(
            self.own, foreman.__version__, len(self.waiting.calls), self.feed.listeners, store_up=pool is not None
        )
        return web.Response(
            body=metrics.render(gateway, pool),
            headers={hdrs.CONTENT_TYPE: metrics.CONTENT_TYPE, hdrs.CACHE_CONTROL: "no-store"},
        )

    async def _fresh(self) -> metrics.Pool | None:
        loop = asyncio.get_running_loop()
        async with self._lock:
            if loop.time() - self._read_at >= MAX_AGE:
                try:
                    self._pool = await self._read()
                except StoreUnavailableError:
                    self._pool = None
                self._read_at = loop.time()
        return self._pool

    async def _read(self) -> metrics.Pool:
        """The pool as the store has it. Raises StoreUnavailableError."""
        store, inventory = self.snapshots.store, self.snapshots.inventory
        meters, counts, glance, ledger, lives = await asyncio.gather(
            store.views.meters(),
            store.queue.counts(),
            self.snapshots.glance(),
            store.swaps.ledger(),
            store.views.lives(),
        )
        workers, gateways, running, pauses = await asyncio.gather(
            store.queue.workers(), store.queue.gateways(), store.views.running(), store.operators.pauses()
        )
        targets = await inventory.fresh()
        at_work: dict[str | None, int] = {}
        for job in running:
            at_work[job.target] = at_work.get(job.target, 0) + 1
        lag: dict[str, float] = {}
        for said in lives:
            lag[said["role"]] = max(lag.get(said["role"], 0.0), said.get("loop_lag_ms", 0.0) / 1000)
        return _pool(
            meters,
            ledger,
            glance,
            jobs={"queued": counts.queued, "loading": counts.loading, "working": counts.working},
            lanes=self._lanes(glance, {pause.name for pause in pauses if pause.kind == "lane"}),
            targets=[
                metrics.Target(
                    target.name,
                    target.state,
                    at_work.get(target.name, 0),
                    sum(float(entry.get("tokens_per_second") or 0.0) for entry in target.running),
                )
                for target in targets
            ],
            living=(len(workers), len(gateways)),
            lag=lag,
        )

    def _lanes(self, glance: Glance, held: set[str]) -> list[metrics.Lane]:
        """Those with queued jobs; no promise holds for one that is paused."""
        bounds = self.snapshots.bounds.of(glance, self.snapshots.inventory.targets)
        found: dict[str, metrics.Lane] = {}
        for lane in glance.lanes:
            wait = max(0.0, glance.now - lane.oldest_since)
            before = found.get(lane.lane)  # of the embedding slot too: one label
            depth = lane.depth + (before.depth if before else 0)
            bound = None if lane.lane in held else bounds.get((lane.lane, lane.slot.value))
            found[lane.lane] = metrics.Lane(lane.lane, depth, max(wait, before.oldest_wait if before else 0.0), bound)
        return list(found.values())


def _pool(
    meters: Meters,
    ledger: SwapLedger,
    glance: Glance,
    *,
    jobs: dict[str, int],
    lanes: list[metrics.Lane],
    targets: list[metrics.Target],
    living: tuple[int, int],
    lag: dict[str, float],
) -> metrics.Pool:
    waits = 0.0 if meters.turn_since is None else max(0.0, meters.now - meters.turn_since)
    return metrics.Pool(
        jobs=jobs,
        lanes=lanes,
        lanes_total=glance.total,
        lanes_jobs=glance.jobs,
        targets=targets,
        counts=meters.counts,
        swaps=ledger.by_target,
        fifo_swaps=ledger.fifo_swaps,
        seconds_saved=ledger.seconds_saved,
        seconds_for_fairness=ledger.seconds_for_fairness,
        webhooks_open=meters.open_deliveries,
        webhook_lag=waits,
        pauses=meters.pauses,
        workers=living[0],
        gateways=living[1],
        loop_lag=lag,
        endpoints=ENDPOINTS,
    )
