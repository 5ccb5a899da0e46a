"""Counts that look back: jobs by how they ended, webhooks by host and outcome, per hour and per day.

The scripts count as things happen (include/tally.lua), the background worker has old hours folded into days by me, and
whoever shows a history reads from me. Bounded in names and in time; I count nothing myself.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from foreman.store.rows import ms, table

if TYPE_CHECKING:
    from foreman.store.keys import Keys
    from foreman.store.wire import Connection

HOUR: Final = 3600.0
DAY: Final = 86_400.0
HOURS: Final = 48
"""Hours that are kept apart."""
DAYS: Final = 90
"""Days that are kept."""


@dataclass(frozen=True, slots=True)
class Tally:
    """What happened in an hour or a day (UTC)."""

    begins: float
    """Seconds since the epoch."""
    lasts: float
    """Seconds: HOUR or DAY."""
    jobs: dict[str, dict[str, int]] = field(default_factory=dict)
    """Surface (`sync`, `async`) → state (`done`, `failed`, `cancelled`) → jobs that ended so."""
    webhooks: dict[str, dict[str, int]] = field(default_factory=dict)
    """Host of the URL, with its port (`other` past 500 counts) → how often: attempts `delivered`, `failed` and `gone` (410),
    deliveries `superseded` and `exhausted`."""


class Tallies:
    """The counts of one pool. All methods raise `StoreUnavailableError` when the store does not answer."""

    def __init__(self, connection: Connection, keys: Keys) -> None:
        self._connection = connection
        self._keys = keys

    async def hours(self, count: int = HOURS) -> list[Tally]:
        """The last hours, this one first; those in which nothing happened are left out."""
        return await self._read("h", HOUR, count)

    async def days(self, count: int = DAYS) -> list[Tally]:
        """The last days, as far as their hours have been folded in: to two days ago; the newest first."""
        return await self._read("d", DAY, count)

    async def roll_up(self) -> int:
        """Fold hours older than HOURS into their days; how many went. Again changes nothing."""
        prefix = self._keys.prefix
        return int(await self._connection.script("roll_up", prefix, HOURS, ms(DAYS * DAY)))

    async def _read(self, kind: str, lasts: float, count: int) -> list[Tally]:
        reply = await self._connection.script("tallies", self._keys.prefix, kind, ms(lasts), count)
        found = []
        for number, flat in reply:
            jobs: dict[str, dict[str, int]] = defaultdict(dict)
            webhooks: dict[str, dict[str, int]] = defaultdict(dict)
            for spelled, times in table(flat).items():
                what, _, name = spelled.partition(" ")
                subject, _, how = what.partition(":")
                if subject == "job":
                    jobs[how][name] = int(times)
                else:
                    webhooks[name][how] = int(times)
            found.append(Tally(int(number) * lasts, lasts, dict(jobs), dict(webhooks)))
        return found
