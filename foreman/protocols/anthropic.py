"""Anthropic's dialect (`/v1/messages`): how errors look and how a stream ends.

The gateway takes error objects from me, the worker asks about the last events of a stream. Shapes as Ollama's
compatibility layer gives them (anthropic/anthropic.go, NewError).
"""

from __future__ import annotations

import secrets
from typing import Any, Final

from foreman.protocols import gojson, sse

_TYPES: Final = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    529: "overloaded_error",
}


def error_object(message: str, status: int, request_id: str | None = None) -> dict[str, Any]:
    """`{"type": "error", "error": {"type", "message"}, "request_id"}`, the inner type by status.

    Args:
        message: what is wrong.
        status: the HTTP status it has, or would have had before the first byte.
        request_id: made up as Ollama does (`req_` and 24 hex digits) where None.
    """
    identity = f"req_{secrets.token_hex(12)}" if request_id is None else request_id
    return {
        "type": "error",
        "error": {"type": _TYPES.get(status, "api_error"), "message": message},
        "request_id": identity,
    }


def error_event(message: str, status: int, request_id: str | None = None) -> bytes:
    """An error in the middle of a stream: `event: error`. Nothing may follow."""
    return b"event: error\ndata: " + gojson.dumps(error_object(message, status, request_id)) + b"\n\n"


def ends(event: bytes) -> bool:
    """Whether this event is the end mark `message_stop`."""
    if b"message_stop" not in event:
        return False
    name = sse.fields(event)[0]
    return (name or (sse.payload(event) or {}).get("type")) == "message_stop"


def error_in(event: bytes) -> str | None:
    """The message of an in-band error; None where the event is none."""
    if b"error" not in event:
        return None
    said = sse.payload(event) or {}
    if said.get("type") != "error" and sse.fields(event)[0] != "error":
        return None
    error = said.get("error")
    message = error.get("message") if isinstance(error, dict) else error
    return message if isinstance(message, str) and message else "the target names no reason"
