"""Which lane a target drains next. The dispatcher asks me; I return what to do and why, and do nothing.

Pure: no await, no clock, no logger; time is an argument in seconds. The rules, their bounds and what they exclude are
in docs/adr/0009-drain-by-model.md and docs/adr/0021-linger-placement-and-proof.md; the numbers in the comments are its
rules. Facts come in as core.views, decisions go out as core.decisions.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from foreman.core.decisions import Decision, Drain, Hold, Linger, Reason, Swap, Wait
from foreman.core.fairness import Policy, due, quantum, stay, turn
from foreman.core.index import LaneIndex
from foreman.core.linger import linger
from foreman.core.placement import homes_suffice, sooner
from foreman.core.views import LaneView, Resident, TargetView

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterator, Sequence

    from foreman.core.views import Offer

    Idle = Callable[[LaneView], Sequence[Offer]]

__all__ = [
    "Decision",
    "Drain",
    "Hold",
    "LaneIndex",
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


def choose(
    lanes: LaneIndex | Sequence[LaneView],
    target: TargetView,
    now: float,
    policy: Policy,
    idle: Idle | None = None,
) -> Decision:
    """What a target does next: claim a job, load a lane, linger or wait.

    Ask again after each `Drain` and `Swap` that was carried out, at each event (a job arrived, ended or was cancelled,
    a load ended; with several targets also: another target began a load or put a lane out) and at `until`; each time
    with the last decision's `victim` as `target.victim`.

    Args:
        lanes: Every lane with queued jobs that this target may take, resident ones included: an index that is kept up
            to date (O(residents + log lanes) per choice), or a sequence, of which one is made.
        target: What it holds, runs and loads.
        now: Seconds since the epoch, by the clock that set the lanes' times.
        policy: The knobs.
        idle: What the other targets offer for a lane (rule 8): those that have nothing queued, running or loading and may
            take it. None: there are none.

    Returns:
        `Swap` as soon as a load can start; else `Drain` while a slot is free; else `Swap` with a victim that still
        runs jobs; else `Linger` while an empty resident is kept for its next call; else `Wait`. `until` is the earliest
        moment at which the answer may change without an event.
    """
    index = lanes if isinstance(lanes, LaneIndex) else LaneIndex(policy, lanes, now)
    board = _Board(index, target, now, policy, idle)
    step = _next_load(board) if target.loading is None else Wait(None, Hold.LOADING, target.victim)
    if isinstance(step, Swap) and not any(
        resident.running for resident in target.residents if resident.lane == step.victim
    ):
        return step
    lane = _next_drain(board, step.victim)
    return step if lane is None else Drain(lane, step.victim)


@dataclass(frozen=True)
class _Board:
    """One moment of one target, and the questions that the rules ask about it."""

    index: LaneIndex
    target: TargetView
    now: float
    policy: Policy
    idle: Idle | None

    # ------------------------------------------------------------------------ the lanes that wait

    @cached_property
    def placed(self) -> frozenset[str]:
        return frozenset(resident.lane for resident in self.target.residents)

    def waits(self, view: LaneView) -> bool:
        """It has no place here and, by rule 8, no home elsewhere that is about to work it off."""
        return view.lane not in self.placed and not (view.homes and homes_suffice(view, self.now, self.policy))

    def in_order(self, passed: Container[str]) -> Iterator[LaneView]:
        """Rule 2: the overdue lanes by turn, then the others by class and turn; without those another target takes.

        No further lanes of a model in `passed`, where none is overdue.

        An idle target takes one lane. So each of them holds back one at most, and no more are skipped than there are.
        """
        spoken: set[str] = set()
        for view in self._all_in_order(passed):
            if not self.waits(view):
                continue
            offers = () if self.idle is None else self.idle(view)
            takers = sooner(view, self.target.name, self.target.slots, offers, self.now)
            taker = next((name for name in takers if name not in spoken), None)
            if taker is None:
                yield view
            else:
                spoken.add(taker)

    def _all_in_order(self, passed: Container[str]) -> Iterator[LaneView]:
        for moment, view in self.index.by_turn():
            if moment > self.now:
                break
            yield view
        for moment, view in self.index.by_class(passed):
            if moment > self.now:
                yield view

    def overdue(self, view: LaneView) -> bool:
        """Rule 1."""
        return turn(view.head_due, view.left_at, view.load_seconds, self.policy) <= self.now

    def next_turn(self) -> float:
        """When the next lane becomes overdue; infinite for never."""
        return next((moment for moment, view in self.index.by_turn(self.now) if self.waits(view)), math.inf)

    @cached_property
    def first_turn(self) -> float:
        """The earliest turn of a waiting lane; infinite where none waits."""
        return next((moment for moment, view in self.index.by_turn() if self.waits(view)), math.inf)

    @cached_property
    def top_class(self) -> int:
        """The highest class among the heads that wait."""
        return next((view.head_class for _, view in self.index.by_class() if self.waits(view)), -1)

    @cached_property
    def jobs_waiting(self) -> int:
        """Queued jobs of the lanes without a place."""
        here = [self.index.get(lane) for lane in self.placed if self.index.counts(lane)]
        return self.index.jobs - sum(view.depth for view in here if view is not None)

    # ------------------------------------------------------------------------ the residents

    def twin(self, view: LaneView) -> Resident | None:
        """The resident of the same model with other runner options."""
        return next((resident for resident in self.target.residents if resident.model == view.model), None)

    def empty(self, resident: Resident) -> bool:
        return not resident.running and self.index.get(resident.lane) is None

    def left(self, resident: Resident) -> int | None:
        """The highest class among the queued jobs of a resident; None when nothing is queued."""
        view = self.index.get(resident.lane)
        return (
            None if view is None else max((r for r, count in enumerate(view.classes) if count), default=view.head_class)
        )

    def outranks(self, head_class: int, resident: Resident) -> bool:
        """A head of this class has a higher one than everything the resident has left.

        One that only runs its last jobs is outranked by nobody: it is empty in a moment, and what arrives until then
        is judged when it arrives.
        """
        left = self.left(resident)
        return left is not None and head_class > left

    def lingers_until(self, resident: Resident, challenger: LaneView) -> float:
        """Rule 6: until when an empty resident is kept for its next call; in the past where it is not."""
        if resident.idle_since is None or not resident.gaps:
            return -math.inf
        loads = resident.load_seconds, challenger.load_seconds
        waiting = self.jobs_waiting
        gain = sum(loads) + challenger.depth * challenger.service_seconds - waiting * resident.service_seconds
        span = min(
            linger(resident.gaps, gain, waiting),
            self.policy.linger_round_trips * sum(loads) - resident.linger_spent,
        )
        latest = max(resident.loaded_at + quantum(*loads, self.policy), self.first_turn)
        return min(resident.idle_since + span, latest)

    def leaves_at(self, resident: Resident, challenger: LaneView) -> float:
        """When the challenger may have the resident's place; infinite for never."""
        if self.empty(resident):
            return self.lingers_until(resident, challenger)
        overdue = self.overdue(challenger)
        if not overdue and not self.outranks(challenger.head_class, resident):
            return math.inf
        loads = resident.load_seconds, challenger.load_seconds
        soonest = resident.loaded_at + quantum(*loads, self.policy)
        if not overdue or (resident.lane == self.target.victim and soonest <= self.now):
            # Rule 7: a chosen one is held to the quantum alone, so that arrivals of its own don't give it another stay.
            # B1 rests on the quantum: against a challenger whose quantum is not over, it is no longer chosen.
            return soonest
        # Any waiting lane counts, not the challenger alone: else a person waits a long stay for each of two batches
        # that take turns.
        outranked = self.outranks(self.top_class, resident)
        return resident.loaded_at + stay(*loads, self.policy, outranked=outranked)

    def reason(self, resident: Resident, challenger: LaneView) -> str:
        """Rule 3: why the resident gives its place to the challenger, when it may."""
        if self.empty(resident):
            return Reason.EMPTY  # 3a
        return Reason.DUE if self.overdue(challenger) else Reason.CLASS  # 3b, 3c

    def first_to_go(self, resident: Resident) -> tuple[float, float, float, str]:
        """Rule 7: the empty one with the fewest calls, then the longest idle.

        None empty: the lowest class left, then the latest due.
        """
        if self.empty(resident):
            idle_since = resident.loaded_at if resident.idle_since is None else resident.idle_since
            return 0, resident.arrival_rate, idle_since, resident.lane
        left, view = self.left(resident), self.index.get(resident.lane)
        return 1, -1 if left is None else left, -math.inf if view is None else -view.head_due, resident.lane


