"""The pool at one moment as one JSON value: what `/ops/state` answers and the page shows.

web/ops_api.py calls me. I read the store's counts, lanes, running jobs and inventories and this gateway's health; I
change nothing and decide nothing.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import foreman
from foreman.core.jobs import Slot
from foreman.store.errors import StoreUnavailableError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from foreman.core.jobs import Job
    from foreman.store.queue import Queue
    from foreman.store.records import Counts, LaneFacts, TargetStatus
    from foreman.web.inventory import Inventory

_NO_JOBS = {"queued": 0, "loading": 0, "working": 0, "done": 0, "failed": 0, "cancelled": 0}


async def state(queue: Queue, inventory: Inventory) -> dict[str, Any]:
    """The value of `GET /ops/state` (docs/api.md). With the store away: what was known last, and no jobs."""
    base: dict[str, Any] = {"now": stamp(time.time()), "version": foreman.__version__}
    try:
        latency = await queue.ping()
        targets = await inventory.fresh(0.0)
        counts = await queue.counts()
        drain, embed = await queue.survey(Slot.DRAIN), await queue.survey(Slot.EMBED)
        running = await queue.running()
        workers, gateways = await queue.workers(), await queue.gateways()
    except StoreUnavailableError as error:
        return base | {
            "store": {"status": "unavailable", "latency_ms": None, "error": error.message},
            "jobs": dict(_NO_JOBS),
            "targets": [_target(target, []) for target in inventory.targets],
            "lanes": [],
            "workers": [],
            "gateways": [],
            "ledger": _ledger(inventory.targets),
        }
    return base | {
        "store": {"status": "ok", "latency_ms": round(latency * 1000, 3)},
        "jobs": _jobs(counts),
        "targets": [_target(target, running) for target in targets],
        "lanes": [
            *(_lane(lane, drain.now, running, "drain") for lane in drain.lanes),
            *(_lane(lane, embed.now, running, "embed") for lane in embed.lanes),
        ],
        "workers": [
            {"id": worker.id, "target": name, "since": stamp(worker.since), "unreachable": list(worker.unreachable)}
            for worker in workers
            for name in worker.targets or (None,)
        ],
        "gateways": [
            {"id": gateway.id, "callers": gateway.callers, "since": stamp(gateway.since)} for gateway in gateways
        ],
        "ledger": _ledger(targets),
    }


async def reasons(queue: Queue, inventory: Inventory, findings: Iterable[str]) -> list[str]:
    """Why this pool is not at its best, one sentence each; empty when it is."""
    if not inventory.store_answers():
        failure = inventory.failure or inventory.unwritten
        return [f"the store does not answer{f': {failure.message}' if failure else ''}"]
    found = list(findings)
    if not inventory.targets:
        found.append("no worker has announced a target: start `foreman serve --role worker`")
    for target in inventory.targets:
        if target.state == "down":
            why = f": {target.error}" if target.error else ""
            found.append(f"target {target.name!r} ({target.url}) is down since {stamp(target.since)}{why}")
        if not target.embed_fits:
            found.append(
                f"embeddings push out the chat model on target {target.name!r}: "
                "allow two loaded models (OLLAMA_MAX_LOADED_MODELS), or give embeddings a target of their own"
            )
    try:
        if not await queue.background_lives():
            found.append(
                "no background worker is alive, and webhooks wait for one: start `foreman serve --role background`"
            )
        for worker in await queue.workers():
            found += [f"worker {worker.id} has no link to gateway {gateway}" for gateway in worker.unreachable]
    except StoreUnavailableError as error:
        found.append(f"the store does not answer: {error.message}")
    return found


def stamp(moment: float) -> str:
    """Seconds since the epoch as RFC 3339 in UTC, to the millisecond."""
    return datetime.fromtimestamp(moment, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _jobs(counts: Counts) -> dict[str, int]:
    return {name: getattr(counts, name) for name in _NO_JOBS}


def _target(target: TargetStatus, running: list[Job]) -> dict[str, Any]:
    published = {str(entry.get("job_id")): entry for entry in target.running}
    return {
        "name": target.name,
        "url": target.url,
        "kind": target.kind,
        "state": target.state,
        "since": stamp(target.since),
        "error": target.error,
        "version": target.version,
        "slots": target.slots,
        "places": target.places,
        "resident": [
            {"lane": held.get("lane"), "model": held.get("model"), "since": _stamped(held.get("since"))}
            for held in target.resident
        ],
        "loading": target.loading,
        "running": [_running(job, published.get(job.id, {})) for job in running if job.target == target.name],
        "next": target.next,
    }


def _running(job: Job, published: dict[str, Any]) -> dict[str, Any]:
    return {
        "job_id": job.id,
        "lane": job.lane,
        "model": job.model,
        "endpoint": job.endpoint,
        "slot": job.slot.value,
        "state": job.state.value,
        "since": _stamped(job.claimed_at),
        "tokens": published.get("tokens"),
        "tokens_per_second": published.get("tokens_per_second"),
    }


def _lane(lane: LaneFacts, now: float, running: list[Job], slot: str) -> dict[str, Any]:
    return {
        "lane": lane.lane,
        "model": lane.model,
        "slot": slot,
        "depth": sum(lane.classes),
        "oldest_wait_seconds": round(max(0.0, now - lane.head_enqueued_at), 3),
        "bound_seconds": None,
        "eta_seconds": None,
        "running": sum(job.lane == lane.lane and job.slot.value == slot for job in running),
        "paused": lane.paused,
    }


def _ledger(targets: Iterable[TargetStatus]) -> dict[str, Any]:
    """What swapping cost. What FIFO would have cost is not reckoned yet, so it is not told."""
    swaps = sum(target.swaps for target in targets)
    return {"swaps": swaps, "fifo_swaps": None, "seconds_saved": None, "seconds_for_fairness": None}


def _stamped(moment: Any) -> str | None:
    return stamp(float(moment)) if isinstance(moment, int | float) else None
