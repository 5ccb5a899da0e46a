"""From what `POST /jobs` brings to a queued job: own fields off, payload checked, lane found, submitted.

web/jobs/jobs_api.py and web/jobs/batch.py hand me bodies, one job each. I refuse what can be known to fail, each wrong field by
its name, and answer with the job as it stands in the queue. I wait for no run.
"""

from __future__ import annotations

import hashlib
import json
import re
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import structlog

from foreman.core.errors import Code, Failure
from foreman.core.jobs import Priority, State, Surface
from foreman.protocols import envelope, job_object
from foreman.protocols.goscan import EmptyBodyError, GoJSONError
from foreman.protocols.job_request import ENDPOINTS, OWN, check, wrong
from foreman.protocols.ollama import peek
from foreman.tasks import aside
from foreman.web.auth import Role
from foreman.web.pool.outlook import Outlook

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from foreman.core.jobs import Job
    from foreman.protocols.job_request import JobRequest
    from foreman.protocols.ollama import Peek
    from foreman.settings import Settings
    from foreman.store.queue import Queue
    from foreman.store.records import NewJob, Place, Submitted, TargetStatus
    from foreman.web.auth import Caller
    from foreman.web.calls.call import Calls, Ticket
    from foreman.web.calls.intake import Intake
    from foreman.web.jobs.receivers import Receivers
    from foreman.web.pool.admission import Admission
    from foreman.web.pool.outlook import Outlooks

log = structlog.get_logger(__name__)

