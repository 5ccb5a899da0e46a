"""Each target's history of loads, and the pool's ledger of what swapping has cost.

Workers write one entry per load and one per end of a residency; the page, the metrics and the simulator's log read
them joined, through `store.swaps`. I keep the last thousand entries of a target for a week, and decide nothing.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from foreman.store import rows
from foreman.store.keys import LEDGER, SWAPS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from foreman.store.keys import Keys
    from foreman.store.wire import Arg, Connection

READ: Final = 1000
"""Entries read at most."""


@dataclass(frozen=True, slots=True)
class SwapRecord:
    """One residency in a target's history: a load, and what became of it. Times in seconds since the epoch."""

    target: str
    lane: str
    model: str
    """Canonical name."""
    reason: str
    """`room`, `empty`, `due` or `class` (core.scheduler.Reason), `pin`, or `found` for what somebody else loaded."""
    t0: float
    """The swap began."""
    loaded: float
    """The load had ended."""
    end: float | None = None
    """It was gone; None while it is resident."""
    ended_by: str | None = None
    """`swap`, `unload`, `idle`, `pause`, or `lost` (the target, or somebody else, put it out); None while resident."""
    victim: str | None = None
    """The lane that gave its place."""
    cut: bool = False
    """That lane still had queued jobs."""
    fifo_swaps: int = 0
    """Loads that serving in order of arrival would have done since the record before this one."""
    paid_seconds: float = 0.0
    """What fairness cost here: the load of the lane that was cut, which must come back."""


@dataclass(frozen=True, slots=True)
class SwapLedger:
    """What swapping has cost since the pool began, all targets together."""

    swaps: int = 0
    fifo_swaps: int = 0
    """Loads that serving the same jobs in order of arrival would have taken."""
    seconds_saved: float = 0.0
    """The loads that were not needed."""
    seconds_for_fairness: float = 0.0
    """The loads of lanes that had been cut."""
    by_target: dict[str, dict[str, int]] = field(default_factory=dict)
    """Target → reason → swaps."""


class Swaps:
    """The histories of one pool. All methods raise `StoreUnavailableError` when the store does not answer."""

    def __init__(self, connection: Connection, keys: Keys) -> None:
        self._connection = connection
        self._keys = keys

    async def record(self, swap: SwapRecord, saved_seconds: float = 0.0) -> None:
        """A load has ended. `saved_seconds`: what order of arrival would have cost more since the last record."""
        entry: tuple[Arg, ...] = (
            "lane", swap.lane, "model", swap.model, "reason", swap.reason, "t0", rows.ms(swap.t0), "loaded", rows.ms(swap.loaded),
            "victim", swap.victim or "", "cut", int(swap.cut), "fifo", swap.fifo_swaps, "paid", rows.ms(swap.paid_seconds),
        )  # fmt: skip
        await self._connection.script(
            "record_swap",
            self._keys.prefix,
            swap.target,
            swap.reason,
            swap.fifo_swaps,
            rows.ms(saved_seconds),
            rows.ms(swap.paid_seconds),
            *entry,
        )

    async def spared(self, fifo_swaps: int, saved_seconds: float) -> None:
        """Order of arrival would have loaded so often since the last record, and nothing had to be loaded."""
        await self._connection.script("spare", self._keys.prefix, fifo_swaps, rows.ms(saved_seconds))

    async def found(self, target: str, lane: str, model: str, at: float) -> None:
        """A lane is resident that foreman did not load."""
        fields = (
            "kind",
            "load",
            "lane",
            lane,
            "model",
            model,
            "reason",
            "found",
            "t0",
            rows.ms(at),
            "loaded",
            rows.ms(at),
        )
        await self._connection.script("record_gone", self._keys.prefix, target, *fields)

    async def gone(self, target: str, lane: str, at: float, why: str) -> None:
        """A lane is resident no longer; `why` as `SwapRecord.ended_by`."""
        fields = ("kind", "end", "lane", lane, "at", rows.ms(at), "why", why)
        await self._connection.script("record_gone", self._keys.prefix, target, *fields)

    async def of(self, target: str, last: int = READ) -> list[SwapRecord]:
        """A target's residencies, oldest first, out of its `last` entries."""
        reply = await self._connection.command("XREVRANGE", self._keys.of(SWAPS, target), "+", "-", "COUNT", last)
        return _joined(target, [rows.table(fields) for _, fields in reversed(reply)])

    async def ledger(self) -> SwapLedger:
        """What swapping has cost, all targets together."""
        row = rows.table(await self._connection.command("HGETALL", self._keys.of(LEDGER)))
        by_target: dict[str, dict[str, int]] = {}
        for name, count in row.items():
            if name.startswith("swaps:"):
                _, reason, target = name.split(":", 2)
                by_target.setdefault(target, {})[reason] = int(count)
        return SwapLedger(
            swaps=int(row.get("swaps", "0")),
            fifo_swaps=int(row.get("fifo_swaps", "0")),
            seconds_saved=int(row.get("saved_ms", "0")) / 1000,
            seconds_for_fairness=int(row.get("fairness_ms", "0")) / 1000,
            by_target=by_target,
        )


def _joined(target: str, entries: Sequence[dict[str, str]]) -> list[SwapRecord]:
    """Loads with their ends; an end without its load (trimmed) tells nothing."""
    found: list[SwapRecord] = []
    open_at: dict[str, int] = {}
    for row in entries:
        lane = row["lane"]
        if row["kind"] == "load" and row["reason"] == "found" and lane in open_at:
            continue  # another worker took the target over and found what was loaded before
        if row["kind"] == "load":
            open_at[lane] = len(found)
            found.append(
                SwapRecord(
                    target=target,
                    lane=lane,
                    model=row.get("model", ""),
                    reason=row["reason"],
                    t0=int(row["t0"]) / 1000,
                    loaded=int(row["loaded"]) / 1000,
                    victim=row.get("victim") or None,
                    cut=row.get("cut") == "1",
                    fifo_swaps=int(row.get("fifo", "0")),
                    paid_seconds=int(row.get("paid", "0")) / 1000,
                )
            )
        elif lane in open_at:
            number = open_at.pop(lane)
            found[number] = dataclasses.replace(found[number], end=int(row["at"]) / 1000, ended_by=row.get("why"))
    return found
