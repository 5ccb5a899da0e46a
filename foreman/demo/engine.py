"""Which models a fake Ollama holds, and who waits for what: loads, evictions, expiry, slots.

The answering code leases a runner from me for each inference request. I follow server/sched.go of v0.24: requests for a
loaded model overtake, everybody else stands in one first-in-first-out queue whose head blocks the rest until its model
is loaded; a victim is unloaded only once idle, and a request that carries keep_alive revives it (ollama#17408).
"""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field, fields
from typing import TYPE_CHECKING, Any

from foreman.protocols.keep_alive import FOREVER_NS

from .golang import NANOSECONDS, timestamp
from .ledger import Ledger, Load, Seen

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from foreman.tasks import Tasks

    from .catalogue import Model
    from .faults import Fault, Plan


class EngineError(Exception):
    """The engine refuses or fails; the message and the status are Ollama's."""

    def __init__(self, status: int, words: str) -> None:
        super().__init__(words)
        self.status = status
        self.words = words


BUSY = "server busy, please try again.  maximum pending requests exceeded"


@dataclass(frozen=True, slots=True)
class RunnerOptions:
    """What Ollama compares to decide on a reload (api.Runner); the defaults are its own."""

    num_ctx: int = 4096
    num_batch: int = 512
    num_gpu: int = -1
    main_gpu: int = 0
    use_mmap: bool | None = None
    num_thread: int = 0
    draft_num_predict: int = 0

    @classmethod
    def of(cls, options: dict[str, Any]) -> RunnerOptions:
        """From a request's checked `options`; what is absent or null is the default."""
        known = {spec.name for spec in fields(cls)}
        given = {key: value for key, value in options.items() if key in known and value is not None}
        for key, value in given.items():
            given[key] = value if key == "use_mmap" else int(value)
        if "num_ctx" in given:
            given["num_ctx"] = max(4, given["num_ctx"])
        return cls(**given)

    def reloads(self, wanted: RunnerOptions) -> bool:
        """Whether a runner with these options must be loaded anew for `wanted`; a negative num_gpu takes any."""
        mine, theirs = asdict(self), asdict(wanted)
        if wanted.num_gpu < 0:
            mine["num_gpu"] = theirs["num_gpu"]
        return mine != theirs

    def unusual(self) -> dict[str, Any]:
        """The options that differ from the default."""
        return {spec.name: value for spec in fields(self) if (value := getattr(self, spec.name)) != spec.default}


@dataclass(eq=False, slots=True)
class Runner:
    """One loaded model."""

    model: Model
    """With the name that loaded it: the only one /api/ps tells."""
    options: RunnerOptions
    session_ns: int
    """How long it stays after its last request, ns; ≤ 0: it goes when idle."""
    slots: asyncio.Semaphore
    refs: int = 0
    expires_ns: int = 0
    timer: asyncio.TimerHandle | None = None
    leaving: bool = False
    """Being unloaded: no request may have it any more."""
    dead: bool = False
    """Its process was killed; nobody notices before the next request."""

    def serves(self, options: RunnerOptions) -> bool:
        """Whether a request with these options may have it as it is."""
        return not self.leaving and not self.dead and not self.options.reloads(options)

    def stop_timer(self) -> None:
        """It is needed, or going at once."""
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None


@dataclass(slots=True)
class Turn:
    """A slot of a runner, taken."""

    runner: Runner
    busy_until: float = 0.0
    """Loop time until which the slot can't be freed: a prefill runs on when its caller leaves."""

    async def prefill(self, seconds: float) -> None:
        """Read the prompt for `seconds`."""
        self.busy_until = asyncio.get_running_loop().time() + seconds
        await asyncio.sleep(seconds)

    def crash(self) -> None:
        """The runner's process dies; the next request loads it anew."""
        self.runner.dead = True


@dataclass(eq=False, slots=True)
class Pending:
    """A request in the scheduler's queue."""

    model: Model
    options: RunnerOptions
    keep_alive_ns: int | None
    seen: Seen
    ready: asyncio.Future[Runner] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