_KEY: Final = re.compile(r"[\x20-\x7e]{1,255}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Sender:
    """Who sends a job, and what its request says beside the body."""

    caller: Caller
    key: str | None = None
    """Idempotency-Key."""
    headers: Mapping[str, str] | None = None
    """Those of its headers that go upstream."""
    target: str | None = None
    """X-Foreman-Target: the one target that may run it."""
    number: int | None = None
    """Of a batch's line, from 1 on."""

    def line(self, number: int) -> Sender:
        """The sender of a batch's line."""
        return replace(self, number=number)

    @property
    def full_key(self) -> str | None:
        """What the job is known by: under a batch's key each line has one of its own, which no header can spell."""
        return self.key if self.key is None or self.number is None else f"{self.key}\n{self.number}"


@dataclass(frozen=True, slots=True)
class Receipt:
    """The answer to a submitted job."""

    accepted: job_object.Accepted
    known: bool
    """It was here already, under the same key."""


@dataclass(frozen=True, slots=True)
class Submission:
    """Takes jobs for one gateway."""

    settings: Settings
    queue: Queue
    calls: Calls
    intake: Intake
    admission: Admission
    outlooks: Outlooks
    receivers: Receivers
    new_id: Callable[[], str]

    async def submit(self, body: bytes, sender: Sender) -> Receipt:
        """Queue the job that a body describes.

        Raises:
            Failure: BAD_REQUEST: 400 for what is no JSON object, 422 for a wrong field, its name first;
                MODEL_NOT_FOUND, QUEUE_FULL, SHUTTING_DOWN, STORE_UNAVAILABLE.
        """
        taken, fingerprint = await aside(len(body), _opened, body)
        return await self._queue(taken, check(taken.own, time.time()), sender, fingerprint=fingerprint)

    async def retry(self, job: Job, sender: Sender) -> Receipt:
        """Queue an ended job once more, as a new one, to begin now.

        Raises:
            Failure: as `submit`; BAD_REQUEST: 409 while the job lives, 410 where its request is kept no longer,
                422 where it was no call that `/jobs` takes.
        """
        kept = await self.queue.kept(job.id)
        if job.state not in {State.DONE, State.FAILED, State.CANCELLED}:
            raise Failure(Code.BAD_REQUEST, f"job {job.id} is {job.state}: retry it once it has ended", status=409)
        if kept is None:
            raise Failure(Code.BAD_REQUEST, f"the request of job {job.id} is kept no longer: send it anew", status=410)
        if job.endpoint not in ENDPOINTS:
            raise Failure(Code.BAD_REQUEST, f"job {job.id} was a call of {job.endpoint}: send that anew", status=422)
        if job.surface is Surface.SYNC:
            taken, own = envelope.Envelope(kept.body, {}, "[]"), {"endpoint": job.endpoint}
        else:
            taken, _ = await aside(len(kept.body), _opened, envelope.put_back(kept.body, kept.own_fields))
            own = {name: value for name, value in taken.own.items() if name != "not_before"}
        caller = sender.caller
        owner = job.caller if caller.role is Role.OPERATOR else caller.name
        sender = Sender(caller, sender.key, kept.headers, sender.target or job.target_only)
        return await self._queue(
            taken, check(own, time.time()), sender, fingerprint=job.id, retry_of=job.id, owner=owner
        )

    async def _queue(
        self,
        taken: envelope.Envelope,
        asked: JobRequest,
        sender: Sender,
        *,
        fingerprint: str,
        retry_of: str | None = None,
        owner: str | None = None,
    ) -> Receipt:
        if self.calls.leaving:
            raise Failure(Code.SHUTTING_DOWN, "this gateway is stopping: send the request again", retry_after=1)
        if sender.key is not None and not _KEY.fullmatch(sender.key):
            wrong("Idempotency-Key", "use 1 to 255 visible ASCII characters")
        if asked.state_webhook_url is not None:
            await self.receivers.check(asked.state_webhook_url)
        await self.intake.inventory.fresh()
        seen = await aside(len(taken.payload), _peeked, asked.endpoint, taken.payload, self.intake.inventory.foreign)
        target, hurry = self._target(sender.target), sender.number is not None
        ticket = await self.intake.ticket(asked.endpoint, taken.payload, seen, target, hurry=hurry)
        priority = sender.caller.priority(asked.priority, Priority.NORMAL)
        new = ticket.job(
            *(self.new_id(), Surface.ASYNC, priority, self.settings),
            deadline_in=asked.deadline_seconds,
            caller=owner or sender.caller.name,
            headers=dict(sender.headers or {}),
            state_webhook_url=asked.state_webhook_url,
            webhook_events=asked.webhook_events or (),
            metadata=_text(asked.metadata),
            not_before=asked.not_before,
            idempotency_key=sender.full_key,
            fingerprint=fingerprint,
            retry_of=retry_of,
            retried_by=sender.caller.operator if retry_of else None,
            own_fields=taken.cuts if taken.own else None,
        )
        if ticket.refused is not None and not await self.queue.knows(new):
            raise ticket.refused
        return await self._receipt(new, ticket, await self._send(new))

    def _target(self, name: str | None) -> TargetStatus | None:
        """The target that was asked for. Raises Failure (422)."""
        found = None if name is None else self.intake.inventory.named(name)
        if name is not None and found is None:
            known = ", ".join(target.name for target in self.intake.inventory.targets) or "(no target is known yet)"
            wrong("X-Foreman-Target", f"use one of {known}")
        return found

    async def _send(self, new: NewJob) -> Submitted:
        submitted = await self.admission.submit(new)
        if not submitted.known:
            log.info(
                "job.submitted",
                job_id=new.id,
                endpoint=new.endpoint,
                lane=new.lane,
                slot=new.slot,
                priority=new.priority.word,
                position=submitted.place.position,
            )
        return submitted

    async def _receipt(self, new: NewJob, ticket: Ticket, submitted: Submitted) -> Receipt:
        job_id, state = submitted.job_id, State.QUEUED
        place: Place | None = submitted.place
        if submitted.known:
            first = await self.queue.get(job_id)
            state = State.QUEUED if first is None else first.state
            place = await self.queue.place(job_id)
        seen = Outlook()
        if place is not None and place.position:
            seen = await self.outlooks.queued(new.lane, new.slot, place, ticket.targets, ticket.target_only)
        accepted = job_object.Accepted(
            job_id=job_id,
            state=state,
            position=seen.position,
            eta_seconds=seen.eta_seconds,
            links=job_object.links(job_id),
        )
        return Receipt(accepted, submitted.known)


def _taken(body: bytes) -> envelope.Envelope:
    try:
        return envelope.take_off(body, OWN)
    except EmptyBodyError as error:
        raise Failure(Code.BAD_REQUEST, "the body is empty: send the job as a JSON object") from error
    except GoJSONError as error:
        raise Failure(Code.BAD_REQUEST, str(error)) from error


def _opened(body: bytes) -> tuple[envelope.Envelope, str]:
    """The body without foreman's own fields, and what tells it from another under the same key."""
    return _taken(body), hashlib.sha256(body).hexdigest()


def _peeked(endpoint: str, payload: bytes, foreign: frozenset[str]) -> Peek:
    """Look into the payload as its endpoint would. What it refuses is a wrong field here: that it is JSON is known."""
    try:
        return peek(endpoint, payload, foreign)
    except Failure as failure:
        if failure.code is Code.MODEL_NOT_FOUND:
            wrong("model", "name the model that shall run")
        raise Failure(Code.BAD_REQUEST, failure.message, status=422) from failure


def _text(metadata: dict[str, Any] | None) -> str | None:
    return None if metadata is None else json.dumps(metadata, separators=(",", ":"))
