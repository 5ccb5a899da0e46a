"""Ollama's paths: inference and embeddings as jobs, the inventory from what the probes published.

The app adds my routes. I turn each request into a ticket and hand it to web/calls/call.py, or answer it from web/pool/inventory.py;
gigabytes (`/api/blobs`) I refuse with the target's own address.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from aiohttp import hdrs, web

from foreman.core.errors import Code, Failure
from foreman.protocols import gojson, paths
from foreman.web.pool import inventory

if TYPE_CHECKING:
    from foreman.web.calls.call import Calls
    from foreman.web.calls.intake import Intake

_JSON: Final = "application/json; charset=utf-8"


@dataclass(frozen=True, slots=True)
class OllamaAPI:
    """The handlers of one gateway."""

    calls: Calls
    intake: Intake

    def add_routes(self, router: web.UrlDispatcher) -> None:
        """Put all paths on the router."""
        for path in (*paths.OLLAMA, paths.SHOW):
            router.add_post(path, self.queued)
        for path, method in paths.MANAGEMENT.items():
            router.add_route(method, path, self.managed)
        for method in ("HEAD", "POST"):
            router.add_route(method, "/api/blobs/{digest}", self.blobs)
        router.add_get("/", self.root)
        router.add_get("/api/version", self.version)
        router.add_get("/api/tags", self.tags)
        router.add_get("/api/ps", self.ps, allow_head=False)

    async def queued(self, request: web.Request) -> web.StreamResponse:
        """Inference, embeddings, show."""
        return await self.calls.carry(request, await self.intake.inference(request))

    async def managed(self, request: web.Request) -> web.StreamResponse:
        """What changes a target's models."""
        return await self.calls.carry(request, await self.intake.management(request))

    async def blobs(self, _request: web.Request) -> web.StreamResponse:
        """Never through a queue."""
        raise Failure(
            Code.FORBIDDEN,
            f"model files don't go through the queue: push them to the target itself at {self.intake.addresses()}",
        )

    async def root(self, request: web.Request) -> web.StreamResponse:
        """Ollama's heartbeat; a browser is sent to the page."""
        if "text/html" in request.headers.get(hdrs.ACCEPT, "") and request.method == "GET":
            return web.Response(
                status=307, headers={hdrs.LOCATION: "/ui", hdrs.CONTENT_LENGTH: "0", hdrs.VARY: "Accept"}
            )
        return web.Response(text="Ollama is running")

    async def version(self, _request: web.Request) -> web.StreamResponse:
        """The lowest version of all Ollama targets."""
        return _json({"version": inventory.version(await self.intake.inventory.fresh())})

    async def tags(self, _request: web.Request) -> web.StreamResponse:
        """All models of all targets."""
        return _json({"models": inventory.tags(await self.intake.inventory.fresh())})

    async def ps(self, _request: web.Request) -> web.StreamResponse:
        """What is loaded now."""
        return _json({"models": inventory.loaded(await self.intake.inventory.fresh(0.0))})


def _json(value: dict[str, Any]) -> web.Response:
    return web.Response(body=gojson.dumps(value), headers={hdrs.CONTENT_TYPE: _JSON})
