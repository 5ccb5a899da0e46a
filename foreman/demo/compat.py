"""Requests to /v1/* turned into what Ollama makes of them for its native handlers (its middleware/openai.go).

The server gives me a body; it gets the fields of a native request, which asks then checks like any other, and the /v1
request itself for what its answer repeats. What Ollama does not read there, I don't: keep_alive, num_ctx,
max_completion_tokens.
"""

from __future__ import annotations

from typing import Any, Final

from foreman.protocols.goscan import GoJSONError

from .asks import RefusalError
from .structs import ANY, BOOL, FLOAT, INT, STRING, Items, Struct, read

MESSAGE: Final = Struct(
    "openai.Message",
    {
        "role": STRING,
        "content": ANY,
        "reasoning": STRING,
        "tool_calls": Items(ANY, "[]openai.ToolCall"),
        "name": STRING,
        "tool_call_id": STRING,
    },
)
_COMMON: Final = {
    "model": STRING,
    "stream": BOOL,
    "stream_options": ANY,
    "max_tokens": INT,
    "seed": INT,
    "stop": ANY,
    "temperature": FLOAT,
    "frequency_penalty": FLOAT,
    "presence_penalty": FLOAT,
    "top_p": FLOAT,
    "fake": ANY,
}
CHAT: Final = Struct(
    "openai.ChatCompletionRequest",
    {
        **_COMMON,
        "messages": Items(MESSAGE, "[]openai.Message"),
        "response_format": ANY,
        "tools": Items(ANY, "[]api.Tool"),
        "reasoning": ANY,
        "reasoning_effort": STRING,
        "logprobs": BOOL,
        "top_logprobs": INT,
    },
)
COMPLETION: Final = Struct(
    "openai.CompletionRequest", {**_COMMON, "prompt": STRING, "suffix": STRING, "logprobs": INT, "echo": BOOL}
)
EMBEDDINGS: Final = Struct(
    "openai.EmbedRequest",
    {"model": STRING, "input": ANY, "dimensions": INT, "encoding_format": STRING, "fake": ANY},
)


def read_v1(body: bytes, shape: Struct) -> dict[str, Any]:
    """A /v1 body, or a 400 of the /v1 layer in Go's words."""
    try:
        return read(body, shape)
    except GoJSONError as error:
        raise RefusalError(400, str(error), middleware=True) from None


def bad(words: str) -> RefusalError:
    """A 400 of the /v1 layer."""
    return RefusalError(400, words, middleware=True)


def chat(request: dict[str, Any]) -> dict[str, Any]:
    """The fields of api.ChatRequest for an openai.ChatCompletionRequest."""
    if not request.get("messages"):
        raise bad("[] is too short - 'messages'")
    messages = [message for given in request["messages"] for message in _messages(given)]
    native: dict[str, Any] = _shared(request)
    native["messages"] = messages
    native["tools"] = request.get("tools") or []
    wanted = request.get("response_format") or {}
    if wanted.get("type") == "json_object":
        native["format"] = "json"
    elif wanted.get("type") == "json_schema":
        native["format"] = (wanted.get("json_schema") or {}).get("schema")
    effort = request.get("reasoning_effort") or (request.get("reasoning") or {}).get("effort")
    if effort:
        native["think"] = think(effort)
    native["logprobs"] = request.get("logprobs", False)
    native["top_logprobs"] = request.get("top_logprobs", 0)
    return native


def completion(request: dict[str, Any]) -> dict[str, Any]:
    """The fields of api.GenerateRequest for an openai.CompletionRequest."""
    native = _shared(request)
    native["prompt"] = request.get("prompt", "")
    native["suffix"] = request.get("suffix", "")
    native["logprobs"] = bool(request.get("logprobs"))
    native["top_logprobs"] = request.get("logprobs") or 0
    return native


def embeddings(request: dict[str, Any]) -> dict[str, Any]:
    """The fields of api.EmbedRequest for an openai.EmbedRequest."""
    given = request.get("input")
    if given is None or given == []:
        raise bad("invalid input")
    native: dict[str, Any] = {key: value for key, value in request.items() if key in {"model", "dimensions", "fake"}}
    return {**native, "input": given}


def think(effort: str) -> Any:
    """Native `think` for a reasoning effort."""
    if effort == "none":
        return False
    if effort not in {"high", "medium", "low", "max"}:
        raise bad(f'invalid reasoning value: \'{effort}\' (must be "high", "medium", "low", "max", or "none")')
    return effort


def _shared(request: dict[str, Any]) -> dict[str, Any]:
    options: dict[str, Any] = {"temperature": request.get("temperature", 1.0), "top_p": request.get("top_p", 1.0)}
    if request.get("max_tokens"):
        options["num_predict"] = request["max_tokens"]
    stop = request.get("stop")
    if stop:
        options["stop"] = [stop] if isinstance(stop, str) else stop
    native = {"model": request.get("model", ""), "stream": request.get("stream", False), "options": options}
    return {**native, "fake": request["fake"]} if "fake" in request else native


def _messages(given: dict[str, Any]) -> list[dict[str, Any]]:
    """One /v1 message as native ones: each part of a list of contents is a message of its own."""
    role = given.get("role", "")
    content = given.get("content")
    if isinstance(content, str):
        return [{"role": role, "content": content}]
    if content is None:
        if not given.get("tool_calls"):
            raise bad("invalid message content type: <nil>")
        return [{"role": role, "content": "", "tool_calls": given["tool_calls"]}]
    if not isinstance(content, list):
        raise bad("invalid message content type: float64")
    return [_part(role, part) for part in content]


def _part(role: str, part: Any) -> dict[str, Any]:
    if not isinstance(part, dict):
        raise bad("invalid message format")
    if part.get("type") == "text":
        return {"role": role, "content": part.get("text", "")}
    if part.get("type") == "image_url":
        image = part.get("image_url")
        url = image.get("url", "") if isinstance(image, dict) else image
        if not isinstance(url, str) or url.startswith("http"):
            raise bad("image URLs are not currently supported, please use base64 encoded data instead")
        head, comma, data = url.partition(",")
        if not comma or not head.startswith("data:"):
            raise bad("invalid image input")
        return {"role": role, "content": "", "images": [data]}
    raise bad("invalid message format")
