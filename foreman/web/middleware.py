"""What every request passes before an API sees it: host, origin, token, path; and what every failure looks like.

aiohttp calls me around each handler. I turn failures into the words of the path's dialect, unknown paths and methods into
Ollama's, and refuse hosts, origins and callers that are not let in. I read no body and know no job.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Final

import structlog
from aiohttp import HttpVersion11, hdrs, web

from foreman.core.errors import Code, Failure
from foreman.protocols import words
from foreman.web import auth
from foreman.web.body import EXPECTS
from foreman.web.cors import Origins, host_is_local, host_name, same_origin
from foreman.web.dialect import Dialect
from foreman.web.sent import Sent

if TYPE_CHECKING:
    from collections.abc import Iterable

    from foreman.settings import Settings

log = structlog.get_logger(__name__)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

CALLER: Final = web.RequestKey("caller", auth.Caller)
"""Who sent the request; set before any handler runs."""
CORS_HEADERS: Final[web.RequestKey[tuple[tuple[str, str], ...]]] = web.RequestKey("cors_headers", tuple)
"""What an answer to a page of another origin must carry; answers written past aiohttp add it themselves."""

PAGE_HEADER: Final = "X-Foreman-Page"
"""What the page's script sends with everything, so that its cookie counts beyond the page and `/ops`."""
NO_HOST: Final = b"400 Bad Request: missing required Host header"
_PLAIN: Final = "text/plain"
_CONTINUE: Final = "100-continue"
_SHORT: Final = 64 * 1024
"""Bytes of an unread body that are waited for, so that the connection can be kept."""
_LOGGED: Final = 200
"""Characters of a path in a log line."""
_READER_PATHS: Final = ("/ops", "/metrics", "/ui", "/jobs", "/openapi.json")
_OWN_PATHS: Final = ("/jobs", "/deliveries", "/ops")
"""Paths that are foreman's own: errors are its JSON, and no page of another program may change anything there."""
_LOOKING: Final = frozenset({"GET", "HEAD", "OPTIONS"})
_SLASHES: Final = re.compile(r"/{2,}")


