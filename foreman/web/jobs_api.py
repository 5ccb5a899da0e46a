"""The async surface: submit, look, list, cancel, retry, and what a job leaves behind.

The app adds my routes. I turn requests into calls of web/submission.py and the queue, and records into the shapes of
protocols/job_object.py; a named caller gets to see no job but its own, a reader no request, result or artifact.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from aiohttp import hdrs, web

from foreman.core import lanes
from foreman.core.errors import Code, Failure
from foreman.core.ids import is_ulid
from foreman.core.jobs import TERMINAL, State, Surface
from foreman.protocols import envelope, job_object
from foreman.protocols.job_request import wrong
from foreman.store.records import CancelOutcome, Wanted
from foreman.web.auth import Role
from foreman.web.batch import Batch
from foreman.web.body import expect_later, read_body
from foreman.web.intake import PASSED
from foreman.web.middleware import CALLER
from foreman.web.submission import Sender

if TYPE_CHECKING:
    from pydantic import BaseModel

    from foreman.core.jobs import Job
    from foreman.store.queue import Queue
    from foreman.web.ends import Ends
    from foreman.web.outlook import Outlooks
    from foreman.web.submission import Receipt, Submission

PAGE: Final = 50
LARGEST_PAGE: Final = 500
PAGE_BYTES: Final = 4 << 20
"""Bytes of jobs after which a page ends early."""
LONGEST_WAIT: Final = 600.0
"""Seconds one long poll may last."""
CANCEL_WAIT: Final = 30.0
"""Seconds a cancel waits for the run to end; a lost worker is noticed long before."""
JSON_TYPE: Final = "application/json; charset=utf-8"


@dataclass(frozen=True, slots=True)
class JobsAPI:
    """The handlers of one gateway."""

    queue: Queue
    submission: Submission
    outlooks: Outlooks
    ends: Ends

    def add_routes(self, router: web.UrlDispatcher) -> None:
        """Put all paths on the router."""
        router.add_post("/jobs", self.submit, expect_handler=expect_later)
        router.add_get("/jobs", self.list)
        router.add_post("/jobs/batch", self.batch, expect_handler=expect_later)
        router.add_get("/jobs/{job_id}", self.show)
        router.add_delete("/jobs/{job_id}", self.cancel)
        router.add_get("/jobs/{job_id}/request", self.request)
        router.add_get("/jobs/{job_id}/events", self.events)
        router.add_post("/jobs/{job_id}/retry", self.retry)

    # ------------------------------------------------------------------ new jobs

    async def submit(self, request: web.Request) -> web.StreamResponse:
        """202 for a new job, 200 for one that is known by its key."""
        body = await read_body(request, self.submission.settings.max_body)
        return _receipt(await self.submission.submit(body, sender(request)))

    async def retry(self, request: web.Request) -> web.StreamResponse:
        """A new job from one that has ended."""
        job = await self._job(request)
        return _receipt(await self.submission.retry(job, sender(request)))

    async def batch(self, request: web.Request) -> web.StreamResponse:
        """A job a line, an answer a line."""
        return await Batch(request, self.submission, sender(request)).run()

    # ------------------------------------------------------------------ one job

    async def show(self, request: web.Request) -> web.StreamResponse:
        """The job object, at once or when it has ended."""
        job = await self._job(request)
        seconds = _wait(request.query.get("wait"))
        if seconds and job.state not in TERMINAL:
            await self.ends.wait(job.id, seconds)
            job = await self._job(request)
        return answer(await self._shown(job, request))

    async def cancel(self, request: web.Request) -> web.StreamResponse:
        """Over, whatever it was; the job object once it is."""
        job = await self._job(request)
        failure = Failure(Code.CANCELLED, "the job was cancelled by DELETE /jobs")
        if await self.queue.cancel(job.id, failure) is CancelOutcome.WISHED:
            await self.ends.wait(job.id, CANCEL_WAIT)
        job = await self._job(request)
        return answer(await self._shown(job, request), 200 if job.state in TERMINAL else 202)

    async def request(self, request: web.Request) -> web.StreamResponse:
        """The request as it came."""
        _no_reader(request)
        job = await self._job(request)
        kept = await self.queue.kept(job.id)
        if kept is None:
            raise Failure(Code.BAD_REQUEST, f"the request of job {job.id} is kept no longer", status=410)
        body = envelope.put_back(kept.body, kept.own_fields)
        return web.Response(body=body, headers={hdrs.CONTENT_TYPE: "application/json"})

    async def events(self, request: web.Request) -> web.StreamResponse:
        """The transitions so far."""
        job = await self._job(request)
        found = [
            job_object.Event(
                seq=event.seq,
                state=event.state,
                previous_state=event.previous_state,
                time=job_object.rfc3339(event.time),
                worker=event.worker,
                reason=event.reason,
                attempt=event.attempt,
            )
            for event in await self.queue.events(job.id)
        ]
        return answer(job_object.EventList(events=found))

    # ------------------------------------------------------------------ the list

    async def list(self, request: web.Request) -> web.StreamResponse:
        """A page of jobs, newest first."""
        wanted, below, limit = _asked(request)
        page = await self.queue.page(wanted, below, limit)
        shown: list[job_object.JobObject] = []
        size, cursor = 0, page.next
        for job in page.jobs:
            shown.append(await self._object(job, request))
            size += len(job_object.encode(shown[-1]))
            if size > PAGE_BYTES and job is not page.jobs[-1]:
                cursor = job.id
                break
        return answer(job_object.JobList(jobs=shown, next_cursor=cursor))

    # ------------------------------------------------------------------ helpers of the handlers

    async def _job(self, request: web.Request) -> Job:
        """The job of the path. Raises Failure (404): unknown, or another caller's."""
        job_id = request.match_info["job_id"]
        job = await self.queue.get(job_id) if is_ulid(job_id) else None
        caller = request[CALLER]
        if job is None or (caller.role is Role.NAMED and job.caller != caller.name):
            raise Failure(Code.BAD_REQUEST, f"no job {job_id[:64]!r} is known here (any more)", status=404)
        return job

    async def _shown(self, job: Job, request: web.Request) -> job_object.JobObject:
        """The object that `GET` answers; of a waiting job with its outlook."""
        if job.state not in {State.QUEUED, State.LOADING}:
            return await self._object(job, request)
        seen = await self.outlooks.of(job)
        return job_object.waiting_object(job, job.changed_at, seen.position, seen.eta_seconds, seen.waiting_for)

    async def _object(self, job: Job, _request: web.Request) -> job_object.JobObject:
        return job_object.job_object(job, job.changed_at)


