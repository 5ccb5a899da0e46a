"""The gateway: one HTTP port for callers, its place in the store, and the loops that keep both honest.

`foreman serve` starts and stops me. I put the parts of this package together, announce this gateway, take the store's
notices and run recover; what a request means is the APIs' business.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from typing import TYPE_CHECKING, Any, Final

import structlog
from aiohttp import web

import foreman
from foreman.core.errors import Code, Failure
from foreman.core.fairness import Policy
from foreman.core.ids import UlidFactory
from foreman.link.address import LinkTLS
from foreman.link.server import LinkServer
from foreman.metrics import Own
from foreman.store.errors import StoreUnavailableError
from foreman.store.lease import LeaseKeeper
from foreman.store.pulse import Pulse
from foreman.store.records import GatewayPresence
from foreman.store.roster import RECOVER
from foreman.tasks import Tasks
from foreman.web import openapi
from foreman.web.auth import Gatekeeper
from foreman.web.body import expect_later
from foreman.web.calls.call import Calls
from foreman.web.calls.intake import Intake
from foreman.web.calls.ollama_api import OllamaAPI
from foreman.web.calls.openai_api import OpenAIAPI
from foreman.web.calls.readers import Readers
from foreman.web.calls.resume_api import ResumeAPI
from foreman.web.calls.waiting import Waiting
from foreman.web.connection import FIELD_LIMIT, CallerConnection
from foreman.web.dashboard.markup import PATH
from foreman.web.dashboard.reading import Reading
from foreman.web.dashboard.site import Site, sign_in_page
from foreman.web.jobs.ends import Ends
from foreman.web.jobs.jobs_api import JobsAPI
from foreman.web.jobs.receivers import Receivers
from foreman.web.jobs.submission import Submission
from foreman.web.middleware import Gate, tidy_headers
from foreman.web.ops.feed import Feed
from foreman.web.ops.history_api import HistoryAPI
from foreman.web.ops.metrics_api import MetricsAPI
from foreman.web.ops.operators_api import OperatorsAPI
from foreman.web.ops.ops_api import OpsAPI
from foreman.web.ops.snapshot import Snapshots
from foreman.web.ops.trace_api import TraceAPI
from foreman.web.pool.admission import Admission
from foreman.web.pool.bounds import Bounds
from foreman.web.pool.inventory import Inventory
from foreman.web.pool.outlook import Outlooks

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from foreman.link.local import LocalLink
    from foreman.settings import Settings
    from foreman.store.client import Store
    from foreman.store.inbox import Inbox
    from foreman.store.records import Notice

log = structlog.get_logger(__name__)

ANNOUNCE: Final = 1.0
LAPSE: Final = 3.0
"""Seconds between two announcements after which others may have taken this gateway for dead."""
KEEP_ALIVE: Final = 3600.0
"""Seconds an idle connection of a caller is kept: longer than any proxy's."""
LINGER: Final = 2.0
"""Seconds a refused body is still read, so that its sender gets to see the refusal."""
_LAST_WORDS: Final = 1.0
"""Seconds for the answers that a stop cuts short to leave."""


