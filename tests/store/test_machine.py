"""Anything, in any order: whatever callers, workers, gateways and zombies do, the promises of the queue hold.

The invariants carry the numbers of docs/adr/0008: I1 one end per job, I2 legal edges only, I3 epochs rise and an old one
changes nothing, I4 a running job has one worker, I5 each job in exactly one place, I6 by due and arrival inside a lane, I7
no lane is left while it has jobs, unless fairness asks for it (drained.py), I8 events without gaps, I9 an answer is of one
run, without gaps, and changes no more, I10 nothing left after a drain.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import time
from typing import TYPE_CHECKING, Any

import fakeredis
import fakeredis.aioredis
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from foreman.core.decisions import Drain, Swap
from foreman.core.errors import Code, Failure
from foreman.core.jobs import TERMINAL, TRANSITIONS, Priority, Slot, State, Surface
from foreman.store import keys as k
from foreman.store.answers import Answer
from foreman.store.client import Store, locator, redis_client
from foreman.store.deliveries import Outcome, Pace
from foreman.store.errors import FencedError
from foreman.store.records import CancelOutcome, Counts, Ownership, Wanted
from foreman.store.url import parse
from foreman.store.wire import Wire
from tests.store.conftest import no_leaks
from tests.store.drained import LOAD, Drained
from tests.store.ground import LIMITS, FakeConnection, Ground, gateway, new_job, raw, worker
from tests.store.test_offer import Offering

if TYPE_CHECKING:
    from collections.abc import Coroutine

LANES = ("lane-a", "lane-b")
URLS = (None, "http://receiver/a", "http://receiver/b")
RESET = Failure(Code.UPSTREAM_UNREACHABLE, "It reset the connection.")
WISHES = [Failure(code, "A wish.") for code in (Code.CANCELLED, Code.CALLER_GONE, Code.INTERRUPTED)]
picks = st.integers(0, 99)
rarely = st.sampled_from([False, False, False, True])
"""For what ends so much that little else would happen."""
_numbers = itertools.count(1)


class QueueMachine(RuleBasedStateMachine):
    """Callers on two gateways, workers that come and go on one target, and writes from the dead."""

    url: str | None = None
    """The embedded server; None for fakeredis."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.jobs: list[str] = []
        self.epochs: dict[str, int] = {}
        self.held: dict[str, int] = {}
        """Jobs that a living worker runs, with the epoch of its claim."""
        self.stale: list[tuple[str, int]] = []
        """Rights that have passed to somebody else."""
        self.keys: dict[tuple[bool, str], tuple[str, str]] = {}
        """Idempotency keys by surface: the job that was submitted under it last, and its body."""
        self.own: Ownership | None = None
        self.workers = 0
        self.told: dict[str, list[int]] = {}
        """Async jobs with a receiver: the seqs that were attempted there, in order."""
        self.lanes: dict[str, str] = {}
        self.drained = Drained()
        self.ahead = 0.0
        """Seconds that the scheduler's clock is ahead of the store's."""
        self.said: dict[tuple[str, int], list[int]] = {}
        """The deltas of each run, by job and epoch: their numbers."""
        self.answers: dict[str, bytes] = {}
        """Async jobs that were done: the answer that was given then."""

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        return self.loop.run_until_complete(coroutine)

    @initialize()
    def begin(self) -> None:
        self.ground: Ground = self.run(self._ground())
        self.queue = self.ground.queue

    async def _ground(self) -> Ground:
        pool = f"m{os.getpid()}-{next(_numbers)}"

        async def unused() -> Any:
            raise AssertionError

        if self.url is None:
            server = fakeredis.FakeServer()
            look: Any = fakeredis.aioredis.FakeRedis(server=server, decode_responses=True)
            line: Any = FakeConnection(raw(fakeredis.aioredis.FakeRedis(server=server)))
        else:
            where = parse(self.url)
            look = redis_client(self.url, decode_responses=True)
            line = Wire(where, locator(where), preload=False)
            await line.open(5.0)
        return Ground(Store(line, unused, pool, LIMITS), look)

    def teardown(self) -> None:
        if hasattr(self, "ground"):
            self.run(self._drain())
        self.loop.close()

    # ---------------------------------------------------------------- what callers do

    @rule(
        lane=st.sampled_from(LANES), priority=st.sampled_from(Priority), sync=st.booleans(),
        wait=st.sampled_from([0.0, 50.0, 600.0]), deadline=st.sampled_from([None, 3600.0]), tonight=rarely,
        key=st.sampled_from([None, None, "a", "b"]), body=st.sampled_from(["1", "2"]), url=st.sampled_from(URLS),
        offered=st.sampled_from(["", "", "by its owner", "by a dead one"]),
    )  # fmt: skip
    def submit(
        self, lane: str, priority: Priority, sync: bool, wait: float, deadline: float | None, tonight: bool,
        key: str | None, body: str, url: str | None, offered: str,
    ) -> None:  # fmt: skip
        new = new_job(
            lane=lane, priority=priority, max_wait=wait, deadline_in=deadline,
            surface=Surface.SYNC if sync else Surface.ASYNC, gateway="gw-1" if sync else None,
            not_before=time.time() + 3600 if tonight else None, idempotency_key=key, fingerprint=body,
            state_webhook_url=None if sync else url, targets=("gpu1",),
        )  # fmt: skip
        owner = Offering(self.own if offered == "by its owner" and self.own else Ownership("gpu1", "wk-0", 1))
        self.queue.owners = {"gpu1": owner} if offered else {}
        waited = self.run(self.ground.look.exists(self.ground.key(k.LANES, "drain")))
        first, came_with = self.keys.get((sync, key or ""), ("", ""))
        taken = first and self.run(self.queue.get(first)).state not in {State.FAILED, State.CANCELLED}
        try:
            submitted = self.run(self.queue.submit(new))
        except Failure as refused:
            other = bool(taken and came_with != body)
            assert (refused.code, refused.status) == ((Code.BAD_REQUEST, 422) if other else (Code.QUEUE_FULL, 503))  # noqa: PT017 - full or not is the queue's to say; here is what it may raise
            return
        if taken:
            assert (submitted.job_id, submitted.known, body) == (first, True, came_with)
            return
        assert (submitted.job_id, submitted.known) == (new.id, False)
        if key is not None:
            self.keys[sync, key] = (new.id, body)
        self.jobs.append(new.id)
        self.lanes[new.id] = lane
        self.epochs[new.id] = 0
        for claimed in owner.claimed:  # never past somebody who waits, and by nobody but the owner
            assert (bool(waited), tonight, owner.own) == (False, False, self.own)
            self.held[new.id] = claimed.job.epoch
        if not sync and url is not None:
            self.told[new.id] = []

    @rule()
    def night_comes(self) -> None:
        self.run(self._night())

    async def _night(self) -> None:
        """The moment of everything that waits for one."""
        delayed = self.ground.key(k.DELAYED, "drain")
        for job_id in await self.ground.look.zrange(delayed, 0, -1):
            await self.ground.look.zadd(delayed, {job_id: 1})
        await self.queue.recover()

    @precondition(lambda self: self.jobs)
    @rule(pick=picks, wish=st.sampled_from(WISHES))
    def cancel(self, pick: int, wish: Failure) -> None:
        job_id = self.jobs[pick % len(self.jobs)]
        before = self.run(self.queue.get(job_id))
        outcome = self.run(self.queue.cancel(job_id, wish))
        after = self.run(self.queue.get(job_id))
        if before.state is State.QUEUED:
            assert outcome is CancelOutcome.CANCELLED
            assert after.state is (State.FAILED if wish.code is Code.INTERRUPTED else State.CANCELLED)
        elif before.state in TERMINAL:
            assert (outcome, after) == (CancelOutcome.TERMINAL, before)
        else:
            assert (outcome, after.state) == (CancelOutcome.WISHED, before.state)
            assert after.cancel_reason in (before.cancel_reason, wish.code)

    @precondition(lambda self: self.jobs)
    @rule(pick=picks)
    def deadline_passes(self, pick: int) -> None:
        job_id = self.jobs[pick % len(self.jobs)]
        if self.run(self.ground.look.zscore(self.ground.key(k.DEADLINES), job_id)) is not None:
            self.run(self.ground.late(job_id))
        self.run(self.queue.recover())

    @rule(really=rarely)
    def gateway_dies(self, really: bool) -> None:
        if not really:
            return
        self.run(self.queue.announce(gateway()))
        self.run(self.ground.lapse(k.GATEWAYS, "gw-1"))
        self.run(self.queue.recover())

    # ---------------------------------------------------------------- what workers do

    @rule()
    def worker_comes(self) -> None:
        self.workers += 1
        name = f"wk-{self.workers}"
        if self.own is not None and self.workers > 3:
            return
        self.run(self.queue.enroll(worker(name)))
        own = self.run(self.queue.own("gpu1", name))
        assert (own is None) == (self.own is not None)
        self.own = own or self.own

    @precondition(lambda self: self.own)
    @rule(lane=st.sampled_from(LANES), to=st.sampled_from([State.LOADING, State.WORKING]))
    def claim(self, lane: str, to: State) -> None:
        order = self.run(self.ground.look.zrange(self.ground.key(k.LANE, "drain", lane), 0, -1))
        claimed = self.run(self.queue.claim(self.own, lane, Slot.DRAIN, to))
        waiting = [job_id for job_id in order if job_id in self.epochs]
        if claimed is None:
            assert not self.run(self.ground.look.exists(self.ground.key(k.LANE, "drain", lane)))
            return
        passed = waiting[: waiting.index(claimed.job.id)]
        for job_id in passed:  # I6: only jobs past their deadline are passed over
            assert self.run(self.queue.get(job_id)).error["code"] == "deadline_exceeded"
        self.held[claimed.job.id] = claimed.job.epoch

    @precondition(lambda self: self.own)
    @rule(passed=st.sampled_from([0.0, 0.0, 30.0, 200.0, 700.0]))
    def dispatch(self, passed: float) -> None:
        """What the scheduler makes of what the store tells it, and the claim or the load that follows."""
        self.ahead += passed
        now = time.time() + self.ahead
        survey = self.run(self.queue.survey(Slot.DRAIN))
        queued = {lane: self.run(self.ground.look.zcard(self.ground.key(k.LANE, "drain", lane))) for lane in LANES}
        running = sum(self.lanes[job_id] == self.drained.lane for job_id in self.held)
        step = self.drained.choose(survey, queued, running, now)
        if isinstance(step, Drain):
            self.claim(step.lane, State.WORKING)
        elif isinstance(step, Swap) and not running:
            self.drained.swap(step, now)
            self.ahead += LOAD

    @precondition(lambda self: self.held)
    @rule(pick=picks)
    def speak(self, pick: int) -> None:
        """A delta of a run."""
        job_id = sorted(self.held)[pick % len(self.held)]
        deltas = self.said.setdefault((job_id, self.held[job_id]), [])
        deltas.append(len(deltas))

    def _answer(self, job_id: str, epoch: int) -> bytes:
        return json.dumps({"run": epoch, "deltas": self.said.get((job_id, epoch), [])}).encode()

    @precondition(lambda self: self.held)
    @rule(pick=picks, to=st.sampled_from([State.WORKING, State.WORKING, State.DONE, State.FAILED, State.CANCELLED]))
    def move(self, pick: int, to: State) -> None:
        job_id = sorted(self.held)[pick % len(self.held)]
        before = self.run(self.queue.get(job_id))
        failure = RESET if to is State.FAILED else None
        body = self._answer(job_id, self.held[job_id])
        kept = Answer.of(body) if to is State.DONE and before.surface is Surface.ASYNC else None
        moved = self.run(
            self.queue.transition(job_id, self.held[job_id], to, reason="test", failure=failure, answer=kept)
        )
        assert moved == (to in TRANSITIONS[before.state])
        if moved and kept is not None:
            self.answers[job_id] = body
        if moved and to in TERMINAL:
            self.stale.append((job_id, self.held.pop(job_id)))

    @precondition(lambda self: self.held)
    @rule(pick=picks, used=st.booleans())
    def hand_back(self, pick: int, used: bool) -> None:
        job_id = sorted(self.held)[pick % len(self.held)]
        before = self.run(self.queue.get(job_id))
        failure = RESET if used else None
        state = self.run(self.queue.hand_back(job_id, self.held[job_id], reason="test", failure=failure))
        self.stale.append((job_id, self.held.pop(job_id)))
        if before.cancel_reason:
            assert state in TERMINAL
        elif used and before.attempt >= LIMITS.max_attempts:
            assert state is State.FAILED
        else:
            assert state is State.QUEUED
            assert self.run(self.queue.get(job_id)).attempt == before.attempt + used

    @precondition(lambda self: self.own)
    @rule(how=st.sampled_from(["killed", "taken over", "retired", "released"]), really=rarely)
    def worker_goes(self, how: str, really: bool) -> None:
        if not really:
            return
        assert self.own is not None
        old, self.own, self.drained = self.own, None, Drained()
        self.stale += self.held.items()
        self.held.clear()
        if how == "retired":
            self.run(self.queue.retire(old.worker))
        elif how == "released":
            self.run(self.queue.release(old))
        else:
            self.run(self.ground.lapse(k.WORKERS, old.worker))
            if how == "taken over":
                self.worker_comes()
                assert self.own is not None
                assert self.own.epoch > old.epoch
            self.run(self.queue.recover())
        with pytest.raises(FencedError):
            self.run(self.queue.claim(old, LANES[0], Slot.DRAIN, State.WORKING))

    @precondition(lambda self: self.stale)
    @rule(pick=picks, to=st.sampled_from(State))
    def zombie_writes(self, pick: int, to: State) -> None:
        job_id, epoch = self.stale[pick % len(self.stale)]
        before, events = self.run(self.queue.get(job_id)), self.run(self.queue.events(job_id))
        if to is State.QUEUED:
            assert self.run(self.queue.hand_back(job_id, epoch, reason="zombie", failure=RESET)) is None
        else:
            late = Answer.of(self._answer(job_id, epoch)) if to is State.DONE else None
            assert not self.run(self.queue.transition(job_id, epoch, to, reason="zombie", answer=late))
        assert (self.run(self.queue.get(job_id)), self.run(self.queue.events(job_id))) == (before, events)

    # ---------------------------------------------------------------- what a background worker does

    @rule(
        pick=picks, outcome=st.sampled_from([Outcome.DELIVERED, Outcome.DELIVERED, Outcome.FAILED, Outcome.ABANDONED])
    )
    def courier(self, pick: int, outcome: Outcome) -> None:
        self.run(self._courier(pick, outcome))

    async def _courier(self, pick: int, outcome: Outcome) -> bool:
        """One attempt at what was handed to arq, if anything was; the same ticket again is nobody's."""
        deliveries, pace = self.ground.store.deliveries, Pace(schedule=(0.0, 0.0, 0.0), broken_after=1000)
        await deliveries.call()
        queue = self.ground.key(k.ARQ)
        handed = await self.ground.look.zrange(queue, 0, -1)
        if not handed:
            return False
        name = handed[pick % len(handed)]
        await self.ground.look.zrem(queue, name)
        evt, _, ticket = name.removeprefix(f"{queue}:").rpartition(":")
        attempt = await deliveries.begin(evt, int(ticket), pace)
        if attempt is None:
            return True
        self.told[attempt.job.id].append(attempt.job.seq)
        assert await deliveries.begin(evt, int(ticket), pace) is None
        await deliveries.settle(attempt, outcome, pace, delay=0.0)
        return True

    # ---------------------------------------------------------------- what holds

    @invariant()
    def promises(self) -> None:
        if hasattr(self, "ground"):
            self.run(self._promises())

    async def _promises(self) -> None:
        states: dict[str, State] = {}
        for job_id in self.jobs:
            job = await self.queue.get(job_id)
            events = await self.queue.events(job_id)
            assert job is not None
            states[job_id] = job.state
            assert [event.seq for event in events] == list(range(1, job.seq + 1))  # I8
            assert events[-1].state is job.state
            for before, after in itertools.pairwise(events):  # I2
                assert after.previous_state is before.state
                assert after.state in TRANSITIONS[before.state]
            assert sum(event.state in TERMINAL for event in events) <= 1  # I1
            assert job.epoch >= self.epochs[job_id]  # I3
            self.epochs[job_id] = job.epoch
            assert (job.error is not None) >= (job.state is State.FAILED)
        await self._places(states)
        await self._answers()
        await self._deliveries(states)
        counted = {state: sum(found is state for found in states.values()) for state in State}
        assert await self.queue.counts() == Counts(**{state.value: number for state, number in counted.items()})

    async def _places(self, states: dict[str, State]) -> None:
        """I4 and I5: each job in exactly one place, a running one with exactly one worker; every index says the same."""
        look, key = self.ground.look, self.ground.key
        queued = {job_id for job_id, state in states.items() if state is State.QUEUED}
        delayed = set(await look.zrange(key(k.DELAYED, "drain"), 0, -1))
        assert delayed <= queued
        queued -= delayed
        assert set(await look.zrange(key(k.QUEUED, "drain"), 0, -1)) == queued
        lanes = {lane: await look.zrange(key(k.LANE, "drain", lane), 0, -1) for lane in LANES}
        assert sorted(itertools.chain(*lanes.values())) == sorted(queued)
        assert await look.smembers(key(k.LANES, "drain")) == {lane for lane, jobs in lanes.items() if jobs}
        for facts in (await self.queue.survey(Slot.DRAIN)).lanes:
            assert sum(facts.classes) == len(lanes[facts.lane])
            assert facts.head_id == lanes[facts.lane][0]
        for state in (State.LOADING, State.WORKING):
            running = set(await look.zrange(key(k.RUNNING, state.value), 0, -1))
            assert running == {job_id for job_id, found in states.items() if found is state}
        held = await look.smembers(key(k.WORKER_JOBS, self.own.worker)) if self.own else set()
        assert held == set(self.held)
        for state in TERMINAL:
            ended = [await look.zrange(key(k.ENDED, surface.value, state.value), 0, -1) for surface in Surface]
            assert sorted(itertools.chain(*ended)) == sorted(j for j, found in states.items() if found is state)

        await self._list()

    async def _answers(self) -> None:
        """I9: a kept answer is that of the job's last run, its deltas in a row; it stays as it was when the job ended."""
        if not self.jobs:
            return
        kept = await self.ground.look.mget([self.ground.key(k.ARTIFACT, job_id, "completion") for job_id in self.jobs])
        found = {job_id: body.encode() for job_id, body in zip(self.jobs, kept, strict=True) if body is not None}
        assert found == self.answers
        for job_id, body in found.items():
            answer = json.loads(body)
            assert answer["run"] == self.epochs[job_id]
            assert answer["deltas"] == list(range(len(answer["deltas"])))

    async def _deliveries(self, states: dict[str, State]) -> None:
        """I8: one delivery per transition and receiver, tried in order of seq."""
        for job_id, attempts in self.told.items():
            job = await self.queue.get(job_id)
            assert job is not None
            delivery = self.ground.key(k.DELIVERY, f"evt_{job_id}_{job.seq}")  # those before it were looked at before
            assert await self.ground.look.hget(delivery, "state") == job.state.value
            assert attempts == sorted(attempts)

    async def _list(self) -> None:
        """Page by page, each job once, the newest first."""
        seen: list[str] = []
        below: str | None = None
        while True:
            page = await self.queue.page(Wanted(), below, 7)
            seen += [job.id for job in page.jobs]
            if (below := page.next) is None:
                break
        assert seen == sorted(self.jobs, reverse=True)

    async def _drain(self) -> None:
        """I10: after everything has run and everybody has left, only what is kept for its time is left."""
        if self.own is None:
            await self.queue.enroll(worker("wk-last"))
            self.own = await self.queue.own("gpu1", "wk-last")
        assert self.own is not None
        for job_id, epoch in self.held.items():
            await self.queue.hand_back(job_id, epoch, reason="stopping", failure=None)
        await self._night()
        for lane in LANES:
            while (claimed := await self.queue.claim(self.own, lane, Slot.DRAIN, State.WORKING)) is not None:
                assert await self.queue.transition(claimed.job.id, claimed.job.epoch, State.DONE, reason="done")
        for name in await self.ground.look.zrange(self.ground.key(k.WORKERS), 0, -1):
            await self.queue.retire(name)
        await self.queue.leave("gw-1")
        while any([await self.ground.store.deliveries.open(job_id) for job_id in self.told]):
            assert await self._courier(0, Outcome.DELIVERED), "an open delivery is always on its way"
        await no_leaks(self.ground)
        assert await self.ground.store.answers.recount() == 0
        prefix = self.ground.keys.prefix
        kept = [key async for key in self.ground.look.scan_iter(match=f"{prefix}*", count=1000)]
        forever = [key for key in kept if await self.ground.look.ttl(key) == -1]
        assert {self.ground.keys.template(key) for key in forever} <= k.PERMANENT
        if kept:
            await self.ground.look.delete(*kept)
        await self.ground.store.close()
        await self.ground.look.aclose()


@pytest.mark.parametrize("backend", ["fakeredis", "valkey"])
def test_the_promises_hold(backend: str, request: pytest.FixtureRequest) -> None:
    class Machine(QueueMachine):
        url = request.getfixturevalue("valkey") if backend == "valkey" else None

    budget = settings(
        max_examples=int(os.environ.get("FOREMAN_TEST_EXAMPLES", "16")), stateful_step_count=60, deadline=None,
        derandomize=True, database=None, suppress_health_check=list(HealthCheck),
        phases=[Phase.generate, Phase.shrink], print_blob=False,
    )  # fmt: skip
    run_state_machine_as_test(Machine, settings=budget)
