"""The background role: an arq worker in a thin form, for what is neither a caller's nor a target's.

`foreman serve` starts and stops me. I run arq in this process's loop with the store's own settings and give it the
functions of workers/maintenance.py; arq is seen nowhere else (ADR-0008), so that it can be replaced here.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any, Final

import structlog
from arq import cron
from arq.worker import Worker as ArqWorker

from foreman.store.client import arq_settings
from foreman.tasks import Tasks
from workers import maintenance

if TYPE_CHECKING:
    from foreman.settings import Settings
    from foreman.store.client import Store

log = structlog.get_logger(__name__)

AGAIN: Final = 1.0
"""Seconds before an arq worker that died is started anew."""
_STOP: Final = 5.0
_SWEEP: Any = maintenance.sweep  # arq's Protocol for coroutines asks for a __qualname__ that mypy sees on no function


class Background:
    """One background worker. `start` once, `stop` once."""

    def __init__(self, settings: Settings, store: Store) -> None:
        self._settings = settings
        self._store = store
        self._tasks = Tasks("background")
        self._stopping = False

    async def start(self) -> None:
        """Begin; returns at once."""
        self._tasks.spawn(self._forever(), "arq")
        log.info("background.started", pool=self._settings.pool)

    async def stop(self) -> None:
        """End; what arq runs is cancelled and queued again by it."""
        self._stopping = True
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_STOP):
                await self._tasks.close()
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

    def _make(self) -> ArqWorker:
        pool = self._settings.pool
        return ArqWorker(
            redis_settings=arq_settings(self._store.url),
            queue_name=f"foreman:{pool}:arq",
            health_check_key=f"foreman:{pool}:arq:health",
            health_check_interval=maintenance.HEARTBEAT,
            cron_jobs=[cron(_SWEEP, name=f"{pool}:sweep", minute=None, second=0, keep_result=0)],
            ctx=self._context(),
            handle_signals=False,
            keep_result=0,
            poll_delay=0.5,
            max_jobs=100,
        )

    def _context(self) -> dict[Any, Any]:
        return {"queue": self._store.queue}


async def _end(worker: ArqWorker) -> None:
    """Cancel what an arq worker runs (arq queues it again) and close its connections.

    arq's own `close` gathers the tasks it has just cancelled, and dies of that before the connections' turn.
    """
    tasks = list(worker.tasks.values())
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    if worker.pool is None:  # it never got through to the store
        return
    with contextlib.suppress(Exception):  # the connection may be the very thing that died
        await worker.pool.delete(worker.health_check_key)
    await worker.pool.aclose(close_connection_pool=True)
