"""What operators look at and nobody decides by: the lanes at a glance.

The gateway's `/ops` and `/metrics` call me through `store.views`; I turn scripts' replies into values. What I tell is
bounded, however much there is: the rest is counted.
"""

from __future__ import annotations

from dataclasses import dataclass

from foreman.core.jobs import Priority, Slot
from foreman.store.roster import Roster


@dataclass(frozen=True, slots=True)
class LaneGlance:
    """A lane with queued jobs, as people see it."""

    slot: Slot
    lane: str
    model: str
    depth: int
    head_due: float
    head_class: Priority
    oldest_since: float
    """Since when the oldest of its jobs waits: since it came, or since its `not_before`."""
    position: int
    """The place of its head among all queued jobs of the slot by due; 1 for the next."""


@dataclass(frozen=True, slots=True)
class Glance:
    """The lanes at one moment."""

    now: float
    total: int
    """Lanes with queued jobs."""
    jobs: int
    """Jobs in them."""
    lanes: tuple[LaneGlance, ...]
    """The deepest, then those that are due first."""


class Views(Roster):
    """The views of one pool. All methods raise `StoreUnavailableError`."""

    async def lanes(self, most: int, word: str = "") -> Glance:
        """At most so many lanes of the drain and of the embedding slot; `word`: those whose model or key has it."""
        reply = await self._script("lanes", most, word.lower())
        lanes = tuple(
            LaneGlance(
                slot=Slot(slot.decode()),
                lane=lane.decode(),
                model=model.decode(),
                depth=int(depth),
                head_due=float(due) / 1000,
                head_class=Priority(int(priority)),
                oldest_since=float(oldest) / 1000,
                position=int(rank) + 1,
            )
            for slot, lane, model, depth, due, priority, oldest, rank in reply[3:]
        )
        return Glance(int(reply[0]) / 1000, int(reply[1]), int(reply[2]), lanes)
