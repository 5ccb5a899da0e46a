"""The calls that wait at this gateway: who takes which answer, and what ends a wait before its answer comes.

A channel asks me (as its `Door`) for the sink of a job; the store's notices come through me; once each half second I
look whether the targets of a queued call are all down, and for how long. web/calls/call.py registers calls here and asks me
for the words of a heartbeat. I end waits; I never start, order or run anything.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

import structlog

from foreman.core.errors import Code, Failure, status_answered
from foreman.core.jobs import TERMINAL, State
from foreman.store.errors import StoreUnavailableError
from foreman.web.calls.relay import Phase

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine

    from foreman.link.channel import Sink
    from foreman.store.queue import Queue
    from foreman.store.records import Notice, TargetStatus
    from foreman.tasks import Tasks
    from foreman.web.calls.relay import Relay
    from foreman.web.pool.inventory import Inventory

log = structlog.get_logger(__name__)

WATCH: Final = 0.5
"""Seconds between two looks at the targets."""
_SELDOM: Final = 4
"""Of how many looks at a kept call that was never answered yet one asks the store."""
_WORDS_WITHIN: Final = 1.0
"""Seconds a heartbeat waits for the store to tell a position."""
_DEFAULT_RUN: Final = 5.0
"""Seconds a run is taken to last before one was seen."""
_WEIGHT: Final = 0.2
"""Share of the newest run in the running mean."""


@dataclass(slots=True)
class Call:
    """One caller's call while its job lives."""

    job_id: str
    relay: Relay
    lane: str
    targets: tuple[str, ...] = ()
    target_only: str | None = None
    deadline_in: float | None = None
    reader: str = ""
    """The id by which a channel asks for it: the job's own, or one that was attached under."""
    kept: bool = False
    """Its job runs on without it, and what is answered can be read again."""
    submitted: bool = False
    """The store has the job."""
    down_from: float | None = None
    """Since when all its targets have been seen down while it waited; loop clock."""
    over: bool = False
    """The store has been seen to say that the job has ended, although no run of it said so here."""
    position: int = field(default=1)
    """The last known place in the queue."""
    eta: float | None = None
    """The last known seconds until it works."""
    expected: bool = False
    """A worker runs its job and was told of it: an answer should begin any moment."""
    looks: int = 0
    """How often it was seen without anybody who answers it."""

    def __post_init__(self) -> None:
        self.reader = self.reader or self.job_id


