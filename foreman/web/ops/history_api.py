"""What operators look back at: failures by code, each target's swaps and jobs, counts by hour and day, webhooks' receivers.

The app adds my routes. I read the store and change nothing; named callers have their own jobs to look at, not all.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from aiohttp import hdrs, web

from foreman.core.errors import Code, Failure
from foreman.protocols import history_shapes as shapes
from foreman.protocols import job_object
from foreman.protocols.job_object import rfc3339
from foreman.web.auth import Role
from foreman.web.middleware import CALLER

if TYPE_CHECKING:
    from pydantic import BaseModel

    from foreman.store.client import Store
    from foreman.store.deliveries import Receiver
    from foreman.store.swaps import SwapRecord
    from foreman.store.views import Ran
    from foreman.web.pool.inventory import Inventory

HOURS: Final = 1.0
MOST_HOURS: Final = 24.0


@dataclass(frozen=True, slots=True)
class HistoryAPI:
    """The handlers of one gateway."""

    store: Store
    inventory: Inventory

    def add_routes(self, router: web.UrlDispatcher) -> None:
        """Put all paths on the router."""
        router.add_get("/ops/failures", self.failures)
        router.add_get("/ops/swaps", self.swaps)
        router.add_get("/ops/counts", self.counts)
        router.add_get("/ops/receivers", self.receivers)

    async def failures(self, request: web.Request) -> web.StreamResponse:
        """The last failures, grouped by code."""
        _not_for_named(request)
        found = await self.store.views.failures()
        groups = [
            shapes.FailureGroup(
                code=group.code,
                count=group.count,
                last_at=rfc3339(group.last),
                message=group.message,
                job_ids=list(group.job_ids),
                models=list(group.models),
                targets=list(group.targets),
            )
            for group in found.groups
        ]
        return _answer(shapes.FailureList(failures=groups, looked_at=found.looked_at, total=found.total))

    async def swaps(self, request: web.Request) -> web.StreamResponse:
        """What each target held and ran in the last hours."""
        _not_for_named(request)
        until = time.time()
        since = until - 3600 * _hours(request.query.get("hours"))
        ran = await self.store.views.ran(since)
        targets = []
        for target in await self.inventory.fresh():
            history = await self.store.swaps.of(target.name)
            targets.append(
                shapes.TargetHistory(
                    name=target.name,
                    residencies=[_residency(one) for one in history if one.end is None or one.end >= since],
                    jobs=[_ran(one) for one in ran if one.target == target.name],
                )
            )
        return _answer(shapes.SwapHistory(since=rfc3339(since), until=rfc3339(until), targets=targets))

    async def counts(self, request: web.Request) -> web.StreamResponse:
        """What ended in the last hours or days. Receivers' hosts are not for those who only look."""
        _not_for_named(request)
        by = request.query.get("by", "hour")
        if by not in {"hour", "day"}:
            raise Failure(Code.BAD_REQUEST, "by: use hour or day", status=422)
        tallies = self.store.tallies
        hosts = request[CALLER].role is not Role.READER
        found = [
            shapes.Tally(begins=rfc3339(one.begins), jobs=one.jobs, webhooks=one.webhooks if hosts else {})
            for one in await (tallies.hours() if by == "hour" else tallies.days())
        ]
        return _answer(shapes.TallyList(counts=found))

    async def receivers(self, request: web.Request) -> web.StreamResponse:
        """Who is told, and how they take it. Their URLs may hold secrets: not for those who only look."""
        _not_for_named(request)
        if request[CALLER].role is Role.READER:
            raise Failure(Code.FORBIDDEN, "this token may only look: receivers' addresses are the operator's")
        found = await self.store.deliveries.receivers()
        return _answer(shapes.ReceiverList(receivers=[_receiver(one) for one in found]))


def _answer(shape: BaseModel) -> web.Response:
    headers = {hdrs.CONTENT_TYPE: "application/json; charset=utf-8", hdrs.CACHE_CONTROL: "no-store"}
    return web.Response(body=job_object.encode(shape) + b"\n", headers=headers)


def _not_for_named(request: web.Request) -> None:
    if request[CALLER].role is Role.NAMED:
        raise Failure(Code.FORBIDDEN, "this token sees its own jobs: GET /jobs")


def _hours(text: str | None) -> float:
    if not text:
        return HOURS
    try:
        hours = float(text)
    except ValueError:
        hours = math.nan
    if not 0 < hours <= MOST_HOURS:
        raise Failure(Code.BAD_REQUEST, f"hours: use a number above 0, at most {MOST_HOURS:g}", status=422)
    return hours


def _residency(one: SwapRecord) -> shapes.Residency:
    return shapes.Residency(
        lane=one.lane,
        model=one.model,
        reason=one.reason,
        began=rfc3339(one.t0),
        loaded=rfc3339(one.loaded),
        ended=None if one.end is None else rfc3339(one.end),
        ended_by=one.ended_by,
        victim=one.victim,
        cut=one.cut,
    )


def _ran(one: Ran) -> shapes.Ran:
    return shapes.Ran(
        job_id=one.job_id, lane=one.lane, state=one.state.value, began=rfc3339(one.began), ended=rfc3339(one.ended)
    )


def _receiver(one: Receiver) -> shapes.Receiver:
    return shapes.Receiver(
        url=one.url,
        open=one.open,
        delivered=one.delivered,
        failed=one.failed,
        failures=one.failures,
        standing=one.standing.value,
        status=one.status,
        error=one.error,
        tried_at=None if one.tried_at is None else rfc3339(one.tried_at),
        next_at=None if one.next_at is None else rfc3339(one.next_at),
    )
