"""What operators do to a pool and what is kept of it: pause, resume, clear, the audit log.

The gateway's `/ops` calls me; workers ask me whether their target is paused. I turn values into script arguments and
back. What is paused is judged by the scripts, on the store's clock.
"""

from __future__ import annotations

import enum
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from foreman.store import rows
from foreman.store.keys import AUDIT, AUDIT_JOBS
from foreman.store.records import Pause
from foreman.store.roster import Roster

if TYPE_CHECKING:
    from foreman.core.errors import Failure

STEP: Final = 100
"""Jobs that one step of a clearing cancels: some milliseconds of the store's time."""


class Kind(enum.StrEnum):
    """What can be paused."""

    LANE = "lane"
    TARGET = "target"


@dataclass(frozen=True, slots=True)
class Deed:
    """One line of the audit log."""

    id: str
    time: float
    who: str
    """The name of the token; `operator` for FOREMAN_TOKEN and where none is set."""
    action: str
    """`pause`, `resume`, `clear`; of jobs `cancel`, `retry`; of deliveries `redeliver`."""
    kind: str
    """`lane`, `target`, `job`, `delivery`."""
    name: str
    outcome: dict[str, int]
    """Of `pause`: `until` (ms, 0: until resumed) and `unload`; of `resume`: `changed`; of `clear`: `cancelled`, `left`; of
    `cancel`: `running`; of `redeliver`: `again` (it had ended)."""
    made: str | None = None
    """Of `retry`: the new job."""


class UnknownError(Exception):
    """There is no such lane or target."""


class TooManyError(Exception):
    """A thousand are paused already."""


class Operators(Roster):
    """The operators' verbs of one pool. All methods raise `StoreUnavailableError`."""

    async def pause(
        self, kind: Kind, name: str, who: str, *, seconds: float | None = None, unload: bool = False, seen: bool = False
    ) -> Pause:
        """Let nothing of a lane or target start any more; what runs goes on.

        Args:
            kind: lane or target.
            name: its key or name.
            who: for the audit log.
            seconds: after which it resumes by itself; None: when somebody resumes it.
            unload: a target is to hold nothing meanwhile.
            seen: the caller has seen it, so that it is no unknown one although nothing of it is queued.

        Raises:
            UnknownError: there is none of that name.
            TooManyError: a thousand are paused already.
        """
        span = "" if seconds is None else max(1, rows.ms(seconds))
        reply = await self._script("pause", kind.value, name, span, int(unload), who, int(seen))
        if reply == b"unknown":
            raise UnknownError(name)
        if reply == b"full":
            raise TooManyError(name)
        return _pause(kind, name, reply[1], int(unload), reply[0])

    async def resume(self, kind: Kind, name: str, who: str, *, seen: bool = False) -> bool:
        """Let a lane or target go on; False where it was not paused. Raises UnknownError."""
        reply = await self._script("resume", kind.value, name, who, int(seen))
        if reply == b"unknown":
            raise UnknownError(name)
        return bool(reply)

    async def clear(self, lane: str, who: str, failure: Failure, *, seen: bool = False) -> tuple[int, int]:
        """Cancel what is queued in a lane now, step by step; what comes meanwhile may stay.

        Returns:
            How many were cancelled, and how many are left: what came meanwhile.

        Raises:
            UnknownError: there is no such lane.
        """
        error = json.dumps(failure.as_dict())
        done, steps = 0, 1
        while True:
            last = int(steps <= 1 and done > 0)
            reply = await self._moving("clear", lane, STEP, error, who, done, last, int(seen))
            if reply == b"unknown":
                raise UnknownError(lane)
            cancelled, left = int(reply[0]), int(reply[1])
            steps = -(-left // STEP) if done == 0 else steps - 1
            done += cancelled
            if not left or last or not cancelled:
                return done, left

    async def pauses(self) -> list[Pause]:
        """All that holds now: a thousand at most."""
        reply = await self._script("pauses")
        return [
            _pause(Kind(what.decode()), name.decode(), till, unload, since)
            for what, name, till, unload, since in reply[1:]
        ]

    async def audit(self, limit: int) -> list[Deed]:
        """The newest deeds, newest first."""
        found = []
        for log in (AUDIT, AUDIT_JOBS):
            entries = await self._connection.command("XREVRANGE", self.keys.of(log), "+", "-", "COUNT", limit)
            found += [_deed(entry) for entry in entries or ()]
        return sorted(found, key=lambda deed: deed.time, reverse=True)[:limit]


def _pause(kind: Kind, name: str, till: bytes | int, unload: bytes | int, since: bytes | int) -> Pause:
    until = int(till) / 1000 or None
    return Pause(kind.value, name, since=int(since) / 1000, until=until, unload=bool(int(unload)))


def _deed(entry: Any) -> Deed:
    row = rows.table(entry[1])
    known = {"time", "who", "action", "kind", "name", "as"}
    return Deed(
        id=entry[0].decode(),
        time=int(row["time"]) / 1000,
        who=row["who"],
        action=row["action"],
        kind=row["kind"],
        name=row["name"],
        made=row.get("as"),
        outcome={field: int(value) for field, value in row.items() if field not in known},
    )
