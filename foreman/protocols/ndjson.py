r"""Ollama's streams: one JSON object on a line. Cut into lines, told whether one is the last, wrapped as SSE.

The worker feeds me what it read from a target and passes the lines on as they are. I parse a line only where somebody
asks about it, and I cut at `\n` alone (`splitlines` cuts inside strings, at U+2028). I refuse a line past the limit.
"""

from __future__ import annotations

import json
from typing import Any, Final

SSE_DONE: Final = b"data: [DONE]\n\n"
"""What ends a native stream that was asked for as SSE."""

_COUNTS: Final = {"prompt_eval_count": "prompt_tokens", "eval_count": "completion_tokens"}
_DURATIONS: Final = ("total_duration", "load_duration", "prompt_eval_duration", "eval_duration")


class UnitTooLong(ValueError):  # noqa: N818 - the name says what is wrong, as UnicodeDecodeError's siblings do
    """A line or an event of a stream is longer than anybody may send; the rest of the stream is of no use."""


class Splitter:
    """Cuts a body into lines, whatever pieces it comes in.

    O(n) also when fed byte by byte. The usual piece, exactly one line, is passed on without a copy.
    """

    def __init__(self, max_unit: int) -> None:
        """Args: max_unit: bytes of one line, its newline included."""
        self._max = max_unit
        self._pending = bytearray()

    def feed(self, data: bytes) -> list[bytes]:
        r"""The lines that are complete by now, each with its `\n`.

        Raises:
            UnitTooLong: a line is longer than `max_unit`, complete or not.
        """
        first = data.find(b"\n")
        if first < 0:
            self._keep(data)
            return []
        if not self._pending and first == len(data) - 1:
            self._check(len(data))
            return [data]
        last = data.rfind(b"\n") + 1
        self._check(len(self._pending) + first + 1)
        if self._pending:
            self._pending += data[: first + 1]
            units = [bytes(self._pending)]
            self._pending = bytearray()
        else:
            units = [data[: first + 1]]
        if last > first + 1:
            units.extend(line + b"\n" for line in data[first + 1 : last - 1].split(b"\n"))
            self._check(max(map(len, units)))
        if last < len(data):
            self._keep(data[last:])
        return units

    def rest(self) -> bytes:
        """What is left at the end of the body: a last line without its newline, or nothing."""
        rest = bytes(self._pending)
        self._pending = bytearray()
        return rest

    def _keep(self, data: bytes) -> None:
        self._check(len(self._pending) + len(data))
        self._pending += data

    def _check(self, size: int) -> None:
        if size > self._max:
            raise UnitTooLong(f"a line of more than {self._max} bytes")


def ends(line: bytes) -> bool:
    """Whether this is the last line of a whole answer: `"done":true`, in the object itself and not deeper."""
    return b'"done"' in line and b"true" in line and object_in(line).get("done") is True


def error_in(line: bytes) -> str | None:
    """The message of an in-band error, the line `{"error":"…"}`; None for any other line.

    What stands in front of an Ollama may say it as an object, `{"error":{"message":"…"}}`.
    """
    if b'"error"' not in line:
        return None
    error = object_in(line).get("error")
    if isinstance(error, dict):
        error = error.get("message")
    return error if isinstance(error, str) else None


def native_to_sse(line: bytes) -> bytes:
    """A native line as an SSE event; nothing for a blank line."""
    text = line.strip(b" \t\r\n")
    return b"data: " + text + b"\n\n" if text else b""


def tokens_of(line: bytes) -> dict[str, int]:
    """What the last line of an answer counts: prompt_tokens, completion_tokens, and the four durations in ns.

    Each is there only where the line has it: Ollama leaves zeros out.
    """
    return counts_in(object_in(line))


def counts_in(said: dict[str, Any]) -> dict[str, int]:
    """The same of an object that is read already."""
    found = {_COUNTS.get(key, key): said.get(key) for key in (*_COUNTS, *_DURATIONS)}
    return {name: value for name, value in found.items() if isinstance(value, int) and not isinstance(value, bool)}


def object_in(line: bytes) -> dict[str, Any]:
    """The JSON object that these bytes are; {} where they are none."""
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}
