"""Callers who read the answer of a job that runs without them: by their key again, by `GET /jobs/{id}/stream`, or after a cut.

web/calls/call.py has me attach a call to its job; web/calls/waiting.py tells me when one has nobody who answers it. I have the job's
worker answer it from the first byte, or answer it from what is kept of a job that is done; its relay leaves out what the
caller has already. I start no job and end none.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final
from weakref import WeakValueDictionary

import structlog

from foreman.core.errors import Code, Failure
from foreman.core.jobs import RUNNING, State
from foreman.link.channel import Framing, Head
from foreman.protocols import ndjson, sse
from foreman.protocols.link import parse_head
from foreman.store.errors import StoreUnavailableError
from foreman.web.calls.relay import Phase
from foreman.web.calls.waiting import ended_as

if TYPE_CHECKING:
    from collections.abc import Callable

    from foreman.core.jobs import Job
    from foreman.store.client import Store
    from foreman.tasks import Tasks
    from foreman.web.calls.relay import Relay
    from foreman.web.calls.waiting import Call, Waiting

log = structlog.get_logger(__name__)

_PIECE: Final = 64 * 1024
"""Bytes in which an answer that is no stream is passed on."""


class Readers:
    """The attached calls of one gateway."""

    def __init__(
        self, store: Store, gateway_id: str, waiting: Waiting, new_id: Callable[[], str], tasks: Tasks, *, window: int
    ) -> None:
        self._store = store
        self._gateway_id = gateway_id
        self._waiting = waiting
        self._new_id = new_id
        self._tasks = tasks
        self._window = window
        self._kept: WeakValueDictionary[str, _Kept] = WeakValueDictionary()
        """Job id → its kept answer, while somebody reads it."""
        waiting.unanswered = self.look
        waiting.kept_answer = self.serve

    async def attach(self, call: Call) -> State | None:
        """Have the call answered by its job's worker, or, where it is done, by what is kept.

        Returns:
            The state of the job; of one that ended otherwise, or is unknown (None), the caller has heard nothing yet.

        Raises:
            Failure: the job has as many readers as it may; its answer is kept no longer.
        """
        state = await self._store.queue.attach(call.job_id, self._gateway_id, call.reader)
        call.expected = state in RUNNING
        if state is State.DONE:
            await self.serve(call)
        return state

    def detach(self, call: Call) -> None:
        """The caller has left; its job runs on."""
        if call.reader != call.job_id:
            self._tasks.spawn(self._detach(call.job_id, call.reader), "detach")

    async def _detach(self, job_id: str, reader: str) -> None:
        try:
            await self._store.queue.detach(job_id, self._gateway_id, reader)
        except StoreUnavailableError:  # a worker that claims it will find nobody behind that reader
            log.debug("reader.detach_unsent", job_id=job_id)

    async def serve(self, call: Call) -> None:
        """Answer a call from what is kept of its job, which is done. Raises StoreUnavailableError."""
        relay = call.relay
        job = await self._store.queue.get(call.job_id)
        kept = None if job is None else await self._kept_of(job)
        if relay.feedback is not None or relay.phase is Phase.ENDED:
            return  # its own run answers it after all, or nobody listens any more
        if job is None or kept is None:
            words = f"the answer of job {call.job_id} is kept no longer: send the request anew, under another key"
            relay.fail(Failure(Code.BAD_REQUEST, words, status=410))
            return
        _Stored(relay, kept, self._window).start(job)

    async def _kept_of(self, job: Job) -> _Kept | None:
        """What is kept of it: one copy for all who read it just now, however slowly."""
        known = self._kept.get(job.id)
        if known is not None or job.answer_head is None:
            return known
        stream = await self._store.answers.stream(job)
        if stream is None:
            return None
        status, headers, framing = parse_head(job.answer_head.encode())
        head = Head(status, headers, Framing(framing))
        return self._kept.setdefault(job.id, _Kept(head, _units(stream, head.framing)))

    async def look(self, call: Call) -> None:
        """Nobody answers this call: what became of its job? Acted upon when two looks see the same."""
        try:
            job = await self._store.queue.get(call.job_id)
            if call.relay.feedback is not None or (job is not None and job.state is State.QUEUED):
                call.over = False
            elif not call.over:
                call.over = True
            elif job is None:
                call.relay.fail(Failure(Code.INTERRUPTED, "the store has lost the job: send the request again"))
            elif job.state is State.DONE:
                await self.serve(call)
            elif job.state in RUNNING:
                await self._again(call)
            else:
                call.relay.fail(ended_as(job.state, job.error))
        except StoreUnavailableError:
            return

    async def _again(self, call: Call) -> None:
        """The link was cut, or the order got lost: attach anew. A channel answers each reader's id once per run."""
        call.over = False
        self.detach(call)
        self._waiting.rename(call, self._new_id())
        log.info("job.reader_again", job_id=call.job_id)
        await self.attach(call)


@dataclass(frozen=True, slots=True, weakref_slot=True)
class _Kept:
    """A kept answer."""

    head: Head
    units: list[bytes]


class _Stored:
    """Passes a kept answer on, as far as its reader takes it. The `Feedback` of its relay."""

    def __init__(self, relay: Relay, kept: _Kept, window: int) -> None:
        self._relay = relay
        self._kept = kept
        self._window = window
        self._next = 0
        self._ahead = 0
        self._pumping = self._over = False

    def start(self, job: Job) -> None:
        self._relay.started(max(job.epoch, self._relay.epoch), self)
        self._relay.working()
        self._relay.head(self._kept.head)
        self._pump()

    def cancel(self, code: Code) -> None:  # noqa: ARG002 - as Feedback has it
        self._let_go()

    def fit(self, window: int) -> None:
        self._window = window

    def credit(self, taken: int) -> None:
        self._ahead -= taken
        if self._ahead <= self._window // 2:
            self._pump()

    def _pump(self) -> None:
        if self._pumping:
            return
        self._pumping = True
        units = self._kept.units
        while self._next < len(units) and self._ahead <= self._window and not self._over:
            unit = units[self._next]
            self._next += 1
            self._ahead += len(unit)
            self._relay.data(unit)
        if self._next == len(units) and not self._over:
            self._let_go()
            self._relay.end()
        self._pumping = False

    def _let_go(self) -> None:
        self._over = True
        self._kept = replace(self._kept, units=[])  # the relay that holds me may live a while


def _units(stream: bytes, framing: Framing) -> list[bytes]:
    """A kept answer cut as its worker had cut it."""
    if framing is Framing.RAW:
        return [stream[at : at + _PIECE] for at in range(0, len(stream), _PIECE)]
    splitter = ndjson.Splitter(len(stream) + 1) if framing is Framing.NDJSON else sse.Splitter(len(stream) + 1)
    units = list(splitter.feed(stream))
    rest = splitter.rest()
    return [*units, rest] if rest else units