class Waiting:
    """The living calls of one gateway, by job id. Implements `Door`."""

    def __init__(self, queue: Queue, inventory: Inventory, tasks: Tasks, *, down_wait: float) -> None:
        self._queue = queue
        self._inventory = inventory
        self._tasks = tasks
        self._down_wait = down_wait
        self._run = _DEFAULT_RUN
        self.place: Callable[[Call], Awaitable[tuple[int, float | None] | None]] = self._place
        """A call's place in the queue and the seconds it has to wait; the forecasts hang themselves in here."""
        self.calls: dict[str, Call] = {}
        """By the id a channel asks for."""
        self.unanswered: Callable[[Call], Coroutine[Any, Any, None]] = self._still_to_come
        """What to do for a kept call that nobody answers; web/calls/readers.py hangs itself in here, and below."""
        self.kept_answer: Callable[[Call], Coroutine[Any, Any, None]] = self._still_to_come
        """What to do for one whose job is done."""
        self._nobody = asyncio.Event()

    # ------------------------------------------------------------------ the door

    def accept(self, job_id: str) -> Sink | None:
        """The sink of a job's caller; None when it is gone."""
        call = self.calls.get(job_id)
        return None if call is None else call.relay

    def enter(self, call: Call) -> None:
        """A call begins to wait; before its job is submitted."""
        self.calls[call.reader] = call

    def leave(self, call: Call) -> None:
        """A call is over."""
        self.calls.pop(call.reader, None)
        if not self.calls:
            self._nobody.set()

    def rename(self, call: Call, reader: str) -> None:
        """From now on channels ask for it under this id."""
        if self.calls.pop(call.reader, None) is call:
            self.calls[reader] = call
        call.reader = reader

    async def empty(self, within: float) -> bool:
        """Wait until nobody waits here any more; False when that took longer than `within` seconds."""
        try:
            async with asyncio.timeout(within):
                while self.calls:
                    self._nobody.clear()
                    await self._nobody.wait()
        except TimeoutError:
            return False
        return True

    def ran(self, seconds: float) -> None:
        """A run of this gateway's took so long: what eta reckons with."""
        self._run += _WEIGHT * (seconds - self._run)

    @property
    def run_seconds(self) -> float:
        """How long a run lasts, on the running mean."""
        return self._run

    # ------------------------------------------------------------------ what the store says

    def notice(self, notice: Notice) -> None:
        """Somebody else than its run moved a job."""
        call = self.calls.get(notice.job_id)
        if call is None or notice.epoch < call.relay.epoch:
            return
        if notice.state in TERMINAL:
            if call.kept and call.relay.feedback is not None:
                return  # its run tells it, behind all units
            if notice.state is State.DONE:
                if call.kept:
                    self._tasks.spawn(self.kept_answer(call), "kept_answer")
                return
            call.relay.fail(ended_as(notice.state, notice.error))
        elif notice.state is State.QUEUED and notice.epoch > call.relay.epoch:
            call.relay.lost()

    async def resync(self) -> None:
        """Ask for each waiting job after notices may have been missed (the store was away)."""
        for call in list(self.calls.values()):
            if call.relay.phase is Phase.ENDED or not call.submitted:
                continue
            job = await self._queue.get(call.job_id)
            if job is None:
                call.relay.fail(Failure(Code.INTERRUPTED, "the store has lost the job: send the request again"))
            elif job.state in TERMINAL and job.state is not State.DONE:
                call.relay.fail(ended_as(job.state, job.error))

    # ------------------------------------------------------------------ targets that are down

    async def watch(self) -> None:
        """Look at the targets for ever; ends only by being cancelled."""
        while True:
            try:
                await self._inventory.fresh(0.0)
                for call in list(self.calls.values()):
                    self._look_at(call)
            except StoreUnavailableError as error:
                log.debug("inventory.stale", error=error.message)
            except Exception:  # a fault of ours costs this look, never all later ones
                log.exception("inventory.look_failed")
            await asyncio.sleep(WATCH)

    def down(self, call: Call) -> TargetStatus | bool:
        """Whether all targets of a call are down: one of them, True where none is known, else False."""
        named = [target for target in self._inventory.targets if self._eligible(call, target)]
        if any(target.state != "down" for target in named):
            return False
        return max(named, key=lambda target: target.since, default=True)

    @staticmethod
    def _eligible(call: Call, target: TargetStatus) -> bool:
        if call.target_only is not None:
            return target.name == call.target_only
        return not call.targets or target.name in call.targets

    def _look_at(self, call: Call) -> None:
        if call.relay.feedback is None and call.submitted and call.relay.phase is not Phase.ENDED:
            call.looks += 1
            if call.kept and (call.relay.epoch or call.expected or call.looks % _SELDOM == 0):
                self._tasks.spawn(self.unanswered(call), "unanswered")
            elif call.relay.epoch and not call.kept:
                self._tasks.spawn(self._still_to_come(call), "still_to_come")
        now = asyncio.get_running_loop().time()
        down = call.relay.feedback is None and call.relay.phase is not Phase.ENDED and self.down(call)
        if not down:
            call.down_from = None
            return
        if call.down_from is None:
            call.down_from = now
        if self._down_wait and now - call.down_from >= self._down_wait:
            call.down_from = now  # asked once per wait, should the store refuse
            self._tasks.spawn(self.give_up(call, _unreachable(down)), "give_up")

    async def _still_to_come(self, call: Call) -> None:
        """A call whose run was lost: has that run ended all the same, its last words lost with the link?

        Seen twice, a look apart, since another run's answer may be on its way beside what the store says.
        """
        try:
            job = await self._queue.get(call.job_id)
        except StoreUnavailableError:
            return
        if call.relay.feedback is not None or (job is not None and job.state not in TERMINAL):
            call.over = False
        elif not call.over:
            call.over = True
        else:
            answer_lost = Failure(Code.INTERRUPTED, "the answer was lost on its way here: send the request again")
            call.relay.fail(answer_lost if job is None or job.state is State.DONE else ended_as(job.state, job.error))

    async def give_up(self, call: Call, failure: Failure) -> None:
        """End a job that is still queued, and its call with it; cut a run in progress where its time is over."""
        job_id = call.job_id
        try:
            ended = await self._queue.transition(
                job_id, None, State.FAILED, reason=failure.code, failure=failure, notify=False
            )
        except StoreUnavailableError:
            ended = failure.code is Code.DEADLINE_EXCEEDED  # recover() ends the job once the store is back
        if ended:
            log.info("job.failed", job_id=job_id, code=failure.code)
            call.relay.fail(failure)
        elif failure.code is Code.DEADLINE_EXCEEDED and call.relay.feedback is not None and not call.kept:
            call.relay.feedback.cancel(failure.code)

    # ------------------------------------------------------------------ words for a heartbeat

    async def words(self, call: Call) -> str:
        """What an SSE heartbeat says of a call: state and how long, place and eta. Never raises."""
        elapsed = asyncio.get_running_loop().time() - call.relay.since
        if call.relay.feedback is not None:
            if call.relay.busy:
                return f"working elapsed={elapsed:.0f}s"
            load = self._load(call)
            return f"loading elapsed={elapsed:.0f}s" + (f" eta={max(0.0, load - elapsed):.0f}s" if load else "")
        down = self.down(call)
        if not isinstance(down, bool):
            return f"waiting target={down.name} down_for={max(0.0, _now() - down.since):.0f}s"
        try:
            async with asyncio.timeout(_WORDS_WITHIN):
                call.position, call.eta = (await self.place(call)) or (call.position, call.eta)
        except (StoreUnavailableError, TimeoutError):
            log.debug("position.unknown", job_id=call.job_id)
        if call.relay.feedback is not None:  # it was claimed while we asked
            return await self.words(call)
        if call.eta is None and not isinstance(down := self.down(call), bool):  # it went down while we asked
            return f"waiting target={down.name} down_for={max(0.0, _now() - down.since):.0f}s"
        eta = (call.position - 1) * self._run + self._load(call) if call.eta is None else call.eta
        return f"queued position={call.position} eta={eta:.0f}s"

    async def _place(self, call: Call) -> tuple[int, float | None] | None:
        position = await self._queue.position(call.job_id)
        return None if position is None else (position, None)

    def _load(self, call: Call) -> float:
        return max((target.loads.get(call.lane, 0.0) for target in self._inventory.targets), default=0.0)


def ended_as(state: State, error: dict[str, object] | None) -> Failure:
    """A job's end as its caller hears it."""
    try:
        code = Code(str((error or {})["code"]))
    except (KeyError, ValueError):
        code = Code.CANCELLED if state is State.CANCELLED else Code.INTERRUPTED
    if code is Code.CALLER_GONE:  # said of a caller that still listens: this gateway was asleep and taken for dead
        return Failure(Code.INTERRUPTED, "this gateway was taken for dead while it slept: send the request again")
    words = str((error or {}).get("message") or f"the job was {state}")
    return Failure(code, words, status=status_answered(words) if code is Code.UPSTREAM_ERROR else None)


def _unreachable(down: TargetStatus | bool) -> Failure:
    if isinstance(down, bool):
        return Failure(
            Code.UPSTREAM_UNREACHABLE,
            "no target is known: no worker has announced one. Start `foreman serve --role worker`",
        )
    since = datetime.fromtimestamp(down.since, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    why = f": {down.error}" if down.error else ""
    return Failure(Code.UPSTREAM_UNREACHABLE, f"target {down.name!r} ({down.url}) has been down since {since}{why}")


def _now() -> float:
    return datetime.now(UTC).timestamp()
