"""The paths under `/v1`: OpenAI's and Anthropic's dialects of the same queue.

The app adds my routes. Bodies go to the target's own `/v1` as they came; I only take the ticket and answer `/v1/models`
from the inventory.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from aiohttp import hdrs, web

from foreman.core import lanes
from foreman.core.errors import Code, Failure
from foreman.protocols import gojson, paths
from foreman.web.pool import inventory

if TYPE_CHECKING:
    from foreman.web.calls.call import Calls
    from foreman.web.calls.intake import Intake


@dataclass(frozen=True, slots=True)
class OpenAIAPI:
    """The handlers of one gateway."""

    calls: Calls
    intake: Intake

    def add_routes(self, router: web.UrlDispatcher) -> None:
        """Put all paths on the router."""
        for path in paths.OPENAI:
            router.add_post(path, self.queued)
        router.add_get("/v1/models", self.models, allow_head=False)
        router.add_get("/v1/models/{id:.*[^/]}", self.model, allow_head=False)

    async def queued(self, request: web.Request) -> web.StreamResponse:
        """Inference and embeddings."""
        return await self.calls.carry(request, await self.intake.inference(request))

    async def models(self, _request: web.Request) -> web.StreamResponse:
        """All models of all targets; `null` where there are none, as Ollama does."""
        listed = [inventory.v1_model(entry) for entry in inventory.tags(await self.intake.inventory.fresh())]
        return _json({"object": "list", "data": listed or None})

    async def model(self, request: web.Request) -> web.StreamResponse:
        """One model, under the name it was asked by; one that nobody has is looked for first."""
        wanted = request.match_info["id"]
        canonical = lanes.canonical(wanted)
        await self.intake.inventory.find(wanted, hurry=True)
        for entry in inventory.tags(await self.intake.inventory.fresh()):
            if lanes.canonical(str(entry.get("name") or entry.get("model"))) == canonical:
                return _json(inventory.v1_model(entry, wanted))
        raise Failure(Code.MODEL_NOT_FOUND, f"model '{wanted}' not found")


def _json(value: dict[str, Any]) -> web.Response:
    return web.Response(body=gojson.dumps(value) + b"\n", headers={hdrs.CONTENT_TYPE: "application/json"})
