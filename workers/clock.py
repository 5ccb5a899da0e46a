"""The store's clock, as a worker knows it between two answers of the store.

Everything a choice compares (due, turn, stay) is in the store's time; each survey and claim brings it along.
"""

from __future__ import annotations

import time


class StoreClock:
    """Seconds since the epoch by the store, extrapolated with this machine's monotonic clock."""

    def __init__(self) -> None:
        self._offset = time.time() - time.monotonic()

    def observe(self, now: float) -> None:
        """The store has just said what time it is."""
        self._offset = now - time.monotonic()

    def now(self) -> float:
        """The store's time now."""
        return self._offset + time.monotonic()
