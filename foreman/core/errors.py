"""Whose fault it is: the error codes of a job and of a call, with the HTTP status each has before the first byte.

Everybody raises or carries a `Failure`; the border it crosses (HTTP dialect, job record, link frame) translates it
once. The message always says what to do next.
"""

from __future__ import annotations

import enum
import re
from typing import Any, Final


class Code(enum.StrEnum):
    """The stable error codes (docs/api.md)."""

    BAD_REQUEST = "bad_request"
    UNAUTHORIZED = "unauthorized"
    FORBIDDEN = "forbidden"
    MODEL_NOT_FOUND = "model_not_found"
    PAYLOAD_TOO_LARGE = "payload_too_large"
    DEADLINE_EXCEEDED = "deadline_exceeded"
    UPSTREAM_ERROR = "upstream_error"
    UPSTREAM_UNREACHABLE = "upstream_unreachable"
    UPSTREAM_TRUNCATED = "upstream_truncated"
    INTERRUPTED = "interrupted"
    POISON = "poison"
    STALLED = "stalled"
    QUEUE_FULL = "queue_full"
    STORE_UNAVAILABLE = "store_unavailable"
    SHUTTING_DOWN = "shutting_down"
    CANCELLED = "cancelled"
    CALLER_GONE = "caller_gone"


STATUS: Final[dict[Code, int]] = {
    Code.BAD_REQUEST: 400,
    Code.UNAUTHORIZED: 401,
    Code.FORBIDDEN: 403,
    Code.MODEL_NOT_FOUND: 404,
    Code.PAYLOAD_TOO_LARGE: 413,
    Code.DEADLINE_EXCEEDED: 504,
    Code.UPSTREAM_ERROR: 502,
    Code.UPSTREAM_UNREACHABLE: 502,
    Code.UPSTREAM_TRUNCATED: 502,
    Code.INTERRUPTED: 502,
    Code.POISON: 502,
    Code.STALLED: 504,
    Code.QUEUE_FULL: 503,
    Code.STORE_UNAVAILABLE: 503,
    Code.SHUTTING_DOWN: 503,
    Code.CANCELLED: 499,
    Code.CALLER_GONE: 499,
}
"""The status a call gets when the failure comes before the first byte of its answer."""

RETRYABLE: Final = frozenset(
    {
        Code.UPSTREAM_UNREACHABLE,
        Code.UPSTREAM_TRUNCATED,
        Code.INTERRUPTED,
        Code.STALLED,
        Code.QUEUE_FULL,
        Code.STORE_UNAVAILABLE,
        Code.SHUTTING_DOWN,
    }
)
"""Codes after which the same request may well succeed later."""


class Failure(Exception):  # noqa: N818 - a failure is a value of the domain first, an exception second
    """A call or a job that failed, with its code, a sentence for a person, and what HTTP needs to say it."""

    def __init__(
        self,
        code: Code,
        message: str,
        *,
        status: int | None = None,
        retryable: bool | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.status = STATUS[code] if status is None else status
        self.retryable = code in RETRYABLE if retryable is None else retryable
        self.retry_after = retry_after
        """Seconds for the Retry-After header, or None."""

    def as_dict(self) -> dict[str, Any]:
        """`{"code", "message", "retryable"}`: the `error` of a job object."""
        return {"code": str(self.code), "message": self.message, "retryable": self.retryable}


def answered(status: int, words: str | None = None) -> Failure:
    """A target's own refusal. A job keeps of it what its message says: the status stands there, for `status_answered`."""
    return Failure(
        Code.UPSTREAM_ERROR, f"the target answered {status}" + (f": {words}" if words else ""), status=status
    )


def status_answered(message: str) -> int | None:
    """The status that a target refused a job with, from the message that `answered` made; None where it gave none."""
    found = _ANSWERED.match(message)
    return None if found is None else int(found[1])


_ANSWERED: Final = re.compile(r"the target answered ([45][0-9]{2})(?:: |$)")
