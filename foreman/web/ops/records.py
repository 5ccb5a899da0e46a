"""What a snapshot need not ask anew each time: lanes' etas, how their last runs went, how each process does.

web/ops/snapshot.py asks me twice a second; I ask others every few seconds, and turn runs into the middle and the slow end of
their durations. I remember no lane that is not shown.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

from foreman.core.jobs import State
from foreman.protocols.job_object import rfc3339

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from foreman.store.queue import Queue
    from foreman.store.views import Glance, LaneGlance, Recent, Views

MAX_AGE: Final = 2.0
"""Seconds for which a lane's record and the store's latency serve."""
PROCESSES_AGE: Final = 5.0
ETAS_AGE: Final = 1.0
FEW: Final = 1000
"""Lanes up to which they are always asked for anew."""
HELD_UP: Final = 20.0
"""With more, an answer serves so many times as long as it took: a look at ten thousand takes the store tens of ms."""
SHARE: Final = 40.0
"""Etas that took long serve so many times as long: a dry run per lane adds up."""
_CALLERS: Final = 5


class Records:
    """The memory of one gateway's snapshots."""

    def __init__(self) -> None:
        self._lanes: dict[str, dict[str, Any] | None] = {}
        self._lanes_at = float("-inf")
        self._glance: Glance | None = None
        self._glance_until = float("-inf")
        self._glancing = asyncio.Lock()
        self._etas: dict[tuple[str, str], float | None] = {}
        self._etas_until = float("-inf")
        self._latency = 0.0
        self._latency_at = float("-inf")
        self._processes: list[dict[str, Any]] = []
        self._processes_at = float("-inf")

    async def lanes(self, views: Views, lanes: set[str]) -> dict[str, dict[str, Any] | None]:
        """Lane → its record, None where nothing of it ended lately. Raises StoreUnavailableError."""
        now = asyncio.get_running_loop().time()
        old = now - self._lanes_at > MAX_AGE
        wanted = sorted(lanes if old else lanes - self._lanes.keys())
        if wanted:
            found = {lane: _record(runs) for lane, runs in (await views.recent(wanted)).items()}
            self._lanes = found if old else self._lanes | found
        if old:
            self._lanes_at = now
        return self._lanes

    async def glance(self, views: Views, most: int) -> Glance:
        """The lanes; where there are so many that asking holds up the store, not quite of now. Raises StoreUnavailableError."""
        loop = asyncio.get_running_loop()
        async with self._glancing:
            began = loop.time()
            if self._glance is None or began >= self._glance_until:
                self._glance = await views.lanes(most)
                took = loop.time() - began
                self._glance_until = began + (HELD_UP * took if self._glance.total > FEW else 0.0)
            return self._glance

    async def etas(
        self, lanes: Iterable[LaneGlance], ask: Callable[[LaneGlance], Awaitable[float | None]]
    ) -> dict[tuple[str, str], float | None]:
        """(lane, slot) → seconds until its next job works; `ask` tells of one. Raises StoreUnavailableError."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        old = began > self._etas_until
        known = {} if old else self._etas
        found: dict[tuple[str, str], float | None] = {}
        for lane in lanes:
            key = lane.lane, lane.slot.value
            found[key] = known[key] if key in known else await ask(lane)
        self._etas = found
        if old:
            now = loop.time()
            self._etas_until = now + max(ETAS_AGE, SHARE * (now - began))
        return found

    async def latency(self, queue: Queue) -> float:
        """Seconds the store took for a plain question. Raises StoreUnavailableError."""
        now = asyncio.get_running_loop().time()
        if now - self._latency_at > MAX_AGE:
            self._latency = await queue.ping()
            self._latency_at = now
        return self._latency

    async def processes(self, views: Views) -> list[dict[str, Any]]:
        """How the processes do. Raises StoreUnavailableError."""
        now = asyncio.get_running_loop().time()
        if now - self._processes_at > PROCESSES_AGE:
            said = await views.lives()
            self._processes = [one | {"since": rfc3339(float(one["since"]))} for one in said]
            self._processes_at = now if said else float("-inf")
        return self._processes


def _record(runs: list[Recent]) -> dict[str, Any] | None:
    if not runs:
        return None
    codes: dict[str, int] = {}
    for run in runs:
        if run.state is State.FAILED:
            codes[run.code] = codes.get(run.code, 0) + 1
    return {
        "runs": len(runs),
        "failed": sum(codes.values()),
        "codes": codes,
        "ttft_ms": _spread(run.ttft for run in runs),
        "tpot_ms": _spread(run.tpot for run in runs),
        "queued_ms": _spread(run.queued for run in runs),
        "callers": sorted({run.caller for run in runs if run.caller})[:_CALLERS],
    }


def _spread(values: Iterable[float | None]) -> dict[str, float] | None:
    """The nearest ranks; None where there is no value."""
    found = sorted(value for value in values if value is not None)
    if not found:
        return None
    return {"p50": found[(len(found) - 1) // 2], "p95": found[-(-len(found) * 95 // 100) - 1]}
