r"""The bytes of an answer turned into its chunks, wherever they were cut.

A chat feeds me what comes off the socket, NDJSON or SSE. I give back the chunks, each with the offset in the answer at
which it ends, and what heartbeats say of the wait; heartbeats themselves are no part of the answer and don't count. I
cut lines at `\n` alone and know no dialect.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any, Final

_HEARTBEAT: Final = re.compile(rb": (queued|loading|working|waiting)((?: [a-z_]+=[^ ]+)*)")
_SECONDS: Final = re.compile(r"\d+(?:\.\d+)?s?")


@dataclass(frozen=True, slots=True)
class State:
    """What a call does while nothing of its answer comes. Times in seconds."""

    name: str
    """sent · queued · loading · working · waiting (its target is down) · thinking · answering · resuming · done."""
    job_id: str | None = None
    position: int | None = None
    """In the queue, 1 for the next."""
    eta: float | None = None
    """To the next state, a rough guess."""
    elapsed: float | None = None
    """In this state."""
    target: str | None = None
    """The one that is down."""
    down_for: float | None = None
    tokens: int | None = None
    """Deltas so far, thinking included."""
    attempt: int | None = None
    """How often in a row a lost answer was gone after."""

    def __str__(self) -> str:
        """For a status line: `queued, position 3, about 41 s`."""
        parts = [self.name if self.target is None else f"{self.name} for {self.target}, down for {self.down_for:.0f} s"]
        if self.position is not None:
            parts.append(f"position {self.position}")
        if self.elapsed is not None:
            parts.append(f"{self.elapsed:.0f} s")
        if self.eta is not None:
            parts.append(f"about {self.eta:.0f} s to go")
        if self.tokens is not None:
            parts.append(f"{self.tokens} token{'' if self.tokens == 1 else 's'}")
        return ", ".join(parts)


@dataclass(frozen=True, slots=True)
class Chunk:
    """One chunk of the answer."""

    value: dict[str, Any]
    offset: int
    """Bytes of the answer up to its end, counted from where the reader began."""


DONE: Final = object()
"""The end mark `[DONE]`."""


class Reader:
    """One connection's bytes.

    Args:
        events: the answer is SSE, not NDJSON.
    """

    def __init__(self, *, events: bool) -> None:
        self._events = events
        self._pending = bytearray()
        self._searched = 0
        self._unit = 0
        self._data: list[bytes] = []
        self.offset = 0
        """Bytes of the answer up to the end of its last whole chunk."""

    def feed(self, data: bytes) -> list[Chunk | State | object]:
        """What is complete by now: chunks, states, and DONE.

        Raises:
            ValueError: a chunk is no JSON object.
        """
        found: list[Chunk | State | object] = []
        self._pending += data
        start = 0
        while (end := self._pending.find(b"\n", max(start, self._searched))) >= 0:
            found += self._line(bytes(self._pending[start : end + 1]))
            start = self._searched = end + 1
        del self._pending[:start]
        self._searched = len(self._pending)
        return found

    def rest(self) -> list[Chunk]:
        """A last chunk without its newline, at the end of the body; a piece of one is none."""
        line, self._pending = bytes(self._pending), bytearray()
        try:
            found = self._line(line) if line.strip() else []
            found += self._line(b"") if self._events and self._data else []
        except ValueError:
            return []
        return [item for item in found if isinstance(item, Chunk)]

    def _line(self, line: bytes) -> list[Chunk | State | object]:
        return self._event_line(line) if self._events else self._json_line(line)

    def _json_line(self, line: bytes) -> list[Chunk | State | object]:
        chunk = line.lstrip(b" ")  # heartbeats
        if not chunk.strip():
            return []
        value = _object(chunk)
        self.offset += len(chunk)
        return [Chunk(value, self.offset)]

    def _event_line(self, line: bytes) -> list[Chunk | State | object]:
        text = line.rstrip(b"\r\n")
        if self._unit == 0 and (said := _HEARTBEAT.fullmatch(text)) is not None:
            return [_state(said[1].decode(), said[2].decode())]
        self._unit += len(line)
        if text.startswith(b"data:"):
            self._data.append(text[5:].removeprefix(b" "))
        if text:
            return []
        data, size, self._data, self._unit = b"\n".join(self._data), self._unit, [], 0
        value = _object(data) if data not in {b"", b"[DONE]"} else None
        self.offset += size
        if value is not None:
            return [Chunk(value, self.offset)]
        return [DONE] if data else []


def _object(text: bytes) -> dict[str, Any]:
    value = json.loads(text)
    if not isinstance(value, dict):
        raise ValueError(f"a chunk that is no JSON object: {text[:80]!r}")  # noqa: TRY004 - the bytes are wrong, no type of ours
    return value


def _state(name: str, words: str) -> State:
    """`position=3 eta=41s` as a State."""
    said = dict(word.split("=", 1) for word in words.split())
    numbers = {key: float(value.rstrip("s")) for key, value in said.items() if _SECONDS.fullmatch(value)}
    position = numbers.get("position")
    return State(
        name,
        position=None if position is None else int(position),
        eta=numbers.get("eta"),
        elapsed=numbers.get("elapsed"),
        target=said.get("target"),
        down_for=numbers.get("down_for"),
    )
