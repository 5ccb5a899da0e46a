"""The courier: one attempt at one delivery per arq job, with the right to it held in the store.

arq calls `deliver` with what a transition script wrote (workers/background.py registers it); I take the right to the
attempt, build or fetch the bytes, send them, and tell the store how it ended, which decides what comes next. I order
nothing and remember nothing: a process killed here costs one lease (ADR-0005).
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from typing import TYPE_CHECKING, Any, Final

import structlog

from foreman.protocols import webhook
from foreman.protocols.job_object import encode, job_object
from foreman.store.deliveries import Outcome, Pace
from foreman.store.errors import StoreUnavailableError
from foreman.tasks import Tasks
from workers.deliveries.post import Patience, Poster, Reply

if TYPE_CHECKING:
    from foreman.settings import Settings
    from foreman.store.client import Store
    from foreman.store.deliveries import Attempt

log = structlog.get_logger(__name__)

COURIER: Final = "courier"
"""The name in arq's context under which `deliver` finds me."""
HOLD: Final = 1.0
"""Seconds between two prolongations of the attempts under way."""
ON: Final = 5.0
"""Seconds for which one arq job goes on with what its receiver has a place for next."""
_SETTLE: Final = 30.0
"""Seconds for which an attempt's end is told again to a store that is away."""
LOOK: Final = 0.1
"""Seconds between two looks for what has come due at a receiver."""


