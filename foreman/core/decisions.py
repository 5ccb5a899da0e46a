"""What a choice returns: claim, load, linger or wait, each with its reason.

core.scheduler makes me, the dispatcher and the simulator carry me out, the page and `waiting_for` show my reasons.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


class Reason:
    """Why a lane was loaded."""

    ROOM: Final = "room"
    EMPTY: Final = "empty"
    DUE: Final = "due"
    CLASS: Final = "class"


class Hold:
    """The rule that holds a waiting lane: `Wait.why`."""

    IDLE: Final = "idle"
    """Nothing is queued that this target may take."""
    LOADING: Final = "loading"
    """One load at a time."""
    SLOTS: Final = "slots"
    """No lane waits for a place, but every slot is taken."""
    TURN: Final = "turn"
    """The next lane's turn has not come, and the residents are not empty."""
    STAY: Final = "stay"
    """Its turn has come; the stay of the resident is not over."""
    QUANTUM: Final = "quantum"
    """It is of a higher class; the quantum of the resident is not over."""
    HOME: Final = "home"
    """All that waits has a home elsewhere, or an idle target that is sooner done with it (rule 8)."""


@dataclass(frozen=True, slots=True)
class Drain:
    """Claim the head of this resident lane, then ask again."""

    lane: str
    victim: str | None = None
    """The resident that is chosen to go meanwhile; show it to me as `TargetView.victim` next time."""


@dataclass(frozen=True, slots=True)
class Swap:
    """Load this lane, in the place of `victim` (None: a free place).

    While the victim still runs jobs, claim nothing more of it, and ask again when its last one has ended or at `until`.
    """

    lane: str
    victim: str | None
    reason: str
    """One of `Reason`."""
    cut: bool
    """The victim still has queued jobs."""
    until: float | None = None
    """While the victim runs jobs: when time alone may change the answer (another lane's turn); None for never."""


@dataclass(frozen=True, slots=True)
class Linger:
    """Keep the empty resident `lane` for its next call, though others wait (rule 6). Ask again at `until`."""

    lane: str
    until: float
    victim: str | None = None


@dataclass(frozen=True, slots=True)
class Wait:
    """Nothing to do before `until` (None: before the next event)."""

    until: float | None
    why: str
    """One of `Hold`."""
    victim: str | None = None


Decision = Drain | Swap | Linger | Wait
