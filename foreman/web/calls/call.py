"""One queued call from its body to its answer: check, find the model, submit the job, relay, clean up.

The APIs hand me a request and say which endpoint and slot it is. I turn it into a `NewJob` and a `Relay`, wait until the
relay is done, and cancel the job when the caller leaves first. I refuse what can be known to fail; I never dial a target.
"""

from __future__ import annotations

import asyncio
import hashlib
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final, cast

import structlog

from foreman.core.errors import Code, Failure
from foreman.core.jobs import Priority, State, Surface
from foreman.store.errors import StoreUnavailableError
from foreman.store.records import NewJob
from foreman.tasks import aside
from foreman.web.calls import wishes
from foreman.web.calls.manner import Manner
from foreman.web.calls.relay import Phase, Relay
from foreman.web.calls.replayed import Replayed
from foreman.web.calls.response import Wire
from foreman.web.calls.spool import Spools
from foreman.web.calls.waiting import Call, ended_as
from foreman.web.dialect import Dialect
from foreman.web.middleware import CALLER, CORS_HEADERS
from foreman.web.sent import Sent

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from aiohttp import web

    from foreman.core.jobs import Job, Slot
    from foreman.settings import Settings
    from foreman.store.queue import Queue
    from foreman.tasks import Tasks
    from foreman.web.calls.readers import Readers
    from foreman.web.calls.waiting import Waiting
    from foreman.web.pool.admission import Admission
    from foreman.web.pool.inventory import Inventory

log = structlog.get_logger(__name__)

_CANCEL_AGAIN: Final = 0.05
"""Seconds between two tries to cancel while the store is away: sooner than a worker claims."""
_TOLD_AFTER: Final = 0.001
"""Seconds after which a submit is logged: behind the job's first steps, which it would delay by a tenth (ADR-0020)."""

_TRIES: Final = 3
"""How often a key is tried whose job ends without an answer just then."""
WRAPPED: Final = frozenset({"/api/chat", "/api/generate"})
"""Paths whose native lines a caller may have as events."""
SOON: Final = 0.05
"""Seconds before the head of a stream whose caller wants to see it wait: what is refused at once keeps its status."""
_OFTENEST: Final = 0.1
"""Seconds between two heartbeats, at least."""


@dataclass(frozen=True, slots=True)
class Ticket:
    """What an API asks to be done with a request it has read."""

    dialect: Dialect
    endpoint: str
    body: bytes
    model: str
    canonical: str
    lane: str
    slot: Slot
    stream: bool
    targets: tuple[str, ...] = ()
    """Names of the targets that may take it; empty: all."""
    target_only: str | None = None
    digest: str | None = None
    options: dict[str, Any] = field(default_factory=dict)
    unload: bool = False
    headers: dict[str, str] = field(default_factory=dict)
    wrap: bool = False
    """Native lines as SSE."""
    refused: Failure | None = None
    """Nobody has its model: only a call whose key is known may go on."""

    @classmethod
    def of(cls, job: Job) -> Ticket:
        """What is known of a job that somebody else has submitted."""
        return cls(Dialect(job.endpoint), job.endpoint, b"", job.model, "", job.lane, job.slot, job.stream)

    def job(self, job_id: str, surface: Surface, priority: Priority, settings: Settings, **more: Any) -> NewJob:
        """The job that it asks for, through either door; `more`: what only that door knows of it."""
        return NewJob(
            id=job_id,
            surface=surface,
            endpoint=self.endpoint,
            model=self.model,
            canonical=self.canonical,
            lane=self.lane,
            slot=self.slot,
            priority=priority,
            request=self.body,
            max_wait=settings.due_after[priority],
            options=self.options,
            digest=self.digest,
            stream=self.stream,
            targets=self.targets,
            target_only=self.target_only,
            unload=self.unload,
            **more,
        )


