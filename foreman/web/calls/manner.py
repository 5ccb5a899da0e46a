"""How one caller wants to be answered: streamed or whole, as lines or events, with what patience.

web/calls/call.py makes me of a request and its settings; the relay goes by me. I decide nothing about what is answered.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from foreman.core.errors import Code, Failure
from foreman.link.channel import Framing
from foreman.protocols import ndjson

if TYPE_CHECKING:
    from foreman.web.dialect import Dialect


@dataclass(frozen=True, slots=True)
class Manner:
    """How one caller wants to be answered."""

    dialect: Dialect
    stream: bool
    """It asked for a stream."""
    wrap: bool = False
    """Its native lines are to be wrapped into SSE events (`Accept: text/event-stream`)."""
    head_after: float | None = None
    """Seconds of waiting after which a 200 goes out; None: never."""
    heartbeat: float = 15.0
    """Seconds without a byte after which a committed answer gets a heartbeat."""
    refusals: Dialect | None = None
    """Whose words a failure before the head has; None: `dialect`'s."""

    @property
    def events(self) -> bool:
        """The caller reads SSE."""
        return self.stream and (self.wrap or self.dialect.stream_framing is Framing.SSE)

    def event(self, line: bytes) -> bytes:
        """A native line as an event; one by which the target says that it failed says so as every failure does here."""
        words = ndjson.error_in(line)
        if words is None:
            return ndjson.native_to_sse(line)
        return self.dialect.stream_error(Failure(Code.UPSTREAM_ERROR, words), events=True)

    @property
    def content_type(self) -> str:
        """What a head that goes out before the target's own must say."""
        if not self.stream:
            return self.dialect.json_type
        return "text/event-stream" if self.events else self.dialect.stream_type
