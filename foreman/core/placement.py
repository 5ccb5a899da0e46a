"""Which target may load a lane when there are several (rule 8 of docs/adr/0009-drain-by-model.md).

core.index and core.scheduler ask me with what other targets offer; I answer from those facts alone. I know nothing of
`only` and `never`, and of who is down: whoever makes the offers leaves those out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from foreman.core.fairness import Policy
    from foreman.core.views import LaneView


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


def homes_suffice(view: LaneView, now: float, policy: Policy) -> bool:
    """A target that holds or loads the lane works its backlog off within `policy.replicate` × (load + run) here."""
    limit = policy.replicate * (view.load_seconds + view.service_seconds)
    return any(home.finish_in(view.depth, now) <= limit for home in view.homes)


def sooner(view: LaneView, target: str, slots: int, idle: Sequence[Offer], now: float) -> list[str]:
    """The idle targets that would be done with the lane before `target`, the soonest first; ties by name.

    All compare the same numbers in the same order, so that of several idle targets one takes the lane and no two.
    """
    here = view.load_seconds + view.depth * view.pace(slots), target
    ranks = sorted((offer.finish_in(view.depth, now), offer.target) for offer in idle if offer.target != target)
    return [name for finish, name in ranks if (finish, name) < here]


def may_load(view: LaneView, target: str, slots: int, now: float, policy: Policy, idle: Sequence[Offer] = ()) -> bool:
    """Rule 8: whether `target` may load the lane.

    Args:
        view: The lane as this target sees it, with its homes elsewhere.
        target: This target's name.
        slots: Jobs in flight at once here.
        now: Seconds since the epoch.
        policy: `replicate` is the limit.
        idle: What the other targets offer that have nothing queued, running or loading, and may take the lane.

    Returns:
        False when a home will have finished the last queued job within 3 × (load + run) of this target, or an idle
        target would finish it sooner than this one.
    """
    return not homes_suffice(view, now, policy) and not sooner(view, target, slots, idle, now)
