"""How an answer ended: whole, with an error of the target's own, or cut; and the tokens it cost.

The executor asks me once per answer, after its last byte. I look at its last two units and no others; a stream without
its own end mark is never taken for a whole one.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from foreman.core.errors import Code, Failure, answered
from foreman.link.channel import Framing
from foreman.protocols import anthropic, ndjson, openai, sse

if TYPE_CHECKING:
    from collections.abc import Callable

MANAGEMENT: Final = frozenset({"/api/pull", "/api/push", "/api/create"})
_NATIVE: Final = frozenset({"/api/chat", "/api/generate"})
_EVENTS: Final[dict[str, tuple[str, Callable[[bytes], bool], Callable[[bytes], str | None]]]] = {
    "/v1/chat/completions": ("[DONE]", openai.ends, openai.error_in),
    "/v1/completions": ("[DONE]", openai.ends, openai.error_in),
    "/v1/responses": ("response.completed", openai.responses_ends, openai.error_in),
    "/v1/messages": ("message_stop", anthropic.ends, anthropic.error_in),
}
"""Path → its end mark for a person, whether an event is it, and the words of an error event."""
_OBJECTS: Final = _NATIVE | set(_EVENTS)
"""Paths that answer a call without streaming with one JSON object."""
_WORDS: Final = 500
"""Characters of a target's error message that are kept."""
_SHOWN: Final = 60
"""Bytes of an answer that was none that are shown."""
_NO_JSON: Final = object()
_LOST: Final = "the target met an error in mid-answer and lost its words (Ollama does so on /v1); its log has them"


@dataclass(frozen=True, slots=True)
class Ending:
    """What the last units say."""

    failure: Failure | None = None
    told: bool = False
    """The caller has the target's own words for the failure already."""
    usage: dict[str, int] | None = None
    """What it counts, where it was read whole to judge it; None: ask `usage`."""


def refused(status: int, body: bytes) -> Ending:
    """The target answered, but not with a 2xx, and the caller got that answer as it was."""
    words = openai.message_in(body)
    return Ending(answered(status, words and words[:_WORDS]), told=True)


def told(words: str) -> Ending:
    """The target's last words were an error, and the caller has them."""
    return Ending(Failure(Code.UPSTREAM_ERROR, f"the target ended with an error: {words[:_WORDS]}"), told=True)


def ending(endpoint: str, framing: Framing, previous: bytes, last: bytes) -> Ending:
    """Judge a body that was whole by its HTTP framing.

    Args:
        endpoint: the path that was asked.
        framing: how the body was cut.
        previous: its last unit but one.
        last: its last unit.
    """
    if framing is Framing.NDJSON:
        return _lines(endpoint, last if last.strip() else previous)
    if framing is Framing.SSE and endpoint in _EVENTS:
        return _events(endpoint, previous, last)
    return Ending()


def whole(endpoint: str, body: bytes) -> Ending:
    """Judge the whole body of an answer without streaming, whole by its HTTP framing too."""
    if endpoint not in _OBJECTS:
        return Ending()
    said = _read(body)
    if said is not _NO_JSON:
        return Ending(usage=_counts(said) if isinstance(said, dict) else {})
    if _is_stream(endpoint, body):
        return Ending()
    if body.lstrip().startswith(b"{") and not body.rstrip().endswith(b"}"):
        return _cut("the closing brace of its JSON object")
    return Ending(Failure(Code.UPSTREAM_ERROR, f"the target's answer is no JSON: {body[:_SHOWN]!r}"))


def _lines(endpoint: str, last: bytes) -> Ending:
    words = ndjson.error_in(last)
    if words is not None:
        return told(words)
    if endpoint in _NATIVE and not ndjson.ends(last):
        return _cut('"done":true')
    if endpoint in MANAGEMENT and (ndjson.object_in(last).get("status") != "success"):
        return _cut('"status":"success"')
    return Ending()


def _events(endpoint: str, previous: bytes, last: bytes) -> Ending:
    mark, ends, error_in = _EVENTS[endpoint]
    for event in (last, previous):  # a server may say one more thing after its mark
        words = error_in(event)
        if words is not None:
            return told(words)
        if ends(event):
            return Ending()
    if openai.lost_error(last):
        return Ending(Failure(Code.UPSTREAM_ERROR, _LOST))
    return _cut(mark)


def _cut(mark: str) -> Ending:
    return Ending(Failure(Code.UPSTREAM_TRUNCATED, f"the answer ended without its end mark ({mark})"))


def usage(framing: Framing, previous: bytes, last: bytes) -> dict[str, int]:
    """`{"prompt_tokens", "completion_tokens"}` as far as the answer's end tells them."""
    if framing is Framing.SSE:
        found = (openai.usage_of(sse.payload(event) or {}) for event in (last, previous))
        return next((counts for counts in found if counts), {})
    return _counts(ndjson.object_in(last))


def _counts(said: dict[str, Any]) -> dict[str, int]:
    native = {name: count for name, count in ndjson.counts_in(said).items() if name.endswith("_tokens")}
    return native or openai.usage_of(said)


def _is_stream(endpoint: str, body: bytes) -> bool:
    """Whether it is a stream that only its content type does not tell of, up to its own end mark."""
    text = b"\n".join(body.splitlines()).rstrip()
    if endpoint in _NATIVE:
        return ndjson.ends(text.rpartition(b"\n")[2])
    return _EVENTS[endpoint][1](text.rpartition(b"\n\n")[2] + b"\n\n")


def _read(text: bytes) -> Any:
    try:
        return json.loads(text.decode(errors="replace"))
    except (ValueError, RecursionError):
        return _NO_JSON
