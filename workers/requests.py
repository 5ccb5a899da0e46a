"""What a job's request becomes on its way to a target: as it came, with `keep_alive` where it may be added, or translated.

The executor asks me once per run. The caller's bytes stay as they are in every other respect; a request that the
target's dialect cannot say is a Failure (400) that names the field.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from foreman.core.errors import Failure
from foreman.core.targets import OLLAMA
from foreman.protocols.keep_alive import insert_keep_alive
from foreman.protocols.ollama import peek
from foreman.upstream.client import Request
from workers.cutter import Cutter

if TYPE_CHECKING:
    from foreman.core.targets import TargetSettings
    from foreman.link.channel import Headers
    from foreman.store.records import Claimed

KEPT_ALIVE: Final = frozenset({"/api/chat", "/api/generate", "/api/embed", "/api/embeddings"})
"""The paths of an `ollama` target on which `keep_alive` is added where it is absent."""


@dataclass(frozen=True, slots=True)
class Upstream:
    """A request as its target gets it."""

    request: Request
    endpoint: str
    """The path the caller asked: whose end mark the answer must have."""

    def cutter(self, status: int, headers: Headers) -> Cutter:
        """What cuts the answer into the caller's units."""
        return Cutter(self.endpoint, status, headers)


def upstream(claimed: Claimed, target: TargetSettings, keep_alive: str) -> Upstream:
    """Make the request. Raises Failure(BAD_REQUEST) where the target's dialect has no word for a field."""
    endpoint, body = claimed.job.endpoint, claimed.request
    if target.kind == OLLAMA and endpoint in KEPT_ALIVE and not _has_keep_alive(endpoint, body):
        body = insert_keep_alive(body, keep_alive)
    return Upstream(Request(claimed.method, endpoint, body, tuple(claimed.headers.items())), endpoint)


def _has_keep_alive(endpoint: str, body: bytes) -> bool:
    """Whether the body has the key, were it null; a body that cannot be read is left alone: the target judges it."""
    try:
        return peek(endpoint, body).keep_alive_present
    except Failure:
        return True
