"""What callers have not taken yet: how far each is behind, for how long that is borne, and how much all may be in sum.

A wire tells its spool whenever it could not hand over everything, and when it could again. I drop a reader that has held
its target for FOREMAN_READER_TIMEOUT in sum, or, once its answer is whole, has taken nothing for as long; and where all
readers together are too far behind, those that drain first, then I narrow what workers may run ahead. I hold no bytes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import structlog

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

log = structlog.get_logger(__name__)

WHOLE: Final = 256
"""How many whole windows (FOREMAN_SPOOL_BYTES) all readers of a gateway may be behind in sum."""
NARROW: Final = 16
"""By how much windows are narrowed once they are further behind."""
_LOOKS: Final = 4
"""How often in a timeout a reader that drains is looked at."""


class Spools:
    """All that is behind at one gateway.

    Args:
        window: bytes that a worker may run ahead of its reader (`FOREMAN_SPOOL_BYTES`).
        timeout: seconds a reader may hold its target, or take nothing (`FOREMAN_READER_TIMEOUT`).
    """

    def __init__(self, window: int, timeout: float) -> None:
        self.window = window
        self.timeout = timeout
        self.narrow = False
        """Windows are narrowed now."""
        self.bytes = 0
        """Behind in sum."""
        self._behind: dict[Spool, int] = {}
        self._relieving = False

    def __len__(self) -> int:
        """How many readers are behind."""
        return len(self._behind)

    def note(self, spool: Spool, behind: int) -> None:
        """So far is this reader behind now; 0: it has caught up, or is gone."""
        self.bytes += behind - self._behind.pop(spool, 0)
        if behind:
            self._behind[spool] = behind
        most = WHOLE * self.window
        if self.bytes > most and not self._relieving:
            self._relieving = True
            try:
                self._relieve(most)
            finally:
                self._relieving = False
        elif self.narrow and self.bytes < most // 2:
            self._set(narrow=False)

    def _relieve(self, most: int) -> None:
        """1. those whose answers are whole go, the longest idle first; 2. the others' workers may run less ahead."""
        draining = sorted((spool for spool in self._behind if spool.draining), key=lambda spool: spool.moved_at)
        for spool in draining:
            if self.bytes <= most:
                return
            spool.drop("all readers together are too far behind")
        if self.bytes > most and not self.narrow:
            self._set(narrow=True)

    def _set(self, *, narrow: bool) -> None:
        self.narrow = narrow
        log.warning("spool.narrowed" if narrow else "spool.widened", bytes=self.bytes, readers=len(self._behind))
        for spool in list(self._behind):
            spool.fit()


class Spool:
    """How far one reader is behind. Its wire calls `lags`, `held` and `clear`.

    Args:
        spools: those of the gateway.
        loop: whose clock counts.
        left: what is not sent yet, however it is counted; other than the last time: the reader takes.
        drop: cuts the reader off.
        fit: tells the worker how many bytes it may run ahead.
    """

    def __init__(
        self,
        spools: Spools,
        loop: asyncio.AbstractEventLoop,
        *,
        left: Callable[[], object],
        drop: Callable[[], None],
        fit: Callable[[int], None],
    ) -> None:
        self.draining = False
        """Its answer is whole: nobody waits for the reader any more but its bytes."""
        self.moved_at = 0.0
        """When it last took something, by the loop's clock."""
        self.window = spools.window
        self._spools = spools
        self._loop = loop
        self._drop = drop
        self._fit = fit
        self._full_since: float | None = None
        self._held = 0.0
        """Seconds in which it held its target, but for those since `_full_since`."""
        self._left = left
        self._seen: object = None
        self._timer: asyncio.TimerHandle | None = None

    def lags(self, behind: int, *, moved: bool, draining: bool) -> None:
        """Not everything could be handed over.

        Args:
            behind: bytes of the answer that its worker has no credit for.
            moved: something could.
            draining: the answer is whole.
        """
        now = self._loop.time()
        if moved or draining != self.draining:
            self.moved_at = now
        if draining and not self.draining:
            self._seen = self._left()
        self.draining = draining
        if draining:
            self._goes_on(now)
        self._spools.note(self, behind)
        if self._spools.narrow != (self.window < self._spools.window):
            self.fit()
        if self._timer is None and draining:
            self._arm()

    def held(self, waits: bool) -> None:
        """Its target waits for it, as its worker says, or goes on."""
        now = self._loop.time()
        self._goes_on(now)
        if waits:
            self._full_since = now
            if self._timer is None:
                self._arm()

    def clear(self) -> None:
        """It has everything for now, or is gone."""
        self._goes_on(self._loop.time())
        self._spools.note(self, 0)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def fit(self) -> None:
        """Tell the worker how far it may run ahead now."""
        self.window = max(1, self._spools.window // (NARROW if self._spools.narrow else 1))
        self._fit(self.window)

    def drop(self, why: str) -> None:
        """Cut the reader off."""
        log.warning("reader.dropped", why=why, draining=self.draining, held_seconds=round(self._sum(), 3))
        self.clear()
        self._drop()

    def _goes_on(self, now: float) -> None:
        if self._full_since is not None:
            self._held += now - self._full_since
            self._full_since = None

    def _sum(self) -> float:
        return self._held + (0.0 if self._full_since is None else self._loop.time() - self._full_since)

    def _arm(self) -> None:
        timeout = self._spools.timeout
        pause = timeout / _LOOKS if self.draining else timeout - self._sum()
        self._timer = self._loop.call_later(max(0.001, pause), self._fire)

    def _fire(self) -> None:
        self._timer = None
        timeout = self._spools.timeout
        if self.draining:
            left = self._left()
            if left != self._seen:
                self._seen, self.moved_at = left, self._loop.time()
            if self._loop.time() - self.moved_at >= timeout * 0.999:
                self.drop(f"its answer is whole, and it took nothing for {timeout:g} s")
            else:
                self._arm()
        elif self._full_since is not None:
            if self._sum() >= timeout * 0.999:
                self.drop(f"it held its target for {timeout:g} s in sum")
            else:
                self._arm()
