"""What is learned of a lane: how long it runs and loads, the gaps between its calls, how often it is called.

Workers feed me measurements and keep what `pack` returns in the store; views are built from what I say. Pure values: each
`add` returns a new one. Without measurements I answer with the prior; nothing I say leaves its clamp. Spans in seconds,
moments in seconds since the epoch. What is worth how much: docs/adr/0021-linger-placement-and-proof.md.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Self

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

SERVICE_PRIOR: Final = 5.0
SERVICE_CLAMP: Final = (0.05, 1800.0)
SERVICE_KEPT: Final = 32
"""Runs whose mean counts."""
SERVICE_PSEUDO: Final = 2
"""How many runs the prior counts for."""
LOAD_PRIOR: Final = 10.0
LOAD_CLAMP: Final = (0.2, 600.0)
LOAD_WEIGHT: Final = 0.3
GAPS_KEPT: Final = 16
GAPS_PRIOR: Final = (0.5, 1.0, math.inf)
"""Added under `GAPS_ENOUGH` gaps: the next call may come soon, or never."""
GAPS_ENOUGH: Final = 3
HALF_LIFE: Final = 120.0
"""Seconds after which a call counts half."""


def _clamp(value: float, bounds: tuple[float, float]) -> float:
    return min(max(value, bounds[0]), bounds[1])


def _numbers(packed: object, least: int = 0) -> list[float] | None:
    """The finite numbers of a packed value; None for what is none (an older version's, or nothing)."""
    if not isinstance(packed, list | tuple) or len(packed) < least:
        return None
    if not all(isinstance(item, int | float) and not isinstance(item, bool) and math.isfinite(item) for item in packed):
        return None
    return [float(item) for item in packed]


@dataclass(frozen=True, slots=True)
class Service:
    """The expected run of a lane on a target, from claim to end: the mean of the last 32 and of two like the prior.

    A run that was cancelled or failed is none.
    """

    runs: tuple[float, ...] = ()

    def add(self, seconds: float) -> Service:
        """A run that ended well."""
        return Service((*self.runs, round(_clamp(seconds, SERVICE_CLAMP), 3))[-SERVICE_KEPT:])

    def seconds(self, prior: float = SERVICE_PRIOR) -> float:
        """The expected run. `prior`: such as the mean of the lane's other targets."""
        mean = (sum(self.runs) + SERVICE_PSEUDO * prior) / (len(self.runs) + SERVICE_PSEUDO)
        return _clamp(mean, SERVICE_CLAMP)

    def pack(self) -> list[float]:
        """As JSON takes it: the runs, oldest first."""
        return list(self.runs)

    @classmethod
    def unpack(cls, packed: object) -> Self:
        """What `pack` returned; anything else is as if nothing had been measured."""
        return cls(tuple((_numbers(packed) or [])[-SERVICE_KEPT:]))


@dataclass(frozen=True, slots=True)
class Load:
    """The expected load of a lane on a target: an EWMA with weight 0.3 of the measured preloads."""

    mean: float | None = None

    def add(self, seconds: float) -> Load:
        """A preload that ended well."""
        seconds = _clamp(seconds, LOAD_CLAMP)
        return Load(round(seconds if self.mean is None else self.mean + LOAD_WEIGHT * (seconds - self.mean), 3))

    def seconds(self, others: Iterable[Load] = ()) -> float:
        """The expected load; never measured here: the mean of the lane's other targets, else 10 s."""
        if self.mean is not None:
            return _clamp(self.mean, LOAD_CLAMP)
        known = [other.mean for other in others if other.mean is not None]
        return _clamp(sum(known) / len(known), LOAD_CLAMP) if known else LOAD_PRIOR

    def pack(self) -> list[float]:
        """As JSON takes it: the mean, or nothing."""
        return [] if self.mean is None else [self.mean]

    @classmethod
    def unpack(cls, packed: object) -> Self:
        """What `pack` returned; anything else is as if nothing had been measured."""
        numbers = _numbers(packed, 1)
        return cls(numbers[0]) if numbers else cls()


@dataclass(frozen=True, slots=True)
class Gaps:
    """How long after its last call a lane is called again: the last 16 gaps, whether it was resident or not.

    A gap runs from the moment at which nothing of the lane is queued or running anywhere to its next arrival.
    """

    gaps: tuple[float, ...] = ()

    def add(self, seconds: float) -> Gaps:
        """The lane was called again so long after it had run empty."""
        return Gaps((*self.gaps, round(max(0.0, seconds), 3))[-GAPS_KEPT:])

    def known(self) -> tuple[float, ...]:
        """The gaps for the linger; under three, with 0.5 s, 1 s and never beside them."""
        return self.gaps if len(self.gaps) >= GAPS_ENOUGH else (*self.gaps, *GAPS_PRIOR)

    def median(self) -> float:
        """The median gap; infinite where "never" is as likely."""
        ordered = sorted(self.known())
        return ordered[(len(ordered) - 1) // 2]

    def pack(self) -> list[float]:
        """As JSON takes it: the gaps, oldest first."""
        return list(self.gaps)

    @classmethod
    def unpack(cls, packed: object) -> Self:
        """What `pack` returned; anything else is as if nothing had been measured."""
        return cls(tuple((_numbers(packed) or [])[-GAPS_KEPT:]))


@dataclass(frozen=True, slots=True)
class Rate:
    """How often a lane is called: a count that halves in two minutes."""

    count: float = 0.0
    at: float = 0.0
    """When `count` was true."""

    def add(self, now: float, calls: int = 1) -> Rate:
        """Calls that came now."""
        return Rate(round(self._decayed(now) + calls, 4), round(max(now, self.at), 3))

    def per_second(self, now: float) -> float:
        """Calls per second."""
        return self._decayed(now) * math.log(2) / HALF_LIFE

    def _decayed(self, now: float) -> float:
        return float(self.count * 0.5 ** (max(0.0, now - self.at) / HALF_LIFE))

    def pack(self) -> list[float]:
        """As JSON takes it: count and moment."""
        return [self.count, self.at]

    @classmethod
    def unpack(cls, packed: object) -> Self:
        """What `pack` returned; anything else is as if there had been no call."""
        numbers = _numbers(packed, 2)
        return cls(max(0.0, numbers[0]), numbers[1]) if numbers else cls()


@dataclass(frozen=True, slots=True)
class Throughput:
    """Runs that a lane ends per second in which it runs at all: with several slots, more than 1/run and less than slots/run.

    Both sums halve every 32 runs.
    """

    runs: float = 0.0
    busy: float = 0.0
    """Seconds in which at least one run of the lane was in flight on the target."""

    def add(self, runs: int, busy_seconds: float) -> Throughput:
        """So many runs ended in so many busy seconds since the last time."""
        keep = 0.5 ** (runs / SERVICE_KEPT)
        return Throughput(round(self.runs * keep + runs, 4), round(self.busy * keep + max(0.0, busy_seconds), 4))

    def seconds_per_run(self, service: float, slots: int) -> float:
        """Busy seconds per ended run; before two ended, `service` shared by half of the slots beyond the first."""
        if self.runs < SERVICE_PSEUDO or self.busy <= 0:
            return service / (1 + (slots - 1) / 2)
        return _clamp(self.busy / self.runs, (SERVICE_CLAMP[0] / max(1, slots), SERVICE_CLAMP[1]))

    def pack(self) -> list[float]:
        """As JSON takes it: runs and busy seconds."""
        return [self.runs, self.busy]

    @classmethod
    def unpack(cls, packed: object) -> Self:
        """What `pack` returned; anything else is as if nothing had been measured."""
        numbers = _numbers(packed, 2)
        return cls(max(0.0, numbers[0]), max(0.0, numbers[1])) if numbers else cls()


def pack_all(*values: Service | Load | Gaps | Rate | Throughput) -> list[list[float]]:
    """Several in one JSON value, for one field of the store."""
    return [value.pack() for value in values]


def unpack_all(packed: Any, *kinds: type[Any]) -> Sequence[Any]:
    """What `pack_all` returned, each as its kind; what is missing or broken is empty."""
    parts = packed if isinstance(packed, list | tuple) else ()
    return [kind.unpack(parts[index] if index < len(parts) else None) for index, kind in enumerate(kinds)]
