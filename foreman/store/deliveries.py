"""Webhook deliveries as the store keeps them: the right to an attempt, its end, the log, sending again.

The background worker and the gateway's `/deliveries` call me; the transition scripts write the deliveries themselves
(include/outbox.lua). I turn values into script arguments and back, and decide nothing.
"""

from __future__ import annotations

import enum
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from foreman.core.jobs import State
from foreman.protocols.webhook import SCHEDULE
from foreman.store import rows
from foreman.store.keys import ATTEMPTS, OUTBOX, Keys

if TYPE_CHECKING:
    from collections.abc import Sequence

    from foreman.core.jobs import Job
    from foreman.store.wire import Connection

SWEEP_SLACK: Final = 5.0
"""Seconds that arq may be behind before a delivery is looked at again."""
SWEEP_BATCH: Final = 500
_ID: Final = "evt_"


@dataclass(frozen=True, slots=True)
class Pace:
    """How receivers are treated; durations in seconds."""

    schedule: tuple[float, ...] = SCHEDULE
    """The gaps before the first, second … attempt (FOREMAN_WEBHOOK_SCHEDULE)."""
    at_once: int = 4
    """Attempts at one URL at once."""
    lease: float = 6.0
    """How long an attempt is its process's without word of it."""
    broken_after: int = 10
    """Failures in a row at a URL from which on it is spared."""
    probe_gap: float = 60.0
    """Between two attempts at a URL that is spared."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """The right to one attempt at a delivery."""

    id: str
    """`evt_<job>_<seq>`."""
    ticket: int
    number: int
    """1 for the first."""
    url: str
    job: Job
    """As it stood at the transition."""
    time: float
    """Of the transition, seconds since the epoch."""
    now: float
    """The store's clock."""
    body: bytes | None
    """What earlier attempts sent; None before the first."""
    spared: bool
    """The receiver failed too often: count a failure, and make no attempt."""


class Outcome(enum.StrEnum):
    """How an attempt ended."""

    DELIVERED = "delivered"
    GONE = "gone"
    """410: this job's deliveries to the URL are over."""
    FAILED = "failed"
    ABANDONED = "abandoned"
    """Broken off by us: it is made again at once and does not count."""


class After(enum.StrEnum):
    """What became of a delivery by an attempt's end."""

    DELIVERED = "delivered"
    GONE = "gone"
    AGAIN = "again"
    SUPERSEDED = "superseded"
    EXHAUSTED = "exhausted"
    ABANDONED = "abandoned"
    STALE = "stale"
    """The attempt was another's by now; nothing changed."""


class Redelivered(enum.StrEnum):
    """What a wish to send again met."""

    SENT = "sent"
    """It is tried now."""
    WAITING = "waiting"
    """It is on its way already, or waits for an earlier event of its job."""
    UNKNOWN = "unknown"
    """There is none of that name, or it ended more than a day ago."""


@dataclass(frozen=True, slots=True)
class Tried:
    """One line of the log: an attempt, or (attempt 0) why there was none."""

    id: str
    state: State
    seq: int
    url: str
    attempt: int
    time: float
    status: int | None
    duration: float | None
    """Seconds."""
    error: str | None
    reply: str | None


