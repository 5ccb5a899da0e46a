"""The shapes of a fake Ollama's answers that are made of named events: /v1/responses and /v1/messages.

Called as dialects is. Ollama sends each event as its own chunk; neither stream has a `[DONE]`, and a runner that dies
just ends them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from foreman.protocols.gojson import dumps

from .dialects import JSON_BARE, Dialect, openai_calls, sse

if TYPE_CHECKING:
    from .asks import Ask
    from .dialects import Stats
    from .speech import Piece, Speech


class _Events(Dialect):
    """A dialect of named events."""

    stream_type = "text/event-stream"
    whole_type = JSON_BARE
    stream_headers: ClassVar[dict[str, str]] = {"Cache-Control": "no-cache", "Connection": "keep-alive"}
    steady = False


class Responses(_Events):
    """/v1/responses."""

    def __init__(self, ask: Ask, request: dict[str, Any], *, repeatable: bool = False) -> None:
        super().__init__(ask, request, repeatable=repeatable)
        self.id = f"resp_{self.number(999_999)}"
        self.item = f"msg_{self.number(999_998)}"
        self.reasoning = f"rs_{self.number(999_997)}"
        self.created = self.now_ns() // 10**9
        self._sequence = 0
        self._index = 0
        """Of the output item under way."""
        self._open = ""
        """Its kind: reasoning, message, or none yet."""
        self._text = ""
        self._thought = ""

    def begin(self) -> list[bytes]:
        """Created, in progress."""
        response = self._response("in_progress", [], None)
        return [self._event(f"response.{state}", response=response) for state in ("created", "in_progress")]

    def piece(self, piece: Piece) -> list[bytes]:
        """The events of one token; the first of a kind opens its item."""
        if piece.thinking:
            return self._thinking(piece.text)
        units = self._close_reasoning()
        if piece.tool_calls:
            return units + self._calls(piece)
        if self._open != "message":
            self._open = "message"
            item = {"id": self.item, "type": "message", "status": "in_progress", "role": "assistant", "content": []}
            units.append(self._event("response.output_item.added", output_index=self._index, item=item))
            units.append(self._part("response.content_part.added", part=_text_part("")))
        self._text += piece.text
        return [*units, self._part("response.output_text.delta", delta=piece.text, logprobs=[])]

    def end(self, speech: Speech, stats: Stats) -> list[bytes]:
        """Close what is open; completed."""
        units = self._close_reasoning()
        if self._open == "message":
            units += [
                self._part("response.output_text.done", text=self._text, logprobs=[]),
                self._part("response.content_part.done", part=_text_part(self._text)),
                self._event("response.output_item.done", output_index=self._index, item=self._message(self._text)),
            ]
        response = self._response("completed", self._output(speech), _usage(stats))
        response["completed_at"] = self.now_ns() // 10**9
        return [*units, self._event("response.completed", response=response)]

    def whole(self, speech: Speech, stats: Stats) -> bytes:
        """The response object, in the order of Ollama's struct."""
        response = self._response("completed", self._output(speech), _usage(stats))
        response["completed_at"] = self.now_ns() // 10**9
        return dumps(response) + b"\n"

    def broken(self, words: str) -> list[bytes]:
        """Nothing more is heard."""
        del words
        return []

    # ------------------------------------------------------------------------------------------- events

    def _event(self, event: str, **data: Any) -> bytes:
        data |= {"sequence_number": self._sequence, "type": event}
        self._sequence += 1
        return sse(_ordered(data), event)

    def _part(self, event: str, **data: Any) -> bytes:
        return self._event(event, item_id=self.item, output_index=self._index, content_index=0, **data)

    def _thinking(self, text: str) -> list[bytes]:
        units = []
        if self._open != "reasoning":
            self._open = "reasoning"
            item = {"id": self.reasoning, "type": "reasoning", "summary": []}
            units.append(self._event("response.output_item.added", output_index=self._index, item=item))
        self._thought += text
        return [*units, self._summary("response.reasoning_summary_text.delta", delta=text)]

    def _close_reasoning(self) -> list[bytes]:
        if self._open != "reasoning":
            return []
        self._open = ""
        units = [
            self._summary("response.reasoning_summary_text.done", text=self._thought),
            self._event("response.output_item.done", output_index=self._index, item=self._reasoned(self._thought)),
        ]
        self._index += 1
        return units

    def _summary(self, event: str, **data: Any) -> bytes:
        return self._event(event, item_id=self.reasoning, output_index=self._index, summary_index=0, **data)

    def _calls(self, piece: Piece) -> list[bytes]:
        units = []
        for item in self._called(piece.tool_calls):
            arguments = item["arguments"]
            place = {"item_id": item["id"], "output_index": self._index}
            begun = {**item, "status": "in_progress", "arguments": ""}
            units += [
                self._event("response.output_item.added", output_index=self._index, item=begun),
                self._event("response.function_call_arguments.delta", delta=arguments, **place),
                self._event("response.function_call_arguments.done", arguments=arguments, **place),
                self._event("response.output_item.done", output_index=self._index, item=item),
            ]
        return units

    # ------------------------------------------------------------------------------------------- objects

    def _called(self, calls: Any) -> list[dict[str, Any]]:
        return [
            {
                "id": f"fc_{self.id}_{call['index']}",
                "type": "function_call",
                "status": "completed",
                "call_id": call["id"],
                "name": call["function"]["name"],
                "arguments": call["function"]["arguments"],
            }
            for call in openai_calls(calls)
        ]

    def _message(self, text: str) -> dict[str, Any]:
        head = {"id": self.item, "type": "message", "status": "completed", "role": "assistant"}
        return {**head, "content": [_text_part(text)]}

    def _reasoned(self, text: str) -> dict[str, Any]:
        summary = [{"type": "summary_text", "text": text}]
        return {"id": self.reasoning, "type": "reasoning", "summary": summary, "encrypted_content": text}

    def _output(self, speech: Speech) -> list[dict[str, Any]]:
        output = [self._reasoned(speech.thinking)] if speech.thinking else []
        if speech.tool_calls:
            return output + self._called(speech.tool_calls)
        return [*output, self._message(speech.text)]

    def _response(self, status: str, output: list[Any], usage: dict[str, Any] | None) -> dict[str, Any]:
        asked = self.request
        reasoning = {
            key: value for key, value in (asked.get("reasoning") or {}).items() if key in {"effort", "summary"}
        }
        return {
            "id": self.id,
            "object": "response",
            "created_at": self.created,
            "completed_at": None,
            "status": status,
            "incomplete_details": None,
            "model": self.ask.name,
            "previous_response_id": None,
            "instructions": asked.get("instructions") or None,
            "output": output,
            "error": None,
            "tools": asked.get("tools") or [],
            "tool_choice": "auto",
            "truncation": asked.get("truncation", "disabled"),
            "parallel_tool_calls": True,
            "text": {"format": (asked.get("text") or {}).get("format") or {"type": "text"}},
            "top_p": asked.get("top_p", 1),
            "presence_penalty": 0,
            "frequency_penalty": 0,
            "top_logprobs": 0,
            "temperature": asked.get("temperature", 1),
            "reasoning": reasoning or None,
            "usage": usage,
            "max_output_tokens": asked.get("max_output_tokens"),
            "max_tool_calls": None,
            "store": False,
            "background": bool(asked.get("background")),
            "service_tier": "default",
            "metadata": {},
            "safety_identifier": None,
            "prompt_cache_key": None,
        }


