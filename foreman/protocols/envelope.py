"""A submitted job's body: foreman's own fields taken off, and put back where somebody wants to see it as it came.

The gateway calls `take_off` on what `POST /jobs` brings: the native payload goes upstream without foreman's fields, every
other byte as it was. What was cut out is kept beside it in a few bytes, from which `put_back` makes the body again.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from foreman.protocols.goscan import GoJSONError, scan

if TYPE_CHECKING:
    from collections.abc import Collection

    from foreman.protocols.goscan import Span

OWN_LIMIT: Final = 64 * 1024
"""Bytes that foreman's own fields may take in a body, white space included."""

_closes = re.compile(rb"[ \t\n\r]*\}[ \t\n\r]*").fullmatch


class Envelope(NamedTuple):
    """A body taken apart."""

    payload: bytes
    own: dict[str, Any]
    """Foreman's own fields, decoded; of a name that stands twice the last counts."""
    cuts: str
    """What `put_back` needs; ASCII."""


def take_off(body: bytes, names: Collection[str]) -> Envelope:
    """Take the members of these names off the body's object.

    Raises:
        EmptyBodyError, GoJSONError: it is no JSON, no object, something stands behind it, or its own fields are longer than
            OWN_LIMIT.
    """
    kind, spans = scan(body)
    if kind != "object":
        raise GoJSONError(f"a job is a JSON object, not a JSON {kind}")
    if not _closes(body, spans[-1].end if spans else body.index(b"{") + 1):
        raise GoJSONError(
            "a job is one JSON object, and something stands behind it: /jobs/batch takes several, one a line"
        )
    keys = [json.loads(body[span.key_start : span.key_end].decode(errors="replace")) for span in spans]
    ours = [key in names for key in keys]
    if not any(ours):
        return Envelope(body, {}, "[]")
    runs = _runs(spans, ours)
    if sum(end - start for start, end in runs) > OWN_LIMIT:
        raise GoJSONError(f"foreman's own fields take more than {OWN_LIMIT} bytes")
    own = {}
    for key, span, mine in zip(keys, spans, ours, strict=True):
        if mine:
            own[key] = _decoded(key, body[span.start : span.end])
    pieces, cuts, at, removed = [], [], 0, 0
    for start, end in runs:
        pieces.append(body[at:start])
        cuts.append((start - removed, body[start:end].decode("latin-1")))
        at, removed = end, removed + end - start
    return Envelope(b"".join((*pieces, body[at:])), own, json.dumps(cuts, separators=(",", ":")))


def put_back(payload: bytes, cuts: str | None) -> bytes:
    """The body as it came, byte for byte."""
    pieces, at = [], 0
    for offset, text in json.loads(cuts or "[]"):
        pieces += [payload[at:offset], text.encode("latin-1")]
        at = offset
    return b"".join((*pieces, payload[at:]))


def _runs(spans: list[Span], ours: list[bool]) -> list[tuple[int, int]]:
    """The bytes to cut, neighbours joined: up to the next member that stays, else from the end of the last that stayed."""
    runs: list[tuple[int, int]] = []
    number = 0
    while number < len(spans):
        if not ours[number]:
            number += 1
            continue
        first = number
        while number < len(spans) and ours[number]:
            number += 1
        if number < len(spans):
            runs.append((spans[first].key_start, spans[number].key_start))
        else:
            runs.append((spans[first - 1].end if first else spans[0].key_start, spans[-1].end))
    return runs


def _decoded(key: str, source: bytes) -> Any:
    try:
        return json.loads(source.decode(errors="replace"))
    except (ValueError, RecursionError) as error:  # deeper, or a number longer, than anybody means
        raise GoJSONError(f"{key}: too deep or too long a value") from error
