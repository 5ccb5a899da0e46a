"""The moments and spans that keep the drain fair: a job's due, a lane's turn, a resident's quantum and stay.

The store's callers ask me for a due at submit, the scheduler for the rest. I only compute seconds; why these formulas
and no simpler ones is in docs/adr/0009-drain-by-model.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

LOAD_FLOOR: Final = 0.2
"""Seconds a load counts at least. Were both loads estimated at nothing, two lanes could swap without a job between."""


@dataclass(frozen=True, slots=True)
class Policy:
    """The knobs of the drain. Raises ValueError for a budget that is no share."""

    swap_budget: float = 0.2
    """Largest share of a target's time that cutting lanes short may cost; strictly between 0 and 1."""
    stay_quanta: float = 4.0
    """How many quanta a resident keeps its place while only equals wait."""
    stay_cap: float = 300.0
    """Upper limit of that stay in seconds, never below one quantum."""
    linger_round_trips: float = 1.0
    """How long empty residents are kept at most per residency, in loads there and back (rule 6); 0 turns it off."""
    replicate: float = 3.0
    """A second target takes a lane when its homes need longer than so many times load + run here (rule 8)."""

    def __post_init__(self) -> None:
        if not 0 < self.swap_budget < 1:
            raise ValueError(f"swap_budget is {self.swap_budget}: use a share strictly between 0 and 1")

    @property
    def work_per_load(self) -> float:
        """Seconds of residency that pay for one second of load: 1/budget - 1."""
        return 1 / self.swap_budget - 1


def due(enqueued_at: float, max_wait: float, deadline: float | None, service: float) -> float:
    """The moment by which fairness wants a job started; fixed at submit.

    Args:
        enqueued_at: When it was queued (s since the epoch).
        max_wait: How long its class waits (`FOREMAN_DUE_AFTER`, s).
        deadline: When it must be finished (s since the epoch); None for never.
        service: Its expected run (s).

    Returns:
        Seconds since the epoch, never before `enqueued_at`: a feed of hopeless deadlines would precede everybody.
    """
    latest = enqueued_at + max_wait
    return latest if deadline is None else min(latest, max(enqueued_at, deadline - service))


def turn(head_due: float, left_at: float | None, load_seconds: float, policy: Policy) -> float:
    """The moment from which fairness counts for a lane that is not resident.

    Its head's due, but after a cut not before the lane's own load has been paid for: an old backlog stays due for
    ever and would pass the same waiter again and again.

    Args:
        head_due: The due of its head (s since the epoch).
        left_at: When it was last cut on this target (s since the epoch); None for never.
        load_seconds: Its load time on this target.
        policy: The knobs.

    Returns:
        Seconds since the epoch.
    """
    return head_due if left_at is None else max(head_due, left_at + policy.work_per_load * load_seconds)


def quantum(resident_load: float, challenger_load: float, policy: Policy) -> float:
    """The least time (s from the end of its load) before a resident may be cut; the mean of both loads pays for it."""
    return policy.work_per_load * (max(resident_load, LOAD_FLOOR) + max(challenger_load, LOAD_FLOOR)) / 2


def stay(resident_load: float, challenger_load: float, policy: Policy, *, outranked: bool) -> float:
    """How long (s from the end of its load) a resident keeps its place when the challenger's turn has come.

    One quantum when a waiting lane outranks all it has left, else several: cutting after one quantum among equals
    loses the share `swap_budget` of the target, and above that load every queue grows without limit.
    """
    one = quantum(resident_load, challenger_load, policy)
    return one if outranked else max(one, min(policy.stay_quanta * one, policy.stay_cap))
