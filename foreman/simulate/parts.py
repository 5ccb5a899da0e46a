"""What a simulated world is made of: jobs, residencies, lanes, targets; and what a policy must answer.

foreman.simulate.world moves me; policies and reports read me. I hold what is, and do nothing by myself. Times in seconds from
the start of the trace.
"""

from __future__ import annotations

import heapq
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

    from foreman.core.decisions import Decision
    from foreman.core.jobs import Priority
    from foreman.simulate.trace import TraceLane, TraceTarget


@dataclass(eq=False, slots=True)
class Work:
    """A job: what it is, and what became of it."""

    lane: str
    priority: Priority
    arrived: float
    run_seconds: float
    serial: int
    due: float = 0.0
    deadline: float | None = None
    """The moment by which it must have started."""
    then: Callable[[], None] | None = None
    left: float = 0.0
    """Run seconds still to do, at speed 1 and alone."""
    started: float | None = None
    ended: float | None = None
    state: str = "queued"
    """queued, running, done, cancelled or failed."""
    target: str | None = None


@dataclass(eq=False, slots=True)
class Residency:
    """A lane in a place, from the start of its load to the start of the load that took the place."""

    lane: str
    target: str
    reason: str
    load_began: float
    load_seconds: float
    turn: float
    """The lane's turn as the load began."""
    loaded_at: float = math.inf
    ended: float | None = None
    cut: bool = False
    victim: Residency | None = None
    """Whose place it took."""
    there: tuple[Residency, ...] = ()
    """All residencies of the target as the load began, the victim included."""
    running: list[Work] = field(default_factory=list)
    claims: list[tuple[float, int, int]] = field(default_factory=list)
    """Of each claim: when, the highest class the lane had queued, the highest class of another head that waited."""
    last_end: float = -math.inf
    idle_since: float | None = None
    linger_from: float | None = None
    linger_spent: float = 0.0


class LaneQueue:
    """The queued jobs of a lane, in the policy's order."""

    def __init__(self, spec: TraceLane) -> None:
        self.spec = spec
        self.waiting: dict[int, Work] = {}
        self.classes = [0, 0, 0]
        self.in_flight = 0
        self._heap: list[tuple[float, int]] = []

    def add(self, job: Work, key: float) -> None:
        """Queue a job; the smallest key is the head, ties by arrival."""
        self.waiting[job.serial] = job
        self.classes[job.priority] += 1
        heapq.heappush(self._heap, (key, job.serial))

    def remove(self, job: Work) -> None:
        """Take a queued job out, by a claim or otherwise."""
        del self.waiting[job.serial]
        self.classes[job.priority] -= 1

    def head(self) -> Work:
        """The job that is next; there must be one."""
        while self._heap[0][1] not in self.waiting:
            heapq.heappop(self._heap)
        return self.waiting[self._heap[0][1]]


@dataclass(eq=False)
class Server:
    """A target as it stands."""

    spec: TraceTarget
    residents: dict[str, Residency] = field(default_factory=dict)
    loading: Residency | None = None
    reserved: Work | None = None
    """The job a load is made for, where the policy claims it with the load."""
    embedding: Work | None = None
    victim: str | None = None
    left_at: dict[str, float] = field(default_factory=dict)
    timer: float = math.inf
    version: int = 0
    advanced_at: float = 0.0
    decision: Decision | None = None

    @property
    def name(self) -> str:
        """Its name in the trace."""
        return self.spec.target

    def load_seconds(self, lane: TraceLane) -> float:
        """How long it loads a lane."""
        return lane.load_seconds * self.spec.load_factor


class Chooser(Protocol):
    """A policy, as the world asks it."""

    reserves: bool
    """Whether a load claims its job at once."""
    embeds: bool
    """Whether embedding lanes run in a slot of their own; else they are lanes like all others."""

    def key(self, job: Work) -> float:
        """The order inside a lane."""

    def admits(self, job: Work) -> bool:
        """Whether an arriving job is taken at all."""

    def decide(self, server: Server) -> Decision:
        """What a target does next."""

    def changed(self, lane: str) -> None:
        """Something about a lane is different: queued jobs, a place, a run."""

    def service(self, lane: str) -> float:
        """The expected run, for a job's due."""

    def turn(self, server: Server, lane: str) -> float:
        """A lane's turn on a target; for policies without turns its head's due."""
