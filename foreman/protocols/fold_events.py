"""A stream of events on `/v1` folded into the one answer that a call without `stream` would have returned.

The worker hands me the events of a kept answer once it is whole, for the artifact and `result` of its job; callers get
the events themselves. I go by what Ollama answers on these paths (transcripts 173 to 194) and by what OpenAI's and
Anthropic's own servers add to it. Where something in a stream is not what its path has, I give None and make nothing up.
"""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING, Any, Final

from foreman.protocols import gojson, openai, sse

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

_Event = dict[str, Any]

_TEXTS: Final = frozenset({"content", "reasoning", "reasoning_content", "refusal", "text", "arguments"})
"""Members of chunks whose strings go on from chunk to chunk."""
_AUDIO_TEXTS: Final = frozenset({"data", "transcript"})
"""The same of a chunk's `audio`; its `data` is base64."""
_BLOCK_TEXTS: Final = {"text_delta": "text", "thinking_delta": "thinking", "signature_delta": "signature"}
"""Kind of a delta of a content block → the member that it goes on with."""


def whole(path: str, units: Iterable[bytes]) -> bytes | None:
    """The answer as JSON with the newline that Ollama ends it with; None where these events are none.

    Takes some 10 µs for each event: not for the event loop, where there are thousands.
    """
    make = _PATHS.get(path)
    if make is None:
        return None
    events = (said for said in map(sse.payload, units) if said is not None)
    try:
        found = make(events)
        text = None if found is None else gojson.dumps(found, allow_nan=False)
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError):  # something in it is of another shape
        return None
    return None if text is None else text + b"\n"


# ---------------------------------------------------------------------- OpenAI


def _chunks(events: Iterable[_Event]) -> _Event | None:
    """Chunks of `/v1/chat/completions` and `/v1/completions`. `usage` only where the stream tells it."""
    choices: dict[int, _Event] = {}
    last: _Event = {}
    for event in events:
        last |= event
        for choice in event["choices"]:
            _join(choices.setdefault(choice["index"], {}), choice)
    if not last:
        return None
    made = [_settled(choices[at]) for at in sorted(choices)]
    return last | {
        "object": last["object"].removesuffix(".chunk"),
        "choices": [{("message" if name == "delta" else name): one[name] for name in one} for one in made],
    }


class _Text(list[str]):
    """The pieces of a text that goes on."""


class _Base64(_Text):
    """The pieces of bytes that go on, each maybe padded by itself."""


def _join(into: _Event, more: _Event, texts: frozenset[str] = _TEXTS) -> None:
    """Add what a chunk tells of an object: texts and lists go on, other values replace, null and "" say nothing."""
    for name, value in more.items():
        before = into.get(name)
        if value is None:
            into.setdefault(name, None)
        elif isinstance(value, str) and name in texts:
            into[name] = before if isinstance(before, _Text) else (_Base64 if name == "data" else _Text)()
            into[name].append(value)
        elif isinstance(value, dict):
            into[name] = {} if before is None else before
            _join(into[name], value, _AUDIO_TEXTS if name == "audio" else _TEXTS)
        elif isinstance(value, list):
            into[name] = [] if before is None else before
            _extend(into[name], value, pieces=name == "tool_calls")
        elif value != "" or before is None:  # some servers say `"id":""` in all pieces of a tool call but the first
            into[name] = value


def _extend(into: list[Any], more: list[Any], *, pieces: bool) -> None:
    """Add to a list; `pieces`: its objects come in pieces, by their index."""
    if not pieces:
        into += more
        return
    known = {one["index"]: one for one in into}
    for one in more:
        if one["index"] not in known:
            known[one["index"]] = {}
            into.append(known[one["index"]])
        _join(known[one["index"]], one)


def _settled(value: Any) -> Any:
    """The value with its texts whole."""
    if isinstance(value, _Base64) and any("=" in piece for piece in value[:-1]):
        return base64.b64encode(b"".join(base64.b64decode(piece, validate=True) for piece in value)).decode()
    if isinstance(value, _Text):
        return "".join(value).encode("utf-16", "surrogatepass").decode("utf-16", "replace")  # halves may come apart
    if isinstance(value, dict):
        return {name: _settled(one) for name, one in value.items()}
    return [_settled(one) for one in value] if isinstance(value, list) else value


def _response(events: Iterable[_Event]) -> _Event | None:
    """`/v1/responses`: its last event has all of it."""
    found = None
    for event in events:
        if event.get("type") in openai.RESPONSE_ENDS:
            found = event["response"]
    return found


# ---------------------------------------------------------------------- Anthropic


def _message(events: Iterable[_Event]) -> _Event | None:
    """`/v1/messages`: the message it starts with, its blocks, and what its end tells."""
    message: _Event = {}
    blocks: dict[int, _Event] = {}
    inputs: dict[int, _Text] = {}
    for event in events:
        kind = event["type"]
        if kind == "error":
            return None
        if kind == "message_start":
            message = event["message"]
        elif kind == "content_block_start":
            blocks[event["index"]] = dict(event["content_block"])
        elif kind == "content_block_delta" and event["delta"]["type"] == "input_json_delta":
            inputs.setdefault(event["index"], _Text()).append(event["delta"]["partial_json"])
        elif kind == "content_block_delta" and event["delta"]["type"] == "citations_delta":
            block = blocks[event["index"]]
            block["citations"] = [*(block.get("citations") or []), event["delta"]["citation"]]
        elif kind == "content_block_delta":
            name, block = _BLOCK_TEXTS[event["delta"]["type"]], blocks[event["index"]]
            if not isinstance(block.get(name), _Text):
                block[name] = _Text([block.get(name) or ""])
            block[name].append(event["delta"][name])
        elif kind == "message_delta":
            message = message | event["delta"] | {"usage": (message.get("usage") or {}) | (event.get("usage") or {})}
    for at, pieces in inputs.items():
        blocks[at]["input"] = json.loads("".join(pieces) or "{}")
    return message | {"content": [_settled(blocks[at]) for at in sorted(blocks)]} if message else None


_PATHS: Final[dict[str, Callable[[Iterable[_Event]], _Event | None]]] = {
    "/v1/chat/completions": _chunks,
    "/v1/completions": _chunks,
    "/v1/responses": _response,
    "/v1/messages": _message,
}
