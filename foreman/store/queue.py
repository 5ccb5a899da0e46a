"""The queue's verbs, one script each: submit, survey, claim, transition, cancel, renew, own, recover.

Gateways and workers call me; I turn values into script arguments, run the script atomically on the store, and turn its
reply back. I decide nothing: the scripts check state and epoch against the table in core/jobs.py, which I pass in.
"""

from __future__ import annotations

import hashlib
import json
import time
from typing import TYPE_CHECKING, Any, Final, Protocol

from foreman.core.errors import Code, Failure
from foreman.core.jobs import Priority, Slot, State
from foreman.store import rows
from foreman.store.errors import FencedError
from foreman.store.keys import IDEMPOTENCY
from foreman.store.listing import Listing
from foreman.store.records import CancelOutcome, Counts, Place, Submitted, Taken
from foreman.store.roster import LATE

if TYPE_CHECKING:
    from foreman.store.answers import Answer
    from foreman.store.records import Changes, Claimed, NewJob, Ownership, Survey
    from foreman.store.roster import Limits
    from foreman.store.wire import Connection

SIDE_LIMIT: Final = 10_000
"""Queued jobs of the embedding slot and of the side slot each; FOREMAN_MAX_QUEUE does not count them."""
RESERVED: Final = 10
"""The last tenth of the queue takes class high only."""
_CANCELLED: Final = frozenset({Code.CANCELLED, Code.CALLER_GONE})
"""Wishes that end a job as `cancelled`; all others end it as `failed`."""


class Owner(Protocol):
    """The owner of a target, where it works on this very queue."""

    def wake(self, slot: Slot) -> None:
        """Something waits. What it asks upon that goes out behind the submit, on one connection, in order (ADR-0020)."""

    def offer(self, new: NewJob) -> Ownership | None:
        """Its right to run this job at once, should nothing wait; it keeps a place until `given` or `withdraw`."""

    def given(self, claimed: Claimed) -> None:
        """The job is its own."""

    def withdraw(self, job_id: str) -> None:
        """It is not, by all that is known here."""


