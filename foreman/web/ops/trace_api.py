"""`GET /ops/trace`: the last hours of the pool as a trace for `foreman simulate`.

The app adds my route. I read which jobs ended and what the targets are, and have foreman.simulate make a trace of it:
times, lanes and lengths, no content.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from aiohttp import hdrs, web

from foreman.core.errors import Code, Failure
from foreman.simulate.export import PastTarget, past_trace
from foreman.simulate.trace import write
from foreman.web.auth import Role
from foreman.web.middleware import CALLER

if TYPE_CHECKING:
    from foreman.store.client import Store
    from foreman.web.pool.inventory import Inventory

PATH: Final = "/ops/trace"
HOURS: Final = 24
"""As long as ended jobs are told of."""


@dataclass(frozen=True, slots=True)
class TraceAPI:
    """The handler of one gateway."""

    store: Store
    inventory: Inventory

    def add_routes(self, router: web.UrlDispatcher) -> None:
        """Put the path on the router."""
        router.add_get(PATH, self.serve, allow_head=False)

    async def serve(self, request: web.Request) -> web.StreamResponse:
        """JSON lines. `hours`: how far back, a number up to 24; without it: all that is known."""
        if request[CALLER].role is Role.NAMED:
            raise Failure(Code.FORBIDDEN, "this token sees its own jobs: GET /jobs")
        text = request.query.get("hours", str(HOURS))
        try:
            hours = float(text)
        except ValueError:
            hours = 0.0
        if not 0 < hours <= HOURS:
            raise Failure(Code.BAD_REQUEST, f"hours: use a number above 0, at most {HOURS}", status=422)
        jobs = await self.store.past.jobs(time.time() - hours * 3600)
        targets = [
            PastTarget(status.name, status.slots, status.places, status.loads)
            for status in await self.inventory.fresh()
        ]
        lines = write(past_trace(f"{self.store.queue.keys.prefix.split(':')[1]}-{hours:g}h", jobs, targets))
        return web.Response(
            body="".join(f"{line}\n" for line in lines).encode(),
            headers={hdrs.CONTENT_TYPE: "application/x-ndjson", hdrs.CACHE_CONTROL: "no-store"},
        )
