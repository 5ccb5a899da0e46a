"""What each view shows: its URL and who looks become calls of the store, their replies a page.

web/dashboard/site.py puts me on its routes. I read and change nothing; a named caller gets its own jobs, one who only
looks gets no requests, answers and deliveries, and where the store is away the view says so.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from foreman import settings as settings_module
from foreman.core import lanes
from foreman.core.errors import Code, Failure
from foreman.core.ids import is_ulid
from foreman.core.jobs import RUNNING, TERMINAL, State, Surface
from foreman.protocols import envelope
from foreman.store.errors import StoreUnavailableError
from foreman.store.records import Wanted
from foreman.web.auth import Role
from foreman.web.dashboard import jobs, timeline, views
from foreman.web.dashboard.overview import overview
from foreman.web.middleware import CALLER

if TYPE_CHECKING:
    from collections.abc import Iterator

    from aiohttp import web

    from foreman.core.jobs import Job
    from foreman.settings import Settings
    from foreman.store.client import Store
    from foreman.store.deliveries import Tried
    from foreman.store.records import Page
    from foreman.web.dashboard.page import Frame
    from foreman.web.ops.snapshot import Snapshots
    from foreman.web.pool.inventory import Inventory
    from foreman.web.pool.outlook import Outlooks

PAGE: Final = 50
FAILURES: Final = 500
SHOWN_FAILURES: Final = 10
HOOKED: Final = 40
"""Jobs of a kind whose webhook logs are looked at for the last attempts: in a flood the newest have none yet."""
DEEDS: Final = 200
KEPT: Final = 3.0
"""Seconds for which a drawing serves everybody."""
_SHARES: Final = frozenset({"swap_budget"})
_SIZES: Final = frozenset({"max_body", "max_answer", "spool_bytes", "store_bytes"})
_ID_LENGTH: Final = 26
_WAITS: Final = {
    "loading": "the model is being loaded",
    "working": "the target reads the prompt",
    "thinking": "thinks",
    "answering": "answers",
    "resuming": "connects again",
}
"""What a chat does, in words for the playground; other states speak for themselves."""
_HIGHEST: Final = "Z"
"""The last letter of an id's alphabet."""


