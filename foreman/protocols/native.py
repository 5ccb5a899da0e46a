"""Ollama's own answers, written by us: where a target speaks OpenAI's dialect, or where nothing needs a target at all.

The translators and the load calls to an `openai` target take their lines from me. Keys stand in Ollama's order
(api/types.go); durations are ns, `created_at` is UTC. Time is an argument, in seconds since the epoch.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

from foreman.protocols import gojson

STREAM_TYPE: Final = "application/x-ndjson"
JSON_TYPE: Final = "application/json; charset=utf-8"
"""Content-Types of a native stream and of any other native answer, errors too."""


@dataclass(slots=True)
class Said:
    """A piece of an answer, or the whole of it."""

    content: str = ""
    thinking: str = ""
    tool_calls: list[dict[str, Any]] = field(default_factory=list)
    """`{"id", "function": {"index", "name", "arguments": {…}}}`."""
    logprobs: list[dict[str, Any]] = field(default_factory=list)
    """`{"token", "logprob", "bytes", "top_logprobs"?}`."""

    def __bool__(self) -> bool:
        return bool(self.content or self.thinking or self.tool_calls or self.logprobs)


@dataclass(frozen=True, slots=True)
class Shape:
    """What answers to one request look like."""

    model: str
    """The caller's own string: Ollama echoes it."""
    chat: bool
    """`/api/chat`'s `message`; `/api/generate`'s `response` where not."""

    def chunk(self, said: Said, now: float) -> bytes:
        """A line of a stream."""
        return gojson.dumps({**self._head(said, now), "done": False, **_logprobs(said)}) + b"\n"

    def last(self, said: Said, now: float, reason: str | None, metrics: dict[str, int]) -> bytes:
        """The last object, or the only one: without a newline, as Ollama sends an answer that is no stream.

        Args:
            said: what has not been said in a chunk.
            now: when it ended.
            reason: `stop`, `length`, `load`, `unload`, or the target's own; left out where None.
            metrics: those of the six that are known, in Ollama's names: counts, and durations in ns.
        """
        done = {"done": True} if reason is None else {"done": True, "done_reason": reason}
        return gojson.dumps({**self._head(said, now), **done, **metrics, **_logprobs(said)})

    def _head(self, said: Said, now: float) -> dict[str, Any]:
        head: dict[str, Any] = {"model": self.model, "created_at": timestamp(now)}
        if self.chat:
            head["message"] = {"role": "assistant", "content": said.content, **_thinking(said), **_tool_calls(said)}
        else:
            head |= {"response": said.content, **_thinking(said), **_tool_calls(said)}
        return head


def load_answer(path: str, model: str, *, unload: bool, now: float) -> bytes:
    """What Ollama answers to a call that only loads or unloads: one JSON object, also where a stream was asked."""
    return Shape(model, path == "/api/chat").last(Said(), now, "unload" if unload else "load", {})


def error_body(message: str) -> bytes:
    """`{"error": "…"}`: as a body before the first byte; with a newline behind it as a line of a stream."""
    return gojson.dumps({"error": message})


def timestamp(now: float) -> str:
    """RFC 3339, UTC, microseconds without trailing zeros: as Go writes a time.

    Args:
        now: seconds since the epoch.
    """
    text = datetime.fromtimestamp(now, UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")
    return text.rstrip("0").rstrip(".") + "Z"


def _thinking(said: Said) -> dict[str, Any]:
    return {"thinking": said.thinking} if said.thinking else {}


def _tool_calls(said: Said) -> dict[str, Any]:
    return {"tool_calls": said.tool_calls} if said.tool_calls else {}


def _logprobs(said: Said) -> dict[str, Any]:
    return {"logprobs": said.logprobs} if said.logprobs else {}
