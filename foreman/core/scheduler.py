"""Which lane a target drains next. The dispatcher asks me; I return what to do and why, and do nothing.

Pure: no await, no clock, no logger; time is an argument in seconds. The rules, their bounds and what they exclude are
in docs/adr/0009-drain-by-model.md; the numbers in the comments are its rules.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from foreman.core.fairness import Policy, due, quantum, stay, turn
from foreman.core.jobs import Priority

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

__all__ = [
    "Decision",
    "Drain",
    "Hold",
    "LaneView",
    "Linger",
    "Policy",
    "Reason",
    "Resident",
    "Swap",
    "TargetView",
    "Wait",
    "choose",
    "due",
    "quantum",
    "stay",
    "turn",
]


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
    """A lane that a target holds loaded. An empty one has no `LaneView`, so what a choice needs of it stands here."""

    lane: str
    model: str
    loaded_at: float
    """When its load ended."""
    running: int
    """Jobs of it in flight on this target."""
    load_seconds: float = 10.0
    idle_since: float | None = None
    """Since when nothing of it is queued or running; None while something is."""
    linger_spent: float = 0.0
    service_seconds: float = 5.0
    gaps: tuple[float, ...] = ()
    """As in `LaneView`."""
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
    """Those it holds. A victim leaves this tuple when the load in its place begins."""
    loading: str | None = None
    """The lane it is loading now, or None; one load at a time."""
    victim: str | None = None
    """The `victim` of the last decision: once chosen it stays chosen while a challenger exists."""
    shared_slots: bool = False
    """The slots are for all residents together (kind `openai`), not for each."""


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
    cut: bool
    """The victim still has queued jobs."""
    until: float | None = None
    """While the victim runs jobs: when time alone may change the answer (another lane's turn); None for never."""


@dataclass(frozen=True, slots=True)
class Linger:
    """Keep the empty resident until then, though others wait. Not returned yet (rule 6 is built later)."""

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


def choose(lanes: Sequence[LaneView], target: TargetView, now: float, policy: Policy) -> Decision:
    """What a target does next: claim a job, load a lane, or wait.

    Ask again after each `Drain` and `Swap` that was carried out, at each event (a job arrived, ended or was cancelled,
    a load ended) and at `until`; each time with the last decision's `victim` as `target.victim`.

    Args:
        lanes: Every lane with queued jobs that this target may take, resident ones included.
        target: What it holds, runs and loads.
        now: Seconds since the epoch, by the clock that set the lanes' times.
        policy: The knobs.

    Returns:
        `Swap` as soon as a load can start; else `Drain` while a slot is free; else `Swap` with a victim that still
        runs jobs; else `Wait`. `until` is the earliest moment at which the answer may change without an event.
    """
    board = _Board.of(lanes, target, now, policy)
    step = _next_load(board) if target.loading is None else Wait(None, Hold.LOADING, target.victim)
    if isinstance(step, Swap) and not any(
        resident.running for resident in target.residents if resident.lane == step.victim
    ):
        return step
    lane = _next_drain(board, step.victim)
    return step if lane is None else Drain(lane, step.victim)


@dataclass(frozen=True, slots=True)
class _Board:
    """One moment of one target, and the questions that the rules ask about it."""

    queued: dict[str, LaneView]
    waiting: tuple[LaneView, ...]
    """The lanes without a place."""
    target: TargetView
    now: float
    policy: Policy

    @classmethod
    def of(cls, lanes: Sequence[LaneView], target: TargetView, now: float, policy: Policy) -> _Board:
        placed = {resident.lane for resident in target.residents}
        waiting = tuple(view for view in lanes if view.lane not in placed)
        return cls({view.lane: view for view in lanes}, waiting, target, now, policy)

    def turn(self, view: LaneView) -> float:
        return turn(view.head_due, view.left_at, view.load_seconds, self.policy)

    def overdue(self, view: LaneView) -> bool:
        """Rule 1."""
        return self.turn(view) <= self.now

    def next_turn(self) -> float:
        """When the next lane becomes overdue; infinite for never."""
        return min((moment for view in self.waiting if (moment := self.turn(view)) > self.now), default=math.inf)

    def order(self, view: LaneView) -> tuple[int, float, str]:
        """Rule 2: of the overdue lanes the earliest turn; none overdue: the highest class, then the earliest turn."""
        rank = len(Priority) if self.overdue(view) else view.head_class
        return -rank, self.turn(view), view.lane

    def twin(self, view: LaneView) -> Resident | None:
        """The resident of the same model with other runner options."""
        return next((resident for resident in self.target.residents if resident.model == view.model), None)

    def empty(self, resident: Resident) -> bool:
        return resident.lane not in self.queued and not resident.running

    def left(self, resident: Resident) -> int | None:
        """The highest class among the queued jobs of a resident; None when nothing is queued."""
        view = self.queued.get(resident.lane)
        return (
            None if view is None else max((r for r, count in enumerate(view.classes) if count), default=view.head_class)
        )

    def outranks(self, view: LaneView, resident: Resident) -> bool:
        """The lane's head has a higher class than everything the resident has left.

        One that only runs its last jobs is outranked by nobody: it is empty in a moment, and what arrives until then
        is judged when it arrives.
        """
        left = self.left(resident)
        return left is not None and view.head_class > left

    def leaves_at(self, resident: Resident, challenger: LaneView) -> float:
        """When the challenger may have the resident's place by rule 3b or 3c; infinite for never."""
        overdue = self.overdue(challenger)
        if not overdue and not self.outranks(challenger, resident):
            return math.inf
        loads = resident.load_seconds, challenger.load_seconds
        soonest = resident.loaded_at + quantum(*loads, self.policy)
        if not overdue or (resident.lane == self.target.victim and soonest <= self.now):
            # Rule 7: a chosen one is held to the quantum alone, so that arrivals of its own don't give it another stay.
            # B1 rests on the quantum: against a challenger whose quantum is not over, it is no longer chosen.
            return soonest
        # Any waiting lane counts, not the challenger alone: else a person waits a long stay for each of two batches
        # that take turns.
        outranked = any(self.outranks(view, resident) for view in self.waiting)
        return resident.loaded_at + stay(*loads, self.policy, outranked=outranked)

    def reason(self, resident: Resident, challenger: LaneView) -> str | None:
        """Rule 3: why the resident gives its place to the challenger now; None while it keeps it."""
        if self.empty(resident):  # 3a; the linger of rule 6 will hold it here
            return Reason.EMPTY
        if self.leaves_at(resident, challenger) > self.now:
            return None
        return Reason.DUE if self.overdue(challenger) else Reason.CLASS  # 3b, 3c

    def first_to_go(self, resident: Resident) -> tuple[float, float, float, str]:
        """Rule 7: the empty one with the fewest calls, then the longest idle.

        None empty: the lowest class left, then the latest due.
        """
        if self.empty(resident):
            idle_since = resident.loaded_at if resident.idle_since is None else resident.idle_since
            return 0, resident.arrival_rate, idle_since, resident.lane
        left, view = self.left(resident), self.queued.get(resident.lane)
        return 1, -1 if left is None else left, -math.inf if view is None else -view.head_due, resident.lane


def _next_load(board: _Board) -> Swap | Wait:
    """Rules 2, 3 and 7: the load that is next, or what holds it; and until when time alone changes nothing of that."""
    moments: list[float] = []
    why: str | None = None
    for challenger, candidates in _challengers(board):
        if candidates is None:
            return Swap(challenger.lane, None, Reason.ROOM, cut=False)
        if not board.overdue(challenger):
            moments.append(board.next_turn())
        ready = [(resident, reason) for resident in candidates if (reason := board.reason(resident, challenger))]
        if ready:
            chosen = [pair for pair in ready if pair[0].lane == board.target.victim]
            victim, reason = min(chosen or ready, key=lambda pair: board.first_to_go(pair[0]))
            until = _earliest(moments) if victim.running else None
            return Swap(challenger.lane, victim.lane, reason, victim.lane in board.queued, until)
        leaves = [board.leaves_at(resident, challenger) for resident in candidates]
        why = why or _why(board, challenger, leaves)
        moments.extend(leaves)
    return Wait(_earliest(moments), why or (Hold.SLOTS if board.queued else Hold.IDLE))


def _why(board: _Board, challenger: LaneView, leaves: list[float]) -> str:
    """The rule that holds a challenger whose place is free for it at these moments."""
    if board.overdue(challenger):
        return Hold.STAY
    return Hold.TURN if _earliest(leaves) is None else Hold.QUANTUM


def _earliest(moments: list[float]) -> float | None:
    """The first of them; None where there is none or only `never`."""
    first = min(moments, default=math.inf)
    return None if first == math.inf else first


def _challengers(board: _Board) -> Iterator[tuple[LaneView, list[Resident] | None]]:
    """The lane that is to be loaded next, with the residents whose place it may take (None: a place is free).

    Mostly one. Where its model is resident with other runner options, it can take that resident's place and no other:
    until it is overdue, the next lane in order follows, for the places that the first could not use anyway. Nobody
    passes an overdue lane: B2 rests on it.
    """
    waiting, places = list(board.waiting), list(board.target.residents)
    while waiting:
        challenger = min(waiting, key=board.order)
        twin = board.twin(challenger)
        if twin is None:
            yield challenger, places if len(board.target.residents) >= board.target.places else None
            return
        yield challenger, [twin]
        if board.overdue(challenger):
            return
        places.remove(twin)
        waiting = [view for view in waiting if view.model != challenger.model]


def _next_drain(board: _Board, victim: str | None) -> str | None:
    """Rules 4 and 5: the resident whose head gets the next free slot: the earliest due, never a chosen victim's."""
    target = board.target
    in_flight = sum(resident.running for resident in target.residents)
    heads = [
        (view.head_due, view.lane)
        for resident in target.residents
        if (view := board.queued.get(resident.lane)) is not None
        and resident.lane != victim
        and (in_flight if target.shared_slots else resident.running) < target.slots
    ]
    return min(heads)[1] if heads else None
