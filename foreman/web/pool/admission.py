"""The last look before a job is queued: can it make its deadline, and when will there be a place where there is none?

Both surfaces submit through me. I refuse at once what could only fail later, with the reckoning in the message; the store
alone says whether the queue is full, and I say until when.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from foreman.core.errors import Code, Failure
from foreman.store.errors import StoreUnavailableError

if TYPE_CHECKING:
    from foreman.store.queue import Queue
    from foreman.store.records import NewJob, Submitted
    from foreman.web.pool.outlook import Outlooks

_SOONEST: Final = 1.0
"""Seconds of a Retry-After at least."""


@dataclass(frozen=True, slots=True)
class Admission:
    """The door of one gateway's queue."""

    queue: Queue
    outlooks: Outlooks

    async def submit(self, new: NewJob) -> Submitted:
        """Submit; once more where the reply was lost, since the same id again changes nothing.

        Raises:
            Failure: DEADLINE_EXCEEDED (422): it can't end in time; QUEUE_FULL, with the seconds until there is a place.
            StoreUnavailableError: twice in a row.
        """
        if new.deadline_in is not None:
            new = await self._in_time(new, new.deadline_in)
        try:
            try:
                return await self.queue.submit(new)
            except StoreUnavailableError:
                return await self.queue.submit(new)
        except Failure as failure:
            if failure.code is not Code.QUEUE_FULL:
                raise
            raise await self._full(failure) from None

    async def _in_time(self, new: NewJob, deadline_in: float) -> NewJob:
        """The job with the run that is expected of it, which its due is reckoned from."""
        late = await self.outlooks.too_late(new)
        if late is not None and not await self.queue.knows(new):  # who asks again for what is known starts nothing
            raise Failure(
                Code.DEADLINE_EXCEEDED,
                f"it can't be finished within its deadline of {deadline_in:g} s: by what waits and runs now it would "
                f"take {late:.1f} s. Allow more time, or send it later",
                status=422,
            )
        service = self.outlooks.run_seconds(new)
        return new if service is None else replace(new, service=service)

    async def _full(self, failure: Failure) -> Failure:
        """The same refusal, with the moment at which the next job leaves the queue."""
        try:
            free_in = await self.outlooks.place_free_in()
        except StoreUnavailableError:
            return failure
        if free_in is None or "FOREMAN_STORE_BYTES" in failure.message:  # what is stored goes by its age, not by runs
            return failure
        return Failure(failure.code, failure.message, retry_after=max(_SOONEST, free_in))
