"""One call's answer: what a worker says in, what the caller gets out, and everything a caller sees while it waits.

A channel calls me as its `Sink`; web/calls/call.py tells me when the call fails or its caller leaves. I decide when the head
goes out, what a heartbeat is, and how a failure is said at each point; web/calls/response.py writes it. I hold no queue and
no task: every method is a plain call on the loop, and `event` wakes the handler that owns me when it has something to do.

    WAITING ──head_after──▶ COMMITTED ──first unit──▶ STREAMING ──end or failure──▶ ENDED
       └───────────────────────first unit──────────────────▲
"""

from __future__ import annotations

import asyncio
import enum
from typing import TYPE_CHECKING, Final

from foreman.core.errors import Code, Failure
from foreman.link.channel import Framing
from foreman.protocols import ndjson

if TYPE_CHECKING:
    from foreman.link.channel import Feedback, Head, Headers
    from foreman.web.calls.manner import Manner
    from foreman.web.calls.response import Outgoing

HOLD: Final = 1024 * 1024
"""Bytes of an answer that is no stream which are held so that a cut answer keeps a true status."""

STREAM_HEADERS: Final = (("X-Accel-Buffering", "no"), ("Cache-Control", "no-cache"))

_EVENT_ENDS: Final = (b"\n\n", b"\n\r\n")
"""The second is what servers on sse-starlette say."""

_OURS: Final = frozenset(
    {"cache-control", "x-accel-buffering", "content-length", "transfer-encoding", "connection", "date", "server"}
)
_PRIVATE: Final = (
    "access-control-",
    "x-foreman-",
    "set-cookie",
    "strict-transport-",
    "alt-svc",
    "keep-alive",
    "proxy-",
)


class Phase(enum.IntEnum):
    """How far the answer has come on the caller's side."""

    WAITING = 0
    """Nothing is sent: every status is still possible."""
    COMMITTED = 1
    """A 200 and perhaps heartbeats are sent, no byte of an answer: another run may still give it."""
    STREAMING = 2
    """Bytes of one run's answer are sent: only that run may go on."""
    ENDED = 3


