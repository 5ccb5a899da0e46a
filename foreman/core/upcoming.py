"""The lanes that wait for one target, in the order of rule 2, as a dry run takes them and they come back.

core.forecast keeps one of me per target. I read core.index as far as the dry run comes, and change nothing in it.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Container, Iterator

    from foreman.core.index import LaneIndex
    from foreman.core.views import LaneView


@dataclass(slots=True)
class Upcoming:
    """The lanes of one target in the order of rule 2, as they are taken and come back."""

    lanes: LaneIndex
    gone: set[str]
    """Lanes that have left the index's order, in any way; shared by all targets."""
    returned: list[tuple[float, str]] = field(default_factory=list)
    """Lanes that were cut in the dry run, with their new turn; a few."""
    _turns: deque[tuple[float, LaneView]] = field(default_factory=deque)
    _classes: deque[tuple[float, LaneView]] = field(default_factory=deque)
    _by_turn: Iterator[tuple[float, LaneView]] | None = None
    _by_class: Iterator[tuple[float, LaneView]] | None = None

    def __post_init__(self) -> None:
        self._by_turn, self._by_class = self.lanes.by_turn(), self.lanes.by_class()

    def _peek(
        self,
        ready: deque[tuple[float, LaneView]],
        rest: Iterator[tuple[float, LaneView]] | None,
        held: Container[str],
    ) -> tuple[float, LaneView] | None:
        """The first of an order that waits, and whose model is not in `held`."""
        while ready and ready[0][1].lane in self.gone:
            ready.popleft()
        for item in ready:
            if item[1].model not in held and item[1].lane not in self.gone:
                return item
        for item in rest or ():
            if item[1].lane not in self.gone:
                ready.append(item)
                if item[1].model not in held:
                    return item
        return None

    def _back(self, held: Container[str]) -> tuple[float, str, LaneView] | None:
        """The first of those that were cut."""
        able = ((moment, lane, view) for moment, lane in self.returned if (view := self.lanes.get(lane)) is not None)
        return min((each for each in able if each[2].model not in held), key=lambda each: each[:2], default=None)

    def first_turn(self, held: Container[str] = ()) -> tuple[float, LaneView | None]:
        """The earliest turn of all that wait, and whose it is; infinite and None for none.

        Args:
            held: the models that other places of the target hold. A lane of such a model can take that place and no other.
        """
        first, back = self._peek(self._turns, self._by_turn, held), self._back(held)
        if back is not None and (first is None or back[0] < first[0]):
            return back[0], back[2]
        return first or (math.inf, None)

    def top_class(self, held: Container[str] = ()) -> int:
        """The highest class of head that waits; those that were cut don't count. `held` as in `first_turn`."""
        top = self._peek(self._classes, self._by_class, held)
        return top[1].head_class if top else -1

    def next_at(self, moment: float, held: Container[str] = ()) -> tuple[LaneView, bool] | None:
        """Rule 2 at that moment: the lane, and whether it is overdue; it leaves the queue. None where nobody waits.

        `held` as in `first_turn`.
        """
        first, back = self._peek(self._turns, self._by_turn, held), self._back(held)
        if back is not None and (first is None or back[0] < first[0]) and (back[0] <= moment or first is None):
            self.returned.remove(back[:2])
            return back[2], back[0] <= moment
        top = self._peek(self._classes, self._by_class, held)
        if first is None or top is None:
            return None
        view = first[1] if first[0] <= moment else top[1]
        self.gone.add(view.lane)
        return view, first[0] <= moment
