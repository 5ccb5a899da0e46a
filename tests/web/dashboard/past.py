"""A past for the store: ended jobs of all kinds, by the scripts that end jobs in production."""

from __future__ import annotations

import asyncio
import json
import time
from typing import TYPE_CHECKING, Any

from foreman.core.errors import Code, Failure
from foreman.core.jobs import Priority, Slot, State, Surface
from foreman.store.swaps import SwapRecord
from tests.store.ground import new_job

if TYPE_CHECKING:
    from foreman.store.client import Store
    from tests.web.puppet import Puppet

CODES = (Code.UPSTREAM_ERROR, Code.STALLED, Code.UPSTREAM_UNREACHABLE, Code.DEADLINE_EXCEEDED)
BATCH = 100


async def swaps(store: Store, target: str = "gpu1", now: float | None = None) -> None:
    """Six residencies in the last ten minutes, the last one still loaded."""
    now = time.time() if now is None else now
    for number in range(6):
        t0 = now - 600 + number * 100
        name = f"model-{number % 3}"
        await store.swaps.record(SwapRecord(target, name, name, "due", t0, t0 + 4, victim="x", fifo_swaps=2), 4.0)
        if number < 5:
            await store.swaps.gone(target, name, t0 + 100, "swap")


class Past:
    """Writes history. Every tenth job failed, every twentieth was cancelled, the others are done."""

    def __init__(self, store: Store, worker: Puppet) -> None:
        self._store = store
        self._worker = worker

    async def of(self, count: int) -> list[str]:
        """So many ended jobs; their ids, the oldest first."""
        ids: list[str] = []
        for start in range(0, count, BATCH):
            ids += await asyncio.gather(*(self.one(number) for number in range(start, min(count, start + BATCH))))
        return ids

    async def one(self, number: int, **changes: Any) -> str:
        """An ended job. Those that are done were claimed first; the others ended in the queue, which is cheaper."""
        name = "m" if number % 3 else "n"
        waits = number % 10 == 0 or number % 20 == 5  # till its end: nobody may claim it, so it has a lane of its own
        values: dict[str, Any] = {
            "surface": Surface.ASYNC if number % 2 else Surface.SYNC,
            "endpoint": "/api/chat" if number % 5 else "/v1/chat/completions",
            "model": name,
            "canonical": f"{name}:latest",
            "lane": f"lane-{number}" if waits else f"lane-{name}",
            "priority": Priority(number % 3),
            "caller": ("webui", "n8n", None)[number % 3],
            "request": json.dumps(
                {"model": name, "messages": [{"role": "user", "content": f"it's number {number}"}]}
            ).encode(),
            "gateway": None,
        }
        values |= changes
        new = new_job(**values)
        queue = self._store.queue
        await queue.submit(new)
        if number % 10 == 0:
            failure = Failure(CODES[number // 10 % len(CODES)], f"it broke at number {number}")
            assert await queue.transition(
                new.id, None, State.FAILED, reason=failure.code, failure=failure, notify=False
            )
        elif number % 20 == 5:
            assert await queue.transition(new.id, None, State.CANCELLED, reason="cancelled", notify=False)
        else:
            claimed = await queue.claim(self._worker.owned["gpu1"], new.lane, Slot.DRAIN, State.WORKING)
            assert claimed is not None
            await queue.transition(
                claimed.job.id,
                claimed.job.epoch,
                State.DONE,
                reason="done",
                notify=False,
                usage={"prompt_tokens": 12, "completion_tokens": number % 400},
                timings={"queued_ms": 40.0, "loading_ms": 300.0, "ttft_ms": 90.0, "tpot_ms": 11.5, "total_ms": 1900.0},
            )
        return new.id
