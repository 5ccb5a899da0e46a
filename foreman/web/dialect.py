"""The words in which a path answers: how failures, streams and JSON look to the clients of that path.

The relay and the middleware ask me for bytes; the protocols know the formats. Four dialects: Ollama's own `/api`, OpenAI's
and its Responses under `/v1`, Anthropic's `/v1/messages`, and foreman's own for everything else.
"""

from __future__ import annotations

import json
import math
import secrets
from dataclasses import dataclass
from typing import Any, Final

from foreman.core.errors import Code, Failure
from foreman.link.channel import Framing
from foreman.protocols import gojson

_TYPES: Final = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
}
_ANTHROPIC_TYPES: Final = {**_TYPES, 413: "request_too_large", 503: "overloaded_error"}
_MESSAGE_LIMIT: Final = 2000


@dataclass(frozen=True, slots=True)
class Dialect:
    """One way of answering. Use the instances below, or `of_path`."""

    name: str
    stream_framing: Framing
    stream_type: str
    """Content-Type of a stream."""
    json_type: str
    """Content-Type of an answer that is no stream."""
    error_type: str

    def error_body(self, failure: Failure) -> bytes:
        """The body of an answer that fails before its first byte."""
        return _BODIES[self.name](failure)

    def stream_error(self, failure: Failure, events: bool) -> bytes:
        """What a stream says when it fails after its head: a line, or an event."""
        if not events:
            return gojson.dumps({"error": failure.message}) + b"\n"
        if self.name == "anthropic":
            return b"event: error\ndata: " + gojson.dumps(_anthropic(failure)) + b"\n\n"
        if self.name == "responses":
            said = {"type": "error", "code": str(failure.code), "message": failure.message, "param": None}
            return b"event: error\ndata: " + gojson.dumps(said) + b"\n\n"
        return b"data: " + gojson.dumps(_openai(failure)) + b"\n\n"

    def upstream_failure(self, status: int, body: bytes) -> Failure:
        """A target's own error answer as a failure that can be told in band."""
        return Failure(Code.UPSTREAM_ERROR, message_in(body) or f"the target answered {status}", status=status)

    def failure_headers(self, failure: Failure) -> tuple[tuple[str, str], ...]:
        """What goes beside a failure's body."""
        headers: list[tuple[str, str]] = [("X-Foreman-Error", str(failure.code))]
        if failure.retry_after is not None:
            headers.append(("Retry-After", str(max(1, math.ceil(failure.retry_after)))))
        if failure.code is Code.UNAUTHORIZED:
            headers.append(("WWW-Authenticate", 'Bearer realm="foreman"'))
        return tuple(headers)


_JSON_UTF8: Final = "application/json; charset=utf-8"

OLLAMA: Final = Dialect("ollama", Framing.NDJSON, "application/x-ndjson", _JSON_UTF8, _JSON_UTF8)
OPENAI: Final = Dialect("openai", Framing.SSE, "text/event-stream", "application/json", "application/json")
RESPONSES: Final = Dialect("responses", Framing.SSE, "text/event-stream", "application/json", "application/json")
ANTHROPIC: Final = Dialect("anthropic", Framing.SSE, "text/event-stream", "application/json", "application/json")
FOREMAN: Final = Dialect("foreman", Framing.RAW, "application/json", _JSON_UTF8, _JSON_UTF8)


def of_path(path: str) -> Dialect:
    """The dialect a path is answered in."""
    if path.startswith("/v1/messages"):
        return ANTHROPIC
    if path.startswith("/v1/responses"):
        return RESPONSES
    if path.startswith("/v1/"):
        return OPENAI
    return OLLAMA if path.startswith("/api/") else FOREMAN


def message_in(body: bytes) -> str:
    """The sentence in an error body of any dialect; the text itself where it is none; "" for nothing."""
    try:
        said: Any = json.loads(body)
    except ValueError:
        return body.decode(errors="replace").strip()[:_MESSAGE_LIMIT]
    error = said.get("error") if isinstance(said, dict) else None
    if isinstance(error, dict):
        error = error.get("message")
    return error if isinstance(error, str) else body.decode(errors="replace").strip()[:_MESSAGE_LIMIT]


def _openai(failure: Failure) -> dict[str, Any]:
    kind = _TYPES.get(failure.status, "api_error")
    return {"error": {"message": failure.message, "type": kind, "param": None, "code": None}}


def _anthropic(failure: Failure) -> dict[str, Any]:
    kind = _ANTHROPIC_TYPES.get(failure.status, "api_error")
    said = {"type": kind, "message": failure.message}
    return {"type": "error", "error": said, "request_id": f"req_{secrets.token_hex(12)}"}


_BODIES: Final = {
    "ollama": lambda failure: gojson.dumps({"error": failure.message}),
    "openai": lambda failure: gojson.dumps(_openai(failure)) + b"\n",
    "responses": lambda failure: gojson.dumps(_openai(failure)) + b"\n",
    "anthropic": lambda failure: gojson.dumps(_anthropic(failure)) + b"\n",
    "foreman": lambda failure: gojson.dumps({"error": failure.as_dict()}) + b"\n",
}
