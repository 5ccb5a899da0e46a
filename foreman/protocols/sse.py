r"""Server-sent events: a stream cut into events, and what one event says.

The worker feeds me what it read from a target and passes the events on as they are, comments too. An event ends with a
blank line (`\n\n` or `\r\n\r\n`); I look into one only where somebody asks. I refuse an event past the limit.
"""

from __future__ import annotations

import json
import re
from typing import Any

from foreman.protocols.ndjson import UnitTooLong

_blank_line = re.compile(rb"\n\r?\n")


class Splitter:
    """Cuts a body into events, whatever pieces it comes in.

    O(n) also when fed byte by byte. The usual piece, exactly one event, is passed on without a copy.
    """

    def __init__(self, max_unit: int) -> None:
        """Args: max_unit: bytes of one event, its blank line included."""
        self._max = max_unit
        self._pending = bytearray()

    def feed(self, data: bytes) -> list[bytes]:
        """The events that are complete by now, each with its blank line.

        Raises:
            UnitTooLong: an event is longer than `max_unit`, complete or not.
        """
        if self._pending:
            seen = len(self._pending)
            self._pending += data
            if _blank_line.search(self._pending, max(0, seen - 2)) is None:
                self._check(len(self._pending))
                return []
            data = bytes(self._pending)
            self._pending = bytearray()
        elif data.endswith(b"\n\n") and data.find(b"\n\n") == len(data) - 2 and b"\r" not in data:
            self._check(len(data))
            return [data]
        units = []
        start = 0
        for match in _blank_line.finditer(data):
            units.append(data[start : match.end()])
            self._check(match.end() - start)
            start = match.end()
        if start < len(data):
            self._check(len(data) - start)
            self._pending += data[start:]
        return units

    def rest(self) -> bytes:
        """What is left at the end of the body: an event without its blank line, or nothing."""
        rest = bytes(self._pending)
        self._pending = bytearray()
        return rest

    def _check(self, size: int) -> None:
        if size > self._max:
            raise UnitTooLong(f"an event of more than {self._max} bytes")


def fields(event: bytes) -> tuple[str, bytes]:
    """An event's name (the first `event:`, "" where it has none) and its data lines, joined by newlines."""
    name = ""
    data = []
    for line in event.replace(b"\r\n", b"\n").split(b"\n"):
        key, _, value = line.partition(b":")
        if key == b"data":
            data.append(value.removeprefix(b" "))
        elif key == b"event" and not name:
            name = value.removeprefix(b" ").decode(errors="replace")
    return name, b"\n".join(data)


def payload(event: bytes) -> dict[str, Any] | None:
    """The JSON object in an event's data; None where there is none (a comment, `[DONE]`, anything else)."""
    data = fields(event)[1]
    if not data:
        return None
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None
