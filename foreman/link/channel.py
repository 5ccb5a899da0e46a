"""The one interface of an answer's way from a worker to a gateway, whatever lies between.

The executor (worker side) opens an `Outlet` through `Channels` and writes the answer into it; the relay (gateway side)
is a `Sink` that gets the very same calls in the same order. `Control` goes the other way: cancel and back-pressure.
Two channels implement it, link/local.py (a direct call) and link/client.py + link/server.py (TCP); one test suite runs
over both. Everything is a plain call on the event loop, never awaited: no task, queue or JSON per delta.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from foreman.core.errors import Code, Failure

Headers = tuple[tuple[str, str], ...]
"""Header pairs in the target's own order and spelling."""


class Framing(enum.IntEnum):
    """How the body of an answer is cut into units; fixed by the upstream's Content-Type."""

    RAW = 0
    """Not a stream of units (JSON, text): pieces as they came."""
    NDJSON = 1
    """Each unit is one line with its newline."""
    SSE = 2
    """Each unit is one event with its blank line."""


@dataclass(frozen=True, slots=True)
class Head:
    """The first thing the target said."""

    status: int
    headers: Headers
    """End-to-end headers only: hop-by-hop ones, Content-Length and Date are taken off."""
    framing: Framing


class Control(Protocol):
    """The running job as the gateway sees it. The executor implements it.

    `pause` and `resume` alternate, `pause` first and never before the first `data`; `pause` may come from within it.
    """

    def cancel(self, code: Code) -> None:
        """Stop the run: its caller has left, its deadline has passed, or the link is gone. At most once per outlet.

        `caller_gone`: also when the gateway refuses the job or the connection to it ends. `interrupted`: the gateway
        could make no sense of this run, or a later epoch of the job runs already.
        """

    def pause(self) -> None:
        """Stop reading from the target: the reader is a whole window behind."""

    def resume(self) -> None:
        """Read on."""


class Feedback(Protocol):
    """The worker's end of one answer as the gateway holds it: what a sink may send back."""

    def cancel(self, code: Code) -> None:
        """Ask the worker to stop this run. Idempotent; no error where the run is already over."""

    def credit(self, taken: int) -> None:
        """The caller's side has taken this many bytes of DATA more. Called each 64 KiB or so, not per unit."""

    def fit(self, window: int) -> None:
        """From now on the worker may run so many bytes ahead of what is credited."""


class Sink(Protocol):
    """The gateway's end of one answer. The relay implements it. No call may raise; none comes after end/error/lost."""

    def started(self, epoch: int, feedback: Feedback) -> None:
        """A worker has claimed the job (state loading or working); calls of older epochs never come any more."""

    def working(self) -> None:
        """The target holds the lane and has been sent the request."""

    def head(self, head: Head) -> None:
        """The target answers."""

    def data(self, unit: bytes) -> None:
        """One complete unit of the body (see Framing)."""

    def held(self, waits: bool) -> None:
        """The target waits because the caller is a whole window behind; or it goes on. Alternating, true first."""

    def end(self) -> None:
        """The answer is complete."""

    def error(self, failure: Failure) -> None:
        """The run failed; no answer, or no more of it."""

    def lost(self) -> None:
        """The worker is gone, or gave the job back, or the link broke this run, before the end.

        If no byte of the answer was passed on, the job will run again and `started` will be called with a later epoch;
        the store says otherwise through the gateway's inbox.
        """


class Outlet(Protocol):
    """The worker's end of one answer. The executor calls it; same meaning as in Sink. No call raises.

    After `end`, `error`, `back` or a lost link, further calls do nothing. A call out of order (`data` before `head`)
    ends the run at both ends: `lost` there, `cancel(INTERRUPTED)` here (protocols/link.py, MOVES).
    """

    def working(self) -> None:
        """The target holds the lane and has been sent the request. Not needed before `head`."""

    def head(self, head: Head) -> None:
        """The target answers. Once, before any `data`."""

    def data(self, unit: bytes) -> None:
        """One complete unit of the body, at most 16 MiB (a longer one fails the job: `upstream_error`)."""

    def end(self) -> None:
        """The answer is complete. Only after `head`."""

    def error(self, failure: Failure) -> None:
        """The run failed, before or after its head."""

    def back(self) -> None:
        """The job went back into its lane; the gateway sees `lost`."""


class NoLinkError(Exception):
    """No way to the gateway that holds the caller: give the job back without using up an attempt."""


class Channels(Protocol):
    """All the ways a worker has to gateways."""

    async def open(self, gateway: str, job_id: str, epoch: int, control: Control, *, window: int) -> Outlet:
        """The outlet for a job just claimed. Tells the gateway `started`.

        `window` is how many bytes of DATA may be on their way before `control.pause()` is called
        (`FOREMAN_SPOOL_BYTES`); `control.resume()` follows at half. Waits at most 1 s for a link. Where the gateway
        knows no such caller any more, `control.cancel(CALLER_GONE)` follows.

        Raises:
            NoLinkError: that gateway cannot be reached.
        """


class Door(Protocol):
    """The gateway's end of all links: who takes which answer; web/calls/waiting.py is one."""

    def accept(self, job_id: str) -> Sink | None:
        """The sink that waits for this job, or None when its caller is gone (the worker is told to cancel)."""
