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
from foreman.protocols.job_object import INLINE_LIMIT
from foreman.protocols.webhook import LONGEST_SWING, SCHEDULE
from foreman.store import rows
from foreman.store.keys import ARQ, ATTEMPTS, DELIVERIES, OUTBOX, Keys

if TYPE_CHECKING:
    from collections.abc import Sequence

    from foreman.core.jobs import Job
    from foreman.store.wire import Connection

BATCH: Final = 500
"""Deliveries that one step looks at."""
LOOKED_AT: Final = 100
"""Receivers that one step looks at: some ten milliseconds of the store's, in which nobody else gets an answer."""
RECEIVERS: Final = 100
"""Receivers in a list, unless more are asked for."""
_ID: Final = "evt_"


@dataclass(frozen=True, slots=True)
class Pace:
    """How receivers are treated; durations in seconds."""

    schedule: tuple[float, ...] = SCHEDULE
    """The gaps before the first, second … attempt (FOREMAN_WEBHOOK_SCHEDULE)."""
    lease: float = 6.0
    """How long an attempt is its process's without word of it."""
    broken_after: int = 10
    """Failures in a row at a URL from which on it gets one attempt each `probe_gap`; the others are put off."""
    probe_gap: float = 60.0

    @property
    def span(self) -> float:
        """What the schedule takes at most, all gaps at their longest."""
        return LONGEST_SWING * sum(self.schedule)


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


@dataclass(frozen=True, slots=True)
class Settled:
    """What an attempt's end changed."""

    after: After
    handed: tuple[str, int] | None
    """Delivery and ticket that got a place at the receiver: arq runs it, unless somebody begins it earlier."""


class Redelivered(enum.StrEnum):
    """What a wish to send again met."""

    SENT = "sent"
    """It is tried now."""
    WAITING = "waiting"
    """It is on its way already, or waits for an earlier event of its job."""
    OVER = "over"
    """Its bytes are kept no longer: it ended more than a day ago, or the answer in it is gone."""
    UNKNOWN = "unknown"


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


class Standing(enum.StrEnum):
    """How a receiver takes what it is sent."""

    WELL = "well"
    FAILING = "failing"
    """Its last attempt failed."""
    BROKEN = "broken"
    """It failed too often in a row: one attempt each gap, until one succeeds."""


@dataclass(frozen=True, slots=True)
class Receiver:
    """A URL that webhooks go to. Times are seconds since the epoch."""

    url: str
    open: int
    """Deliveries that have not ended."""
    waiting: int
    """Of those, in line for an attempt: now, or at their moment."""
    running: int
    """Attempts under way, or about to be."""
    delivered: int
    """Deliveries taken, since the receiver is known: it is forgotten a day after nothing is open there."""
    failed: int
    """Attempts that failed."""
    failures: int
    """Of those, in a row up to now."""
    standing: Standing
    status: int | None
    """Of the last reply, if one came."""
    error: str | None
    """Of the last attempt, if it failed."""
    tried_at: float | None
    next_at: float | None
    """When the next attempt is due; None where none waits."""


class Deliveries:
    """The deliveries of one pool. All methods raise `StoreUnavailableError` when the store does not answer."""

    def __init__(self, connection: Connection, pool: str) -> None:
        self._connection = connection
        self._keys = Keys(pool)

    async def begin(self, delivery: str, ticket: int, pace: Pace) -> Attempt | None:
        """The right to an attempt; None where there is nothing to do now (the store sees to it that it comes again).

        Whoever begins before arq comes to it has begun it: arq need not come any more.
        """
        reply = await self._script("begin", delivery, ticket, rows.ms(pace.lease), rows.ms(pace.schedule[0]))
        if reply[0] != b"go":
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
    ) -> Settled:
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
        word, *handed = await self._script(
            "settle",
            attempt.id,
            attempt.ticket,
            outcome,
            "" if status is None else status,
            "" if took is None else round(took * 1000, 3),
            error,
            reply,
            "" if delay is None else rows.ms(delay),
            rows.ms(rest),
            pace.broken_after,
            rows.ms(pace.probe_gap),
        )
        return Settled(After(word.decode()), (handed[0].decode(), int(handed[1])) if handed else None)

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

    async def redeliver(self, delivery: str, operator: str | None = None) -> Redelivered:
        """Send a delivery again, now; the same id and bytes. `operator`: who it was, where the audit log shall tell."""
        job_id = job_of(delivery)
        if ":" in delivery or job_id is None:
            return Redelivered.UNKNOWN
        return Redelivered((await self._script("redeliver", delivery, job_id, INLINE_LIMIT, operator or "")).decode())

    async def call(self) -> list[str]:
        """Hand out what has come due at the receivers; the deliveries whose attempts were lost, now in line again."""
        return [delivery.decode() for delivery in await self._script("call", LOOKED_AT)]

    async def sweep(self, pace: Pace) -> list[str]:
        """Give those a last attempt that broken receivers have put off for as long as their schedule takes."""
        return [delivery.decode() for delivery in await self._script("sweep", rows.ms(pace.span), BATCH)]

    async def handed(self, now: float) -> bool:
        """Whether anything is written for arq to run; `now` in seconds since the epoch by the clock of arq's host."""
        return bool(await self._connection.command("ZCOUNT", self._keys.of(ARQ), "-inf", rows.ms(now)))

    async def waiting(self) -> int:
        """How many deliveries have not ended, of all jobs."""
        return int(await self._connection.command("ZCARD", self._keys.of(DELIVERIES)))

    async def receivers(self, limit: int = RECEIVERS) -> list[Receiver]:
        """The URLs that were told of something last, the newest first; at most `limit`, and 1,000."""
        return [_receiver(row) for row in await self._script("receivers", limit)]

    async def _script(self, name: str, *args: Any) -> Any:
        return await self._connection.script(name, self._keys.prefix, *args)


def job_of(delivery: str) -> str | None:
    """The job whose delivery it is, or None where that is no delivery's name."""
    job, _, seq = delivery.removeprefix(_ID).rpartition("_")
    return job if delivery.startswith(_ID) and job and seq.isdecimal() else None


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


def _receiver(entry: Sequence[Any]) -> Receiver:
    row = {entry[4][i].decode(): entry[4][i + 1].decode(errors="replace") for i in range(0, len(entry[4]), 2)}
    failures, probe_at = int(row.get("failures", "0")), int(row.get("probe_at", "0")) / 1000
    first = int(entry[3]) / 1000 if entry[3] else None
    standing = Standing.FAILING if failures else Standing.WELL
    return Receiver(
        url=entry[0].decode(errors="replace"),
        open=max(0, int(row.get("open", "0"))),
        waiting=int(entry[2]),
        running=int(entry[1]),
        delivered=int(row.get("delivered", "0")),
        failed=int(row.get("failed", "0")),
        failures=failures,
        standing=Standing.BROKEN if probe_at else standing,
        status=int(row["status"]) if row.get("status") else None,
        error=row.get("error") or None,
        tried_at=int(row["at"]) / 1000 if "at" in row else None,
        next_at=None if first is None else max(first, probe_at),
    )