class Calls:
    """The queued calls of one gateway."""

    def __init__(
        self,
        settings: Settings,
        queue: Queue,
        gateway_id: str,
        inventory: Inventory,
        waiting: Waiting,
        new_id: Callable[[], str],
        tasks: Tasks,
        readers: Readers,
        admission: Admission,
    ) -> None:
        self.readers = readers
        self._admission = admission
        self.settings = settings
        self.inventory = inventory
        self.waiting = waiting
        self._queue = queue
        self._gateway_id = gateway_id
        self._tasks = tasks
        self._new_id = new_id
        self.spools = Spools(settings.spool_bytes, settings.reader_timeout)
        """How far its callers are behind."""
        self.answered: Callable[[float], None] = _nobody
        """Told once per answer: seconds from the call's coming to its first byte."""
        self.leaving = False
        """The gateway is stopping: no new calls."""

    async def carry(self, request: web.Request, ticket: Ticket) -> web.StreamResponse:
        """Queue the job and answer with what becomes of it. The answer is on the wire when this returns.

        Raises:
            Failure: it was not submitted (bad header, model unknown, queue full, store away, gateway leaving).
        """
        new = await self._job(request, ticket)
        if ticket.refused is not None and not await self._queue.knows(new):
            raise ticket.refused
        call = Call(
            *(new.id, self._relay(request, self._manner(request, ticket), new.id, 0 if new.finish else None), new.lane),
            targets=new.targets,
            target_only=new.target_only,
            deadline_in=new.deadline_in,
            kept=new.finish,
        )
        begin = self._submit(call, [new])
        del ticket, new  # who waits for an hour holds no megabytes meanwhile
        return await self._answer(call, begin)

    async def resume(self, request: web.Request, job: Job, begin: int) -> web.StreamResponse:
        """Answer with a kept job's answer from byte `begin` on, as it comes or as it came.

        Raises:
            Failure: it has failed or was cancelled; it is not kept; nothing can be read here now.
        """
        manner = replace(
            self._manner(request, Ticket.of(job)),
            wrap=job.stream and job.endpoint in WRAPPED and wishes.wants_events(request),
            refusals=Dialect(request.path),
        )
        call = Call(
            *(job.id, self._relay(request, manner, job.id, begin), job.lane),
            targets=job.targets,
            target_only=job.target_only,
            reader=self._new_id(),
            kept=True,
        )
        return await self._answer(call, self._join(call))

    def _relay(self, request: web.Request, manner: Manner, job_id: str, begin: int | None) -> Relay:
        if self.leaving:
            raise Failure(Code.SHUTTING_DOWN, "this gateway is stopping: send the request again", retry_after=1)
        cors = request[CORS_HEADERS]
        wire = Wire(request, asyncio.get_running_loop(), base_headers=cors, spools=self.spools)
        relay = Relay(wire, manner, job_id) if begin is None else Replayed(wire, manner, job_id, begin)
        wire.on_taken, wire.on_change = relay.taken, relay.event.set
        wire.on_slow, wire.on_fit = relay.too_slow, relay.fit
        wire.patient = begin is not None
        return relay

    async def _answer(self, call: Call, begin: Coroutine[Any, Any, None]) -> web.StreamResponse:
        """Wait for the call's answer; `begin` queues its job, or attaches it to one."""
        relay, wire = call.relay, cast("Wire", call.relay.wire)
        self.waiting.enter(call)
        try:
            try:
                await begin
            except Failure as failure:
                if wire.status is None:
                    raise
                relay.fail(failure)  # an early head is out: say it in band
            await self._attend(call, wire)
        except Failure:
            raise  # nothing was queued
        except BaseException:  # whatever ends this handler, nobody reads the answer any more
            self._left(call)
            raise
        finally:
            self.waiting.leave(call)
            relay.close()
            wire.close()
        return Sent(wire.status or 499, keep_alive=wire.keep_alive)

    async def _job(self, request: web.Request, ticket: Ticket) -> NewJob:
        caller, key = request[CALLER], wishes.key(request)
        priority = caller.priority(wishes.header(request, "X-Foreman-Priority"), Priority.HIGH)
        return ticket.job(
            *(self._new_id(), Surface.SYNC, priority, self.settings),
            method=request.method,
            gateway=self._gateway_id,
            deadline_in=wishes.deadline(request),
            caller=caller.name,
            headers=ticket.headers,
            idempotency_key=key,
            fingerprint="" if key is None else await aside(len(ticket.body), _fingerprint, request, ticket),
            finish=key is not None or wishes.finishes(request),
        )

    def _manner(self, request: web.Request, ticket: Ticket) -> Manner:
        settings = self.settings
        head_after = settings.headers_after if ticket.stream else settings.json_headers_after or None
        heartbeat = settings.heartbeat
        pace = wishes.seconds(request, "X-Foreman-Progress")
        if pace is not None and ticket.stream:
            head_after, heartbeat = min(SOON, settings.headers_after), min(max(pace, _OFTENEST), heartbeat)
        return Manner(ticket.dialect, ticket.stream, ticket.wrap, head_after, heartbeat)

    async def _submit(self, call: Call, held: list[NewJob]) -> None:
        """Queue a call's job, or attach the call to the one that its key names already.

        The job is taken out of `held`: nobody else has it.
        """
        new = held.pop()
        for _ in range(_TRIES):
            submitted = await self._admission.submit(new)
            if not submitted.known:
                call.submitted, call.position = True, submitted.place.position
                _tell_later(new, submitted.place.position)
                return
            _belongs(call, submitted.job_id)
            state = await self.readers.attach(call)
            if state is not None and state not in {State.FAILED, State.CANCELLED}:
                call.submitted = True
                log.info("job.attached", job_id=call.job_id, reader=call.reader, state=state)
                return
            _belongs(call, call.reader)  # it ended without an answer in this moment: the key is free again
        raise Failure(Code.INTERRUPTED, "the job of this Idempotency-Key ends over and over: send the request again")

    async def _join(self, call: Call) -> None:
        state = await self.readers.attach(call)
        call.submitted = True
        if state is None or state in {State.FAILED, State.CANCELLED}:
            job = await self._queue.get(call.job_id)
            gone = Failure(Code.BAD_REQUEST, f"job {call.job_id} is known no longer", status=404)
            raise gone if job is None else no_answer(job)

    async def _attend(self, call: Call, wire: Wire) -> None:
        """Do what the relay asks for until its answer has left."""
        relay = call.relay
        expiry = None
        if call.deadline_in is not None:
            expiry = asyncio.get_running_loop().call_later(call.deadline_in, self._expire, call)
        try:
            while not (relay.phase is Phase.ENDED and wire.flushed):
                await relay.event.wait()
                relay.event.clear()
                if relay.wants_words:
                    relay.say(await self.waiting.words(call))
                if wire.backlog:
                    await wire.drained()
        finally:
            if expiry is not None:
                expiry.cancel()
        self._ended(call)

    def _expire(self, call: Call) -> None:
        failure = Failure(
            Code.DEADLINE_EXCEEDED, f"the deadline of {call.deadline_in:g} s has passed (X-Foreman-Deadline)"
        )
        if call.reader != call.job_id:  # it was attached: its time is over, the job has its own
            call.relay.fail(failure)
            self.readers.detach(call)
            return
        self._tasks.spawn(self.waiting.give_up(call, failure), "expire")

    def _ended(self, call: Call) -> None:
        """The answer is out. Where the call failed here, the job must not live on."""
        failure = call.relay.failure
        if call.relay.first_byte is not None:
            self.answered(call.relay.first_byte)
        if call.kept:
            return
        if call.relay.took is not None:
            self.waiting.ran(call.relay.took)
        if failure is not None and failure.code in {Code.INTERRUPTED, Code.SHUTTING_DOWN}:
            self._cancel(call, failure)

    def _left(self, call: Call) -> None:
        """The caller is gone: stop the run at once, or take the job out of its lane."""
        ended = call.relay.phase is Phase.ENDED
        feedback = call.relay.leave()
        if call.kept:
            if feedback is not None:
                feedback.cancel(Code.CALLER_GONE)  # of this reader; the job runs on
            log.info("job.reader_left", job_id=call.job_id, reader=call.reader)
            self.readers.detach(call)
        elif feedback is not None:
            log.info("job.cancelled", job_id=call.job_id, reason=Code.CALLER_GONE, state="running")
            feedback.cancel(Code.CALLER_GONE)
        elif not ended:
            log.info("job.cancelled", job_id=call.job_id, reason=Code.CALLER_GONE, state="queued")
            self._cancel(call, Failure(Code.CALLER_GONE, "the caller closed its connection"))

    def _cancel(self, call: Call, failure: Failure) -> None:
        self._tasks.spawn(self._cancel_in_store(call.job_id, failure), "cancel")

    async def _cancel_in_store(self, job_id: str, failure: Failure) -> None:
        """Cancel, as soon as the store answers: a job that nobody waits for must not be the first to run then."""
        told = False
        while True:
            try:
                await self._queue.cancel(job_id, failure)
            except StoreUnavailableError as error:
                if not told:
                    log.warning("job.cancel_unsent", job_id=job_id, error=error.message)
                told = True
                await asyncio.sleep(_CANCEL_AGAIN)
            else:
                return


def no_answer(job: Job) -> Failure:
    """Why there is nothing to read of a job that failed or was cancelled."""
    failure = ended_as(job.state, job.error)
    return Failure(failure.code, failure.message, status=410 if job.state is State.CANCELLED else failure.status)


def _nobody(_: float) -> None:
    """Nobody asks."""


def _belongs(call: Call, job_id: str) -> None:
    """The call gets this job's answer."""
    assert isinstance(call.relay, Replayed)
    call.job_id = job_id
    call.relay.identify(job_id)


def _fingerprint(request: web.Request, ticket: Ticket) -> str:
    """What tells one request under a key from another."""
    asked = hashlib.sha256(f"{request.method} {request.path} {ticket.target_only or ''}\n".encode())
    asked.update(ticket.body)
    return asked.hexdigest()


def _tell_later(new: NewJob, position: int) -> None:
    """Without a hold on the job: it has megabytes."""
    said = {
        "job_id": new.id,
        "endpoint": new.endpoint,
        "lane": new.lane,
        "slot": new.slot,
        "priority": new.priority.word,
    }
    asyncio.get_running_loop().call_later(_TOLD_AFTER, lambda: log.info("job.submitted", **said, position=position))