class Relay:
    """The `Sink` of one call. No method raises; all run on the loop that made it."""

    def __init__(self, wire: Outgoing, manner: Manner, job_id: str) -> None:
        self.wire = self._wire = wire
        self._manner = manner
        self._loop = asyncio.get_running_loop()
        self._identity = (("X-Foreman-Job-Id", job_id),)
        self.job_id = job_id
        self.phase = Phase.WAITING
        self.epoch = 0
        self.feedback: Feedback | None = None
        """The run in progress; None while queued."""
        self.busy = False
        """The target has the request."""
        self.since = self._came_at = self._loop.time()
        """When the job's state last changed, by the loop's clock."""
        self.first_byte: float | None = None
        """Seconds from the call's coming to the first byte of its answer, heartbeats left out."""
        self.took: float | None = None
        """Seconds from `working` to a whole answer's end."""
        self.failure: Failure | None = None
        """What the call ended with, where it failed."""
        self.wants_words = False
        """A heartbeat is due whose words (position, eta) the handler must find; `say` sends them."""
        self.event = asyncio.Event()
        self._head: Head | None = None
        self._held: list[bytes] | None = None
        self._held_size = 0
        self._last = b""
        self._timer: asyncio.TimerHandle | None = None
        if manner.head_after is not None:
            self._timer = self._loop.call_later(manner.head_after, self._tick)

    # ------------------------------------------------------------------ what the worker says

    def started(self, epoch: int, feedback: Feedback) -> None:
        """A worker has claimed the job; it may have to load its lane first."""
        if epoch >= self.epoch and self.phase is not Phase.ENDED:
            self.lost()  # of whom nobody told us
        if epoch < self.epoch or self.phase is Phase.ENDED:
            feedback.cancel(Code.CALLER_GONE)
            return
        self.epoch, self.feedback, self.busy, self.since = epoch, feedback, False, self._loop.time()

    def working(self) -> None:
        """The target has been sent the request."""
        self.busy, self.since = True, self._loop.time()

    def head(self, head: Head) -> None:
        """The target answers; nothing goes out before the first unit, so that a reset before it can be run again."""
        self._head = head
        self._held = [] if head.status >= 400 or head.framing is Framing.RAW else None
        self._held_size = 0

    def data(self, unit: bytes) -> None:
        """One unit of the answer, on its way at the end of this turn of the loop."""
        if self.phase is Phase.ENDED:
            return
        if self._held is not None:
            self._hold(unit)
            return
        if self.phase is not Phase.STREAMING:
            self._begin(None)
        self._last = unit
        self._wire.chunk(self._manner.event(unit) if self._manner.wrap else unit, len(unit))

    def held(self, waits: bool) -> None:
        """The target waits because the caller does not read, or goes on."""
        if self.phase is not Phase.ENDED:
            self._wire.held(waits)

    def end(self) -> None:
        """The answer is complete."""
        self.feedback = None
        if self.phase is Phase.ENDED:
            return
        self.took = self._loop.time() - self.since
        if self._held is not None:
            self._end_held(b"".join(self._held))
        else:
            self._end_streamed()

    def error(self, failure: Failure) -> None:
        """The run failed for good."""
        self.feedback = None
        self.fail(failure)

    def lost(self) -> None:
        """The worker is gone. Where no byte of its answer was sent, another run may give one."""
        self.feedback, self.busy, self.since = None, False, self._loop.time()
        if self.phase is Phase.STREAMING:
            self._cut()
        self._head, self._held = None, None

    # ------------------------------------------------------------------ what the gateway says

    def fail(self, failure: Failure) -> None:
        """End the call with a failure, said as well as it still can be: status, line, event, or a cut connection.

        A run in progress is cancelled.
        """
        if self.phase is Phase.ENDED:
            return
        self.failure = failure
        if self.feedback is not None:
            self.feedback.cancel(failure.code)
        if self.phase is Phase.WAITING:
            self._refuse(failure)
        elif not self._can_say():
            self._wire.abort()
            self._ended()
        else:
            self._wire.chunk(self._boundary() + self._manner.dialect.stream_error(failure, self._events_out()))
            self._close()

    def leave(self) -> Feedback | None:
        """The caller is gone: send nothing more. The run to cancel, or None where none is in progress."""
        feedback = self.feedback if self.phase is not Phase.ENDED else None
        if self.phase is not Phase.ENDED:
            self.failure = Failure(Code.CALLER_GONE, "the caller closed its connection")
            self._ended()
        return feedback

    def say(self, words: str) -> None:
        """The SSE heartbeat that was asked for by `wants_words`."""
        self.wants_words = False
        if self._may_beat() and self._events_out():
            self._wire.chunk(f": {words}\n".encode())

    def taken(self, size: int) -> None:
        """The caller's transport has taken this many bytes of the answer."""
        if self.feedback is not None:
            self.feedback.credit(size)

    def fit(self, window: int) -> None:
        """So many bytes may the worker run ahead of the caller from now on."""
        if self.feedback is not None:
            self.feedback.fit(window)

    def too_slow(self) -> None:
        """The caller takes too little: it is cut off, as if it had left."""
        if self.phase is not Phase.ENDED:
            self.failure = Failure(Code.CALLER_GONE, "the caller read too slowly (FOREMAN_READER_TIMEOUT)")
            if self.feedback is not None:
                self.feedback.cancel(Code.CALLER_GONE)
            self._ended()
        self._wire.abort()

    def close(self) -> None:
        """The handler is done with me: no timer outlives it."""
        if self._timer is not None:
            self._timer.cancel()

    # ------------------------------------------------------------------ waiting

    def _tick(self) -> None:
        """The timer: first the early head, then a heartbeat for each interval without a byte."""
        pause = self._manner.heartbeat
        if self.phase is Phase.WAITING:
            self._commit_early()
        elif (quiet := self._loop.time() - self._wire.idle_since) < pause - 0.001:
            pause -= quiet
        elif self._may_beat():
            if self._events_out():
                self.wants_words = True
                self.event.set()
            else:
                self._wire.chunk(b" ")
        if self.phase is not Phase.ENDED:
            self._timer = self._loop.call_later(pause, self._tick)

    def _may_beat(self) -> bool:
        """Only at the end of a line or event, never after the last one, and not into a full pipe."""
        if self.phase in {Phase.WAITING, Phase.ENDED} or self._wire.backlog:
            return False
        if self.phase is Phase.COMMITTED:
            return True
        if not self._can_say():
            return False
        if self._events_out():
            return self._manner.wrap or self._last.endswith(_EVENT_ENDS)
        return self._last.endswith(b"\n") and not _is_last(self._last)

    def _commit_early(self) -> None:
        headers = (("Content-Type", self._manner.content_type), *(STREAM_HEADERS if self._manner.stream else ()))
        self._wire.commit(200, (*headers, *self._identity), None)
        self.phase = Phase.COMMITTED

    # ------------------------------------------------------------------ answering, as web/calls/replayed.py does otherwise

    def _cut(self) -> None:
        """The run is gone whose bytes the caller has."""
        self.fail(Failure(Code.INTERRUPTED, "the worker was lost in the middle of the answer: send the request again"))

    def _end_streamed(self) -> None:
        if self.phase is not Phase.STREAMING:
            self.fail(Failure(Code.UPSTREAM_TRUNCATED, "the target's stream ended before its first line"))
            return
        if self._manner.wrap and ndjson.error_in(self._last) is None:
            self._wire.chunk(ndjson.SSE_DONE)
        self._close()

    def _spill(self, pieces: list[bytes]) -> None:
        """What was held is too much to be held any longer; it is credited already."""
        self._begin(None)
        for piece in pieces:
            self._wire.chunk(piece)

    def _give(self, body: bytes) -> None:
        """An answer that came whole."""
        self._begin(len(body))
        self._wire.chunk(body)
        self._close()

    # ------------------------------------------------------------------ answering

    def _begin(self, length: int | None) -> None:
        """The head as the target gave it, unless an early one is out; from here on only this run may answer."""
        assert self._head is not None
        if self.phase is Phase.WAITING:
            headers: Headers = tuple(pair for pair in self._head.headers if _passes(pair[0]))
            if self._head.status >= 400:
                self.failure = Failure(Code.UPSTREAM_ERROR, f"the target answered {self._head.status}")
                headers = (*headers, ("X-Foreman-Error", Code.UPSTREAM_ERROR))
            elif self._manner.wrap:
                headers = (
                    ("Content-Type", "text/event-stream"),
                    *(p for p in headers if p[0].lower() != "content-type"),
                )
            if self._can_say():
                headers = (*headers, *STREAM_HEADERS)
            self._wire.commit(self._head.status, (*headers, *self._identity), length)
            if self._timer is not None:
                self._timer.cancel()
            self._timer = self._loop.call_later(self._manner.heartbeat, self._tick)
        self.phase = Phase.STREAMING
        self.first_byte = self._loop.time() - self._came_at

    def _hold(self, unit: bytes) -> None:
        """Keep a piece of an answer that is no stream; too much of it goes through as it comes."""
        assert self._held is not None
        assert self._head is not None
        self._held.append(unit)
        self._held_size += len(unit)
        if self.feedback is not None:
            self.feedback.credit(len(unit))
        if self._held_size > HOLD:
            pieces, self._held = self._held, None
            if self.phase is Phase.COMMITTED and self._head.status >= 400:
                self.fail(self._manner.dialect.upstream_failure(self._head.status, b"".join(pieces)[:HOLD]))
                return
            if self._manner.wrap or (self.phase is Phase.COMMITTED and self._events_out()):
                self.fail(
                    Failure(Code.UPSTREAM_ERROR, "the target answered a stream with more than 1 MiB that is no stream")
                )
                return
            self._spill(pieces)

    def _end_held(self, body: bytes) -> None:
        """An answer that came whole: JSON, an error, an empty body."""
        assert self._head is not None
        status = self._head.status
        if status >= 400 and self.phase is Phase.COMMITTED:
            self.fail(self._manner.dialect.upstream_failure(status, body))
            return
        if not body and self.phase is Phase.COMMITTED and self._manner.stream:
            self.fail(Failure(Code.UPSTREAM_TRUNCATED, "the target's answer to a stream is empty"))
            return
        if self._manner.wrap and status < 400:
            body = ndjson.native_to_sse(body) + ndjson.SSE_DONE
        elif self.phase is Phase.COMMITTED and self._manner.events:
            body = ndjson.native_to_sse(body)
        self._give(body)

    def _refuse(self, failure: Failure) -> None:
        """A failure before anything was sent: its true status, in the words of the caller's dialect."""
        dialect = self._manner.refusals or self._manner.dialect
        body, content_type = dialect.error_body(failure)
        headers = [("Content-Type", content_type), *dialect.failure_headers(failure)]
        self._wire.commit(failure.status, (*headers, *self._identity), len(body))
        self._wire.chunk(body)
        self._close()

    def _can_say(self) -> bool:
        """A failure can be told in band: the caller reads lines or events."""
        if self.phase is Phase.COMMITTED or self._head is None:
            return self._manner.stream
        return self._head.framing is not Framing.RAW or (self._manner.wrap and self._head.status < 400)

    def _events_out(self) -> bool:
        """What goes out is SSE."""
        if self.phase is Phase.COMMITTED or self._manner.wrap or self._head is None:
            return self._manner.events
        return self._head.framing is Framing.SSE

    def _boundary(self) -> bytes:
        """What completes a cut line or event, so that the error after it can be read."""
        ends = _EVENT_ENDS if self._events_out() else (b"\n",)
        return b"" if self._manner.wrap or not self._last or self._last.endswith(ends) else ends[0]

    def _close(self) -> None:
        self._wire.finish()
        self._ended()

    def _ended(self) -> None:
        self.phase = Phase.ENDED
        if self._timer is not None:
            self._timer.cancel()
        self.event.set()


def _is_last(line: bytes) -> bool:
    """Whether no line follows this one: the answer's end, a progress' end, an error."""
    return ndjson.ends(line) or ndjson.error_in(line) is not None or b'"status":"success"' in line


def _passes(name: str) -> bool:
    """Whether a header of the target goes to the caller: not those the gateway answers for."""
    name = name.lower()
    return name not in _OURS and not name.startswith(_PRIVATE)
