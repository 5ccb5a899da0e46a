"""Kept answers: the artifacts of ended jobs (ADR-0006).

The worker makes an `Answer` and hands it to `Queue.transition`, whose script writes it in the same step as `done`; whoever
shows a job asks me for its artifacts, and for their bytes. I write nothing, and I say None for what is kept no longer.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import astuple, dataclass
from typing import TYPE_CHECKING, Final

from foreman.core.jobs import Artifact
from foreman.protocols import job_object
from foreman.protocols.job_object import COMPLETION, INLINE_LIMIT
from foreman.store.keys import ARTIFACT, PAYLOAD

if TYPE_CHECKING:
    from foreman.core.jobs import Job
    from foreman.store.keys import Keys
    from foreman.store.wire import Connection

JSON_TYPE: Final = "application/json"
STREAM: Final = "stream"
"""What is kept beside the artifact of an answer that came as a stream and may be attached to."""

RECOUNTED: Final = 200_000
"""Ended jobs and open deliveries that are counted in one step: some 0.1 s."""


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer to keep."""

    body: bytes
    record: str
    """What the job's record tells of it: a JSON list of the fields of its one artifact."""
    head: str = ""
    """Of an answer that may be read again as it came: status, headers and framing, JSON."""
    stream: bytes = b""
    """Its bytes as the target sent them; empty where they are `body`."""

    @classmethod
    def of(cls, body: bytes, content_type: str = JSON_TYPE) -> Answer:
        """The artifact `completion` with these bytes. Some 2 ms per MiB, for the hash."""
        artifact = Artifact(COMPLETION, content_type, len(body), hashlib.sha256(body).hexdigest())
        return cls(body, json.dumps([astuple(artifact)]))


@dataclass(frozen=True, slots=True)
class Room:
    """How full the store is; bytes."""

    used: int
    """Requests, kept answers and the bodies of open deliveries, in sum."""
    limit: int | None
    """FOREMAN_STORE_BYTES of whoever submitted last; None before the first."""


class Answers:
    """The kept answers of one pool. All methods raise `StoreUnavailableError` when the store does not answer."""

    def __init__(self, connection: Connection, keys: Keys) -> None:
        self._connection = connection
        self._keys = keys

    async def get(self, job: Job, name: str) -> tuple[Artifact, bytes] | None:
        """An artifact of a job and its bytes; None where there is none of that name, or its bytes are gone."""
        artifact = next((one for one in job.artifacts if one.name == name), None)
        if artifact is None:
            return None
        body = await self._connection.command("GET", self._keys.of(ARTIFACT, job.id, name))
        return None if body is None else (artifact, body)

    async def stream(self, job: Job) -> bytes | None:
        """The answer of a kept sync job as the target sent it; None where it is kept no longer."""
        stream, body = await self._connection.command(
            "MGET", self._keys.of(ARTIFACT, job.id, STREAM), self._keys.of(ARTIFACT, job.id, COMPLETION)
        )
        found: bytes | None = body if stream is None else stream
        return found

    async def room(self) -> Room:
        """How much of what FOREMAN_STORE_BYTES allows is used."""
        used, limit = await self._connection.command("HMGET", self._keys.of(PAYLOAD), "bytes", "limit")
        return Room(int(used or 0), None if limit is None else int(limit))

    async def recount(self) -> int | None:
        """Count what is kept anew; the bytes by which the count was wrong, None where that would take too long."""
        reply = await self._connection.script("recount", self._keys.prefix, RECOUNTED)
        return None if reply is None else int(reply[1]) - int(reply[0])

    async def shown(self, job: Job) -> list[job_object.Artifact]:
        """The artifacts as the job object has them: up to 262,144 bytes inline, else by their URL."""
        found = []
        for one in job.artifacts:
            kept = await self.get(job, one.name) if one.size <= INLINE_LIMIT else None
            body = None if kept is None else kept[1]
            found.append(job_object.artifact(job.id, one.name, one.content_type, one.size, one.sha256, body))
        return found
