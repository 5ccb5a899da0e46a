"""Go's JSON scanner: what is wrong with a text, in Go's words, or where its top-level members stand.

protocols.gojson asks me about bodies that Python's scanner refused or that are large: I go through them bracket by
bracket (encoding/json/scanner.go, state by state), at C speed through runs of plain values and of flat objects and lists.
I build no values, and hold the interpreter's lock for no more than some ms at a time: in a thread I am in nobody's way.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final, NamedTuple

from foreman.core.lanes import go_quote

MAX_DEPTH: Final = 10_000
"""Nesting Go bears (maxNestingDepth)."""

STEP_LIMIT: Final = 200_000
"""Brackets that are looked at one by one (about 0.1 s); past it a body is refused without exact words. A body of more
than 6 MiB may have one for each 32 bytes."""


class GoJSONError(ValueError):
    """A body Go's decoder refuses; the message is Go's."""


class EmptyBodyError(GoJSONError):
    """Nothing but white space: Go's io.EOF."""


class Span(NamedTuple):
    """Where a top-level member stands: byte offsets of its key, quotes included, and of its value."""

    key_start: int
    key_end: int
    start: int
    end: int


class Scanned(NamedTuple):
    """A text that Go takes."""

    kind: str
    """object, array, string, number, bool or null: Go's words."""
    spans: list[Span]
    """Empty unless it is an object."""


def scan(body: bytes, *, each: bool = False) -> Scanned:
    """Go through the first JSON value of `body`.

    Args:
        body: a request's body.
        each: look at every object and list by itself, so that their number is bounded: for who goes on to build them.

    Raises:
        EmptyBodyError: there is none.
        GoJSONError: Go's words for what is wrong with it.
    """
    at = _skip(body, 0)
    if at == len(body):
        raise EmptyBodyError("EOF")
    first = body[at : at + 1]
    if first in b"{[":
        return Scanned("object" if first == b"{" else "array", _Container(body, at, _BUILT if each else _FLAT).run())
    _scalar(body, at)
    return Scanned(_SCALAR_KINDS.get(first, "number"), [])


# So many at a time, by those who come again: without a bound a run would remember every step of 64 MiB and keep the
# interpreter to itself; possessive groups, which remember none, match wrongly before Python 3.11.5 (gh-106052; Debian 12
# has 3.11.2).
_SPACE: Final = rb"[ \t\n\r]{0,4096}+"
_PIECE: Final = rb'(?:[^"\\\x00-\x1f]{1,1024}+|\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4}))'
_IN_TEXT: Final = _PIECE + rb"{0,1000}"
_NUMBER: Final = rb"-?(?:0|[1-9][0-9]*+)(?:\.[0-9]++)?(?:[eE][+-]?[0-9]++)?"
_TEXT: Final = rb'"' + _PIECE + rb'{0,64}"'
_PLAIN: Final = rb"(?:" + _TEXT + rb"|" + _NUMBER + rb"|true|false|null)"
_PAIR: Final = _SPACE + _TEXT + _SPACE + rb":" + _SPACE
_FLAT_OBJECT: Final = rb"\{" + _PAIR + _PLAIN + _SPACE + rb"(?:," + _PAIR + _PLAIN + _SPACE + rb"){0,15}\}"
_FLAT_ARRAY: Final = rb"\[" + _SPACE + _PLAIN + _SPACE + rb"(?:," + _SPACE + _PLAIN + _SPACE + rb"){0,15}\]"
_VALUE: Final = rb"(?:" + _PLAIN + rb"|" + _FLAT_OBJECT + rb"|" + _FLAT_ARRAY + rb")"

_skip_space = re.compile(_SPACE).match
_in_text = re.compile(_IN_TEXT).match
_hex_digits = re.compile(rb"[0-9a-fA-F]{0,4}").match
_digits = re.compile(rb"[0-9]*").match
_BUILT, _FLAT = (
    (
        re.compile(rb"(?:" + _SPACE + value + _SPACE + rb",){0,64}").match,
        re.compile(rb"(?:" + _PAIR + value + _SPACE + rb",){0,64}").match,
    )
    for value in (_PLAIN, _VALUE)
)
"""Elements of a list and members of an object, as many as are plain; or flat."""

_Match = Callable[[bytes, int], re.Match[bytes] | None]

_WORDS: Final = {ord("t"): b"true", ord("f"): b"false", ord("n"): b"null"}
_SCALAR_KINDS: Final = {b'"': "string", b"t": "bool", b"f": "bool", b"n": "null"}
_QUOTE, _BACKSLASH, _COMMA, _COLON = b'"\\,:'
_OPEN_OBJECT, _CLOSE_OBJECT, _OPEN_ARRAY, _CLOSE_ARRAY = b"{}[]"