def _next_load(board: _Board) -> Swap | Linger | Wait:
    """Rules 2, 3, 6 and 7: the load that is next, or what holds it; and until when time alone changes nothing of that."""
    moments: list[float] = []
    held: Linger | str | None = None
    for challenger, candidates in _challengers(board):
        if candidates is None:
            return Swap(challenger.lane, None, Reason.ROOM, cut=False)
        if not board.overdue(challenger):
            moments.append(board.next_turn())
        leaves = {resident.lane: board.leaves_at(resident, challenger) for resident in candidates}
        ready = [resident for resident in candidates if leaves[resident.lane] <= board.now]
        if ready:
            chosen = [resident for resident in ready if resident.lane == board.target.victim]
            victim = min(chosen or ready, key=board.first_to_go)
            until = _earliest(moments) if victim.running else None
            cut = board.index.get(victim.lane) is not None
            return Swap(challenger.lane, victim.lane, board.reason(victim, challenger), cut, until)
        held = held or _holds(board, challenger, candidates, leaves)
        moments.extend(leaves.values())
    until = _earliest(moments)
    if isinstance(held, Linger) and until is not None:
        return Linger(held.lane, until)
    return Wait(until, held if isinstance(held, str) else _nobody(board))


def _holds(board: _Board, challenger: LaneView, candidates: list[Resident], leaves: dict[str, float]) -> Linger | str:
    """What holds a challenger: an empty resident that is kept, else the rule."""
    kept = [(leaves[resident.lane], resident.lane) for resident in candidates if board.empty(resident)]
    if kept:
        return Linger(min(kept)[1], min(kept)[0])
    if board.overdue(challenger):
        return Hold.STAY
    return Hold.TURN if _earliest(list(leaves.values())) is None else Hold.QUANTUM


def _nobody(board: _Board) -> str:
    """Why there is no challenger."""
    if any(board.index.get(lane) is not None for lane in board.placed):
        return Hold.SLOTS
    return Hold.HOME if len(board.index) else Hold.IDLE


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
    places, passed = list(board.target.residents), set[str]()
    for challenger in board.in_order(passed):
        twin = board.twin(challenger)
        if twin is None:
            yield challenger, places if len(board.target.residents) >= board.target.places else None
            return
        yield challenger, [twin]
        if board.overdue(challenger):
            return
        places.remove(twin)
        passed.add(challenger.model)


def _next_drain(board: _Board, victim: str | None) -> str | None:
    """Rules 4 and 5: the resident whose head gets the next free slot: the earliest due, never a chosen victim's."""
    target = board.target
    in_flight = sum(resident.running for resident in target.residents)
    heads = [
        (view.head_due, view.lane)
        for resident in target.residents
        if (view := board.index.get(resident.lane)) is not None
        and resident.lane != victim
        and (in_flight if target.shared_slots else resident.running) < target.slots
    ]
    return min(heads)[1] if heads else None
