"""One queued call from its body to its answer: check, find the model, submit the job, relay, clean up.

The APIs hand me a request and say which endpoint and slot it is. I turn it into a `NewJob` and a `Relay`, wait until the
relay is done, and cancel the job when the caller leaves first. I refuse what can be known to fail; I never dial a target.
"""

from __future__ import annotations

import asyncio
import math
import re
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final

import structlog
from aiohttp import hdrs

from foreman.core.errors import Code, Failure
from foreman.core.jobs import Priority, Slot, Surface
from foreman.store.errors import StoreUnavailableError
from foreman.store.records import NewJob
from foreman.web.middleware import CALLER, CORS_HEADERS
from foreman.web.relay import Manner, Phase, Relay
from foreman.web.response import Sent, Wire
from foreman.web.waiting import Call

if TYPE_CHECKING:
    from collections.abc import Callable

    from aiohttp import web

    from foreman.settings import Settings
    from foreman.store.queue import Queue
    from foreman.tasks import Tasks
    from foreman.web.dialect import Dialect
    from foreman.web.inventory import Inventory
    from foreman.web.waiting import Waiting

log = structlog.get_logger(__name__)

_CANCEL_AGAIN: Final = 0.05
"""Seconds between two tries to cancel while the store is away: sooner than a worker claims."""
_NUMBER: Final = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?", re.ASCII)
"""A number as everybody writes it; Python's float() would take `1_0` and other scripts' digits too."""

_TOLD_AFTER: Final = 0.001
"""Seconds after which a submit is logged: behind the job's first steps, which it would delay by a tenth (ADR-0020)."""

