"""The slots beside the drain: embeddings (ADR-0013), and show, model management and unload wishes.

The worker runs one of me per owned target and slot. I claim the earliest due of what the target may take, as long as a
place in my slot is free; nothing of mine is ever preloaded, swapped or weighed against the drain.
"""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Final

import structlog

from foreman.core.jobs import Slot, State
from foreman.protocols.keep_alive import insert_keep_alive, parse_keep_alive
from foreman.store.errors import StoreUnavailableError
from foreman.upstream.faults import Fault

if TYPE_CHECKING:
    from workers.drain.target import Target

log = structlog.get_logger(__name__)

POLL: Final = 1.0
SIDE_PLACES: Final = 4
"""Side jobs at once: answers in no time, or pulls that take an hour and no GPU."""
_STORE_AWAY: Final = 0.2
_WARM_TIMEOUT: Final = 600.0


class Beside:
    """One slot beside the drain of one target."""

    def __init__(self, target: Target, slot: Slot) -> None:
        self._target = target
        self._slot = slot
        # Ollama runs one call at a time per embedding model, whatever OLLAMA_NUM_PARALLEL says.
        embed_places = target.settings.slots if target.openai else 1
        self._places = embed_places if slot is Slot.EMBED else SIDE_PLACES

    async def run(self) -> None:
        """Serve the slot until cancelled. Raises FencedError when the target is another worker's by now."""
        wake = self._target.wakes[self._slot]
        while True:
            wake.clear()
            delay = POLL
            try:
                await self._fill()
            except StoreUnavailableError:
                delay = _STORE_AWAY
            try:
                async with asyncio.timeout(delay):
                    await wake.wait()
            except TimeoutError:
                pass

    async def _fill(self) -> None:
        """Claim until the slot is full or nothing is there for it."""
        target, missed = self._target, set[str]()
        while target.ready and sum(target.running(self._slot).values()) < self._places:
            if self._slot is Slot.EMBED and not target.residency.embed_fits:
                target.wake(Slot.DRAIN)
                return
            survey = await target.survey(self._slot)
            lanes = [lane for lane in survey.lanes if lane.lane not in missed and target.takes(lane)]
            if not lanes:
                return
            first = min(lanes, key=lambda lane: (lane.head_due, lane.lane))
            claimed = await target.queue.claim(target.own, first.lane, self._slot, State.WORKING)
            if claimed is None:
                missed.add(first.lane)
            else:
                target.start(claimed, self._slot)


async def warm(target: Target, model: str, keep_alive: str) -> None:
    """Load the embedding model (`FOREMAN_EMBED_MODEL`) where the target has it. Never raises but when cancelled."""
    if target.openai or not target.residency.knows(model):
        return
    body = insert_keep_alive(json.dumps({"model": model}).encode(), parse_keep_alive(keep_alive))
    target.residency.embeds(model, None, target.clock.now())
    try:
        reply = await target.client.fetch("POST", "/api/embed", body, timeout=_WARM_TIMEOUT)
    except Fault as fault:
        log.warning("target.embed_model_not_loaded", target=target.name, model=model, error=fault.message)
        return
    if reply.status >= 400:
        log.warning("target.embed_model_not_loaded", target=target.name, model=model, status=reply.status)
    target.look_wanted.set()
