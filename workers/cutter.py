"""The body of one answer, cut into the units of its framing as it comes.

The executor feeds me what the client read and passes on what I give back. Hot path: no JSON, no copy but the cut. I
remember the last two units, for the verdict at the end, and refuse a unit no client could take.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

from foreman.link.channel import Framing, Head
from foreman.protocols import ndjson, sse

if TYPE_CHECKING:
    from collections.abc import Sequence

    from foreman.link.channel import Headers

UNIT_LIMIT: Final = 16 * 1024 * 1024
"""Bytes of one line or event. (Ollama's Go client takes 8 MB.)"""
RAW_PIECE: Final = 64 * 1024
_KEPT: Final = 256 * 1024
"""Bytes of an unstreamed body that are kept for its usage."""
_FRAMINGS: Final = {"application/x-ndjson": Framing.NDJSON, "text/event-stream": Framing.SSE}


class _Splitter(Protocol):
    def feed(self, data: bytes) -> Sequence[bytes]: ...

    def rest(self) -> bytes: ...


def framing_of(headers: Headers) -> Framing:
    """How a body with these headers is cut. A compressed one (never asked for) is passed on as it is."""
    lower = {name.lower(): value for name, value in headers}
    if lower.get("content-encoding", "identity").lower() != "identity":
        return Framing.RAW
    return _FRAMINGS.get(lower.get("content-type", "").partition(";")[0].strip().lower(), Framing.RAW)


class Cutter:
    """The units of one body."""

    def __init__(self, endpoint: str, status: int, headers: Headers) -> None:
        self.endpoint = endpoint
        self.head = Head(status, headers, framing_of(headers))
        self.count = 0
        """Units so far; about one token each in a stream."""
        self.previous = b""
        self.last = b""
        self._splitter: _Splitter | None = None
        if self.head.framing is Framing.NDJSON:
            self._splitter = ndjson.Splitter(UNIT_LIMIT)
        elif self.head.framing is Framing.SSE:
            self._splitter = sse.Splitter(UNIT_LIMIT)
        self._kept = bytearray()
        self._keeping = True

    def feed(self, data: bytes) -> Sequence[bytes]:
        """The units that are complete by now. Raises ValueError for a unit past the limit."""
        if self._splitter is None:
            return self._raw(data)
        units = self._splitter.feed(data)
        count = len(units)
        if count == 1:
            self.previous, self.last = self.last, units[0]
        elif count:
            self.previous, self.last = units[-2], units[-1]
        self.count += count
        return units

    def rest(self) -> Sequence[bytes]:
        """What is left when the body has ended: a last line without its newline."""
        if self._splitter is None:
            self.last = bytes(self._kept)
            return ()
        rest = self._splitter.rest()
        if not rest:
            return ()
        self.previous, self.last = self.last, rest
        self.count += 1
        return (rest,)

    def _raw(self, data: bytes) -> Sequence[bytes]:
        if self._keeping:
            self._kept += data
            if len(self._kept) > _KEPT:
                self._keeping = False
                self._kept.clear()
        if len(data) <= RAW_PIECE:
            return (data,)
        return [data[at : at + RAW_PIECE] for at in range(0, len(data), RAW_PIECE)]
