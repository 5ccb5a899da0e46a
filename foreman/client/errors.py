"""What goes wrong for a program that talks to a gateway, in the gateway's own words.

Everything in foreman.client raises a ForemanError or nothing. I read refusals of every dialect; whether the same may
succeed later is what the gateway says of it, else what its code means (docs/api.md).
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

from foreman.core.errors import RETRYABLE, Code

if TYPE_CHECKING:
    from collections.abc import Mapping

_GATEWAYS_OWN: Final = frozenset({502, 503, 504})
"""Statuses that a proxy says of a gateway that is away: to be tried again where no code says more."""
_LONGEST: Final = 500


class ForemanError(Exception):
    """The gateway, or the target behind it, said no, or could not be asked."""

    def __init__(
        self,
        message: str,
        *,
        status: int | None = None,
        code: str | None = None,
        retryable: bool = False,
        retry_after: float | None = None,
        job_id: str | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        """The HTTP status; None when it came after the first byte, or nobody answered."""
        self.code = code
        """foreman's error code, where it gave one."""
        self.retryable = retryable
        """Whether the same may succeed later."""
        self.retry_after = retry_after
        """Seconds after which to come again, where the gateway said so."""
        self.job_id = job_id
        """The job it was, where there was one."""
        self.url: str | None = None
        """The gateway that said it, or didn't answer."""


class UnreachableError(ForemanError):
    """No gateway answers, or its answer broke off."""

    def __init__(self, message: str, *, connected: bool = True, job_id: str | None = None) -> None:
        super().__init__(message, retryable=True, job_id=job_id)
        self.connected = connected
        """There was a connection: something may have come of the call."""


def refusal(status: int, body: str, headers: Mapping[str, str]) -> ForemanError:
    """What an answer with a status ≥ 300 says."""
    try:
        said = json.loads(body)
    except ValueError:
        said = None
    error = said.get("error", said) if isinstance(said, dict) else None
    fields = error if isinstance(error, dict) else {}
    words = fields.get("message") or (error if isinstance(error, str) else None) or body.strip()[:_LONGEST]
    code = headers.get("X-Foreman-Error") or fields.get("code")
    retryable = fields.get("retryable")
    if not isinstance(retryable, bool):
        retryable = code in RETRYABLE if code in set(Code) else status in _GATEWAYS_OWN
    return ForemanError(
        str(words or f"status {status}, no reason given"),
        status=status,
        code=str(code) if code else None,
        retryable=retryable,
        retry_after=_seconds(headers.get("Retry-After")),
        job_id=headers.get("X-Foreman-Job-Id"),
    )


def said_in_stream(chunk: dict[str, Any], job_id: str | None) -> ForemanError | None:
    """The error that a chunk of any dialect is; None for any other chunk."""
    said = chunk
    if chunk.get("type") == "response.failed" and isinstance(chunk.get("response"), dict):
        said = chunk["response"]
    error = said.get("error")
    if not error:
        return None
    fields = error if isinstance(error, dict) else {"message": error}
    code = fields.get("code") or chunk.get("code")
    busy = fields.get("type") == "overloaded_error"
    return ForemanError(
        str(fields.get("message") or "no reason given"),
        code=str(code) if code else None,
        retryable=busy or code in RETRYABLE,
        job_id=job_id,
    )


def _seconds(text: str | None) -> float | None:
    try:
        return max(0.0, float(text or ""))
    except ValueError:
        return None