def sender(request: web.Request) -> Sender:
    """Who sends a job, and what its headers say of it."""
    headers = {name: value for name in PASSED if (value := request.headers.get(name)) is not None}
    return Sender(request[CALLER], request.headers.get("Idempotency-Key"), headers)


def answer(shape: BaseModel, status: int = 200) -> web.Response:
    """A shape as an answer."""
    response = web.Response(status=status, body=job_object.encode(shape) + b"\n")
    response.headers[hdrs.CONTENT_TYPE] = JSON_TYPE
    response.headers[hdrs.CACHE_CONTROL] = "no-store"
    return response


def _receipt(receipt: Receipt) -> web.Response:
    response = answer(receipt.accepted, 200 if receipt.known else 202)
    response.headers[hdrs.LOCATION] = receipt.accepted.links.self
    response.headers["X-Foreman-Job-Id"] = receipt.accepted.job_id
    return response


def _asked(request: web.Request) -> tuple[Wanted, str | None, int]:
    """Filters, place and size of a page. Raises Failure (422) with the name of the parameter."""
    query = request.query
    words = [word for value in query.getall("state", ()) for word in value.split(",") if word]
    if not set(words) <= set(State):
        wrong("state", f"use one or more of {', '.join(State)}, joined by commas")
    surface = query.get("surface")
    if surface and surface not in set(Surface):
        wrong("surface", "use sync or async")
    cursor = query.get("cursor")
    if cursor and not is_ulid(cursor):
        wrong("cursor", "use the next_cursor of the page before")
    size = query.get("limit") or str(PAGE)
    if not (size.isascii() and size.isdecimal() and len(size) < 10 and int(size) >= 1):
        wrong("limit", f"use a whole number from 1 to {LARGEST_PAGE}")
    caller = request[CALLER]
    wanted = Wanted(
        states=frozenset(map(State, words)),
        model=lanes.canonical(query["model"]) if query.get("model") else None,
        endpoint=query.get("endpoint") or None,
        surface=Surface(surface) if surface else None,
        caller=caller.name if caller.role is Role.NAMED else None,
    )
    return wanted, cursor or None, min(int(size), LARGEST_PAGE)


def _wait(text: str | None) -> float:
    """The seconds of a long poll, at most LONGEST_WAIT."""
    if not text:
        return 0.0
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not seconds >= 0:
        wrong("wait", f"use seconds from 0 to {LONGEST_WAIT:g}")
    return min(seconds, LONGEST_WAIT)


def _no_reader(request: web.Request) -> None:
    if request[CALLER].role is Role.READER:
        raise Failure(Code.FORBIDDEN, "this token may look at jobs, not at their requests, results and artifacts")