class Courier:
    """Makes attempts. `start` in the loop it lives in, `stop` once."""

    def __init__(
        self, settings: Settings, store: Store, patience: Patience | None = None, pace: Pace | None = None
    ) -> None:
        """`patience` and `pace`: shorter ones, for tests."""
        self._settings = settings
        self._store = store
        self._patience = patience or Patience()
        self._pace = pace or Pace(schedule=settings.webhook_schedule)
        self._poster: Poster | None = None
        self._tasks = Tasks("courier")
        self._held: dict[str, tuple[Attempt, asyncio.Timeout]] = {}

    async def start(self) -> None:
        """Begin to hold attempts, and to hand out what comes due."""
        self._poster = Poster(self._settings.webhook_allow, self._patience)
        self._tasks.spawn(self._hold(), "hold")
        self._tasks.spawn(self._call(), "call")

    async def stop(self) -> None:
        """End; arq has ended its jobs before."""
        await self._tasks.close()
        if self._poster is not None:
            await self._poster.close()

    async def deliver(self, delivery: str, ticket: int) -> None:
        """One attempt, and for a while those that its receiver has a place for next, each begun before arq comes to it.

        Where the store is away there is none: it comes again.
        """
        loop = asyncio.get_running_loop()
        until, first = loop.time() + ON, True
        next_one: tuple[str, int] | None = (delivery, ticket)
        while next_one is not None and (first or loop.time() < until):
            next_one, first = await self._attempt(*next_one), False

    async def _attempt(self, delivery: str, ticket: int) -> tuple[str, int] | None:
        """One attempt, if there is one to make; what got its place at the receiver."""
        asked = asyncio.get_running_loop().time()
        try:
            attempt = await self._store.deliveries.begin(delivery, ticket, self._pace)
        except StoreUnavailableError:
            return None
        if attempt is None:
            return None
        try:
            reply = await self._made(attempt, asked + self._pace.lease - HOLD)
        except (
            TimeoutError,
            StoreUnavailableError,
        ):  # the store was away for a lease: the right to this attempt may be another's by now
            log.warning("webhook.broken_off", delivery=delivery)
            return None
        except asyncio.CancelledError:
            await asyncio.shield(self._settle(attempt, Outcome.ABANDONED))
            raise
        return None if reply is None else await self._end(attempt, reply)

    async def _made(self, attempt: Attempt, until: float) -> Reply | None:
        """As `_send`, and held meanwhile; `until` (by the loop's clock) it is ours without being held."""
        async with asyncio.timeout_at(until) as limit:
            self._held[attempt.id] = (attempt, limit)
            try:
                return await self._send(attempt)
            finally:
                del self._held[attempt.id]

    async def _send(self, attempt: Attempt) -> Reply | None:
        """Make it; None where the right to it is gone."""
        assert self._poster is not None
        body = attempt.body or await self._store.deliveries.keep_body(attempt, await self._body(attempt))
        if body is None:
            return None
        headers = webhook.headers(self._settings.webhook_secret, attempt.id, int(attempt.now), body)
        return await self._poster.post(attempt.url, headers, body)

    async def _body(self, attempt: Attempt) -> bytes:
        """The job object as the job stood at the transition."""
        artifacts = await self._store.answers.shown(attempt.job)
        return encode(job_object(attempt.job, attempt.time, artifacts))

    async def _end(self, attempt: Attempt, reply: Reply) -> tuple[str, int] | None:
        if reply.ours:  # what it lacks now it may have in a moment
            log.warning("webhook.not_made", delivery=attempt.id, error=reply.error)
            await asyncio.sleep(HOLD)
            return await self._settle(attempt, Outcome.ABANDONED)
        status = reply.status
        if status is not None and 200 <= status < 300:
            outcome, error = Outcome.DELIVERED, ""
        elif status == 410:
            outcome, error = Outcome.GONE, "410: the receiver wants no more of this job"
        else:
            outcome = Outcome.FAILED
            error = reply.error or f"status {status}" + (", a redirect is not followed" if status // 100 == 3 else "")  # type: ignore[operator] # without an error there is a status
        rest = webhook.retry_after(reply.retry_after, attempt.now) if outcome is Outcome.FAILED else 0.0
        swing = random.uniform(-1, 1)  # noqa: S311 - jitter, no secret
        return await self._settle(
            attempt,
            outcome,
            status=status,
            took=reply.took,
            error=error,
            reply=reply.body,
            delay=webhook.gap(self._pace.schedule, attempt.number, rest, swing),
            rest=rest,
        )

    async def _settle(self, attempt: Attempt, outcome: Outcome, **more: Any) -> tuple[str, int] | None:
        """Tell the store, again and again while it is away: an attempt that was made should not be made twice.

        Returns what got its place at the receiver.
        """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_SETTLE if outcome is not Outcome.ABANDONED else HOLD):
                while True:
                    try:
                        settled = await self._store.deliveries.settle(attempt, outcome, self._pace, **more)
                    except StoreUnavailableError:
                        await asyncio.sleep(HOLD / 4)
                        continue
                    log.info(
                        "webhook.attempt",
                        job_id=attempt.job.id,
                        seq=attempt.job.seq,
                        attempt=attempt.number,
                        outcome=outcome.value,
                        after=settled.after.value,
                        status=more.get("status"),
                        error=more.get("error") or None,
                    )
                    return settled.handed
        return None

    async def _hold(self) -> None:
        """Each second: prolong what is under way, and break off what is another's by now."""
        while True:
            await asyncio.sleep(HOLD)
            try:
                await self._hold_once()
            except StoreUnavailableError:
                continue
            except Exception:  # a fault of ours costs this look, never all later ones
                log.exception("webhook.hold_failed")

    async def _hold_once(self) -> None:
        held, asked = dict(self._held), asyncio.get_running_loop().time()
        if not held:
            return
        ours = await self._store.deliveries.hold([attempt for attempt, _ in held.values()], self._pace.lease)
        for name, (attempt, limit) in held.items():
            if self._held.get(name, (None,))[0] is attempt and not limit.expired():
                limit.reschedule(asked + (self._pace.lease - HOLD if name in ours else 0.0))

    async def _call(self) -> None:
        """Have handed to arq what has come due, and what a lost attempt left. Any number of processes may do so."""
        while True:
            await asyncio.sleep(LOOK)
            try:
                lost = await self._store.deliveries.call()
            except StoreUnavailableError:
                continue
            except Exception:  # a fault of ours costs this look, never all later ones
                log.exception("webhook.call_failed")
                continue
            if lost:
                log.info("webhook.lost", deliveries=len(lost))

    async def last_attempts(self) -> list[str]:
        """Have those tried for the last time whose schedule a broken receiver has outlasted."""
        return await self._store.deliveries.sweep(self._pace)


async def deliver(context: dict[Any, Any], delivery: str, ticket: int) -> None:
    """What arq runs; its name and arguments are the wire format of include/outbox.lua."""
    await context[COURIER].deliver(delivery, ticket)
