"""The routes of a fake Ollama: which path asks what of whom.

FakeOllama builds me over its parts and gives my table to the server. One method a route, a few lines each.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from foreman.protocols.gojson import dumps

from . import asks, compat, compat_events
from .asks import RefusalError, read_native
from .dialect_events import Messages, Responses
from .dialects import JSON_BARE, JSON_UTF8, Dialect, NativeChat, NativeGenerate, OpenAIChat, OpenAICompletion

if TYPE_CHECKING:
    from aiohttp import web

    from .answering import Answering
    from .catalogue import Catalogue
    from .server import Call, Handler
    from .structs import Struct


@dataclass(slots=True)
class Routes:
    """What the routes work on."""

    answering: Answering
    catalogue: Catalogue
    version: str

    def native(self) -> dict[str, dict[str, Handler]]:
        """/ and /api."""
        looks = {"/": self.root, "/api/version": self.tell_version, "/api/tags": self.tags}
        posts = {
            "/api/chat": self.chat,
            "/api/generate": self.generate,
            "/api/embed": self.embed,
            "/api/embeddings": self.embeddings,
            "/api/show": self.show,
        }
        table: dict[str, dict[str, Handler]] = {path: {"HEAD": look, "GET": look} for path, look in looks.items()}
        table |= {path: {"POST": post} for path, post in posts.items()}
        table |= {"/api/ps": {"GET": self.ps}, "/api/status": {"GET": self.status}}
        return table

    def openai(self) -> dict[str, dict[str, Handler]]:
        """/v1."""
        return {
            "/v1/models": {"GET": self.v1_models},
            "/v1/models/*": {"GET": self.v1_model},
            "/v1/chat/completions": {"POST": self.v1_chat},
            "/v1/completions": {"POST": self.v1_completions},
            "/v1/embeddings": {"POST": self.v1_embeddings},
            "/v1/responses": {"POST": self.v1_responses},
            "/v1/messages": {"POST": self.v1_messages},
        }

    # ------------------------------------------------------------------------------------------- looking

    async def root(self, call: Call) -> web.StreamResponse:
        """The heartbeat of Go's client."""
        return await call.reply.whole(200, "text/plain; charset=utf-8", b"Ollama is running")

    async def tell_version(self, call: Call) -> web.StreamResponse:
        """Which Ollama it plays."""
        return await call.reply.whole(200, JSON_UTF8, dumps({"version": self.version}))

    async def tags(self, call: Call) -> web.StreamResponse:
        """All models."""
        return await call.reply.whole(200, JSON_UTF8, dumps({"models": [model.tag() for model in self.catalogue]}))

    async def ps(self, call: Call) -> web.StreamResponse:
        """The residents."""
        return await call.reply.whole(200, JSON_UTF8, dumps({"models": self.answering.engine.ps()}))

    async def status(self, call: Call) -> web.StreamResponse:
        """Whether cloud models may be used: no."""
        return await call.reply.whole(200, JSON_UTF8, dumps({"cloud": {"disabled": True, "source": "env"}}))

    async def show(self, call: Call) -> web.StreamResponse:
        """All about one model."""
        request = read_native(call.body, asks.SHOW)
        name = request.get("model") or request.get("name") or ""
        model = asks.find(self.catalogue, name)
        return await call.reply.whole(200, JSON_UTF8, dumps(model.show(name)))

    # ------------------------------------------------------------------------------------------- native inference

    async def chat(self, call: Call) -> web.StreamResponse:
        """A conversation."""
        request = self._native(call, asks.CHAT)
        ask = asks.chat(request, self.catalogue)
        return await self.answering.infer(call.reply, call.seen, ask, self._dialect(NativeChat, ask, request))

    async def generate(self, call: Call) -> web.StreamResponse:
        """A prompt."""
        request = self._native(call, asks.GENERATE)
        ask = asks.generate(request, self.catalogue)
        return await self.answering.infer(call.reply, call.seen, ask, self._dialect(NativeGenerate, ask, request))

    async def embed(self, call: Call) -> web.StreamResponse:
        """Vectors."""
        ask = asks.embed(self._native(call, asks.EMBED), self.catalogue)
        return await self.answering.embed(call.reply, call.seen, ask, "embed", {})

    async def embeddings(self, call: Call) -> web.StreamResponse:
        """One vector, the older way."""
        ask = asks.embeddings(self._native(call, asks.EMBEDDINGS), self.catalogue)
        return await self.answering.embed(call.reply, call.seen, ask, "embeddings", {})

    # ------------------------------------------------------------------------------------------- /v1

    async def v1_models(self, call: Call) -> web.StreamResponse:
        """All models; null where there are none."""
        data = [model.openai() for model in self.catalogue] or None
        return await call.reply.whole(200, JSON_BARE, dumps({"object": "list", "data": data}) + b"\n")

    async def v1_model(self, call: Call) -> web.StreamResponse:
        """One model."""
        name = call.path.rpartition("/")[2]
        model = asks.find(self.catalogue, name)
        return await call.reply.whole(200, JSON_BARE, dumps({**model.openai(), "id": name}) + b"\n")

    async def v1_chat(self, call: Call) -> web.StreamResponse:
        """A conversation, OpenAI's way."""
        request = self._v1(call, compat.CHAT)
        ask = asks.chat(compat.chat(request), self.catalogue)
        return await self.answering.infer(call.reply, call.seen, ask, self._dialect(OpenAIChat, ask, request))

    async def v1_completions(self, call: Call) -> web.StreamResponse:
        """A prompt, OpenAI's way."""
        request = self._v1(call, compat.COMPLETION)
        ask = asks.generate(compat.completion(request), self.catalogue)
        if ask.empty:
            raise RefusalError(400, "a prompt is required")
        return await self.answering.infer(call.reply, call.seen, ask, self._dialect(OpenAICompletion, ask, request))

    async def v1_responses(self, call: Call) -> web.StreamResponse:
        """A conversation in OpenAI's newer way."""
        request = self._v1(call, compat_events.RESPONSES)
        ask = asks.chat(compat_events.responses(request), self.catalogue)
        return await self.answering.infer(call.reply, call.seen, ask, self._dialect(Responses, ask, request))

    async def v1_messages(self, call: Call) -> web.StreamResponse:
        """A conversation, Anthropic's way."""
        request = self._v1(call, compat_events.MESSAGES)
        ask = asks.chat(compat_events.messages(request), self.catalogue)
        return await self.answering.infer(call.reply, call.seen, ask, self._dialect(Messages, ask, request))

    async def v1_embeddings(self, call: Call) -> web.StreamResponse:
        """Vectors, OpenAI's way."""
        request = self._v1(call, compat.EMBEDDINGS)
        ask = asks.embed(compat.embeddings(request), self.catalogue)
        if ask.empty:
            raise RefusalError(500, "Failed to create new sequence: no input provided")
        return await self.answering.embed(call.reply, call.seen, ask, "openai", request)

    # ------------------------------------------------------------------------------------------- shared

    def _native(self, call: Call, shape: Struct) -> dict[str, Any]:
        request = read_native(call.body, shape)
        call.seen.model = request.get("model", "")
        return request

    def _v1(self, call: Call, shape: Struct) -> dict[str, Any]:
        request = compat.read_v1(call.body, shape)
        call.seen.model = request.get("model", "")
        return request

    def _dialect(self, kind: type[Dialect], ask: asks.Ask, request: dict[str, Any]) -> Dialect:
        return kind(ask, request, repeatable=self.answering.repeatable)
