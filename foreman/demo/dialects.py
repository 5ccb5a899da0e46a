"""The shapes of a fake Ollama's answers on /api/chat, /api/generate, /v1/chat/completions and /v1/completions.

The answering code hands me pieces and, at the end, the measurements; I give the units it writes, one HTTP chunk each.
dialect_events holds the two shapes made of named events. I decide nothing.
"""

from __future__ import annotations

import json
import time
import zlib
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Final

from foreman.protocols.gojson import dumps

from .golang import timestamp
from .speech import logprob

if TYPE_CHECKING:
    from .asks import Ask, RefusalError
    from .speech import Piece, Speech

STILL_NS: Final = 1_795_244_726_860_888_784
"""The one moment in which a repeatable fake lives, ns since 1970."""

JSON_UTF8: Final = "application/json; charset=utf-8"
JSON_BARE: Final = "application/json"


@dataclass(slots=True)
class Stats:
    """What an answer took; times in ns."""

    total: int = 1
    load: int = 1
    prompt_tokens: int = 0
    prompt: int = 1
    tokens: int = 0
    eval: int = 0

    def native(self) -> dict[str, int]:
        """The six fields of the last native chunk; zeros are left out."""
        fields = {
            "total_duration": self.total,
            "load_duration": self.load,
            "prompt_eval_count": self.prompt_tokens,
            "prompt_eval_duration": self.prompt,
            "eval_count": self.tokens,
            "eval_duration": self.eval,
        }
        return {key: value for key, value in fields.items() if value}


class Dialect(ABC):
    """One API's way to say an answer."""

    stream_type: ClassVar[str]
    whole_type: ClassVar[str]
    stream_headers: ClassVar[dict[str, str]] = {}
    steady: ClassVar[bool] = True
    """The same token gives the same unit, but for its moment."""

    def __init__(self, ask: Ask, request: dict[str, Any], *, repeatable: bool = False) -> None:
        self.ask = ask
        self.request = request
        """The body as this dialect's struct has it, for what answers repeat of it."""
        self.repeatable = repeatable

    def begin(self) -> list[bytes]:
        """Units before the first token."""
        return []

    @abstractmethod
    def piece(self, piece: Piece) -> list[bytes]:
        """The units of one token."""

    @abstractmethod
    def end(self, speech: Speech, stats: Stats) -> list[bytes]:
        """The units after the last token."""

    @abstractmethod
    def whole(self, speech: Speech, stats: Stats) -> bytes:
        """The body of a call that does not stream."""

    @abstractmethod
    def broken(self, words: str) -> list[bytes]:
        """The units when the runner dies in the middle."""

    def now_ns(self) -> int:
        """The moment of a chunk."""
        return STILL_NS if self.repeatable else time.time_ns()

    def number(self, limit: int) -> int:
        """A number for an id, smaller than `limit`."""
        return zlib.crc32(self.ask.prompt.encode()) % limit if self.repeatable else time.time_ns() // 1000 % limit

    def logprobs(self, text: str) -> list[dict[str, Any]]:
        """Log probabilities of a token, with its alternatives where asked for."""
        entry = _logprob(text, 0)
        if self.ask.top_logprobs:
            others = [text, *(f"{text}{mark}" for mark in "abcdefghijklmnopqrstu")]
            entry["top_logprobs"] = [
                _logprob(word, place) for place, word in enumerate(others[: self.ask.top_logprobs])
            ]
        return [entry]


def _logprob(text: str, place: int) -> dict[str, Any]:
    return {"token": text, "logprob": logprob(text, place), "bytes": list(text.encode())}


class Native(Dialect):
    """What /api/chat and /api/generate share: NDJSON."""

    stream_type = "application/x-ndjson"
    whole_type = JSON_UTF8

    def _head(self) -> dict[str, Any]:
        return {"model": self.ask.name, "created_at": timestamp(self.now_ns())}

    @abstractmethod
    def _said(self, text: str, thinking: str, calls: list[dict[str, Any]]) -> dict[str, Any]:
        """The part of a chunk that holds what was said."""

    @abstractmethod
    def _late(self, calls: list[dict[str, Any]]) -> dict[str, Any]:
        """What follows the metrics."""

    def _context(self) -> dict[str, Any]:
        return {}

    def piece(self, piece: Piece) -> list[bytes]:
        """One line or event."""
        said = self._said(
            "" if piece.thinking else piece.text, piece.text if piece.thinking else "", list(piece.tool_calls)
        )
        chunk = {**self._head(), **said, "done": False, **self._late(list(piece.tool_calls))}
        if self.ask.logprobs and piece.text:
            chunk["logprobs"] = self.logprobs(piece.text)
        return [dumps(chunk) + b"\n"]

    def end(self, speech: Speech, stats: Stats) -> list[bytes]:
        """The end mark, with what was measured."""
        return [dumps(self._final("", "", [], speech.reason, stats)) + b"\n"]

    def whole(self, speech: Speech, stats: Stats) -> bytes:
        """The answer in one object."""
        final = self._final(speech.text, speech.thinking, speech.tool_calls, speech.reason, stats)
        if self.ask.logprobs:
            final["logprobs"] = [entry for piece in speech.pieces if piece.text for entry in self.logprobs(piece.text)]
        return dumps(final)

    def single(self, reason: str) -> bytes:
        """The one object that answers a load or an unload."""
        return dumps({**self._head(), **self._said("", "", []), "done": True, "done_reason": reason})

    def broken(self, words: str) -> list[bytes]:
        """What is heard of a runner that died."""
        return [dumps({"error": words}) + b"\n"]

    def _final(
        self, text: str, thinking: str, calls: list[dict[str, Any]], reason: str, stats: Stats
    ) -> dict[str, Any]:
        head = {**self._head(), **self._said(text, thinking, calls), "done": True, "done_reason": reason}
        return {**head, **self._context(), **stats.native(), **self._late(calls)}


