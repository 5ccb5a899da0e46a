"""The shapes of the async surface: the job object, artifacts, events, deliveries, errors.

The gateway's `/jobs` and the webhooks build their bodies here, so that a poller and a receiver read the same object; the
OpenAPI page is made from these models. I turn a job's record into its shape and look at no clock and no store.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any, Final

from pydantic import BaseModel, ConfigDict, Field

from foreman.core.jobs import TERMINAL, State
from foreman.protocols.gojson import overflow

if TYPE_CHECKING:
    from collections.abc import Sequence

    from foreman.core.jobs import Job

INLINE_LIMIT: Final = 262_144
"""Bytes of an artifact that stand in the object itself, inclusive (ADR-0006)."""
COMPLETION: Final = "completion"
"""The artifact that every finished job has."""
NINE: Final = ("job_id", "state", "previous_state", "timestamp", "model", "attempt", "error", "result", "artifacts")
"""The keys of ADR-0005: always present, null when empty."""

Moment = Annotated[str, Field(description="RFC 3339, UTC", json_schema_extra={"format": "date-time"})]


class _Shape(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class JobError(_Shape):
    """Why something failed: a stable code, a sentence, and whether the same may succeed later."""

    code: str
    message: str
    retryable: bool


class ErrorBody(_Shape):
    """What `/jobs`, `/deliveries` and `/ops` answer instead of what was asked for."""

    error: JobError


class Artifact(_Shape):
    """A named result. Either `inline` holds it or `url` leads to it; `size` and `sha256` are of the bytes at its URL."""

    name: str
    content_type: str
    size: int = Field(ge=0, description="bytes")
    sha256: str = Field(description="hex")
    inline: Any = Field(description="the JSON value, up to 262144 bytes; else null")
    url: str | None = Field(description="path on this gateway where `inline` is null")


class Usage(_Shape):
    """Tokens, as the target counted them."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None


class Timings(_Shape):
    """Milliseconds. What has not happened is null."""

    queued_ms: float | None = Field(None, description="submit to claim")
    loading_ms: float | None = Field(None, description="the wait for its lane's load")
    ttft_ms: float | None = Field(None, description="sent request to first byte")
    tpot_ms: float | None = Field(None, description="between two tokens from there on")
    total_ms: float | None = Field(None, description="submit to end")


class JobObject(_Shape):
    """A job as it stood at one of its transitions: a webhook's body, and what `GET /jobs/{id}` answers."""

    type: str = Field(description="job.<state>", examples=["job.done"])
    seq: int = Field(ge=1, description="1, 2, 3 … per job without gaps; ignore what is not above the last one seen")
    job_id: str
    state: State
    previous_state: State | None
    timestamp: Moment
    model: str
    attempt: int = Field(ge=1)
    error: JobError | None
    result: Any = Field(description="the completion as a call without streaming would have returned it; null where the artifact has a url")  # fmt: skip
    artifacts: list[Artifact] | None
    endpoint: str
    priority: str
    target: str | None
    created_at: Moment
    started_at: Moment | None
    finished_at: Moment | None
    usage: Usage | None
    timings: Timings | None
    metadata: dict[str, Any] | None
    surface: str
    caller: str | None
    not_before: Moment | None
    retry_of: str | None


class WaitingJobObject(JobObject):
    """A job that has not started."""

    position: int | None = Field(description="1 for the next to start; null before its `not_before`")
    eta_seconds: float | None = Field(description="to `working`, swaps included")
    waiting_for: str | None = Field(description="who is ahead, and why")


class Links(_Shape):
    """Paths of a job on this gateway."""

    self: str
    cancel: str
    events: str


class Accepted(_Shape):
    """The answer to a submitted job."""

    job_id: str
    state: State
    position: int | None
    eta_seconds: float | None
    links: Links


class JobList(_Shape):
    """A page of jobs, newest first."""

    jobs: list[JobObject]
    next_cursor: str | None


class Event(_Shape):
    """One transition."""

    seq: int
    state: State
    previous_state: State | None
    time: Moment
    worker: str | None
    reason: str
    attempt: int


class EventList(_Shape):
    """All transitions of a job, oldest first."""

    events: list[Event]


class Delivery(_Shape):
    """One attempt to tell a receiver of one event, or the word that it was not told."""

    id: str = Field(description="evt_<job>_<seq>: the same for all attempts, as in the header webhook-id")
    event: str = Field(examples=["job.done"])
    seq: int
    url: str
    attempt: int = Field(description="1 for the first; 0 where none was made")
    time: Moment
    status: int | None = Field(description="of the receiver's reply; null where none came")
    duration_ms: float | None
    error: str | None = Field(description="null where it was delivered")
    reply: str | None = Field(description="the first 1024 bytes of the reply's body")


