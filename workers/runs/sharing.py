"""The answer of a sync job that outlives its caller: kept from its first byte, passed on to each reader at its own pace.

The executor writes into me as it would into a gateway's outlet; the store's orders bring readers (`admit`), now or later,
and each gets the answer from its beginning. No reader holds the target or another reader. Before the first byte leaves,
the store must know that this run is the job's last: so nothing is ever spliced from two. I refuse an answer
past FOREMAN_MAX_ANSWER.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING, Final

import structlog

from foreman.core.errors import Failure
from foreman.link.channel import Framing, NoLinkError
from foreman.protocols import fold, fold_events
from foreman.protocols.link import head_json
from foreman.store.answers import Answer
from workers.insist import insist
from workers.runs import ending, ends
from workers.runs.keeping import HASHED_HERE, usage_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from foreman.core.errors import Code
    from foreman.core.jobs import Job
    from foreman.link.channel import Head, Outlet
    from workers.runs.context import RunContext

log = structlog.get_logger(__name__)

_FOLDED_HERE: Final = 200
"""Events that are folded on the event loop: about 2 ms."""


class Shared:
    """One answer with any number of readers. Implements `Outlet`.

    Args:
        job: as it was claimed.
        context: what runs on its target share.
        refuse: called once, from within `data`, where the answer cannot be kept.
        given_up: whether the run has lost its right to the job.
    """

    def __init__(
        self, job: Job, context: RunContext, refuse: Callable[[Failure], None], given_up: Callable[[], bool]
    ) -> None:
        self.works = False
        self.answers: Head | None = None
        self.units: list[bytes] = []
        self.passing = False
        """Readers may be given units."""
        self.last: Callable[[Outlet], None] | None = None
        """The last word, once it is said; it comes behind all units."""
        self._job = job
        self._context = context
        self._refuse = refuse
        self._given_up = given_up
        self._size = 0
        self._fold: fold.Fold | None = None
        self._readers: dict[tuple[str, str], Reader] = {}

    # -- readers

    async def admit(self, gateway: str, reader: str) -> None:
        """One more reader, behind that gateway. One that is here already, or can't be reached, changes nothing."""
        if (gateway, reader) in self._readers:
            return
        made = self._readers[gateway, reader] = Reader(self, (gateway, reader))
        try:
            channels, window = self._context.channels, self._context.window
            made.outlet = await channels.open(gateway, reader, self._job.epoch, made, window=window)
        except NoLinkError as error:
            self.leave(made)
            log.info("job.reader_unreachable", job_id=self._job.id, gateway=gateway, error=str(error))
            return
        made.pump()

    def leave(self, reader: Reader) -> None:
        """A reader has all, or is gone."""
        if self._readers.get(reader.key) is reader:
            del self._readers[reader.key]

    async def _commit(self) -> None:
        """Callers are about to get bytes of this run: no other may follow it."""
        queue, job = self._context.queue, self._job
        if await insist(lambda: queue.commit(job.id, job.epoch, ends.CUT), self._given_up):
            self.pass_on()

    def pass_on(self) -> None:
        """The store knows that this run is the last: the readers may have what there is."""
        self.passing = True
        self._pump()

    def _pump(self) -> None:
        for reader in list(self._readers.values()):
            reader.pump()

    # -- what the executor says

    def working(self) -> None:
        """The target has the request."""
        self.works = True
        self._pump()

    def head(self, head: Head) -> None:
        """The target answers."""
        self.answers = head
        if head.framing is Framing.NDJSON and self._job.endpoint in fold.PATHS and head.status < 300:
            self._fold = fold.Fold(self._context.max_answer)

    def data(self, unit: bytes) -> None:
        """One unit more, for all."""
        if self.last is not None:
            return
        self._size += len(unit)
        if self._size > self._context.max_answer:
            self._refuse(fold.too_long(self._context.max_answer))
            return
        self.units.append(unit)
        if self._fold is not None:
            try:
                self._fold.feed(unit)
            except Failure:  # readers get it as it is; only no whole can be made of it
                self._fold = None
        if self.passing:
            self._pump()
        elif len(self.units) == 1:
            self._context.spawn(self._commit(), f"commit[{self._job.id}]")

    def end(self) -> None:
        """It is whole."""
        self._say(lambda outlet: outlet.end())

    def error(self, failure: Failure) -> None:
        """It failed. Where no reader has a unit yet, none gets one: so the failure keeps its true status."""
        if self.last is None and not self.passing:
            self.units.clear()
            self.passing = True
        self._say(lambda outlet: outlet.error(failure))

    def back(self) -> None:
        """The job went back: the next run begins anew, with whoever reads then."""
        if not self.passing:  # also where it was whole, but somebody else has the right to the job by now
            self.units.clear()
            self.last = None
            self.passing = True
        self._say(lambda outlet: outlet.back())

    def _say(self, last: Callable[[Outlet], None]) -> None:
        if self.last is None:
            self.last = last
            self._pump()

    # -- what is kept

    async def answer(self) -> Answer:
        """What is kept of it, after `end`: the stream as it came, and what `stream: false` would have returned."""
        assert self.answers is not None
        head = self.answers
        body = b"".join(self.units)
        whole = await self._whole()
        content_type = next((value for name, value in head.headers if name.lower() == "content-type"), "")
        said = head_json(head.status, head.headers, head.framing).decode()
        kept = (body, content_type or "application/octet-stream") if whole is None else (whole,)
        made = Answer.of(*kept) if len(body) <= HASHED_HERE else await asyncio.to_thread(Answer.of, *kept)
        return replace(made, head=said, stream=b"" if whole is None else body)

    async def _whole(self) -> bytes | None:
        """What `stream: false` would have returned; None where that is what came, or none can be made of it."""
        endpoint, units = self._job.endpoint, self.units
        if self.answers is not None and self.answers.framing is Framing.SSE:
            if len(units) <= _FOLDED_HERE:
                return fold_events.whole(endpoint, units)
            return await asyncio.to_thread(fold_events.whole, endpoint, units)
        if self.answers is not None and self.answers.framing is Framing.NDJSON and endpoint in ending.MANAGEMENT:
            return next((unit.strip() for unit in reversed(units) if unit.strip()), None)
        try:
            return None if self._fold is None else self._fold.whole()
        except Failure:
            return None

    def usage(self) -> dict[str, int]:
        """`{"prompt_tokens", "completion_tokens"}` of an answer that came whole, as far as it tells them, after `end`."""
        raw = self.answers is not None and self.answers.framing is Framing.RAW
        return usage_of(b"".join(self.units)) if raw else {}


