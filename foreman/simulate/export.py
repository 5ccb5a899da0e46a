"""A trace made of what happened: the jobs of the last hours and the targets that ran them.

The gateway's `/ops/trace` calls me with facts out of the store. I turn them into a Trace that replays them: times, lanes and
lengths. What can't be known of a job (the run of one that was cancelled in the queue) is its lane's mean.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from foreman.core.estimates import LOAD_PRIOR, SERVICE_PRIOR
from foreman.simulate.trace import Trace, TraceJob, TraceLane, TraceTarget

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from foreman.core.jobs import Priority

_LEAST: Final = 0.001


@dataclass(frozen=True, slots=True)
class PastJob:
    """A job that has ended. Times in seconds since the epoch."""

    came_at: float
    """When it was queued; one with a `not_before`: that."""
    lane: str
    embedding: bool
    """It ran in the embedding slot."""
    priority: Priority
    state: str
    """done, failed or cancelled."""
    started_at: float | None
    ended_at: float
    deadline: float | None
    target: str | None


@dataclass(frozen=True, slots=True)
class PastTarget:
    """A target as it is now."""

    name: str
    slots: int
    places: int
    loads: Mapping[str, float]
    """Lane → seconds of its load there."""


def past_trace(name: str, jobs: Sequence[PastJob], targets: Sequence[PastTarget]) -> Trace:
    """The trace of these jobs, the first at 0 s.

    Runs are given as long as they were on a target of mean speed. What runs beside one another has slowed itself down
    already, so the targets of this trace don't slow anything down again. Calls of one agent become calls that come at
    their times.
    """
    ordered = sorted(jobs, key=lambda job: job.came_at)
    begin = ordered[0].came_at if ordered else 0.0
    means, speeds = _means(ordered), _speeds(ordered)
    lanes = dict.fromkeys(job.lane for job in ordered)
    embeds = {job.lane for job in ordered if job.embedding} - {job.lane for job in ordered if not job.embedding}
    loads = {lane: _mean([target.loads[lane] for target in targets if lane in target.loads]) for lane in lanes}
    known = _mean(list(filter(None, loads.values()))) or LOAD_PRIOR
    return Trace(
        name=name,
        seed=0,
        lanes=tuple(
            TraceLane(lane, lane.partition("?")[0], round(loads[lane] or known, 3), lane in embeds) for lane in lanes
        ),
        targets=tuple(
            TraceTarget(
                target.name,
                round(speeds.get(target.name, 1.0), 3),
                round(_load_factor(target, loads), 3),
                target.slots,
                target.places,
                0.0,
                0.0,
            )
            for target in targets
        )
        or (TraceTarget("target"),),
        jobs=tuple(_job(job, begin, means, speeds) for job in ordered),
    )


def _job(job: PastJob, begin: float, means: Mapping[str, float], speeds: Mapping[str, float]) -> TraceJob:
    run = means[job.lane]
    if job.started_at is not None and job.state == "done":
        run = max(_LEAST, job.ended_at - job.started_at) * speeds.get(job.target or "", 1.0)
    return TraceJob(
        at=round(job.came_at - begin, 3),
        lane=job.lane,
        run_seconds=round(run, 4),
        priority=job.priority,
        deadline_seconds=None if job.deadline is None else round(max(_LEAST, job.deadline - job.came_at), 3),
        cancel_after=round(max(_LEAST, job.ended_at - job.came_at), 3) if job.state == "cancelled" else None,
    )


def _runs(jobs: Sequence[PastJob]) -> list[tuple[PastJob, float]]:
    return [
        (job, max(_LEAST, job.ended_at - job.started_at))
        for job in jobs
        if job.started_at is not None and job.state == "done"
    ]


def _means(jobs: Sequence[PastJob]) -> dict[str, float]:
    """Lane → its mean run."""
    runs: dict[str, list[float]] = {job.lane: [] for job in jobs}
    for job, seconds in _runs(jobs):
        runs[job.lane].append(seconds)
    return {lane: _mean(each) or SERVICE_PRIOR for lane, each in runs.items()}


def _speeds(jobs: Sequence[PastJob]) -> dict[str, float]:
    """Target → how much faster than the mean it ran the lanes that others ran, too."""
    means, shares = _means(jobs), dict[str, list[float]]()
    for job, seconds in _runs(jobs):
        if job.target is not None:
            shares.setdefault(job.target, []).append(seconds / means[job.lane])
    return {target: 1 / (_mean(each) or 1.0) for target, each in shares.items()}


def _load_factor(target: PastTarget, loads: Mapping[str, float | None]) -> float:
    shares = [seconds / mean for lane, seconds in target.loads.items() if (mean := loads.get(lane))]
    return _mean(shares) or 1.0


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
