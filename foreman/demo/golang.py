"""What shows of Go through Ollama's answers and is not in foreman.protocols: its moments.

The fake's other modules call me for times; JSON and durations they take from protocols.gojson and protocols.keep_alive,
which foreman itself uses: both are held against Go's own words by their tests, and the fake by the recordings.
"""

from __future__ import annotations

import time
from typing import Final

NANOSECONDS: Final = 1_000_000_000


def timestamp(nanoseconds: int) -> str:
    """RFC 3339 in UTC with up to nine digits, trailing zeros cut (time.RFC3339Nano); from ns since 1970."""
    seconds, rest = divmod(nanoseconds, NANOSECONDS)
    text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
    fraction = f".{rest:09d}".rstrip("0").rstrip(".")
    return f"{text}{fraction}Z"
