"""The background role: an arq worker in a thin form, for what is neither a caller's nor a target's.

`foreman serve` starts and stops me. I run arq in this process's loop with the store's own settings and give it the
functions of workers/maintenance.py; arq is seen nowhere else (ADR-0008), so that it can be replaced here.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
import time
from typing import TYPE_CHECKING, Any, Final

import structlog
from arq import cron, func
from arq.worker import Worker as ArqWorker

from foreman.store.client import arq_client, close_arq
from foreman.store.errors import StoreUnavailableError
from foreman.store.keys import ARQ, ARQ_HEALTH
from foreman.store.pulse import Pulse
from foreman.tasks import Tasks
from workers import maintenance
from workers.deliveries import webhooks

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from foreman.settings import Settings
    from foreman.store.client import Store
    from foreman.store.deliveries import Pace
    from workers.deliveries.post import Patience

log = structlog.get_logger(__name__)

AGAIN: Final = 1.0
"""Seconds before an arq worker that died is started anew."""
_STOP: Final = 5.0
_SWEEP: Any = maintenance.sweep  # arq's Protocol for coroutines asks for a __qualname__ that mypy sees on no function
_DELIVERIES: Any = maintenance.sweep_deliveries  # as above
_ROLL_UP: Any = maintenance.roll_up  # as above
_DELIVER: Any = webhooks.deliver  # as above
AT_ONCE: Final = 1010
"""arq jobs at once: as many as there are places at all receivers (include/outbox.lua), and what the clock starts."""
_LOOK: Final = 20
"""arq jobs started before it looks again who is first: starting one takes it five round trips to the store."""
_JOB_TIMEOUT: Final = 60
"""Seconds: more than an attempt takes with the store away for a while; arq runs a killed one again 10 s later."""
_POLL: Final = 0.05
"""Seconds between two looks for what arq has to run: by our own line to the store, a tenth of what arq's costs."""


class Background:
    """One background worker. `start` once, `stop` once."""

    def __init__(
        self, settings: Settings, store: Store, patience: Patience | None = None, pace: Pace | None = None
    ) -> None:
        """`patience` and `pace` of webhooks: shorter ones, for tests."""
        self._courier = webhooks.Courier(settings, store, patience, pace)
        self._settings = settings
        self._store = store
        self._tasks = Tasks("background")
        self._stopping = False

    async def start(self) -> None:
        """Begin; returns at once."""
        await self._courier.start()
        self._tasks.spawn(self._forever(), "arq")
        name = f"bg-{secrets.token_hex(4)}"
        self._tasks.spawn(Pulse(self._store.views, "background", lambda: name).run(), "pulse")
        log.info("background.started", pool=self._settings.pool)

    async def stop(self) -> None:
        """End; what arq runs is cancelled and queued again by it."""
        self._stopping = True
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_STOP):
                await self._tasks.close()
        await self._courier.stop()
        log.info("background.stopped")

    async def _forever(self) -> None:
        """An arq worker dies of what its store's outage outlasts; the next one takes over where it stopped."""
        while not self._stopping:
            worker = self._make()
            try:
                await worker.async_run()
            except Exception as error:  # noqa: BLE001 - arq lets any error of its connection through
                log.warning("background.died", error=repr(error))
            finally:
                await _end(worker)
            await asyncio.sleep(AGAIN)

    def _make(self) -> _Worker:
        pool, keys = self._settings.pool, self._store.queue.keys
        every = {*range(0, 60, maintenance.LOOK)}
        client = arq_client(self._store.url)
        client.job_serializer = _bytes
        return _Worker(
            waits=self._waits,
            functions=[func(_DELIVER, name="deliver")],
            redis_pool=client,
            queue_name=keys.of(ARQ),
            health_check_key=keys.of(ARQ_HEALTH),
            health_check_interval=maintenance.HEARTBEAT,
            cron_jobs=[
                cron(_SWEEP, name=f"{pool}:sweep", minute=None, second=0, keep_result=0),
                cron(
                    _DELIVERIES,
                    name=f"{pool}:deliveries",
                    minute=None,
                    second=every,
                    keep_result=0,
                    run_at_startup=True,
                ),
                cron(_ROLL_UP, name=f"{pool}:roll_up", minute=1, second=0, keep_result=0, run_at_startup=True),
            ],
            ctx=self._context(),
            handle_signals=False,
            keep_result=0,
            poll_delay=_POLL,
            max_jobs=AT_ONCE,
            queue_read_limit=_LOOK,
            job_timeout=_JOB_TIMEOUT,
            job_serializer=_bytes,
            job_deserializer=json.loads,
            log_results=False,
        )

    async def _waits(self) -> bool:
        """Whether arq has something to run. While the store is away it is to find that out by itself: it is patient."""
        try:
            return await self._store.deliveries.handed(time.time())
        except StoreUnavailableError:
            return True

    def _context(self) -> dict[Any, Any]:
        store = self._store
        return {
            "queue": store.queue,
            "tallies": store.tallies,
            "answers": store.answers,
            webhooks.COURIER: self._courier,
        }


class _Worker(ArqWorker):
    """arq's worker, which asks its own way only where something waits, and can be waited for to its last command.

    It ends jobs in tasks that it shields from cancellation and keeps no reference to: they would outlive its connections.
    """

    def __init__(self, *args: Any, waits: Callable[[], Awaitable[bool]], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.ending: set[asyncio.Task[Any] | None] = set()
        self._waits = waits

    async def _poll_iteration(self) -> None:
        """As arq's: start what waits, let go of what has ended, keep the clock."""
        if self.tasks or await self._waits():
            await super()._poll_iteration()
        else:
            await self.heart_beat()

    async def finish_job(self, *args: Any, **kwargs: Any) -> None:
        """As arq's."""
        self.ending.add(asyncio.current_task())
        try:
            await super().finish_job(*args, **kwargs)
        finally:
            self.ending.discard(asyncio.current_task())

    async def finish_failed_job(self, *args: Any, **kwargs: Any) -> None:
        """As arq's."""
        self.ending.add(asyncio.current_task())
        try:
            await super().finish_failed_job(*args, **kwargs)
        finally:
            self.ending.discard(asyncio.current_task())


def _bytes(value: Any) -> bytes:
    """JSON, because arq's default would run whatever somebody pickled into the store."""
    return json.dumps(value, default=str).encode()


async def _end(worker: _Worker) -> None:
    """Cancel what an arq worker runs (arq queues it again) and close its connections.

    arq's own `close` gathers the tasks it has just cancelled, and dies of that before the connections' turn.
    """
    tasks = list(worker.tasks.values())
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await asyncio.gather(*(task for task in worker.ending if task is not None), return_exceptions=True)
    with contextlib.suppress(Exception):  # the connection may be the very thing that died
        async with asyncio.timeout(AGAIN):
            await worker.pool.delete(worker.health_check_key)
    await close_arq(worker.pool)
