"""Request bodies read as Go reads them into Ollama's structs: any case of a key, the last duplicate, Go's own complaints.

asks and compat hand me a body and a shape; they get a plain dict under the struct's own spelling of each field, unknown
fields left out but for those in `also`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Final

from foreman.protocols.gojson import fold, mend
from foreman.protocols.goscan import GoJSONError, scan
from foreman.protocols.keep_alive import KeepAliveError, nanoseconds


@dataclass(frozen=True, slots=True)
class Field:
    """A field of one JSON kind."""

    kind: str
    """string, number, int, bool, array or object; any takes everything."""
    type: str
    """Go's name of its type."""


@dataclass(frozen=True, slots=True)
class Items:
    """A list."""

    of: Shape
    type: str


@dataclass(frozen=True, slots=True)
class Struct:
    """A struct and its fields."""

    type: str
    """With its package: `api.ChatRequest`."""
    fields: dict[str, Shape]


Shape = Field | Items | Struct

STRING: Final = Field("string", "string")
BOOL: Final = Field("bool", "bool")
INT: Final = Field("int", "int")
FLOAT: Final = Field("number", "float64")
ANY: Final = Field("any", "")
MAP: Final = Field("object", "map[string]interface {}")
STRINGS: Final = Items(STRING, "[]string")
KEEP_ALIVE: Final = Field("keep_alive", "api.Duration")


def read(body: bytes, shape: Struct) -> dict[str, Any]:
    """The fields of `shape` that the body's first JSON value has; what follows that value is ignored.

    Raises:
        EmptyBodyError: there is no body.
        GoJSONError: Go's complaint about the JSON or about a type.
    """
    value = parse(body)
    if value is None:
        return {}
    if not isinstance(value, Pairs):
        raise GoJSONError(f"json: cannot unmarshal {_kind(value)} into Go value of type {shape.type}")
    return _struct(value, shape, shape.type.rpartition(".")[2])


class Pairs(list[tuple[str, Any]]):
    """A JSON object with all its members, duplicates too, in order."""

    def plain(self) -> dict[str, Any]:
        """As an ordinary dict, all the way down."""
        return {key: plain(value) for key, value in self}


def plain(value: Any) -> Any:
    """A parsed value with ordinary dicts, and text as Go decodes it."""
    if isinstance(value, Pairs):
        return value.plain()
    if isinstance(value, str):
        return mend(value)
    return [plain(item) for item in value] if isinstance(value, list) else value


_DECODER = json.JSONDecoder(object_pairs_hook=Pairs)


def parse(body: bytes) -> Any:
    """The first JSON value of the body, objects as Pairs.

    Raises:
        EmptyBodyError: nothing but white space.
        GoJSONError: in the words of Go's scanner.
    """
    scan(body)
    text = body.decode(errors="replace")
    try:
        value: Any = _DECODER.raw_decode(text, len(text) - len(text.lstrip(" \t\n\r")))[0]
    except (json.JSONDecodeError, RecursionError):  # what Go takes and Python does not
        raise GoJSONError("exceeded max depth") from None
    return value


def _kind(value: Any) -> str:
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, int | float):
        return "number"
    if isinstance(value, str):
        return "string"
    return "object" if isinstance(value, Pairs) else "array"


def _struct(pairs: Pairs, shape: Struct, path: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    names = {fold(name): name for name in shape.fields}
    for key, value in pairs:
        name = names.get(fold(key))
        if name is None:
            continue
        if value is not None:  # null leaves a field as it was
            found[name] = _value(value, shape.fields[name], f"{path}.{name}")
    return found


def _value(value: Any, shape: Shape, path: str) -> Any:
    if isinstance(shape, Struct):
        if not isinstance(value, Pairs):
            raise _mismatch(value, path, shape.type)
        return _struct(value, shape, path)
    if isinstance(shape, Items):
        if isinstance(value, Pairs) or not isinstance(value, list):
            raise _mismatch(value, path, shape.type)
        return [_value(item, shape.of, path) if item is not None else _zero(shape.of) for item in value]
    if shape.kind == "any":
        return plain(value)
    if shape.kind == "keep_alive":
        return _keep_alive(plain(value))
    kind = _kind(value)
    if shape.kind == "int":
        if kind == "number" and isinstance(value, int):
            return value
        raise _mismatch(value, path, shape.type)
    if kind != shape.kind:
        raise _mismatch(value, path, shape.type)
    return plain(value)


def _zero(shape: Shape) -> Any:
    return {} if isinstance(shape, Struct) else [] if isinstance(shape, Items) else ""


def _mismatch(value: Any, path: str, wanted: str) -> GoJSONError:
    kind = _kind(value)
    if kind == "number" and wanted == "int":
        kind = f"number {json.dumps(value)}"
    return GoJSONError(f"json: cannot unmarshal {kind} into Go struct field {path} of type {wanted}")


def _keep_alive(value: Any) -> int:
    try:
        return nanoseconds(value)
    except KeepAliveError as error:
        raise GoJSONError(str(error)) from None
