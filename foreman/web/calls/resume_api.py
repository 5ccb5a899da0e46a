"""`GET /jobs/{id}/stream`: the answer of a sync job that outlives its caller, from any byte on.

The app adds my route. I refuse jobs whose answers are not kept, in words that say how they would have been; what is read,
and from where, web/calls/call.py has a relay do.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from foreman.core.errors import Code, Failure
from foreman.core.ids import is_ulid
from foreman.core.jobs import TERMINAL, Surface
from foreman.web.auth import Role
from foreman.web.calls import wishes
from foreman.web.middleware import CALLER

if TYPE_CHECKING:
    from aiohttp import web

    from foreman.store.queue import Queue
    from foreman.web.calls.call import Calls


@dataclass(frozen=True, slots=True)
class ResumeAPI:
    """The handler of one gateway."""

    queue: Queue
    calls: Calls

    def add_routes(self, router: web.UrlDispatcher) -> None:
        """Put the path on the router."""
        router.add_get("/jobs/{job_id}/stream", self.stream, allow_head=False)

    async def stream(self, request: web.Request) -> web.StreamResponse:
        """The answer from byte `offset` on, as the target sent it; with `Accept: text/event-stream`, bytes of the SSE form.

        Raises:
            Failure: 400 a bad offset; 404 unknown, or another caller's; 409 async, or not kept; 410 kept no longer; 416
                past the end; what the job failed with.
        """
        caller = request[CALLER]
        if caller.role is Role.READER:
            raise Failure(Code.FORBIDDEN, "this token may look at jobs, not at their requests, results and artifacts")
        begin = wishes.offset(request.query.get("offset"))
        job_id = request.match_info["job_id"]
        job = await self.queue.get(job_id) if is_ulid(job_id) else None
        if job is None or (caller.role is Role.NAMED and job.caller != caller.name):
            raise Failure(Code.BAD_REQUEST, f"no job {job_id[:64]!r} is known here (any more)", status=404)
        if job.surface is Surface.ASYNC:
            raise Failure(
                Code.BAD_REQUEST,
                "/jobs streams no tokens: send the request to its own path (the sync surface) with an Idempotency-Key, "
                f"or poll GET /jobs/{job_id}?wait=30",
                status=409,
            )
        if not job.finish:
            raise Failure(
                Code.BAD_REQUEST,
                "the answer of this job goes to its caller alone: send the request with an Idempotency-Key, or with "
                "X-Foreman-On-Disconnect: finish",
                status=410 if job.state in TERMINAL else 409,
            )
        return await self.calls.resume(request, job, begin)
