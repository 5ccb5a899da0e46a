"""Targets, lanes and jobs on a virtual clock: what happens when a policy decides.

`simulate` runs a trace under a policy and returns the world as it became. I carry decisions out exactly as a worker does
(claim, load when the victim has nothing running, wait for events and `until`) and refuse what no target could do. Who is next
I never know: that is the policy's.
"""

from __future__ import annotations

import heapq
import itertools
import math
from functools import partial
from typing import TYPE_CHECKING

from foreman.core.decisions import Drain, Linger, Swap
from foreman.core.fairness import due
from foreman.core.jobs import Priority
from foreman.simulate.parts import Chooser, LaneQueue, Residency, Server, Work

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from foreman.simulate.trace import Step, Trace, TraceAgent, TraceJob

REFERENCE_WAITS = {Priority.HIGH: 15.0, Priority.NORMAL: 120.0, Priority.LOW: 1800.0}
"""`FOREMAN_DUE_AFTER` with which the tables were made; not the default."""


class World:
    """A trace as it happens."""

    def __init__(
        self, trace: Trace, chooser: Callable[[World], Chooser], max_wait: Mapping[Priority, float] = REFERENCE_WAITS
    ) -> None:
        self.trace = trace
        self.max_wait = dict(max_wait)
        self.now = 0.0
        self.lanes = {lane.lane: LaneQueue(lane) for lane in trace.lanes}
        self._embeddings = [lane for lane in self.lanes.values() if lane.spec.embedding]
        self.known = trace.mean_runs()
        """Lane → its mean run on a target of speed 1."""
        self.servers = [Server(target) for target in trace.targets]
        self.jobs: list[Work] = []
        self.residencies: list[Residency] = []
        self.withdrawals: list[float] = []
        """When a queued job went away without having run."""
        self.listeners: list[Callable[[str, Work], None]] = []
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._serial = itertools.count()
        self.chooser = chooser(self)

    # ------------------------------------------------------------------------ traffic

    def at(self, moment: float, event: Callable[[], None]) -> None:
        """Let something happen."""
        heapq.heappush(self._events, (moment, next(self._serial), event))

    def submit(
        self,
        lane: str,
        run_seconds: float,
        priority: Priority,
        *,
        deadline: float | None = None,
        cancel: float | None = None,
        then: Callable[[], None] | None = None,
    ) -> Work:
        """A job that arrives now; `deadline` and `cancel` in seconds from now."""
        job = Work(lane, priority, self.now, run_seconds, next(self._serial), then=then, left=run_seconds)
        job.deadline = None if deadline is None else self.now + deadline
        job.due = due(self.now, self.max_wait[priority], job.deadline, self.chooser.service(lane))
        self.jobs.append(job)
        if not self.chooser.admits(job):
            self._gone(job, "failed")
            return job
        self._tell("arrived", job)
        self._busy(lane)
        self.lanes[lane].add(job, self.chooser.key(job))
        self.chooser.changed(lane)
        if job.deadline is not None:
            self.at(job.deadline, lambda: self._withdraw(job, "failed"))
        if cancel is not None:
            self.at(self.now + cancel, lambda: self._cancel(job))
        return job

    def agent(self, agent: TraceAgent) -> None:
        """Calls one after another."""
        steps = iter(agent.steps)
        first = next(steps, None)

        def call(step: Step) -> None:
            self.submit(step.lane, step.run_seconds, agent.priority, then=follow)

        def follow() -> None:
            step = next(steps, None)
            if step is not None:
                self.at(self.now + step.think_seconds, lambda: call(step))

        if first is not None:
            self.at(agent.at, lambda: call(first))

    def feed(self, lane: str, run_seconds: float, priority: Priority, until: float, depth: int) -> None:
        """Keep `depth` jobs of a lane about until then: each that ends is replaced at once."""

        def again() -> None:
            if self.now < until:
                self.submit(lane, run_seconds, priority, then=again)

        for _ in range(depth):
            self.at(0.0, again)

    # ------------------------------------------------------------------------ the clock

    def run(self) -> World:
        """Until nothing happens any more. Raises AssertionError when jobs are left: a timer was missing."""
        for job in self.trace.jobs:
            self.at(job.at, partial(self._arrive, job))
        for agent in self.trace.agents:
            self.agent(agent)
        while self._events:
            self.now = self._events[0][0]
            while self._events and self._events[0][0] == self.now:
                heapq.heappop(self._events)[2]()
            self._settle()
        left = sum(job.state in {"queued", "running"} for job in self.jobs)
        assert not left, f"nothing happens any more and {left} jobs still wait: a timer is missing"
        return self

    def _arrive(self, job: TraceJob) -> None:
        self.submit(job.lane, job.run_seconds, job.priority, deadline=job.deadline_seconds, cancel=job.cancel_after)

    def _settle(self) -> None:
        """Ask every target until none has anything to do."""
        busy = True
        while busy:
            busy = False
            for server in self.servers:
                while self._step(server):
                    busy = True

    def _step(self, server: Server) -> bool:
        if server.embedding is None and self._embed(server):
            return True
        decision = self.chooser.decide(server)
        server.decision, server.victim = decision, decision.victim
        if isinstance(decision, Drain):
            self._claim(server, decision.lane)
            return True
        if isinstance(decision, Swap):
            victim = None if decision.victim is None else server.residents[decision.victim]
            if victim is None or not victim.running:
                self._load(server, decision)
                return True
        if isinstance(decision, Linger):
            residency = server.residents[decision.lane]
            residency.linger_from = self.now if residency.linger_from is None else residency.linger_from
        until = decision.until if decision.until is not None else math.inf
        assert until > self.now, "a timer that has already rung"
        if until not in {server.timer, math.inf}:
            self.at(until, lambda: None)
        server.timer = until
        return False

    def _busy(self, lane: str) -> None:
        """A call came: residents of the lane are not idle any more."""
        for server in self.servers:
            residency = server.residents.get(lane)
            if residency is not None:
                residency.idle_since = None
                if residency.linger_from is not None:
                    residency.linger_spent += self.now - residency.linger_from
                    residency.linger_from = None

    def _embed(self, server: Server) -> bool:
        """The embedding slot takes what came first, whatever the drain does."""
        if not self.chooser.embeds:
            return False
        heads = [lane.head() for lane in self._embeddings if lane.waiting]
        if not heads:
            return False
        job = min(heads, key=lambda job: job.serial)
        self.lanes[job.lane].remove(job)
        server.embedding = job
        job.state, job.started, job.target = "running", self.now, server.name
        self.at(self.now + job.run_seconds / server.spec.speed, lambda: self._end_embedding(server, job))
        return True

    def _end_embedding(self, server: Server, job: Work) -> None:
        if job.state == "running":
            server.embedding = None
            self._gone(job, "done")

    # ------------------------------------------------------------------------ places

    def _load(self, server: Server, swap: Swap) -> None:
        assert server.loading is None, "one load at a time"
        assert swap.lane not in server.residents
        assert swap.victim is not None or len(server.residents) < server.spec.resident, "no place is free"
        lane = self.lanes[swap.lane]
        there = tuple(server.residents.values())
        victim = None if swap.victim is None else server.residents.pop(swap.victim)
        models = {self.lanes[name].spec.model for name in server.residents}
        assert lane.spec.model not in models, "two lanes of one model"
        seconds = server.load_seconds(lane.spec)
        turn = self.chooser.turn(server, swap.lane)
        residency = Residency(swap.lane, server.name, swap.reason, self.now, seconds, turn, victim=victim, there=there)
        if victim is not None:
            victim.ended, victim.cut = self.now, bool(self.lanes[victim.lane].waiting)
            assert swap.cut == victim.cut
            if victim.cut:
                server.left_at[victim.lane] = self.now
            self.chooser.changed(victim.lane)
        self.residencies.append(residency)
        server.loading = residency
        if self.chooser.reserves:
            server.reserved = lane.head()
            lane.remove(server.reserved)
        self.chooser.changed(swap.lane)
        self.at(self.now + seconds, lambda: self._loaded(server, residency))

    def _loaded(self, server: Server, residency: Residency) -> None:
        residency.loaded_at = self.now
        server.loading = None
        server.residents[residency.lane] = residency
        if not self.lanes[residency.lane].waiting:
            residency.idle_since = self.now
        job, server.reserved = server.reserved, None
        if job is not None and job.state == "queued":
            self._start(server, residency, job)
        self.chooser.changed(residency.lane)

    # ------------------------------------------------------------------------ runs

    def _claim(self, server: Server, name: str) -> None:
        residency, lane = server.residents[name], self.lanes[name]
        assert len(residency.running) < server.spec.slots, "no slot is free"
        left = max(rank for rank, count in enumerate(lane.classes) if count)
        heads = [q.head().priority for n, q in self.lanes.items() if q.waiting and n not in server.residents]
        residency.claims.append((self.now, left, max(heads, default=-1)))
        job = lane.head()
        lane.remove(job)
        self._start(server, residency, job)

    def _start(self, server: Server, residency: Residency, job: Work) -> None:
        self._advance(server)
        job.state, job.started, job.target = "running", self.now, server.name
        residency.running.append(job)
        residency.idle_since = None
        self.lanes[job.lane].in_flight += 1
        self._tell("started", job)
        self.chooser.changed(job.lane)
        self._next_end(server)

    def _runs(self, server: Server) -> list[tuple[Work, float]]:
        """The jobs in flight on a target, each with the speed at which it advances."""
        spec = server.spec
        total = sum(len(residency.running) for residency in server.residents.values())
        runs = []
        for residency in server.residents.values():
            same = len(residency.running)
            slow = 1 + spec.slowdown_same * (same - 1) + spec.slowdown_other * (total - same)
            runs += [(job, spec.speed / slow) for job in residency.running]
        return runs

    def _advance(self, server: Server) -> None:
        passed = self.now - server.advanced_at
        if passed:
            for job, speed in self._runs(server):
                job.left = max(0.0, job.left - passed * speed)
        server.advanced_at = self.now

    def _next_end(self, server: Server) -> None:
        server.version += 1
        runs = self._runs(server)
        if runs:
            version = server.version
            job, speed = min(runs, key=lambda run: run[0].left / run[1])
            self.at(self.now + job.left / speed, lambda: self._end_run(server, job, version))

    def _end_run(self, server: Server, job: Work, version: int) -> None:
        if server.version == version:
            self._advance(server)
            job.left = 0.0
            self._end(server, job, "done")

    def _end(self, server: Server, job: Work, state: str) -> None:
        self._advance(server)
        residency = server.residents[job.lane]
        residency.running.remove(job)
        residency.last_end = self.now
        lane = self.lanes[job.lane]
        lane.in_flight -= 1
        if not residency.running and not lane.waiting:
            residency.idle_since = self.now
        self._gone(job, state)
        self.chooser.changed(job.lane)
        self._next_end(server)

    def _gone(self, job: Work, state: str) -> None:
        job.state, job.ended = state, self.now
        self._tell("ended", job)
        if job.then is not None:
            job.then()

    def _withdraw(self, job: Work, state: str) -> None:
        """A queued job that does not wait any longer."""
        if job.state != "queued":
            return
        lane = self.lanes[job.lane]
        if job.serial in lane.waiting:
            lane.remove(job)
        self.withdrawals.append(self.now)
        for server in self.servers:
            residency = server.residents.get(job.lane)
            if residency is not None and not residency.running and not lane.waiting and residency.idle_since is None:
                residency.idle_since = self.now
        self._gone(job, state)
        self.chooser.changed(job.lane)

    def _cancel(self, job: Work) -> None:
        if job.state == "running":
            server = next(server for server in self.servers if server.name == job.target)
            if server.embedding is job:
                server.embedding = None
                self._gone(job, "cancelled")
            else:
                self._end(server, job, "cancelled")
        else:
            self._withdraw(job, "cancelled")

    def _tell(self, what: str, job: Work) -> None:
        for listener in self.listeners:
            listener(what, job)
