"""How long the oldest job of each lane may wait at most, by the promise of no starvation (ADR-0009).

web/ops/snapshot.py asks me for all lanes of one moment. I add up what the promise names, with the loads that were measured
and the run that is usual; so my numbers are as good as those. I decide nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from foreman.core.fairness import stay
from foreman.core.jobs import Slot

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from foreman.core.fairness import Policy
    from foreman.store.records import TargetStatus
    from foreman.store.views import Glance

_DEFAULT_LOAD: Final = 10.0
"""Seconds of a load where none was measured (core.scheduler's prior)."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """The bounds of one gateway's pool."""

    policy: Policy
    run_seconds: Callable[[], float]
    """How long a run usually takes."""

    def of(self, glance: Glance, targets: Iterable[TargetStatus]) -> dict[tuple[str, str], float]:
        """(lane, slot) → seconds from a job's coming to its start, at most.

        Until its turn, then the rest of the residency that has the place, and one residency (load, stay, run) of each
        lane whose turn comes first, and its own load. A lane of the embedding slot waits for the runs before it only.
        """
        loads: dict[str, float] = {}
        for target in targets:
            loads.update(target.loads)
        usual = sum(loads.values()) / len(loads) if loads else _DEFAULT_LOAD
        run, found, ahead = self.run_seconds(), dict[tuple[str, str], float](), 0.0
        for lane in sorted(glance.lanes, key=lambda lane: (lane.head_due, lane.lane)):
            patience = max(0.0, lane.head_due - lane.oldest_since)
            if lane.slot is not Slot.DRAIN:
                found[lane.lane, lane.slot.value] = round(patience + lane.position * run, 1)
                continue
            load = loads.get(lane.lane, usual)
            one = load + stay(usual, load, self.policy, outranked=False) + run
            rest = stay(usual, load, self.policy, outranked=False) + run
            found[lane.lane, lane.slot.value] = round(patience + rest + ahead + load, 1)
            ahead += one
        return found