class Gate:
    """The checks of one gateway."""

    def __init__(
        self, settings: Settings, keeper: auth.Gatekeeper, page: str, sign_in: Callable[[Failure], web.Response]
    ) -> None:
        """`page` is the path that answers a missing token with `sign_in`, a form."""
        self._origins = Origins(settings.origins)
        self._keeper = keeper
        self._page = page
        self._sign_in = sign_in
        self._guard_host = settings.loopback and not settings.guarded

    @web.middleware
    async def middleware(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Let a request in, or answer it."""
        origin = request.headers.get(hdrs.ORIGIN) or None  # an empty one is none, as gin-contrib/cors has it
        host = request.headers.get(hdrs.HOST)
        if host is None and request.version >= HttpVersion11:
            return plain(400, NO_HOST, close=True)
        if request.get(EXPECTS, _CONTINUE) != _CONTINUE:
            return plain(417, b"", close=True)
        if self._guard_host and not (host_is_local(host) or self._origins.names_host(host_name(host or ""))):
            return _foreign(request, "this gateway knows no such Host: call it by its own name, or set a token")
        if origin is not None and not self._origins.allows(origin, host):
            return _foreign(request, "pages of this origin may not call: add it to FOREMAN_ORIGINS")
        changes = _is_own(request) and request.method not in _LOOKING
        if origin is not None and changes and not self._origins.trusts(origin, host):
            return _foreign(request, "pages of this origin may not change anything here: add it to FOREMAN_ORIGINS")
        if origin is not None and request.method == "OPTIONS" and not same_origin(origin, host):
            return self._preflight(request, origin)
        cors = () if origin is None else self._origins.headers(origin, host)
        request[CORS_HEADERS] = cors
        response = await self._answer(request, handler)
        if not isinstance(response, Sent):
            _add(response, cors)
        return response

    async def _answer(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            request[CALLER] = self._admit(request)
            return await handler(request)
        except Failure as failure:
            if (request.path + "/").startswith(f"{self._page}/") and failure.code in {
                Code.UNAUTHORIZED,
                Code.FORBIDDEN,
            }:
                return self._sign_in(failure)
            return refusal(request, failure)
        except web.HTTPMethodNotAllowed as error:
            return moved(request) or _wrong_method(request, allow(error))
        except web.HTTPNotFound:
            return moved(request) or _unknown_path(request)

    def _admit(self, request: web.Request) -> auth.Caller:
        shown = auth.bearer(request.headers.get(hdrs.AUTHORIZATION))
        if shown is None and request.path.startswith("/v1/"):
            shown = request.headers.get("X-Api-Key")  # how Anthropic's clients show theirs
        if shown is None and _takes_cookie(request):
            shown = auth.from_cookie(request.cookies.get(auth.COOKIE))
        caller = self._keeper.who(shown)
        if caller is None and _is_open(request):
            return auth.Caller(auth.Role.READER)
        if caller is None:
            raise Failure(
                Code.UNAUTHORIZED,
                "this gateway wants a token: send `Authorization: Bearer <token>` (FOREMAN_TOKEN)"
                if shown is None
                else "this token is not known here",
            )
        if caller.role is auth.Role.READER and not _is_open(request) and not _may_read(request):
            raise Failure(Code.FORBIDDEN, "this token may only look: /ops, /metrics, /ui and GET /jobs")
        return caller

    def _preflight(self, request: web.Request, origin: str) -> web.Response:
        response = web.Response(status=204)
        _add(response, self._origins.preflight(origin))
        refused = request.match_info.http_exception
        if isinstance(refused, web.HTTPMethodNotAllowed):
            response.headers["Allow"] = allow(refused)
        return response


def refusal(request: web.Request, failure: Failure) -> web.Response:
    """A failure as an answer in the words of the path's dialect."""
    dialect = Dialect(request.path)
    log.info("request.refused", code=failure.code, status=failure.status, path=request.rel_url.raw_path[:_LOGGED])
    body, content_type = dialect.error_body(failure)
    response = web.Response(status=failure.status, body=body)
    response.headers[hdrs.CONTENT_TYPE] = content_type
    _add(response, dialect.failure_headers(failure))
    if not request.content.is_eof() and not _is_short(request):
        response.force_close()  # the rest of the body is not worth reading
    return response


def _foreign(request: web.Request, message: str) -> web.Response:
    """What a page or a Host that isn't ours gets: our words on our own paths, elsewhere an empty 403, as Ollama has it."""
    if not _is_own(request) or request.method == "OPTIONS":
        said = {name.lower(): request.headers.get(name, "")[:_LOGGED] for name in (hdrs.HOST, hdrs.ORIGIN)}
        log.info("request.foreign", why=message, path=request.rel_url.raw_path[:_LOGGED], **said)
        return empty(403)
    return refusal(request, Failure(Code.FORBIDDEN, message))


def _wrong_method(request: web.Request, allowed: str) -> web.Response:
    if not _is_own(request):
        return plain(405, words.WRONG_METHOD, headers={hdrs.ALLOW: allowed})
    response = refusal(request, Failure(Code.BAD_REQUEST, f"this path takes {allowed}", status=405))
    response.headers[hdrs.ALLOW] = allowed
    return response


def _unknown_path(request: web.Request) -> web.Response:
    if not _is_own(request):
        return plain(404, words.UNKNOWN_PATH)
    return refusal(request, Failure(Code.BAD_REQUEST, "there is no such path; /openapi.json lists them", status=404))


def plain(status: int, text: bytes, *, headers: dict[str, str] | None = None, close: bool = False) -> web.Response:
    """A short text, its Content-Type without a charset as gin writes it."""
    response = web.Response(status=status, body=text, headers=headers)
    response.headers[hdrs.CONTENT_TYPE] = _PLAIN
    if close:
        response.force_close()
        response.headers[hdrs.CONNECTION] = "close"
    return response


def allow(error: web.HTTPMethodNotAllowed) -> str:
    """The Allow header, in gin's order."""
    return ", ".join(sorted(error.allowed_methods, key=lambda method: (method != "HEAD", method)))


def empty(status: int) -> web.Response:
    """No body and no Content-Type."""
    return web.Response(status=status, headers={hdrs.CONTENT_LENGTH: "0"})


def moved(request: web.Request) -> web.Response | None:
    """A redirect to the path as it is served: without a trailing or doubled slash, `.` and `..`. None where that isn't.

    A tidier path is Go's ServeMux's 307; a slash at the end is gin's, 301 for a GET.
    """
    asked = request.rel_url.raw_path
    path = posixpath.normpath(_SLASHES.sub("/", asked))
    if path == asked or not _is_served(request, path):
        return None
    query = request.rel_url.raw_query_string
    where = f"{path}?{query}" if query else path
    status = 301 if request.method == "GET" and asked == f"{path}/" else 307
    if request.method not in {"GET", "HEAD"}:
        return web.Response(status=status, headers={hdrs.LOCATION: where, hdrs.CONTENT_LENGTH: "0"})
    words = {301: "Moved Permanently", 307: "Temporary Redirect"}[status]
    href = where.replace("&", "&amp;").replace('"', "&#34;").replace("<", "&lt;").replace(">", "&gt;")
    return web.Response(
        status=status,
        text=f'<a href="{href}">{words}</a>.\n\n',
        content_type="text/html",
        headers={hdrs.LOCATION: where},
    )


async def tidy_headers(request: web.BaseRequest, response: web.StreamResponse) -> None:  # noqa: ARG001 - a signal's shape
    """Take off aiohttp's Server header: it says more than a stranger needs to know."""
    response.headers.popall(hdrs.SERVER, None)


def _is_short(request: web.Request) -> bool:
    """Whether an unread body is on its way and soon through, so that the connection can be kept."""
    length = request.content_length
    return length is not None and length <= _SHORT and EXPECTS not in request


def _is_open(request: web.Request) -> bool:
    return (request.method, request.path) in auth.OPEN


def _is_own(request: web.Request) -> bool:
    return any(request.path == path or request.path.startswith(f"{path}/") for path in _OWN_PATHS)


def _may_read(request: web.Request) -> bool:
    return request.method in {"GET", "HEAD"} and request.path.startswith(_READER_PATHS)


def _takes_cookie(request: web.Request) -> bool:
    """Whether the page's cookie counts: to look at the page and `/ops`, and for what the page's own script sends.

    The script says so by a header, which no form and no link of another page can set; a script of another origin
    would have to name its origin.
    """
    origin = request.headers.get(hdrs.ORIGIN)
    if origin and not same_origin(origin, request.headers.get(hdrs.HOST)):
        return False
    looks = request.method in _LOOKING and (request.path + "/").startswith(("/ui/", "/ops/"))
    return looks or PAGE_HEADER in request.headers


def _is_served(request: web.Request, path: str) -> bool:
    for resource in request.app.router.resources():
        info = resource.get_info()
        pattern = info.get("pattern")
        if info.get("path") == path or (pattern is not None and pattern.fullmatch(path)):
            return True
    return False


def _add(response: web.StreamResponse, headers: Iterable[tuple[str, str]]) -> None:
    for name, value in headers:
        response.headers.add(name, value)