_HELD: Final = 16 * 1024
"""Bytes of a body that are not worth letting go of."""
LONGEST: Final = 10 * 365 * 86_400.0
"""Seconds that stand for any later deadline: what clocks and scripts can still reckon with."""
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
    ) -> None:
        self.settings = settings
        self.inventory = inventory
        self.waiting = waiting
        self._queue = queue
        self._gateway_id = gateway_id
        self._tasks = tasks
        self._new_id = new_id
        self.leaving = False
        """The gateway is stopping: no new calls."""

    async def carry(self, request: web.Request, ticket: Ticket) -> web.StreamResponse:
        """Queue the job and answer with what becomes of it. The answer is on the wire when this returns.

        Raises:
            Failure: it was not submitted (bad header, queue full, store away, gateway leaving).
        """
        if self.leaving:
            raise Failure(Code.SHUTTING_DOWN, "this gateway is stopping: send the request again", retry_after=1)
        new = self._job(request, ticket)
        loop = asyncio.get_running_loop()
        cors = request[CORS_HEADERS]
        wire = Wire(request, loop, base_headers=cors)
        relay = Relay(wire, self._manner(request, ticket), new.id)
        wire.on_taken, wire.on_change = relay.taken, relay.event.set
        call = Call(new, relay)
        self.waiting.enter(call)
        try:
            try:
                await self._submit(call)
            except Failure as failure:
                if wire.status is None:
                    raise
                relay.fail(failure)  # an early head is out: say it in band
            if len(call.new.request) > _HELD:  # the store has it: who waits for an hour holds no megabytes meanwhile
                call.new = replace(call.new, request=b"")
            del ticket, new
            await self._attend(call, wire)
        except Failure:
            raise  # nothing was queued
        except BaseException:  # whatever ends this handler, nobody reads the answer any more
            self._left(call)
            raise
        finally:
            self.waiting.leave(call)
            relay.close()
        return Sent(wire.status or 499, keep_alive=wire.keep_alive)

    def _job(self, request: web.Request, ticket: Ticket) -> NewJob:
        caller = request[CALLER]
        priority = caller.priority(request.headers.get("X-Foreman-Priority"), Priority.HIGH)
        return NewJob(
            id=self._new_id(),
            surface=Surface.SYNC,
            endpoint=ticket.endpoint,
            model=ticket.model,
            canonical=ticket.canonical,
            lane=ticket.lane,
            slot=ticket.slot,
            priority=priority,
            request=ticket.body,
            max_wait=self.settings.due_after[priority],
            options=ticket.options,
            digest=ticket.digest,
            stream=ticket.stream,
            method=request.method,
            gateway=self._gateway_id,
            targets=ticket.targets,
            target_only=ticket.target_only,
            deadline_in=deadline(request.headers.get("X-Foreman-Deadline")),
            caller=caller.name,
            headers=ticket.headers,
            unload=ticket.unload,
        )

    def _manner(self, request: web.Request, ticket: Ticket) -> Manner:
        settings = self.settings
        head_after = settings.headers_after if ticket.stream else settings.json_headers_after or None
        heartbeat = settings.heartbeat
        pace = seconds("X-Foreman-Progress", request.headers.get("X-Foreman-Progress"))
        if pace is not None and ticket.stream:
            head_after, heartbeat = min(SOON, settings.headers_after), min(max(pace, _OFTENEST), heartbeat)
        return Manner(ticket.dialect, ticket.stream, ticket.wrap, head_after, heartbeat)

    async def _submit(self, call: Call) -> None:
        """Submit; once more where the reply was lost, since the same id again changes nothing."""
        try:
            submitted = await self._queue.submit(call.new)
        except StoreUnavailableError:
            submitted = await self._queue.submit(call.new)
        call.submitted, call.position = True, submitted.position
        asyncio.get_running_loop().call_later(_TOLD_AFTER, self._tell_submitted, call, submitted.position)

    @staticmethod
    def _tell_submitted(call: Call, position: int) -> None:
        log.info(
            "job.submitted",
            job_id=call.new.id,
            endpoint=call.new.endpoint,
            lane=call.new.lane,
            slot=call.new.slot,
            priority=call.new.priority.word,
            position=position,
        )

    async def _attend(self, call: Call, wire: Wire) -> None:
        """Do what the relay asks for until its answer has left."""
        relay = call.relay
        expiry = None
        if call.new.deadline_in is not None:
            expiry = asyncio.get_running_loop().call_later(call.new.deadline_in, self._expire, call)
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
            Code.DEADLINE_EXCEEDED, f"the deadline of {call.new.deadline_in:g} s has passed (X-Foreman-Deadline)"
        )
        self._tasks.spawn(self.waiting.give_up(call, failure), "expire")

    def _ended(self, call: Call) -> None:
        """The answer is out. Where the call failed here, the job must not live on."""
        failure = call.relay.failure
        if call.relay.took is not None:
            self.waiting.ran(call.relay.took)
        if failure is not None and failure.code in {Code.INTERRUPTED, Code.SHUTTING_DOWN}:
            self._cancel(call, failure)

    def _left(self, call: Call) -> None:
        """The caller is gone: stop the run at once, or take the job out of its lane."""
        ended = call.relay.phase is Phase.ENDED
        feedback = call.relay.leave()
        if feedback is not None:
            log.info("job.cancelled", job_id=call.new.id, reason=Code.CALLER_GONE, state="running")
            feedback.cancel(Code.CALLER_GONE)
        elif not ended:
            log.info("job.cancelled", job_id=call.new.id, reason=Code.CALLER_GONE, state="queued")
            self._cancel(call, Failure(Code.CALLER_GONE, "the caller closed its connection"))

    def _cancel(self, call: Call, failure: Failure) -> None:
        self._tasks.spawn(self._cancel_in_store(call.new.id, failure), "cancel")

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


def deadline(text: str | None) -> float | None:
    """The seconds of an X-Foreman-Deadline header. Raises Failure(BAD_REQUEST) unless finite and positive."""
    given = seconds("X-Foreman-Deadline", text)
    return None if given is None else min(given, LONGEST)


def seconds(name: str, text: str | None) -> float | None:
    """The seconds in a header. Raises Failure(BAD_REQUEST) unless finite and positive."""
    if text is None:
        return None
    given = float(text) if _NUMBER.fullmatch(text.strip()) else math.nan
    if not (math.isfinite(given) and given > 0):
        raise Failure(Code.BAD_REQUEST, f"{name} is {text[:40]!r}: use a positive number of seconds")
    return given


def wants_events(request: web.Request) -> bool:
    """Whether the Accept header names `text/event-stream`."""
    return any(
        part.partition(";")[0].strip().lower() == "text/event-stream"
        for value in request.headers.getall(hdrs.ACCEPT, ())
        for part in value.split(",")
    )
