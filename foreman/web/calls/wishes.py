"""What a request asks of foreman by its headers: a deadline, a key, to run on, events, to see itself wait.

web/calls/call.py and web/calls/intake.py ask me. I turn header text into values and refuse, naming the header, what makes no sense;
what becomes of a wish is theirs.
"""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Final

from aiohttp import hdrs

from foreman.core.errors import Code, Failure
from foreman.protocols.job_request import LONGEST

if TYPE_CHECKING:
    from aiohttp import web

FARTHEST: Final = 10**18
"""Bytes that stand for any higher offset: past the end of every answer."""
KEY: Final = "Idempotency-Key"
_NUMBER: Final = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?", re.ASCII)
"""A number as everybody writes it; Python's float() would take `1_0` and other scripts' digits too."""
_KEY: Final = re.compile(r"[\x20-\x7e]{1,255}", re.ASCII)


def deadline(request: web.Request) -> float | None:
    """The seconds of its X-Foreman-Deadline. Raises Failure(BAD_REQUEST) unless finite and positive."""
    given = seconds(request, "X-Foreman-Deadline")
    return None if given is None else min(given, LONGEST)


def seconds(request: web.Request, name: str) -> float | None:
    """The seconds in a header. Raises Failure(BAD_REQUEST) unless finite and positive."""
    text = header(request, name)
    if text is None:
        return None
    given = float(text) if _NUMBER.fullmatch(text.strip()) else math.nan
    if not (math.isfinite(given) and given > 0):
        raise Failure(Code.BAD_REQUEST, f"{name} is {text[:40]!r}: use a positive number of seconds")
    return given


def wants_events(request: web.Request) -> bool:
    """Whether the Accept header names `text/event-stream`."""
    return any(
        part.partition(";")[0].strip().lower() == "text/event-stream"
        for value in request.headers.getall(hdrs.ACCEPT, ())
        for part in value.split(",")
    )


def header(request: web.Request, name: str) -> str | None:
    """A header that says one thing. Raises Failure where it says two: BAD_REQUEST, 422 for a key."""
    given = request.headers.getall(name, None)
    if given is None:
        return None
    if len(given) > 1 and len(set(given)) > 1:
        status = 422 if name == KEY else 400
        raise Failure(
            Code.BAD_REQUEST, f"{name} came {len(given)} times with different values: send one", status=status
        )
    return given[0]


def key(request: web.Request) -> str | None:
    """The Idempotency-Key. Raises Failure (422) for one that is empty, too long or no visible ASCII, or for two."""
    given = header(request, KEY)
    if given is not None and not _KEY.fullmatch(given):
        raise Failure(Code.BAD_REQUEST, f"{KEY}: use 1 to 255 visible ASCII characters", status=422)
    return given


def finishes(request: web.Request) -> bool:
    """Whether the job shall run on when its caller leaves (X-Foreman-On-Disconnect). Raises Failure(BAD_REQUEST)."""
    text = header(request, "X-Foreman-On-Disconnect")
    given = "cancel" if text is None else text.strip().lower()
    if given not in {"finish", "cancel"}:
        raise Failure(Code.BAD_REQUEST, f"X-Foreman-On-Disconnect is {given[:40]!r}: use finish or cancel")
    return given == "finish"


def offset(text: str | None) -> int:
    """Where a stream shall go on, in bytes. Raises Failure(BAD_REQUEST) unless a whole number from 0 on."""
    text = "0" if text is None else text
    if not (text.isascii() and text.isdecimal()):
        raise Failure(Code.BAD_REQUEST, f"offset is {text[:40]!r}: use the number of bytes you have, from 0 on")
    return min(int(text), FARTHEST) if len(text) < 1000 else FARTHEST
