"""What a target still reads for callers who have left: a call closed during its prefill keeps the slot until that is over.

The target tells me of each run's end. Ollama notices a closed connection only once the prompt is read (transcripts 240 and
241: 13.1 s of a prefill of 13.4 s), and tells nobody how far it is. So I learn from the runs that were not closed how long a
prompt of so many bytes takes, count the slot as taken for what is left of that, and say when it is free. The next call
would only wait in the server's own queue meanwhile, where no order and no cancel of ours reaches it.
"""

from __future__ import annotations

import asyncio
import statistics
from collections import deque
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

    from workers.runs.executor import Run

SAMPLES: Final = 16
"""Runs of a lane from which its pace is taken: their median."""
SHORT: Final = 1024
"""Bytes of a request below which its length tells nothing."""
LONGEST: Final = 120.0
"""Seconds a slot is held at most for a prefill that nobody sees."""
WORTH: Final = 0.02
"""Seconds below which it is not worth waiting."""
_LANES: Final = 512
"""Lanes whose pace is remembered."""


class Prefills:
    """The unseen prefills of one target.

    Args:
        over: called when one of them is taken to be over.
    """

    def __init__(self, over: Callable[[], None]) -> None:
        self._over = over
        self._paces: dict[str, deque[float]] = {}
        self._busy: dict[str, int] = {}
        self._timers: dict[object, asyncio.TimerHandle] = {}

    def busy(self) -> dict[str, int]:
        """Lane → slots that read a prompt for nobody."""
        return self._busy

    def ended(self, lane: str, run: Run) -> float:
        """A run has let go of the target; for how many seconds its slot stays taken."""
        times, size = run.times, max(SHORT, len(run.claimed.request))
        if times.working is None:
            return 0.0
        if times.first is not None:
            self._learn(lane, (times.first - times.working) / size)
            return 0.0
        if not run.left_in_prefill or lane not in self._paces:
            return 0.0
        whole = statistics.median(self._paces[lane]) * size
        left = min(LONGEST, whole - ((times.ended or times.working) - times.working))
        if left < WORTH:
            return 0.0
        self._busy[lane] = self._busy.get(lane, 0) + 1
        key = object()
        self._timers[key] = asyncio.get_running_loop().call_later(left, self._free, lane, key)
        return left

    def forget(self) -> None:
        """The target is another's, or was started anew."""
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()
        self._busy.clear()

    def _learn(self, lane: str, pace: float) -> None:
        paces = self._paces.pop(lane, None) or deque(maxlen=SAMPLES)
        paces.append(pace)
        self._paces[lane] = paces
        if len(self._paces) > _LANES:
            del self._paces[next(iter(self._paces))]

    def _free(self, lane: str, key: object) -> None:
        del self._timers[key]
        self._busy[lane] -= 1
        if not self._busy[lane]:
            del self._busy[lane]
        self._over()
