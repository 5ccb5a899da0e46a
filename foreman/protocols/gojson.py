"""JSON as Go's encoding/json reads and writes it, since that is what stands behind every path we answer for.

protocols.ollama asks me for the top level of a request body; everybody who writes JSON in Ollama's style asks me to
write it. An ordinary body goes through Python's C scanner once. What is large, and what that refuses, goes through Go's
(goscan), which builds nothing, says what is wrong in Go's words and lets other threads run.
"""

from __future__ import annotations

import json
import re
from typing import Any, Final, NamedTuple, NoReturn

from foreman.protocols.goscan import GoJSONError, Span, scan

LARGE: Final = 1 << 20
"""Bytes above which a body is not decoded (64 MiB of `[1],` are 2 GiB and eight seconds as Python lists), and from which on
to read it is work for a thread."""


class Member(NamedTuple):
    """One member of the top-level object, in the body's order, duplicates too."""

    key: str
    value: Any
    """As json.loads gives it; `[None]`, `{"": None}` or a text's beginning for one that is huge or nests too deep."""
    source: str
    """The value's own JSON text, for numbers Python has rounded; "" for a long one."""


class Top(NamedTuple):
    """The first JSON value of a body."""

    kind: str
    """object, array, string, number, bool or null: Go's words."""
    members: list[Member]
    """Empty unless it is an object."""


def read(body: bytes, *, whole: bool = False) -> Top:
    """The first JSON value of `body`; what follows it is ignored, as Go's Decoder does.

    Bytes that are no UTF-8 become U+FFFD inside strings.

    Args:
        body: a request's body as it came.
        whole: give every value as it is, never a stand-in, whatever it costs in memory (up to eight times the body).

    Raises:
        EmptyBodyError: there is no value.
        GoJSONError: it is no JSON, or nests deeper than 10,000; or has more than 10,000 top-level members, which Go
            would bear and nobody sends.
    """
    if len(body) > LARGE:
        return _by_spans(body, whole)
    try:
        text = body.decode()
    except UnicodeDecodeError:
        text = body.decode(errors="replace")
    try:
        return _walk(text)
    except GoJSONError:
        raise
    except (ValueError, IndexError, StopIteration, RecursionError):
        # Broken or no object; or Go takes it all the same: a number of more digits than Python converts, a thousand brackets.
        return _by_spans(body, whole)


def kind_of(value: object) -> str:
    """Go's word for the kind of a decoded JSON value."""
    return _KINDS[type(value)]


def dumps(value: object, *, allow_nan: bool = True) -> bytes:
    """JSON on one line as Go's Marshal writes it: compact, UTF-8, `<`, `>`, `&`, U+2028 and U+2029 escaped.

    U+0085 is escaped too: line splitters in the Python world (httpx) cut there. Lone surrogates become U+FFFD.
    Raises ValueError for NaN and infinities, which are no JSON, unless `allow_nan`.
    """
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=allow_nan)
    if _SPECIAL.search(text):
        text = _SPECIAL.sub(_escape_special, text)
    return text.encode()


def fold(key: str) -> str:
    """The key in the form in which Go compares it with a field's name: simple case folding (fold.go)."""
    return key.lower().replace("\u017f", "s")


def mend(text: str) -> str:
    r"""The text with U+FFFD for each lone surrogate (`\ud800` in JSON), as Go decodes it; what Python can encode."""
    return text if text.isascii() else _SURROGATE.sub("\ufffd", text)


def overflow(source: str) -> str | None:
    """The first number in a JSON text that a float64 cannot hold (Go refuses it), as it is written; None for none."""
    if _MAYBE_BIG.search(source):
        for number in _NUMBER.findall(_STRING.sub('""', source)):
            if abs(float(number)) == float("inf"):
                return str(number)
    return None


# ------------------------------------------------------------------------------------------------ the usual way


def _refuse(word: str) -> NoReturn:
    raise ValueError(word)


