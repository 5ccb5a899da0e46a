"""The end of a run that hangs: a thread says where all threads stand, takes the processes of the pool along, and ends it.

run.py holds me around its event loop. Its phases have bounds of their own; I am for what no phase's bound ends, such as a
loop that stands still.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import signal
import sys
import threading
from typing import TYPE_CHECKING, Final, Self

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

HUNG: Final = 3
"""Exit code."""


class LastResort:
    """`with LastResort(seconds, pids, tell):` — what is inside takes so long at most."""

    def __init__(self, seconds: float, pids: Callable[[], Iterable[int]], tell: Callable[[], object]) -> None:
        """Nothing happens before it is entered.

        Args:
            seconds: after which it is over.
            pids: the processes that would stay behind; called from a thread.
            tell: says what is waited for; called from a thread, and may raise.
        """
        self._seconds = seconds
        self._pids = pids
        self._tell = tell
        self._timer = threading.Timer(seconds, self._over)
        self._timer.daemon = True

    def __enter__(self) -> Self:
        self._timer.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._timer.cancel()

    def _over(self) -> None:
        print(f"\nnot over after {self._seconds:g} s: the run itself hangs. It waits for", flush=True)
        try:
            self._tell()
        finally:
            faulthandler.dump_traceback(file=sys.__stderr__)
            for pid in self._pids():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            sys.stdout.flush()
            os._exit(HUNG)
