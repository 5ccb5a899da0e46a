"""OpenAI's dialect, and its Responses: how errors look, how a stream ends, what it counts.

The gateway takes error objects from me, the worker asks about the last events of a stream. Shapes are those of Ollama's
compatibility layer (openai/openai.go, middleware/openai.go) and of OpenAI's own servers where Ollama loses something.
"""

from __future__ import annotations

import json
from typing import Any, Final

from foreman.protocols import gojson, sse

DONE: Final = b"data: [DONE]\n\n"
"""The end mark of a stream; `/v1/responses` and `/v1/messages` have others."""

_TYPES: Final = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
}
RESPONSE_ENDS: Final = frozenset({"response.completed", "response.incomplete", "response.failed"})
_COUNTS: Final = {
    "prompt_tokens": "prompt_tokens",
    "completion_tokens": "completion_tokens",
    "input_tokens": "prompt_tokens",
    "output_tokens": "completion_tokens",
}


def error_object(message: str, status: int, code: str | None = None) -> dict[str, Any]:
    """`{"error": {"message", "type", "param", "code"}}`, the type by status; Ollama leaves `code` null."""
    return {"error": {"message": message, "type": _TYPES.get(status, "api_error"), "param": None, "code": code}}


def error_event(message: str, status: int, code: str | None = None) -> bytes:
    """An error in the middle of a stream: both OpenAI clients raise it. Nothing may follow, no `[DONE]` either."""
    return b"data: " + gojson.dumps(error_object(message, status, code)) + b"\n\n"


def responses_error_event(message: str, status: int, code: str | None = None, sequence: int = 0) -> bytes:
    """The same on `/v1/responses`: OpenAI's `error` event, with the object beside it on which the clients raise."""
    said = {
        "type": "error",
        "code": code,
        "message": message,
        "param": None,
        "sequence_number": sequence,
        **error_object(message, status, code),
    }
    return b"event: error\ndata: " + gojson.dumps(said) + b"\n\n"


def ends(event: bytes) -> bool:
    """Whether this event is the end mark `data: [DONE]`."""
    return b"[DONE]" in event and sse.fields(event)[1].startswith(b"[DONE]")


def responses_ends(event: bytes) -> bool:
    """Whether this event ends a `/v1/responses` stream: completed, incomplete or failed."""
    return b"response." in event and _kind(event) in RESPONSE_ENDS


def error_in(event: bytes) -> str | None:
    """The message of an in-band error; None where the event is none.

    Knows `data: {"error": …}`, the Responses' `error` event and its `response.failed`.
    """
    if b"error" not in event:
        return None
    said = sse.payload(event)
    if said is None:
        return None
    kind = said.get("type")
    if kind == "response.failed" and isinstance(said.get("response"), dict):
        said = said["response"]
    error = said.get("error")
    if isinstance(error, dict):
        error = error.get("message") or "the target names no reason"
    if error is None and kind == "error":
        error = said.get("message")
    return error if isinstance(error, str) and error else None


def lost_error(event: bytes) -> bool:
    """Whether this chunk is what Ollama makes of an error in mid-stream: empty, `"model":""`, its words lost.

    (middleware/openai.go writes the error as a zero ChatResponse; the stream then ends without `[DONE]`. Seen up to 0.33.)
    """
    if b'"model"' not in event:
        return False
    said = sse.payload(event)
    return said is not None and said.get("model") == "" and _empty(said)


def usage_of(said: dict[str, Any]) -> dict[str, int]:
    """`{"prompt_tokens", "completion_tokens"}` of a whole answer, of a chunk that carries `usage`, or of a Responses event."""
    nested = said.get("response")
    usage = said.get("usage") or (nested.get("usage") if isinstance(nested, dict) else None)
    if not isinstance(usage, dict):
        return {}
    found = {name: usage.get(key) for key, name in _COUNTS.items() if usage.get(key) is not None}
    return {name: value for name, value in found.items() if isinstance(value, int) and not isinstance(value, bool)}


def message_in(body: bytes) -> str | None:
    """The message of an error body in any dialect (`{"error": "…"}` or an object in it); None where it has none."""
    try:
        said = json.loads(body)
    except (ValueError, RecursionError):
        return None
    error = said.get("error") if isinstance(said, dict) else None
    if isinstance(error, dict):
        error = error.get("message")
    return error if isinstance(error, str) and error else None


def _kind(event: bytes) -> str:
    said = sse.payload(event) or {}
    kind = said.get("type")
    return kind if isinstance(kind, str) else sse.fields(event)[0]


def _empty(said: dict[str, Any]) -> bool:
    choices = said.get("choices")
    if not isinstance(choices, list):
        return False
    return not any(
        isinstance(choice, dict)
        and (choice.get("text") or choice.get("finish_reason") or (choice.get("delta") or {}).get("content"))
        for choice in choices
    )
