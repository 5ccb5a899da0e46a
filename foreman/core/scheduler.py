"""Which lane a target drains next. The dispatcher asks me; I return what to do and why, and do nothing.

Pure: no await, no clock, no logger; time is an argument in seconds. The rules, their bounds and what they exclude are
in docs/adr/0009-drain-by-model.md; the numbers in the comments are its rules.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from foreman.core.jobs import Priority


@dataclass(frozen=True, slots=True)
class Policy:
    """The knobs of the drain."""

    swap_budget: float = 0.2
    """Largest share of a target's time that cutting lanes short may cost; strictly between 0 and 1."""
    stay_quanta: float = 4.0
    """How many quanta a resident keeps its place while only equals wait."""
    stay_cap: float = 300.0
    """Upper limit of that stay in seconds, never below one quantum."""


@dataclass(frozen=True, slots=True)
class LaneView:
    """The facts of a lane with queued jobs, as far as a choice needs them. Times in seconds since the epoch."""

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
    service_seconds: float = 5.0
    gaps: tuple[float, ...] = ()
    """The last gaps between calls, for the linger."""
    arrival_rate: float = 0.0
    """Calls per second, decayed; which empty resident goes first."""


@dataclass(frozen=True, slots=True)
class Resident:
    """A lane that a target holds loaded."""

    lane: str
    model: str
    loaded_at: float
    running: int
    """Jobs of it in flight on this target."""
    load_seconds: float = 10.0
    idle_since: float | None = None
    """Since when nothing of it is queued or running; None while something is."""
    linger_spent: float = 0.0


@dataclass(frozen=True, slots=True)
class TargetView:
    """A target as the choice sees it."""

    name: str
    slots: int
    """Jobs in flight at once per resident lane."""
    places: int
    """Lanes it can hold at once."""
    residents: tuple[Resident, ...] = ()
    loading: str | None = None
    """The lane it is loading now, or None; one load at a time."""
    victim: str | None = None
    """The resident that was chosen to go and has not gone yet: once chosen it stays chosen while a challenger exists."""


class Reason:
    """Why a lane was loaded."""

    ROOM: Final = "room"
    EMPTY: Final = "empty"
    DUE: Final = "due"
    CLASS: Final = "class"


@dataclass(frozen=True, slots=True)
class Drain:
    """Claim the head of this resident lane."""

    lane: str


@dataclass(frozen=True, slots=True)
class Swap:
    """Load this lane, in the place of `victim` (None: a free place). While the victim still runs jobs, claim nothing
    more of it and ask again when its last one has ended."""

    lane: str
    victim: str | None
    reason: str
    cut: bool
    """The victim still has queued jobs."""


@dataclass(frozen=True, slots=True)
class Linger:
    """Keep the empty resident until then, though others wait."""

    lane: str
    until: float


@dataclass(frozen=True, slots=True)
class Wait:
    """Nothing to do before `until` (None: before the next event)."""

    until: float | None
    why: str


Decision = Drain | Swap | Linger | Wait
