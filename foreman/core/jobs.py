"""What a job is, which states it has and which moves between them are legal.

Everybody calls me; I call nobody. The transition table below is the only copy: the Lua scripts get it as
arguments and the picture in docs/architecture.md is generated from it. A move that isn't in it changes nothing.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import Any, Final


class State(enum.StrEnum):
    """Where a job stands; the strings are fixed on the wire (ADR-0004)."""

    QUEUED = "queued"
    LOADING = "loading"
    """Claimed; the target loads the job's lane first."""
    WORKING = "working"
    """The target holds the lane and has the request. Sync streams begin here."""
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


TERMINAL: Final = frozenset({State.DONE, State.FAILED, State.CANCELLED})
RUNNING: Final = frozenset({State.LOADING, State.WORKING})
"""The states in which a worker holds a lease on the job."""

TRANSITIONS: Final[dict[State, frozenset[State]]] = {
    State.QUEUED: frozenset({State.LOADING, State.WORKING, State.FAILED, State.CANCELLED}),
    State.LOADING: frozenset({State.WORKING, State.QUEUED, State.FAILED, State.CANCELLED}),
    State.WORKING: frozenset({State.DONE, State.QUEUED, State.FAILED, State.CANCELLED}),
    State.DONE: frozenset(),
    State.FAILED: frozenset(),
    State.CANCELLED: frozenset(),
}
"""From each state, the states that may follow it. queued → loading|working is the claim; → queued is a hand-back."""


def sources(to: State) -> tuple[State, ...]:
    """The states from which `to` may be reached, in the table's order; what a script gets as its guard."""
    return tuple(state for state, nexts in TRANSITIONS.items() if to in nexts)


class Priority(enum.IntEnum):
    """The class of a job. A higher one is served first and has the earlier due (`FOREMAN_DUE_AFTER`)."""

    LOW = 0
    NORMAL = 1
    HIGH = 2

    @property
    def word(self) -> str:
        """The word on the wire: `high`, `normal` or `low`."""
        return self.name.lower()

    @classmethod
    def of(cls, word: str) -> Priority:
        """The class a caller named. Raises ValueError for any other word."""
        for member in cls:
            if member.word == word:
                return member
        raise ValueError(f"{word!r} is no priority: use high, normal or low")


class Surface(enum.StrEnum):
    """Through which door a job came."""

    SYNC = "sync"
    ASYNC = "async"


class Slot(enum.StrEnum):
    """Which of a target's slots runs a job."""

    DRAIN = "drain"
    """The lanes that the scheduler drains one after another."""
    EMBED = "embed"
    """The embedding slot, beside the drain (ADR-0013)."""
    SIDE = "side"
    """show, model management, unload wishes: beside the drain, loads nothing."""


@dataclass(frozen=True, slots=True)
class Artifact:
    """A named result of a job, as its record tells of it; the bytes are in the store (store.answers)."""

    name: str
    content_type: str
    size: int
    """Bytes."""
    sha256: str
    """Hex, of the bytes."""


@dataclass(frozen=True, slots=True)
class Job:
    """A job's record as the store holds it. Times are seconds since the epoch, UTC."""

    id: str
    state: State
    surface: Surface
    endpoint: str
    """The path it came by, such as `/api/chat`."""
    model: str
    """The caller's own string, as it goes upstream."""
    lane: str
    slot: Slot
    priority: Priority
    attempt: int
    """1 for the first; counts up with each lost worker or reset upstream."""
    epoch: int
    """The fencing number: rises with each claim and each hand-back."""
    seq: int
    """The number of the job's last event: 1, 2, 3 … without gaps."""
    created_at: float
    due: float
    changed_at: float = 0.0
    """When it came into its state."""
    deadline: float | None = None
    """When it must be finished; None for never."""
    started_at: float | None = None
    """The first `working`."""
    finished_at: float | None = None
    claimed_at: float | None = None
    previous_state: State | None = None
    gateway: str | None = None
    """The gateway whose caller waits; None for the async surface."""
    worker: str | None = None
    target: str | None = None
    targets: tuple[str, ...] = ()
    """The targets that had its model when it came; empty: any."""
    target_only: str | None = None
    """The target its caller asked for (`X-Foreman-Target`), or None."""
    caller: str | None = None
    """The name of the token that sent it, or None."""
    cancel_reason: str | None = None
    """Set while somebody wishes it cancelled: the error code it will end with."""
    error: dict[str, Any] | None = None
    """`{"code", "message", "retryable"}` when it failed."""
    usage: dict[str, int] = field(default_factory=dict)
    timings: dict[str, float] = field(default_factory=dict)
    artifacts: tuple[Artifact, ...] = ()
    """What is kept of its answer."""
    state_webhook_url: str | None = None
    webhook_events: frozenset[State] = frozenset(State)
    """The states its webhook is told of."""
    metadata: dict[str, Any] | None = None
    """The caller's own object, echoed."""
    not_before: float | None = None
    """When it may start; until then it stands in no lane."""
    retry_of: str | None = None
    """The job that this one repeats."""
    idempotency_key: str | None = None
    stream: bool = True
    """Its request asks for a stream."""
    finish: bool = False
    """A sync job that runs on without its caller, and whose answer is kept."""
    readers: tuple[tuple[str, str], ...] = ()
    """Who attached to it beside its first caller: gateway, and the id by which that knows the reader."""
    answer_head: str | None = None
    """Of a sync job that is done and kept: status, headers and framing of its answer, JSON (protocols.link)."""
