"""Who waits here for a job's end: long polls and cancels.

web/jobs/jobs_api.py waits; the app hands me the store's notices. A notice that got lost costs no more than the next look. I
wait for ends; I bring none about.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from foreman.core.jobs import TERMINAL

if TYPE_CHECKING:
    from foreman.store.queue import Queue
    from foreman.store.records import Notice

LOOK_AGAIN: Final = 2.0
"""Seconds between two looks at a job while no notice comes."""


class Ends:
    """The ends that somebody at one gateway waits for."""

    def __init__(self, queue: Queue, gateway_id: str) -> None:
        self._queue = queue
        self._gateway_id = gateway_id
        self._waiting: dict[str, set[asyncio.Event]] = {}
        self._leaving = False

    async def wait(self, job_id: str, seconds: float) -> None:
        """Until the job has ended or is unknown, the time is up, or the gateway leaves. Raises StoreUnavailableError."""
        loop = asyncio.get_running_loop()
        until = loop.time() + seconds
        event = asyncio.Event()
        self._waiting.setdefault(job_id, set()).add(event)
        try:
            while not self._leaving:
                state = await self._queue.watch(job_id, self._gateway_id)
                left = until - loop.time()
                if state is None or state in TERMINAL or left <= 0:
                    return
                try:
                    async with asyncio.timeout(min(left, LOOK_AGAIN)):
                        await event.wait()
                except TimeoutError:
                    continue
                event.clear()
        finally:
            self._waiting[job_id].discard(event)
            if not self._waiting[job_id]:
                del self._waiting[job_id]

    def notice(self, notice: Notice) -> None:
        """The store says that a job has ended."""
        for event in self._waiting.get(notice.job_id, ()):
            event.set()

    def leave(self) -> None:
        """The gateway stops: nobody waits any longer."""
        self._leaving = True
        for events in self._waiting.values():
            for event in events:
                event.set()
