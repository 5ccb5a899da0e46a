"""The two bounds of ADR-0021, checked on what a world did: B1 the swap budget, B2 no starvation; and the order inside lanes.

The scheduler's tests call `check_bounds` after a run of one target, `check_budget` after one of several;
tests/workers/test_bounds.py calls it with what real workers did. I know the rules only through their promises: the loads, the
claims and the ends that a residency may have, never how choose() came to them.
"""

from foreman.core.fairness import quantum, stay

EPSILON = 1e-6


class Exact:
    """A virtual clock: nothing takes time but what the trace says."""

    grain = EPSILON
    """Seconds by which two clocks' words for one moment may differ."""
    tick = 0.0
    """Seconds of one count of the clock: what is counted as one moment may have come in either order."""

    def slack(self, _since, _until):
        """Seconds that it may take at most to do what was due at `since` and was done at `until`."""
        return EPSILON


EXACT = Exact()


def check_bounds(run, clock=EXACT):
    """All checks, for a world with one target."""
    check_budget(run, clock)
    check_order(run, clock)
    for load in run.residencies:
        check_starvation(run, load, clock)


def policy_of(run):
    return run.chooser.policy


def expected(load):
    """Seconds that a load was thought to take when its lane was chosen; in a world with known estimates what it took."""
    return getattr(load, "expected", load.load_seconds)


def check_budget(run, clock=EXACT):
    """Each cut residency stayed a quantum; and B1 for every run of cut residencies in one place."""
    successors = {id(after.victim): after for after in run.residencies if after.victim is not None}
    for first in run.residencies:
        if not first.cut:
            continue
        policy, paid, ends, last = policy_of(run), 0.0, 0.0, first
        after = successors[id(first)]
        least = quantum(first.load_seconds, expected(after), policy)
        assert first.ended - first.loaded_at >= least - clock.grain, "cut before its quantum was over"
        while last.cut:
            after = successors[id(last)]
            paid += last.load_seconds
            ends += last.load_seconds - expected(after)  # where estimates are true: the first load less the one after
            budget, elapsed = policy.swap_budget, last.ended - first.load_began
            allowed = budget * elapsed + (1 - budget) * ends / 2
            assert paid <= allowed + clock.grain, "the swaps of lanes that were cut cost more than the budget"
            last = after


def check_order(run, clock=EXACT):
    """Inside a lane nobody starts while one waits that is due before, or as soon and came before."""
    for name in run.lanes:
        jobs = sorted((job for job in run.jobs if job.lane == name), key=lambda job: (job.due, job.serial))
        for index, before in enumerate(jobs):
            until = before.started if before.started is not None else before.ended
            for after in jobs[index + 1 :]:
                started = after.started
                assert started is None or not before.arrived + clock.tick <= started < until - clock.grain, (
                    f"out of order in {name}: {after.serial} began at {started}, when {before.serial} waited from "
                    f"{before.arrived} to {until}"
                )


def check_starvation(run, load, clock):
    """B2 for the lane C of one load: from its turn c on, only lanes whose turn came first, each once, each in time."""
    c = load.turn
    before = [other for other in run.residencies if c < other.load_began < load.load_began]
    names = [other.lane for other in before]
    assert len(set(names)) == len(names), "a lane came twice before another's turn"
    assert load.lane not in names
    assert all(other.turn <= c + clock.grain for other in before), "a lane came first whose turn came later"
    if load.load_began > c + clock.grain:
        for other in [*before, load]:
            check_place(run, other, c, clock)


def check_place(run, load, c, clock):
    """The place was given in time: no claim past the stay, and the load began when the last run had ended."""
    at = load.load_began
    free = max([c, *(r.loaded_at for r in run.residencies if r.load_began < at)])
    withdrawn = [moment for moment in run.withdrawals if c <= moment <= at]
    # From `settled` on nobody else was next; before, a lane whose jobs were withdrawn may have been.
    settled = max([free, *withdrawn])
    if load.victim is None:
        assert at <= settled + clock.slack(settled, at), "a free place stood empty"
        return
    policy = policy_of(run)
    limit = max(settled, latest_leave(run, load, [expected(load)]))
    for moment, left, waiting in load.victim.claims:
        outranked = waiting > left
        own = load.victim.loaded_at + stay(load.victim.load_seconds, expected(load), policy, outranked=outranked)
        over = min(limit, max(settled, own))
        assert moment <= over + clock.slack(over, moment), "a resident claimed past its stay"
    over = max(limit, load.victim.last_end)
    assert at <= over + clock.slack(over, at), "a place stood empty"
    if withdrawn and run.servers[0].spec.resident == 1:  # withdrawn or not: the longest of all stays is the end
        limit = max(free, latest_leave(run, load, [lane.spec.load_seconds for lane in run.lanes.values()]))
        assert at <= max(limit, load.victim.last_end) + EPSILON, "a place stood empty"
        assert all(claim[0] <= limit + EPSILON for claim in load.victim.claims), "withdrawals lengthened a stay"


def latest_leave(run, load, challengers):
    """When the stay of the first resident is over whose place the load could take, whichever load challenges it."""
    model = run.lanes[load.lane].spec.model
    twins = [resident for resident in load.there if run.lanes[resident.lane].spec.model == model]
    return min(
        resident.loaded_at
        + max(stay(resident.load_seconds, other, policy_of(run), outranked=False) for other in challengers)
        for resident in twins or load.there
    )
