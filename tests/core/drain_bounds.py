"""The two bounds of ADR-0009, checked on what a simulation did: B1 the swap budget, B2 no starvation.

The scheduler's tests call `check_bounds` after a run. I know the rules only through their promises: the loads, the
claims and the ends that a residency may have, never how choose() came to them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from foreman.core.scheduler import quantum, stay

if TYPE_CHECKING:
    from tests.core.drain_simulation import Load, Residency, Simulation

EPSILON = 1e-6


def check_bounds(run: Simulation) -> None:
    for residency in run.residencies:
        check_quantum(run, residency)
        check_budget(run, residency)
    for load in run.loads:
        check_starvation(run, load)


def check_quantum(run: Simulation, residency: Residency) -> None:
    """What B1 rests on: each cut residency stayed a quantum at least."""
    if residency.cut:
        least = quantum(residency.load, residency.successor.load, run.policy)
        assert residency.ended - residency.loaded_at >= least - EPSILON, "cut before its quantum was over"


def check_budget(run: Simulation, first: Residency) -> None:
    """B1 for every run of cut residencies in one place that begins with `first`."""
    budget, paid, last = run.policy.swap_budget, 0.0, first
    while last.cut:
        paid += last.load
        elapsed = last.ended - first.load_began
        allowed = budget * elapsed + (1 - budget) * (first.load - last.successor.load) / 2
        assert paid <= allowed + EPSILON, "the swaps of lanes that were cut cost more than the budget"
        last = last.successor


def check_starvation(run: Simulation, load: Load) -> None:
    """B2 for the lane C of one load: from its turn c on, only lanes whose turn came first, each once, each in time."""
    c = load.turn
    before = [other for other in run.loads if c < other.at < load.at]
    names = [other.lane for other in before]
    assert len(set(names)) == len(names), "a lane came twice before another's turn"
    assert load.lane not in names
    assert all(other.turn <= c + EPSILON for other in before), "a lane came first whose turn came later"
    if load.at > c + EPSILON:
        for other in [*before, load]:
            check_place(run, other, c)


def check_place(run: Simulation, load: Load, c: float) -> None:
    """The place was given in time: no claim past the stay, and the load began when the last run had ended."""
    free = max([c, *(r.loaded_at for r in run.residencies if r.load_began < load.at)])
    withdrawn = [moment for moment in run.withdrawals if c <= moment <= load.at]
    settled = max(
        [free, *withdrawn]
    )  # from here on nobody else was next; before, a lane that was cancelled may have been
    if load.victim is None:
        assert load.at <= settled + EPSILON, "a free place stood empty"
        return
    limit = max(settled, latest_leave(run, load, [load.residency.load]))
    for moment, outranked in load.victim.claims:
        own = load.victim.loaded_at + stay(load.victim.load, load.residency.load, run.policy, outranked=outranked)
        assert moment <= min(limit, max(settled, own)) + EPSILON, "a resident claimed past its stay"
    assert load.at <= max(limit, load.victim.last_end) + EPSILON, "a place stood empty"
    if withdrawn and run.places == 1:  # cancels or not: the longest of all stays is the end
        limit = max(free, latest_leave(run, load, [lane.load for lane in run.lanes.values()]))
        assert load.at <= max(limit, load.victim.last_end) + EPSILON, "a place stood empty"
        assert all(moment <= limit + EPSILON for moment, _ in load.victim.claims), "cancels lengthened a stay"


def latest_leave(run: Simulation, load: Load, challengers: list[float]) -> float:
    """When the stay of the first resident is over whose place the load could take, whichever load challenges it."""
    model = run.lanes[load.lane].model
    twins = [resident for resident in load.residents if run.lanes[resident.lane].model == model]
    return min(
        resident.loaded_at + max(stay(resident.load, other, run.policy, outranked=False) for other in challengers)
        for resident in twins or load.residents
    )
