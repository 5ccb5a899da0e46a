"""What a simulated world is worth knowing for: its numbers, its log, and the two as text.

The command line, the benches and the tests hand me a world that has run. Embedding lanes run beside the drain, so they are
told of by themselves and count in no sum.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from foreman.core.decisions import Reason
from foreman.core.jobs import Priority

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from foreman.core.fairness import Policy
    from foreman.simulate.parts import Work
    from foreman.simulate.world import World

REASONS: Final = (Reason.ROOM, Reason.EMPTY, Reason.DUE, Reason.CLASS)
QUANTILES: Final = {"p50": 0.5, "p95": 0.95, "p99": 0.99}


@dataclass(frozen=True, slots=True)
class Waits:
    """How long some jobs waited, in seconds from arrival to claim; zeros where there was none."""

    jobs: int
    """Those that were started."""
    mean: float = 0.0
    p50: float = 0.0
    p95: float = 0.0
    p99: float = 0.0
    max: float = 0.0
    past_due: float = 0.0
    """The longest time from due to start; never below 0."""

    @classmethod
    def of(cls, jobs: Iterable[Work]) -> Waits:
        """Of the started ones among these."""
        started = [(job.started - job.arrived, job.started - job.due) for job in jobs if job.started is not None]
        if not started:
            return cls(0)
        waits = sorted(wait for wait, _ in started)
        quantiles = {name: quantile(waits, share) for name, share in QUANTILES.items()}
        worst = max(0.0, *(late for _, late in started))
        return cls(len(waits), sum(waits) / len(waits), **quantiles, max=waits[-1], past_due=worst)

    def plain(self) -> dict[str, Any]:
        """For JSON."""
        return {name: round(getattr(self, name), 3) for name in self.__slots__}


def quantile(ordered: Sequence[float], share: float) -> float:
    """The value below which that share of the ordered values lies, between neighbours in proportion; 0 for none."""
    if not ordered:
        return 0.0
    place = share * (len(ordered) - 1)
    below = math.floor(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (place - below) * (ordered[above] - ordered[below])


@dataclass(frozen=True, slots=True)
class Report:
    """The numbers of one trace under one policy."""

    trace: str
    policy: str
    swaps: int
    """Loads, each target's first included."""
    reasons: dict[str, int]
    makespan: float
    """Seconds until the last job had ended."""
    swap_share: float
    """The share of the targets' time in loads."""
    ends: dict[str, int]
    """Jobs by how they ended: done, cancelled, failed."""
    waits: Waits
    by_priority: dict[str, Waits]
    by_lane: dict[str, dict[str, Waits]]
    """Lane → priority → waits; embedding lanes, too."""

    @classmethod
    def of(cls, world: World, policy: str) -> Report:
        """The numbers of a world that has run."""
        drained = [job for job in world.jobs if not world.lanes[job.lane].spec.embedding]
        makespan = max((job.ended for job in world.jobs if job.ended is not None), default=0.0)
        loading = sum(residency.load_seconds for residency in world.residencies)
        jobs_of: dict[str, list[Work]] = {name: [] for name in world.lanes}
        for job in world.jobs:
            jobs_of[job.lane].append(job)
        return cls(
            trace=world.trace.name,
            policy=policy,
            swaps=len(world.residencies),
            reasons={reason: sum(r.reason == reason for r in world.residencies) for reason in REASONS},
            makespan=makespan,
            swap_share=loading / (makespan * len(world.servers)) if makespan else 0.0,
            ends={state: sum(job.state == state for job in world.jobs) for state in ("done", "cancelled", "failed")},
            waits=Waits.of(drained),
            by_priority=_by_priority(drained),
            by_lane={lane: _by_priority(jobs) for lane, jobs in jobs_of.items()},
        )

    def plain(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "trace": self.trace,
            "policy": self.policy,
            "swaps": self.swaps,
            "swaps_by_reason": self.reasons,
            "makespan": round(self.makespan, 3),
            "swap_share": round(self.swap_share, 4),
            "jobs": self.ends,
            "wait": self.waits.plain(),
            "past_due": round(self.waits.past_due, 3),
            "priorities": {word: waits.plain() for word, waits in self.by_priority.items()},
            "lanes": {
                lane: {word: waits.plain() for word, waits in each.items()} for lane, each in self.by_lane.items()
            },
        }

    def text(self) -> list[str]:
        """As lines for a person."""
        reasons = ", ".join(f"{reason} {count}" for reason, count in self.reasons.items() if count)
        ends = ", ".join(f"{count} {state}" for state, count in self.ends.items() if count)
        rows = {"all": self.waits, **self.by_priority}
        for lane, each in self.by_lane.items():
            rows |= {f"{lane} {word}": waits for word, waits in each.items()}
        width = max(8, *(len(name) for name in rows))
        heads = "".join(f"{head:>10}" for head in ("mean", "p50", "p95", "p99", "max", "past due"))
        return [
            f"{self.trace} · {self.policy}",
            f"  swaps     {self.swaps} ({reasons or 'none'}), {self.swap_share:.1%} of the time",
            f"  makespan  {self.makespan:.1f} s: {ends or 'no jobs'}",
            f"  {'wait, s':<{width}}{'jobs':>8}{heads}",
            *(f"  {name:<{width}}{waits.jobs:>8}{_cells(waits)}" for name, waits in rows.items()),
        ]


def _cells(waits: Waits) -> str:
    numbers = waits.mean, waits.p50, waits.p95, waits.p99, waits.max, waits.past_due
    return "".join(f"{number:>10.2f}" for number in numbers)


def _by_priority(jobs: Iterable[Work]) -> dict[str, Waits]:
    """The priorities that occur, the highest first."""
    of: dict[Priority, list[Work]] = {priority: [] for priority in reversed(Priority)}
    for job in jobs:
        of[job.priority].append(job)
    return {priority.word: Waits.of(each) for priority, each in of.items() if each}


def log(world: World, policy: Policy) -> dict[str, Any]:
    """Everything that the bounds can be checked on, by somebody who does not trust us (docs/scheduling.md).

    Embedding lanes are left out: they run beside the drain. Times in seconds, unrounded.
    """
    drained = {name for name, lane in world.lanes.items() if not lane.spec.embedding}
    factors = {server.name: server.spec.load_factor for server in world.servers}
    common = next(iter(factors.values())) if len(set(factors.values())) == 1 else 1.0
    return {
        "beta": policy.swap_budget,
        "k": policy.stay_quanta,
        "cap": policy.stay_cap,
        "load": {name: world.lanes[name].spec.load_seconds * common for name in sorted(world.lanes)},
        "load_factor": {name: factor / common if common else 1.0 for name, factor in factors.items()},
        "loads": [
            {
                "target": residency.target,
                "lane": residency.lane,
                "t0": residency.load_began,
                "loaded": residency.load_began + residency.load_seconds,
                "end": residency.ended,
                "reason": residency.reason,
            }
            for residency in world.residencies
        ],
        "jobs": [
            {
                "lane": job.lane,
                "cls": int(job.priority),
                "t": job.arrived,
                "due": job.due,
                "start": job.started,
                "end": job.ended,
                "state": job.state,
            }
            for job in world.jobs
            if job.lane in drained
        ],
    }