class Messages(_Events):
    """/v1/messages, Anthropic's."""

    def __init__(self, ask: Ask, request: dict[str, Any], *, repeatable: bool = False) -> None:
        super().__init__(ask, request, repeatable=repeatable)
        self.id = f"msg_{self.number(2**31):024x}"
        self._index = 0
        self._open = ""
        """The kind of the open content block: thinking, text, or none."""

    def begin(self) -> list[bytes]:
        """message_start, with an estimate of the prompt: its characters by four."""
        usage = {"input_tokens": max(1, len(self.ask.prompt) // 4), "output_tokens": 0}
        return [_event("message_start", message={**self._head(), "content": [], "usage": usage})]

    def piece(self, piece: Piece) -> list[bytes]:
        """The events of one token; the first of a kind opens a content block."""
        if piece.tool_calls:
            return self._close() + [unit for call in piece.tool_calls for unit in self._call(call)]
        kind = "thinking" if piece.thinking else "text"
        units = []
        if self._open != kind:
            units = [*self._close(), self._start({"type": kind, kind: ""})]
            self._open = kind
        return [*units, self._delta({"type": f"{kind}_delta", kind: piece.text})]

    def end(self, speech: Speech, stats: Stats) -> list[bytes]:
        """Close what is open, say why, stop."""
        usage = {"input_tokens": stats.prompt_tokens, "output_tokens": stats.tokens}
        closing = _event("message_delta", delta={"stop_reason": _stop_reason(speech)}, usage=usage)
        return [*self._close(), closing, _event("message_stop")]

    def whole(self, speech: Speech, stats: Stats) -> bytes:
        """The message."""
        content: list[dict[str, Any]] = []
        if speech.thinking:
            content.append({"type": "thinking", "thinking": speech.thinking})
        if speech.text:
            content.append({"type": "text", "text": speech.text})
        for call in speech.tool_calls:
            function = call["function"]
            content.append(
                {"type": "tool_use", "id": call["id"], "name": function["name"], "input": function["arguments"]}
            )
        usage = {"input_tokens": stats.prompt_tokens, "output_tokens": stats.tokens}
        message = {**self._head(), "content": content, "stop_reason": _stop_reason(speech), "usage": usage}
        return dumps(message) + b"\n"

    def broken(self, words: str) -> list[bytes]:
        """Nothing more is heard."""
        del words
        return []

    def _head(self) -> dict[str, Any]:
        return {"id": self.id, "type": "message", "role": "assistant", "model": self.ask.name}

    def _start(self, block: dict[str, Any]) -> bytes:
        return _event("content_block_start", index=self._index, content_block=block)

    def _delta(self, delta: dict[str, Any]) -> bytes:
        return _event("content_block_delta", index=self._index, delta=delta)

    def _close(self) -> list[bytes]:
        if not self._open:
            return []
        self._open = ""
        self._index += 1
        return [_event("content_block_stop", index=self._index - 1)]

    def _call(self, call: dict[str, Any]) -> list[bytes]:
        function = call["function"]
        block = {"type": "tool_use", "id": call["id"], "name": function["name"], "input": {}}
        arguments = dumps(function["arguments"]).decode()
        units = [self._start(block), self._delta({"type": "input_json_delta", "partial_json": arguments})]
        self._open = "tool_use"
        return units + self._close()


def _event(kind: str, **data: Any) -> bytes:
    return sse({"type": kind, **data}, kind)


def _stop_reason(speech: Speech) -> str:
    if speech.tool_calls:
        return "tool_use"
    return "max_tokens" if speech.reason == "length" else "end_turn"


def _text_part(text: str) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def _usage(stats: Stats) -> dict[str, Any]:
    return {
        "input_tokens": stats.prompt_tokens,
        "output_tokens": stats.tokens,
        "total_tokens": stats.prompt_tokens + stats.tokens,
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens_details": {"reasoning_tokens": 0},
    }


def _ordered(value: Any) -> Any:
    """Keys in alphabetical order, as Go writes its maps: the events are maps, the whole response is a struct."""
    if isinstance(value, dict):
        return {key: _ordered(value[key]) for key in sorted(value)}
    return [_ordered(item) for item in value] if isinstance(value, list) else value
