"""The targets and lanes of this moment as a dry run of the scheduler takes them (core.forecast).

web/pool/outlook.py asks me. I keep the facts of lanes by their changes and turn what workers published (residents, loads,
paces) into views, anew at most each half second and only when somebody asks. What nobody has measured is a prior.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from foreman.core.estimates import LOAD_PRIOR, SERVICE_PRIOR
from foreman.core.forecast import Prospect
from foreman.core.jobs import Priority, Slot
from foreman.core.lanes import canonical
from foreman.core.scheduler import LaneIndex, LaneView, Policy, Resident, TargetView
from foreman.core.targets import OPENAI

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import Any

    from foreman.store.queue import Queue
    from foreman.store.records import LaneFacts, TargetStatus
    from foreman.web.pool.inventory import Inventory

MAX_AGE: Final = 0.5
"""Seconds for which what was built serves."""
_SHARE: Final = 20.0
"""What was built serves at least so many times as long as building it took: ten thousand lanes must not fill the loop."""
_NEVER: Final = (0.0,) * 5


@dataclass(slots=True)
class _Desk:
    """One target's part."""

    status: TargetStatus
    digests: dict[str, str]
    """Canonical name → digest, of what it has."""
    prospect: Prospect
    groups: dict[str, list[LaneFacts]] = field(default_factory=dict)
    pinned: frozenset[str] = frozenset()
    """Canonical names of the models that it serves beside its drain, whatever their options."""

    def name(self, lane: str, model: str) -> str:
        """One name for a lane, whether it is queued by its model's name or by its digest."""
        head, _, options = lane.partition("?")
        digest = self.digests.get(canonical(model), "")
        identity = digest.removeprefix("sha256:")[:16] or head
        return f"{identity}?{options}" if options else identity


