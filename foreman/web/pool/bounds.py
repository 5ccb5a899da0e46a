"""How long the next job of each lane may wait at most, by the promise of no starvation (ADR-0021, B2).

web/ops/snapshot.py asks me for all lanes of one moment. I add up what the promise names, with the loads that were measured
and the run that is usual; so my numbers are as good as those. I decide nothing.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING

from foreman.core.estimates import LOAD_PRIOR
from foreman.core.fairness import quantum, stay, turn
from foreman.core.jobs import Slot
from foreman.core.lanes import canonical
from foreman.core.targets import OPENAI

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from foreman.core.fairness import Policy
    from foreman.store.records import TargetStatus
    from foreman.store.views import Glance, LaneGlance


@dataclass(frozen=True, slots=True)
class Bounds:
    """The bounds of one gateway's pool."""

    policy: Policy
    run_seconds: Callable[[], float]
    """How long a run usually takes."""

    def of(self, glance: Glance, targets: Iterable[TargetStatus]) -> dict[tuple[str, str], float]:
        """(lane, slot) → seconds from a job's coming to its start, at most; nothing for a lane that no target may take now.

        Until its turn, then the rest of the residency that has the place, and one residency (load, stay, run) of each
        lane that may come first, and its own load. With several targets the longest of what each of them promises, or of
        what those promise that hold it: which of the others is to take it, rule 8 decides anew all the time. A lane of the
        embedding slot waits for the runs before it only, and so does one that a target serves without loading.
        """
        run, held, free = self.run_seconds(), dict[tuple[str, str], float](), dict[tuple[str, str], float]()
        for target in targets:
            if target.state != "up" or target.pause is not None or target.stopping:
                continue
            names = {canonical(str(entry.get("name"))) for entry in target.tags}
            able = [lane for lane in glance.lanes if lane.model in names]
            swapped = [lane for lane in able if lane.slot is Slot.DRAIN and target.kind != OPENAI]
            promised = _Promises(self.policy, glance, target, swapped, run)
            for lane in able:
                found = held if lane.lane in promised.homes else free
                begins = max(lane.head_due, lane.oldest_since) + lane.position * run
                if lane in swapped:
                    begins = promised.start(lane)
                key = lane.lane, lane.slot.value
                found[key] = max(found.get(key, 0.0), round(max(0.0, begins - lane.oldest_since), 1))
        return free | held


class _Promises:
    """What one target promises the lanes that it may load."""

    def __init__(
        self, policy: Policy, glance: Glance, target: TargetStatus, lanes: list[LaneGlance], run: float
    ) -> None:
        self._policy, self._now, self._target, self._run = policy, glance.now, target, run
        self._unseen = glance.total - len(glance.lanes)
        self._usual = sum(target.loads.values()) / len(target.loads) if target.loads else LOAD_PRIOR
        spans = [self._usual, *target.loads.values()]
        self._least, self._most = min(spans), max(spans)
        self.homes = {
            str(one.get("lane")): (float(one.get("since") or self._now), float(one.get("load") or self._usual))
            for one in target.resident
            if not one.get("pinned") and one.get("lane") != target.leaving
        }
        """Lane → when its load ended, or will end, and what it took."""
        if target.loading is not None:
            load = self._load(target.loading)
            self.homes[target.loading] = (target.load_ends_at or self._now + load, load)
        self._models = {canonical(str(one.get("model"))) for one in target.resident}
        others = sorted((lane for lane in lanes if lane.lane not in self.homes), key=lambda lane: lane.head_due)
        self._dues = [lane.head_due for lane in others]
        self._before = [0.0, *accumulate(self._residency(self._load(lane.lane), self._most) for lane in others)]

    def start(self, lane: LaneGlance) -> float:
        """By when the next job of a lane works (s since the epoch)."""
        load, left_at, home = self._load(lane.lane), lane.left_at, self.homes.get(lane.lane)
        if home is not None:
            if max(self._now, home[0]) + self._run <= home[0] + quantum(home[1], self._least, self._policy):
                return max(self._now, home[0]) + self._run
            left_at = max(self._now, home[0]) + self._run  # it may be cut at any moment
        moment = turn(lane.head_due, left_at, load, self._policy)
        earlier = bisect_right(self._dues, moment)
        hidden = min(self._unseen, max(0, lane.position - earlier))
        ahead = self._before[earlier] + hidden * self._residency(self._usual, self._most)
        if home is None:
            ahead -= self._residency(load, self._most)
        next_load = self._most if ahead > 0 else load
        return max(moment, self._now) + self._rest(lane, next_load, moment) + ahead + load

    def _rest(self, lane: LaneGlance, next_load: float, moment: float) -> float:
        """Of the residency that has the place when the turn comes; who that will be is not known beforehand.

        A free place is of no use to a lane whose model is loaded with other options: it takes that one's place.
        """
        if moment > self._now:
            return self._residency(self._most, next_load)
        room = len(self.homes) < self._target.places and lane.model not in self._models
        if room and self._target.loading is None:
            return 0.0
        leave = [since + stay(own, next_load, self._policy, outranked=False) for since, own in self.homes.values()]
        return max(0.0, max(leave, default=self._now) - self._now) + self._run

    def _residency(self, load: float, challenger: float) -> float:
        return load + stay(load, challenger, self._policy, outranked=False) + self._run

    def _load(self, lane: str) -> float:
        return self._target.loads.get(lane, self._usual)
