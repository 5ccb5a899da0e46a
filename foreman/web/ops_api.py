"""What operators and machines ask: is it alive, is it ready, what is queued, running, loaded and failing.

The app adds my routes. I read the store's records and the gateway's own state and change nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from aiohttp import hdrs, web

import foreman
from foreman.protocols import gojson
from foreman.web import snapshot

if TYPE_CHECKING:
    from collections.abc import Iterable

    from foreman.store.queue import Queue
    from foreman.web.call import Calls
    from foreman.web.inventory import Inventory


@dataclass(frozen=True, slots=True)
class OpsAPI:
    """The handlers of one gateway."""

    queue: Queue
    inventory: Inventory
    calls: Calls
    findings: Iterable[str] = ()
    """What was seen of the store that should be put right."""

    def add_routes(self, router: web.UrlDispatcher) -> None:
        """Put all paths on the router."""
        router.add_get("/healthz", self.healthz)
        router.add_get("/readyz", self.readyz)
        router.add_get("/ops/state", self.state)

    async def healthz(self, _request: web.Request) -> web.StreamResponse:
        """Always 200 while this process answers; `degraded` says whether all is well behind it."""
        reasons = await snapshot.reasons(self.queue, self.inventory, self.findings)
        return _json({"status": "ok", "degraded": bool(reasons), "reasons": reasons, "version": foreman.__version__})

    async def readyz(self, _request: web.Request) -> web.StreamResponse:
        """503 while new calls would be refused: the store is away, or this gateway is leaving."""
        if self.calls.leaving:
            return _json({"status": "leaving"}, 503)
        if not self.inventory.store_answers():
            return _json({"status": "store unavailable"}, 503)
        return _json({"status": "ready"})

    async def state(self, _request: web.Request) -> web.StreamResponse:
        """The whole pool at one moment."""
        return _json(await snapshot.state(self.queue, self.inventory))


def _json(value: dict[str, object], status: int = 200) -> web.Response:
    response = web.Response(status=status, body=gojson.dumps(value) + b"\n", headers={hdrs.CACHE_CONTROL: "no-store"})
    response.headers[hdrs.CONTENT_TYPE] = "application/json; charset=utf-8"
    return response
