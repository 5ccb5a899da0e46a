"""The worker's end of an answer, but for the way itself: what is on its way, and when the target has to wait.

link/local.py and link/client.py derive their outlet from me and fill in how a call travels. I count DATA bytes against
credit, pause the job's control when it is a window ahead or the way is congested, resume it at half, and pass cancels
on. The executor never hears an exception from me, nor `pause` before its first `data`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog

from foreman.core.errors import Code, Failure
from foreman.protocols.link import MAX_FRAME

if TYPE_CHECKING:
    from foreman.link.channel import Control, Head

log = structlog.get_logger(__name__)


class Metered:
    """An `Outlet` with its meter."""

    __slots__ = (
        "_ahead",
        "_cancelled",
        "_congested",
        "_control",
        "_half",
        "_held",
        "_over",
        "_paused",
        "_window",
        "job_id",
    )

    def __init__(self, job_id: str, control: Control, window: int) -> None:
        self.job_id = job_id
        self._control = control
        self._window = window
        self._half = window // 2
        self._ahead = 0
        self._paused = False
        self._held = False
        self._congested = False
        self._cancelled = False
        self._over = False

    # -- how a call travels

    def _pass_working(self) -> None:
        raise NotImplementedError

    def _pass_head(self, head: Head) -> None:
        raise NotImplementedError

    def _pass_data(self, unit: bytes) -> None:
        raise NotImplementedError

    def _pass_held(self, waits: bool) -> None:
        raise NotImplementedError

    def _pass_end(self) -> None:
        raise NotImplementedError

    def _pass_error(self, failure: Failure) -> None:
        raise NotImplementedError

    def _pass_back(self) -> None:
        raise NotImplementedError

    # -- what the executor calls

    def working(self) -> None:
        """The target has the request."""
        if not self._over:
            self._pass_working()

    def head(self, head: Head) -> None:
        """The target answers."""
        if not self._over:
            self._pass_head(head)

    def data(self, unit: bytes) -> None:
        """One unit of at most `MAX_FRAME` bytes; a longer one fails the job."""
        if self._over:
            return
        size = len(unit)
        if size > MAX_FRAME:
            self._too_long(size)
            return
        self._ahead += size
        self._pass_data(unit)
        if (self._ahead > self._window or self._congested) and not self._paused:
            self._pause()

    def end(self) -> None:
        """The answer is complete."""
        if not self._over:
            self._over = True
            self._pass_end()

    def error(self, failure: Failure) -> None:
        """The run failed."""
        if not self._over:
            self._over = True
            self._pass_error(failure)

    def back(self) -> None:
        """The job went back into its lane."""
        if not self._over:
            self._over = True
            self._pass_back()

    # -- what the way calls

    def credit(self, taken: int) -> None:
        """The gateway's side has taken `taken` bytes more."""
        self._ahead = max(0, self._ahead - taken)
        if self._paused:
            self._maybe_resume()

    def fit(self, window: int) -> None:
        """So far the worker may run ahead from now on."""
        self._window, self._half = window, window // 2
        if self._ahead > window and not self._paused and not self._over:
            self._pause()
        elif self._paused:
            self._maybe_resume()

    def congestion(self, congested: bool) -> None:
        """The way itself is full, or free again."""
        self._congested = congested
        if self._over:
            return
        if congested and self._ahead and not self._paused:
            self._pause()
        elif self._paused:
            self._maybe_resume()

    def cancel(self, code: Code) -> None:
        """Stop the run; the executor may still say how it ended."""
        if not self._over:
            self._stop(code)

    def gone(self, code: Code) -> None:
        """Stop the run: nobody is there to tell how it ended."""
        self.cancel(code)
        self._over = True

    # -- inside

    def _pause(self) -> None:
        self._paused = True
        try:
            self._control.pause()
        except Exception:
            log.exception("link.control_failed", job_id=self.job_id)
        if self._ahead > self._window and not self._over:  # not where only the way is full
            self._held = True
            self._pass_held(True)

    def _maybe_resume(self) -> None:
        if self._congested or self._over or self._ahead > self._half:
            return
        self._paused = False
        if self._held:
            self._held = False
            self._pass_held(False)
        try:
            self._control.resume()
        except Exception:
            log.exception("link.control_failed", job_id=self.job_id)

    def _too_long(self, size: int) -> None:
        failure = Failure(
            Code.UPSTREAM_ERROR,
            f"the target sent {size} bytes without a break; foreman passes on at most {MAX_FRAME} in one piece",
        )
        self.error(failure)
        self._stop(failure.code)

    def _stop(self, code: Code) -> None:
        """Cancel, once, even after the last word was said."""
        if not self._cancelled:
            self._cancelled = True
            try:
                self._control.cancel(code)
            except Exception:
                log.exception("link.control_failed", job_id=self.job_id)