class NativeChat(Native):
    """/api/chat."""

    def _said(self, text: str, thinking: str, calls: list[dict[str, Any]]) -> dict[str, Any]:
        message: dict[str, Any] = {"role": "assistant", "content": text}
        if thinking:
            message["thinking"] = thinking
        if calls:
            message["tool_calls"] = calls
        return {"message": message}

    def _late(self, calls: list[dict[str, Any]]) -> dict[str, Any]:
        del calls  # they stand in the message
        return {}

    def rendered(self) -> bytes:
        """The answer to `_debug_render_only`."""
        head = {**self._head(), "message": {"role": "", "content": ""}, "done": False}
        return dumps({**head, "_debug_info": {"rendered_template": self.ask.prompt}})


class NativeGenerate(Native):
    """/api/generate."""

    def _said(self, text: str, thinking: str, calls: list[dict[str, Any]]) -> dict[str, Any]:
        del calls  # they follow the metrics
        return {"response": text, "thinking": thinking} if thinking else {"response": text}

    def _late(self, calls: list[dict[str, Any]]) -> dict[str, Any]:
        return {"tool_calls": calls} if calls else {}

    def _context(self) -> dict[str, Any]:
        if self.ask.raw:
            return {}
        return {"context": [zlib.crc32(word.encode()) % 49152 for word in self.ask.prompt.split()] + [1, 2, 198]}

    def rendered(self) -> bytes:
        """The answer to `_debug_render_only`."""
        head = {**self._head(), "response": "", "done": False}
        return dumps({**head, "_debug_info": {"rendered_template": self.ask.prompt}})


class OpenAIChat(Dialect):
    """/v1/chat/completions."""

    stream_type = "text/event-stream"
    whole_type = JSON_BARE

    def __init__(self, ask: Ask, request: dict[str, Any], *, repeatable: bool = False) -> None:
        super().__init__(ask, request, repeatable=repeatable)
        self.id = f"chatcmpl-{self.number(999)}"
        self.created = self.now_ns() // 10**9
        self.usage = bool((request.get("stream_options") or {}).get("include_usage"))

    def piece(self, piece: Piece) -> list[bytes]:
        """One line or event."""
        delta: dict[str, Any] = {"role": "assistant", "content": "" if piece.thinking else piece.text}
        if piece.thinking:
            delta["reasoning"] = piece.text
        if piece.tool_calls:
            delta["tool_calls"] = openai_calls(piece.tool_calls)
        choice = {"index": 0, "delta": delta, "finish_reason": None}
        if self.ask.logprobs and piece.text:
            choice["logprobs"] = {"content": self.logprobs(piece.text)}
        return [sse(self._chunk([choice]))]

    def end(self, speech: Speech, stats: Stats) -> list[bytes]:
        """The end mark, with what was measured."""
        delta = {"role": "assistant", "content": ""}
        units = sse(self._chunk([{"index": 0, "delta": delta, "finish_reason": _reason(speech)}]))
        if self.usage:
            units += sse({**self._chunk([]), "usage": usage(stats)})
        return [units + b"data: [DONE]\n\n"]

    def whole(self, speech: Speech, stats: Stats) -> bytes:
        """The answer in one object."""
        message: dict[str, Any] = {"role": "assistant", "content": speech.text}
        if speech.thinking:
            message["reasoning"] = speech.thinking
        if speech.tool_calls:
            message["tool_calls"] = openai_calls(speech.tool_calls)
        choice = {"index": 0, "message": message, "finish_reason": _reason(speech)}
        if self.ask.logprobs:
            content = [entry for piece in speech.pieces if piece.text for entry in self.logprobs(piece.text)]
            choice["logprobs"] = {"content": content}
        head = {"id": self.id, "object": "chat.completion", "created": self.created, "model": self.ask.name}
        return dumps({**head, "system_fingerprint": "fp_ollama", "choices": [choice], "usage": usage(stats)}) + b"\n"

    def broken(self, words: str) -> list[bytes]:
        """What is heard of a runner that died: nothing (stock Ollama loses it)."""
        del words
        delta = {"role": "assistant", "content": ""}
        lost = self._chunk([{"index": 0, "delta": delta, "finish_reason": None}])
        return [sse({**lost, "model": ""})]

    def _chunk(self, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "id": self.id,
            "object": "chat.completion.chunk",
            "created": self.created,
            "model": self.ask.name,
            "system_fingerprint": "fp_ollama",
            "choices": choices,
        }


