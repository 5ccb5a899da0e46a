"""The answer to a call whose job runs without it: from any byte on, and on again after a cut, but never of another run.

web/calls/call.py makes me where an answer is kept (a key, `finish`, `GET /jobs/{id}/stream`). I am a relay that gets each run's
answer from its first byte and leaves out what its caller has. A lost link is no end here: the same run, attached to once
more (web/calls/readers.py), goes on where it was.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from foreman.core.errors import Code, Failure
from foreman.protocols import ndjson
from foreman.web.calls.relay import Phase, Relay

if TYPE_CHECKING:
    from foreman.link.channel import Feedback, Head
    from foreman.web.calls.manner import Manner
    from foreman.web.calls.response import Outgoing

CREDIT_STEP: Final = 64 * 1024
"""Bytes of an answer that are left out between two credits."""


class Replayed(Relay):
    """The `Sink` of a call that can be read again.

    Args:
        begin: bytes of the answer, as it goes out to this caller, that it has already.
    """

    def __init__(self, wire: Outgoing, manner: Manner, job_id: str, begin: int = 0) -> None:
        super().__init__(wire, manner, job_id)
        self._from = begin
        """Bytes of the answer that the caller has."""
        self._at = 0
        """Bytes of it that the run in progress has brought."""
        self._owed = 0

    def identify(self, job_id: str) -> None:
        """It is this job's answer that is read. Before any head has left."""
        self.job_id, self._identity = job_id, (("X-Foreman-Job-Id", job_id),)

    # ------------------------------------------------------------------ what the worker says

    def started(self, epoch: int, feedback: Feedback) -> None:
        """As the relay's; once bytes are out, only the run that they are of may go on."""
        if self.phase is Phase.STREAMING and epoch != self.epoch:
            feedback.cancel(Code.INTERRUPTED)
            super()._cut()
            return
        super().started(epoch, feedback)

    def head(self, head: Head) -> None:
        """As the relay's; what goes on is held no more."""
        super().head(head)
        if self.phase is Phase.STREAMING:
            self._held = None

    def data(self, unit: bytes) -> None:
        """A unit of which the caller may have a part, or all."""
        if self.phase is Phase.ENDED:
            return
        if self._held is not None:
            self._hold(unit)
            return
        self._last = unit
        self._pass(self._manner.event(unit) if self._manner.wrap else unit, len(unit))

    def held(self, waits: bool) -> None:
        """No reader of a kept answer holds its target: what waits is the worker's copy."""

    def lost(self) -> None:
        """The way here is cut, or the run given back: count anew, leave out what the caller has."""
        self._from, self._at, self._owed = max(self._from, self._at), 0, 0
        super().lost()

    def _cut(self) -> None:
        """Wait: the run goes on without this caller, and can be attached to again."""

    # ------------------------------------------------------------------ while it waits

    def _may_beat(self) -> bool:
        """As the relay's; but before the first byte of one that goes on, it may stand in the middle of a line."""
        return super()._may_beat() and (self.phase is Phase.STREAMING or not self._from)

    def _boundary(self) -> bytes:
        """As the relay's; what its caller has may end in the middle of a line."""
        if self._from and self.phase is not Phase.STREAMING:
            return b"\n\n" if self._events_out() else b"\n"
        return super()._boundary()

    # ------------------------------------------------------------------ answering

    def _rest_of(self, out: bytes) -> bytes:
        """What of the next bytes of the answer the caller does not have."""
        have = self._from - self._at
        self._at += len(out)
        return out if have <= 0 else out[have:]

    def _pass(self, out: bytes, worth: int) -> None:
        rest = self._rest_of(out)
        if rest:
            if self._owed:
                owed, self._owed = self._owed, 0
                self.taken(owed)
            if self.phase is not Phase.STREAMING:
                self._begin(None)
            self._wire.chunk(rest, worth)
            return
        self._owed += worth
        if self._owed >= CREDIT_STEP:
            worth, self._owed = self._owed, 0
            self.taken(worth)

    def _end_streamed(self) -> None:
        if not self._at:
            super()._end_streamed()
            return
        if self._manner.wrap and ndjson.error_in(self._last) is None:
            self._pass(ndjson.SSE_DONE, 0)
        if self._from > self._at:
            self._past_the_end()
            return
        if self.phase is not Phase.STREAMING:
            self._begin(None)
        self._close()

    def _spill(self, pieces: list[bytes]) -> None:
        for piece in pieces:
            self._pass(piece, 0)

    def _give(self, body: bytes) -> None:
        assert self._head is not None
        rest = self._rest_of(body) if self._head.status < 400 else body
        if self._from > self._at and self._head.status < 400:
            self._past_the_end()
        else:
            super()._give(rest)

    def _past_the_end(self) -> None:
        words = f"offset {self._from} is past the end: the answer has {self._at} bytes"
        self.fail(Failure(Code.BAD_REQUEST, words, status=416))
