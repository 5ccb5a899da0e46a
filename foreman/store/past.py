"""The jobs that have ended, a line each, for a day: what a trace is made of.

The step that ends a job writes the line (lua/include/past.lua); the gateway's `/ops/trace` reads them through `store.past`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from foreman.core.jobs import Priority, Slot
from foreman.simulate.export import PastJob
from foreman.store import rows
from foreman.store.keys import PAST

if TYPE_CHECKING:
    from foreman.store.keys import Keys
    from foreman.store.wire import Connection

_PAGE: Final = 2000


class Past:
    """The ended jobs of one pool. All methods raise `StoreUnavailableError` when the store does not answer."""

    def __init__(self, connection: Connection, keys: Keys) -> None:
        self._connection = connection
        self._keys = keys

    async def jobs(self, since: float) -> list[PastJob]:
        """Those that ended after that moment (s since the epoch), oldest first; 20,000 are kept, or a few more."""
        found: list[PastJob] = []
        start = f"{max(0, int(since * 1000))}"
        while True:
            page = await self._connection.command("XRANGE", self._keys.of(PAST), start, "+", "COUNT", _PAGE)
            found += [_past(rows.table(fields)["job"]) for _, fields in page]
            if len(page) < _PAGE:
                return found
            start = f"({page[-1][0].decode()}"


def _past(line: str) -> PastJob:
    lane, slot, priority, state, came, started, ended, deadline, target = line.rsplit("\n", 8)
    return PastJob(
        came_at=int(float(came)) / 1000,
        lane=lane,
        embedding=slot == Slot.EMBED,
        priority=Priority(int(priority)),
        state=state,
        started_at=float(started) / 1000 if started else None,
        ended_at=float(ended) / 1000,
        deadline=float(deadline) / 1000 if deadline else None,
        target=target or None,
    )