class Queue(Listing):
    """The queue of one pool. All methods raise `StoreUnavailableError` when the store does not answer."""

    def __init__(self, connection: Connection, pool: str, limits: Limits) -> None:
        super().__init__(connection, pool, limits)
        self.owners: dict[str, Owner] = {}
        """Target → its owner, where that works on this very queue: `submit` wakes it, and the store the others."""

    async def submit(self, new: NewJob) -> Submitted:
        """Queue a job (state `queued`, event 1, wake-up); the same id again changes nothing.

        Where its idempotency key is known, nothing is queued: the answer names the job that has it. Where an owner here
        has a place for it and nothing waits, it is claimed in the same step, and begun when this returns.

        Raises:
            Failure: QUEUE_FULL; BAD_REQUEST (422) for a key that came with another body.
        """
        names = new.targets if new.target_only is None else (new.target_only,)
        near = [self.owners[name] for name in names if name in self.owners]
        wanted = "\n".join(new.targets), new.target_only or ""
        if near:
            wanted = "\n".join(name for name in names if name not in self.owners) or "\n", ""
        offered = next(((owner, own) for owner in near if (own := owner.offer(new)) is not None), None)
        reply = None if offered is None else await self._submit_to(*offered, new, wanted)
        if reply is None or reply[0] != b"taken":
            for owner in near:
                owner.wake(new.slot)
        return _submitted(new, reply or await self._submit(new, wanted))

    async def _submit_to(self, owner: Owner, own: Ownership, new: NewJob, wanted: tuple[str, str]) -> Any:
        """Submit a job that this owner runs where nothing waits."""
        given = False
        try:
            reply = await self._submit(new, wanted, (own.target, own.worker, own.epoch))
            given = reply[0] == b"taken" and self.owners.get(own.target) is owner
        finally:
            if not given:  # should it be claimed nevertheless (the reply is lost, the caller gone): workers/unheard.py
                owner.withdraw(new.id)
        if given:
            owner.given(rows.claimed(new.id, int(reply[1]), new.request, reply[2]))
        return reply

    async def _submit(
        self, new: NewJob, wanted: tuple[str, str], own: tuple[str, str, int] | tuple[str, str, str] = ("", "", "")
    ) -> Any:
        return await self._moving(
            "submit",
            new.id,
            new.slot.value,
            new.lane,
            int(new.priority),
            rows.ms(new.max_wait),
            "" if new.deadline_in is None else rows.ms(new.deadline_in),
            rows.ms(new.service),
            self._room(new),
            new.request,
            new.gateway or "",
            *wanted,
            self._lease_ms,
            "" if new.not_before is None else rows.ms(new.not_before),
            _digest(new),
            new.fingerprint,
            self._limits.store_bytes,
            *own,
            *rows.new_job_fields(new),
        )

    def _room(self, new: NewJob) -> int:
        if new.slot is not Slot.DRAIN:
            return SIDE_LIMIT
        limit = self._limits.max_queue
        return limit if new.priority is Priority.HIGH else limit - limit // RESERVED

    async def knows(self, new: NewJob) -> bool:
        """Whether its idempotency key is known, so that to submit it would queue nothing. Advice, never a gate."""
        if new.idempotency_key is None:
            return False
        return bool(await self._connection.command("EXISTS", self.keys.of(IDEMPOTENCY, _digest(new))))

    async def survey(self, slot: Slot) -> Survey:
        """All lanes of `slot` with queued jobs: advice for a choice, never a gate."""
        return rows.survey(await self._script("survey", slot.value))

    async def changes(self, slot: Slot, cursor: str = "") -> Changes:
        """What has changed in the drain's lanes since the look that gave `cursor` (empty: all): advice, never a gate."""
        return rows.changes(await self._script("changes", slot.value, cursor))

    async def claim(self, own: Ownership, lane: str, slot: Slot, to: State) -> Claimed | None:
        """Take the head of `lane` (loading or working): epoch + 1. None: empty or paused.

        Raises FencedError when another worker owns the target by now, or the worker's own lease is over.
        """
        return rows.taken((await self._claim(own, lane, slot, to, "-"))[0])

    async def claim_and_look(
        self, own: Ownership, lane: str, slot: Slot, to: State, cursor: str
    ) -> tuple[Claimed | None, Changes]:
        """The same, and what has changed in the drain's lanes since the last look, this claim included."""
        taken, seen = await self._claim(own, lane, slot, to, cursor)
        return rows.taken(taken), rows.changes(seen)

    async def _claim(self, own: Ownership, lane: str, slot: Slot, to: State, cursor: str) -> Any:
        reply = await self._moving("claim", slot.value, lane, own.target, own.worker, own.epoch, to.value, LATE, cursor)
        if reply == b"fenced":
            raise FencedError(f"worker {own.worker} does not own target {own.target} any more")
        return reply

    async def take(self, own: Ownership, slot: Slot, free: list[str], cursor: str = "") -> Taken | Changes:
        """Claim the head of the only lane that waits, if it is one of the resident lanes in `free`; else look.

        Where one lane waits and it is resident with a free place, every choice is to drain it: so look and claim are
        one round trip. Raises FencedError as `claim`.
        """
        reply = await self._moving("take", slot.value, own.target, own.worker, own.epoch, LATE, cursor, *free)
        if reply == b"fenced":
            raise FencedError(f"worker {own.worker} does not own target {own.target} any more")
        if not reply[0]:
            return rows.changes(reply[1])
        claimed = rows.taken(reply[1])
        assert claimed is not None
        return Taken(claimed, bool(reply[2]))

    async def transition(
        self,
        job_id: str,
        epoch: int | None,
        to: State,
        *,
        reason: str,
        failure: Failure | None = None,
        usage: dict[str, int] | None = None,
        timings: dict[str, float] | None = None,
        notify: bool = True,
        answer: Answer | None = None,
    ) -> bool:
        """Move a job; False when the state or the epoch forbids it (nothing changed).

        `answer`: what is kept of a job that is `done`, in the same step.

        `epoch=None`: only while it is queued. `notify`: tell the job's gateway through its inbox; False where the link
        tells it anyway. Into `queued` leads only `hand_back`, out of it into a run only `claim`.
        """
        reply = await self._moving(
            "transition",
            job_id,
            "" if epoch is None else epoch,
            to.value,
            reason,
            _error(failure),
            json.dumps(usage) if usage else "",
            json.dumps(timings) if timings else "",
            int(notify),
            "" if answer is None else answer.record,
            b"" if answer is None else answer.body,
            "" if answer is None else answer.head,
            b"" if answer is None else answer.stream,
        )
        return bool(reply)

    async def hand_back(
        self, job_id: str, epoch: int, *, reason: str, failure: Failure | None, notify: bool = True
    ) -> State | None:
        """A running job back to the head of its lane; the state it is in now, or None when fenced.

        With a `failure` an attempt is used up (attempt + 1, or `failed` with it when none is left); without, not.
        """
        reply = await self._moving("hand_back", job_id, epoch, reason, _error(failure), int(notify))
        return None if reply is None else State(reply.decode())

    async def cut(self, target: str, lane: str, slot: Slot = Slot.DRAIN) -> None:
        """Note that `lane` was left on `target` with jobs still queued: its `left_at` is now."""
        await self._script("cut", slot.value, lane, target)

    async def cancel(self, job_id: str, failure: Failure, operator: str | None = None) -> CancelOutcome:
        """A wish to cancel, in any state. Queued: over at once. Running: flag, and an order to its worker.

        It ends as `cancelled` for the codes `cancelled` and `caller_gone`, as `failed` with any other. `operator`: who it
        was, where the audit log shall tell.
        """
        to = State.CANCELLED if failure.code in _CANCELLED else State.FAILED
        reply = await self._moving("cancel", job_id, failure.code.value, to.value, _error(failure), operator or "")
        return CancelOutcome(reply.decode())

    async def counts(self) -> Counts:
        """Jobs by state, at one moment."""
        return Counts(*(int(number) for number in await self._script("counts")))

    async def ping(self) -> float:
        """Round trip in seconds."""
        begin = time.perf_counter()
        await self._connection.command("PING")
        return time.perf_counter() - begin

    async def extra(self) -> dict[str, Any]:
        """What the server says of itself: `{"server", "version", "used_memory_bytes", "clients"}`, as far as it tells."""
        text = (await self._connection.command("INFO")).decode()
        info = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
        return {
            "server": "valkey" if "valkey_version" in info else "redis",
            "version": info.get("valkey_version") or info.get("redis_version", ""),
            "used_memory_bytes": int(info.get("used_memory", "0")),
            "clients": int(info.get("connected_clients", "0")),
        }


