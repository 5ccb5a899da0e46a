"""keep_alive as Ollama reads it: a number of seconds, or a Go duration in quotes.

Settings ask me what to send for FOREMAN_KEEP_ALIVE, the worker has it put into a body, protocols.ollama asks what a
caller's own means. I refuse with Go's words (time.ParseDuration, api.Duration); I never re-serialise a body.
"""

from __future__ import annotations

import json
import re
from typing import Final

from foreman.protocols import gojson

FOREVER_NS: Final = (1 << 63) - 1
"""What Ollama makes of a negative keep_alive."""

_SECOND: Final = 10**9
_LIMIT: Final = 1 << 63
_LENGTH: Final = 200
_UNITS: Final = {
    "ns": 1,
    "us": 10**3,
    "\u00b5s": 10**3,
    "\u03bcs": 10**3,
    "ms": 10**6,
    "s": _SECOND,
    "m": 60 * _SECOND,
    "h": 3600 * _SECOND,
}
_term = re.compile(r"([0-9]*)(\.?)([0-9]*)([^0-9.]*)", re.ASCII | re.DOTALL).match
_json_number = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?").fullmatch
_gap = re.compile(rb"[ \t\n\r]*").match


class KeepAliveError(ValueError):
    """A keep_alive Ollama refuses; the message is Ollama's own."""


def nanoseconds(value: object) -> int:
    """How long a decoded `keep_alive` keeps the model loaded, in ns; negative ones give FOREVER_NS.

    Raises:
        KeepAliveError: Ollama answers 400 with these words.
    """
    if isinstance(value, str):
        spent = _parse_duration(value)
        return FOREVER_NS if spent < 0 else spent
    if isinstance(value, int | float) and not isinstance(value, bool):
        if value < 0:
            return FOREVER_NS
        if value >= _LIMIT / _SECOND:
            return 1  # overflows in Ollama: gone right after the answer, and yet no wish to unload
        return int(value * 1e9)
    kind = {"bool": "bool", "array": "[]interface {}", "object": "map[string]interface {}"}[gojson.kind_of(value)]
    raise KeepAliveError(f"Unsupported type: '{kind}'")


def parse_keep_alive(text: str) -> str:
    """The JSON to send for a setting such as `-1`, `300` or `15m`: a number as it is, a Go duration in quotes.

    Raises:
        ValueError: one sentence that says what would be right.
    """
    word = text.strip()
    if _json_number(word):
        if abs(float(word)) * 1e9 < _LIMIT:
            return word
    else:
        try:
            _parse_duration(word)
        except KeepAliveError:
            pass
        else:
            return json.dumps(word)
    raise ValueError(
        f"{text!r} is no keep-alive: use seconds (300), a duration (15m, 1h30m), 0 to unload at once or -1 for ever"
    )


def insert_keep_alive(body: bytes, keep_alive_json: str) -> bytes:
    """Put `"keep_alive": …` first into the body's object; every other byte stays as it is.

    Args:
        body: JSON whose first value is an object that has no `keep_alive` (Peek.keep_alive_present says so).
        keep_alive_json: what `parse_keep_alive` gave.
    """
    at = body.index(b"{") + 1
    end = _gap(body, at).end()  # type: ignore[union-attr]  # an empty match is a match
    comma = b"" if body[end : end + 1] == b"}" else b","
    view = memoryview(body)
    return b"".join((view[:at], b'"keep_alive":', keep_alive_json.encode(), comma, view[at:]))


def _parse_duration(text: str) -> int:
    """Go's time.ParseDuration, in ns; nothing is taken that is longer than 200 characters."""
    invalid = KeepAliveError(f"time: invalid duration {_quote(text[:_LENGTH])}")
    if len(text) > _LENGTH:
        raise invalid
    rest = text.removeprefix("-") if text.startswith("-") else text.removeprefix("+")
    if rest == "0":
        return 0
    if not rest:
        raise invalid
    total = 0
    while rest:
        whole, _, fraction, unit = _term(rest).groups()  # type: ignore[union-attr]  # an empty match is a match
        if not whole and not fraction:
            raise invalid
        if int(whole or 0) > _LIMIT:
            raise invalid
        if not unit:
            raise KeepAliveError(f"time: missing unit in duration {_quote(text)}")
        if unit not in _UNITS:
            raise KeepAliveError(f"time: unknown unit {_quote(unit)} in duration {_quote(text)}")
        total += int(whole or 0) * _UNITS[unit] + int(float(f"0.{fraction or 0}") * _UNITS[unit])
        if total > _LIMIT:
            raise invalid
        rest = rest[_term(rest).end() :]  # type: ignore[union-attr]  # as above
    if text.startswith("-"):
        return -total
    if total == _LIMIT:
        raise invalid
    return total


def _quote(text: str) -> str:
    """As package time quotes: bytes that are no printable ASCII in hex."""
    return (
        '"'
        + "".join(
            f"\\{char}"
            if char in '"\\'
            else char
            if " " <= char <= "\x7f"
            else "".join(f"\\x{byte:02x}" for byte in gojson.mend(char).encode())
            for char in text
        )
        + '"'
    )
