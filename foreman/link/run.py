"""The gateway's end of a run: one job, one epoch, one sink, whichever channel its frames come by.

link/local.py and link/server.py begin a run through the `Runs` of a door and call it as the worker calls its outlet; I
pass each call to the sink if protocols/link.MOVES allows it. I drop what older epochs say and end the run, and nothing
else, when a call breaks the order or the sink raises.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, ParamSpec, Protocol
from weakref import WeakKeyDictionary

import structlog

from foreman.core.errors import Code
from foreman.protocols.link import MOVES, Kind, Stage

if TYPE_CHECKING:
    from collections.abc import Callable

    from foreman.core.errors import Failure
    from foreman.link.channel import Door, Head, Sink

log = structlog.get_logger(__name__)

_P = ParamSpec("_P")
_REMEMBERED: Final = 4096
"""Ended jobs whose last epoch is remembered, so that a stale worker is refused even then."""


class Back(Protocol):
    """The way back to the worker's end of one run. Each channel has its own."""

    def cancel(self, code: Code) -> None:
        """Stop it."""

    def credit(self, taken: int) -> None:
        """So many bytes more are taken."""

    def fit(self, window: int) -> None:
        """So many bytes it may be ahead."""

    def over(self) -> None:
        """The run is over here: what still comes of it may be dropped."""


class Run:
    """One run of one job, and the `Feedback` its sink holds. No call raises."""

    __slots__ = ("_back", "_cancelled", "_runs", "_sink", "_stage", "epoch", "job_id")

    def __init__(self, runs: Runs, job_id: str, epoch: int, sink: Sink, back: Back) -> None:
        self._runs = runs
        self.job_id = job_id
        self.epoch = epoch
        self._sink = sink
        self._back = back
        self._stage = Stage.STARTED
        self._cancelled = False

    # -- what the sink may send back

    def cancel(self, code: Code) -> None:
        """Ask the worker to stop this run. Idempotent; nothing where it is over."""
        if not self._cancelled and self._stage is not Stage.OVER:
            self._cancelled = True
            self._back.cancel(code)

    def credit(self, taken: int) -> None:
        """The caller's side has taken `taken` bytes more."""
        if self._stage is not Stage.OVER:
            self._back.credit(taken)

    def fit(self, window: int) -> None:
        """The worker may run so many bytes ahead from now on."""
        if self._stage is not Stage.OVER:
            self._back.fit(window)

    # -- what the worker says

    def start(self) -> None:
        """Tell the sink that a worker has claimed its job."""
        self._tell(self._sink.started, self.epoch, self)

    def working(self) -> None:
        """The target has the request."""
        if self._moves(Kind.WORKING):
            self._tell(self._sink.working)

    def head(self, head: Head) -> None:
        """The target answers."""
        if self._moves(Kind.HEAD):
            self._tell(self._sink.head, head)

    def data(self, unit: bytes) -> None:
        """A unit of the answer; the one hot call, so it asks for its stage before it asks the table."""
        if self._stage is Stage.BODY or self._moves(Kind.DATA):
            try:
                self._sink.data(unit)
            except Exception:
                log.exception("link.sink_failed", job_id=self.job_id, epoch=self.epoch)
                self.broken("its sink raised")

    def held(self, waits: bool) -> None:
        """The target waits for its reader, or goes on."""
        if self._moves(Kind.HELD):
            self._tell(self._sink.held, waits)

    def end(self) -> None:
        """The answer is complete."""
        if self._moves(Kind.END):
            self._tell(self._sink.end)

    def error(self, failure: Failure) -> None:
        """The run failed."""
        if self._moves(Kind.ERROR):
            self._tell(self._sink.error, failure)

    def back(self) -> None:
        """The job went back into its lane."""
        if self._moves(Kind.BACK):
            self._tell(self._sink.lost)

    def lost(self) -> None:
        """The worker is gone, or a later epoch has taken over."""
        if self._stage is not Stage.OVER:
            self._close()
            self._tell(self._sink.lost)

    def broken(self, why: str) -> None:
        """Its frames make no sense, or its sink raised: the run ends at both ends, the connection lives on.

        The sink sees `lost`, the worker `interrupted`: before the first byte the job may well run again.
        """
        if self._stage is not Stage.OVER:
            log.warning("link.job_broken", job_id=self.job_id, epoch=self.epoch, why=why)
            self.cancel(Code.INTERRUPTED)
            self.lost()

    def superseded(self) -> None:
        """A later epoch of the same job has begun: this worker has lost its right to it."""
        self.cancel(Code.INTERRUPTED)
        self.lost()

    # -- inside

    def _moves(self, kind: Kind) -> bool:
        if self._stage is Stage.OVER:
            return False
        stage = MOVES.get((self._stage, kind))
        if stage is None:
            self.broken(f"{kind.name} while {self._stage.name}")
            return False
        if stage is Stage.OVER:
            self._close()
        else:
            self._stage = stage
        return True

    def _close(self) -> None:
        self._stage = Stage.OVER
        self._runs.ended(self)
        self._back.over()

    def _tell(self, call: Callable[_P, Any], *args: _P.args, **kwargs: _P.kwargs) -> None:
        try:
            call(*args, **kwargs)
        except Exception:
            log.exception("link.sink_failed", job_id=self.job_id, epoch=self.epoch)
            self.broken("its sink raised")


class Runs:
    """All runs of one gateway by job: at most one each, that of the latest epoch, whichever channel it came by."""

    def __init__(self) -> None:
        self._open: dict[str, Run] = {}
        self._epochs: dict[str, int] = {}

    def begin(self, door: Door, job_id: str, epoch: int, back: Back) -> Run | Code:
        """The run that takes the frames of this epoch from now on; call `start()` once its way back is in place.

        1. An epoch that is not later than the one seen last: `interrupted`, the worker has lost its right to the job.
        2. A run of an older epoch still open: it ends there and here (`lost`) before the new one begins.
        3. Nobody waits for the job any more: `caller_gone`.
        """
        current = self._open.get(job_id)
        if epoch <= (self._epochs.get(job_id, -1) if current is None else current.epoch):
            return Code.INTERRUPTED
        if current is not None:
            current.superseded()
        try:
            sink = door.accept(job_id)
        except Exception:
            log.exception("link.door_failed", job_id=job_id)
            sink = None
        if sink is None:
            return Code.CALLER_GONE
        run = Run(self, job_id, epoch, sink, back)
        self._open[job_id] = run
        return run

    def ended(self, run: Run) -> None:
        """Forget the run, remember its epoch for a while."""
        if self._open.get(run.job_id) is run:
            del self._open[run.job_id]
        self._epochs.pop(run.job_id, None)
        self._epochs[run.job_id] = run.epoch
        if len(self._epochs) > _REMEMBERED:
            del self._epochs[next(iter(self._epochs))]


_RUNS: Final[WeakKeyDictionary[Door, Runs]] = WeakKeyDictionary()


def runs_of(door: Door) -> Runs:
    """The one table of a door, whichever channels lead to it.

    A job may move from a worker in this process to one behind TCP: its epochs count across both.
    """
    return _RUNS.setdefault(door, Runs())
