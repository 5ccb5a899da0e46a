"""One target on a virtual clock, driven by choose() alone.

The scheduler's tests put traffic in (`submit`, `agent`, `feed`), call `run`, and read what happened: `loads`,
`residencies`, `jobs`. I am the simplest dispatcher there can be: I wake at events and at `Wait.until`, at nothing else,
so a timer that choose() forgets leaves jobs behind. I refuse every decision that a real target could not carry out.
"""

from __future__ import annotations

import heapq
import itertools
import math
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from foreman.core.jobs import Priority
from foreman.core.scheduler import (
    Decision,
    Drain,
    LaneView,
    Policy,
    Reason,
    Resident,
    Swap,
    TargetView,
    Wait,
    choose,
    due,
    turn,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

MAX_WAIT = {Priority.HIGH: 5.0, Priority.NORMAL: 120.0, Priority.LOW: 1800.0}
EVER = 1e9
"""Seconds that stand for "never" where a moment must be named."""


@dataclass(frozen=True)
class Lane:
    name: str
    load: float = 8.0
    model: str = ""
    """Empty: of its own."""


@dataclass(eq=False)
class Work:
    """A job: what it is, and what became of it."""

    lane: str
    priority: Priority
    arrived: float
    run: float
    due: float
    then: Callable[[], None] | None = None
    started: float | None = None
    ended: float | None = None
    gone: bool = False
    """Cancelled, or past its deadline while queued."""
    home: Residency | None = None
    """The residency that claimed it."""


@dataclass(eq=False)
class Residency:
    """A lane in a place, from the start of its load to the start of the load that took the place."""

    lane: str
    load: float
    load_began: float
    loaded_at: float
    running: set[Work] = field(default_factory=set)
    claims: list[tuple[float, bool]] = field(default_factory=list)
    """When it claimed after its load; whether a waiting lane outranked all it had left then."""
    last_end: float = -math.inf
    idle_since: float | None = None
    ended: float | None = None
    cut: bool = False
    successor: Residency | None = None


@dataclass(eq=False)
class Load:
    """A load as it began, with the board it began on."""

    at: float
    lane: str
    turn: float
    reason: str
    residency: Residency
    victim: Residency | None
    residents: list[Residency]
    """Those there before it, the victim included."""


class Simulation:
    """A target with lanes, jobs and a clock that jumps from event to event."""

    def __init__(
        self,
        lanes: Iterable[Lane],
        *,
        slots: int = 1,
        places: int = 1,
        policy: Policy | None = None,
        max_wait: dict[Priority, float] | None = None,
        decide: Callable[..., Decision] = choose,
        due_of: Callable[..., float] = due,
    ) -> None:
        self.lanes = {lane.name: replace(lane, model=lane.model or lane.name) for lane in lanes}
        self.slots, self.places = slots, places
        self.policy = policy or Policy()
        self.max_wait = max_wait or MAX_WAIT
        self.decide, self.due_of = decide, due_of
        self.now = 0.0
        self.events: list[tuple[float, int, Callable[[], None] | None]] = []
        self.serial = itertools.count()
        self.queued: dict[str, list[Work]] = {name: [] for name in self.lanes}
        self.left_at: dict[str, float] = {}
        self.residents: dict[str, Residency] = {}
        self.loading: str | None = None
        self.victim: str | None = None
        self.timer = math.inf
        self.jobs: list[Work] = []
        self.loads: list[Load] = []
        self.residencies: list[Residency] = []
        self.withdrawals: list[float] = []
        """When a queued job went away without being run."""

    # ------------------------------------------------------------------------ traffic

    def at(self, moment: float, event: Callable[[], None] | None) -> None:
        """Let something happen; None is the timer that `Wait.until` asked for."""
        heapq.heappush(self.events, (moment, next(self.serial), event))

    def submit(
        self,
        lane: str,
        run: float,
        *,
        at: float = 0.0,
        priority: Priority = Priority.HIGH,
        deadline: float | None = None,
        cancel: float | None = None,
        then: Callable[[], None] | None = None,
    ) -> Work:
        """A job that arrives at `at`; `deadline` and `cancel` count from there."""
        limit = None if deadline is None else at + deadline
        moment = self.due_of(at, self.max_wait[priority], limit, run)
        job = Work(lane, priority, at, run, moment, then)
        self.jobs.append(job)
        self.at(at, lambda: self.queued[lane].append(job))
        if deadline is not None:
            self.at(at + deadline, lambda: self._withdraw(job))
        if cancel is not None:
            self.at(at + cancel, lambda: self._end(job) if job.started is not None else self._withdraw(job))
        return job

    def agent(self, steps: Iterable[tuple[float, str, float]], priority: Priority = Priority.HIGH) -> None:
        """Calls one after another: each (think time, lane, run) begins to think when the last call has ended."""
        rest = iter(steps)

        def step() -> None:
            for think, lane, run in itertools.islice(rest, 1):
                self.submit(lane, run, at=self.now + think, priority=priority, then=step)

        step()

    def feed(self, lane: str, run: float, until: float, depth: int = 1, priority: Priority = Priority.HIGH) -> None:
        """Keep `depth` jobs of a lane about until then: each that ends is replaced at once."""

        def again() -> None:
            if self.now < until:
                self.submit(lane, run, at=self.now, priority=priority, then=again)

        for _ in range(depth):
            again()

    # ------------------------------------------------------------------------ the clock

    def run(self) -> Simulation:
        while self.events:
            self.now, _, event = heapq.heappop(self.events)
            if event is not None:
                event()
            elif self.now != self.timer:
                continue  # a later decision has replaced it
            self._dispatch()
        left = [job for job in self.jobs if job.ended is None and not job.gone]
        assert not left, f"nothing happens any more and {len(left)} jobs still wait: a timer is missing"
        return self

    def view(self) -> tuple[list[LaneView], TargetView]:
        lanes = [self._lane_view(name) for name, jobs in self.queued.items() if jobs]
        residents = tuple(
            Resident(
                lane=name,
                model=self.lanes[name].model,
                loaded_at=residency.loaded_at,
                running=len(residency.running),
                load_seconds=residency.load,
                idle_since=residency.idle_since,
            )
            for name, residency in self.residents.items()
        )
        return lanes, TargetView("t", self.slots, self.places, residents, self.loading, self.victim)

    def _lane_view(self, name: str) -> LaneView:
        jobs = self.queued[name]
        head = min(jobs, key=lambda job: job.due)
        classes = tuple(sum(job.priority == priority for job in jobs) for priority in Priority)
        lane = self.lanes[name]
        return LaneView(
            name, lane.model, head.due, head.priority, classes, self.left_at.get(name), load_seconds=lane.load
        )

    def turn(self, name: str) -> float:
        view = self._lane_view(name)
        return turn(view.head_due, view.left_at, view.load_seconds, self.policy)

    # ------------------------------------------------------------------------ carrying out

    def _dispatch(self) -> None:
        self.timer = math.inf
        while True:
            lanes, target = self.view()
            decision = self.decide(lanes, target, self.now, self.policy)
            self.victim = decision.victim
            match decision:
                case Drain(lane=lane):
                    self._claim(lane)
                case Swap() if decision.victim is None or not self.residents[decision.victim].running:
                    assert decision.until is None
                    self._load(decision)
                case Wait() | Swap():
                    return self._wait(lanes, replace(target, victim=self.victim), decision)

    def _wait(self, lanes: list[LaneView], target: TargetView, decision: Wait | Swap) -> None:
        """Nothing may change before `until`: ask halfway there, and at the last moment before it."""
        end = self.now + EVER if decision.until is None else decision.until
        assert end > self.now, "a timer that has already rung"
        for moment in ((self.now + end) / 2, math.nextafter(end, self.now)):
            again = self.decide(lanes, target, max(moment, self.now), self.policy)
            assert again == decision, "a timer too late"
        if decision.until is not None:
            self.timer = decision.until
            self.at(decision.until, None)

    def _claim(self, lane: str) -> None:
        residency = self.residents[lane]
        assert len(residency.running) < self.slots, "no slot is free"
        left = max(job.priority for job in self.queued[lane])
        others = [self._lane_view(name) for name, jobs in self.queued.items() if jobs and name not in self.residents]
        residency.claims.append((self.now, any(view.head_class > left for view in others)))
        self._start(residency, self.now)

    def _start(self, residency: Residency, moment: float) -> None:
        jobs = self.queued[residency.lane]
        job = min(jobs, key=lambda job: job.due)
        jobs.remove(job)
        job.started, job.home = moment, residency
        residency.running.add(job)
        residency.idle_since = None
        self.at(moment + job.run, lambda: self._end(job))

    def _end(self, job: Work) -> None:
        residency = job.home
        if residency is None or job.ended is not None:
            return
        job.ended = self.now
        residency.running.remove(job)
        residency.last_end = self.now
        if not residency.running and not self.queued[job.lane]:
            residency.idle_since = self.now
        if job.then is not None:
            job.then()

    def _withdraw(self, job: Work) -> None:
        if job.started is None and not job.gone:
            self.queued[job.lane].remove(job)
            self.withdrawals.append(self.now)
            job.gone = True
            if job.then is not None:
                job.then()

    def _load(self, swap: Swap) -> None:
        assert self.loading is None, "one load at a time"
        assert swap.lane not in self.residents
        assert swap.victim is not None or len(self.residents) < self.places, "no place is free"
        before, began = list(self.residents.values()), self.turn(swap.lane)
        victim = None if swap.victim is None else self.residents.pop(swap.victim)
        lane = self.lanes[swap.lane]
        assert all(self.lanes[name].model != lane.model for name in self.residents), "two lanes of one model"
        residency = Residency(swap.lane, lane.load, self.now, self.now + lane.load)
        if victim is not None:
            victim.ended, victim.cut, victim.successor = self.now, bool(self.queued[victim.lane]), residency
            assert swap.cut == victim.cut
            assert (swap.reason == Reason.EMPTY) <= (not victim.cut)
            if victim.cut:
                self.left_at[victim.lane] = self.now
        self.residencies.append(residency)
        self.loads.append(Load(self.now, swap.lane, began, swap.reason, residency, victim, before))
        self.loading = swap.lane
        self._start(residency, residency.loaded_at)  # the job is claimed as `loading`
        self.at(residency.loaded_at, lambda: self._loaded(residency))

    def _loaded(self, residency: Residency) -> None:
        self.loading = None
        self.residents[residency.lane] = residency


def waits(simulation: Simulation) -> list[float]:
    """Seconds from arrival to start, of the jobs that were run."""
    return [job.started - job.arrived for job in simulation.jobs if job.started is not None]


def past_due(simulation: Simulation, lane: str | None = None) -> float:
    """The longest time (s) from a job's due to its start."""
    jobs = [job for job in simulation.jobs if job.started is not None and lane in (None, job.lane)]
    return max(job.started - job.due for job in jobs)
