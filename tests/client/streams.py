"""Streams to feed a client's reader and accumulator: every recorded one, and one per dialect that calls tools.

The recordings hold no tool calls (the little model makes none), so those are written here as Ollama, OpenAI's API and
Anthropic's cut them; the OpenAI one interleaves two calls, as servers that call in parallel do.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from tests.demo.recordings import read


@dataclass(frozen=True)
class Stream:
    """One answer as it came over the wire."""

    name: str
    path: str
    events: bool
    body: bytes
    calls: int = 0


def recorded() -> list[Stream]:
    """Every recorded stream that is whole and was not cut by the recorder; equal shapes once."""
    found: dict[tuple[str, int], Stream] = {}
    exchanges = [(entry["name"], entry) for entry in read("exchanges.jsonl")]
    for scenario in read("scenarios.jsonl"):
        exchanges += [(f"{scenario['name']}-{at}", entry) for at, entry in enumerate(scenario["exchanges"])]
    for name, entry in exchanges:
        reply = entry.get("response") or {}
        kind = {key.lower(): value for key, value in reply.get("headers", [])}.get("content-type", "")
        body = reply.get("body", "")
        if kind.startswith(("application/x-ndjson", "text/event-stream")) and "…cut" not in body:
            path = entry["request"]["path"]
            found.setdefault((path, len(body)), Stream(name, path, kind.startswith("text/"), body.encode()))
    return list(found.values())


def _sse(*events: Any, named: bool = False) -> bytes:
    return b"".join(
        (f"event: {event['type']}\n" if named else "").encode()
        + b"data: "
        + (event if isinstance(event, bytes) else json.dumps(event, ensure_ascii=False).encode())
        + b"\n\n"
        for event in events
    )


def _openai(finish: str | None = None, **delta: Any) -> dict[str, Any]:
    return {"model": "m", "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}


def _piece(index: int, arguments: str, **first: Any) -> dict[str, Any]:
    return _openai(
        tool_calls=[{"index": index, **first, "function": {**first.pop("function", {}), "arguments": arguments}}]
    )


ARGUMENTS = {"town": "Zürich\u2028\n", "days": 3}
TOOLS = [
    Stream(
        "openai-tools",
        "/v1/chat/completions",
        True,
        _sse(
            _openai(role="assistant", content=None, reasoning="hm"),
            _piece(0, "", id="c0", function={"name": "weather"}),
            _piece(0, '{"town": "Zürich'),
            _piece(1, "", id="c1", function={"name": "clock"}),
            _piece(1, "{"),
            _piece(0, '\\u2028\\n", "da'),
            _piece(1, "}"),
            _piece(0, 'ys": 3}'),
            _openai(finish="tool_calls"),
            {"model": "m", "choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 21}},
            b"[DONE]",
        ),
        2,
    ),
    Stream(
        "anthropic-tools",
        "/v1/messages",
        True,
        _sse(
            {"type": "message_start", "message": {"usage": {"input_tokens": 7, "output_tokens": 0}}},
            {"type": "content_block_start", "index": 0, "content_block": {"type": "thinking", "thinking": ""}},
            {"type": "content_block_delta", "index": 0, "delta": {"type": "thinking_delta", "thinking": "hm"}},
            {"type": "content_block_stop", "index": 0},
            {
                "type": "content_block_start",
                "index": 1,
                "content_block": {"type": "tool_use", "id": "c0", "name": "weather", "input": {}},
            },
            *(
                {
                    "type": "content_block_delta",
                    "index": 1,
                    "delta": {"type": "input_json_delta", "partial_json": piece},
                }
                for piece in ("", '{"town": "Zürich\\u20', '28\\n", "days"', ": 3}")
            ),
            {"type": "content_block_stop", "index": 1},
            {"type": "message_delta", "delta": {"stop_reason": "tool_use"}, "usage": {"output_tokens": 21}},
            {"type": "message_stop"},
            named=True,
        ),
        1,
    ),
    Stream(
        "native-tools",
        "/api/chat",
        False,
        b"".join(
            json.dumps(line, ensure_ascii=False).encode() + b"\n"
            for line in (
                {"message": {"role": "assistant", "content": "", "thinking": "hm"}, "done": False},
                {
                    "message": {
                        "content": "",
                        "tool_calls": [
                            {"id": "c0", "function": {"index": 0, "name": "weather", "arguments": ARGUMENTS}},
                            {"id": "c1", "function": {"index": 1, "name": "clock", "arguments": {}}},
                        ],
                    },
                    "done": False,
                },
                {
                    "message": {"content": ""},
                    "done": True,
                    "done_reason": "stop",
                    "prompt_eval_count": 7,
                    "eval_count": 21,
                },
            )
        ),
        2,
    ),
    Stream(
        "responses-tools",
        "/v1/responses",
        True,
        _sse(
            {"type": "response.created", "response": {"status": "in_progress"}},
            {
                "type": "response.output_item.added",
                "output_index": 0,
                "item": {"id": "fc_0", "type": "function_call", "call_id": "c0", "name": "weather", "arguments": ""},
            },
            *(
                {"type": "response.function_call_arguments.delta", "item_id": "fc_0", "output_index": 0, "delta": piece}
                for piece in ('{"town": "Zürich\\u2028', '\\n", "days": 3}')
            ),
            {
                "type": "response.function_call_arguments.done",
                "item_id": "fc_0",
                "output_index": 0,
                "arguments": json.dumps(ARGUMENTS),
            },
            {
                "type": "response.completed",
                "response": {"status": "completed", "usage": {"input_tokens": 7, "output_tokens": 21}},
            },
            named=True,
        ),
        1,
    ),
]
ALL = [*recorded(), *TOOLS]
