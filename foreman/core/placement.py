"""Which target may load a lane when there are several (rule 8 of docs/adr/0009-drain-by-model.md).

core.index and core.scheduler ask me with what other targets offer; I answer from those facts alone: a target loads a lane
whose homes don't suffice and that no idle target would be done with sooner. I know nothing of
`only` and `never`, and of who is down: whoever makes the offers leaves those out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from foreman.core.fairness import Policy
    from foreman.core.views import LaneView, Offer


def homes_suffice(view: LaneView, now: float, policy: Policy) -> bool:
    """A target that holds or loads the lane works its backlog off within `policy.replicate` × (load + run) here."""
    limit = policy.replicate * (view.load_seconds + view.service_seconds)
    return any(home.finish_in(view.depth, now) <= limit for home in view.homes)


def sooner(view: LaneView, target: str, slots: int, idle: Sequence[Offer], now: float) -> list[str]:
    """The idle targets that would be done with the lane before `target`, the soonest first; ties by name.

    Idle are those with nothing queued, running or loading that may take the lane; `slots` are those of `target`.

    All compare the same numbers in the same order, so that of several idle targets one takes the lane and no two.
    """
    here = view.load_seconds + view.depth * view.pace(slots), target
    ranks = sorted((offer.finish_in(view.depth, now), offer.target) for offer in idle if offer.target != target)
    return [name for finish, name in ranks if (finish, name) < here]
