"""What operators look at and nobody decides by: lanes at a glance, what was counted, failures, how processes do.

The gateway's `/ops` and `/metrics` call me through `store.views`; I turn scripts' replies into values. What I tell is
bounded, however much there is: the rest is counted.
"""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass
from typing import Any, Final

from foreman.core.jobs import Priority, Slot, State
from foreman.protocols.job_object import INLINE_LIMIT
from foreman.store import rows
from foreman.store.roster import Roster

LOOKED: Final = 1000
"""Failures that are grouped, and runs that a timeline shows, at most."""
RUNNING: Final = 1000
_STATES: Final = {state.value.encode(): state for state in State}
_SLOTS: Final = {slot.value.encode(): slot for slot in Slot}


@dataclass(frozen=True, slots=True)
class LaneGlance:
    """A lane with queued jobs, as people see it."""

    slot: Slot
    lane: str
    model: str
    depth: int
    head_due: float
    head_class: Priority
    oldest_since: float
    """Since when the oldest of its jobs waits: since it came, or since its `not_before`."""
    position: int
    """The place of its head among all queued jobs of the slot by due; 1 for the next."""
    left_at: float | None = None
    """When a target last left it with jobs in it (s since the epoch); None for never."""


@dataclass(frozen=True, slots=True)
class Glance:
    """The lanes at one moment."""

    now: float
    total: int
    """Lanes with queued jobs."""
    jobs: int
    """Jobs in them."""
    lanes: tuple[LaneGlance, ...]
    """The deepest, then those that are due first."""


@dataclass(frozen=True, slots=True)
class Meters:
    """What was counted since the pool began, and what /metrics tells of this moment."""

    now: float
    counts: dict[str, int]
    """As include/meters.lua spells it: `jobs:<state>:<endpoint>`, `bucket:<histogram>:<number>` …"""
    open_deliveries: int
    turn_since: float | None
    """Since when the delivery that waits longest has its turn."""
    pauses: int


@dataclass(frozen=True, slots=True)
class Recent:
    """How one run of a lane went; durations in milliseconds, None where there is none."""

    state: State
    code: str
    """Of a failure."""
    ttft: float | None
    """Of an answer that was streamed."""
    tpot: float | None
    queued: float | None
    caller: str | None


@dataclass(frozen=True, slots=True)
class FailureGroup:
    """Failures of one code, among the last LOOKED; lists hold the newest five."""

    code: str
    count: int
    last: float
    message: str
    """Of the last one."""
    job_ids: tuple[str, ...]
    models: tuple[str, ...]
    targets: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Failures:
    """The last failures."""

    looked_at: int
    total: int
    """Since the pool began."""
    groups: tuple[FailureGroup, ...]


@dataclass(frozen=True, slots=True)
class Ran:
    """A job that has run."""

    job_id: str
    target: str
    lane: str
    state: State
    began: float
    ended: float


@dataclass(frozen=True, slots=True, eq=False)
class RunningJob:
    """A job in loading or working, as people see it, the same object while it stays so; `core.jobs.Job` has the rest."""

    id: str
    state: State
    lane: str
    model: str
    endpoint: str
    slot: Slot
    claimed_at: float
    target: str
    caller: str | None
    surface: str


class Views(Roster):
    """The views of one pool. All methods raise `StoreUnavailableError`."""

    async def lanes(self, most: int, word: str = "") -> Glance:
        """At most so many lanes of the drain and of the embedding slot; `word`: those whose model or key has it."""
        reply = await self._script("lanes", most, word.lower())
        lanes = tuple(
            LaneGlance(
                slot=Slot(slot.decode()),
                lane=lane.decode(),
                model=model.decode(),
                depth=int(depth),
                head_due=float(due) / 1000,
                head_class=Priority(int(priority)),
                oldest_since=float(oldest) / 1000,
                position=int(rank) + 1,
                left_at=int(left) / 1000 or None,
            )
            for slot, lane, model, depth, due, priority, oldest, rank, left in reply[3:]
        )
        return Glance(int(reply[0]) / 1000, int(reply[1]), int(reply[2]), lanes)

    async def running(self) -> list[RunningJob]:
        """What runs, those claimed first coming first; RUNNING of each state at most."""
        return [_running(*row) for row in await self._script("running", RUNNING)]

    async def meters(self) -> Meters:
        """What was counted so far."""
        now, counts, _, deliveries, since, pauses = await self._script("meters")
        table = {name: int(count) for name, count in rows.table(counts).items()}
        return Meters(int(now) / 1000, table, int(deliveries), float(since) / 1000 if since else None, int(pauses))

    async def recent(self, lanes: list[str]) -> dict[str, list[Recent]]:
        """How the last runs of these lanes went, the newest first; of the last hour, 32 each."""
        if not lanes:
            return {}
        reply = await self._script("recent", *lanes)
        return {lane: [_recent(line) for line in lines] for lane, lines in zip(lanes, reply, strict=True)}

    async def failures(self) -> Failures:
        """The last failures, grouped by code."""
        reply = await self._script("failures", LOOKED)
        groups = tuple(
            FailureGroup(code.decode(), int(count), float(last) / 1000, message.decode(), *map(_lines, lists))
            for code, count, last, message, *lists in reply[2:]
        )
        return Failures(int(reply[0]), int(reply[1]), groups)

    async def ran(self, since: float) -> list[Ran]:
        """The jobs that ran and ended since a moment, newest end first; LOOKED at most."""
        reply = await self._script("ran", rows.ms(since), LOOKED)
        return [
            Ran(
                job_id.decode(),
                target.decode(),
                lane.decode(),
                State(state.decode()),
                int(began) / 1000,
                int(end) / 1000,
            )
            for job_id, target, lane, state, began, end in reply
        ]

    async def resendable(self, deliveries: list[str]) -> set[str]:
        """Those of these deliveries that can be sent again: their bytes are kept, or can be made anew."""
        kept = await self._script("resendable", INLINE_LIMIT, *deliveries) if deliveries else ()
        return {one.decode() for one in kept}

    async def live(self, role: str, name: str, said: dict[str, Any]) -> None:
        """Note how a process does; it counts for 10 s."""
        await self._script("live", f"{role}:{name}", json.dumps(said, separators=(",", ":")))

    async def lives(self) -> list[dict[str, Any]]:
        """How all processes do: what they said, with `role` and `id`."""
        reply = rows.table(await self._script("live", "", ""))
        found = []
        for who, text in sorted(reply.items()):
            role, _, name = who.partition(":")
            found.append({**json.loads(text), "role": role, "id": name})
        return found


@functools.lru_cache(maxsize=2 * RUNNING)  # asked twice a second, and the same for as long as a job runs
def _running(job_id: bytes, state: bytes, *more: bytes) -> RunningJob:
    lane, model, endpoint, slot, claimed, target, caller, surface = more
    return RunningJob(
        id=job_id.decode(),
        state=_STATES[state],
        lane=lane.decode(),
        model=model.decode(),
        endpoint=endpoint.decode(),
        slot=_SLOTS[slot],
        claimed_at=int(claimed) / 1000,
        target=target.decode(),
        caller=caller.decode() or None,
        surface=surface.decode(),
    )


def _recent(line: bytes) -> Recent:
    state, code, ttft, tpot, queued, caller = line.decode().split("\n", 5)
    return Recent(State(state), code, _number(ttft), _number(tpot), _number(queued), caller or None)


def _number(text: str) -> float | None:
    return float(text) if text else None


def _lines(text: bytes) -> tuple[str, ...]:
    return tuple(text.decode().split("\n")) if text else ()
