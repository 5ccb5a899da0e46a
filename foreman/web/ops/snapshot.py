"""The pool at one moment as one JSON value: what `/ops/state` answers, `/ops/events` follows and the page shows.

web/ops/ops_api.py, web/ops/feed.py and the page ask me. I read the store's counts, lanes, running jobs, pauses and inventories
and this gateway's health; I change nothing and decide nothing. However many lanes there are, I show LANES of them and
count the rest.
"""

from __future__ import annotations

import asyncio
import functools
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

import foreman
from foreman.core.jobs import Slot
from foreman.store.errors import StoreUnavailableError
from foreman.web.ops.health import Health
from foreman.web.ops.records import Records

if TYPE_CHECKING:
    from collections.abc import Iterable

    from foreman.store.client import Store
    from foreman.store.records import Counts, Pause, TargetStatus
    from foreman.store.swaps import SwapLedger
    from foreman.store.views import Glance, LaneGlance, RunningJob
    from foreman.web.pool.bounds import Bounds
    from foreman.web.pool.inventory import Inventory
    from foreman.web.pool.outlook import Outlooks

LANES: Final = 200
"""Rows of the lanes' table at most."""
AWAY: Final = "Calls get 503 meanwhile, nothing is lost: see that the store runs, and that FOREMAN_REDIS_URL names it"
_NO_JOBS: Final = {"queued": 0, "loading": 0, "working": 0, "done": 0, "failed": 0, "cancelled": 0}


