"""How a process does: how far its loop is behind, how long the store takes to answer, how much memory it holds.

Gateways, workers and the background worker each run one of me; I measure and put it into the store, where every
gateway finds it for `/metrics` and the page. I judge nothing.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import structlog

import foreman
from foreman.store.errors import StoreUnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable

    from foreman.store.views import Views

log = structlog.get_logger(__name__)

TICK: Final = 0.25
"""Seconds between two looks at the loop's clock; a longer stop than that never passes unseen."""
TICKS: Final = 4
"""Looks from one word in the store to the next."""
MINUTE: Final = 60
"""Words in the store for which the worst of them is told beside the last."""
LATE: Final = 0.5
"""Seconds behind from which on it is worth a line in the log."""
_STATM: Final = Path("/proc/self/statm")


class Pulse:
    """The pulse of one process in one role.

    Args:
        name: who it is in the store now; a worker may begin anew under another name.
        heard: called with each answer time of the store in seconds, None where it did not answer.
    """

    def __init__(
        self, views: Views, role: str, name: Callable[[], str], heard: Callable[[float | None], None] | None = None
    ) -> None:
        self._views = views
        self._role = role
        self._name = name
        self._heard = heard
        self._since = time.time()
        self.lag = 0.0
        """Seconds the loop was behind at most, in the last second."""
        self._lags: deque[float] = deque(maxlen=MINUTE)
        self.latency: float | None = None
        """Seconds of the store's last answer; None while it doesn't."""

    async def run(self) -> None:
        """Measure and tell until cancelled."""
        while True:
            worst = 0.0
            for _ in range(TICKS):
                due = time.monotonic() + TICK
                await asyncio.sleep(TICK)
                worst = max(worst, time.monotonic() - due)
            self.lag = max(0.0, worst)
            self._lags.append(self.lag)
            if self.lag > LATE:
                log.warning("loop.lag", role=self._role, name=self._name(), seconds=round(self.lag, 3))
            await self._tell()

    async def _tell(self) -> None:
        began = time.monotonic()
        try:
            await self._views.live(self._role, self._name(), self.said())
        except StoreUnavailableError:
            self.latency = None
        else:
            self.latency = time.monotonic() - began
        if self._heard is not None:
            self._heard(self.latency)

    def said(self) -> dict[str, Any]:
        """What the store is told."""
        return {
            "version": foreman.__version__,
            "since": self._since,
            "pid": os.getpid(),
            "loop_lag_ms": round(self.lag * 1000, 1),
            "loop_lag_worst_ms": round(max(self._lags, default=0.0) * 1000, 1),
            "store_latency_ms": None if self.latency is None else round(self.latency * 1000, 2),
            "rss_bytes": _rss(),
            "tasks": len(asyncio.all_tasks()),
        }


def _rss() -> int | None:
    """Memory in bytes; None where the system has no /proc."""
    try:
        return int(_STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return None