@dataclass(frozen=True, slots=True)
class Reading:
    """The views of one gateway."""

    settings: Settings
    store: Store
    inventory: Inventory
    outlooks: Outlooks
    snapshots: Snapshots
    _drawn: dict[int, tuple[float, str]] = field(default_factory=dict)

    async def overview(self, request: web.Request, frame: Frame) -> str:
        """What is loaded, what runs, who waits."""
        seen, reasons = await self._pool()
        waiting: list[Job] = []
        failed: list[Job] = []
        try:
            waiting = await self.store.queue.recent(frozenset({State.QUEUED}), PAGE)
            failed = await self.store.queue.recent(frozenset({State.FAILED}), SHOWN_FAILURES)
        except StoreUnavailableError as error:
            reasons.append(error.message)
        own = request[CALLER]
        if own.role is Role.NAMED:
            waiting, failed = ([job for job in some if job.caller == own.name] for some in (waiting, failed))
        return overview(frame, seen, waiting, failed, reasons)

    async def timeline(self, request: web.Request) -> str:
        """The history of swaps, as a piece of the overview."""
        back = timeline.fits(request.query.get("span"))
        at, drawn = self._drawn.get(back, (float("-inf"), ""))
        if time.monotonic() - at > KEPT:
            now = time.time()
            history = {one.name: await self.store.swaps.of(one.name) for one in await self.inventory.fresh()}
            ran = await self.store.views.ran(now - back)
            drawn = await asyncio.to_thread(timeline.timeline, history, ran, now, back)
            self._drawn[back] = (time.monotonic(), drawn)
        return drawn

    async def listed(self, request: web.Request, frame: Frame) -> str:
        """The list of jobs."""
        query = request.query
        names = ("id", "state", "model", "endpoint", "surface", "caller")
        filters = jobs.Filters(**{name: query.get(name, "").strip() for name in names})
        models = sorted({tag["name"] for target in self.inventory.targets for tag in target.tags if tag.get("name")})
        complaint = _wrong(filters)
        if complaint:
            return jobs.job_list(frame, filters, (), None, models, complaint)
        page = await self._page(filters, query.get("cursor"), request)
        return jobs.job_list(frame, filters, page.jobs, page.next, models, None)

    async def job(self, request: web.Request, frame: Frame) -> str:
        """One job. Raises Failure (404): unknown, or another caller's."""
        job = await self._job(request)
        outlook = await self.outlooks.of(job) if job.state in {State.QUEUED, State.LOADING} else None
        tried = await self.store.deliveries.log(job.id) if frame.acts else None
        again = await self.store.views.resendable([one.id for one in tried or ()])
        queue = self.store.queue
        events, kept = await queue.events(job.id), await queue.keeps(job.id)
        return jobs.job_detail(frame, job, outlook, events, tried, kept=kept, again=again)

    async def curl(self, request: web.Request, *, token: bool) -> str:
        """A job's call as a line for a shell. Raises Failure: 403 for one who only looks, 410 where it is not kept."""
        if request[CALLER].role is Role.READER:
            raise Failure(Code.FORBIDDEN, "this token may look at jobs, not at their requests")
        job = await self._job(request)
        kept = await self.store.queue.kept(job.id)
        if kept is None:
            raise Failure(Code.BAD_REQUEST, f"the request of job {job.id} is kept no longer", status=410)
        return jobs.as_curl(job, envelope.put_back(kept.body, kept.own_fields), token=token)

    async def failures(self, request: web.Request, frame: Frame) -> str:
        """What failed, by code."""
        own, queue = request[CALLER], self.store.queue
        if own.role is Role.NAMED:
            mine = await queue.page(Wanted(frozenset({State.FAILED}), caller=own.name), None, FAILURES)
            return views.failures(frame, views.grouped(mine.jobs), len(mine.jobs), None)
        seen = await self.store.views.failures()
        groups = []
        for group in seen.groups:
            jobs = [job for job_id in group.job_ids if (job := await queue.get(job_id)) is not None]
            groups.append(views.Group(group.code, group.count, group.models, jobs))
        return views.failures(frame, groups, seen.looked_at, seen.total)

    async def webhooks(self, request: web.Request, frame: Frame) -> str:
        """Who is told. Raises Failure (403) for named callers: their jobs' views have their own."""
        if request[CALLER].role is Role.NAMED:
            raise Failure(Code.FORBIDDEN, "this token sees the webhooks of its own jobs, in their views")
        deliveries = self.store.deliveries
        tried = await self._tried() if frame.acts else None
        again = await self.store.views.resendable([one.id for _, one in tried or ()])
        return views.webhooks(frame, await deliveries.receivers(), tried, await deliveries.waiting(), again)

    async def health(self, request: web.Request, frame: Frame) -> str:
        """What stands behind the page, and what it was told; the settings not for named callers."""
        seen, reasons = await self._pool()
        own = request[CALLER].role is Role.NAMED
        return views.health(frame, seen, reasons, self._facts(), () if own else _told(self.settings))

    async def audit(self, request: web.Request, frame: Frame) -> str:
        """What operators did. Raises Failure (403) for named callers."""
        if request[CALLER].role is Role.NAMED:
            raise Failure(Code.FORBIDDEN, "this token runs jobs; the log of actions is the operator's")
        return views.audit(frame, await self.store.operators.audit(DEEDS))

    async def playground(self, _request: web.Request, frame: Frame) -> str:
        """A chat; the page's script draws it."""
        names = {tag["name"] for target in self.inventory.targets for tag in target.tags if tag.get("name")}
        words = "A chat with any model, to see how it waits and answers. It needs JavaScript."
        body = f'<h1>Playground</h1><p class="none">{words}</p>'
        return frame.document("playground", body, {"models": sorted(names), "words": _WAITS})

    # ------------------------------------------------------------------ what the handlers share

    async def _tried(self) -> list[tuple[str, Tried]]:
        """The last attempts at webhooks of the jobs that came, run, are next or ended last, each with its job."""
        queue = self.store.queue
        seen = (await queue.page(Wanted(surface=Surface.ASYNC), None, HOOKED)).jobs
        for states in (frozenset({State.QUEUED}), RUNNING, TERMINAL):
            seen += tuple(await queue.recent(states, HOOKED))
        ids = dict.fromkeys(job.id for job in seen if job.state_webhook_url)
        logs = await asyncio.gather(*(self.store.deliveries.log(job_id) for job_id in ids))
        tried = [(job_id, one) for job_id, log in zip(ids, logs, strict=True) for one in log]
        return sorted(tried, key=lambda pair: -pair[1].time)[:PAGE]

    async def _job(self, request: web.Request) -> Job:
        job_id = request.match_info["job_id"].upper()
        job = await self.store.queue.get(job_id) if is_ulid(job_id) else None
        caller = request[CALLER]
        if job is None or (caller.role is Role.NAMED and job.caller != caller.name):
            raise Failure(Code.BAD_REQUEST, f"no job {job_id[:64]!r} is known here (any more)", status=404)
        return job

    async def _pool(self) -> tuple[dict[str, Any], list[str]]:
        return await self.snapshots.state(), await self.snapshots.reasons()

    async def _page(self, filters: jobs.Filters, cursor: str | None, request: web.Request) -> Page:
        """A page of the list. Ids that begin alike stand together, so their beginning is a place in the list."""
        own = request[CALLER]
        wanted = Wanted(
            states=frozenset({State(filters.state)} if filters.state else ()),
            model=lanes.canonical(filters.model) if filters.model else None,
            endpoint=filters.endpoint or None,
            surface=Surface(filters.surface) if filters.surface else None,
            caller=own.name if own.role is Role.NAMED else filters.caller or None,
        )
        begins = filters.id.upper()
        below = cursor if cursor and is_ulid(cursor) else None
        if begins and below is None:
            below = begins.ljust(_ID_LENGTH, _HIGHEST) + _HIGHEST
        page = await self.store.queue.page(wanted, below, PAGE)
        if not begins:
            return page
        found = tuple(job for job in page.jobs if job.id.startswith(begins))
        more = page.next if len(found) == len(page.jobs) and (page.next or "").startswith(begins) else None
        return type(page)(found, more)

    def _facts(self) -> list[tuple[str, object]]:
        return [
            ("Listens on", self.settings.addr),
            ("Pool", self.settings.pool),
            ("Durability", self.settings.durability),
        ]