@dataclass(slots=True)
class Snapshots:
    """The snapshots of one gateway."""

    store: Store
    inventory: Inventory
    outlooks: Outlooks
    bounds: Bounds
    _last: dict[str, Any] = field(default_factory=dict)
    """What was seen last while the store answered."""
    _whole: tuple[dict[str, Any], list[RunningJob]] | None = None
    """The last whole look and what ran then; None where the store did not answer it."""
    _records: Records = field(default_factory=Records)
    _health: Health = field(init=False)

    def __post_init__(self) -> None:
        self._health = Health(self.store, self.inventory)

    async def state(self) -> dict[str, Any]:
        """The value of `GET /ops/state` (docs/api.md). With the store away: what was known last, and since when."""
        base: dict[str, Any] = {"now": stamp(time.time()), "version": foreman.__version__}
        try:
            seen, running = await self._seen()
        except StoreUnavailableError as error:
            self._whole = None
            last = self._last or {
                "jobs": dict(_NO_JOBS),
                "targets": [_target(target, []) for target in self.inventory.targets],
                "lanes": [],
                "lanes_more": {"lanes": 0, "jobs": 0},
                "workers": [],
                "gateways": [],
                "processes": [],
                "ledger": _ledger(None, self.inventory.targets),
                "as_of": None,
            }
            away = {
                "store": {"status": "unavailable", "latency_ms": None, "error": error.message},
                "reasons": [f"{error.message} {AWAY}", _age(last["as_of"])],
            }
            return base | last | away | {"now": stamp(time.time())}  # it may have taken seconds to find out
        self._last = {name: value for name, value in seen.items() if name != "store"} | {"as_of": base["now"]}
        whole = base | seen | {"as_of": None}
        self._whole = whole, running
        return whole

    async def calm(self) -> dict[str, Any] | None:
        """The last whole look, with what jobs have got done since; None where more may have changed.

        The counts of jobs and the inventories tell, at two thirds of the price: who looks so looks at all now and then.
        """
        if self._whole is None:
            return None
        before, running = self._whole
        try:
            counts, targets = await asyncio.gather(self.store.queue.counts(), self.inventory.fresh())
        except StoreUnavailableError:
            return None
        now = [_target(target, running) for target in targets]
        if _jobs(counts) != before["jobs"] or _stable(now) != _stable(before["targets"]):
            return None
        return before | {"now": stamp(time.time()), "targets": now}

    def disturb(self) -> None:
        """Somebody has changed what no count tells: the next look is a whole one."""
        self._whole = None

    async def glance(self) -> Glance:
        """The lanes, as far as they are shown. Raises StoreUnavailableError."""
        return await self._records.glance(self.store.views, LANES)

    async def lanes(self, most: int, word: str) -> dict[str, Any]:
        """The lanes whose model or key has `word`, and how many more there are. Raises StoreUnavailableError."""
        await self.inventory.fresh()
        views = self.store.views
        glance, running, pauses = await asyncio.gather(
            views.lanes(most, word), views.running(), self.store.operators.pauses()
        )
        low = word.lower()
        rows = await self._lanes(glance, running, pauses)
        shown = [row for row in rows if low in row["lane"].lower() or low in row["model"].lower()]
        return {"lanes": shown[:most], "lanes_more": _more(glance)}

    async def _seen(self) -> tuple[dict[str, Any], list[RunningJob]]:
        """What the store says now, and what runs. Raises StoreUnavailableError."""
        store, queue = self.store, self.store.queue
        # All at once, so that it is one write and one wake-up: asked one by one it costs half as much again.
        (
            targets,
            (counts, glance, running, pauses),
            (workers, gateways, background),
            ledger,
            room,
        ) = await asyncio.gather(
            self.inventory.fresh(0.0),
            asyncio.gather(queue.counts(), self.glance(), store.views.running(), store.operators.pauses()),
            asyncio.gather(queue.workers(), queue.gateways(), queue.background_lives()),
            store.swaps.ledger(),
            store.answers.room(),
        )
        latency = await self._records.latency(queue)
        processes = await self._records.processes(store.views)
        seen = {
            "store": {
                "status": "ok",
                "latency_ms": round(latency * 1000, 3),
                "used_bytes": room.used,
                "limit_bytes": room.limit,
            },
            "jobs": _jobs(counts),
            "targets": [_target(target, running) for target in targets],
            "lanes": await self._lanes(glance, running, pauses),
            "lanes_more": _more(glance),
            "workers": [
                {
                    "id": worker.id,
                    "target": name,
                    "since": stamp(worker.since),
                    "version": worker.version,
                    "lease_seconds": round(max(0.0, worker.expires - glance.now), 1),
                    "unreachable": list(worker.unreachable),
                }
                for worker in workers
                for name in worker.targets or (None,)
            ],
            "gateways": [
                {
                    "id": gateway.id,
                    "callers": gateway.callers,
                    "since": stamp(gateway.since),
                    "version": gateway.version,
                }
                for gateway in gateways
            ],
            "reasons": await self._health.reasons_of(workers, processes, background=background),
            "processes": processes,
            "ledger": _ledger(ledger, targets),
        }
        return seen, running

    async def _lanes(self, glance: Glance, running: list[RunningJob], pauses: list[Pause]) -> list[dict[str, Any]]:
        """Lanes with queued jobs first; then those that only run, and those that are paused with nothing in them."""
        held = {pause.name: pause for pause in pauses if pause.kind == "lane"}
        counts: dict[tuple[str, str], int] = {}
        models: dict[tuple[str, str], str] = {}
        for job in running:
            key = (job.lane, job.slot.value)
            counts[key] = counts.get(key, 0) + 1
            models.setdefault(key, job.model)
        bounds = self.bounds.of(glance, self.inventory.targets)
        etas = await self._records.etas([lane for lane in glance.lanes if lane.lane not in held], self._eta)
        rows = []
        for lane in glance.lanes:
            key = (lane.lane, lane.slot.value)
            waited = max(0.0, glance.now - lane.oldest_since)
            bound = None if lane.lane in held else bounds.get(key)
            rows.append(
                _row(*key, lane.model, counts.pop(key, 0), held.get(lane.lane))
                | {
                    "depth": lane.depth,
                    "oldest_wait_seconds": round(waited, 3),
                    "oldest_since": stamp(lane.oldest_since),
                    "bound_seconds": bound,
                    "eta_seconds": _within(etas.get(key), bound, waited),
                    "priority": lane.head_class.word,
                }
            )
        rows += [
            _row(*key, models[key], count, held.get(key[0]))
            for key, count in sorted(counts.items())
            if key[1] != Slot.SIDE.value
        ]
        shown = {row["lane"] for row in rows}
        rows += [_row(name, Slot.DRAIN.value, name, 0, held[name]) for name in sorted(held) if name not in shown]
        del rows[LANES:]
        records = await self._records.lanes(self.store.views, {row["lane"] for row in rows})
        return [row | {"recent": records.get(row["lane"])} for row in rows]

    async def _eta(self, lane: LaneGlance) -> float | None:
        """Until its next job works, the one that the bound is about."""
        return await self.outlooks.eta(lane.lane, lane.slot, lane.position, (), None)

    async def reasons(self) -> list[str]:
        """Why this pool is not at its best, one sentence each; empty when it is."""
        return await self._health.reasons()