class Deliveries:
    """The deliveries of one pool. All methods raise `StoreUnavailableError` when the store does not answer."""

    def __init__(self, connection: Connection, pool: str) -> None:
        self._connection = connection
        self._keys = Keys(pool)

    async def begin(self, delivery: str, ticket: int, pace: Pace) -> Attempt | None:
        """The right to an attempt; None where there is nothing to do now (the store sees to it that it comes again)."""
        reply = await self._script(
            "begin",
            delivery,
            ticket,
            pace.at_once,
            rows.ms(pace.lease),
            rows.ms(pace.schedule[0]),
            len(pace.schedule),
            pace.broken_after,
            rows.ms(pace.probe_gap),
        )
        word = reply[0].decode()
        if word not in {"go", "broken"}:
            return None
        row = rows.table(reply[3])
        return Attempt(
            id=delivery,
            ticket=ticket,
            number=int(row["tries"]) + 1,
            url=row["url"],
            job=rows.job(row["job"], json.loads(row["snapshot"])),
            time=int(row["time"]) / 1000,
            now=int(reply[1]) / 1000,
            body=reply[2] or None,
            spared=word == "broken",
        )

    async def keep_body(self, attempt: Attempt, body: bytes) -> bytes | None:
        """Keep the bytes that all attempts send; those that stand, or None where the attempt is another's by now."""
        kept: bytes | None = await self._script("keep_body", attempt.id, attempt.ticket, body)
        return kept

    async def hold(self, attempts: Sequence[Attempt], lease: float) -> set[str]:
        """Prolong attempts under way by `lease` seconds; the ids of those that are still ours."""
        named = [part for attempt in attempts for part in (attempt.id, attempt.ticket)]
        return {held.decode() for held in await self._script("hold_attempts", rows.ms(lease), *named)}

    async def settle(
        self,
        attempt: Attempt,
        outcome: Outcome,
        pace: Pace,
        *,
        status: int | None = None,
        took: float | None = None,
        error: str = "",
        reply: str = "",
        delay: float | None = None,
        rest: float = 0.0,
    ) -> After:
        """End an attempt: one line in the log, and the job's lane goes on.

        Args:
            attempt: What `begin` gave.
            outcome: How it ended.
            pace: As for `begin`.
            status: Of the reply, if one came.
            took: Seconds.
            error: A sentence where it failed.
            reply: The first bytes of the reply, as text.
            delay: Seconds until the next attempt; None where the schedule is over.
            rest: Seconds for which the receiver wants nothing more of this job (Retry-After).
        """
        word = await self._script(
            "settle",
            attempt.id,
            attempt.ticket,
            outcome,
            int(not attempt.spared),
            "" if status is None else status,
            "" if took is None else round(took * 1000, 3),
            error,
            reply,
            "" if delay is None else rows.ms(delay),
            rows.ms(rest),
            pace.broken_after,
            rows.ms(pace.probe_gap),
        )
        return After(word.decode())

    async def log(self, job_id: str) -> list[Tried]:
        """A job's attempts of the last days, oldest first."""
        if ":" in job_id:
            return []
        entries = await self._connection.command("XRANGE", self._keys.of(ATTEMPTS, job_id), "-", "+")
        return [_tried(entry) for entry in entries]

    async def open(self, job_id: str) -> list[str]:
        """A job's deliveries that have not ended, by seq."""
        if ":" in job_id:
            return []
        ids = await self._connection.command("ZRANGE", self._keys.of(OUTBOX, job_id), 0, -1)
        return [one.decode() for one in ids]

    async def redeliver(self, delivery: str) -> Redelivered:
        """Send a delivery again, now; the same id and bytes."""
        if ":" in delivery:
            return Redelivered.UNKNOWN
        return Redelivered((await self._script("redeliver", delivery)).decode())

    async def sweep(self) -> list[str]:
        """Have those tried again that nobody tries although their moment is over: lost attempts, lost arq jobs."""
        reply = await self._script("sweep", rows.ms(SWEEP_SLACK), SWEEP_BATCH)
        return [delivery.decode() for delivery in reply]

    async def _script(self, name: str, *args: Any) -> Any:
        return await self._connection.script(name, self._keys.prefix, *args)


def job_of(delivery: str) -> str | None:
    """The job whose delivery it is, or None where that is no delivery's name."""
    job, _, seq = delivery.removeprefix(_ID).rpartition("_")
    return job if delivery.startswith(_ID) and job and seq.isdigit() else None


def _tried(entry: Sequence[Any]) -> Tried:
    row = {entry[1][i].decode(): entry[1][i + 1].decode(errors="replace") for i in range(0, len(entry[1]), 2)}
    return Tried(
        id=row["id"],
        state=State(row["state"]),
        seq=int(row["seq"]),
        url=row["url"],
        attempt=int(row["attempt"]),
        time=int(row["time"]) / 1000,
        status=int(row["status"]) if row["status"] else None,
        duration=float(row["took"]) / 1000 if row["took"] else None,
        error=row["error"] or None,
        reply=row["reply"] or None,
    )
