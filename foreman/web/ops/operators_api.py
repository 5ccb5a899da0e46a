"""What operators do: pause, resume and clear lanes, pause and resume targets, and the log of it.

The app adds my routes. I let only operators act, turn a wish into one call of the store and its outcome into JSON; the
store decides, and writes the log in the same step. What a pause means to a target is its worker's business.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NoReturn

import structlog
from aiohttp import hdrs, web

from foreman.core.errors import Code, Failure
from foreman.core.units import boolean, duration
from foreman.protocols import job_object, ops_shapes
from foreman.protocols.job_object import rfc3339
from foreman.store.operators import Kind, TooManyError, UnknownError
from foreman.web.auth import Role
from foreman.web.middleware import CALLER

if TYPE_CHECKING:
    from pydantic import BaseModel

    from foreman.store.client import Store
    from foreman.store.operators import Deed
    from foreman.store.records import Pause
    from foreman.web.ops.snapshot import Snapshots
    from foreman.web.pool.inventory import Inventory

log = structlog.get_logger(__name__)

LONGEST: Final = 30 * 86400.0
"""Seconds a pause that ends by itself may last."""
SHOWN: Final = 100
MOST_SHOWN: Final = 1000


@dataclass(frozen=True, slots=True)
class OperatorsAPI:
    """The handlers of one gateway."""

    store: Store
    inventory: Inventory
    snapshots: Snapshots

    def add_routes(self, router: web.UrlDispatcher) -> None:
        """Put all paths on the router."""
        router.add_post("/ops/lanes/{lane}/pause", self.pause_lane)
        router.add_post("/ops/lanes/{lane}/resume", self.resume_lane)
        router.add_post("/ops/lanes/{lane}/clear", self.clear)
        router.add_post("/ops/targets/{target}/pause", self.pause_target)
        router.add_post("/ops/targets/{target}/resume", self.resume_target)
        router.add_get("/ops/audit", self.audit)

    async def pause_lane(self, request: web.Request) -> web.StreamResponse:
        """Nothing of the lane starts any more."""
        if _yes(request.query.get("unload")):
            raise Failure(
                Code.BAD_REQUEST, "unload: a lane holds no memory of its own; pause its target so", status=422
            )
        return await self._pause(request, Kind.LANE, request.match_info["lane"], unload=False)

    async def pause_target(self, request: web.Request) -> web.StreamResponse:
        """Nothing starts on the target any more; with `unload`, it holds nothing once what runs has ended."""
        unload = _yes(request.query.get("unload"))
        return await self._pause(request, Kind.TARGET, request.match_info["target"], unload=unload)

    async def resume_lane(self, request: web.Request) -> web.StreamResponse:
        """The lane goes on."""
        return await self._resume(request, Kind.LANE, request.match_info["lane"])

    async def resume_target(self, request: web.Request) -> web.StreamResponse:
        """The target goes on."""
        return await self._resume(request, Kind.TARGET, request.match_info["target"])

    async def clear(self, request: web.Request) -> web.StreamResponse:
        """Cancel what is queued in the lane."""
        who, lane = _who(request), request.match_info["lane"]
        failure = Failure(Code.CANCELLED, "the job was cancelled: an operator cleared its lane")
        try:
            cancelled, left = await self.store.operators.clear(
                lane, who, failure, seen=await self._seen(Kind.LANE, lane)
            )
        except UnknownError:
            _unknown(Kind.LANE, lane)
        log.info("ops.clear", who=who, lane=lane, cancelled=cancelled, left=left)
        return _answer(ops_shapes.Cleared(lane=lane, cancelled=cancelled, left=left))

    async def audit(self, request: web.Request) -> web.StreamResponse:
        """The newest deeds."""
        if request[CALLER].role is Role.NAMED:
            raise Failure(Code.FORBIDDEN, "this token runs jobs; the log of actions is the operator's")
        text = request.query.get("limit") or str(SHOWN)
        if not (text.isascii() and text.isdecimal() and len(text) < 10 and int(text) >= 1):
            raise Failure(Code.BAD_REQUEST, f"limit: use a whole number from 1 to {MOST_SHOWN}", status=422)
        deeds = await self.store.operators.audit(min(int(text), MOST_SHOWN))
        return _answer(ops_shapes.Audit(audit=[_deed(deed) for deed in deeds]))

    async def _pause(self, request: web.Request, kind: Kind, name: str, *, unload: bool) -> web.StreamResponse:
        who, seconds = _who(request), _span(request.query.get("for"))
        try:
            pause = await self.store.operators.pause(
                kind, name, who, seconds=seconds, unload=unload, seen=await self._seen(kind, name)
            )
        except UnknownError:
            _unknown(kind, name)
        except TooManyError:
            message = f"{kind}: a thousand are paused already; resume some first"
            raise Failure(Code.BAD_REQUEST, message, status=422) from None
        self.snapshots.disturb()
        log.info("ops.pause", who=who, kind=kind.value, name=name, seconds=seconds, unload=unload)
        return _answer(paused(kind, name, pause))

    async def _resume(self, request: web.Request, kind: Kind, name: str) -> web.StreamResponse:
        who = _who(request)
        try:
            changed = await self.store.operators.resume(kind, name, who, seen=await self._seen(kind, name))
        except UnknownError:
            _unknown(kind, name)
        self.snapshots.disturb()
        log.info("ops.resume", who=who, kind=kind.value, name=name, changed=changed)
        return _answer(paused(kind, name, None, changed=changed))

    async def _seen(self, kind: Kind, name: str) -> bool:
        """Whether `/ops/state` shows it although nothing of it is queued: a lane that only runs or is only loaded."""
        if kind is Kind.TARGET:
            return False
        held = any(entry.get("lane") == name for target in self.inventory.targets for entry in target.resident)
        return held or any(job.lane == name for job in await self.store.views.running())


def paused(kind: Kind, name: str, pause: Pause | None, *, changed: bool = True) -> ops_shapes.Paused:
    """A lane or target as it is now."""
    return ops_shapes.Paused(
        kind=kind.value,
        name=name,
        paused=pause is not None,
        since=None if pause is None else rfc3339(pause.since),
        until=None if pause is None or pause.until is None else rfc3339(pause.until),
        unload=pause is not None and pause.unload,
        changed=changed,
    )


def came_of(deed: Deed) -> str:
    """What came of a deed, for a person; the page says the same."""
    found = deed.outcome
    if deed.kind in {"job", "delivery"}:
        done = {"cancel": "cancelled while it ran" if found.get("running") else "cancelled in the queue"}
        return done.get(deed.action, f"as job {deed.made}" if deed.made else "sent again")
    if deed.action == "clear":
        count = found.get("cancelled", 0)
        left = f", {found['left']:,} left" if found.get("left") else ""
        return f"{count:,} {'job' if count == 1 else 'jobs'} cancelled{left}"
    if deed.action == "resume":
        return "resumed" if found.get("changed") else "was not paused"
    until = f"until {rfc3339(found['until'] / 1000)}" if found.get("until") else "until resumed"
    return f"paused {until}{', unloaded' if found.get('unload') else ''}"


def _answer(shape: BaseModel) -> web.Response:
    headers = {hdrs.CONTENT_TYPE: "application/json; charset=utf-8", hdrs.CACHE_CONTROL: "no-store"}
    return web.Response(body=job_object.encode(shape) + b"\n", headers=headers)


def _who(request: web.Request) -> str:
    """The name of who acts. Raises Failure (403) for those who may not."""
    operator = request[CALLER].operator
    if operator is None:
        raise Failure(Code.FORBIDDEN, "this token may not act on lanes and targets: use FOREMAN_TOKEN")
    return operator


def _unknown(kind: Kind, name: str) -> NoReturn:
    raise Failure(Code.BAD_REQUEST, f"no {kind} {name[:128]!r} is known here; /ops/state lists them", status=404)


def _span(text: str | None) -> float | None:
    if text is None:
        return None
    try:
        seconds = duration(text, zero=False)
    except ValueError as error:
        raise Failure(Code.BAD_REQUEST, f"for: {error}", status=422) from error
    if seconds > LONGEST:
        raise Failure(Code.BAD_REQUEST, "for: use at most 30 days (720h)", status=422)
    return seconds


def _yes(text: str | None) -> bool:
    if not text:
        return False
    try:
        return boolean(text)
    except ValueError as error:
        raise Failure(Code.BAD_REQUEST, f"unload: {error}", status=422) from error


def _deed(deed: Deed) -> ops_shapes.Deed:
    return ops_shapes.Deed(
        id=deed.id,
        time=rfc3339(deed.time),
        who=deed.who,
        action=deed.action,
        kind=deed.kind,
        name=deed.name,
        outcome=came_of(deed),
    )