def _submitted(new: NewJob, reply: list[Any]) -> Submitted:
    """What the reply to a submit says, or raises."""
    if reply[0] == b"full":
        # Ollama's own words (server/sched.go, ErrMaxQueue)
        message = "server busy, please try again.  maximum pending requests exceeded"
        raise Failure(Code.QUEUE_FULL, message, retry_after=float(reply[1]))
    if reply[0] == b"stuffed":
        message = "server busy, please try again.  the store holds as much as FOREMAN_STORE_BYTES allows"
        raise Failure(Code.QUEUE_FULL, message, retry_after=float(reply[1]))
    if reply[0] == b"known":
        return Submitted(reply[1].decode(), Place(0, 0), 0, known=True)
    if reply[0] == b"other":
        message = f"Idempotency-Key was sent with another body for job {reply[1].decode()}: use a new key"
        raise Failure(Code.BAD_REQUEST, message, status=422)
    if reply[0] == b"taken":
        return Submitted(new.id, Place(1, 0), 1)
    position, queued, ahead, in_flight = (*map(int, reply), 0, 0)[:4]
    return Submitted(new.id, Place(position, ahead, in_flight), queued)


def _digest(new: NewJob) -> str:
    """A caller's key as the store knows it: told apart by surface and by token, of bounded length."""
    if new.idempotency_key is None:
        return ""
    parts = (new.surface.value, new.caller or "", new.idempotency_key)
    return hashlib.sha256("\0".join(parts).encode("utf-8", "surrogateescape")).hexdigest()


def _error(failure: Failure | None) -> str:
    return "" if failure is None else json.dumps(failure.as_dict())
