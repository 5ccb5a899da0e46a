"""Requests to /v1/responses and /v1/messages turned into native chats, as compat does for the other /v1 paths.

The server's routes call me with a body's fields; Ollama's own refusals of what it does not support come from here.
"""

from __future__ import annotations

import json
from typing import Any, Final

from .compat import bad, think
from .structs import ANY, BOOL, FLOAT, INT, STRING, STRINGS, Items, Struct

RESPONSES: Final = Struct(
    "openai.ResponsesRequest",
    {
        "model": STRING,
        "background": BOOL,
        "input": ANY,
        "instructions": STRING,
        "max_output_tokens": INT,
        "reasoning": ANY,
        "temperature": FLOAT,
        "text": ANY,
        "top_p": FLOAT,
        "truncation": STRING,
        "tools": Items(ANY, "[]openai.ResponsesTool"),
        "stream": BOOL,
        "fake": ANY,
    },
)
MESSAGES: Final = Struct(
    "anthropic.MessagesRequest",
    {
        "model": STRING,
        "max_tokens": INT,
        "messages": Items(ANY, "[]anthropic.MessageParam"),
        "system": ANY,
        "stream": BOOL,
        "temperature": FLOAT,
        "top_p": FLOAT,
        "top_k": INT,
        "stop_sequences": STRINGS,
        "tools": Items(ANY, "[]anthropic.Tool"),
        "thinking": ANY,
        "output_config": ANY,
        "fake": ANY,
    },
)


def responses(request: dict[str, Any]) -> dict[str, Any]:
    """The fields of api.ChatRequest for an openai.ResponsesRequest."""
    messages: list[dict[str, Any]] = []
    if request.get("instructions"):
        messages.append({"role": "system", "content": request["instructions"]})
    given = request.get("input")
    if isinstance(given, str):
        messages += [{"role": "user", "content": given}] if given else []
    elif isinstance(given, list):
        messages += [message for number, item in enumerate(given) for message in _item(number, item)]
    elif given is not None:
        raise bad(
            "input must be a string or array: json: cannot unmarshal value into Go value of type []json.RawMessage"
        )
    options: dict[str, Any] = {"temperature": request.get("temperature", 1.0)}
    if "max_output_tokens" in request:
        options["num_predict"] = request["max_output_tokens"]
    native = _native(request, messages, options)
    effort = (request.get("reasoning") or {}).get("effort")
    if effort:
        native["think"] = think(effort)
    wanted = (request.get("text") or {}).get("format") or {}
    if wanted.get("type") == "json_schema":
        native["format"] = wanted.get("schema")
    native["tools"] = [
        {"type": "function", "function": {key: tool.get(key) for key in ("name", "description", "parameters")}}
        for tool in request.get("tools") or []
    ]
    return native


def messages(request: dict[str, Any]) -> dict[str, Any]:
    """The fields of api.ChatRequest for an anthropic.MessagesRequest."""
    if not request.get("model"):
        raise bad("model is required")
    if request.get("max_tokens", 0) <= 0:
        raise bad("max_tokens is required and must be positive")
    if not request.get("messages"):
        raise bad("messages is required")
    system = request.get("system")
    if isinstance(system, list):
        system = "".join(block.get("text", "") for block in system if isinstance(block, dict))
    chat = [{"role": "system", "content": system}] if system else []
    chat += [message for given in request["messages"] for message in _anthropic(given)]
    options: dict[str, Any] = {"num_predict": request["max_tokens"]}
    if request.get("stop_sequences"):
        options["stop"] = request["stop_sequences"]
    native = _native(request, chat, options)
    wanted = (request.get("thinking") or {}).get("type")
    if wanted in {"enabled", "disabled"}:
        native["think"] = wanted == "enabled"
    native["tools"] = [
        {"type": "function", "function": {"name": tool.get("name", ""), "parameters": tool.get("input_schema") or {}}}
        for tool in request.get("tools") or []
    ]
    return native


def _native(request: dict[str, Any], messages: list[dict[str, Any]], options: dict[str, Any]) -> dict[str, Any]:
    native = {"model": request.get("model", ""), "messages": messages, "options": options}
    native["stream"] = request.get("stream", False)
    return {**native, "fake": request["fake"]} if "fake" in request else native


def _item(number: int, item: Any) -> list[dict[str, Any]]:
    """One input item of /v1/responses."""
    kind = item.get("type") or ("message" if item.get("role") else "")
    if kind == "message":
        return [_content(item.get("role", ""), item.get("content"))]
    if kind == "function_call":
        function = {"name": item.get("name", ""), "arguments": json.loads(item.get("arguments") or "{}")}
        return [{"role": "assistant", "content": "", "tool_calls": [{"function": function}]}]
    if kind == "function_call_output":
        output = item.get("output")
        return [{"role": "tool", "content": output if isinstance(output, str) else ""}]
    if kind == "reasoning":
        return []
    words = f'unknown input item type: "{kind}"' if kind else "input item missing required 'type' field"
    raise bad(f"input[{number}]: {words}")


def _content(role: str, content: Any) -> dict[str, Any]:
    if not isinstance(content, list):
        return {"role": role, "content": content or ""}
    text = "".join(part.get("text", "") for part in content if part.get("type") in {"input_text", "output_text"})
    images = [part.get("image_url", "") for part in content if part.get("type") == "input_image"]
    return {"role": role, "content": text, "images": [url.partition(",")[2] for url in images if url]}


def _anthropic(given: Any) -> list[dict[str, Any]]:
    """One message of /v1/messages; tool results become messages of their own."""
    role, content = given.get("role", "").lower(), given.get("content")
    if isinstance(content, str):
        return [{"role": role, "content": content}]
    blocks = [block for block in content or [] if isinstance(block, dict)]
    results = [{"role": "tool", "content": _result(block)} for block in blocks if block.get("type") == "tool_result"]
    text = "".join(block.get("text", "") for block in blocks if block.get("type") == "text")
    images = [_image(block) for block in blocks if block.get("type") == "image"]
    if text or images or any(block.get("type") == "tool_use" for block in blocks):
        said = {"role": role, "content": text, "images": images}
        return [*results, said] if role == "user" else [said, *results]
    return results


def _result(block: dict[str, Any]) -> str:
    content = block.get("content")
    if isinstance(content, list):
        return "".join(part.get("text", "") for part in content if isinstance(part, dict))
    return content or ""


def _image(block: dict[str, Any]) -> str:
    source = block.get("source") or {}
    if source.get("type") != "base64":
        kind = source.get("type", "")
        raise bad(f"invalid image source type: {kind}. Only base64 images are supported.")
    return str(source.get("data", ""))
