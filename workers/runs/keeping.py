"""The answer of an async job, gathered to be kept: nobody waits for it on a link.

The executor writes into me as it would into a gateway's outlet, and takes the whole at the end, for the step that ends
the job. A native stream is folded into what `stream: false` would have returned; everything else is kept as it came. I
refuse an answer past FOREMAN_MAX_ANSWER, and one that is no JSON. What I hold of a run that is lost goes with it.
"""

from __future__ import annotations

import asyncio
import json
import re
from typing import TYPE_CHECKING, Final

from foreman.core.errors import Code, Failure
from foreman.link.channel import Framing
from foreman.protocols import fold
from foreman.protocols.goscan import GoJSONError, scan
from foreman.protocols.job_object import INLINE_LIMIT
from foreman.store.answers import Answer
from workers.runs import ending

if TYPE_CHECKING:
    from collections.abc import Callable

    from foreman.link.channel import Head

_COUNTS: Final = frozenset({b'"prompt_eval_count"', b'"eval_count"', b'"usage"'})
HASHED_HERE: Final = 1 << 20
"""Bytes that are hashed on the event loop: about 2 ms."""
_PERHAPS_INFINITE: Final = re.compile(rb"[eE]\+?\d|\d{309}")
"""Where a number past a double's range may stand: it would make an Infinity in the job object, which no reader takes."""


class Keeping:
    """Gathers one answer. Implements `Outlet`.

    Args:
        endpoint: the path that was asked.
        limit: bytes of an answer that is kept (`FOREMAN_MAX_ANSWER`).
        refuse: called once, from within `data` or `end`, where the answer cannot be kept.
    """

    def __init__(self, endpoint: str, limit: int, refuse: Callable[[Failure], None]) -> None:
        self._endpoint = endpoint
        self._limit = limit
        self._refuse = refuse
        self._fold: fold.Fold | None = None
        self._body = bytearray()
        self._closed = False

    def working(self) -> None:
        """Nobody listens."""

    def head(self, head: Head) -> None:
        """Of a refusal nothing is kept: the job's error has its words."""
        self._closed = head.status >= 300
        if head.framing is Framing.NDJSON and self._endpoint in fold.PATHS:
            self._fold = fold.Fold(self._limit)

    def data(self, unit: bytes) -> None:
        """Take it in."""
        if self._closed:
            return
        try:
            if self._fold is not None:
                self._fold.feed(unit)
                return
        except Failure as failure:
            self._close(failure)
            return
        self._body += unit
        if len(self._body) > self._limit:
            self._close(fold.too_long(self._limit))

    def end(self) -> None:
        """It is whole."""
        if self._closed:
            return
        try:
            if self._fold is not None:
                self._body = bytearray(self._fold.whole())
                self._fold = None
            _check(self._body)
        except Failure as failure:
            self._close(failure)

    def error(self, failure: Failure) -> None:  # noqa: ARG002 - as Outlet has it
        """Nobody listens, and nothing is kept."""
        self._drop()

    def back(self) -> None:
        """The next run begins anew."""
        self._drop()

    async def answer(self) -> Answer:
        """What is to be kept, after `end`."""
        body = bytes(self._body)
        return Answer.of(body) if len(body) <= HASHED_HERE else await asyncio.to_thread(Answer.of, body)

    def usage(self) -> dict[str, int]:
        """`{"prompt_tokens", "completion_tokens"}` as far as the whole tells them, after `end`."""
        return usage_of(bytes(self._body))

    def _close(self, failure: Failure) -> None:
        self._drop()
        self._refuse(failure)

    def _drop(self) -> None:
        self._closed = True
        self._fold = None
        self._body = bytearray()


def usage_of(whole: bytes) -> dict[str, int]:
    """`{"prompt_tokens", "completion_tokens"}` as far as a whole answer tells them."""
    return ending.usage(Framing.RAW, b"", _counts(whole))


def _counts(whole: bytes) -> bytes:
    """The members that count tokens, without the megabytes of vectors beside them."""
    try:
        spans = scan(whole).spans
    except GoJSONError:
        return b""
    members = [(whole[span.key_start : span.key_end], whole[span.start : span.end]) for span in spans]
    return b"{%s}" % b",".join(key + b":" + value for key, value in members if key in _COUNTS)


def _check(body: bytearray) -> None:
    """Refuse what is no JSON, or holds a number past a double; of what is too long to stand inline only the ends count."""
    try:
        if len(body) <= INLINE_LIMIT:
            found = json.loads(body, parse_constant=_no_number)
            if _PERHAPS_INFINITE.search(body):
                json.dumps(found, allow_nan=False)
            return
        if body.lstrip()[:1] in b"{[" and body.rstrip()[-1:] in b"]}":
            return
    except (ValueError, RecursionError):
        pass
    raise Failure(Code.UPSTREAM_ERROR, "the target's answer is no JSON")


def _no_number(word: str) -> None:
    """Python reads NaN and Infinity; JSON does not (RFC 8259, 6)."""
    raise ValueError(f"{word} is no number")
