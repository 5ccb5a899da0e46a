"""What others do, as policies of the simulator: in order of arrival, drain until empty, with a limit, with ageing.

foreman.simulate.world asks me as it asks the scheduler. I am here to be compared with; nobody runs me on a target.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from foreman.core.decisions import Decision, Drain, Hold, Reason, Swap, Wait

if TYPE_CHECKING:
    from foreman.simulate.parts import LaneQueue, Residency, Server, Work
    from foreman.simulate.world import World

LIMIT: Final = 10
"""llama-swap's `concurrencyLimit`: calls of one model in flight or waiting; the next is answered 429."""
REPLICATE: Final = 3.0
"""Loads that a lane's homes may take for its jobs before another target loads it."""
AGEING: Final = 60.0
"""Seconds of waiting that are worth one class."""


class InOrder:
    """fifo: every target takes the oldest job there is, and loads its lane if it must."""

    reserves = True
    embeds = False

    def __init__(self, world: World) -> None:
        self.world = world

    def key(self, job: Work) -> float:
        """In order of arrival."""
        return job.arrived

    def admits(self, job: Work) -> bool:
        """Everything."""
        return bool(job)

    def changed(self, lane: str) -> None:
        """Nothing is kept."""

    def service(self, lane: str) -> float:
        """The mean of the lane's runs in the trace, so that dues compare."""
        return mean_run(self.world, lane)

    def turn(self, server: Server, lane: str) -> float:
        """No lane has a turn here."""
        del server
        return self.world.lanes[lane].head().due

    def decide(self, server: Server) -> Decision:
        """The oldest job, whatever its lane."""
        if server.loading is not None:
            return Wait(None, Hold.LOADING)
        heads = [lane.head() for lane in self.world.lanes.values() if lane.waiting]
        if not heads:
            return Wait(None, Hold.IDLE)
        lane = min(heads, key=lambda job: job.serial).lane
        resident = server.residents.get(lane)
        if resident is None:
            return Wait(None, Hold.HOME) if self._at_home(lane) else self.swap(server, lane)
        return Drain(lane) if len(resident.running) < server.spec.slots else Wait(None, Hold.SLOTS)

    def _at_home(self, lane: str) -> bool:
        """Another target has the lane loaded and a slot for it free."""
        for other in self.world.servers:
            home = other.residents.get(lane)
            if home is not None and len(home.running) < other.spec.slots and other.loading is None:
                return True
        return False

    def swap(self, server: Server, lane: str) -> Decision:
        """Load a lane in a free place, that of its own model, or the one used least recently."""
        model = self.world.lanes[lane].spec.model
        twin = next((r for name, r in server.residents.items() if self.world.lanes[name].spec.model == model), None)
        if twin is None and len(server.residents) < server.spec.resident:
            return Swap(lane, None, Reason.ROOM, cut=False)
        idle = [residency for residency in ([twin] if twin else server.residents.values()) if not residency.running]
        if not idle:
            return Wait(None, Hold.TURN)
        victim = min(idle, key=_last_used)
        cut = bool(self.world.lanes[victim.lane].waiting)
        return Swap(lane, victim.lane, Reason.DUE if cut else Reason.EMPTY, cut=cut)


class UntilEmpty(InOrder):
    """drain: a lane keeps its place until it is empty; then the lane with the oldest head comes."""

    reserves = False

    def decide(self, server: Server) -> Decision:
        """Drain what is loaded; swap where that is empty."""
        free = [
            lane.head()
            for name, residency in server.residents.items()
            if (lane := self.world.lanes[name]).waiting and len(residency.running) < server.spec.slots
        ]
        waiting = None if server.loading is not None else self.next_lane(server)
        if waiting is not None:
            swap = self._swap_empty(server, waiting)
            if swap is not None:
                return swap
        return Drain(min(free, key=self.rank).lane) if free else Wait(None, Hold.TURN)

    def rank(self, job: Work) -> tuple[float, int]:
        """Who is next: the oldest."""
        return self.key(job), job.serial

    def next_lane(self, server: Server) -> LaneQueue | None:
        """The lane without a place whose head is next."""
        lanes = [lane for name, lane in self.world.lanes.items() if lane.waiting and self._may_load(server, lane)]
        lanes = [lane for lane in lanes if not (self.embeds and lane.spec.embedding)]
        return min(lanes, key=lambda lane: self.rank(lane.head()), default=None)

    def _may_load(self, server: Server, lane: LaneQueue) -> bool:
        """Several targets: a lane comes to another one when its homes need three loads for its jobs; first to a slow one."""
        name = lane.spec.lane
        if name in server.residents:
            return False
        homes = [other for other in self.world.servers if name in self._held(other)]
        if homes and len(lane.waiting) * self.world.known[name] <= REPLICATE * lane.spec.load_seconds * len(homes):
            return False
        servers = self.world.servers
        place = servers.index(server)
        return not any(
            self._idle(other) and (other.spec.speed, -index) < (server.spec.speed, -place)
            for index, other in enumerate(servers)
            if other is not server
        )

    @staticmethod
    def _held(server: Server) -> set[str]:
        return {*server.residents, *([server.loading.lane] if server.loading is not None else [])}

    def _idle(self, server: Server) -> bool:
        held = server.residents.values()
        return server.loading is None and not any(r.running or self.world.lanes[r.lane].waiting for r in held)

    def _swap_empty(self, server: Server, lane: LaneQueue) -> Swap | None:
        swap = self.swap(server, lane.spec.lane)
        if isinstance(swap, Swap) and not swap.cut:
            return swap
        empty = [r for r in server.residents.values() if not r.running and not self.world.lanes[r.lane].waiting]
        models = {self.world.lanes[name].spec.model for name in server.residents}
        if not empty or lane.spec.model in models:
            return None
        victim = min(empty, key=_last_used)
        return Swap(lane.spec.lane, victim.lane, Reason.EMPTY, cut=False)


class Limited(UntilEmpty):
    """llama-swap: drain, and 429 for what a model has beyond its limit."""

    def admits(self, job: Work) -> bool:
        """Up to the limit, running ones included."""
        lane = self.world.lanes[job.lane]
        return len(lane.waiting) + lane.in_flight < LIMIT


class Ageing(UntilEmpty):
    """priority-aging: drain; heads and jobs go by class, and a minute of waiting is worth a class."""

    def key(self, job: Work) -> float:
        """As if a higher class had come earlier."""
        return job.arrived - AGEING * job.priority


def mean_run(world: World, lane: str) -> float:
    """The mean of a lane's runs in the trace, on its targets' mean speed."""
    return world.known[lane]


def _last_used(residency: Residency) -> tuple[float, float, str]:
    return max(residency.last_end, residency.loaded_at), residency.load_began, residency.lane
