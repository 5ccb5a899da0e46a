"""The `stream` of an async job's request: set as foreman runs such jobs, whatever its caller had there.

The worker asks me before it sends one: native chat and generate go streamed (their answers are folded again), everything
else whole. I change the value in place and leave every other byte as it is.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from foreman.protocols import gojson
from foreman.protocols.goscan import GoJSONError, scan

if TYPE_CHECKING:
    from foreman.protocols.goscan import Span


def streamed(body: bytes) -> bytes:
    """The body of a native request such that its answer is a stream: there, what is absent or null streams as well."""
    return _replaced(body, {"stream": b"true"}, unless=(b"true", b"null"))


def whole(body: bytes) -> bytes:
    """The body of a `/v1` request such that its answer comes whole; `stream_options` go, which are refused without it."""
    if all(body[span.start : span.end] != b"true" for name, span in _members(body) if name == "stream"):
        return body
    return _replaced(body, {"stream": b"false", "stream_options": b"null"})


def _replaced(body: bytes, values: dict[str, bytes], unless: tuple[bytes, ...] = ()) -> bytes:
    pieces, at = [], 0
    for name, span in _members(body):
        if name in values and body[span.start : span.end] not in unless:
            pieces += [body[at : span.start], values[name]]
            at = span.end
    return b"".join((*pieces, body[at:])) if pieces else body


def _members(body: bytes) -> list[tuple[str, Span]]:
    """The top-level members by their names as Go compares them; none where the body cannot be read: the target judges it."""
    try:
        spans = scan(body).spans
    except GoJSONError:
        return []
    return [
        (gojson.fold(json.loads(body[span.key_start : span.key_end].decode(errors="replace"))), span) for span in spans
    ]
