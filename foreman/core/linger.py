"""How long an empty resident is kept for the next call of the same agent (rule 6 of docs/adr/0009-drain-by-model.md).

core.scheduler and the forecast ask me. I weigh what a swap there and back costs against the jobs that wait meanwhile, by
the gaps this lane has had; I know no clock.
"""

from __future__ import annotations

import math
from itertools import accumulate
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

STRETCH: Final = 1.2
"""A gap like the longest one that pays may come a little later than it did."""
MARGIN: Final = 0.05
"""Seconds on top, for the way of a call through the gateway."""


def linger(gaps: Sequence[float], gain: float, waiting: int) -> float:
    """Seconds to wait for the next call, counted from the end of the last; 0 where no wait pays.

    The `w` that maximises P(gap ≤ w)·gain − waiting·E[min(gap, w)] over the gaps, stretched a little.

    Args:
        gaps: The last gaps between calls of the lane; infinite for "never came".
        gain: Seconds that are saved, over all who wait, when the call comes in time.
        waiting: Jobs that wait meanwhile.
    """
    ordered = sorted(gaps)
    best, span, count = 0.0, None, len(ordered)
    for index, below in enumerate(accumulate(ordered), 1):
        gap = ordered[index - 1]
        if gap == math.inf:
            break
        if index < count and ordered[index] == gap:
            continue
        worth = (index * gain - waiting * (below + (count - index) * gap)) / count
        if worth > best:
            best, span = worth, gap
    return 0.0 if span is None else span * STRETCH + MARGIN