class Reader:
    """One who reads the answer, at its own pace. Implements `Control` for its gateway."""

    def __init__(self, shared: Shared, key: tuple[str, str]) -> None:
        self.key = key
        self.outlet: Outlet | None = None
        self._shared = shared
        self._next = 0
        self._worked = self._headed = self._paused = self._pumping = self._over = False

    def cancel(self, code: Code) -> None:  # noqa: ARG002 - whatever the reason, only this reader is gone
        """It reads no further; the job runs on."""
        self._shared.leave(self)
        self._over = True
        if self.outlet is not None:
            self.outlet.back()

    def pause(self) -> None:
        """It is a window behind."""
        self._paused = True

    def resume(self) -> None:
        """It has caught up by half."""
        self._paused = False
        self.pump()

    def pump(self) -> None:
        """Give it what there is, as far as it takes it."""
        outlet, shared = self.outlet, self._shared
        if outlet is None or self._pumping or self._over:
            return
        self._pumping = True
        try:
            if shared.works and not self._worked:
                self._worked = True
                outlet.working()
            if not shared.passing:
                return
            units = shared.units
            if shared.answers is not None and not self._headed and (units or shared.last):
                self._headed = True
                outlet.head(shared.answers)
            while self._next < len(units) and not self._paused and not self._over:
                self._next += 1
                outlet.data(units[self._next - 1])
            if self._next >= len(units) and shared.last is not None and not self._over:
                self._over = True
                shared.leave(self)
                shared.last(outlet)
        finally:
            self._pumping = False
