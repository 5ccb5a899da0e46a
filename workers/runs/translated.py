"""An `openai` target's answer to a native call, in Ollama's words (ADR-0003).

workers/runs/requests.py chooses me where it translated the request. I implement `Cutting`: streamed events become native
lines as they come; a whole answer, or a refusal, is gathered and said once it is there.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from foreman.core.errors import Code, Failure
from foreman.link.channel import Framing, Head
from foreman.protocols import sse, translate
from workers.runs import ending
from workers.runs.cutter import UNIT_LIMIT, framing_of
from workers.runs.ending import Ending

if TYPE_CHECKING:
    from collections.abc import Sequence

    from foreman.link.channel import Headers
    from workers.runs.cutter import Cutting

WHOLE_LIMIT: Final = 16 * 1024 * 1024
"""Bytes of an answer that is gathered."""


def translated(asked: translate.Translated, status: int, headers: Headers, sent_at: float) -> Cutting:
    """What cuts and translates the answer to `asked`; `sent_at` in seconds since the epoch."""
    if status == 200 and framing_of(headers) is Framing.SSE:
        return TranslatedStream(asked, sent_at)
    return TranslatedWhole(asked, status, sent_at)


class TranslatedStream:
    """Events in, native lines out."""

    def __init__(self, asked: translate.Translated, sent_at: float) -> None:
        self.head = Head(200, (("Content-Type", translate.STREAM_TYPE),), Framing.NDJSON)
        self.count = 0
        self._splitter = sse.Splitter(UNIT_LIMIT)
        self._translator = translate.StreamTranslator(asked, sent_at)

    def feed(self, data: bytes) -> Sequence[bytes]:
        """See `Cutting`."""
        now = time.time()
        lines = [line for event in self._splitter.feed(data) for line in self._translator.feed(event, now)]
        self.count += len(lines)
        return lines

    def rest(self) -> Sequence[bytes]:
        """The lines still to come. Raises Failure for an answer that never said why it stopped."""
        now = time.time()
        last = self._splitter.rest()
        lines = self._translator.feed(last, now) if last else []
        lines += self._translator.finish(now)
        self.count += len(lines)
        return lines

    def ending(self) -> Ending:
        """See `Cutting`."""
        words = self._translator.error
        return Ending() if words is None else ending.told(words)

    def usage(self) -> dict[str, int]:
        """See `Cutting`."""
        return self._translator.usage


class TranslatedWhole:
    """A JSON in, a JSON out."""

    def __init__(self, asked: translate.Translated, status: int, sent_at: float) -> None:
        self.head = Head(status, (("Content-Type", translate.JSON_TYPE),), Framing.RAW)
        self.count = 0
        self._asked = asked
        self._sent_at = sent_at
        self._body = bytearray()
        self._usage: dict[str, int] = {}

    def feed(self, data: bytes) -> Sequence[bytes]:
        """Gather."""
        self._body += data
        if len(self._body) > WHOLE_LIMIT:
            raise Failure(Code.UPSTREAM_ERROR, f"an answer of more than {WHOLE_LIMIT} bytes")
        return ()

    def rest(self) -> Sequence[bytes]:
        """The answer, or the refusal, in Ollama's words. Raises Failure for a body that is neither."""
        if self.head.status >= 400:
            return (translate.translate_error(self.head.status, bytes(self._body)),)
        body, self._usage = translate.translate_answer(self._asked, bytes(self._body), self._sent_at, time.time())
        return (body,)

    def ending(self) -> Ending:
        """See `Cutting`."""
        return ending.refused(self.head.status, bytes(self._body)) if self.head.status >= 400 else Ending()

    def usage(self) -> dict[str, int]:
        """See `Cutting`."""
        return self._usage
