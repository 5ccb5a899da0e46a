"""The shapes of what operators and machines ask: `/healthz`, `/readyz`, `/ops/…`.

The OpenAPI page is made from these models, and a test holds the gateway's answers to them. More keys may stand beside
those that are named, so that a newer gateway's answer is still one.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from foreman.protocols.job_object import Moment  # noqa: TC001 - pydantic reads it when the models are made


class _Shape(BaseModel):
    model_config = ConfigDict(frozen=True, extra="allow")


class Health(_Shape):
    """Whether this gateway works, and what is not well behind it."""

    status: str = Field(examples=["ok"])
    degraded: bool
    reasons: list[str]
    version: str


class Ready(_Shape):
    """Whether new calls would be taken."""

    status: str = Field(examples=["ready", "leaving", "store unavailable"])


class StoreState(_Shape):
    """How the store does."""

    status: str
    latency_ms: float | None
    used_bytes: int | None = Field(None, description="requests, kept answers and the bodies of open deliveries")
    limit_bytes: int | None = Field(None, description="FOREMAN_STORE_BYTES of the gateway that submitted last")


class JobCounts(_Shape):
    """Jobs by state: the living ones now, the ended ones since the pool began."""

    queued: int
    loading: int
    working: int
    done: int
    failed: int
    cancelled: int


class ResidentLane(_Shape):
    """A lane that a target holds."""

    lane: str | None
    since: Moment | None


class RunningJob(_Shape):
    """A job that a target runs."""

    job_id: str
    lane: str
    state: str
    since: Moment | None
    tokens: int | None
    tokens_per_second: float | None


class Pause(_Shape):
    """What an operator wants of a target."""

    since: Moment
    until: Moment | None = Field(description="when it resumes by itself")
    unload: bool = Field(description="it is to hold nothing meanwhile")


class TargetState(_Shape):
    """A model server."""

    name: str
    url: str
    kind: str
    state: str = Field(description="up, down or paused")
    since: Moment
    pause: Pause | None
    slots: int
    resident: list[ResidentLane]
    running: list[RunningJob]
    next: dict[str, Any] | None = Field(description="the lane that comes next, and why")


class Spread(_Shape):
    """The middle and the slow end of some durations, milliseconds."""

    p50: float
    p95: float


class LaneRecord(_Shape):
    """How the last runs of a lane went, 32 at most."""

    runs: int
    failed: int
    codes: dict[str, int] = Field(description="of the failed ones")
    ttft_ms: Spread | None
    tpot_ms: Spread | None
    queued_ms: Spread | None
    callers: list[str] = Field(description="names of tokens")


class LaneState(_Shape):
    """A lane with queued or running jobs, or one that is paused."""

    lane: str
    model: str
    slot: str = Field(description="drain, or embed for the slot beside it")
    depth: int
    oldest_wait_seconds: float
    oldest_since: Moment | None
    bound_seconds: float | None = Field(description="what the oldest wait stays below, by the promise of no starvation")
    eta_seconds: float | None = Field(description="until its next job works; null while it can't be told")
    priority: str | None = Field(description="the class of the job that is due first")
    running: int
    recent: LaneRecord | None = Field(description="how its last runs went; null where none ended within the hour")
    paused: bool
    paused_since: Moment | None
    paused_until: Moment | None = Field(description="when it resumes by itself")


class LanesMore(_Shape):
    """Lanes without a row of their own, and the jobs in them."""

    lanes: int
    jobs: int


class LaneList(_Shape):
    """Lanes that have a word."""

    lanes: list[LaneState]
    lanes_more: LanesMore


class WorkerState(_Shape):
    """A living worker, once per target it owns."""

    id: str
    target: str | None
    since: Moment


class Process(_Shape):
    """How a process does; a word a second, shown each 5 s."""

    role: str = Field(description="gateway, worker or background")
    id: str
    version: str
    loop_lag_ms: float = Field(description="how far behind it was at most in a second")
    store_latency_ms: float | None
    rss_bytes: int | None
    tasks: int = Field(description="what it has in hand at this moment")
    files_worst: int = Field(description="open files at most within the last minute, or a few less")
    files_limit: int


class GatewayState(_Shape):
    """A living gateway."""

    id: str
    callers: int


class Ledger(_Shape):
    """What swapping cost."""

    swaps: int
    fifo_swaps: int | None
    seconds_saved: float | None
    seconds_for_fairness: float | None


class PoolState(_Shape):
    """The whole pool at one moment."""

    now: Moment
    version: str
    store: StoreState
    reasons: list[str] = Field(description="why the pool is not at its best; empty when it is")
    jobs: JobCounts
    targets: list[TargetState]
    lanes: list[LaneState] = Field(description="the deepest and those that are due first, 200 at most")
    lanes_more: LanesMore
    as_of: Moment | None = Field(description="while the store is away: of when this is")
    workers: list[WorkerState]
    gateways: list[GatewayState]
    processes: list[Process]
    ledger: Ledger


class Paused(_Shape):
    """A lane or a target after somebody paused or resumed it."""

    kind: Literal["lane", "target"]
    name: str
    paused: bool
    since: Moment | None
    until: Moment | None = Field(description="when it resumes by itself; null: when somebody resumes it")
    unload: bool = Field(description="the target holds nothing meanwhile")
    changed: bool = Field(description="false for a resume of what was not paused")


class Cleared(_Shape):
    """What clearing a lane did."""

    lane: str
    cancelled: int
    left: int = Field(description="jobs that came meanwhile")


class Deed(_Shape):
    """One thing that an operator did."""

    id: str
    time: Moment
    who: str = Field(description="the name of the token; `operator` for FOREMAN_TOKEN, or where no token is set")
    action: Literal["pause", "resume", "clear", "cancel", "retry", "redeliver"]
    kind: Literal["lane", "target", "job", "delivery"]
    name: str
    outcome: str


class Audit(_Shape):
    """What operators did, newest first."""

    audit: list[Deed]
