"""What a caller of `POST /jobs` says beside the native payload: foreman's own fields, checked.

The gateway calls `check` with what protocols.envelope took off, and openapi asks for the model's schema. What is wrong is
a Failure (422) that begins with the field's name and says what would be right.
"""

from __future__ import annotations

import json
import math
import re
from datetime import UTC, datetime
from typing import Annotated, Any, Final, NoReturn

from pydantic import BaseModel, BeforeValidator, ConfigDict, JsonValue, ValidationError, WithJsonSchema

from foreman.core.errors import Code, Failure
from foreman.core.jobs import Priority, State
from foreman.protocols.paths import INFERENCE

ENDPOINTS: Final = INFERENCE
"""The paths whose payload a job may carry."""
METADATA_LIMIT: Final = 4096
"""Bytes of metadata as compact JSON in UTF-8."""
URL_LIMIT: Final = 2048
FURTHEST: Final = 7 * 86_400.0
"""Seconds that `not_before` may lie ahead."""
LONGEST: Final = 10 * 365 * 86_400.0
"""Seconds that stand for any later deadline: what clocks and scripts can still reckon with."""

EXAMPLE: Final[dict[str, JsonValue]] = {
    "model": "llama3.2",
    "messages": [{"role": "user", "content": "Why is the sky blue?"}],
    "priority": "low",
    "deadline_seconds": 3600,
    "metadata": {"run": "nightly-7"},
}

_RFC3339: Final = re.compile(r"(\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:)(\d\d)((?:\.\d+)?(?:[Zz]|[+-]\d\d:\d\d))", re.ASCII)
_PRIORITIES: Final = tuple(member.word for member in reversed(Priority))
_TYPE: Final = "job."


def _endpoint(value: object) -> str:
    if value not in ENDPOINTS:
        raise ValueError(f"use one of {', '.join(ENDPOINTS)}")
    return str(value)


def _priority(value: object) -> str:
    if value not in _PRIORITIES:
        raise ValueError("use high, normal or low")
    return str(value)


def _url(value: object) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str) or not 1 <= len(value) <= URL_LIMIT:
        raise ValueError(f"use a URL of at most {URL_LIMIT} characters, such as https://example.com/hook")
    return value


def _events(value: object) -> tuple[State, ...] | None:
    """States (`done`) and types (`job.done`), in the order of their table."""
    if value is None:
        return None
    words = [word.removeprefix(_TYPE) for word in value if isinstance(word, str)] if isinstance(value, list) else []
    if not words or len(words) != len(value) or not set(words) <= set(State):  # type: ignore[arg-type]  # words came from it
        raise ValueError(f"use a list of {', '.join(State)}, or of types such as job.done; leave it out for all")
    return tuple(state for state in State if state in words)


def _seconds(value: object) -> float | None:
    if value is None:
        return None
    if isinstance(value, int | float) and not isinstance(value, bool) and value > 0 and value != math.inf:
        return float(min(value, LONGEST))
    raise ValueError("use a positive number of seconds")


def _moment(value: object) -> float | None:
    """Seconds since the epoch."""
    if value is None:
        return None
    try:
        if isinstance(value, str) and (read := _RFC3339.fullmatch(value)):
            leap = read[2] == "60"  # a leap second, which clocks count as the one after it
            spelled = read[1] + ("59" if leap else read[2]) + read[3]
            moment = datetime.fromisoformat(spelled.upper().replace(" ", "T"))
            return moment.astimezone(UTC).timestamp() + leap  # an OverflowError where UTC has no year for it
    except (ValueError, OverflowError):
        pass
    raise ValueError("use a time of RFC 3339 such as 2026-11-21T22:00:00Z")


def _metadata(value: object) -> dict[str, Any] | None:
    if value is None:
        return None
    if not isinstance(value, dict):
        raise ValueError("use an object")  # noqa: TRY004 - pydantic reports ValueErrors
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    except (ValueError, RecursionError) as error:
        raise ValueError("it nests too deep, or holds a number out of range") from error
    if (size := len(text.encode("utf-8", "surrogatepass"))) > METADATA_LIMIT:
        raise ValueError(f"it has {size} bytes; {METADATA_LIMIT} are allowed")
    return value


_WORDS: Final = [*State, *(f"{_TYPE}{state}" for state in State)]


class JobRequest(BaseModel):
    """A job to submit: the native payload of its endpoint, flat, with these fields beside it."""

    model_config = ConfigDict(
        extra="allow", frozen=True, json_schema_extra={"required": ["model"], "examples": [EXAMPLE]}
    )

    model: Annotated[str, WithJsonSchema({"type": "string", "minLength": 1})] = ""
    endpoint: Annotated[
        str, BeforeValidator(_endpoint), WithJsonSchema({"enum": list(ENDPOINTS), "default": ENDPOINTS[0]})
    ] = ENDPOINTS[0]
    priority: Annotated[
        str | None, BeforeValidator(_priority), WithJsonSchema({"enum": [*_PRIORITIES, None], "default": "normal"})
    ] = None
    state_webhook_url: Annotated[
        str | None,
        BeforeValidator(_url),
        WithJsonSchema({"type": ["string", "null"], "format": "uri", "minLength": 1, "maxLength": URL_LIMIT}),
    ] = None
    webhook_events: Annotated[
        tuple[State, ...] | None,
        BeforeValidator(_events),
        WithJsonSchema({"type": ["array", "null"], "items": {"enum": _WORDS}, "minItems": 1}),
    ] = None
    """States or types; absent: all."""
    deadline_seconds: Annotated[
        float | None, BeforeValidator(_seconds), WithJsonSchema({"type": ["number", "null"], "exclusiveMinimum": 0})
    ] = None
    """Seconds within which it must be finished, from its submission or from `not_before` on."""
    not_before: Annotated[
        float | None, BeforeValidator(_moment), WithJsonSchema({"type": ["string", "null"], "format": "date-time"})
    ] = None
    """RFC 3339; in the past: now; at most 7 days ahead."""
    metadata: Annotated[
        dict[str, Any] | None, BeforeValidator(_metadata), WithJsonSchema({"type": ["object", "null"]})
    ] = None
    """Echoed in the job object; at most 4 KiB."""


OWN: Final = frozenset(JobRequest.model_fields) - {"model"}
"""The names that are taken off a payload."""


def check(own: dict[str, Any], now: float) -> JobRequest:
    """Foreman's own fields of a job, checked. `now` in seconds since the epoch.

    Raises:
        Failure: BAD_REQUEST (422), the field's name first.
    """
    try:
        found = JobRequest(**{name: value for name, value in own.items() if value is not None})
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        wrong(str(first["loc"][0]), str(first["msg"]).removeprefix("Value error, "))
    if found.not_before is not None and found.not_before > now + FURTHEST:
        wrong("not_before", f"it lies more than {FURTHEST / 86_400:g} days ahead")
    return found


def wrong(field: str, advice: str) -> NoReturn:
    """Refuse a field, by its name. Raises Failure (422)."""
    raise Failure(Code.BAD_REQUEST, f"{field}: {advice}", status=422)
