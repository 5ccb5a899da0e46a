"""The words of a refusal in the dialect of its path, as Ollama would say them, before and after the first byte.

The gateway calls me where a Failure becomes bytes. Native paths speak Ollama's, `/v1` OpenAI's, `/v1/messages`
Anthropic's. I know which route is which in Ollama; foreman's own routes (`/jobs`, `/ops`) are none of mine.
"""

from __future__ import annotations

from typing import Final

from foreman.core.errors import STATUS, Code
from foreman.core.lanes import go_quote
from foreman.protocols import anthropic, gojson, openai, paths

QUEUE_FULL: Final = "server busy, please try again.  maximum pending requests exceeded"
"""Ollama's own words, two spaces and all (server/sched.go, ErrMaxQueue)."""

UNKNOWN_PATH: Final = b"404 page not found"
WRONG_METHOD: Final = b"405 method not allowed"
"""Both as text/plain without a charset, the second with `Allow`."""

ALLOW: Final = {
    "/": "HEAD, GET",
    "/api/version": "HEAD, GET",
    "/api/tags": "HEAD, GET",
    "/api/ps": "GET",
    "/api/status": "GET",
    "/v1/models": "GET",
    **dict.fromkeys((*paths.INFERENCE, paths.SHOW), "POST"),
    **paths.MANAGEMENT,
}
"""Ollama's paths with the `Allow` of a 405; `/v1/models/{id}` is GET too."""

_JSON: Final = "application/json"
_JSON_UTF8: Final = "application/json; charset=utf-8"
_HANDLERS_WORDS: Final = frozenset({"model is required", "invalid model name"})


def error_body(path: str, status: int, message: str, code: Code, request_id: str | None = None) -> tuple[bytes, str]:
    """The body and Content-Type of an answer that fails before its first byte.

    On /v1 what Ollama's middleware refuses (broken bodies) has no newline and a charset, what its handlers refuse has a
    newline and none; so here.
    """
    if not path.startswith("/v1/"):
        return gojson.dumps({"error": message}), _JSON_UTF8
    messages = _is_messages(path)
    said = anthropic.error_object(message, status, request_id) if messages else openai.error_object(message, status)
    handlers = message in _HANDLERS_WORDS and not (messages and message == "model is required")
    if code is Code.BAD_REQUEST and not handlers and not message.startswith("use either :local"):
        return gojson.dumps(said), _JSON_UTF8
    return gojson.dumps(said) + b"\n", _JSON


def stream_error(path: str, sse: bool, message: str, code: Code, request_id: str | None = None) -> bytes:
    """What a stream says when it fails after its head; nothing may follow it.

    Args:
        path: decides the dialect.
        sse: a native stream that was asked for as SSE; on /v1 every stream is.
        message: a sentence for a person.
        code: foreman's code; it stands in OpenAI's `code`, as no header can carry it any more.
        request_id: see `anthropic.error_object`.
    """
    status = STATUS[code]
    if _is_messages(path):
        return anthropic.error_event(message, status, request_id)
    if path.startswith("/v1/responses"):
        return openai.responses_error_event(message, status, str(code))
    if sse or path.startswith("/v1/"):
        return openai.error_event(message, status, str(code))
    return gojson.dumps({"error": message}) + b"\n"


def not_found_message(path: str, model: str) -> str:
    """Ollama's words for an unknown model: the embedding paths have their own."""
    if path in paths.EMBEDDINGS:
        return f"model {go_quote(model)} not found, try pulling it first"
    return f"model '{model}' not found"


def _is_messages(path: str) -> bool:
    return path.startswith("/v1/messages")
