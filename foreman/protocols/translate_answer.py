"""OpenAI's answers in Ollama's words: streamed, whole, or an error.

The worker feeds me the events of an `openai` target as they come and passes on the native lines I give back; durations
are what it measured, told as arguments. An answer without a finish reason I refuse: cut never looks like whole.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

from foreman.core.errors import Code, Failure
from foreman.protocols import gojson, openai, sse
from foreman.protocols.native import Said, error_body
from foreman.protocols.translate_tools import ToolCalls

if TYPE_CHECKING:
    from foreman.protocols.translate_request import Translated

_REASONS: Final = {"tool_calls": "stop", "function_call": "stop"}
"""Finish reasons Ollama has another word for; `stop` and `length` are the same, others are passed on."""

_NS: Final = 10**9
_MESSAGE_LIMIT: Final = 2000


class StreamTranslator:
    """One streamed answer, event by event. Moments are seconds since the epoch."""

    def __init__(self, asked: Translated, sent_at: float) -> None:
        self.error: str | None = None
        """The target's own error in mid-stream; its line has been given out, and none comes after it."""
        self.usage: dict[str, int] = {}
        """`{"prompt_tokens", "completion_tokens"}` as far as the target told."""
        self._shape = asked.shape
        self._sent_at = sent_at
        self._first_at: float | None = None
        self._calls = ToolCalls()
        self._reason: str | None = None
        self._ended = False

    def feed(self, event: bytes, now: float) -> list[bytes]:
        """The native lines that this event makes: mostly one, none for a comment, the last ones at `[DONE]`.

        Raises:
            Failure: UPSTREAM_ERROR: the event is no event of this dialect.
        """
        if self._ended:
            return []
        if openai.ends(event):
            return self._last(now) if self._reason else []
        said = sse.payload(event)
        if said is None:
            if sse.fields(event)[1]:
                raise Failure(Code.UPSTREAM_ERROR, "the target sent an event that is no JSON object")
            return []
        error = openai.error_in(event)
        if error is not None:
            self.error = error
            self._ended = True
            return [error_body(error) + b"\n"]
        self.usage |= openai.usage_of(said)
        choice = _choice(said)
        piece = _said(choice, choice.get("delta"))
        self._calls.add(_object(choice.get("delta")).get("tool_calls"))
        if isinstance(choice.get("finish_reason"), str):
            self._reason = choice["finish_reason"]
        if self._first_at is None and (piece or self._calls):
            self._first_at = now
        return [self._shape.chunk(piece, now)] if piece else []

    def finish(self, now: float) -> list[bytes]:
        """The lines still to come once the body has ended: none after `[DONE]` or an error.

        Raises:
            Failure: UPSTREAM_TRUNCATED: it never said why it stopped. (llama-cpp-python drops a stream for the next
                caller and still says `[DONE]`.)
        """
        if self._ended:
            return []
        if self._reason is None:
            raise Failure(Code.UPSTREAM_TRUNCATED, "the target's answer ended without a finish reason")
        return self._last(now)

    def _last(self, now: float) -> list[bytes]:
        self._ended = True
        lines = []
        calls = self._calls.joined()
        if calls:
            lines.append(self._shape.chunk(Said(tool_calls=calls), now))
        assert self._reason is not None
        metrics = _metrics(self.usage, self._sent_at, self._first_at, now)
        lines.append(self._shape.last(Said(), now, _done_reason(self._reason), metrics) + b"\n")
        return lines


def translate_answer(asked: Translated, body: bytes, sent_at: float, now: float) -> tuple[bytes, dict[str, int]]:
    """A whole answer (status 200) as Ollama would have given it with `stream: false`.

    Args:
        asked: the request.
        body: the target's JSON.
        sent_at: when the request was sent, in seconds since the epoch.
        now: when its answer was complete.

    Returns:
        The JSON without a newline, and `{"prompt_tokens", "completion_tokens"}` as far as the target told.

    Raises:
        Failure: UPSTREAM_ERROR: the body is no answer.
    """
    try:
        said = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise Failure(Code.UPSTREAM_ERROR, "the target's answer is no JSON") from error
    if not isinstance(said, dict) or not _choice(said):
        words = openai.message_in(body) or "the target's answer has no choices"
        raise Failure(Code.UPSTREAM_ERROR, words)
    choice = _choice(said)
    piece = _said(choice, choice.get("message"))
    calls = ToolCalls()
    calls.add(_object(choice.get("message")).get("tool_calls"))
    piece.tool_calls = calls.joined()
    usage = openai.usage_of(said)
    reason = choice.get("finish_reason")
    reason = _done_reason(reason) if isinstance(reason, str) else None
    return asked.shape.last(piece, now, reason, _metrics(usage, sent_at, None, now)), usage


