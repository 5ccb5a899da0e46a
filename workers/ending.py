"""How an answer ended: whole, with an error of the target's own, or cut; and the tokens it cost.

The executor asks me once per answer, after its last byte. I look at its last two units and no others; a stream without
its own end mark is never taken for a whole one.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from foreman.core.errors import Code, Failure
from foreman.link.channel import Framing
from foreman.protocols import sse

if TYPE_CHECKING:
    from collections.abc import Iterator

MANAGEMENT: Final = frozenset({"/api/pull", "/api/push", "/api/create"})
_NATIVE: Final = frozenset({"/api/chat", "/api/generate"})
_COMPLETIONS: Final = frozenset({"/v1/chat/completions", "/v1/completions"})
_TYPED: Final = {
    "/v1/messages": frozenset({"message_stop"}),
    "/v1/responses": frozenset({"response.completed", "response.incomplete"}),
}
"""Events that end a typed stream well."""
_TYPED_ERRORS: Final = frozenset({"error", "response.failed"})
_WORDS: Final = 500
"""Characters of a target's error message that are kept."""


@dataclass(frozen=True, slots=True)
class Ending:
    """What the last units say."""

    failure: Failure | None = None
    told: bool = False
    """The caller has the target's own words for the failure already."""


def refused(status: int, body: bytes) -> Failure:
    """The failure of a job whose target answered with a status ≥ 400; the caller got that answer as it was."""
    said = _error_words(_object(body))
    return Failure(Code.UPSTREAM_ERROR, f"the target answered {status}" + (f": {said}" if said else ""), status=status)


def ending(endpoint: str, framing: Framing, previous: bytes, last: bytes) -> Ending:
    """Judge a body that was whole by its HTTP framing.

    Args:
        endpoint: the path that was asked.
        framing: how the body was cut.
        previous: its last unit but one.
        last: its last unit.
    """
    if framing is Framing.NDJSON:
        return _ndjson(endpoint, _object(last) or _object(previous))
    if framing is Framing.SSE:
        return _sse(endpoint, [*_events(previous), *_events(last)])
    return Ending()


def _ndjson(endpoint: str, line: dict[str, Any]) -> Ending:
    if "error" in line:
        return Ending(Failure(Code.UPSTREAM_ERROR, f"the target ended with an error: {_error_words(line)}"), told=True)
    if endpoint in _NATIVE and line.get("done") is not True:
        return _cut('"done":true')
    if endpoint in MANAGEMENT and line.get("status") != "success":
        return _cut('"status":"success"')
    return Ending()


def _sse(endpoint: str, events: list[tuple[str, bytes]]) -> Ending:
    if endpoint in _COMPLETIONS and any(data == b"[DONE]" for _, data in events):
        return Ending()
    last = _object(events[-1][1]) if events else {}
    kind = str(last.get("type") or (events[-1][0] if events else ""))
    if kind in _TYPED.get(endpoint, ()):
        return Ending()
    if last.get("error") or kind in _TYPED_ERRORS:
        return Ending(Failure(Code.UPSTREAM_ERROR, f"the target ended with an error: {_error_words(last)}"), told=True)
    if endpoint in _COMPLETIONS:
        if last.get("model") == "":
            # Ollama up to v0.33 turns an error in mid-stream into this empty chunk and loses its words (openai.go).
            return Ending(
                Failure(Code.UPSTREAM_ERROR, "the target met an error in mid-answer and lost its words; see its log")
            )
        return _cut("[DONE]")
    if endpoint in _TYPED:
        return _cut(" or ".join(sorted(_TYPED[endpoint])))
    return Ending()


def _cut(mark: str) -> Ending:
    return Ending(Failure(Code.UPSTREAM_TRUNCATED, f"the answer ended without its end mark ({mark})"))


def usage(framing: Framing, previous: bytes, last: bytes) -> dict[str, int]:
    """`{"prompt_tokens", "completion_tokens"}` as far as the answer's end tells them."""
    if framing is not Framing.SSE:
        return _counts(_object(last))
    for _, data in [*_events(last), *_events(previous)]:
        if found := _counts(_object(data)):
            return found
    return {}


def _counts(said: dict[str, Any]) -> dict[str, int]:
    nested = said.get("response")  # /v1/responses: the last event holds the whole response
    found = said.get("usage") or (nested.get("usage") if isinstance(nested, dict) else None)
    source: dict[str, Any] = found if isinstance(found, dict) else said
    names = {
        "prompt_tokens": ("prompt_eval_count", "prompt_tokens", "input_tokens"),
        "completion_tokens": ("eval_count", "completion_tokens", "output_tokens"),
    }
    counts = {}
    for name, spellings in names.items():
        value = next((source[spelling] for spelling in spellings if isinstance(source.get(spelling), int)), None)
        if value is not None:
            counts[name] = int(value)
    return counts


def _events(unit: bytes) -> Iterator[tuple[str, bytes]]:
    """The event in a unit as (name, data); none for comments."""
    name, data = sse.fields(unit)
    if data:
        yield name, data


def _object(text: bytes) -> dict[str, Any]:
    """The JSON object in `text`; {} where there is none."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _error_words(said: dict[str, Any]) -> str:
    """The message of an error in any of the dialects."""
    error = said.get("error")
    nested = said.get("response")
    if error is None and isinstance(nested, dict):
        error = nested.get("error")
    if isinstance(error, dict):
        error = error.get("message")
    return error[:_WORDS] if isinstance(error, str) else ""
