"""What a job's request becomes on its way to a target: as it came, with `keep_alive` where it may be added, or translated.

The executor asks me once per run. The caller's bytes stay as they are in every other respect, but for the `stream` of an
async job; a request that the target's dialect cannot say is a Failure (400) that names the field.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from foreman.core.errors import Failure
from foreman.core.jobs import Surface
from foreman.core.targets import OPENAI
from foreman.protocols import fold, paths, stream_field, translate
from foreman.protocols.keep_alive import FOREVER_NS, insert_keep_alive, nanoseconds
from foreman.protocols.ollama import peek
from foreman.tasks import aside
from foreman.upstream.client import Request
from workers.runs.cutter import Cutter
from workers.runs.translated import translated

if TYPE_CHECKING:
    from foreman.link.channel import Headers
    from foreman.store.records import Claimed
    from workers.runs.cutter import Cutting

_SHORT: Final = 64 * 1024
"""Bytes of a body that are searched quicker than read."""
KEPT_ALIVE: Final = frozenset(paths.OLLAMA)
"""The paths of an `ollama` target on which `keep_alive` is added where it is absent."""


@dataclass(frozen=True, slots=True)
class Upstream:
    """A request as its target gets it."""

    request: Request
    endpoint: str
    """The path the caller asked: whose end mark the answer must have."""
    asked: translate.Translated | None = None
    """Set where the request was translated, and the answer must be."""
    answer: bytes | None = None
    """The whole answer (200, JSON), where it takes no target to give it."""
    stream: bool = True
    """Whether its answer is asked for as a stream."""

    def cutting(self, status: int, headers: Headers, sent_at: float) -> Cutting:
        """What cuts the answer into the caller's units; `sent_at` in seconds since the epoch."""
        if self.asked is not None:
            return translated(self.asked, status, headers, sent_at)
        return Cutter(self.endpoint, status, headers)


async def upstream(claimed: Claimed, kind: str, keep_alive: str, own_name: str | None) -> Upstream:
    """Make the request; of a large body in a thread.

    Args:
        claimed: the job.
        kind: the target's, `ollama` or `openai`.
        keep_alive: JSON, added where it may be and is absent.
        own_name: how the target spells the model, or None.

    Raises:
        Failure: BAD_REQUEST: the target's dialect has no word for a field.
    """
    return await aside(len(claimed.request), _upstream, claimed, kind, keep_alive, own_name)


def _upstream(claimed: Claimed, kind: str, keep_alive: str, own_name: str | None) -> Upstream:
    endpoint, body, stream = claimed.job.endpoint, claimed.request, claimed.stream
    if claimed.job.surface is Surface.ASYNC:
        stream = endpoint in fold.PATHS
        body = stream_field.streamed(body) if stream else stream_field.whole(body)
    if kind == OPENAI:
        return replace(_for_openai(claimed, body, own_name), stream=stream)
    if endpoint in KEPT_ALIVE and not _has_keep_alive(endpoint, body):
        body = insert_keep_alive(body, keep_alive)
    return Upstream(Request(claimed.method, endpoint, body, tuple(claimed.headers.items())), endpoint, stream=stream)


def session(claimed: Claimed, default: float) -> float | None:
    """How long an `ollama` target keeps the model after this call, in seconds, infinite for ever; None: as long as before.

    Args:
        claimed: the job.
        default: what foreman adds where it may and the caller says nothing.
    """
    endpoint, body = claimed.job.endpoint, claimed.request
    if endpoint not in KEPT_ALIVE or len(body) >= _SHORT:
        return None  # a long one is not read a second time
    if not _has_keep_alive(endpoint, body):
        return default
    try:
        asked = peek(endpoint, body).keep_alive
    except Failure:
        return None
    return None if asked is None else seconds(asked)


def seconds(keep_alive: object) -> float:
    """A decoded `keep_alive` in seconds; infinite for ever."""
    spent = nanoseconds(keep_alive)
    return math.inf if spent >= FOREVER_NS else spent / 1e9


def _for_openai(claimed: Claimed, body: bytes, own_name: str | None) -> Upstream:
    """`/v1` as it is; native calls translated, or answered here where they ask for a load that never happens."""
    endpoint = claimed.job.endpoint
    headers = tuple(claimed.headers.items())
    if endpoint not in translate.PATHS:
        return Upstream(Request(claimed.method, endpoint, body, headers), endpoint)
    seen = peek(endpoint, body, known=(claimed.job.model,))
    if seen.is_load or seen.is_unload:
        answer = translate.load_answer(endpoint, seen.model, unload=seen.is_unload, now=time.time())
        return Upstream(Request("POST", endpoint), endpoint, answer=answer)
    asked = translate.translate_request(endpoint, body, own_name)
    return Upstream(Request("POST", asked.path, asked.body, headers), endpoint, asked)


def _has_keep_alive(endpoint: str, body: bytes) -> bool:
    """Whether the body has the key, were it null; a body that cannot be read is left alone: the target judges it."""
    if len(body) < _SHORT and body.isascii() and b"\\u" not in body and b"keep_alive" not in body.lower():
        return False  # no spelling of the key that Go would know: it reads keys in any case, and escaped
    try:
        return peek(endpoint, body).keep_alive_present
    except Failure:
        return True
