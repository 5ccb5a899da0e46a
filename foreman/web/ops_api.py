"""What operators and machines ask: is it alive, is it ready, what is queued, running, loaded and failing.

The app adds my routes. I read the store's records and the gateway's own state and change nothing; the page's token is
the only thing I take.
"""

from __future__ import annotations

import hashlib
from base64 import b64encode
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from aiohttp import hdrs, web

import foreman
from foreman.core.jobs import State
from foreman.protocols import gojson
from foreman.store.errors import StoreUnavailableError
from foreman.web import auth, snapshot
from foreman.web.body import read_body
from foreman.web.dashboard import page

if TYPE_CHECKING:
    from collections.abc import Iterable

    from foreman.core.errors import Failure
    from foreman.core.jobs import Job
    from foreman.store.queue import Queue
    from foreman.web.call import Calls
    from foreman.web.inventory import Inventory

SHOWN_JOBS: Final = 50
SHOWN_FAILURES: Final = 10
_FORM_LIMIT: Final = 16 * 1024
_COOKIE_LIFE: Final = 30 * 24 * 3600


@dataclass(frozen=True, slots=True)
class OpsAPI:
    """The handlers of one gateway."""

    queue: Queue
    inventory: Inventory
    calls: Calls
    keeper: auth.Gatekeeper
    findings: Iterable[str] = ()
    """What was seen of the store that should be put right."""

    def add_routes(self, router: web.UrlDispatcher) -> None:
        """Put all paths on the router."""
        router.add_get("/healthz", self.healthz)
        router.add_get("/readyz", self.readyz)
        router.add_get("/ops/state", self.state)
        router.add_get(page.PATH, self.ui)
        router.add_post(page.PATH, self.sign_in)

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

    async def ui(self, request: web.Request) -> web.StreamResponse:
        """The page."""
        seen = await snapshot.state(self.queue, self.inventory)
        reasons = await snapshot.reasons(self.queue, self.inventory, self.findings)
        waiting: list[Job] = []
        failures: list[Job] = []
        try:
            waiting = await self.queue.recent(frozenset({State.QUEUED}), SHOWN_JOBS)
            failures = await self.queue.recent(frozenset({State.FAILED}), SHOWN_FAILURES)
        except StoreUnavailableError as error:
            reasons.append(error.message)
        return html(page.overview(seen, waiting, failures, reasons, refresh=request.query.get("refresh") != "off"))

    async def sign_in(self, request: web.Request) -> web.StreamResponse:
        """Take the page's token into a cookie that no script can read."""
        body = await read_body(request, _FORM_LIMIT)
        token = page.token_of(body)
        if token is None or not self.keeper.closed or self.keeper.who(token) is None:
            return html(page.sign_in("This token is not known here."), 401)
        response = web.Response(status=303, headers={hdrs.LOCATION: page.PATH, hdrs.CONTENT_LENGTH: "0"})
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
    """A page of ours: its one style sheet is allowed by its hash, nothing else is."""
    style = b64encode(hashlib.sha256(page.STYLE.encode()).digest()).decode()
    policy = (
        f"default-src 'none'; style-src 'sha256-{style}'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
    )
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


def sign_in_page(failure: Failure) -> web.Response:
    """What a browser gets on the page's path without a token that may see it."""
    response = html(page.sign_in("" if failure.status == 401 else failure.message), failure.status)
    response.headers["X-Foreman-Error"] = failure.code
    return response


def _json(value: dict[str, object], status: int = 200) -> web.Response:
    response = web.Response(status=status, body=gojson.dumps(value) + b"\n", headers={hdrs.CACHE_CONTROL: "no-store"})
    response.headers[hdrs.CONTENT_TYPE] = "application/json; charset=utf-8"
    return response