class Gateway:
    """One gateway. `start`, then `url`; `stop` once."""

    def __init__(self, settings: Settings, store: Store, gateway_id: str, local: LocalLink | None = None) -> None:
        self.settings = settings
        self.id = gateway_id
        self.url = ""
        """`http://host:port` once started."""
        self._store = store
        self._local = local
        self._links: LinkServer | None = None
        self._link_address = ""
        self._since = time.time()
        self._announced_at = 0.0
        self._tasks = Tasks("gateway")
        self._new_id = UlidFactory(lambda: time.time_ns() // 1_000_000, secrets.randbits)
        self.inventory = Inventory(store.queue)
        self.waiting = Waiting(store.queue, self.inventory, self._tasks, down_wait=settings.down_wait)
        readers = Readers(store, gateway_id, self.waiting, self._new_id, self._tasks, window=settings.spool_bytes)
        policy = Policy(swap_budget=settings.swap_budget)
        self.outlooks = Outlooks(store.queue, self.inventory, self.waiting, policy)
        self.waiting.place = self.outlooks.place
        self.admission = Admission(store.queue, self.outlooks)
        common = self.inventory, self.waiting, self._new_id, self._tasks, readers, self.admission
        self.calls = Calls(settings, store.queue, gateway_id, *common)
        self.ends = Ends(store.queue, gateway_id)
        self.feed: Feed | None = None
        """Once started."""
        self._own = Own()
        self.calls.answered = self._own.answered
        self._pulse = Pulse(store.views, "gateway", lambda: self.id, self._own.heard)
        self._keeper = LeaseKeeper(store.url, store.queue.keys.pool, gateway_id, self._lapsed) if store.url else None
        self._runner: web.AppRunner | None = None
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        """Listen for callers and, where workers are apart, for their links. Raises OSError, LinkSetupError."""
        if self._local is not None:
            self._local.register(self.id, self.waiting)
        if self._local is None or "link_addr" in self.settings.model_fields_set:
            await self._listen_for_workers()
        with contextlib.suppress(StoreUnavailableError):
            await self._announce()
            await self.inventory.fresh()
        if self._keeper is not None:
            self._keeper.start()
        self._tasks.spawn(self._every(ANNOUNCE, self._announce), "announce")
        self._tasks.spawn(self._every(RECOVER, self._recover), "recover")
        self._tasks.spawn(self._notices(await self._store.inbox("gateway", self.id)), "notices")
        self._tasks.spawn(self.waiting.watch(), "watch")
        self._tasks.spawn(self._pulse.run(), "pulse")
        await self._listen()
        log.info("gateway.listening", url=self.url, gateway=self.id)

    async def stop(self, grace: float) -> None:
        """Take no more calls, let those in progress end within `grace` seconds, then leave."""
        self.calls.leaving = True
        self.ends.leave()
        if self.feed is not None:
            await self.feed.close()
        log.info("gateway.leaving", callers=len(self.waiting.calls), grace=grace)
        if not await self.waiting.empty(grace):
            for call in list(self.waiting.calls.values()):
                call.relay.fail(
                    Failure(Code.SHUTTING_DOWN, "this gateway is stopping: send the request again", retry_after=1)
                )
            await self.waiting.empty(_LAST_WORDS)
        if self._server is not None:
            self._server.close()
        if self._runner is not None:
            await self._last_callers(self._runner)
            await self._runner.cleanup()
        if self._links is not None:
            await self._links.stop()
        if self._local is not None:
            self._local.unregister(self.id)
        await self._tasks.close()
        if self._keeper is not None:
            await asyncio.to_thread(self._keeper.stop)
        with contextlib.suppress(StoreUnavailableError):
            await self._store.queue.leave(self.id)

    async def _last_callers(self, runner: web.AppRunner) -> None:
        """Who has connected and was not yet heard is told to go elsewhere too, instead of being hung up on."""
        server = runner.server
        for _ in range(100):
            open_ones = server.connections if server is not None else ()
            if all(caller.heard for caller in open_ones if isinstance(caller, CallerConnection)):
                return
            await asyncio.sleep(_LAST_WORDS / 100)

    # ------------------------------------------------------------------ the ports

    def _app(self) -> web.Application:
        keeper = Gatekeeper(self.settings)
        gate = Gate(self.settings, keeper, PATH, sign_in_page)
        app = web.Application(middlewares=[gate.middleware], client_max_size=0)
        app.on_response_prepare.append(tidy_headers)
        intake = Intake(self.settings, self.inventory)
        OllamaAPI(self.calls, intake).add_routes(app.router)
        OpenAIAPI(self.calls, intake).add_routes(app.router)
        outlooks = self.outlooks
        receivers = Receivers(self.settings.webhook_allow)
        common = intake, self.admission, outlooks, receivers, self._new_id
        submission = Submission(self.settings, self._store.queue, self.calls, *common)
        JobsAPI(self._store, submission, outlooks, self.ends).add_routes(app.router)
        ResumeAPI(self._store.queue, self.calls).add_routes(app.router)
        app.router.add_get(openapi.PATH, openapi.serve)
        bounds = Bounds(Policy(swap_budget=self.settings.swap_budget), lambda: self.waiting.run_seconds)
        snapshots = Snapshots(self._store, self.inventory, outlooks, bounds)
        self.feed = Feed(snapshots, self._tasks)
        OpsAPI(snapshots, self.calls, self.feed).add_routes(app.router)
        MetricsAPI(snapshots, self.waiting, self.feed, self._own).add_routes(app.router)
        OperatorsAPI(self._store, self.inventory, snapshots).add_routes(app.router)
        HistoryAPI(self._store, self.inventory).add_routes(app.router)
        TraceAPI(self._store, self.inventory).add_routes(app.router)
        Site(Reading(self.settings, self._store, self.inventory, outlooks, snapshots), keeper).add_routes(app.router)
        return app

    async def _listen(self) -> None:
        kwargs: dict[str, Any] = {
            "auto_decompress": False,
            "access_log": None,
            "keepalive_timeout": KEEP_ALIVE,
            "lingering_time": LINGER,
            "max_line_size": FIELD_LIMIT,
            "max_field_size": FIELD_LIMIT,
        }
        self._runner = web.AppRunner(
            self._app(), handler_cancellation=True, shutdown_timeout=_LAST_WORDS, handle_signals=False, **kwargs
        )
        await self._runner.setup()
        server = self._runner.server
        assert server is not None
        server.request_factory = expect_later(server.request_factory)
        loop = asyncio.get_running_loop()
        # The reference is kept: uvloop forgets a server that nobody holds.
        self._server = await loop.create_server(
            lambda: CallerConnection(server, loop=loop, **kwargs),
            # All interfaces at any port: one family, so that there is one port to tell.
            self.settings.host or (None if self.settings.port else "0.0.0.0"),  # noqa: S104 - asked for
            self.settings.port,
            backlog=1024,
        )
        port = self._server.sockets[0].getsockname()[1]
        host = self.settings.host or "127.0.0.1"
        self.url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    async def _listen_for_workers(self) -> None:
        """Open the link port. Raises LinkSetupError."""
        settings = self.settings
        secret = settings.link_secret or await self._store.queue.link_secret()
        tls = LinkTLS(settings.link_cert, settings.link_key) if settings.link_cert else None
        self._links = LinkServer(
            self.waiting, self.id, secret.encode(), settings.link_bind, settings.link_announce, tls
        )
        self._link_address = await self._links.start()

    # ------------------------------------------------------------------ the loops

    async def _every(self, seconds: float, step: Callable[[], Awaitable[object]]) -> None:
        while True:
            try:
                await step()
            except StoreUnavailableError as error:
                log.debug("store.unavailable", error=error.message)
            except Exception:  # a fault of ours costs this step, never all later ones
                log.exception("gateway.step_failed")
            await asyncio.sleep(seconds)

    def _lapsed(self) -> None:
        """The presence was over, as after a SIGSTOP: the next announcement asks what became of the callers' jobs."""
        self._announced_at = 0.0

    async def _announce(self) -> None:
        """Renew the presence; where it may have lapsed meanwhile, ask what became of the callers' jobs."""
        now = asyncio.get_running_loop().time()
        callers = len(self.waiting.calls)
        presence = GatewayPresence(self.id, self._link_address, callers, self._since, foreman.__version__)
        try:
            await self._store.queue.announce(presence)
        except StoreUnavailableError as error:
            self.inventory.unwritten = error
            raise
        self.inventory.unwritten = None
        lapsed, self._announced_at = now - self._announced_at > LAPSE, now
        if lapsed:
            await self.waiting.resync()

    async def _recover(self) -> None:
        for job_id in await self._store.queue.recover():
            log.info("job.recovered", job_id=job_id)

    async def _notices(self, inbox: Inbox[Notice]) -> None:
        """Take the store's notices; after an outage, or more than an inbox holds, ask for every call: some were missed."""
        missed = False
        while True:
            try:
                if missed:
                    await self.waiting.resync()
                    missed = False
                notice = await inbox.receive()
                if notice is not None and notice.missed:
                    missed = True
                elif notice is not None:
                    (self.ends if notice.watched else self.waiting).notice(notice)
            except StoreUnavailableError:
                missed = True
                await asyncio.sleep(RECOVER)
            except Exception:  # a notice that makes no sense, or a fault of ours
                log.exception("gateway.notice_failed")
                missed = True
                await asyncio.sleep(RECOVER)
