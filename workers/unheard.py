"""Jobs that the store gave this worker and nobody here runs: the reply to their claim was lost with its connection.

The worker has me look each half second, beside `recover`, which sees only that their worker lives. What is strange at two
looks in a row goes back to the head of its lane, no attempt used: a reply on its way is here by the second.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog

if TYPE_CHECKING:
    from collections.abc import Callable

    from foreman.store.queue import Queue

log = structlog.get_logger(__name__)


class Unheard:
    """What one worker was given and does not know of.

    Args:
        known: the jobs that it runs, until their ends are written.
    """

    def __init__(self, queue: Queue, known: Callable[[], set[str]]) -> None:
        self._queue = queue
        self._known = known
        self._strange: set[str] = set()

    async def look(self, worker_id: str) -> None:
        """Give back what was strange last time, and is. Raises StoreUnavailableError."""
        held = await self._queue.held(worker_id)
        before, self._strange = self._strange, held - self._known()
        for job_id in before & self._strange:
            job = await self._queue.get(job_id)
            if job is None or job.worker != worker_id or job_id in self._known():
                continue
            if await self._queue.hand_back(job_id, job.epoch, reason="unheard", failure=None) is not None:
                log.warning("job.unheard", job_id=job_id, worker=worker_id, target=job.target)
