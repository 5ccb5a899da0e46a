"""What is kept of jobs: their list, their records, requests and transitions, and word of their ends.

The gateway's `/jobs` and the page call me through Queue, which is a Listing; I turn values into commands and scripts and
back. I move no job: all I write is who wants to hear of it, of its end or of all of its answer.
"""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Final

from foreman.core.errors import Code, Failure
from foreman.core.jobs import RUNNING, TERMINAL, Job, Slot, State, Surface
from foreman.store import rows
from foreman.store.keys import DELAYED, ENDED, EVENTS, JOB, QUEUED, REQUEST, WORKER_JOBS
from foreman.store.keys import RUNNING as RUNNING_KEY
from foreman.store.records import Kept, Page, Place, Wanted
from foreman.store.roster import Roster

if TYPE_CHECKING:
    from foreman.store.records import Event

LOOK: Final = 500
"""Jobs that one script looks at: about a millisecond of the store's time."""
READERS: Final = 64
"""Callers at most that read one job's answer beside its first."""
ROUNDS: Final = 200
"""Scripts at most for one page; a page that found less ends early, with a cursor."""


class Listing(Roster):
    """The part of a pool's queue that tells of jobs. All methods raise `StoreUnavailableError`."""

    async def get(self, job_id: str) -> Job | None:
        """A job's record, or None where it is unknown or its time is over."""
        if ":" in job_id:
            return None
        flat = await self._connection.command("HGETALL", self.keys.of(JOB, job_id))
        return rows.job(job_id, rows.table(flat)) if flat else None

    async def kept(self, job_id: str) -> Kept | None:
        """The request of a job; None where it is not kept (any more)."""
        if ":" in job_id:
            return None
        body, fields = await asyncio.gather(
            self._connection.command("GET", self.keys.of(REQUEST, job_id)),
            self._connection.command("HMGET", self.keys.of(JOB, job_id), "own_fields", "headers"),
        )
        if body is None:
            return None
        own_fields, headers = fields
        return Kept(body, own_fields.decode() if own_fields else None, json.loads(headers) if headers else {})

    async def keeps(self, job_id: str) -> bool:
        """Whether a job's request is kept."""
        return ":" not in job_id and bool(await self._connection.command("EXISTS", self.keys.of(REQUEST, job_id)))

    async def events(self, job_id: str) -> list[Event]:
        """A job's transitions, oldest first; none where it is unknown or its time is over."""
        if ":" in job_id:
            return []
        return [
            rows.event(entry)
            for entry in await self._connection.command("XRANGE", self.keys.of(EVENTS, job_id), "-", "+")
        ]

    async def held(self, worker_id: str) -> set[str]:
        """The jobs that a worker has claimed, by what the store knows."""
        members = await self._connection.command("SMEMBERS", self.keys.of(WORKER_JOBS, worker_id))
        return {job_id.decode() for job_id in members}

    async def position(self, job_id: str) -> int | None:
        """A queued job's place among all queued jobs of its slot by due, 1 for the next; None when it isn't queued."""
        place = await self.place(job_id)
        return None if place is None else place.position

    async def place(self, job_id: str) -> Place | None:
        """The same, and what else is known of where it stands."""
        reply = await self._script("position", job_id)
        return None if reply is None else Place(*map(int, reply))

    async def watch(self, job_id: str, gateway_id: str) -> State | None:
        """Have a gateway's inbox told of a job's end; the state it is in now, or None where it is unknown."""
        if ":" in job_id:
            return None
        reply = await self._script("watch", job_id, gateway_id)
        return None if reply is None else State(reply.decode())

    async def attach(self, job_id: str, gateway_id: str, reader: str) -> State | None:
        """Have the worker of a kept sync job, now or once one claims it, answer a further reader as well.

        Args:
            job_id: the job.
            gateway_id: where the reader waits.
            reader: the id by which that gateway's door knows it. The same again: the worker is told again.

        Returns:
            The state the job is in now; None where it is unknown. Of one that has ended nothing is noted.

        Raises:
            Failure: QUEUE_FULL: it has READERS already.
        """
        reply = await self._script("attach", job_id, gateway_id, reader, READERS)
        if reply == b"full":
            raise Failure(Code.QUEUE_FULL, f"{READERS} callers read job {job_id} already", retry_after=1)
        return None if reply is None else State(reply.decode())

    async def detach(self, job_id: str, gateway_id: str, reader: str) -> None:
        """A reader has left."""
        await self._script("detach", job_id, gateway_id, reader)

    async def commit(self, job_id: str, epoch: int, failure: Failure) -> bool:
        """Note, before any caller of a kept sync job gets a byte, that this run is its last.

        Should it be lost, the job ends with `failure`. False where the run has lost its right to the job.
        """
        return bool(await self._script("commit", job_id, epoch, json.dumps(failure.as_dict())))

    async def page(self, wanted: Wanted, below: str | None, limit: int) -> Page:
        """Up to `limit` of the kept jobs that fit, newest first, from `below` on (an id, not itself in the page).

        The order is that of the ids, so a page's `next` holds its place while jobs come, move and go. At most
        LOOK × ROUNDS jobs are looked at: where few fit, a page may be short and still have a `next`.
        """
        last = below or ""
        found: list[Job] = []
        for _ in range(ROUNDS):
            ended, seen, ids = await self._script(
                "list",
                last,
                LOOK,
                limit - len(found),
                f" {' '.join(sorted(wanted.states))} " if wanted.states else "",
                wanted.model or "",
                wanted.endpoint or "",
                wanted.surface or "",
                wanted.caller or "",
            )
            found += await self._jobs(ids)
            if ended:
                return Page(tuple(found), None)
            last = seen.decode()
            if len(found) >= limit:
                break
        return Page(tuple(found), last)

    async def running(self) -> list[Job]:
        """All jobs in loading or working, those claimed first coming first."""
        ids: list[bytes] = []
        for state in sorted(RUNNING):
            ids += await self._connection.command("ZRANGE", self.keys.of(RUNNING_KEY, state.value), 0, -1)
        jobs = [job for job in await self._jobs(ids) if job.state in RUNNING]
        return sorted(jobs, key=lambda job: job.claimed_at or 0.0)

    async def recent(self, states: frozenset[State], limit: int) -> list[Job]:
        """The newest jobs in these states (queued by due; ended ones by their end)."""
        last = max(0, limit - 1)
        jobs: list[Job] = []
        if State.QUEUED in states:
            for place in (QUEUED, DELAYED):
                for slot in Slot:
                    key = self.keys.of(place, slot.value)
                    jobs += await self._jobs(await self._connection.command("ZRANGE", key, 0, last))
            jobs.sort(key=lambda job: job.due)
        if states & RUNNING:
            jobs += await self.running()
        ended: list[Job] = []
        for state in sorted(states & TERMINAL):
            for surface in Surface:
                key = self.keys.of(ENDED, surface.value, state.value)
                ended += await self._jobs(await self._connection.command("ZRANGE", key, 0, last, "REV"))
        jobs += sorted(ended, key=lambda job: job.finished_at or 0.0, reverse=True)
        return [job for job in jobs if job.state in states][:limit]

    async def _jobs(self, ids: list[bytes]) -> list[Job]:
        found = await asyncio.gather(*(self.get(job_id.decode()) for job_id in ids))
        return [job for job in found if job is not None]
