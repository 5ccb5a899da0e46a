"""What operators and machines ask: is it alive, is it ready, what is queued, running, loaded and failing.

The app adds my routes. I read the store's records and the gateway's own state and change nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from aiohttp import web

if TYPE_CHECKING:
    from foreman.settings import Settings
    from foreman.store.queue import Queue
    from foreman.web.call import Calls
    from foreman.web.inventory import Inventory
    from foreman.web.middleware import Gate


@dataclass(frozen=True, slots=True)
class OpsAPI:
    """The handlers of one gateway."""

    settings: Settings
    queue: Queue
    inventory: Inventory
    calls: Calls
    gate: Gate

    def add_routes(self, router: web.UrlDispatcher) -> None:
        """Put all paths on the router."""
        router.add_get("/healthz", self.healthz)

    async def healthz(self, _request: web.Request) -> web.StreamResponse:
        """Whether the gateway can do its work."""
        return web.json_response({"status": "ok", "degraded": False})
