"""The page's door: its views, its files, and the form that takes a token once.

The app adds my routes. Reading says what a view shows; I wrap it, serve the scripts and the style sheet that lie
beside me, and answer those who may not look with the form. I change nothing.
"""

from __future__ import annotations

import hashlib
from base64 import b64encode
from dataclasses import dataclass
from importlib import resources
from typing import TYPE_CHECKING, Final

from aiohttp import hdrs, web

from foreman.core.errors import Failure
from foreman.web import auth
from foreman.web.body import read_body
from foreman.web.dashboard import page
from foreman.web.dashboard.markup import PATH
from foreman.web.middleware import CALLER

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from foreman.web.dashboard.reading import Reading
    from foreman.web.middleware import Handler

    View = Callable[[web.Request, page.Frame], Awaitable[str]]

CLIENT: Final = "foreman-client.js"
"""What other pages may load too."""
_FORM_LIMIT: Final = 16 * 1024
_COOKIE_LIFE: Final = 30 * 24 * 3600
_TYPES: Final = {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
_POLICY: Final = "form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
_PAGE_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; " + _POLICY
)


@dataclass(frozen=True, slots=True)
class File:
    """A file of the page, as it is served."""

    body: bytes
    content_type: str
    etag: str


def _files() -> dict[str, File]:
    found = {}
    for entry in resources.files(__package__).iterdir():
        content_type = _TYPES.get(f".{entry.name.rpartition('.')[2]}")
        if content_type is not None:
            body = entry.read_bytes()
            found[entry.name] = File(body, content_type, hashlib.sha256(body).hexdigest()[:32])
    return found


FILES: Final = _files()
"""By name: everything that a browser loads beside the page itself."""
STAMP: Final = hashlib.sha256(" ".join(f"{name}:{FILES[name].etag}" for name in sorted(FILES)).encode()).hexdigest()[
    :12
]
"""Of all files together; it stands in their path, so that a page never mixes the scripts of two versions."""


@dataclass(frozen=True, slots=True)
class Site:
    """The page of one gateway."""

    reading: Reading
    keeper: auth.Gatekeeper

    def add_routes(self, router: web.UrlDispatcher) -> None:
        """Put all paths on the router."""
        reading = self.reading
        router.add_get(PATH, self._view("", reading.overview))
        router.add_post(PATH, self.sign_in)
        router.add_get(f"{PATH}/timeline", self.timeline)
        router.add_get(f"{PATH}/jobs", self._view("jobs", reading.listed))
        router.add_get(f"{PATH}/jobs/{{job_id}}", self._view("jobs", reading.job))
        router.add_get(f"{PATH}/jobs/{{job_id}}/curl", self.curl)
        router.add_get(f"{PATH}/failures", self._view("failures", reading.failures))
        router.add_get(f"{PATH}/webhooks", self._view("webhooks", reading.webhooks))
        router.add_get(f"{PATH}/playground", self._view("playground", reading.playground))
        router.add_get(f"{PATH}/health", self._view("health", reading.health))
        router.add_get(f"{PATH}/audit", self._view("audit", reading.audit))
        router.add_get(f"{PATH}/static/{{stamp}}/{{name}}", self.file)
        router.add_get(f"{PATH}/{CLIENT}", self.client)

    def _view(self, name: str, make: View) -> Handler:
        """A view's handler: what went wrong is told in the page, with its status."""

        async def handler(request: web.Request) -> web.StreamResponse:
            caller = request[CALLER]
            frame = page.Frame(STAMP, caller.role.value, caller.name, closed=self.keeper.closed)
            try:
                return html(await make(request, frame))
            except Failure as failure:
                response = html(page.trouble(frame, name, failure.message), failure.status)
                response.headers["X-Foreman-Error"] = failure.code
                return response

        return handler

    async def timeline(self, request: web.Request) -> web.StreamResponse:
        """A piece of the overview, fetched by its script."""
        return html(await self.reading.timeline(request))

    async def curl(self, request: web.Request) -> web.StreamResponse:
        """A job's call as a line for a shell: fetched by the script when somebody asks for it."""
        text = await self.reading.curl(request, token=self.keeper.closed)
        return web.Response(text=text, headers={hdrs.CACHE_CONTROL: "no-store", "X-Content-Type-Options": "nosniff"})

    async def client(self, request: web.Request) -> web.StreamResponse:
        """The client for programs in browsers, under a name that stays."""
        return self._file(request, FILES.get(CLIENT), "no-cache")

    async def file(self, request: web.Request) -> web.StreamResponse:
        """A script or the style sheet. Under our own stamp it never changes."""
        ours = request.match_info["stamp"] == STAMP
        kept = "private, max-age=31536000, immutable" if ours else "no-cache"
        return self._file(request, FILES.get(request.match_info["name"]), kept)

    @staticmethod
    def _file(request: web.Request, found: File | None, kept: str) -> web.StreamResponse:
        if found is None:
            raise web.HTTPNotFound
        headers = {hdrs.ETAG: f'"{found.etag}"', hdrs.CACHE_CONTROL: kept, "X-Content-Type-Options": "nosniff"}
        if any(tag.value in {found.etag, "*"} for tag in request.if_none_match or ()):
            return web.Response(status=304, headers=headers)
        return web.Response(body=found.body, content_type=found.content_type, charset="utf-8", headers=headers)

    async def sign_in(self, request: web.Request) -> web.StreamResponse:
        """Take the page's token into a cookie that no script can read, or give it up."""
        body = await read_body(request, _FORM_LIMIT)
        if page.leaves(body):
            response = _to_page()
            response.del_cookie(auth.COOKIE)
            return response
        token = page.token_of(body)
        if token is None or not self.keeper.closed or self.keeper.who(token) is None:
            return form(page.sign_in("This token is not known here."), 401)
        response = _to_page()
        response.set_cookie(
            auth.COOKIE,
            auth.to_cookie(token),
            max_age=_COOKIE_LIFE,
            httponly=True,
            samesite="Strict",
            secure=request.secure,
        )
        return response


def html(text: str, status: int = 200) -> web.Response:
    """A view: nothing but our own files is loaded, no script stands in it."""
    return _document(text, status, _PAGE_POLICY)


def form(text: str, status: int) -> web.Response:
    """The form: its one style sheet stands in it and is allowed by its hash, since files want a token too."""
    style = b64encode(hashlib.sha256(page.STYLE.encode()).digest()).decode()
    return _document(text, status, f"default-src 'none'; style-src 'sha256-{style}'; img-src data:; {_POLICY}")


def sign_in_page(failure: Failure) -> web.Response:
    """What a browser gets on the page's paths without a token that may see it."""
    response = form(page.sign_in("" if failure.status == 401 else failure.message), failure.status)
    response.headers["X-Foreman-Error"] = failure.code
    return response


def _to_page() -> web.Response:
    return web.Response(status=303, headers={hdrs.LOCATION: PATH, hdrs.CONTENT_LENGTH: "0"})


def _document(text: str, status: int, policy: str) -> web.Response:
    return web.Response(
        status=status,
        text=text,
        content_type="text/html",
        headers={
            "Content-Security-Policy": policy,
            "X-Content-Type-Options": "nosniff",
            "Referrer-Policy": "same-origin",  # no-referrer would make the form's Origin `null`
            hdrs.CACHE_CONTROL: "no-store",
        },
    )