class _Container:
    """Walks through one object or array and all it holds, without recursion."""

    def __init__(self, body: bytes, at: int, runs: tuple[_Match, _Match]) -> None:
        self.body = body
        self._elements, self._members = runs
        self.at = at
        self.spans: list[Span] = []
        self._open = bytearray()
        self._key = (0, 0)
        self._start = at
        self._next = self._value

    def run(self) -> list[Span]:
        """To the closing bracket; the spans of the members if it is an object."""
        limit = max(STEP_LIMIT, len(self.body) // 32)
        for _ in range(limit):
            self.at = _skip(self.body, self.at)
            self._next(_char(self.body, self.at))
            if not self._open:
                return self.spans
        raise GoJSONError(f"the request holds more than {limit} objects, arrays and members")

    def _value(self, char: int) -> None:
        """A value must begin here."""
        if len(self._open) == 1:
            self._start = self.at
        if self._open[-1:] == b"[" and len(self._open) < MAX_DEPTH:
            run = self._elements(self.body, self.at).end()  # type: ignore[union-attr]  # an empty match is a match
            if run != self.at:
                self.at = run
                return
        if char in (_OPEN_OBJECT, _OPEN_ARRAY):
            self._open.append(char)
            if len(self._open) > MAX_DEPTH:
                raise _wrong(self.body, self.at, "exceeded max depth")
            self.at += 1
            self._next = self._first_key if char == _OPEN_OBJECT else self._first_element
            return
        self.at = _scalar(self.body, self.at)
        self._ended()

    def _first_element(self, char: int) -> None:
        """The array has just been opened."""
        if char == _CLOSE_ARRAY:
            self._after(char)
            return
        self._next = self._value
        self._value(char)

    def _first_key(self, char: int) -> None:
        """The object has just been opened."""
        if char == _CLOSE_OBJECT:
            self._after(char)
            return
        self._next = self._member
        self._member(char)

    def _member(self, char: int) -> None:
        """A key must begin here."""
        if 1 < len(self._open) < MAX_DEPTH:  # nobody asks for the spans of deeper members
            run = self._members(self.body, self.at).end()  # type: ignore[union-attr]  # an empty match is a match
            if run != self.at:
                self.at = run
                return
        if char != _QUOTE:
            raise _wrong(self.body, self.at, "looking for beginning of object key string")
        end = _text_end(self.body, self.at)
        self._key = (self.at, end) if len(self._open) == 1 else self._key
        self.at = _skip(self.body, end)
        if _char(self.body, self.at) != _COLON:
            raise _wrong(self.body, self.at, "after object key")
        self.at += 1
        self._next = self._value

    def _after(self, char: int) -> None:
        """A value has ended, or a container is still empty."""
        in_array = self._open[-1] == _OPEN_ARRAY
        if char == _COMMA:
            self.at += 1
            self._next = self._value if in_array else self._member
        elif char == (_CLOSE_ARRAY if in_array else _CLOSE_OBJECT):
            self.at += 1
            self._open.pop()
            self._ended()
        else:
            raise _wrong(self.body, self.at, "after array element" if in_array else "after object key:value pair")

    def _ended(self) -> None:
        if self._open == b"{":
            self.spans.append(Span(*self._key, self._start, self.at))
        self._next = self._after


def _scalar(body: bytes, at: int) -> int:
    """Go through a string, a number or a word that must begin at `at`; the offset of its end."""
    char = body[at]
    if char == _QUOTE:
        return _text_end(body, at)
    if char in b"-0123456789":
        return _number_end(body, at)
    word = _WORDS.get(char)
    if word is None:
        raise _wrong(body, at, "looking for beginning of value")
    for expected in word[1:]:
        at += 1
        if _char(body, at) != expected:
            raise _wrong(body, at, f"in literal {word.decode()} (expecting '{chr(expected)}')")
    return at + 1


def _text_end(body: bytes, at: int) -> int:
    """Go through a string; the offset past its closing quote."""
    end, begun = at + 1, at
    while end != begun:
        begun, end = end, _in_text(body, end).end()  # type: ignore[union-attr]  # an empty match is a match
    char = _char(body, end)
    if char == _QUOTE:
        return end + 1
    if char != _BACKSLASH:
        raise _wrong(body, end, "in string literal")
    if _char(body, end + 1) != ord("u"):
        raise _wrong(body, end + 1, "in string escape code")
    raise _wrong(body, _hex_digits(body, end + 2).end(), "in \\u hexadecimal character escape")  # type: ignore[union-attr]  # as above


def _number_end(body: bytes, at: int) -> int:
    """Go through a number; the offset of its end."""
    if body[at] == ord("-"):
        at += 1
        if _char(body, at) not in b"0123456789":
            raise _wrong(body, at, "in numeric literal")
    at = at + 1 if body[at] == ord("0") else _past_digits(body, at)
    if body[at : at + 1] == b".":
        at = _must_have_digits(body, at + 1, "after decimal point in numeric literal")
    if body[at : at + 1] in (b"e", b"E"):
        at += 2 if body[at + 1 : at + 2] in (b"+", b"-") else 1
        at = _must_have_digits(body, at, "in exponent of numeric literal")
    return at


def _must_have_digits(body: bytes, at: int, context: str) -> int:
    end = _past_digits(body, at)
    if end == at:
        raise _wrong(body, at, context)
    return end


def _past_digits(body: bytes, at: int) -> int:
    return _digits(body, at).end()  # type: ignore[union-attr]  # an empty match is a match


def _skip(body: bytes, at: int) -> int:
    end, begun = at, -1
    while end != begun:
        begun, end = end, _skip_space(body, end).end()  # type: ignore[union-attr]  # an empty match is a match
    return end


def _char(body: bytes, at: int) -> int:
    if at >= len(body):
        raise GoJSONError("unexpected EOF")
    return body[at]


def _wrong(body: bytes, at: int, context: str) -> GoJSONError:
    """Go's syntax error at a byte, which it takes for a Latin-1 letter (scanner.go, quoteChar)."""
    char = chr(_char(body, at))
    quoted = {"'": "'\\''", '"': "'\"'"}.get(char) or f"'{go_quote(char)[1:-1]}'"
    return GoJSONError(f"invalid character {quoted} {context}")
