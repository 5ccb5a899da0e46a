"""The dialect of one path: what its streams are, what its JSON is called, and how it says that something failed.

The relay and the middleware ask me for bytes; protocols/words.py knows Ollama's, OpenAI's and Anthropic's words. Paths
of foreman's own (`/jobs`, `/ops`) say `{"error": {"code", "message", "retryable"}}`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from foreman.core.errors import Code, Failure
from foreman.link.channel import Framing
from foreman.protocols import gojson, openai, words

_JSON: Final = "application/json"
_JSON_UTF8: Final = "application/json; charset=utf-8"
_MESSAGE_LIMIT: Final = 2000
"""Characters of a target's error body that are repeated where it is no JSON."""


@dataclass(frozen=True, slots=True)
class Dialect:
    """How answers on one path look."""

    path: str

    @property
    def openai(self) -> bool:
        """The path is one of OpenAI's or Anthropic's."""
        return self.path.startswith("/v1/")

    @property
    def stream_framing(self) -> Framing:
        """What a stream is made of."""
        return Framing.SSE if self.openai else Framing.NDJSON

    @property
    def stream_type(self) -> str:
        """Content-Type of a stream."""
        return "text/event-stream" if self.openai else "application/x-ndjson"

    @property
    def json_type(self) -> str:
        """Content-Type of an answer that is no stream."""
        return _JSON if self.openai else _JSON_UTF8

    def error_body(self, failure: Failure) -> tuple[bytes, str]:
        """Body and Content-Type of an answer that fails before its first byte."""
        if self.openai or self.path.startswith("/api/"):
            return words.error_body(self.path, failure.status, failure.message, failure.code)
        return gojson.dumps({"error": failure.as_dict()}) + b"\n", _JSON_UTF8

    def stream_error(self, failure: Failure, events: bool) -> bytes:
        """What a stream says when it fails after its head: a line, or an event."""
        return words.stream_error(self.path, events, failure.message, failure.code)

    def upstream_failure(self, status: int, body: bytes) -> Failure:
        """A target's own error answer as a failure that can be told in band."""
        message = openai.message_in(body) or body.decode(errors="replace").strip()[:_MESSAGE_LIMIT]
        return Failure(Code.UPSTREAM_ERROR, message or f"the target answered {status}", status=status)

    def failure_headers(self, failure: Failure) -> tuple[tuple[str, str], ...]:
        """What goes beside a failure's body."""
        headers: list[tuple[str, str]] = [("X-Foreman-Error", str(failure.code))]
        if failure.retry_after is not None:
            headers.append(("Retry-After", str(max(1, math.ceil(failure.retry_after)))))
        if self.openai and failure.status >= 500 and not failure.retryable:
            headers.append(("X-Should-Retry", "false"))  # else OpenAI's and Anthropic's clients send it twice more
        if failure.code is Code.UNAUTHORIZED:
            headers.append(("WWW-Authenticate", 'Bearer realm="foreman"'))
        return tuple(headers)
