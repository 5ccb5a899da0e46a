"""Small worlds for the scheduler's tests: foreman's own drain, watched at each decision.

`world` makes one of lanes, jobs and agents. While it runs, each decision is asked again with the facts in another order,
halfway to its timer and just before it; and after each moment nobody may stand idle without a reason.
"""

import math

from foreman.core.decisions import Drain, Hold, Linger, Swap
from foreman.core.fairness import Policy
from foreman.core.jobs import Priority
from foreman.core.scheduler import choose
from foreman.simulate.drain import Drainer
from foreman.simulate.trace import Step, Trace, TraceAgent, TraceJob, TraceLane, TraceTarget
from foreman.simulate.world import World

LOW, NORMAL, HIGH = Priority
WAITS = {HIGH: 5.0, NORMAL: 120.0, LOW: 1800.0}


def lane(name, load=8.0, model=""):
    return TraceLane(name, model or name, load)


def job(name, run, at=0.0, priority=HIGH, deadline=None, cancel=None):
    return TraceJob(at, name, run, priority, deadline, cancel)


def agent(steps, at=0.0, priority=HIGH):
    """Steps of (think, lane, run)."""
    return TraceAgent(at, priority, tuple(Step(*step) for step in steps))


class Steady(Drainer):
    """Asks every question several times."""

    def decide(self, server):
        decision = super().decide(server)
        index, view = self.indexes[server.name], self.view(server)
        idle = self.idle_offers(server) if len(self.world.servers) > 1 else None
        lanes = sorted(index, key=lambda view: view.lane, reverse=True)
        mirrored = type(view)(
            view.name, view.slots, view.places, view.residents[::-1], view.loading, view.victim, view.shared_slots
        )
        now = self.world.now
        assert choose(lanes, mirrored, now, self.policy, idle) == decision, "the order of the facts decides"
        if isinstance(decision, Drain) or (isinstance(decision, Swap) and not self._runs(server, decision.victim)):
            return decision
        if len(self.world.servers) == 1:  # with several, a home's load that ends is an event of its own
            held = type(view)(view.name, view.slots, view.places, view.residents, view.loading, decision.victim)
            end = now + 1e9 if decision.until is None else decision.until
            for moment in ((now + end) / 2, math.nextafter(end, now)):
                again = choose(index, held, max(moment, now), self.policy)
                assert again == decision, "a timer too late"
        return decision

    @staticmethod
    def _runs(server, victim):
        return victim is not None and bool(server.residents[victim].running)


class Watched(World):
    """Looks after each moment whether somebody stands idle who could work."""

    def _settle(self):
        super()._settle()
        for server in self.servers:
            self._look(server)

    def _look(self, server):
        waiting = [name for name, lane in self.lanes.items() if lane.waiting]
        for residency in server.residents.values():
            free = len(residency.running) < server.spec.slots
            assert not (free and residency.lane in waiting and residency.lane != server.victim), (
                "a free slot, a queued job"
            )
        busy = server.loading is not None or any(r.running for r in server.residents.values())
        if waiting and not busy and not isinstance(server.decision, Linger):
            assert len(self.servers) > 1, "it stands idle while jobs wait"
            assert server.decision.why == Hold.HOME


def world(
    lanes,
    jobs=(),
    agents=(),
    *,
    slots=1,
    places=1,
    targets=None,
    policy=None,
    max_wait=None,
    chooser=Steady,
    known=True,
):
    trace = Trace(
        "test",
        0,
        tuple(lanes),
        tuple(targets or [TraceTarget("t", slots=slots, resident=places)]),
        tuple(jobs),
        tuple(agents),
    )
    return Watched(trace, lambda made: chooser(made, policy or Policy(), known=known), max_wait or WAITS)


def waits(run, *lanes):
    """Seconds from arrival to start, of the jobs that were run."""
    return [
        job.started - job.arrived for job in run.jobs if job.started is not None and (not lanes or job.lane in lanes)
    ]


def past_due(run, *lanes):
    """The longest time (s) from a job's due to its start."""
    return max(
        job.started - job.due for job in run.jobs if job.started is not None and (not lanes or job.lane in lanes)
    )