class DeliveryList(_Shape):
    """A job's webhook log, oldest first."""

    deliveries: list[Delivery]


class Redelivery(_Shape):
    """What a wish to send an event again met."""

    id: str
    status: str = Field(description="sent: it is tried now; waiting: it is on its way, or waits for an earlier event")


def rfc3339(seconds: float) -> str:
    """A moment (seconds since the epoch) as RFC 3339 in UTC with milliseconds."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def links(job_id: str) -> Links:
    """The paths of a job."""
    return Links(self=f"/jobs/{job_id}", cancel=f"/jobs/{job_id}", events=f"/jobs/{job_id}/events")


def artifact_path(job_id: str, name: str) -> str:
    """Where an artifact's bytes are."""
    return f"/jobs/{job_id}/artifacts/{name}"


def artifact(job_id: str, name: str, content_type: str, size: int, sha256: str, body: bytes | None) -> Artifact:
    """The artifact's entry: inline up to INLINE_LIMIT, else by its URL.

    Args:
        job_id: Its job.
        name: Mostly COMPLETION.
        content_type: As `/artifacts/{name}` serves it.
        size: Bytes.
        sha256: Hex, of these bytes.
        body: The bytes; needed only up to INLINE_LIMIT. What is no JSON, or deeper than Python bears, stands inline as text.
    """
    inline = None
    if size <= INLINE_LIMIT and body is not None:
        text = body.decode(errors="replace")
        try:
            inline = json.loads(body, parse_constant=_no_number)
            inline = text if overflow(text) else inline  # Python would write the infinity it makes of 1e999
        except (ValueError, RecursionError):
            inline = text
    url = artifact_path(job_id, name) if inline is None else None
    return Artifact(name=name, content_type=content_type, size=size, sha256=sha256, inline=inline, url=url)


def _no_number(word: str) -> None:
    """Python reads and writes NaN and Infinity; JSON has neither (RFC 8259, 6)."""
    raise ValueError(f"{word} is no number")


def job_object(job: Job, timestamp: float, artifacts: Sequence[Artifact] = ()) -> JobObject:
    """A job's object as it stands in `job`.

    Args:
        job: The record; its state and seq are those of the transition to tell of.
        timestamp: Of that transition, seconds since the epoch.
        artifacts: Of a job that is done.
    """
    return JobObject(**_fields(job, timestamp, artifacts))


def waiting_object(
    job: Job, timestamp: float, position: int | None, eta_seconds: float | None, waiting_for: str | None
) -> WaitingJobObject:
    """The object of a job that has not started (see `job_object`)."""
    more = {"position": position, "eta_seconds": eta_seconds, "waiting_for": waiting_for}
    return WaitingJobObject(**_fields(job, timestamp, ()), **more)


def encode(shape: BaseModel) -> bytes:
    """A shape as JSON bytes. The same shape gives the same bytes."""
    value = shape.model_dump(mode="python")
    try:
        return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
    except UnicodeEncodeError:  # half a surrogate pair in somebody's string
        return json.dumps(value, separators=(",", ":")).encode()


def _fields(job: Job, timestamp: float, artifacts: Sequence[Artifact]) -> dict[str, Any]:
    ended = job.state in TERMINAL
    completion = next((one for one in artifacts if one.name == COMPLETION), None)
    return {
        "type": f"job.{job.state}",
        "seq": job.seq,
        "job_id": job.id,
        "state": job.state,
        "previous_state": job.previous_state,
        "timestamp": rfc3339(timestamp),
        "model": job.model,
        "attempt": job.attempt,
        "error": JobError(**job.error) if job.error and ended else None,
        "result": completion.inline if completion else None,
        "artifacts": list(artifacts) or None,
        "endpoint": job.endpoint,
        "priority": job.priority.word,
        "target": job.target,
        "created_at": rfc3339(job.created_at),
        "started_at": _moment(job.started_at),
        "finished_at": _moment(job.finished_at),
        "usage": Usage(**_known(Usage, job.usage)) if job.usage else None,
        "timings": Timings(**_known(Timings, job.timings)) if job.timings else None,
        "metadata": job.metadata,
        "surface": job.surface.value,
        "caller": job.caller,
        "not_before": _moment(job.not_before),
        "retry_of": job.retry_of,
    }


def _moment(seconds: float | None) -> str | None:
    return None if seconds is None else rfc3339(seconds)


def _known(shape: type[BaseModel], values: dict[str, Any]) -> dict[str, Any]:
    """What the shape has a place for; a newer worker may say more."""
    return {name: value for name, value in values.items() if name in shape.model_fields}
