"""Calls of tools as OpenAI's dialect streams them: arguments as pieces of JSON text, put together by index.

protocols.translate_answer feeds me what deltas and messages hold and takes whole native calls at the end. Arguments
that are no JSON object I refuse: Ollama's dialect cannot say them.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any, Final

from foreman.core.errors import Code, Failure

_CALLS: Final = 1000
_BYTES: Final = 16 * 1024 * 1024
"""Calls in one answer, and characters of their arguments in sum, past which a target is not taken for sane."""


@dataclass(slots=True)
class _Call:
    """One call, as far as it has come."""

    index: object
    id: str = ""
    name: str = ""
    arguments: list[str] = field(default_factory=list)


class ToolCalls:
    """The calls of one answer."""

    def __init__(self) -> None:
        self._calls: list[_Call] = []
        self._size = 0

    def __bool__(self) -> bool:
        return bool(self._calls)

    def add(self, entries: object) -> None:
        """Take the `tool_calls` of a delta or of a message; anything else is none.

        Raises:
            Failure: UPSTREAM_ERROR: more than 1000 calls, or arguments of more than 16 MiB.
        """
        for entry in entries if isinstance(entries, list) else []:
            if not isinstance(entry, dict):
                continue
            function = entry.get("function")
            function = function if isinstance(function, dict) else {}
            call = self._of(entry.get("index"), _text(entry.get("id")))
            call.name = call.name or _text(function.get("name"))
            arguments = function.get("arguments")
            if isinstance(arguments, dict):  # a few servers send the object itself, whole
                call.arguments = [json.dumps(arguments)]
            elif isinstance(arguments, str):
                call.arguments.append(arguments)
                self._size += len(arguments)
        if len(self._calls) > _CALLS or self._size > _BYTES:
            raise Failure(Code.UPSTREAM_ERROR, "the target calls tools without end")

    def joined(self) -> list[dict[str, Any]]:
        """The calls in Ollama's shape, in their order.

        Raises:
            Failure: UPSTREAM_ERROR: a call's arguments are no JSON object.
        """
        return [
            {
                "id": call.id or f"call_{number}",
                "function": {"index": number, "name": call.name, "arguments": _parsed(call)},
            }
            for number, call in enumerate(self._calls)
        ]

    def _of(self, index: object, identity: str) -> _Call:
        """The call an entry belongs to.

        By its index; but a new id begins a new call whatever the index says: some servers number all of them 0, some
        none at all.
        """
        for call in reversed(self._calls):
            same = call.index == index if index is not None else call is self._calls[-1]
            if same and (not identity or not call.id or identity == call.id):
                call.id = call.id or identity
                return call
            if same:
                break
        self._calls.append(_Call(index, identity))
        return self._calls[-1]


def _parsed(call: _Call) -> dict[str, Any]:
    text = "".join(call.arguments).strip()
    try:
        arguments = json.loads(text or "{}")
    except (ValueError, RecursionError):
        arguments = None
    if not isinstance(arguments, dict):
        raise Failure(
            Code.UPSTREAM_ERROR, f"the target called the tool {call.name} with arguments that are no JSON object"
        )
    return arguments


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""
