"""What is broken of the exact promises while a fault run is still going on, so that it ends at the first breach.

The run starts me beside its phases. I look at jobs that have just ended, and at those that run though no living worker has
them; what I find is told at once. Whatever needs the whole picture is the judge's, at the end.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any, Final

from tests.faults.judge import TERMINAL, Judge, read_some
from tests.faults.topology import AWAY

if TYPE_CHECKING:
    from tests.faults.ledger import Ledger
    from tests.faults.topology import Topology

PAUSE: Final = 0.5
"""Seconds between two looks."""
ORPHANED: Final = 8.0
"""Seconds that a job may be at work with nobody there: all workers and gateways look twice a second, and the longest
outage of the store in which we could look all the same takes 2."""
LATE: Final = 2.0
"""Seconds that a look of ours may be late for that to be judged."""
BACK_MS: Final = 3000
"""Jobs that ended so long before the last look are looked at once more: a late write is one to find."""


class Watch:
    """One run's. `first` returns with the first breaches; it never does where there are none."""

    def __init__(self, pool: Topology, ledger: Ledger) -> None:
        self._pool = pool
        self._ledger = ledger
        self._since = 0
        self._alone: dict[str, float] = {}
        """Job at work without a living worker → since when, seconds since 1970."""

    async def first(self) -> list[str]:
        """Look until something is broken."""
        looked = time.time()
        while True:
            await asyncio.sleep(PAUSE)
            try:
                found = await self._ended() + await self._orphans()
            except AWAY:
                self._alone.clear()  # nobody can bring anything back without the store
                continue
            if time.time() - looked > PAUSE + LATE:
                self._alone.clear()
            looked = time.time()
            found += [line for line in self._ledger.trouble if line.startswith("target epoch")] + self._pool.strays
            if found:
                return found

    async def _ended(self) -> list[str]:
        """Jobs that have ended since the last look."""
        now, names = int(time.time() * 1000), set()
        for surface in ("sync", "async"):
            for state in TERMINAL:
                key = f"{self._pool.key}ended:{surface}:{state}"
                names |= set(await self._pool.look.zrangebyscore(key, self._since - BACK_MS, "+inf"))
        jobs = await read_some(self._pool, sorted(names))
        self._since = now
        return Judge(self._pool, self._ledger, jobs).so_far()

    async def _orphans(self) -> list[str]:
        """Jobs at work whose worker is nobody any more, and that nobody brings back."""
        now, key, look = time.time(), self._pool.key, self._pool.look
        living = set(await look.zrange(f"{key}workers", 0, -1))
        jobs: list[Any] = []
        for state in ("loading", "working"):
            jobs += await look.zrange(f"{key}running:{state}", 0, -1)
        workers = [(job_id, await look.hget(f"{key}job:{job_id}", "worker")) for job_id in jobs]
        self._alone = {job_id: self._alone.get(job_id, now) for job_id, worker in workers if worker not in living}
        return [
            f"{job_id} is at work and has had no worker for {now - since:.1f} s"
            for job_id, since in self._alone.items()
            if now - since > ORPHANED
        ]
