"""The page's door: its views, its files, and the form that takes a token once.

The app adds my routes. I ask web/snapshot.py and the store for what a view shows and hand it to page.py, serve the
scripts and the style sheet that lie beside me, and answer what may not look with the form. I change nothing.
"""

from __future__ import annotations

import hashlib
from base64 import b64encode
from dataclasses import dataclass
from importlib import resources
from typing import TYPE_CHECKING, Final

from aiohttp import hdrs, web

from foreman.core.jobs import State
from foreman.store.errors import StoreUnavailableError
from foreman.web import auth
from foreman.web.body import read_body
from foreman.web.dashboard import page
from foreman.web.dashboard.markup import PATH
from foreman.web.dashboard.overview import overview
from foreman.web.middleware import CALLER

if TYPE_CHECKING:
    from foreman.core.errors import Failure
    from foreman.core.jobs import Job
    from foreman.store.queue import Queue
    from foreman.web.snapshot import Snapshots

SHOWN_JOBS: Final = 50
SHOWN_FAILURES: Final = 10
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

    queue: Queue
    snapshots: Snapshots
    keeper: auth.Gatekeeper

    def add_routes(self, router: web.UrlDispatcher) -> None:
        """Put all paths on the router."""
        router.add_get(PATH, self.overview)
        router.add_post(PATH, self.sign_in)
        router.add_get(f"{PATH}/static/{{stamp}}/{{name}}", self.file)
        router.add_get(f"{PATH}/{{name:foreman-client\\.js}}", self.file)  # where other pages find it

    async def overview(self, request: web.Request) -> web.StreamResponse:
        """The page as it is at this moment."""
        seen = await self.snapshots.state()
        reasons = await self.snapshots.reasons()
        waiting: list[Job] = []
        failures: list[Job] = []
        try:
            waiting = await self.queue.recent(frozenset({State.QUEUED}), SHOWN_JOBS)
            failures = await self.queue.recent(frozenset({State.FAILED}), SHOWN_FAILURES)
        except StoreUnavailableError as error:
            reasons.append(error.message)
        return html(overview(self._frame(request), seen, waiting, failures, reasons))

    def _frame(self, request: web.Request) -> page.Frame:
        return page.Frame(STAMP, request[CALLER].role.value, request[CALLER].name, closed=self.keeper.closed)

    async def file(self, request: web.Request) -> web.StreamResponse:
        """A script or the style sheet. Under our own stamp it never changes."""
        found = FILES.get(request.match_info["name"])
        if found is None:
            raise web.HTTPNotFound
        ours = request.match_info.get("stamp") == STAMP
        headers = {
            hdrs.ETAG: f'"{found.etag}"',
            hdrs.CACHE_CONTROL: "private, max-age=31536000, immutable" if ours else "no-cache",
            "X-Content-Type-Options": "nosniff",
        }
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
            "Referrer-Policy": "no-referrer",
            hdrs.CACHE_CONTROL: "no-store",
        },
    )
