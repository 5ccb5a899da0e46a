"""The shapes of what operators and machines ask: `/healthz`, `/readyz`, `/ops/state`.

The OpenAPI page is made from these models, and a test holds the gateway's answers to them. More keys may stand beside
those that are named, so that a newer gateway's answer is still one.
"""

from __future__ import annotations

from typing import Any

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


class TargetState(_Shape):
    """A model server."""

    name: str
    url: str
    kind: str
    state: str = Field(description="up, down or paused")
    slots: int
    resident: list[ResidentLane]
    running: list[RunningJob]
    next: dict[str, Any] | None = Field(description="the lane that comes next, and why")


class LaneState(_Shape):
    """A lane with queued jobs."""

    lane: str
    model: str
    depth: int
    oldest_wait_seconds: float
    bound_seconds: float | None
    eta_seconds: float | None
    running: int
    paused: bool


class WorkerState(_Shape):
    """A living worker, once per target it owns."""

    id: str
    target: str | None
    since: Moment


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
    jobs: JobCounts
    targets: list[TargetState]
    lanes: list[LaneState]
    workers: list[WorkerState]
    gateways: list[GatewayState]
    ledger: Ledger
