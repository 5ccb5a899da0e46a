"""The HTTP face of a fake Ollama: from a request's head to its route, with gin's own answers where there is none.

FakeOllama owns me and hands in what the routes work on. I record each request as it came, answer CORS, Host, 404, 405
and redirects, and turn refusals into the error shape of the path.
"""

from __future__ import annotations

import asyncio
import posixpath
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

from aiohttp import web

from .answering import refusal
from .asks import RefusalError
from .ledger import Ledger, Seen
from .origins import PREFLIGHT, host_allowed, is_address, origin_allowed, same_origin
from .reply import Reply

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable


@dataclass(slots=True)
class Call:
    """One request on its way through a route."""

    request: web.BaseRequest
    seen: Seen
    reply: Reply
    path: str
    """Without query."""

    @property
    def body(self) -> bytes:
        """As it came."""
        return self.seen.body


if TYPE_CHECKING:
    Handler = Callable[[Call], Awaitable[web.StreamResponse]]

CONTROL: Final = "/_fake/"


@dataclass(slots=True)
class Server:
    """Routes and the rules around them."""

    ledger: Ledger
    routes: dict[str, dict[str, Handler]] = field(default_factory=dict)
    """Path → method → handler, methods in the order in which Allow lists them; a path ending in `/*` takes one more part."""
    origins: tuple[str, ...] = ()
    """Browser origins that are let in."""
    gin: bool = True
    """Behave as Ollama around the routes: CORS, Host, redirects. Else a plain HTTP server."""
    token: str | None = None
    """The bearer that is asked for."""

    def app(self) -> web.Application:
        """The aiohttp application: one catch-all route, no limit on bodies."""
        app = web.Application(client_max_size=0)
        app.router.add_route("*", "/{path:.*}", self.handle, expect_handler=self._expect)
        app.on_response_prepare.append(_no_server_header)
        return app

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Answer one request; a caller that leaves cancels this."""
        path = request.raw_path.partition("?")[0]
        seen = Seen(0, asyncio.get_running_loop().time(), request.method, request.raw_path, list(request.raw_headers))
        if not path.startswith(CONTROL):
            self.ledger.saw(seen)
        try:
            response = await self._answer(request, seen, path)
        except asyncio.CancelledError:
            if seen.phase != "cut" and not path.startswith(CONTROL):
                self.ledger.left(seen)
            raise
        except (ConnectionError, RuntimeError):
            if request.transport is not None and not request.transport.is_closing():
                raise
            self.ledger.left(seen)
            raise ConnectionResetError from None
        seen.status = response.status
        if seen.phase != "cut":
            self.ledger.phase(seen, "done")
        return response

    async def _answer(self, request: web.Request, seen: Seen, path: str) -> web.StreamResponse:
        handlers = self.find(path)
        if self.gin and handlers is None and (elsewhere := self._redirect(request.method, path)) is not None:
            return elsewhere
        headers: dict[str, str] = {}
        if self.gin and (stopped := self._cors(request, handlers, headers)) is not None:
            return stopped
        if self.token is not None and request.headers.get("Authorization") != f"Bearer {self.token}":
            return web.Response(
                status=401, headers={"Content-Type": "application/json"}, body=b'{"error":"unauthorized"}'
            )
        if handlers is None:
            plain = {**headers, "Content-Type": "text/plain"}
            response = web.Response(status=404, headers=plain, body=b"404 page not found")
            if "Expect" in request.headers:  # the body that waits for a 100 is never read
                response.force_close()
            return response
        handler = handlers.get(request.method)
        if handler is None:
            headers |= {"Allow": ", ".join(handlers), "Content-Type": "text/plain"}
            return web.Response(status=405, headers=headers, body=b"405 method not allowed")
        body = await request.read()
        if path.startswith(CONTROL):
            seen.body = body
        else:
            self.ledger.keep(seen, body)
        reply = Reply(request, seen, self.ledger, headers)
        try:
            return await handler(Call(request, seen, reply, path))
        except RefusalError as error:
            content_type, body, chunked = refusal(path, error)
            if reply.fault is not None and reply.fault.retry_after is not None:
                headers["Retry-After"] = reply.fault.retry_after
            reply.fault = None
            return await reply.whole(error.status, content_type, body, chunked=chunked)

    def find(self, path: str) -> dict[str, Handler] | None:
        """The handlers of a path."""
        if path in self.routes:
            return self.routes[path]
        head, _, last = path.rpartition("/")
        return self.routes.get(f"{head}/*") if last else None

    def _redirect(self, method: str, path: str) -> web.Response | None:
        """Go's mux cleans paths, gin takes off a trailing slash."""
        clean = posixpath.normpath(path).replace("//", "/") if path.startswith("/") else path
        if clean != path.rstrip("/") and self.find(clean) is not None:
            return _moved(method, clean, HTTPStatus.TEMPORARY_REDIRECT)
        bare = path.rstrip("/")
        if path.endswith("/") and self.find(bare) is not None:
            status = HTTPStatus.MOVED_PERMANENTLY if method == "GET" else HTTPStatus.TEMPORARY_REDIRECT
            return _moved(method, bare, status)
        return None

    def _cors(
        self, request: web.Request, handlers: dict[str, Handler] | None, headers: dict[str, str]
    ) -> web.Response | None:
        """The answer that CORS or the Host check gives in place of the route, or the headers they add to its answer."""
        host = request.headers.get("Host")
        if host is None:
            words = b"400 Bad Request: missing required Host header"
            plain = {"Content-Type": "text/plain; charset=utf-8", "Connection": "close"}
            return web.Response(status=400, reason="Bad Request", headers=plain, body=words)
        allow = {"Allow": ", ".join(handlers)} if handlers is not None and request.method not in handlers else {}
        origin = request.headers.get("Origin")
        if origin is not None and not same_origin(origin, host):
            if not origin_allowed(origin, self.origins):
                return web.Response(status=403, headers=allow)
            told = origin if "*" not in self.origins else "*"
            if request.method == "OPTIONS":
                response = web.Response(status=204, headers={**allow, "Access-Control-Allow-Origin": told})
                for name, value in PREFLIGHT:
                    response.headers.add(name, value)
                return response
            headers |= {"Access-Control-Allow-Origin": told, "Vary": "Origin"}
        if not host_allowed(host):
            return web.Response(status=403, headers=headers)
        if request.method == "OPTIONS" and not is_address(host):
            return web.Response(status=204, headers=allow)
        return None

    async def _expect(self, request: web.Request) -> None:
        """Go sends 100 when a handler reads the body, so not where there is no route."""
        handlers = self.find(request.path)
        if handlers is not None and request.method in handlers and request.transport is not None:
            request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")


async def _no_server_header(_request: web.Request, response: web.StreamResponse) -> None:
    response.headers.pop("Server", None)


def _moved(method: str, where: str, status: HTTPStatus) -> web.Response:
    if method not in {"GET", "HEAD"}:
        return web.Response(status=status, headers={"Location": where})
    body = f'<a href="{where}">{status.phrase}</a>.\n\n'.encode()
    return web.Response(
        status=status, headers={"Location": where, "Content-Type": "text/html; charset=utf-8"}, body=body
    )
