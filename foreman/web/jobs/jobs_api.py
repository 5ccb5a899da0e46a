"""The async surface: submit, look, list, cancel, retry, and what a job leaves behind.

The app adds my routes. I turn requests into calls of web/jobs/submission.py and the queue, and records into the shapes of
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
from foreman.store.deliveries import Redelivered, job_of
from foreman.store.records import CancelOutcome, Wanted
from foreman.web.auth import Role
from foreman.web.body import read_body
from foreman.web.calls import wishes
from foreman.web.calls.intake import passed
from foreman.web.jobs.batch import Batch
from foreman.web.jobs.submission import Sender
from foreman.web.middleware import CALLER

if TYPE_CHECKING:
    from pydantic import BaseModel

    from foreman.core.jobs import Job
    from foreman.store.client import Store
    from foreman.store.deliveries import Tried
    from foreman.store.queue import Queue
    from foreman.web.jobs.ends import Ends
    from foreman.web.jobs.submission import Receipt, Submission
    from foreman.web.pool.outlook import Outlooks

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

    store: Store
    submission: Submission
    outlooks: Outlooks
    ends: Ends

    def add_routes(self, router: web.UrlDispatcher) -> None:
        """Put all paths on the router."""
        router.add_post("/jobs", self.submit)
        router.add_get("/jobs", self.list)
        router.add_post("/jobs/batch", self.batch)
        router.add_get("/jobs/{job_id}", self.show)
        router.add_delete("/jobs/{job_id}", self.cancel)
        router.add_get("/jobs/{job_id}/request", self.request)
        router.add_get("/jobs/{job_id}/events", self.events)
        router.add_post("/jobs/{job_id}/retry", self.retry)
        router.add_get("/jobs/{job_id}/artifacts/{name}", self.artifact)
        router.add_get("/jobs/{job_id}/deliveries", self.deliveries)
        router.add_post("/deliveries/{delivery}/redeliver", self.redeliver)

    @property
    def queue(self) -> Queue:
        """The store's queue."""
        return self.store.queue

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
        if await self.queue.cancel(job.id, failure, request[CALLER].operator) is CancelOutcome.WISHED:
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

    async def artifact(self, request: web.Request) -> web.StreamResponse:
        """The bytes of an artifact; their hash is their ETag."""
        _no_reader(request)
        job = await self._job(request)
        name = request.match_info["name"]
        known = next((one for one in job.artifacts if one.name == name), None)
        if known is None:
            raise Failure(Code.BAD_REQUEST, f"job {job.id} has no artifact {name[:64]!r}", status=404)
        headers = {hdrs.ETAG: f'"{known.sha256}"', hdrs.CACHE_CONTROL: "private, no-cache"}
        if any(tag.value in {known.sha256, "*"} for tag in request.if_none_match or ()):
            return web.Response(status=304, headers=headers)
        found = await self.store.answers.get(job, name)
        if found is None:
            raise Failure(Code.BAD_REQUEST, f"artifact {name!r} of job {job.id} is kept no longer", status=410)
        return web.Response(body=found[1], headers=headers | {hdrs.CONTENT_TYPE: known.content_type})

    # ------------------------------------------------------------------ its webhooks

    async def deliveries(self, request: web.Request) -> web.StreamResponse:
        """What was tried to tell its receiver, and how that ended; kept longer than the job."""
        _no_reader(request)
        job_id = request.match_info["job_id"]
        tried = await self.store.deliveries.log(job_id) if is_ulid(job_id) else []
        if not tried or request[CALLER].role is not Role.OPERATOR:
            await self._job(request)
        return answer(job_object.DeliveryList(deliveries=[_delivery(one) for one in tried]))

    async def redeliver(self, request: web.Request) -> web.StreamResponse:
        """Send an event again: the same id and bytes."""
        delivery = request.match_info["delivery"]
        caller = request[CALLER]
        job_id = job_of(delivery) or ""
        job = await self.queue.get(job_id) if is_ulid(job_id) else None
        known = caller.role is Role.OPERATOR or (job is not None and job.caller == caller.name)
        met = Redelivered.UNKNOWN
        if known and is_ulid(job_id):
            met = await self.store.deliveries.redeliver(delivery, caller.operator)
        if met is Redelivered.UNKNOWN:
            raise Failure(Code.BAD_REQUEST, f"no delivery {delivery[:64]!r} is known here (any more)", status=404)
        if met is Redelivered.OVER:
            raise Failure(
                Code.BAD_REQUEST, f"delivery {delivery} has ended, and its bytes are kept no longer", status=410
            )
        return answer(job_object.Redelivery(id=delivery, status=met.value), 202)

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

    async def _object(self, job: Job, request: web.Request) -> job_object.JobObject:
        """The object with its results, which a reader does not get to see."""
        looks_only = request[CALLER].role is Role.READER
        artifacts = [] if looks_only or not job.artifacts else await self.store.answers.shown(job)
        return job_object.job_object(job, job.changed_at, artifacts)


def sender(request: web.Request) -> Sender:
    """Who sends a job, and what its headers say of it."""
    key, target = wishes.header(request, wishes.KEY), wishes.header(request, "X-Foreman-Target")
    return Sender(request[CALLER], key, passed(request), target)


def answer(shape: BaseModel, status: int = 200) -> web.Response:
    """A shape as an answer."""
    response = web.Response(status=status, body=job_object.encode(shape) + b"\n")
    response.headers[hdrs.CONTENT_TYPE] = JSON_TYPE
    response.headers[hdrs.CACHE_CONTROL] = "no-store"
    return response


def _delivery(tried: Tried) -> job_object.Delivery:
    return job_object.Delivery(
        id=tried.id,
        event=f"job.{tried.state}",
        seq=tried.seq,
        url=tried.url,
        attempt=tried.attempt,
        time=job_object.rfc3339(tried.time),
        status=tried.status,
        duration_ms=None if tried.duration is None else round(tried.duration * 1000, 3),
        error=tried.error,
        reply=tried.reply,
    )


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
