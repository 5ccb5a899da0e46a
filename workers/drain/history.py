"""What a target's swaps have cost, told to the store: each load with its reason, each end, and what FIFO would have done.

The dispatcher and the loader tell me of claims, loads and ends; a task of mine writes them, so that neither waits for the
store. What order of arrival would have loaded is reckoned from the very jobs that this target ran.
"""

from __future__ import annotations

import asyncio
import heapq
from collections import OrderedDict
from functools import partial
from typing import TYPE_CHECKING, Final

import structlog

from foreman.core.lanes import canonical
from foreman.store.errors import StoreUnavailableError
from foreman.store.swaps import SwapRecord

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from foreman.store.swaps import Swaps
    from workers.loads.loader import Load
    from workers.loads.residency import Residency

log = structlog.get_logger(__name__)

WINDOW: Final = 2000
"""Jobs that may still be passed by one that came before them."""
SETTLE: Final = 2.0
"""Seconds without a load after which the ledger is brought up to date all the same."""
UNWRITTEN: Final = 1000
"""Entries that wait for the store at most."""


class Fifo:
    """How many loads the jobs of this target would have cost in order of arrival, the longest unused lane going first."""

    def __init__(self) -> None:
        self._waiting: list[tuple[float, str, str]] = []
        self._held: OrderedDict[str, None] = OrderedDict()
        self._loads = 0

    def add(self, lane: str, created_at: float, job_id: str, places: int) -> None:
        """A job was claimed; claims come in the drain's order, not in that of arrival (ids of one moment sort by it)."""
        heapq.heappush(self._waiting, (created_at, job_id, lane))
        while len(self._waiting) > WINDOW:
            self._loads += _serve(heapq.heappop(self._waiting)[2], self._held, places)

    def loads(self, places: int) -> int:
        """Loads up to now."""
        held = self._held.copy()
        return self._loads + sum(_serve(lane, held, places) for _, _, lane in sorted(self._waiting))


def _serve(lane: str, held: OrderedDict[str, None], places: int) -> int:
    if lane in held:
        held.move_to_end(lane)
        return 0
    while len(held) >= places:
        held.popitem(last=False)
    held[lane] = None
    return 1


class History:
    """The history of one target."""

    def __init__(self, target: str, swaps: Swaps) -> None:
        self._target = target
        self._swaps = swaps
        self._queue: asyncio.Queue[Callable[[], Awaitable[None]]] = asyncio.Queue(UNWRITTEN)
        self._fifo = Fifo()
        self._told = 0
        self._untold = False
        self._load_seconds = 0.0
        self._noted: dict[str, str] = {}
        """The residents that the history knows: lane → model."""
        self._leaving: dict[str, tuple[str, float]] = {}
        """Resident lane → why foreman is putting it out, and since when."""

    def claimed(self, lane: str, created_at: float, job_id: str, places: int) -> None:
        """A job of the drain was claimed."""
        self._fifo.add(lane, created_at, job_id, places)
        self._untold = True

    def loaded(self, load: Load, residency: Residency, now: float, *, cut: bool) -> None:
        """A load has ended well; `cut`: its victim still had jobs."""
        order, places = load.order, residency.places
        self.note(residency, now, but=order.lane)
        self._noted[order.lane] = canonical(order.model)
        self._leaving.clear()  # whoever is still there had room
        total = self._fifo.loads(places)
        since, self._told = total - self._told, total
        self._untold, self._load_seconds = False, load.seconds
        record = SwapRecord(
            target=self._target,
            lane=order.lane,
            model=canonical(order.model),
            reason=order.reason,
            t0=load.begun_at,
            loaded=load.begun_at + load.seconds,
            victim=None if order.victim is None else order.victim.lane,
            cut=cut,
            fifo_swaps=since,
            paid_seconds=order.victim.load_seconds if cut and order.victim is not None else 0.0,
        )
        self._put(lambda: self._swaps.record(record, (since - 1) * load.seconds))

    def leaves(self, lane: str, why: str, at: float) -> None:
        """Foreman is putting a lane out; `why` as `SwapRecord.ended_by`."""
        self._leaving[lane] = why, at

    def note(self, residency: Residency, now: float, but: str | None = None) -> None:
        """Who has come and gone since the last time; `but`: whose load is told apart."""
        held = {one.lane: one.name for one in (*residency.held, *residency.pinned) if one.lane != but}
        for lane in [lane for lane in self._noted if lane not in held]:
            del self._noted[lane]
            why, at = self._leaving.pop(lane, ("lost", now))
            self._put(partial(self._swaps.gone, self._target, lane, at, why))
        for lane, name in held.items():
            if lane not in self._noted:
                self._noted[lane] = name
                self._put(partial(self._swaps.found, self._target, lane, canonical(name), now))

    def settle(self, places: int) -> None:
        """What order of arrival would have loaded since the last load, though nothing had to be loaded here."""
        if not self._untold:
            return
        self._untold = False
        total = self._fifo.loads(places)
        since, self._told = total - self._told, total
        if since:
            self._put(partial(self._swaps.spared, since, since * self._load_seconds))

    async def run(self, places: Callable[[], int]) -> None:
        """Write for ever; what the store does not take now is written when it answers again."""
        while True:
            try:
                async with asyncio.timeout(SETTLE):
                    write = await self._queue.get()
            except TimeoutError:
                self.settle(places())
                continue
            while True:
                try:
                    await write()
                    break
                except StoreUnavailableError:
                    await asyncio.sleep(1.0)

    def _put(self, write: Callable[[], Awaitable[None]]) -> None:
        try:
            self._queue.put_nowait(write)
        except asyncio.QueueFull:
            log.warning("target.history_lost", target=self._target)
