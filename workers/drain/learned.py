"""What a target's worker has learned of its lanes: how long they run and how often they are called.

The dispatcher tells me of claims and ends of runs; views, the forecast and the target's record are built from what I say.
I hand the store what changed with the target's next publication, and take it over from there at the start. Loads are
the residency's to learn.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from foreman.core.estimates import SERVICE_PRIOR, Gaps, Rate, Service, Throughput, pack_all, unpack_all

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_FEW: Final = 32
"""Lanes up to which their mean is taken at each end of a run; beyond, at each so many'th."""
KEPT: Final = 512
"""Lanes that are remembered; callers name options, and so lanes, without end."""


@dataclass(slots=True)
class Lane:
    """One lane here."""

    service: Service = field(default_factory=Service)
    gaps: Gaps = field(default_factory=Gaps)
    rate: Rate = field(default_factory=Rate)
    throughput: Throughput = field(default_factory=Throughput)
    empty_at: float | None = None
    """Since when nothing of it is queued or running; None while something is, or where it was never seen to run."""
    running: int = 0
    busy_since: float = 0.0
    ended: int = 0
    """Runs that ended well since `busy_since`."""

    def pack(self) -> str:
        """As the store keeps it."""
        return json.dumps(pack_all(self.service, self.gaps, self.rate, self.throughput), separators=(",", ":"))


@dataclass(frozen=True, slots=True)
class Pace:
    """What is expected of a lane on a target, in seconds."""

    service_seconds: float
    """From claim to end of one run."""
    seconds_per_run: float
    """Between two ends while it drains, all slots at work."""
    gaps: tuple[float, ...]
    rate: float
    """Calls per second."""
    median_gap: float


class Learned:
    """The lanes of one target, the last used last."""

    def __init__(self, slots: int) -> None:
        self._slots = slots
        self._lanes: dict[str, Lane] = {}
        self._changed: set[str] = set()
        self._forgotten: set[str] = set()
        self._ended = 0
        self.usual = SERVICE_PRIOR
        """Seconds that a run of a lane is taken to last of which nobody knows anything."""

    def remember(self, packed: Mapping[str, str]) -> None:
        """Take over what the store has of lanes that are not known better here."""
        for name, text in packed.items():
            if name in self._lanes:
                continue
            try:
                parts = json.loads(text)
            except ValueError:
                continue
            service, gaps, rate, throughput = unpack_all(parts, Service, Gaps, Rate, Throughput)
            self._lanes[name] = Lane(service, gaps, rate, throughput)
        self._trim()
        self._learn_usual()

    def claimed(self, name: str, created_at: float, now: float) -> None:
        """A job of the lane was claimed that had come at `created_at`."""
        lane = self._lane(name)
        if lane.empty_at is not None and created_at > lane.empty_at:
            lane.gaps = lane.gaps.add(created_at - lane.empty_at)
        lane.empty_at = None
        lane.rate = lane.rate.add(created_at)
        if lane.running == 0:
            lane.busy_since = now
        lane.running += 1

    def loaded(self, name: str, now: float) -> None:
        """Its load has ended: only from here on is it busy."""
        self._lane(name).busy_since = now

    def ended(self, name: str, now: float, seconds: float | None, *, more: bool) -> None:
        """A run has let go of the target.

        Args:
            name: its lane.
            now: seconds since the epoch.
            seconds: how long it ran from the request on; None where it did not end well.
            more: jobs of the lane are queued.
        """
        lane = self._lane(name)
        lane.running = max(0, lane.running - 1)
        if seconds is not None:
            lane.service = lane.service.add(seconds)
            lane.ended += 1
            self._learn_usual()
        if lane.running == 0 or seconds is not None:
            lane.throughput = lane.throughput.add(lane.ended, now - lane.busy_since)
            lane.ended, lane.busy_since = 0, now
        if lane.running == 0 and not more:
            lane.empty_at = now

    def pace(self, name: str, now: float, elsewhere: float | None = None) -> Pace:
        """What to expect of a lane; `elsewhere`: the run of it on other targets, the prior where they know it."""
        lane = self._lanes.get(name) or Lane()
        service = lane.service.seconds(self.usual if elsewhere is None else elsewhere)
        return Pace(
            service,
            lane.throughput.seconds_per_run(service, self._slots),
            lane.gaps.known(),
            lane.rate.per_second(now),
            lane.gaps.median(),
        )

    def _learn_usual(self) -> None:
        """What a lane that was never seen is taken to run: the mean of those that were."""
        self._ended += 1
        if len(self._lanes) > _FEW and self._ended % _FEW:
            return
        means = [sum(lane.service.runs) / len(lane.service.runs) for lane in self._lanes.values() if lane.service.runs]
        if means:
            self.usual = sum(means) / len(means)

    def changes(self) -> tuple[dict[str, str], list[str]]:
        """What to write: lanes that changed since the last time, packed, and lanes that are kept no longer."""
        changed = {name: self._lanes[name].pack() for name in self._changed if name in self._lanes}
        forgotten = sorted(self._forgotten)
        self._changed.clear()
        self._forgotten.clear()
        return changed, forgotten

    def unwritten(self, changed: Iterable[str], forgotten: Iterable[str]) -> None:
        """These words of `changes` did not reach the store."""
        self._changed.update(changed)
        self._forgotten.update(name for name in forgotten if name not in self._lanes)

    def published(self, names: Iterable[str], now: float) -> dict[str, Any]:
        """What gateways are told: lane → [run s, s between ends, calls/s, median gap s or -1 for never, shortest run s]."""
        found = {}
        for name in names:
            pace = self.pace(name, now)
            gap = pace.median_gap if pace.median_gap != float("inf") else -1.0
            lane = self._lanes.get(name)
            shortest = min(lane.service.runs, default=0.0) if lane is not None else 0.0
            spans = pace.service_seconds, pace.seconds_per_run, pace.rate, gap, shortest
            found[name] = [round(span, 5) for span in spans]
        return found

    def _lane(self, name: str) -> Lane:
        lane = self._lanes.pop(name, None) or Lane()
        self._lanes[name] = lane
        self._changed.add(name)
        self._forgotten.discard(name)
        self._trim()
        return lane

    def _trim(self) -> None:
        while len(self._lanes) > KEPT:
            oldest = next(iter(self._lanes))
            del self._lanes[oldest]
            self._changed.discard(oldest)
            self._forgotten.add(oldest)
