"""One claimed job to its end: open its way to the caller, wait for its load, ask the target, pass on what comes.

The dispatcher starts a `Run` per claim. The client pushes the answer into me and I push it into the outlet, unit by
unit, with no task, log line, metric or JSON in between. Whatever ends first (the answer, a fault, a cancel, a deadline)
ends the run, once; the caller hears of it at once, the store right after. I decide nothing about lanes.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import structlog

from foreman.core.errors import Code, Failure
from foreman.core.jobs import Slot, State, Surface
from foreman.link.channel import NoLinkError
from foreman.protocols.native import JSON_TYPE
from foreman.upstream.client import Patience
from foreman.upstream.faults import Kind
from workers.insist import insist
from workers.loads.loader import Outcome
from workers.runs import ends, requests
from workers.runs.ends import End, How
from workers.runs.keeping import Keeping
from workers.runs.sharing import Shared
from workers.runs.times import Times

if TYPE_CHECKING:
    from foreman.link.channel import Headers, Outlet
    from foreman.store.records import Claimed
    from foreman.upstream.client import Call
    from foreman.upstream.faults import Fault
    from workers.loads.loader import Load
    from workers.runs.context import RunContext
    from workers.runs.cutter import Cutting

log = structlog.get_logger(__name__)

UNSTREAMED: Final = 6.0
"""How many times `FOREMAN_UPSTREAM_TIMEOUT` is borne before the first byte, and by calls that don't stream."""
_JSON: Final = (("Content-Type", JSON_TYPE),)


@dataclass(slots=True)
class _Answer:
    """What has come back so far."""

    cutting: Cutting | None = None
    begun: bool = False
    """The body's first byte has come: the job is never run again for the same caller."""
    told: bool = False
    """The head is on its way to the caller."""
    usage: dict[str, int] = field(default_factory=dict)