class OpenAICompletion(Dialect):
    """/v1/completions."""

    stream_type = "text/event-stream"
    whole_type = JSON_BARE

    def __init__(self, ask: Ask, request: dict[str, Any], *, repeatable: bool = False) -> None:
        super().__init__(ask, request, repeatable=repeatable)
        self.id = f"cmpl-{self.number(999)}"
        self.created = self.now_ns() // 10**9
        self.usage = bool((request.get("stream_options") or {}).get("include_usage"))

    def piece(self, piece: Piece) -> list[bytes]:
        """One line or event."""
        return [sse(self._chunk([{"text": "" if piece.thinking else piece.text, "index": 0, "finish_reason": None}]))]

    def end(self, speech: Speech, stats: Stats) -> list[bytes]:
        """The end mark, with what was measured."""
        units = sse(self._chunk([{"text": "", "index": 0, "finish_reason": speech.reason}]))
        if self.usage:
            units += sse({**self._chunk([]), "usage": usage(stats)})
        return [units + b"data: [DONE]\n\n"]

    def whole(self, speech: Speech, stats: Stats) -> bytes:
        """The answer in one object."""
        choice = {"text": speech.text, "index": 0, "finish_reason": speech.reason}
        head = {"id": self.id, "object": "text_completion", "created": self.created, "model": self.ask.name}
        return dumps({**head, "system_fingerprint": "fp_ollama", "choices": [choice], "usage": usage(stats)}) + b"\n"

    def broken(self, words: str) -> list[bytes]:
        """What is heard of a runner that died: nothing (stock Ollama loses it)."""
        del words
        lost = self._chunk([{"text": "", "index": 0, "finish_reason": None}])
        return [sse({**lost, "model": ""})]

    def _chunk(self, choices: list[dict[str, Any]]) -> dict[str, Any]:
        chunk = {"id": self.id, "object": "text_completion", "created": self.created, "choices": choices}
        chunk |= {"model": self.ask.name, "system_fingerprint": "fp_ollama"}
        if self.usage:
            chunk["usage"] = usage(Stats())
        return chunk


def sse(value: dict[str, Any], event: str = "") -> bytes:
    """One server-sent event."""
    head = f"event: {event}\n".encode() if event else b""
    return head + b"data: " + dumps(value) + b"\n\n"


def usage(stats: Stats) -> dict[str, int]:
    """OpenAI's count of tokens."""
    return {
        "prompt_tokens": stats.prompt_tokens,
        "completion_tokens": stats.tokens,
        "total_tokens": stats.prompt_tokens + stats.tokens,
    }


def openai_calls(calls: Any) -> list[dict[str, Any]]:
    """Tool calls OpenAI's way: arguments as a string of JSON."""
    return [
        {
            "id": call["id"],
            "index": index,
            "type": "function",
            "function": {
                "name": call["function"]["name"],
                "arguments": json.dumps(call["function"]["arguments"], separators=(",", ":")),
            },
        }
        for index, call in enumerate(calls)
    ]


def _reason(speech: Speech) -> str:
    return "tool_calls" if speech.tool_calls else speech.reason


ERROR_TYPES: Final = {400: "invalid_request_error", 404: "not_found_error"}


def error_body(path: str, refusal: RefusalError) -> tuple[str, bytes]:
    """Content-Type and body of an error, in the shape of its path."""
    words = refusal.words
    if not path.startswith("/v1/"):
        return (JSON_BARE if refusal.late else JSON_UTF8), dumps({"error": words})
    if path == "/v1/messages":
        kinds = ERROR_TYPES | {503: "overloaded_error"}
        error: dict[str, Any] = {"type": kinds.get(refusal.status, "api_error"), "message": words}
        body = dumps({"type": "error", "error": error, "request_id": f"req_{zlib.crc32(words.encode()):024x}"})
    else:
        error = {"message": words, "type": ERROR_TYPES.get(refusal.status, "api_error"), "param": None, "code": None}
        body = dumps({"error": error})
    return (JSON_UTF8, body) if refusal.middleware else (JSON_BARE, body + b"\n")