_SCAN: Final = json.JSONDecoder(parse_constant=_refuse).scan_once  # type: ignore[attr-defined]  # an attribute since 2.6
_SCAN_LENIENT: Final = json.JSONDecoder(parse_constant=_refuse, parse_int=float).scan_once  # type: ignore[attr-defined]  # as above
_gap = re.compile(r"[ \t\n\r]*").match
_KINDS: Final = {
    dict: "object",
    list: "array",
    str: "string",
    int: "number",
    float: "number",
    bool: "bool",
    type(None): "null",
}
_STRING = re.compile(r'"(?:[^"\\]++|\\.)*+"')
_MAYBE_BIG = re.compile(r"[0-9][eE]|[0-9]{200}")
_NUMBER = re.compile(r"-?[0-9][0-9.]*+(?:[eE][+-]?[0-9]++)?")
_SURROGATE = re.compile("[\ud800-\udfff]")
_SPECIAL = re.compile("[<>&\u2028\u2029\x85\ud800-\udfff]")


def _escape_special(match: re.Match[str]) -> str:
    code = ord(match.group())
    return "\ufffd" if 0xD800 <= code <= 0xDFFF else f"\\u{code:04x}"


def _walk(text: str) -> Top:
    """Step through the top-level object, leaving each value to the C scanner. Any exception: not this way."""
    at = _skip(text, 0)
    if text[at] != "{":
        raise ValueError(at)
    members: list[Member] = []
    at = _skip(text, at + 1)
    if text[at] == "}":
        return Top("object", members)
    while True:
        if text[at] != '"':
            raise ValueError(at)
        key, at = _SCAN(text, at)
        at = _skip(text, at)
        if text[at] != ":":
            raise ValueError(at)
        start = _skip(text, at + 1)
        value, at = _SCAN(text, start)
        members.append(Member(key, value, text[start:at] if at - start < _SOURCE_LIMIT else ""))
        if len(members) > _MEMBER_LIMIT:
            raise GoJSONError(_TOO_MANY)
        at = _skip(text, at)
        if text[at] == "}":
            return Top("object", members)
        if text[at] != ",":
            raise ValueError(at)
        at = _skip(text, at + 1)


_SOURCE_LIMIT: Final = 4096
"""Characters of a value whose text is kept: options and scalars, not messages."""


_MEMBER_LIMIT: Final = 10_000
_TOO_MANY: Final = f"the request has more than {_MEMBER_LIMIT} top-level fields"


_TOO_DEEP: Final = "the request nests too deep to be translated"


def _by_spans(body: bytes, whole: bool) -> Top:
    """Read a body without building what it holds: who peeks asks for no more than a few small members of it."""
    kind, spans = scan(body, each=whole)
    if len(spans) > _MEMBER_LIMIT:
        raise GoJSONError(_TOO_MANY)
    return Top(kind, [_member(body, span, whole) for span in spans])


def _skip(text: str, at: int) -> int:
    return _gap(text, at).end()  # type: ignore[union-attr]  # an empty match is a match


def _member(body: bytes, span: Span, whole: bool) -> Member:
    """One member, with a stand-in for a list or an object that is large or nests deeper than Python bears."""
    key = _SCAN(body[span.key_start : span.key_end].decode(errors="replace"), 0)[0]
    first = body[span.start]
    if span.end - span.start > LARGE and not whole:
        begins = body[span.start + 1 : span.start + _SOURCE_LIMIT].decode(errors="replace")
        return Member(key, [None] if first in b"[" else {"": None} if first in b"{" else begins, "")
    source = body[span.start : span.end].decode(errors="replace")
    try:
        value = _SCAN_LENIENT(source, 0)[0]
    except RecursionError as error:
        if whole:
            raise GoJSONError(_TOO_DEEP) from error
        value = [None] if first in b"[" else {"": None}
    return Member(key, value, source if len(source) < _SOURCE_LIMIT else "")
