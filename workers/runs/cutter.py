"""The body of one answer, cut into the units of its framing as it comes.

The executor feeds me what the client read and passes on what I give back. Hot path: no JSON, no copy but the cut. I
remember the last two units, for the verdict at the end, and refuse a unit no client could take. An answer that has to
be translated is workers/runs/translated.py's, behind the same `Cutting`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

from foreman.link.channel import Framing, Head
from foreman.protocols import ndjson, sse
from workers.runs import ending

if TYPE_CHECKING:
    from collections.abc import Sequence

    from foreman.link.channel import Headers
    from workers.runs.ending import Ending

UNIT_LIMIT: Final = 16 * 1024 * 1024
"""Bytes of one line or event. (Ollama's Go client takes 8 MB.)"""
RAW_PIECE: Final = 64 * 1024
_KEPT: Final = 256 * 1024
"""Bytes of an unstreamed body that are kept for its verdict and its usage, for which it is read once."""
_FRAMINGS: Final = {"application/x-ndjson": Framing.NDJSON, "text/event-stream": Framing.SSE}


class Cutting(Protocol):
    """An answer's body on its way through."""

    @property
    def head(self) -> Head:
        """What the caller is told before the first unit. Asked for once a unit is there."""

    @property
    def count(self) -> int:
        """Units so far; about one token each in a stream."""

    def feed(self, data: bytes) -> Sequence[bytes]:
        """The units that are complete by now. Raises ValueError for a unit past the limit, Failure for nonsense."""

    def rest(self) -> Sequence[bytes]:
        """The last units, when the body has ended. Raises Failure where it is none."""

    def ending(self) -> Ending:
        """How it ended. Asked for once, after `rest`."""

    def usage(self) -> dict[str, int]:
        """`{"prompt_tokens", "completion_tokens"}` as far as the answer tells. After `rest`."""


class _Splitter(Protocol):
    def feed(self, data: bytes) -> Sequence[bytes]: ...

    def rest(self) -> bytes: ...


def framing_of(headers: Headers) -> Framing:
    """How a body with these headers is cut. A compressed one (never asked for) is passed on as it is."""
    if _compressed(headers):
        return Framing.RAW
    lower = {name.lower(): value for name, value in headers}
    return _FRAMINGS.get(lower.get("content-type", "").partition(";")[0].strip().lower(), Framing.RAW)


def _compressed(headers: Headers) -> bool:
    return any(name.lower() == "content-encoding" and value.lower() != "identity" for name, value in headers)


class Cutter:
    """The units of one body, byte for byte. Implements `Cutting`."""

    def __init__(self, endpoint: str, status: int, headers: Headers) -> None:
        self.head = Head(status, headers, framing_of(headers))
        self.count = 0
        self._endpoint = endpoint
        self._previous = b""
        self._last = b""
        self._splitter: _Splitter | None = None
        if self.head.framing is Framing.NDJSON:
            self._splitter = ndjson.Splitter(UNIT_LIMIT)
        elif self.head.framing is Framing.SSE:
            self._splitter = sse.Splitter(UNIT_LIMIT)
        self._usage: dict[str, int] | None = None
        self._kept = bytearray()
        self._keeping = self._splitter is None and not _compressed(headers)
        """The whole body is at hand so far."""

    def feed(self, data: bytes) -> Sequence[bytes]:
        """See `Cutting`."""
        if self._splitter is None:
            return self._raw(data)
        units = self._splitter.feed(data)
        count = len(units)
        if count == 1:
            self._previous, self._last = self._last, units[0]
        elif count:
            self._previous, self._last = units[-2], units[-1]
        self.count += count
        return units

    def rest(self) -> Sequence[bytes]:
        """A last line without its newline, or nothing."""
        if self._splitter is None:
            self._last = bytes(self._kept)
            return ()
        rest = self._splitter.rest()
        if not rest:
            return ()
        self._previous, self._last = self._last, rest
        self.count += 1
        return (rest,)

    def ending(self) -> Ending:
        """See `Cutting`."""
        if self.head.status >= 300:  # a redirect is not followed, and no answer
            return ending.refused(self.head.status, self._last)
        if self._keeping:
            verdict = ending.whole(self._endpoint, self._last)
            self._usage = verdict.usage
            return verdict
        return ending.ending(self._endpoint, self.head.framing, self._previous, self._last)

    def usage(self) -> dict[str, int]:
        """See `Cutting`."""
        if self._usage is not None:
            return self._usage
        return ending.usage(self.head.framing, self._previous, self._last)

    def _raw(self, data: bytes) -> Sequence[bytes]:
        if self._keeping:
            self._kept += data
            if len(self._kept) > _KEPT:
                self._keeping = False
                self._kept.clear()
        if len(data) <= RAW_PIECE:
            return (data,)
        return [data[at : at + RAW_PIECE] for at in range(0, len(data), RAW_PIECE)]
