"""The fields of a Go struct, read from a JSON body as encoding/json fills them (decode.go).

protocols.ollama says which fields it looks at; I find them in the body: keys in any case, the last duplicate counts,
null unsets a pointer, a slice or a map and leaves a plain value alone. A wrong type I refuse in Go's words.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from foreman.protocols import gojson
from foreman.protocols.goscan import GoJSONError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


@dataclass(frozen=True, slots=True)
class Field:
    """A field, by the kind of JSON it takes."""

    kind: str
    """object, array, string, number or bool; "" for a field whose `check` judges."""
    go: str
    """Go's name of its type."""
    null_clears: bool = False
    """A later null unsets it: pointers, slices, maps."""
    check: Callable[[Any], None] | None = None
    """Its type's own UnmarshalJSON: raises GoJSONError, which ends the decoding at once."""


TEXT: Final = Field("string", "string")
BOOL: Final = Field("bool", "bool")
BOOL_POINTER: Final = Field("bool", "bool", null_clears=True)
INT: Final = Field("number", "int")
ANY_MAP: Final = Field("object", "map[string]interface {}", null_clears=True)


def list_of(go: str) -> Field:
    """A slice of `go`; what it holds is not looked at."""
    return Field("array", f"[]{go}", null_clears=True)


@dataclass(frozen=True, slots=True)
class Struct:
    """A Go struct: its name with the package, and those of its fields that somebody looks at, in lower case."""

    go: str
    fields: Mapping[str, Field]


def decode(struct: Struct, body: bytes, *, whole: bool = False) -> tuple[dict[str, Any], frozenset[str]]:
    """Read the first JSON value of `body` into the struct; `whole` as in gojson.read.

    Returns:
        The fields that are set, and the names of those that stand in the body, were they null.

    Raises:
        EmptyBodyError, GoJSONError: Go's words.
    """
    top = gojson.read(body, whole=whole)
    if top.kind not in {"object", "null"}:
        raise GoJSONError(f"json: cannot unmarshal {top.kind} into Go value of type {struct.go}")
    found: dict[str, Any] = {}
    seen = set()
    wrong: GoJSONError | None = None
    for member in top.members:
        name = gojson.fold(member.key)
        field = struct.fields.get(name)
        if field is None:
            continue
        seen.add(name)
        if member.value is None:
            if field.null_clears:
                found.pop(name, None)
            continue
        # After a wrong type Go goes on and reports the first one at the end; an Unmarshaler's own error ends it at once.
        error = _mismatch(struct, name, field, member)
        if error is not None:
            if field.check is not None:
                raise error
            wrong = wrong or error
        elif field is ANY_MAP:
            found.setdefault(name, {}).update(member.value)  # Go decodes into the map it already has
        else:
            if field.check is not None:
                field.check(member.value)
            found[name] = member.value
    if wrong is not None:
        raise wrong
    return found, frozenset(seen)


def _mismatch(struct: Struct, name: str, field: Field, member: gojson.Member) -> GoJSONError | None:
    """Go's UnmarshalTypeError, if the value is none that the field holds."""
    what, into = gojson.kind_of(member.value), field.go
    if field is INT and what == "number":
        if isinstance(member.value, int) and -(1 << 63) <= member.value < 1 << 63:
            return None
        what = f"number {member.source}"
    elif (field is ANY_MAP and what == "object") or field.check is not None:
        number = gojson.overflow(member.source)
        if number is None:
            return None
        what, into = f"number {number}", "float64"
    elif what == field.kind:
        return None
    return GoJSONError(
        f"json: cannot unmarshal {what} into Go struct field {struct.go.partition('.')[2]}.{name} of type {into}"
    )
