"""How a process does: how far its loop is behind, how long the store takes to answer, its memory and open files.

Gateways, workers and the background worker each run one of me; I measure and put it into the store, where every
gateway finds it for `/metrics` and the page. I judge nothing.
"""

from __future__ import annotations

import asyncio
import errno
import os
import resource
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
SHORT: Final = 0.9
"""Share of the files it may have open from which on a process is short of them."""
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
        self._files: deque[int] = deque(maxlen=MINUTE)
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
            self._count_files()
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
            "files_worst": max(self._files, default=0),
            "files_limit": _files_limit(),
        }

    def _count_files(self) -> None:
        files, limit, before = _files(), _files_limit(), max(self._files, default=0)
        self._files.append(files)
        if files > SHORT * limit >= before:
            log.warning("files.short", role=self._role, name=self._name(), open=files, limit=limit)


def _files_limit() -> int:
    """How many files may be open: callers, targets and the store are among them."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return limit if limit != resource.RLIM_INFINITY else 1 << 30


def _files() -> int:
    """How many are open, or a few less: numbers are given out lowest first, so the next one tells without a count."""
    try:
        free = os.open(os.devnull, os.O_RDONLY)
    except OSError as error:
        return _files_limit() if error.errno == errno.EMFILE else 0
    os.close(free)
    return free


def _rss() -> int | None:
    """Memory in bytes; None where the system has no /proc."""
    try:
        return int(_STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return None
