"""The lanes of the drain as one target sees them: what the store said last, kept up to date, in the order a choice needs.

The dispatcher hands me each look at the store's changes; I hold the facts of every queue, join those that are one lane
here (a name's and its digest's), leave out what this target may not take, and keep core.index so that a choice reads a
few entries, whatever waits. I decide nothing and ask nobody.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

from foreman.core.index import LaneIndex
from foreman.core.jobs import Slot
from foreman.core.views import LaneView

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, KeysView

    from foreman.core.fairness import Policy
    from foreman.store.records import Changes, LaneFacts, Survey
    from workers.drain.learned import Learned
    from workers.drain.rivals import Rivals
    from workers.loads.residency import Residency

_WORTH: Final = 0.1
"""Share by which an expected load must have moved before its lane is judged by it anew."""


class Lanes:
    """The queues of one target's drain.

    Args:
        name: the target's.
        takes: whether a queue's head may run here.
        rivals: the pool's other targets.
    """

    def __init__(
        self,
        name: str,
        policy: Policy,
        residency: Residency,
        learned: Learned,
        takes: Callable[[LaneFacts], bool],
        rivals: Rivals,
    ) -> None:
        self._name = name
        self._residency = residency
        self._learned = learned
        self._takes = takes
        self._rivals = rivals
        self._queues: dict[tuple[Slot, str], LaneFacts] = {}
        self._lane_of: dict[tuple[Slot, str], str] = {}
        self._members: dict[str, set[tuple[Slot, str]]] = {}
        self.index = LaneIndex(policy)
        """What may be loaded and drained here."""
        self.pinned: dict[str, LaneFacts] = {}
        """Lanes of pinned models with their earliest head: beside the drain."""
        self.only_here: set[str] = set()
        """Lanes of which all that waits asked for this target."""
        self._usual = learned.usual
        self.cursor = ""
        self.pauses: dict[str, float] = {}
        self.unloading: frozenset[str] = frozenset()

    # -- what the store says

    def apply(self, changes: Changes) -> None:
        """Take a look at what changed."""
        self.cursor = changes.cursor
        if changes.whole:
            there = {(Slot.DRAIN, facts.lane) for facts in changes.lanes}
            for queue in [queue for queue in self._queues if queue[0] is Slot.DRAIN and queue not in there]:
                self._forget(queue, changes.now)
        for lane in changes.gone:
            self._forget((Slot.DRAIN, lane), changes.now)
        for facts in changes.lanes:
            self._learn((Slot.DRAIN, facts.lane), facts, changes.now)
        self.unloading = changes.unloading
        if changes.pauses != self.pauses:
            differing = {name for name, _ in changes.pauses.items() ^ self.pauses.items()}
            self.pauses = dict(changes.pauses)
            self.touch((name.removeprefix("lane:") for name in differing), changes.now)

    def embeddings(self, survey: Survey | None, now: float) -> None:
        """The embedding slot's queues where they are drained like all others (ADR-0013); None: they are not."""
        found = () if survey is None else survey.lanes
        there = {(Slot.EMBED, facts.lane) for facts in found}
        for queue in [queue for queue in self._queues if queue[0] is Slot.EMBED and queue not in there]:
            self._forget(queue, now)
        for facts in found:
            self._learn((Slot.EMBED, facts.lane), facts, now)

    def _learn(self, queue: tuple[Slot, str], facts: LaneFacts, now: float) -> None:
        self._queues[queue] = facts
        lane = self._residency.lane_of(facts.lane, facts.model, facts.digest)
        before = self._lane_of.get(queue)
        if before is not None and before != lane:
            self._leave(queue, before)
            self._refresh(before, now)
        self._lane_of[queue] = lane
        self._members.setdefault(lane, set()).add(queue)
        self._refresh(lane, now)

    def _forget(self, queue: tuple[Slot, str], now: float) -> None:
        if self._queues.pop(queue, None) is None:
            return
        lane = self._lane_of.pop(queue)
        self._leave(queue, lane)
        self._refresh(lane, now)

    def _leave(self, queue: tuple[Slot, str], lane: str) -> None:
        members = self._members[lane]
        members.discard(queue)
        if not members:
            del self._members[lane]

    # -- what changes here

    def touch(self, lanes: Iterable[str], now: float) -> None:
        """Something that a view is made of has changed for these lanes: an estimate, a home, a hold, a pause."""
        for lane in set(lanes):
            if lane in self._members:
                self._refresh(lane, now)

    def loads_learned(self, now: float) -> None:
        """A load was measured: what is expected of lanes that were never loaded here follows."""
        wrong = [
            view.lane
            for view in self.index
            if abs(view.load_seconds - (seconds := self._load_seconds(view.lane))) > _WORTH * seconds
        ]
        self.touch(wrong, now)

    def runs_learned(self, now: float) -> None:
        """What lanes are taken to run of which nobody knows anything may have moved."""
        usual = self._learned.usual
        if abs(usual - self._usual) > _WORTH * self._usual:
            before, self._usual = self._usual, usual
            self.touch([view.lane for view in self.index if abs(view.service_seconds - before) <= _WORTH * before], now)

    def rebuild(self, now: float) -> None:
        """The target's inventory, or what is known of others, has changed: names and leave may differ for all."""
        for queue, facts in list(self._queues.items()):
            self._learn(queue, facts, now)

    def _refresh(self, lane: str, now: float) -> None:
        open_ = [self._queues[queue] for queue in self._usable(lane, now)]
        if not open_:
            self.only_here.discard(lane)
            self.index.drop(lane)
            self.pinned.pop(lane, None)
            return
        head = min(open_, key=lambda facts: (facts.head_due, facts.lane))
        if self._residency.pins(self._residency.identity(head.model, head.digest)):
            self.pinned[lane] = head
            self.index.drop(lane)
            return
        pace = self._learned.pace(lane, now, self._rivals.service_seconds(lane))
        # What asked for this target has no home elsewhere.
        alone = all(facts.head_target_only is not None for facts in open_)
        (self.only_here.add if alone else self.only_here.discard)(lane)
        self.index.put(
            LaneView(
                lane=lane,
                model=self._residency.identity(head.model, head.digest),
                head_due=head.head_due,
                head_class=head.head_class,
                classes=_sum(facts.classes for facts in open_),
                left_at=max((at for facts in open_ if (at := facts.left_at.get(self._name))), default=None),
                load_seconds=self._load_seconds(lane),
                service_seconds=pace.service_seconds,
                pace_seconds=pace.seconds_per_run,
                gaps=pace.gaps,
                arrival_rate=pace.rate,
                homes=() if alone else self._rivals.homes(lane, self.model(lane)),
            ),
            now,
        )

    def _load_seconds(self, lane: str) -> float:
        """The expected load: as measured here, else as on the others, else as is usual here."""
        if lane not in self._residency.loads and (elsewhere := self._rivals.load_seconds(lane)) is not None:
            return elsewhere
        return self._residency.load_seconds(lane)

    def _usable(self, lane: str, now: float) -> list[tuple[Slot, str]]:
        return [
            queue
            for queue in self._members.get(lane, ())
            if self.pauses.get(f"lane:{queue[1]}", 0.0) <= now and self._takes(self._queues[queue])
        ]

    # -- what the dispatcher asks

    def queue(self, lane: str, now: float) -> tuple[Slot, LaneFacts] | None:
        """Where the next job of a lane is queued; None where nothing of it may be had."""
        open_ = [(queue[0], self._queues[queue]) for queue in self._usable(lane, now)]
        return min(open_, key=lambda found: (found[1].head_due, found[1].lane), default=None)

    def queues(self, lane: str) -> list[tuple[Slot, str]]:
        """All queues of a lane."""
        return sorted(self._members.get(lane, ()))

    def emptied(self, now: float) -> None:
        """Nothing of the drain is queued."""
        for slot, queue in list(self._queues):
            if slot is Slot.DRAIN:
                self._forget((slot, queue), now)

    def waiting(self, lane: str) -> bool:
        """Whether anything of a lane is queued, by the last look."""
        return lane in self._members

    def any_waiting(self) -> bool:
        """Whether anything is queued, by the last look."""
        return bool(self._members)

    def all_waiting(self) -> KeysView[str]:
        """The lanes of which anything is queued, as they are at any moment."""
        return self._members.keys()

    def models(self) -> set[str]:
        """The canonical names that are asked for."""
        return {facts.model for facts in self._queues.values()}

    def paused_until(self, now: float) -> float | None:
        """Until when the target is paused (infinite: until somebody resumes it); None where it is not."""
        till = self.pauses.get(f"target:{self._name}", 0.0)
        return till if till > now else None

    def unloads(self) -> bool:
        """Whether the target, being paused, is to hold nothing."""
        return f"target:{self._name}" in self.unloading

    def model(self, lane: str) -> str:
        """The canonical name by which a lane is asked for; the lane itself where nothing of it is queued."""
        return next((self._queues[queue].model for queue in self._members.get(lane, ())), lane)

    def next_resume(self, now: float) -> float:
        """When the next pause ends by itself; infinite for never."""
        return min((till for till in self.pauses.values() if till > now), default=math.inf)

    def resumed(self, now: float) -> None:
        """Let lanes back in whose pause has ended by itself."""
        over = [name for name, till in self.pauses.items() if till <= now]
        if over:
            for name in over:
                del self.pauses[name]
            self.touch(list(self._members), now)


def _sum(classes: Iterable[tuple[int, int, int]]) -> tuple[int, int, int]:
    low, normal, high = 0, 0, 0
    for one in classes:
        low, normal, high = low + max(0, one[0]), normal + max(0, one[1]), high + max(0, one[2])
    return low, normal, high