class Run:
    """One job on its way. Implements `Control` for the gateway and `Receiver` for the client."""

    def __init__(self, claimed: Claimed, context: RunContext, load: Load | None = None) -> None:
        self.claimed = claimed
        self.job = claimed.job
        self.state = claimed.job.state
        self.load = load
        self._context = context
        self._loop = asyncio.get_running_loop()
        self._end: asyncio.Future[End] = self._loop.create_future()
        shared = self.job.finish and self.job.surface is Surface.SYNC
        self._shared = Shared(self.job, context, self._cannot_keep, self._given_up) if shared else None
        self._keeping = self._shared or Keeping(self.job.endpoint, context.max_answer, self._cannot_keep)
        self._outlet: Outlet = self._keeping
        """Where the answer goes: kept, until the way to a caller is open."""
        self._call: Call | None = None
        self._answer = _Answer()
        self._request: requests.Upstream | None = None
        self._sent_at = 0.0
        self.times = Times(time.monotonic())

    # -- what the page shows

    @property
    def tokens(self) -> int:
        """Units of the answer so far."""
        return 0 if self._answer.cutting is None else self._answer.cutting.count

    @property
    def left_in_prefill(self) -> bool:
        """The target was let go while it read the prompt: it goes on with that, for nobody (transcripts 240, 241)."""
        over = self._end.done() and self._end.result().how in {How.CANCELLED, How.DROPPED, How.BACK, How.FAILED}
        return over and self._call is not None and self.times.first is None and self.times.working is not None

    @property
    def tokens_per_second(self) -> float:
        """Their rate since the first."""
        first = self.times.first
        seconds = 0.0 if first is None else (self.times.ended or time.monotonic()) - first
        return (self.tokens - 1) / seconds if seconds > 0 and self.tokens > 1 else 0.0

    @property
    def ran_seconds(self) -> float | None:
        """Seconds from the request to its end, once it has ended well."""
        return self.times.ran if self._end.done() and self._end.result().how is How.DONE else None

    # -- what others may do to it at any moment

    def cancel(self, code: Code) -> None:
        """End it now: the connection to the target is cut in this very call. Idempotent."""
        self._conclude(ends.by_wish(code, spliced=self._spliced))

    def give_back(self) -> None:
        """The worker leaves."""
        self._conclude(ends.by_leaving(spliced=self._spliced))

    def drop(self) -> None:
        """The right to the job is lost: stop, and write nothing."""
        self._conclude(End(How.DROPPED, None, "fenced"))

    def pause(self) -> None:
        """The reader is a window behind."""
        if self._call is not None:
            self._call.pause()

    def resume(self) -> None:
        """It has caught up by half."""
        if self._call is not None:
            self._call.resume()

    def attach(self, gateway: str, reader: str) -> None:
        """One more reader of an answer that is kept."""
        if self._shared is not None:
            self._context.spawn(self._shared.admit(gateway, reader), f"admit[{reader}]")

    async def run(self) -> None:
        """From the claim to the terminal transition."""
        deadline = self._watch_deadline()
        try:
            try:
                if await self._prepare():
                    self._send()
            except Exception:  # a fault of ours: the job may be run by a better worker, or fail after its attempts
                log.exception("job.run_broke", job_id=self.job.id)
                self._conclude(ends.by_wish(Code.INTERRUPTED, spliced=self._spliced))
            try:
                await self._settle(await self._end)
            except Exception:  # a fault of ours again: a job that stays at work under a living lease would never end
                log.exception("job.settle_broke", job_id=self.job.id)
                await self._finish(State.FAILED, ends.by_wish(Code.INTERRUPTED, spliced=True))
        finally:
            self.drop()
            self._call, self._outlet, self._keeping = None, _NOBODY, _NOBODY  # they hold me: a request may be megabytes
            if deadline is not None:
                deadline.cancel()

    async def _prepare(self) -> bool:
        """Everything before the request is sent; False when the run has ended by then."""
        gateway = self.job.gateway
        try:
            if self._shared is not None:
                first = ((gateway, self.job.id),) if gateway is not None else ()
                for reader in (*first, *self.job.readers):
                    self.attach(*reader)
            elif gateway is not None:
                opened = self._context.channels.open(
                    gateway, self.job.id, self.job.epoch, self, window=self._context.window
                )
                self._outlet = await opened
            own_name, kind = self._context.own_name(self.claimed.canonical), self._context.target.kind
            self._request = await requests.upstream(self.claimed, kind, self._context.keep_alive, own_name)
        except Failure as failure:
            self._conclude(ends.failed(failure))
        except NoLinkError as error:
            log.warning("job.no_link", job_id=self.job.id, gateway=gateway, error=str(error))
            self._conclude(End(How.BACK, None, "no_link"))
        if self.load is not None and not self._end.done():
            self.load.wanted.set()
            if await self._loaded(self.load):
                await self._begin_working()
        return not self._end.done()

    async def _loaded(self, load: Load) -> bool:
        """Wait for the lane's load, or for the end of this run."""
        either: list[asyncio.Future[Any]] = [load.done, self._end]
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        self.times.loading = time.monotonic() - self.times.claimed
        if self._end.done():
            return False
        outcome = load.done.result()
        if outcome is Outcome.CLOSED:
            self._conclude(End(How.BACK, None, "load_closed"))
        elif outcome is Outcome.BROKEN:
            assert load.fault is not None
            self._break(load.fault)
        return not self._end.done()

    async def _begin_working(self) -> None:
        """From loading to working, before the request is sent: what the store says is never ahead of the truth by a step."""
        moved = await insist(
            lambda: self._context.queue.transition(
                self.job.id, self.job.epoch, State.WORKING, reason="loaded", notify=False
            ),
            self._given_up,
        )
        if moved:
            self.state = State.WORKING
        elif not self._end.done():
            self._conclude(End(How.DROPPED, None, "fenced"))

    def _send(self) -> None:
        assert self._request is not None
        self._outlet.working()
        self.times.working = time.monotonic()
        self._sent_at = time.time()
        if self._request.answer is not None:
            self.head(200, _JSON)
            self.body(self._request.answer)
            self.end()
            return
        between = self._context.upstream_timeout
        patience = Patience(between * UNSTREAMED, between if self._request.stream else between * UNSTREAMED)
        follows = self.job.slot is not Slot.SIDE  # a change to the target's models is asked for once
        self._call = self._context.client.start(self._request.request, self, patience, follows=follows)

    # -- the hot path: the client pushes, the outlet takes

    def head(self, status: int, headers: Headers) -> None:
        """Hold the head until a unit of the body is there: until then every failure keeps its true status."""
        assert self._request is not None
        self._answer.cutting = self._request.cutting(status, headers, self._sent_at)

    def body(self, data: bytes) -> None:
        """Cut and pass on."""
        answer = self._answer
        assert answer.cutting is not None
        answer.begun = True
        try:
            units = answer.cutting.feed(data)
        except (ValueError, Failure) as error:
            self._senseless(error)
            return
        if self.times.first is None and not all(unit.startswith(b":") for unit in units):  # comments are no answer
            self.times.first = time.monotonic()
        if not answer.told and units:
            self._tell_head()
        put = self._outlet.data
        for unit in units:
            put(unit)

    def end(self) -> None:
        """The body is whole by its framing: is it by its own end mark?"""
        answer, outlet = self._answer, self._outlet
        assert answer.cutting is not None
        self.times.ended = time.monotonic()
        try:
            rest = answer.cutting.rest()
        except (ValueError, Failure) as error:
            self._senseless(error)
            return
        if rest and self.times.first is None:
            self.times.first = self.times.ended
        verdict = answer.cutting.ending()
        answer.usage = answer.cutting.usage()
        if verdict.failure is None or verdict.told or rest:
            if not answer.told:
                self._tell_head()
            for unit in rest:
                outlet.data(unit)
        if verdict.failure is None:
            outlet.end()
            self._conclude(End(How.DONE, told=True))
            return
        if verdict.told:
            outlet.end()
        self._conclude(ends.by_ending(verdict.failure, again=self._kept, told=verdict.told))

    def failed(self, fault: Fault) -> None:
        """No answer, or no more of it."""
        self._break(fault)

    def _tell_head(self) -> None:
        answer = self._answer
        assert answer.cutting is not None
        answer.told = True
        self._outlet.head(answer.cutting.head)

    def _senseless(self, error: ValueError | Failure) -> None:
        """What came is no answer that anybody could take."""
        failure = error if isinstance(error, Failure) else Failure(Code.UPSTREAM_ERROR, f"the target sent {error}")
        self._conclude(ends.by_ending(failure, again=self._kept))

    def _cannot_keep(self, failure: Failure) -> None:
        self._conclude(ends.failed(failure))

    # -- the end

    @property
    def _kept(self) -> bool:
        """Whether the answer is kept for later, and no caller has a byte of it before its end."""
        return self.job.surface is Surface.ASYNC

    @property
    def _spliced(self) -> bool:
        """Whether a second run would splice its answer onto bytes the caller has."""
        return self._answer.begun and self.job.surface is Surface.SYNC

    def _break(self, fault: Fault) -> None:
        if fault.kind is Kind.REFUSED:
            self._context.down(fault)
        self._conclude(ends.by_fault(fault, self._context.target.name, spliced=self._spliced))

    def _conclude(self, end: End) -> None:
        """The first end wins. The target is let go in this call, and the caller told unless the store has a say first."""
        if self._end.done():
            return
        self._end.set_result(end)
        if self._call is not None:
            self._call.close()
        if self.times.ended is None:
            self.times.ended = time.monotonic()
        if end.failure is not None and not end.told and end.how in {How.FAILED, How.CANCELLED}:
            self._outlet.error(end.failure)
        if self.load is not None and not self.load.wanted.is_set():
            self.load.close()
        elif self.load is not None and not self.load.done.done():
            self._context.unwanted(self.load)
        self._context.ended(self)

    async def _settle(self, end: End) -> None:
        """Write the end into the store, however long it takes to reach it."""
        if end.how is How.DROPPED:
            self._outlet.back()
        elif end.how is How.BACK:
            await self._hand_back(end)
        else:
            await self._finish(State(end.how.value), end)

    async def _hand_back(self, end: End) -> None:
        queue, job = self._context.queue, self.job
        state = await insist(
            lambda: queue.hand_back(job.id, job.epoch, reason=end.reason, failure=end.failure, notify=True),
            self._given_up,
        )
        if state is State.FAILED and end.failure is not None:
            self._outlet.error(end.failure)
        else:
            self._outlet.back()
        log.info("job.back", job_id=job.id, target=self._context.target.name, reason=end.reason, state=str(state))

    async def _finish(self, state: State, end: End) -> None:
        if end.failure is not None and not end.told:
            self._outlet.error(end.failure)  # again where the end came while the way was still being opened
        queue, job = self._context.queue, self.job
        timings = self._timings()
        answer = None
        if state is State.DONE and (self._kept or self._shared is not None):
            answer = await self._keeping.answer()
            self._answer.usage = self._answer.usage or self._keeping.usage()
        moved = await insist(
            lambda: queue.transition(
                job.id,
                job.epoch,
                state,
                reason=end.reason or "answered",
                failure=end.failure,
                usage=self._answer.usage or None,
                timings=timings,
                notify=end.how is How.CANCELLED,  # the link that brought this wish may be the one that broke
                answer=answer,
            ),
            self._given_up,
        )
        if moved and self._shared is not None:
            self._shared.pass_on()  # whoever reads gets nothing of another run now
        said = {"code": None if end.failure is None else str(end.failure.code), "tokens": self.tokens}
        if moved:
            log.info(_EVENTS[state], job_id=job.id, target=self._context.target.name, **said, **timings)
        elif moved is not None:
            log.warning("job.fenced", job_id=job.id, target=self._context.target.name, state=str(state))
            self._outlet.back()

    def _given_up(self) -> bool:
        return self._end.done() and self._end.result().how is How.DROPPED

    def _watch_deadline(self) -> asyncio.TimerHandle | None:
        deadline = self.job.deadline
        if deadline is None:
            return None
        return self._loop.call_later(max(0.0, deadline - self.claimed.now), self.cancel, Code.DEADLINE_EXCEEDED)

    def _timings(self) -> dict[str, float]:
        queued = max(0.0, self.claimed.now - self.job.created_at)
        tokens = self._answer.usage.get("completion_tokens") or self.tokens
        streamed = self._request is not None and self._request.stream
        return self.times.timings(queued, time.monotonic(), tokens if streamed else 0)


_NOBODY: Final = Keeping("", 0, lambda _: None)
_EVENTS: Final = {State.DONE: "job.done", State.FAILED: "job.failed", State.CANCELLED: "job.cancelled"}
