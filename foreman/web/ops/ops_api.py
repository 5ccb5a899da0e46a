"""What operators and machines ask: is it alive, is it ready, what is queued, running, loaded and failing.

The app adds my routes. I read the store's records and the gateway's own state and change nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from aiohttp import hdrs, web

import foreman
from foreman.core.errors import Code, Failure
from foreman.protocols import gojson
from foreman.web.ops.snapshot import LANES

if TYPE_CHECKING:
    from foreman.web.calls.call import Calls
    from foreman.web.ops.feed import Feed
    from foreman.web.ops.snapshot import Snapshots

_WORD: Final = 200
"""Characters of a word to look for."""


@dataclass(frozen=True, slots=True)
class OpsAPI:
    """The handlers of one gateway."""

    snapshots: Snapshots
    calls: Calls
    feed: Feed

    def add_routes(self, router: web.UrlDispatcher) -> None:
        """Put all paths on the router."""
        router.add_get("/healthz", self.healthz)
        router.add_get("/readyz", self.readyz)
        router.add_get("/ops/state", self.state)
        router.add_get("/ops/lanes", self.lanes)
        router.add_get("/ops/events", self.feed.serve, allow_head=False)

    async def healthz(self, _request: web.Request) -> web.StreamResponse:
        """Always 200 while this process answers; `degraded` says whether all is well behind it."""
        reasons = await self.snapshots.reasons()
        return _json({"status": "ok", "degraded": bool(reasons), "reasons": reasons, "version": foreman.__version__})

    async def readyz(self, _request: web.Request) -> web.StreamResponse:
        """503 while new calls would be refused: the store is away, or this gateway is leaving."""
        if self.calls.leaving:
            return _json({"status": "leaving"}, 503)
        if not self.snapshots.inventory.store_answers():
            return _json({"status": "store unavailable"}, 503)
        return _json({"status": "ready"})

    async def state(self, _request: web.Request) -> web.StreamResponse:
        """The whole pool at one moment."""
        return _json(await self.snapshots.state())

    async def lanes(self, request: web.Request) -> web.StreamResponse:
        """The lanes that have a word in their model or key: `/ops/state` shows not all where there are many."""
        text = request.query.get("limit") or str(LANES)
        if not (text.isascii() and text.isdecimal() and len(text) < 10 and int(text) >= 1):
            raise Failure(Code.BAD_REQUEST, f"limit: use a whole number from 1 to {LANES}", status=422)
        return _json(await self.snapshots.lanes(min(int(text), LANES), request.query.get("search", "")[:_WORD]))


def _json(value: dict[str, object], status: int = 200) -> web.Response:
    response = web.Response(status=status, body=gojson.dumps(value) + b"\n", headers={hdrs.CACHE_CONTROL: "no-store"})
    response.headers[hdrs.CONTENT_TYPE] = "application/json; charset=utf-8"
    return response