class Prospects:
    """What one gateway knows of targets and lanes, for its forecasts."""

    def __init__(self, queue: Queue, inventory: Inventory, policy: Policy) -> None:
        self._queue = queue
        self._inventory = inventory
        self._policy = policy
        self._lock = asyncio.Lock()
        self._facts: dict[str, LaneFacts] = {}
        self._paused: dict[str, float] = {}
        self._cursor = ""
        self._offset = time.time() - time.monotonic()
        self._built_at = float("-inf")
        self._good_for = 0.0
        self._desks: list[_Desk] = []
        self._digests: dict[str, tuple[float, dict[str, str]]] = {}

    def now(self) -> float:
        """The store's time."""
        return self._offset + time.monotonic()

    async def fresh(self) -> None:
        """Know the lanes and targets as they were at most half a second ago. Raises StoreUnavailableError."""
        max_age = MAX_AGE
        if time.monotonic() - self._built_at < max(max_age, self._good_for):
            return
        async with self._lock:
            if time.monotonic() - self._built_at < max(max_age, self._good_for):
                return
            await self._inventory.fresh(max_age)
            seen = await self._queue.changes(Slot.DRAIN, self._cursor)
            began = time.monotonic()
            self._offset, self._cursor = seen.now - began, seen.cursor
            if seen.whole:
                self._facts.clear()
            for lane in seen.gone:
                self._facts.pop(lane, None)
            self._facts.update((facts.lane, facts) for facts in seen.lanes)
            self._paused = seen.pauses
            self._desks = [self._desk(status) for status in self._inventory.targets if status.kind != OPENAI]
            self._built_at = time.monotonic()
            self._good_for = _SHARE * (self._built_at - began)

    def paused(self, lane: str) -> bool:
        """Whether an operator paused the lane."""
        return self._paused.get(f"lane:{lane}", 0.0) > self.now()

    def model(self, lane: str) -> str:
        """What people call a lane of the forecasts."""
        head, _, options = lane.partition("?")
        for desk in self._desks:
            for name, digest in desk.digests.items():
                if digest.removeprefix("sha256:")[:16] == head:
                    short = name.removesuffix(":latest")
                    return f"{short} ({options})" if options else short
        return lane

    def facts(self, lane: str) -> LaneFacts | None:
        """What is known of a lane with queued jobs."""
        return self._facts.get(lane)

    def of(
        self, lane: str, model: str, able: Iterable[TargetStatus], extra: LaneView | None = None
    ) -> tuple[str, list[Prospect]]:
        """The prospects of those targets for a job of a lane, and the lane's name in them.

        Args:
            lane: its key.
            model: the canonical name.
            able: the targets that are up and may take it.
            extra: a job that is not queued yet: counted in for as long as the lane's view is not built anew.
        """
        names = {status.name for status in able}
        desks = [desk for desk in self._desks if desk.status.name in names]
        if not desks:
            return lane, []
        name = desks[0].name(lane, model)
        for desk in desks:
            if desk.prospect.lanes.get(name) is None:
                view = extra or _unseen(lane, model, self.now())
                desk.prospect.lanes.put(self._view(desk.status, name, view))
        return name, [desk.prospect for desk in desks]

    def pinned(self, model: str, able: Iterable[TargetStatus]) -> bool:
        """Whether one of the targets serves a model beside its drain, because it is pinned there."""
        names = {status.name for status in able}
        return any(model in desk.pinned for desk in self._desks if desk.status.name in names)

    def load_known(self, lane: str, able: Iterable[TargetStatus]) -> bool:
        """Whether one of the targets has measured this lane's load."""
        return any(lane in status.loads for status in able)

    def load_seconds(self, lane: str) -> float:
        """The longest expected load of a lane among the targets that loaded it; else the usual one."""
        known = [status.loads[lane] for status in self._inventory.targets if lane in status.loads]
        return max(known) if known else min((_load(status, lane) for status in self._inventory.targets), default=0.0)

    def pace(self, lane: str, able: Iterable[TargetStatus]) -> list[float]:
        """The published pace of a lane on the target that is quickest with it; of a lane nobody ran, the priors."""
        return min((_pace(status, lane) for status in able), key=lambda pace: pace[1], default=list(_NEVER))

    # ------------------------------------------------------------------------ building

    def _desk(self, status: TargetStatus) -> _Desk:
        index = LaneIndex(self._policy)
        desk = _Desk(status, self._names(status), Prospect(_empty_view(status), index))
        pins = {canonical(str(held.get("model"))) for held in status.resident if held.get("pinned")}
        weights = {desk.digests.get(name) for name in pins} - {None, ""}
        desk.pinned = frozenset(pins | {name for name, digest in desk.digests.items() if digest in weights})
        for facts in self._facts.values():
            if facts.model not in desk.digests or facts.head_target_only not in {None, status.name}:
                continue
            if facts.model in desk.pinned:
                continue
            if self.paused(facts.lane):
                continue
            desk.groups.setdefault(desk.name(facts.lane, facts.model), []).append(facts)
        for name, group in desk.groups.items():
            head = min(group, key=lambda facts: (facts.head_due, facts.lane))
            low, normal, high = (sum(max(0, facts.classes[rank]) for facts in group) for rank in range(3))
            left = max((at for facts in group if (at := facts.left_at.get(status.name))), default=None)
            seen = LaneView(head.lane, head.model, head.head_due, head.head_class, (low, normal, high), left)
            index.put(self._view(status, name, seen))
        loading = None
        if status.loading is not None:
            queue = self._facts.get(status.loading)
            loading = desk.name(status.loading, queue.model if queue else status.loading)
        view = self._target_view(desk, loading)
        desk.prospect = Prospect(view, index, status.load_ends_at)
        return desk

    def _names(self, status: TargetStatus) -> dict[str, str]:
        known = self._digests.get(status.name)
        if known is None or known[0] != status.probed_at or len(known[1]) == 0:
            digests = {canonical(str(entry.get("name"))): str(entry.get("digest") or "") for entry in status.tags}
            known = self._digests[status.name] = status.probed_at, digests
        return known[1]

    def _view(self, status: TargetStatus, name: str, seen: LaneView) -> LaneView:
        run, pace, rate, gap, *_ = _pace(status, seen.lane)
        return LaneView(
            lane=name,
            model=name.partition("?")[0],
            head_due=seen.head_due,
            head_class=seen.head_class,
            classes=seen.classes,
            left_at=seen.left_at,
            load_seconds=_load(status, seen.lane),
            service_seconds=run,
            pace_seconds=pace,
            gaps=(gap,) if gap >= 0 else (),
            arrival_rate=rate,
        )

    def _target_view(self, desk: _Desk, loading: str | None) -> TargetView:
        status = desk.status
        running: dict[str, int] = {}
        for entry in status.running:
            lane = str(entry.get("lane"))
            running[lane] = running.get(lane, 0) + 1
        residents = []
        for held in status.resident:
            if held.get("pinned") or held.get("lane") == status.leaving:
                continue
            lane = str(held.get("lane"))
            name = desk.name(lane, str(held.get("model") or ""))
            run, _, rate, gap, *_ = _pace(status, lane)
            residents.append(
                Resident(
                    name,
                    name.partition("?")[0],
                    _number(held, "since", self.now()),
                    running.get(lane, 0),
                    load_seconds=_number(held, "load", _load(status, lane)),
                    idle_since=held.get("idle_since"),
                    linger_spent=_number(held, "linger_spent", 0.0),
                    service_seconds=run,
                    gaps=(gap,) if gap >= 0 else (),
                    arrival_rate=rate,
                )
            )
        view = _empty_view(status)
        return TargetView(view.name, view.slots, view.places, tuple(residents), loading=loading)


def _empty_view(status: TargetStatus) -> TargetView:
    return TargetView(status.name, status.slots, max(1, status.places))


def _unseen(lane: str, model: str, now: float) -> LaneView:
    """A lane of which nothing is known but that a job of it waits."""
    return LaneView(lane, model, now, Priority.HIGH, (0, 0, 1))


def _load(status: TargetStatus, lane: str) -> float:
    known = status.loads.get(lane)
    if known is not None:
        return known
    return sum(status.loads.values()) / len(status.loads) if status.loads else LOAD_PRIOR


def _pace(status: TargetStatus, lane: str) -> list[float]:
    """[run s, s between ends, calls/s, median gap s or -1, shortest run s or 0]."""
    known = status.paces.get(lane)
    if known is not None:
        return [*known, 0.0][:5]
    runs = [pace[0] for pace in status.paces.values()]
    usual = sum(runs) / len(runs) if runs else SERVICE_PRIOR
    return [usual, usual / (1 + (status.slots - 1) / 2), 0.0, -1.0, 0.0]


def _number(entry: Mapping[str, Any], key: str, otherwise: float) -> float:
    value = entry.get(key)
    return float(value) if isinstance(value, int | float) else otherwise