def translate_error(status: int, body: bytes) -> bytes:
    """An answer with a status ≥ 400 as Ollama's `{"error": "…"}`, in the target's own words where it has any."""
    message = openai.message_in(body) or _other_words(body) or f"the target answered {status}"
    return error_body(message[:_MESSAGE_LIMIT])


def _other_words(body: bytes) -> str:
    """What servers that aren't quite OpenAI's say: `{"detail": …}` (FastAPI), `{"message": …}` (vLLM), plain text."""
    try:
        said = json.loads(body)
    except (ValueError, RecursionError):
        return body.decode(errors="replace").strip()
    found = (said.get("message") or said.get("detail")) if isinstance(said, dict) else said
    if isinstance(found, str):
        return found
    return gojson.dumps(found).decode() if found else ""


def _metrics(usage: dict[str, int], sent_at: float, first_at: float | None, now: float) -> dict[str, int]:
    """Ollama's six, in its order: the target's counts where it told them, our durations in ns.

    The time to the first piece stands for the reading of the prompt. Where nothing was streamed nobody knows it, and
    `eval_duration` is the whole time: clients divide by it.
    """
    metrics = {"total_duration": _ns(now - sent_at), "load_duration": 0}
    if "prompt_tokens" in usage:
        metrics["prompt_eval_count"] = usage["prompt_tokens"]
    if first_at is not None:
        metrics["prompt_eval_duration"] = _ns(first_at - sent_at)
    if "completion_tokens" in usage:
        metrics["eval_count"] = usage["completion_tokens"]
    metrics["eval_duration"] = _ns(now - (sent_at if first_at is None else first_at))
    return metrics


def _ns(seconds: float) -> int:
    return max(0, round(seconds * _NS))


def _done_reason(reason: str) -> str:
    return _REASONS.get(reason, reason)


def _choice(said: dict[str, Any]) -> dict[str, Any]:
    """The one choice that was asked for; {} in a chunk that carries only usage."""
    choices = said.get("choices")
    return _object(choices[0]) if isinstance(choices, list) and choices else {}


def _said(choice: dict[str, Any], message: object) -> Said:
    """The text, thinking and logprobs of a delta, of a message, or of a completion's choice."""
    given = _object(message)
    return Said(
        content=_text(choice.get("text")) + _text(given.get("content")) + _text(given.get("refusal")),
        thinking=_text(given.get("reasoning")) or _text(given.get("reasoning_content")),
        logprobs=_token_logprobs(choice.get("logprobs")),
    )


def _text(value: object) -> str:
    """A string; the texts of a list of parts; "" for anything else."""
    if isinstance(value, list):
        return "".join(_text(_object(part).get("text")) for part in value)
    return value if isinstance(value, str) else ""


def _token_logprobs(value: object) -> list[dict[str, Any]]:
    """Logprobs of a chat (`content`: a list of tokens) or of a completion (three parallel lists), as Ollama's."""
    given = _object(value)
    content = given.get("content")
    if isinstance(content, list):
        return [_chat_logprob(_object(token)) for token in content]
    tokens, values, tops = (_items(given.get(key)) for key in ("tokens", "token_logprobs", "top_logprobs"))
    found = []
    for index, (token, logprob) in enumerate(zip(tokens, values, strict=False)):
        top = _object(tops[index]) if index < len(tops) else {}
        alternatives = {"top_logprobs": [_logprob(*item) for item in top.items()]} if top else {}
        found.append({**_logprob(token, logprob), **alternatives})
    return found


def _chat_logprob(given: dict[str, Any]) -> dict[str, Any]:
    top = [
        _logprob(_object(item).get("token"), _object(item).get("logprob")) for item in _items(given.get("top_logprobs"))
    ]
    return {**_logprob(given.get("token"), given.get("logprob")), **({"top_logprobs": top} if top else {})}


def _logprob(token: object, logprob: object) -> dict[str, Any]:
    text = _text(token)
    return {"token": text, "logprob": logprob, "bytes": list(gojson.mend(text).encode())}


def _object(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _items(value: object) -> list[Any]:
    return value if isinstance(value, list) else []
