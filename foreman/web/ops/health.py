"""Why the pool is not at its best: each reason a sentence that says what to do. What `/healthz`, the page and `doctor` show.

web/ops/snapshot.py asks me. I look at what this gateway knows of the store and the targets, and at what workers, gateways
and the background worker said of themselves; I change nothing, and a look costs a few commands at most.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from foreman.protocols.job_object import rfc3339
from foreman.store.errors import StoreUnavailableError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from foreman.store.client import Store
    from foreman.store.records import TargetStatus, WorkerPresence
    from foreman.web.pool.inventory import Inventory

LOOK: Final = 10.0
"""Seconds for which the findings about the store are good."""
FILES: Final = 0.9
"""Share of the files that a process may have open before it is a reason."""
LAG: Final = 1.0
"""Seconds a process's event loop may be behind within a minute before it is a reason."""


@dataclass(slots=True)
class Health:
    """The health of a pool as one gateway sees it."""

    store: Store
    inventory: Inventory
    _looked_at: float = field(default=float("-inf"))

    async def reasons(self) -> list[str]:
        """Empty when all is well."""
        if not self.inventory.store_answers():
            return [self._store_away()]
        queue = self.store.queue
        try:
            workers, lives, background = await asyncio.gather(
                queue.workers(), self.store.views.lives(), queue.background_lives()
            )
            return await self.reasons_of(workers, lives, background=background)
        except StoreUnavailableError as error:
            return [*self._known(), f"the store does not answer: {error.message}"]

    async def reasons_of(
        self, workers: Iterable[WorkerPresence], processes: Collection[dict[str, Any]], *, background: bool
    ) -> list[str]:
        """The same, of what somebody has just asked the store for. Raises StoreUnavailableError."""
        if not self.inventory.store_answers():
            return [self._store_away()]
        found = await self._store()
        found += [] if self.inventory.targets else [NO_TARGET]
        found += [reason for target in self.inventory.targets for reason in _target(target)]
        found += [] if background else [NO_BACKGROUND]
        found += [reason for worker in workers for reason in _links(worker)]
        return [*found, *_late(processes), *_short_of_files(processes)]

    def _store_away(self) -> str:
        failure = self.inventory.failure or self.inventory.unwritten
        why = f": {failure.message}" if failure else ""
        if self.inventory.failure is None and self.inventory.unwritten is not None:
            return (
                f"the store takes no writes{why} (calls get 503 meanwhile, nothing is lost): see its memory, its disk, "
                "and that FOREMAN_REDIS_URL names the primary"
            )
        if failure is None:
            return (
                "the store answers seconds late, if at all (calls get 503 meanwhile, nothing is lost): see what keeps it "
                "busy, its disk, and the network to it"
            )
        return (
            f"the store does not answer{why} (calls get 503 meanwhile, nothing is lost): start it, "
            "or correct FOREMAN_REDIS_URL"
        )

    async def _store(self) -> list[str]:
        """What should be put right at the store, looked at afresh each LOOK seconds: it may have been restarted or moved."""
        now = time.monotonic()
        if now - self._looked_at > LOOK:
            await self.store.look()
            self._looked_at = now
        return self._known()

    def _known(self) -> list[str]:
        return [finding.message for finding in self.store.findings]


NO_TARGET: Final = "no worker has announced a target: start `foreman serve --role worker`"
NO_BACKGROUND: Final = (
    "no background worker is alive, and webhooks wait for one: start `foreman serve --role background`"
)


def _target(target: TargetStatus) -> list[str]:
    found = []
    if target.state == "down":
        why = f": {target.error}" if target.error else ""
        where = "" if target.url in why else f" ({target.url})"
        found.append(f"target {target.name!r}{where} is down since {rfc3339(target.since)[:19]}Z{why}")
    if target.stuck is not None and target.state != "down":
        found.append(f"target {target.name!r}: {target.stuck}")
    if not target.embed_fits:
        found.append(
            f"embeddings push out the chat model on target {target.name!r}: "
            "allow two loaded models (OLLAMA_MAX_LOADED_MODELS), or give embeddings a target of their own"
        )
    return found


def _links(worker: WorkerPresence) -> list[str]:
    return [
        f"worker {worker.id} has no link to gateway {gateway}, and hands its jobs back: let FOREMAN_LINK_ADDR of that "
        "gateway announce a host and a port that this worker reaches; with TLS, FOREMAN_LINK_CA there must know its certificate"
        for gateway in worker.unreachable
    ]


def _late(processes: Iterable[dict[str, Any]]) -> list[str]:
    """One reason per process, however many roles it has: they share its loop."""
    late: dict[tuple[Any, float], list[str]] = {}
    for said in processes:
        lag = float(said.get("loop_lag_worst_ms") or said.get("loop_lag_ms") or 0.0) / 1000
        if lag >= LAG:
            late.setdefault((said.get("pid"), round(lag, 1)), []).append(f"{said['role']} {said['id']}")
    return [
        f"{', '.join(names)} {'was' if len(names) == 1 else 'were'} {lag} s behind within the last minute: its machine is "
        "too busy, or it was stopped; give it more CPU, or run its role on more machines"
        for (_, lag), names in late.items()
    ]


def _short_of_files(processes: Iterable[dict[str, Any]]) -> list[str]:
    return [
        f"{said['role']} {said['id']} had {said['files_worst']} of {said['files_limit']} files open within the last minute; with "
        "none left, callers' connections are closed without a word: raise its limit (systemd LimitNOFILE=65536, `ulimit -n`)"
        for said in processes
        if said.get("files_worst", 0) > FILES * said.get("files_limit", 1 << 30)
    ]
