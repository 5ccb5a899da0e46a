"""The lanes that wait for one target, in the order of rule 2, as a dry run takes them and they come back.

core.forecast keeps one of me per target. I read core.index as far as the dry run comes, and change nothing in it.
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from foreman.core.index import LaneIndex
    from foreman.core.views import LaneView


@dataclass(slots=True)
class Upcoming:
    """The lanes of one target in the order of rule 2, as they are taken and come back."""

    lanes: LaneIndex
    gone: set[str]
    """Lanes that have left the index's order, in any way; shared by all targets."""
    returned: list[tuple[float, str]] = field(default_factory=list)
    """Lanes that were cut in the dry run, by their new turn."""
    _turns: deque[tuple[float, LaneView]] = field(default_factory=deque)
    _classes: deque[tuple[float, LaneView]] = field(default_factory=deque)
    _by_turn: Iterator[tuple[float, LaneView]] | None = None
    _by_class: Iterator[tuple[float, LaneView]] | None = None

    def __post_init__(self) -> None:
        self._by_turn, self._by_class = self.lanes.by_turn(), self.lanes.by_class()

    def _peek(
        self, ready: deque[tuple[float, LaneView]], rest: Iterator[tuple[float, LaneView]] | None
    ) -> tuple[float, LaneView] | None:
        while ready and ready[0][1].lane in self.gone:
            ready.popleft()
        if not ready and rest is not None:
            found = next((item for item in rest if item[1].lane not in self.gone), None)
            if found is not None:
                ready.append(found)
        return ready[0] if ready else None

    def first_turn(self) -> tuple[float, LaneView | None]:
        """The earliest turn of all that wait, and whose it is; infinite and None for none."""
        first = self._peek(self._turns, self._by_turn)
        if self.returned and (first is None or self.returned[0][0] < first[0]):
            moment, lane = self.returned[0]
            return moment, self.lanes.get(lane)
        return first or (math.inf, None)

    def top_class(self) -> int:
        """The highest class of head that waits; those that were cut don't count."""
        top = self._peek(self._classes, self._by_class)
        return top[1].head_class if top else -1

    def next_at(self, moment: float) -> tuple[str, bool] | None:
        """Rule 2 at that moment: the lane, and whether it is overdue; it leaves the queue. None where nobody waits."""
        first = self._peek(self._turns, self._by_turn)
        back = self.returned[0] if self.returned else None
        if back is not None and (first is None or back[0] < first[0]) and (back[0] <= moment or first is None):
            heapq.heappop(self.returned)
            return back[1], back[0] <= moment
        top = self._peek(self._classes, self._by_class)
        if first is None or top is None:
            return None
        view = first[1] if first[0] <= moment else top[1]
        self.gone.add(view.lane)
        return view.lane, first[0] <= moment
