"""A native conversation in OpenAI's words: roles, pictures, thinking, calls of tools and their results.

protocols.translate_request hands me `messages`; I give back what `/v1/chat/completions` takes. A wrong type I refuse in
Go's words, as Ollama would; what has no word in the other dialect I refuse by the field's name.
"""

from __future__ import annotations

import base64
import binascii
import re
from typing import Any, Final

from foreman.core.errors import Code, Failure
from foreman.protocols import gojson

_TYPES: Final = ((b"\x89PNG", "png"), (b"\xff\xd8\xff", "jpeg"), (b"GIF8", "gif"), (b"BM", "bmp"))
_base64 = re.compile(r"[A-Za-z0-9+/]*+").match


def messages_of(native: list[Any]) -> list[dict[str, Any]]:
    """Translate `messages` of `/api/chat`.

    Raises:
        Failure: BAD_REQUEST, naming the field.
    """
    calls = _Calls()
    return [_message(entry, index, calls) for index, entry in enumerate(native)]


def user_content(text: str, images: list[Any], where: str) -> str | list[dict[str, Any]]:
    """The content of a message: plain text, or parts where pictures come with it.

    Args:
        text: what is said.
        images: base64 strings.
        where: the field that holds them, for a refusal.
    """
    if not images:
        return text
    parts: list[dict[str, Any]] = [{"type": "text", "text": text}] if text else []
    parts.extend({"type": "image_url", "image_url": {"url": _data_uri(image, where)}} for image in images)
    return parts


def wrong_type(value: object, where: str, go: str) -> Failure:
    """Go's refusal of a value inside the request, such as `messages.content`."""
    kind = gojson.kind_of(value)
    return Failure(
        Code.BAD_REQUEST, f"json: cannot unmarshal {kind} into Go struct field ChatRequest.{where} of type {go}"
    )


class _Calls:
    """The calls of tools so far: which of them a result answers."""

    def __init__(self) -> None:
        self._open: list[tuple[str, str]] = []
        """Id and name of the calls that have no result yet, oldest first."""

    def add(self, identity: str, name: str) -> None:
        self._open.append((identity, name))

    def answered_by(self, identity: str, name: str, where: str) -> str:
        """The id of the call whose result this is: the one it names, else the oldest open one of its tool."""
        for index, (known, tool) in enumerate(self._open):
            if identity == known or (not identity and name in {"", tool}):
                del self._open[index]
                return known
        if not identity:
            raise Failure(
                Code.BAD_REQUEST, f"{where}.tool_call_id: no call of a tool before it; OpenAI's dialect needs one"
            )
        return identity


def _message(entry: object, index: int, calls: _Calls) -> dict[str, Any]:
    given = _fields(entry, "messages", "api.Alias")
    where = f"messages[{index}]"
    role = _text(given, "role", "messages.role").lower()
    text = _text(given, "content", "messages.content")
    content = user_content(text, _list(given, "images", "messages.images", "[]api.ImageData"), f"{where}.images")
    message: dict[str, Any] = {"role": role, "content": content}
    if thinking := _text(given, "thinking", "messages.thinking"):
        message |= {"reasoning": thinking, "reasoning_content": thinking}  # Ollama's and vLLM's word, llama.cpp's
    if tool_calls := _list(given, "tool_calls", "messages.tool_calls", "[]api.ToolCall"):
        message["tool_calls"] = [
            _tool_call(call, f"call_{index}_{number}", calls) for number, call in enumerate(tool_calls)
        ]
        message["content"] = content or None
    if role == "tool":
        name = _text(given, "tool_name", "messages.tool_name")
        message["tool_call_id"] = calls.answered_by(_text(given, "tool_call_id", "messages.tool_call_id"), name, where)
        message |= {"name": name} if name else {}
    return message


def _tool_call(entry: object, made_up: str, calls: _Calls) -> dict[str, Any]:
    given = _fields(entry, "messages.tool_calls", "api.ToolCall")
    function = _fields(given.get("function"), "messages.tool_calls.function", "api.ToolCallFunction")
    identity = _text(given, "id", "messages.tool_calls.id") or made_up
    name = _text(function, "name", "messages.tool_calls.function.name")
    arguments = function.get("arguments", {})
    if not isinstance(arguments, dict):
        raise wrong_type(arguments, "messages.tool_calls.function.arguments", "map[string]interface {}")
    calls.add(identity, name)
    said = {"name": name, "arguments": gojson.dumps(arguments).decode()}
    return {"id": identity, "type": "function", "function": said}


def _fields(value: object, where: str, go: str) -> dict[str, Any]:
    """An object's members that are not null, their keys in lower case; null is an empty one."""
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise wrong_type(value, where, go)
    return {gojson.fold(key): inner for key, inner in value.items() if inner is not None}


def _text(given: dict[str, Any], key: str, where: str) -> str:
    value = given.get(key, "")
    if not isinstance(value, str):
        raise wrong_type(value, where, "string")
    return value


def _list(given: dict[str, Any], key: str, where: str, go: str) -> list[Any]:
    value = given.get(key, [])
    if not isinstance(value, list):
        raise wrong_type(value, where, go)
    return value


def _data_uri(image: object, where: str) -> str:
    """A picture as a data: URI, its type read from its first bytes; refused as Go refuses bad base64."""
    if not isinstance(image, str):
        raise wrong_type(image, where, "string")
    text = image.replace("\r", "").replace("\n", "") if "\n" in image or "\r" in image else image
    end = _base64(text).end()  # type: ignore[union-attr]  # an empty match is a match
    if len(text) % 4 or text[end:] not in {"", "=", "=="}:
        raise Failure(Code.BAD_REQUEST, f"illegal base64 data at input byte {end}")
    return f"data:image/{_picture(text[:24])};base64,{text}"


def _picture(start: str) -> str:
    try:
        head = base64.b64decode(start)
    except binascii.Error:
        return "png"
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "webp"
    return next((kind for magic, kind in _TYPES if head.startswith(magic)), "png")