def _wrong(filters: jobs.Filters) -> str | None:
    """What is wrong with the filters, as a sentence."""
    if filters.state and filters.state not in set(State):
        return f"There is no state {filters.state!r}: use one of {', '.join(State)}."
    if filters.surface and filters.surface not in set(Surface):
        return f"There is no surface {filters.surface!r}: use sync or async."
    if filters.id and not is_ulid(filters.id.upper().ljust(_ID_LENGTH, "0")):
        return "An id has up to 26 digits and letters, without I, L, O and U."
    return None


def _told(settings: Settings) -> Iterator[tuple[str, str, bool]]:
    """Each variable, its value and whether it was set; of a secret only that it is one."""
    for name in type(settings).model_fields:
        value = getattr(settings, name)
        hidden = name in settings_module.SECRET and value
        yield (
            settings_module.PREFIX + name.upper(),
            "(hidden)" if hidden else _shown(name, value),
            name in settings.model_fields_set,
        )


def _shown(name: str, value: Any) -> str:
    """A setting as one would write it."""
    if isinstance(value, bool) or value is None:
        return "" if value is None else str(value).lower()
    if isinstance(value, dict):
        return ",".join(f"{getattr(key, 'word', key)}={_shown(name, one)}" for key, one in value.items())
    if isinstance(value, tuple):
        return ",".join(_shown(name, one) for one in value)
    if isinstance(value, float):
        return f"{value:g}" if name in _SHARES else f"{value:g}s"
    if isinstance(value, int) and name in _SIZES:
        return f"{value >> 20}MiB" if value % (1 << 20) == 0 else str(value)
    return str(getattr(value, "text", value))
