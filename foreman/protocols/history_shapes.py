"""The shapes of what operators look back at: `/ops/failures`, `/ops/swaps`, `/ops/counts`, `/ops/receivers`.

The OpenAPI page is made from these models, and a test holds the gateway's answers to them.
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from foreman.protocols.job_object import Moment  # noqa: TC001 - pydantic reads it when the models are made


class _Shape(BaseModel):
    model_config = ConfigDict(frozen=True, extra="allow")


class FailureGroup(_Shape):
    """Failures of one code; lists hold the newest five."""

    code: str
    count: int
    last_at: Moment
    message: str = Field(description="of the last one")
    job_ids: list[str]
    models: list[str]
    targets: list[str]


class FailureList(_Shape):
    """The last failures by code, the most recent code first."""

    failures: list[FailureGroup]
    looked_at: int = Field(description="how many were grouped, the last thousand at most")
    total: int = Field(description="jobs that failed since the pool began")


class Residency(_Shape):
    """A lane's time on a target."""

    lane: str
    model: str
    reason: str = Field(description="room, empty, due, class; pin; found for what somebody else loaded")
    began: Moment = Field(description="of its load")
    loaded: Moment
    ended: Moment | None = Field(description="null while it is resident")
    ended_by: str | None
    victim: str | None = Field(description="the lane that gave its place")
    cut: bool = Field(description="that one still had queued jobs")


class Ran(_Shape):
    """A job that has run."""

    job_id: str
    lane: str
    state: str
    began: Moment
    ended: Moment


class TargetHistory(_Shape):
    """What a target held and ran."""

    name: str
    residencies: list[Residency]
    jobs: list[Ran] = Field(description="newest first; a thousand of all targets together at most")


class SwapHistory(_Shape):
    """A timeline."""

    since: Moment
    until: Moment
    targets: list[TargetHistory]


class Tally(_Shape):
    """What happened in an hour or a day (UTC)."""

    begins: Moment
    jobs: dict[str, dict[str, int]] = Field(description="jobs that ended: surface → state → how many")
    webhooks: dict[str, dict[str, int]] = Field(
        description="receivers' hosts → attempts delivered, failed, gone; deliveries superseded, exhausted"
    )


class TallyList(_Shape):
    """Hours or days, the newest first; those in which nothing happened are left out."""

    counts: list[Tally]


class Receiver(_Shape):
    """A URL that webhooks go to."""

    url: str
    open: int = Field(description="deliveries that have not ended")
    delivered: int
    failed: int = Field(description="attempts that failed")
    failures: int = Field(description="of those, in a row up to now")
    standing: str
    status: int | None = Field(description="of the last reply")
    error: str | None
    tried_at: Moment | None
    next_at: Moment | None


class ReceiverList(_Shape):
    """Who is told, those heard of last first."""

    receivers: list[Receiver]
