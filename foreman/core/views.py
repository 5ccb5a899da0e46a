"""What a choice reads: the facts of lanes with queued jobs, of residents, of other targets' offers, and of the target itself.

Dispatchers, the simulator and the forecast fill me in; core.scheduler reads me. Plain values at one moment: all times are
seconds since the epoch by the store's clock, all spans seconds. I decide nothing and remember nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from foreman.core.jobs import Priority


@dataclass(frozen=True, slots=True)
class Offer:
    """How soon another target could work off a lane."""

    target: str
    service_seconds: float
    """The lane's expected run there, with the slots taken into account: seconds between two ends, not of one run."""
    load_seconds: float = 0.0
    """The lane's expected load there; 0 where it is resident."""
    ready_at: float = 0.0
    """When a load of it that is under way will end (s since the epoch); 0 where none is."""

    def finish_in(self, jobs: int, now: float) -> float:
        """Seconds until the last of so many jobs has ended there."""
        rest = max(0.0, self.ready_at - now) if self.ready_at else 0.0
        return self.load_seconds + rest + jobs * self.service_seconds


@dataclass(frozen=True, slots=True)
class LaneView:
    """The facts of a lane with queued jobs, as far as a choice of one target needs them."""

    lane: str
    model: str
    """Two lanes of one model are never resident together."""
    head_due: float
    head_class: Priority
    classes: tuple[int, int, int]
    """Queued jobs by class: low, normal, high. Their sum is the depth."""
    left_at: float | None = None
    """When the lane was last cut on this target."""
    load_seconds: float = 10.0
    """Its expected load on this target."""
    service_seconds: float = 5.0
    """Its expected run on this target."""
    gaps: tuple[float, ...] = ()
    """The last gaps between calls, for the linger (core.estimates.Gaps)."""
    arrival_rate: float = 0.0
    """Calls per second, decayed; which empty resident goes first."""
    homes: tuple[Offer, ...] = ()
    """The other targets that hold or load it, for rule 8; a target that is down or paused is no home."""
    pace_seconds: float | None = None
    """Seconds between two ends while all slots of this target run it (core.estimates.Throughput); None: not measured."""

    @property
    def depth(self) -> int:
        """Queued jobs."""
        return sum(self.classes)

    def pace(self, slots: int) -> float:
        """Seconds between two ends while it drains; not measured: half of the slots beyond the first count."""
        return self.service_seconds / (1 + (slots - 1) / 2) if self.pace_seconds is None else self.pace_seconds


@dataclass(frozen=True, slots=True)
class Resident:
    """A lane that a target holds loaded. An empty one has no `LaneView`, so what a choice needs of it stands here."""

    lane: str
    model: str
    loaded_at: float
    """When its load ended."""
    running: int
    """Jobs of it in flight on this target."""
    load_seconds: float = 10.0
    """What its load took; where foreman did not load it, the expected load."""
    idle_since: float | None = None
    """Since when nothing of it is queued or running; None while something is."""
    linger_spent: float = 0.0
    """Seconds of this residency that it stood empty while others waited, before `idle_since`."""
    service_seconds: float = 5.0
    gaps: tuple[float, ...] = ()
    """As in `LaneView`; none: it never lingers."""
    arrival_rate: float = 0.0
    """As in `LaneView`."""


@dataclass(frozen=True, slots=True)
class TargetView:
    """A target as the choice sees it."""

    name: str
    slots: int
    """Jobs in flight at once per resident lane."""
    places: int
    """Lanes it can hold at once."""
    residents: tuple[Resident, ...] = ()
    """Those it holds. A victim leaves this tuple when the load in its place begins. A pinned lane has a place beside
    these and is not among them."""
    loading: str | None = None
    """The lane it is loading now, or None; one load at a time."""
    victim: str | None = None
    """The `victim` of the last decision: once chosen it stays chosen while a challenger exists."""
    shared_slots: bool = False
    """The slots are for all residents together (kind `openai`), not for each."""
