"""A target of the state machine that is drained by the scheduler, and what must hold of each of its choices (I7).

test_machine.py asks me with what the store surveys; I ask core.scheduler, hold its answer against the store's own lanes,
and remember what is resident. Time is the machine's: it passes only when it says so.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from foreman.core.decisions import Decision, Drain, Reason, Swap
from foreman.core.fairness import Policy
from foreman.core.scheduler import LaneView, Resident, TargetView, choose

if TYPE_CHECKING:
    from collections.abc import Mapping

    from foreman.store.records import Survey

LOAD: Final = 10.0
"""Seconds of every load: so long that what a busy machine takes for a step decides nothing."""
SLOTS: Final = 2
POLICY: Final = Policy(swap_budget=0.2)
QUANTUM: Final = 40.0
"""(1/budget - 1) loads, as docs/adr/0009 has it: a lane that was cut has its turn no sooner again, and none is cut sooner."""
STAY: Final = 160.0
"""Four of them: what a lane keeps its place at most once another's turn has come."""


@dataclass
class Drained:
    """One place, and the lane in it."""

    lane: str | None = None
    since: float = 0.0
    """When its load ended."""
    victim: str | None = None
    left: dict[str, float] = field(default_factory=dict)
    """Lane → when it was last cut."""

    def choose(self, survey: Survey, queued: Mapping[str, int], running: int, now: float) -> Decision:
        """The scheduler's choice, checked.

        Args:
            survey: what the store tells the scheduler.
            queued: lane → how many jobs its own list holds.
            running: jobs of the resident lane in flight.
            now: seconds since the epoch.
        """
        views = [
            LaneView(facts.lane, facts.lane, facts.head_due, facts.head_class, facts.classes, self.left.get(facts.lane), LOAD, 0.1)
            for facts in survey.lanes
        ]  # fmt: skip
        held = ()
        if self.lane is not None:
            idle = None if running or queued.get(self.lane) else now
            held = (Resident(self.lane, self.lane, self.since, running, LOAD, idle),)
        step = choose(views, TargetView("gpu1", SLOTS, 1, held, victim=self.victim), now, POLICY)
        others = [view for view in views if view.lane != self.lane]
        if isinstance(step, Drain):
            assert step.lane == self.lane, "only what is resident is drained"
            assert queued.get(step.lane), "and only where the store has something"
        elif isinstance(step, Swap):
            self._may_swap(step, queued, {view.lane: view for view in others}, now)
        if not isinstance(step, Swap) and self.lane is not None and any(turn(view) <= now for view in others):
            assert now < self.since + STAY or step.victim is not None, "nobody waits past the bound"
        self.victim = step.victim
        return step

    def _may_swap(self, step: Swap, queued: Mapping[str, int], others: Mapping[str, LaneView], now: float) -> None:
        """No switch while the current lane has jobs, unless a fairness bound asks for it."""
        assert queued.get(step.lane)
        left = queued.get(self.lane or "", 0)
        assert step.cut == bool(left)
        if self.lane is None or not left:
            assert step.reason in {Reason.ROOM, Reason.EMPTY}
            return
        assert step.reason in {Reason.DUE, Reason.CLASS}
        assert now >= self.since + QUANTUM
        assert step.reason == Reason.CLASS or turn(others[step.lane]) <= now

    def swap(self, step: Swap, now: float) -> None:
        """The load has ended."""
        if step.cut and self.lane is not None:
            self.left[self.lane] = now
        self.lane, self.since, self.victim = step.lane, now + LOAD, None


def turn(view: LaneView) -> float:
    """From when on fairness counts for a lane that waits."""
    return view.head_due if view.left_at is None else max(view.head_due, view.left_at + QUANTUM)
