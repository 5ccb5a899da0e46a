"""What shows of Go through Ollama's answers: its JSON, its times, its durations.

The fake's other modules call me to read bodies and write lines exactly as Ollama's Go code does. I keep no state and
know no route.
"""

from __future__ import annotations

import json
import re
import time
from typing import Any, Final

from foreman.core.lanes import go_quote

NANOSECONDS: Final = 1_000_000_000
FOREVER: Final = 2**63 - 1
"""Nanoseconds of `keep_alive: -1` (Go's MaxInt64, about 292 years)."""

_UNITS: Final = {
    "ns": 1,
    "us": 1_000,
    "µs": 1_000,
    "μs": 1_000,
    "ms": 1_000_000,
    "s": NANOSECONDS,
    "m": 60 * NANOSECONDS,
    "h": 3600 * NANOSECONDS,
}
_NUMBER = re.compile(r"([0-9]*)(\.[0-9]*)?")
_UNIT = re.compile(r"[^.0-9]*")


class GoError(ValueError):
    """Something Go's standard library refuses; the message is Go's."""


def duration(text: str) -> int:
    """Nanoseconds of a Go duration string (time.ParseDuration).

    Raises:
        GoError: in the words of Go's `time` package.
    """
    rest = text
    sign = 1
    if rest[:1] in {"-", "+"}:
        sign = -1 if rest[0] == "-" else 1
        rest = rest[1:]
    if rest == "0":
        return 0
    if not rest:
        raise GoError(f"time: invalid duration {go_quote(text)}")
    total = 0.0
    while rest:
        number = _NUMBER.match(rest)
        if number is None or number.group() in {"", "."}:
            raise GoError(f"time: invalid duration {go_quote(text)}")
        rest = rest[number.end() :]
        unit = _UNIT.match(rest)
        name = unit.group() if unit else ""
        if not name:
            raise GoError(f"time: missing unit in duration {go_quote(text)}")
        if name not in _UNITS:
            raise GoError(f"time: unknown unit {go_quote(name)} in duration {go_quote(text)}")
        rest = rest[len(name) :]
        total += float(number.group()) * _UNITS[name]
    if total > FOREVER:
        raise GoError(f"time: invalid duration {go_quote(text)}")
    return sign * int(total)


def keep_alive(value: Any) -> int | None:
    """Nanoseconds of a request's `keep_alive` (api.Duration); None where it is absent or null.

    Raises:
        GoError: a type or a string that Ollama answers 400 to.
    """
    if value is None:
        return None
    if isinstance(value, bool):
        raise GoError("Unsupported type: 'bool'")
    if isinstance(value, int | float):
        if value < 0:
            return FOREVER
        nanoseconds = int(value * NANOSECONDS)
        return nanoseconds if nanoseconds <= FOREVER else -(2**63)  # the conversion overflows on amd64
    if isinstance(value, str):
        parsed = duration(value)
        return FOREVER if parsed < 0 else parsed
    kind = "[]interface {}" if isinstance(value, list) else "map[string]interface {}"
    raise GoError(f"Unsupported type: '{kind}'")


def timestamp(nanoseconds: int) -> str:
    """RFC 3339 in UTC with up to nine digits, trailing zeros cut (time.RFC3339Nano)."""
    seconds, rest = divmod(nanoseconds, NANOSECONDS)
    text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
    fraction = f".{rest:09d}".rstrip("0").rstrip(".")
    return f"{text}{fraction}Z"


def dumps(value: Any) -> bytes:
    """JSON on one line as Go's Marshal writes it: compact, UTF-8, `<`, `>`, `&`, U+2028 and U+2029 escaped."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    if _SPECIAL.search(text):
        text = _SPECIAL.sub(lambda match: f"\\u{ord(match.group()):04x}", text)
    return text.encode(errors="replace")


_SPECIAL = re.compile("[<>&\u2028\u2029]")