@functools.lru_cache(maxsize=4096)  # most moments of a snapshot stood in the one before
def stamp(moment: float) -> str:
    """Seconds since the epoch as RFC 3339 in UTC, to the millisecond."""
    return datetime.fromtimestamp(moment, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _within(eta: float | None, bound: float | None, waited: float) -> float | None:
    """An ETA is a guess, and as old as a few seconds: never more than the promise that is told beside it leaves."""
    return eta if eta is None or bound is None else round(min(eta, max(0.0, bound - waited)), 1)


def _age(as_of: str | None) -> str:
    return "nothing is known yet: zeros mean nothing" if as_of is None else f"what you see is of {as_of[:19]}Z"


def _jobs(counts: Counts) -> dict[str, int]:
    return {name: getattr(counts, name) for name in _NO_JOBS}


def _more(glance: Glance) -> dict[str, int]:
    """What has no row of its own."""
    shown = glance.lanes
    return {"lanes": glance.total - len(shown), "jobs": glance.jobs - sum(lane.depth for lane in shown)}


def _target(target: TargetStatus, running: list[RunningJob]) -> dict[str, Any]:
    published = {str(entry.get("job_id")): entry for entry in target.running}
    return {
        "name": target.name,
        "url": target.url,
        "kind": target.kind,
        "state": target.state,
        "since": stamp(target.since),
        "pause": None if target.pause is None else _pause(target.pause),
        "error": target.error,
        "version": target.version,
        "slots": target.slots,
        "places": target.places,
        "embed_fits": target.embed_fits,
        "resident": [
            {"lane": held.get("lane"), "model": held.get("model"), "since": _stamped(held.get("since"))}
            for held in target.resident
        ],
        "loading": target.loading,
        "running": [_running(job, published.get(job.id, {})) for job in running if job.target == target.name],
        "next": target.next,
    }


def _stable(targets: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Targets without their running jobs, which the counts speak for."""
    return [target | {"running": None} for target in targets]


def _pause(pause: Pause) -> dict[str, Any]:
    return {"since": stamp(pause.since), "until": _stamped(pause.until), "unload": pause.unload}


def _running(job: RunningJob, published: dict[str, Any]) -> dict[str, Any]:
    far = {"tokens": published.get("tokens"), "tokens_per_second": published.get("tokens_per_second")}
    return _facts(job) | far


@functools.lru_cache(maxsize=2048)
def _facts(job: RunningJob) -> dict[str, Any]:
    return {
        "job_id": job.id,
        "lane": job.lane,
        "model": job.model,
        "endpoint": job.endpoint,
        "slot": job.slot.value,
        "caller": job.caller,
        "surface": job.surface,
        "state": job.state.value,
        "since": stamp(job.claimed_at),
    }


def _row(lane: str, slot: str, model: str, running: int, pause: Pause | None) -> dict[str, Any]:
    """A lane in which nothing is queued."""
    return {
        "lane": lane,
        "model": model,
        "slot": slot,
        "depth": 0,
        "oldest_wait_seconds": 0.0,
        "oldest_since": None,
        "bound_seconds": None,
        "eta_seconds": None,
        "priority": None,
        "running": running,
        "paused": pause is not None,
        "paused_since": None if pause is None else stamp(pause.since),
        "paused_until": None if pause is None else _stamped(pause.until),
    }


def _ledger(ledger: SwapLedger | None, targets: Iterable[TargetStatus]) -> dict[str, Any]:
    """What swapping cost since the pool began, and what serving in order of arrival would have cost."""
    told = sum(target.swaps for target in targets)  # by the workers that own them now
    if ledger is None:
        return {"swaps": told, "fifo_swaps": None, "seconds_saved": None, "seconds_for_fairness": None, "reasons": {}}
    reasons: dict[str, int] = {}
    for counted in ledger.by_target.values():
        for reason, count in counted.items():
            reasons[reason] = reasons.get(reason, 0) + count
    return {
        "swaps": max(ledger.swaps, told),
        "fifo_swaps": ledger.fifo_swaps,
        "seconds_saved": round(ledger.seconds_saved, 3),
        "seconds_for_fairness": round(ledger.seconds_for_fairness, 3),
        "reasons": reasons,
    }


def _stamped(moment: Any) -> str | None:
    return stamp(float(moment)) if isinstance(moment, int | float) else None
