"""What one chunk of any dialect brings: text, thinking, fragments of tool calls, counts, the end mark of a call.

The accumulator asks me for each chunk. I hold no state and parse no arguments; a chunk that I don't know brings nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

RESPONSE_ENDS: Final = frozenset({"response.completed", "response.incomplete", "response.failed"})


@dataclass(frozen=True, slots=True)
class Fragment:
    """A piece of one tool call."""

    index: Any
    """Which call of the answer it belongs to."""
    id: str | None = None
    name: str | None = None
    arguments: Any = None
    """A piece of the arguments' JSON, or Ollama's: the whole as an object."""


@dataclass(frozen=True, slots=True)
class Pieces:
    """What a chunk brings."""

    text: str = ""
    thinking: str = ""
    fragments: Sequence[Fragment] = ()
    ended: Sequence[Any] | None = ()
    """The indexes of the calls that end here; None: all that are open."""
    mark: str = ""
    """What says so."""
    usage: tuple[Any, Any] = (None, None)
    """Tokens of the prompt and of the answer, where they are told."""
    finish: str | None = None
    """Why the answer ended, in the dialect's own word."""


def pieces(chunk: dict[str, Any]) -> Pieces:
    """Take a chunk of any dialect apart, or a whole answer as `stream: false` gives it."""
    kind = chunk.get("type")
    if isinstance(kind, str):
        return _of_responses(chunk, kind) if kind.startswith("response.") else _of_messages(chunk, kind)
    return _of_openai(chunk) if isinstance(chunk.get("choices"), list) else _of_native(chunk)


def ends(path: str, chunk: dict[str, Any]) -> bool:
    """Whether this chunk is the end mark of an answer on `path`; OpenAI's is no chunk but `[DONE]`."""
    if path == "/v1/messages":
        return chunk.get("type") == "message_stop"
    if path == "/v1/responses":
        return chunk.get("type") in RESPONSE_ENDS
    return not path.startswith("/v1/") and chunk.get("done") is True


def _of_native(chunk: dict[str, Any]) -> Pieces:
    message = _dict(chunk.get("message"))
    calls = [*_dicts(message.get("tool_calls")), *_dicts(chunk.get("tool_calls"))]
    fragments = []
    for place, call in enumerate(calls):
        function = _dict(call.get("function"))
        fragments.append(Fragment(place, call.get("id"), function.get("name"), function.get("arguments")))
    return Pieces(
        _text(message.get("content")) + _text(chunk.get("response")),
        _text(message.get("thinking")) + _text(chunk.get("thinking")),
        fragments,
        None,  # a call of Ollama's is whole in its chunk
        "done",
        (chunk.get("prompt_eval_count"), chunk.get("eval_count")),
        chunk.get("done_reason"),
    )


def _of_openai(chunk: dict[str, Any]) -> Pieces:
    usage = _dict(chunk.get("usage"))
    choice = next(iter(_dicts(chunk["choices"])), {})
    delta = _dict(choice.get("delta") or choice.get("message"))
    fragments = []
    for place, call in enumerate(_dicts(delta.get("tool_calls"))):
        function = _dict(call.get("function"))
        fragments.append(
            Fragment(call.get("index", place), call.get("id"), function.get("name"), function.get("arguments"))
        )
    finish = choice.get("finish_reason")
    return Pieces(
        _text(delta.get("content")) or _text(choice.get("text")),
        _text(delta.get("reasoning")) or _text(delta.get("reasoning_content")),
        fragments,
        None if finish else (),
        "finish_reason",
        (usage.get("prompt_tokens"), usage.get("completion_tokens")),
        finish,
    )


def _of_messages(event: dict[str, Any], kind: str) -> Pieces:
    index = event.get("index")
    usage = _dict(event.get("usage") or _dict(event.get("message")).get("usage"))
    counts = (usage.get("input_tokens"), usage.get("output_tokens"))
    if kind == "message":
        return _of_blocks(_dicts(event.get("content")), counts, event.get("stop_reason"))
    if kind == "content_block_start":
        block = _dict(event.get("content_block"))
        begun = [Fragment(index, block.get("id"), block.get("name"))] if block.get("type") == "tool_use" else []
        return Pieces(_text(block.get("text")), _text(block.get("thinking")), begun)
    if kind == "content_block_delta":
        delta = _dict(event.get("delta"))
        more = [Fragment(index, arguments=delta.get("partial_json"))] if "partial_json" in delta else []
        return Pieces(_text(delta.get("text")), _text(delta.get("thinking")), more)
    if kind == "content_block_stop":
        return Pieces(ended=(index,), mark=kind)
    return Pieces(usage=counts, finish=_dict(event.get("delta")).get("stop_reason"))


def _of_blocks(blocks: Iterable[dict[str, Any]], counts: tuple[Any, Any], finish: str | None) -> Pieces:
    """The content of a message that came whole."""
    blocks = list(blocks)
    return Pieces(
        "".join(_text(block.get("text")) for block in blocks),
        "".join(_text(block.get("thinking")) for block in blocks),
        [
            Fragment(place, block.get("id"), block.get("name"), block.get("input"))
            for place, block in enumerate(blocks)
            if block.get("type") == "tool_use"
        ],
        None,
        "message",
        counts,
        finish,
    )


def _of_responses(event: dict[str, Any], kind: str) -> Pieces:
    index = event.get("item_id", event.get("output_index"))
    if kind == "response.output_text.delta":
        return Pieces(_text(event.get("delta")))
    if kind == "response.reasoning_summary_text.delta":
        return Pieces(thinking=_text(event.get("delta")))
    if kind == "response.output_item.added":
        item = _dict(event.get("item"))
        called = item.get("type") == "function_call"
        return Pieces(
            fragments=[Fragment(item.get("id", index), item.get("call_id"), item.get("name"))] if called else ()
        )
    if kind == "response.function_call_arguments.delta":
        return Pieces(fragments=[Fragment(index, arguments=event.get("delta"))])
    if kind == "response.function_call_arguments.done":
        return Pieces(ended=(index,), mark=kind)
    if kind in RESPONSE_ENDS:
        response = _dict(event.get("response"))
        usage = _dict(response.get("usage"))
        counts = (usage.get("input_tokens"), usage.get("output_tokens"))
        return Pieces(ended=None, mark=kind, usage=counts, finish=response.get("status"))
    return Pieces()


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _dicts(value: Any) -> list[dict[str, Any]]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""
