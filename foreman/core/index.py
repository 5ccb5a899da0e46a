"""The lanes with queued jobs in the two orders that a choice asks for: by turn, and by class and turn.

A dispatcher keeps one of me per target and tells me each lane that changed; core.scheduler asks me who is next. Neither
order depends on `now` (overdue is: the first turns that are not after it), so a lane moves only when its own facts do, and
a choice reads the first entries instead of all lanes. I decide nothing.
"""

from __future__ import annotations

import heapq
import math
from bisect import bisect_left, bisect_right, insort
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

from foreman.core.fairness import turn
from foreman.core.placement import homes_suffice

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Iterator

    from foreman.core.fairness import Policy
    from foreman.core.views import LaneView

Key = TypeVar("Key", bound=tuple[Any, ...])
ClassKey = tuple[int, float, str]
"""Minus the class of the head, the turn, the lane."""

_CHUNK: Final = 256
"""Entries of a piece at most twice; what one change moves in memory."""


class Ordered(Generic[Key]):
    """Distinct keys in ascending order: add, remove and find the first after a key in O(log n)."""

    def __init__(self) -> None:
        self._pieces: list[list[Key]] = []
        self._lasts: list[Key] = []

    def add(self, key: Key) -> None:
        """Put in a key that is not there yet."""
        if not self._pieces:
            self._pieces.append([key])
            self._lasts.append(key)
            return
        at = min(bisect_left(self._lasts, key), len(self._lasts) - 1)
        piece = self._pieces[at]
        insort(piece, key)
        if len(piece) > 2 * _CHUNK:
            self._pieces[at : at + 1] = [piece[:_CHUNK], piece[_CHUNK:]]
            self._lasts[at : at + 1] = [piece[_CHUNK - 1], piece[-1]]
        else:
            self._lasts[at] = piece[-1]

    def remove(self, key: Key) -> None:
        """Take out a key that is there."""
        at = bisect_left(self._lasts, key)
        piece = self._pieces[at]
        del piece[bisect_left(piece, key)]
        if piece:
            self._lasts[at] = piece[-1]
        else:
            del self._pieces[at], self._lasts[at]

    def __bool__(self) -> bool:
        """Whether there is any."""
        return bool(self._pieces)

    def first(self) -> Key:
        """The least; there must be one."""
        return self._pieces[0][0]

    def after(self, key: tuple[Any, ...] = ()) -> Iterator[Key]:
        """The keys after `key`, in order. Change nothing while you read."""
        start = bisect_right(self._lasts, key)
        for at in range(start, len(self._pieces)):
            piece = self._pieces[at]
            for place in range(bisect_right(piece, key) if at == start else 0, len(piece)):
                yield piece[place]


class LaneIndex:
    """The lanes with queued jobs that one target may take, resident ones included.

    Lanes that a home elsewhere will soon have worked off (rule 8) are kept out of both orders until their own facts say
    otherwise, so that a choice does not meet them.
    """

    def __init__(self, policy: Policy, lanes: Iterable[LaneView] = (), now: float = -math.inf) -> None:
        self.policy = policy
        self.jobs = 0
        """Queued jobs of all lanes in the orders."""
        self._views: dict[str, LaneView] = {}
        self._turns: dict[str, float] = {}
        """Lane → turn, for the lanes in the orders."""
        self._by_turn: Ordered[tuple[float, str]] = Ordered()
        self._models: dict[str, Ordered[ClassKey]] = {}
        """Model → its lanes by class and turn: a choice that passes a model passes all its lanes at once."""
        self._heads: Ordered[ClassKey] = Ordered()
        """The first lane of each model by class and turn."""
        for view in lanes:
            self.put(view, now)

    def put(self, view: LaneView, now: float = -math.inf) -> None:
        """Take the new facts of a lane: it came, its head or its depth changed, it was cut, an estimate or a home changed.

        Args:
            view: All facts of the lane.
            now: When they were read (s since the epoch). Needed only where a home elsewhere is still loading the lane:
                without it the lane stays in the orders and is judged at each choice.
        """
        self._take_out(view.lane)
        self._views[view.lane] = view
        if view.homes and homes_suffice(view, now, self.policy):
            return
        moment = turn(view.head_due, view.left_at, view.load_seconds, self.policy)
        self._turns[view.lane] = moment
        self._by_turn.add((moment, view.lane))
        self._add(view.model, (-view.head_class, moment, view.lane))
        self.jobs += view.depth

    def drop(self, lane: str) -> None:
        """The lane has no queued jobs any more, or this target may not take it; no matter whether it was there."""
        self._take_out(lane)
        self._views.pop(lane, None)

    def get(self, lane: str) -> LaneView | None:
        """The facts of a lane; None where nothing of it is queued."""
        return self._views.get(lane)

    def __len__(self) -> int:
        return len(self._views)

    def __iter__(self) -> Iterator[LaneView]:
        """All lanes, in no order that matters."""
        return iter(self._views.values())

    def counts(self, lane: str) -> bool:
        """Whether the lane is in the orders."""
        return lane in self._turns

    def by_turn(self, after: float = -math.inf) -> Iterator[tuple[float, LaneView]]:
        """Turn and facts of the lanes whose turn is after that moment: the earliest turn first, ties by name."""
        for moment, lane in self._by_turn.after((after, _LAST)):
            yield moment, self._views[lane]

    def by_class(self, passed: Container[str] = ()) -> Iterator[tuple[float, LaneView]]:
        """Turn and facts of all lanes: the highest class of head first, then the earliest turn, then by name.

        Args:
            passed: Models of which no further lane is wanted; the caller may add to it while it reads.
        """
        heads = self._heads.after()
        head = next(heads, None)
        behind: list[tuple[ClassKey, Iterator[ClassKey]]] = []
        """The next lanes of the models that were met, with what follows them."""
        while head is not None or behind:
            if head is None or (behind and behind[0][0] < head):
                key, rest = heapq.heappop(behind)
            else:
                key, rest = head, self._models[self._views[head[2]].model].after(head)
                head = next(heads, None)
            view = self._views[key[2]]
            yield key[1], view
            following = None if view.model in passed else next(rest, None)
            if following is not None:
                heapq.heappush(behind, (following, rest))

    def _add(self, model: str, key: ClassKey) -> None:
        lanes = self._models.setdefault(model, Ordered())
        first = lanes.first() if lanes else None
        lanes.add(key)
        if first is None or key < first:
            if first is not None:
                self._heads.remove(first)
            self._heads.add(key)

    def _remove(self, model: str, key: ClassKey) -> None:
        lanes = self._models[model]
        first = lanes.first()
        lanes.remove(key)
        if key == first:
            self._heads.remove(key)
            if lanes:
                self._heads.add(lanes.first())
            else:
                del self._models[model]

    def _take_out(self, lane: str) -> None:
        moment = self._turns.pop(lane, None)
        if moment is None:
            return
        view = self._views[lane]
        self._by_turn.remove((moment, lane))
        self._remove(view.model, (-view.head_class, moment, lane))
        self.jobs -= view.depth


_LAST: Final = "\U0010ffff"
"""After every lane's name."""
