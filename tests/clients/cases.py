"""What every official client is made to do: one table per API, run by all of that API's clients.

A case is (dotted method, arguments). The same table goes to the Python and the JavaScript clients, once straight to the
model server and once through foreman; the answers must be equal but for what no two answers share (times, ids).
"""

from __future__ import annotations

from typing import Any, Final

CHAT: Final = "alpha:latest"
EMBED: Final = "embedder:latest"
PIXEL: Final = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNkYPhfDwAChwGA60e6kgAAAABJRU5ErkJggg=="
ASK: Final = [{"role": "user", "content": "Say something, please."}]
TOOLS: Final = [
    {
        "type": "function",
        "function": {
            "name": "weather",
            "description": "The weather in a town",
            "parameters": {"type": "object", "properties": {"town": {"type": "string"}}, "required": ["town"]},
        },
    }
]
SCHEMA: Final = {"type": "object", "properties": {"age": {"type": "integer"}}, "required": ["age"]}

Case = tuple[str, dict[str, Any]]

OLLAMA: Final[dict[str, Case]] = {
    "chat": ("chat", {"model": CHAT, "messages": ASK, "stream": False}),
    "chat-stream": ("chat", {"model": CHAT, "messages": ASK, "stream": True}),
    "generate": ("generate", {"model": CHAT, "prompt": "Once", "stream": False}),
    "generate-stream": ("generate", {"model": CHAT, "prompt": "Once", "stream": True}),
    "tools": ("chat", {"model": CHAT, "messages": ASK, "tools": TOOLS, "stream": False}),
    "tools-stream": ("chat", {"model": CHAT, "messages": ASK, "tools": TOOLS, "stream": True}),
    "images": (
        "chat",
        {"model": CHAT, "messages": [{"role": "user", "content": "What is it?", "images": [PIXEL]}], "stream": True},
    ),
    "format-json": ("chat", {"model": CHAT, "messages": ASK, "format": "json", "stream": False}),
    "format-schema": ("chat", {"model": CHAT, "messages": ASK, "format": SCHEMA, "stream": True}),
    "think": ("chat", {"model": CHAT, "messages": ASK, "think": True, "stream": False}),
    "think-stream": ("chat", {"model": CHAT, "messages": ASK, "think": True, "stream": True}),
    "logprobs": ("generate", {"model": CHAT, "prompt": "Once", "logprobs": True, "top_logprobs": 2, "stream": True}),
    "options": (
        "generate",
        {"model": CHAT, "prompt": "Once", "options": {"temperature": 0, "seed": 1, "num_predict": 3}, "stream": False},
    ),
    "keep-alive": ("chat", {"model": CHAT, "messages": ASK, "keep_alive": "10m", "stream": True}),
    "load": ("generate", {"model": CHAT, "prompt": "", "stream": False}),
    "load-stream": ("generate", {"model": CHAT, "prompt": "", "stream": True}),
    "unload": ("generate", {"model": CHAT, "prompt": "", "keep_alive": 0, "stream": False}),
    "embed": ("embed", {"model": EMBED, "input": ["one", "two"]}),
    "embed-string": ("embed", {"model": EMBED, "input": "one"}),
    "embeddings": ("embeddings", {"model": EMBED, "prompt": "one"}),
    "show": ("show", {"model": CHAT}),
    "unknown": ("chat", {"model": "nobody:latest", "messages": ASK, "stream": False}),
    "unknown-stream": ("chat", {"model": "nobody:latest", "messages": ASK, "stream": True}),
    "wrong-kind": ("chat", {"model": EMBED, "messages": ASK, "stream": True}),
}
"""Calls of the Ollama clients."""

OPENAI: Final[dict[str, Case]] = {
    "chat": ("chat.completions.create", {"model": CHAT, "messages": ASK}),
    "chat-stream": ("chat.completions.create", {"model": CHAT, "messages": ASK, "stream": True}),
    "usage-stream": (
        "chat.completions.create",
        {"model": CHAT, "messages": ASK, "stream": True, "stream_options": {"include_usage": True}},
    ),
    "tools": ("chat.completions.create", {"model": CHAT, "messages": ASK, "tools": TOOLS}),
    "tools-stream": ("chat.completions.create", {"model": CHAT, "messages": ASK, "tools": TOOLS, "stream": True}),
    "images": (
        "chat.completions.create",
        {
            "model": CHAT,
            "messages": [
                {
                    "role": "user",
                    "content": [
                        {"type": "text", "text": "What is it?"},
                        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PIXEL}"}},
                    ],
                }
            ],
            "stream": True,
        },
    ),
    "format": (
        "chat.completions.create",
        {"model": CHAT, "messages": ASK, "response_format": {"type": "json_object"}},
    ),
    "think": ("chat.completions.create", {"model": CHAT, "messages": ASK, "reasoning_effort": "low"}),
    "think-stream": (
        "chat.completions.create",
        {"model": CHAT, "messages": ASK, "reasoning_effort": "low", "stream": True},
    ),
    "completion": ("completions.create", {"model": CHAT, "prompt": "Once"}),
    "completion-stream": ("completions.create", {"model": CHAT, "prompt": "Once", "stream": True}),
    "responses-stream": ("responses.create", {"model": CHAT, "input": "Once", "stream": True}),
    "embed": ("embeddings.create", {"model": EMBED, "input": ["one", "two"]}),
    "embed-float": ("embeddings.create", {"model": EMBED, "input": "one", "encoding_format": "float"}),
    "unknown": ("chat.completions.create", {"model": "nobody", "messages": ASK}),
    "unknown-stream": ("chat.completions.create", {"model": "nobody", "messages": ASK, "stream": True}),
    "no-messages": ("chat.completions.create", {"model": CHAT, "messages": []}),
}
"""Calls of the OpenAI clients."""

VOLATILE: Final = frozenset(
    {
        *("created_at", "created", "id", "item_id", "response_id", "completed_at", "request_id", "call_id"),
        *("total_duration", "load_duration", "prompt_eval_duration", "eval_duration", "expires_at"),
    }
)
"""Keys whose values differ between any two answers."""


def settled(value: Any) -> Any:
    """The answer without what no two answers share."""
    if isinstance(value, dict):
        return {key: settled(inner) for key, inner in value.items() if key not in VOLATILE and inner is not None}
    if isinstance(value, (list, tuple)):
        return [settled(inner) for inner in value]
    return value
