"""What the pool's other targets offer for a lane, as their workers published it (rule 8).

The dispatcher's choice asks me who holds a lane elsewhere and which idle target would be sooner done with it. My answers
are at most half a second old; two targets may so load one lane at once, which costs a load and breaks nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from foreman.core.estimates import LOAD_PRIOR, SERVICE_PRIOR
from foreman.core.lanes import canonical
from foreman.core.targets import OPENAI
from foreman.core.views import Offer

if TYPE_CHECKING:
    from collections.abc import Collection

    from foreman.store.records import TargetStatus


class Rivals:
    """The targets beside the one called `name`."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._able: tuple[TargetStatus, ...] = ()
        self._models: dict[str, frozenset[str]] = {}
        self._homes: dict[str, tuple[Offer, ...]] = {}

    def learn(self, statuses: Collection[TargetStatus]) -> set[str]:
        """Take the latest publications; the lanes whose homes differ by that."""
        self._able = tuple(
            status
            for status in statuses
            if status.name != self._name and status.state == "up" and status.pause is None and not status.stopping
        )
        self._models = {
            status.name: frozenset(canonical(str(entry.get("name"))) for entry in status.tags) for status in self._able
        }
        homes: dict[str, list[Offer]] = {}
        for status in self._able:
            held = {str(entry.get("lane")) for entry in status.resident}
            for lane in held:
                homes.setdefault(lane, []).append(Offer(status.name, _pace(status, lane)))
            if status.loading is not None and status.loading not in held:
                offer = Offer(status.name, _pace(status, status.loading), ready_at=status.load_ends_at or 0.0)
                homes.setdefault(status.loading, []).append(offer)
        before, self._homes = self._homes, {lane: tuple(offers) for lane, offers in homes.items()}
        return {lane for lane in before.keys() | self._homes.keys() if before.get(lane) != self._homes.get(lane)}

    @property
    def any(self) -> bool:
        """Whether there are others that work."""
        return bool(self._able)

    def homes(self, lane: str, model: str) -> tuple[Offer, ...]:
        """Those that hold or load the lane and may serve it, by its model's canonical name; an `openai` target holds whatever it lists.

        What `only` or `never` keeps away can be loaded all the same, from before or by somebody else. Its target lists
        it not, and never takes the lane.
        """
        held = self._homes.get(lane, ())
        servers = [status for status in self._able if status.kind == OPENAI]
        if not held and not servers:
            return ()
        found = tuple(offer for offer in held if model in self._models[offer.target])
        return found + tuple(
            Offer(status.name, _pace(status, lane)) for status in servers if model in self._models[status.name]
        )

    def load_seconds(self, lane: str) -> float | None:
        """The mean of the lane's loads on the others; None where none of them has measured one."""
        known = [status.loads[lane] for status in self._able if lane in status.loads]
        return sum(known) / len(known) if known else None

    def service_seconds(self, lane: str) -> float | None:
        """The mean of the lane's runs on the others; None where none of them knows it."""
        known = [status.paces[lane][0] for status in self._able if lane in status.paces]
        return sum(known) / len(known) if known else None

    def idle(self, lane: str, model: str, queued: Collection[str]) -> list[Offer]:
        """What those offer that have nothing queued, running or loading and may take the lane.

        Args:
            lane: its key.
            model: its model's canonical name.
            queued: all lanes with queued jobs.
        """
        return [
            Offer(status.name, _pace(status, lane), _load(status, lane))
            for status in self._able
            if model in self._models[status.name]
            and status.kind != OPENAI
            and not status.running
            and status.loading is None
            and not any(str(entry.get("lane")) in queued for entry in status.resident)
        ]


def _pace(status: TargetStatus, lane: str) -> float:
    known = status.paces.get(lane)
    if known is not None:
        return known[1]
    others = [pace[1] for pace in status.paces.values()]
    return sum(others) / len(others) if others else SERVICE_PRIOR


def _load(status: TargetStatus, lane: str) -> float:
    known = status.loads.get(lane)
    if known is not None:
        return known
    return sum(status.loads.values()) / len(status.loads) if status.loads else LOAD_PRIOR