@dataclass(slots=True)
class Pace:
    """How fast everything goes, s; may be changed at any time."""

    tokens: int = 16
    """Tokens of an answer that nothing cuts short."""
    token_seconds: float = 0.0
    """From one token to the next."""
    prefill_seconds: float = 0.0
    """Before the first token, for any prompt."""
    prefill_rate: float = 0.0
    """Prompt tokens per second on top of that; 0: no time."""
    load_seconds: float = 0.0
    unload_seconds: float = 0.0
    embed_seconds: float = 0.0
    """Per call."""


class Engine:
    """The residents of one server."""

    def __init__(
        self,
        tasks: Tasks,
        ledger: Ledger,
        plan: Plan,
        pace: Pace,
        *,
        slots: int,
        max_loaded: int,
        max_queue: int,
        keep_alive_ns: int,
    ) -> None:
        self._tasks = tasks
        self._ledger = ledger
        self._plan = plan
        self._pace = pace
        self.slots = slots
        self.max_loaded = max_loaded
        self.keep_alive_ns = keep_alive_ns
        self._runners: dict[str, Runner] = {}
        self._queue: asyncio.Queue[Pending] = asyncio.Queue(max_queue)
        self._unloaded = asyncio.Event()

    def start(self) -> None:
        """Begin to work off the queue."""
        self._tasks.spawn(self._process(), "scheduler")

    def clear(self) -> None:
        """Lose all residents at once, as when the server is stopped."""
        for runner in self._runners.values():
            runner.stop_timer()
        self._runners.clear()

    # ------------------------------------------------------------------------------------------- what is told

    @property
    def residents(self) -> list[Runner]:
        """Loaded runners, latest expiry first, as /api/ps lists them."""
        return sorted(self._runners.values(), key=lambda runner: runner.expires_ns, reverse=True)

    def ps(self) -> list[dict[str, Any]]:
        """The entries of /api/ps."""
        return [
            {
                "name": runner.model.name,
                "model": runner.model.name,
                "size": runner.model.size_loaded,
                "digest": runner.model.digest,
                "details": runner.model.details,
                "expires_at": timestamp(runner.expires_ns),
                "size_vram": 0,
                "context_length": min(runner.options.num_ctx, runner.model.context_length),
            }
            for runner in self.residents
        ]

    # ------------------------------------------------------------------------------------------- leases

    @asynccontextmanager
    async def lease(
        self, model: Model, options: RunnerOptions, keep_alive_ns: int | None, seen: Seen
    ) -> AsyncIterator[Runner]:
        """Hold a runner for one request: at once where it is loaded, else by way of the queue.

        Raises:
            EngineError: the queue is full, or the load failed.
        """
        runner = self._runners.get(model.digest)
        if runner is not None and runner.serves(options):
            self._use(runner, keep_alive_ns)
        else:
            runner = await self._wait(Pending(model, options, keep_alive_ns, seen))
        try:
            yield runner
        finally:
            self._finished(runner)

    @asynccontextmanager
    async def slot(self, runner: Runner) -> AsyncIterator[Turn]:
        """Take one of the runner's slots, first come, first served."""
        await runner.slots.acquire()
        turn = Turn(runner)
        try:
            yield turn
        finally:
            loop = asyncio.get_running_loop()
            left = turn.busy_until - loop.time()
            if left > 0:
                loop.call_later(left, runner.slots.release)
            else:
                runner.slots.release()

    def expire(self, model: Model) -> None:
        """Unload as soon as idle: `keep_alive: 0` with nothing to do."""
        runner = self._runners.get(model.digest)
        if runner is None:
            return
        runner.expires_ns = time.time_ns()
        self._evict(runner)

    async def _wait(self, pending: Pending) -> Runner:
        self._ledger.phase(pending.seen, "queued")
        try:
            self._queue.put_nowait(pending)
        except asyncio.QueueFull:
            raise EngineError(503, BUSY) from None
        try:
            return await pending.ready
        except asyncio.CancelledError:
            if pending.ready.done() and not pending.ready.cancelled() and pending.ready.exception() is None:
                self._finished(pending.ready.result())
            raise

    def _use(self, runner: Runner, keep_alive_ns: int | None) -> None:
        runner.refs += 1
        runner.stop_timer()
        if keep_alive_ns is not None:
            runner.session_ns = keep_alive_ns

    def _finished(self, runner: Runner) -> None:
        runner.refs -= 1
        if runner.refs > 0 or runner.leaving:
            return
        if runner.session_ns <= 0:
            self._unload(runner)
            return
        self._set_expiry(runner)
        runner.stop_timer()
        if runner.session_ns < FOREVER_NS:
            loop = asyncio.get_running_loop()
            runner.timer = loop.call_later(runner.session_ns / NANOSECONDS, self._unload, runner)
        self._ledger.note()

    @staticmethod
    def _set_expiry(runner: Runner) -> None:
        runner.expires_ns = time.time_ns() + max(0, runner.session_ns)

    # ------------------------------------------------------------------------------------------- the queue's head

    async def _process(self) -> None:
        while True:
            await self._serve(await self._queue.get())

    async def _serve(self, pending: Pending) -> None:
        """See one request through; the others wait, whatever they need."""
        while not pending.ready.done():  # a caller that has left has cancelled it
            runner = self._runners.get(pending.model.digest)
            if runner is not None and runner.serves(pending.options):
                self._use(runner, pending.keep_alive_ns)
                pending.ready.set_result(runner)
                return
            if runner is None and len(self._runners) < self.max_loaded:
                await self._load(pending)
                return
            self._unloaded.clear()
            self._evict(runner or self._victim())
            await self._unloaded.wait()

    def _victim(self) -> Runner:
        """An idle runner before a busy one, the shortest stay first; not the least recently used."""
        ordered = sorted(self._runners.values(), key=lambda runner: (runner.session_ns % 2**64, runner.model.digest))
        return next((runner for runner in ordered if runner.refs <= 0), ordered[0])

    def _evict(self, runner: Runner) -> None:
        runner.stop_timer()
        runner.session_ns = 0
        if runner.refs <= 0 and not runner.leaving:
            self._unload(runner)

    async def _load(self, pending: Pending) -> None:
        """Load for `pending`; a caller that leaves stops it."""
        self._ledger.phase(pending.seen, "loading")
        model = pending.model
        self._ledger.loading(
            Load(asyncio.get_running_loop().time(), model.name, model.digest, pending.options.unusual())
        )
        work = self._tasks.spawn(self._read_weights(model), "load")
        pending.ready.add_done_callback(lambda _: work.cancel())
        try:
            refused = await work
        except asyncio.CancelledError:
            if not pending.ready.cancelled():
                work.cancel()
                raise
            refused = None
        if pending.ready.cancelled():  # as late as in the turn in which the load was through, too
            self._ledger.loads_stopped += 1
            self._ledger.note()
            return
        if refused is not None:
            pending.ready.set_exception(EngineError(refused.status, refused.said))
            return
        session = self.keep_alive_ns if pending.keep_alive_ns is None else pending.keep_alive_ns
        slots = 1 if "embedding" in model.capabilities else self.slots
        runner = Runner(model, pending.options, session, asyncio.Semaphore(slots), refs=1)
        self._set_expiry(runner)
        self._runners[model.digest] = runner
        pending.ready.set_result(runner)
        self._ledger.note()

    async def _read_weights(self, model: Model) -> Fault | None:
        seconds = self._pace.load_seconds if model.load_seconds is None else model.load_seconds
        await asyncio.sleep(seconds)
        return await self._plan.loading(model.name)

    def _unload(self, runner: Runner) -> None:
        runner.stop_timer()
        runner.leaving = True
        if self._pace.unload_seconds > 0:
            asyncio.get_running_loop().call_later(self._pace.unload_seconds, self._gone, runner)
        else:
            self._gone(runner)

    def _gone(self, runner: Runner) -> None:
        if self._runners.get(runner.model.digest) is runner:
            del self._runners[runner.model.digest]
            at = asyncio.get_running_loop().time()
            self._ledger.unloaded(Load(at, runner.model.name, runner.model.digest, runner.options.unusual()))
        self._unloaded.set()
