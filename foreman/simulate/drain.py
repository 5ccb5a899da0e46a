"""foreman itself as a policy of the simulator: the very `choose`, fed with what its workers would know.

foreman.simulate.world asks me. I keep one LaneIndex per target and the estimates, from what the world shows of runs and loads;
all that is decided is decided by core.scheduler.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from foreman.core.decisions import Decision, Linger
from foreman.core.estimates import SERVICE_PRIOR, Gaps, Load, Rate, Service
from foreman.core.fairness import Policy, turn
from foreman.core.index import LaneIndex
from foreman.core.scheduler import choose
from foreman.core.views import LaneView, Offer, Resident, TargetView

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from foreman.simulate.parts import LaneQueue, Residency, Server, Work
    from foreman.simulate.world import World


class Drainer:
    """foreman.

    Args:
        world: Where it happens.
        policy: The knobs.
        known: Loads and mean runs are known from the start, else learned from the priors on.
    """

    reserves = False
    embeds = True

    def __init__(self, world: World, policy: Policy | None = None, *, known: bool = False) -> None:
        self.world = world
        self.policy = policy or Policy()
        self.known = known
        self.services: dict[str, dict[str, Service]] = {}
        """Lane → target → its runs there."""
        self.loads: dict[str, dict[str, Load]] = {}
        """Lane → target → its loads there."""
        self.gaps: dict[str, Gaps] = {}
        self.rates: dict[str, Rate] = {}
        self.empty_since: dict[str, float] = {}
        """Lanes that were called once, and of which nothing is queued or running."""
        self.indexes = {server.name: LaneIndex(self.policy) for server in world.servers}
        self._dirty: dict[str, set[str]] = {server.name: set() for server in world.servers}
        self._measured: set[int] = set()
        world.listeners.append(self._heard)

    # ------------------------------------------------------------------------ what is learned

    def _heard(self, what: str, job: Work) -> None:
        if what == "arrived":
            since = self.empty_since.pop(job.lane, None)
            if since is not None:
                self.gaps[job.lane] = self.gaps.get(job.lane, Gaps()).add(job.arrived - since)
            self.rates[job.lane] = self.rates.get(job.lane, Rate()).add(self.world.now)
        elif what == "ended":
            lane = self.world.lanes[job.lane]
            if not lane.waiting and not lane.in_flight:
                self.empty_since[job.lane] = self.world.now
            if job.state == "done" and job.target is not None and job.started is not None:
                runs = self.services.setdefault(job.lane, {})
                runs[job.target] = runs.get(job.target, Service()).add(self.world.now - job.started)

    def service(self, lane: str) -> float:
        """The expected run of a lane on the mean of the targets."""
        runs = [self.run_seconds(server, lane) for server in self.world.servers]
        return sum(runs) / len(runs)

    def run_seconds(self, server: Server, lane: str) -> float:
        """The expected run of a lane on a target."""
        if self.known:
            return self.world.known[lane] / server.spec.speed
        runs = self.services.get(lane, {})
        own = runs.get(server.name)
        if own is not None:
            return own.seconds()
        others = [each.seconds() for each in runs.values()]
        return Service().seconds(sum(others) / len(others) if others else SERVICE_PRIOR)

    def load_seconds(self, server: Server, lane: str) -> float:
        """The expected load of a lane on a target."""
        if self.known:
            return server.load_seconds(self.world.lanes[lane].spec)
        loads = self.loads.get(lane, {})
        return loads.get(server.name, Load()).seconds(loads.values())

    def _learn_load(self, server: Server) -> None:
        for residency in server.residents.values():
            if id(residency) not in self._measured:
                self._measured.add(id(residency))
                loads = self.loads.setdefault(residency.lane, {})
                loads[server.name] = loads.get(server.name, Load()).add(residency.load_seconds)

    # ------------------------------------------------------------------------ what is asked

    def key(self, job: Work) -> float:
        """Inside a lane by due, then by arrival."""
        return job.due

    def admits(self, job: Work) -> bool:
        """Everything."""
        return bool(job)

    def changed(self, lane: str) -> None:
        """Its facts are read again before the next choice."""
        for dirty in self._dirty.values():
            dirty.add(lane)

    def turn(self, server: Server, lane: str) -> float:
        """A lane's turn on a target."""
        self._refresh(server)
        view = self.indexes[server.name].get(lane)
        assert view is not None
        return turn(view.head_due, view.left_at, view.load_seconds, self.policy)

    def decide(self, server: Server) -> Decision:
        """What choose says."""
        self._learn_load(server)
        self._refresh(server)
        idle = self.idle_offers(server) if len(self.world.servers) > 1 else None
        index = self.indexes[server.name]
        return choose(index, self.view(server), self.world.now, self.policy, idle)

    def idle_offers(self, server: Server) -> Callable[[LaneView], Sequence[Offer]]:
        """What the targets offer that have nothing to do."""
        others = [other for other in self.world.servers if other is not server and self._idle(other)]

        def offers(view: LaneView) -> Sequence[Offer]:
            return [
                Offer(
                    other.name,
                    self.run_seconds(other, view.lane) / (1 + (other.spec.slots - 1) / 2),
                    self.load_seconds(other, view.lane),
                )
                for other in others
            ]

        return offers

    def _idle(self, server: Server) -> bool:
        busy = any(r.running or self.world.lanes[r.lane].waiting for r in server.residents.values())
        return not busy and server.loading is None and not isinstance(server.decision, Linger)

    # ------------------------------------------------------------------------ the facts

    def view(self, server: Server) -> TargetView:
        """A target as choose sees it."""
        loading = None if server.loading is None else server.loading.lane
        residents = tuple(self._resident(server, residency) for residency in server.residents.values())
        return TargetView(server.name, server.spec.slots, server.spec.resident, residents, loading, server.victim)

    def _resident(self, server: Server, residency: Residency) -> Resident:
        lane = residency.lane
        return Resident(
            lane=lane,
            model=self.world.lanes[lane].spec.model,
            loaded_at=residency.loaded_at,
            running=len(residency.running),
            load_seconds=residency.load_seconds,
            idle_since=residency.idle_since,
            linger_spent=residency.linger_spent,
            service_seconds=self.run_seconds(server, lane),
            gaps=self.gaps.get(lane, Gaps()).known(),
            arrival_rate=self.rates.get(lane, Rate()).per_second(self.world.now),
        )

    def _refresh(self, server: Server) -> None:
        index, dirty = self.indexes[server.name], self._dirty[server.name]
        for name in sorted(dirty):
            lane = self.world.lanes[name]
            if lane.waiting and not lane.spec.embedding:
                index.put(self._lane_view(server, lane), self.world.now)
            else:
                index.drop(name)
        dirty.clear()

    def _lane_view(self, server: Server, lane: LaneQueue) -> LaneView:
        head, name = lane.head(), lane.spec.lane
        low, normal, high = lane.classes
        return LaneView(
            lane=name,
            model=lane.spec.model,
            head_due=head.due,
            head_class=head.priority,
            classes=(low, normal, high),
            left_at=server.left_at.get(name),
            load_seconds=self.load_seconds(server, name),
            service_seconds=self.run_seconds(server, name),
            gaps=self.gaps.get(name, Gaps()).known(),
            arrival_rate=self.rates.get(name, Rate()).per_second(self.world.now),
            homes=self._homes(server, name),
        )

    def _homes(self, server: Server, lane: str) -> tuple[Offer, ...]:
        homes = []
        for other in self.world.servers:
            loading = other.loading is not None and other.loading.lane == lane
            if other is server or not (loading or lane in other.residents):
                continue
            pace = self.run_seconds(other, lane) / (1 + (other.spec.slots - 1) / 2)
            ready = other.loading.load_began + other.loading.load_seconds if loading and other.loading else 0.0
            homes.append(Offer(other.name, pace, ready_at=ready))
        return tuple(homes)
