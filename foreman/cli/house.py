"""One process of foreman: the roles it was asked for, built on one store and one event loop.

`serve`, `demo` and `run` call me. I start gateway, worker and background in the order in which they need each other and
stop them in the reverse; a start that can't be right is a Refusal with the command that helps. I decide nothing else.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import os
import resource
import secrets
import shlex
import signal
import socket
import sys
import time
from typing import TYPE_CHECKING, Any, Final

import structlog

import foreman
from foreman.cli.console import Failed, Refusal
from foreman.cli.roles import ALL, Role
from foreman.core.ids import UlidFactory
from foreman.link.address import LinkSetupError
from foreman.link.local import LocalLink
from foreman.settings import SettingsError
from foreman.store.client import connect
from foreman.store.embedded import EmbeddedServer
from foreman.store.errors import StoreRefusedError, StoreUnavailableError
from foreman.web.app import Gateway
from workers.background import Background
from workers.service import Worker

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine

    from foreman.settings import Settings
    from foreman.store.client import Store

log = structlog.get_logger(__name__)

FILES: Final = (65536, 10240)
"""Open files that are enough for anybody (callers, links, targets' connections), and what macOS bears in any case."""


class House:
    """The roles of one process. `start` once, `stop` once, also after a start that failed half-way."""

    def __init__(self, settings: Settings, roles: frozenset[Role] = ALL) -> None:
        """Check what can be checked without starting anything.

        Raises:
            Refusal: roles apart without a store to meet in, or a gateway open to strangers.
        """
        if roles != ALL and settings.redis_url is None:
            raise Refusal(
                "roles in processes of their own meet in a store: set FOREMAN_REDIS_URL (such as "
                "redis://127.0.0.1:6379/0) for all of them, or run `foreman serve` without --role for everything in one process"
            )
        if Role.GATEWAY in roles:
            try:
                settings.check_exposed()
            except SettingsError as error:
                raise Refusal(str(error)) from None
        self.settings = settings
        self.roles = roles
        self.url: str | None = None
        """Where the gateway listens, as this machine calls it; None without one."""
        self._parts = contextlib.AsyncExitStack()
        self._leave_by: float | None = None
        self._started = False
        self._worker: Worker | None = None
        self._name = UlidFactory(lambda: time.time_ns() // 1_000_000, secrets.randbits)

    async def start(self) -> None:
        """Start the store (where it is the embedded one) and the roles.

        Raises:
            Refusal: the port is taken, or the store is none that foreman can use.
            Failed: the store does not answer.
        """
        if Role.GATEWAY in self.roles:
            check_port(self.settings)
        try:
            store = await self._open_store()
        except StoreRefusedError as error:
            raise Refusal(str(error)) from None
        except ValueError:  # its message shows the URL, and that may hold a password
            raise Refusal(
                "FOREMAN_REDIS_URL is wrong: use redis://host:6379/0, rediss://…, unix:///path or redis+sentinel://…"
            ) from None
        except StoreUnavailableError as error:
            raise _away(error) from None
        for finding in store.findings:
            log.warning("store.finding", message=finding.message)
        try:
            await self._start_roles(store)
        except LinkSetupError as error:
            raise Refusal(str(error)) from None
        except StoreUnavailableError as error:  # gone again since, or it takes no writes
            raise _away(error) from None
        self._started = True
        log.info("house.started", version=foreman.__version__, roles=sorted(self.roles), url=self.url)

    async def _start_roles(self, store: Store) -> None:
        """Raises LinkSetupError, StoreUnavailableError, Refusal."""
        local = LocalLink() if {Role.GATEWAY, Role.WORKER} <= self.roles else None
        if Role.BACKGROUND in self.roles:
            background = Background(self.settings, store)
            self._parts.push_async_callback(background.stop)
            await background.start()
        if Role.WORKER in self.roles:
            worker = self._worker = Worker(self.settings, store, f"wk-{self._name()}", local)
            self._parts.push_async_callback(self._stop, worker)
            await worker.start()
        if Role.GATEWAY in self.roles:
            await self._start_gateway(store, local)

    async def stop(self, grace: float) -> None:
        """Leave: no new calls, what runs may end within `grace` seconds, the rest goes back to the queue."""
        self._leave_by = time.monotonic() + grace
        await self._parts.aclose()
        if self._started:
            log.info("house.stopped")

    def reread_targets(self) -> None:
        """Take the targets as FOREMAN_TARGETS_FILE names them now; a wrong file changes nothing but the log."""
        source = f"FOREMAN_{self.settings.targets_source.upper()}"
        if self.settings.targets_file is None or self._worker is None:
            log.warning(
                "house.nothing_to_reread", source=source, message="only a worker's FOREMAN_TARGETS_FILE is read again"
            )
            return
        try:
            targets = self.settings.read_targets()
        except ValueError as error:
            log.error("house.targets_kept", message=f"{source} is wrong, the targets stay as they were: {error}")  # noqa: TRY400 - the sentence says it all
            return
        log.info("house.targets_reread", targets=[target.name for target in targets])
        self._worker.retarget(targets)

    def before_leaving(self, callback: Callable[[], Awaitable[object]]) -> None:
        """Await `callback` first of all when this house stops."""
        self._parts.push_async_callback(callback)

    async def _open_store(self) -> Store:
        url = self.settings.redis_url
        if url is None:
            server = EmbeddedServer(self.settings.data_dir, self.settings.durability)
            self._parts.push_async_callback(asyncio.to_thread, server.stop)
            url = await asyncio.to_thread(server.start)
        store = await connect(self.settings, url)
        self._parts.push_async_callback(store.close)
        if self.settings.redis_url is None:  # whoever is registered there died with the process before us
            await store.queue.alone(target.name for target in self.settings.target_list)
        return store

    async def _start_gateway(self, store: Store, local: LocalLink | None) -> None:
        gateway = Gateway(self.settings, store, f"gw-{self._name()}", local)
        self._parts.push_async_callback(self._stop, gateway)
        try:
            await gateway.start()
        except OSError as error:
            raise Refusal(_bind_advice(self.settings, error)) from None
        self.url = gateway.url

    async def _stop(self, part: Gateway | Worker) -> None:
        """Stop a part with what is left of the grace."""
        left = 0.0 if self._leave_by is None else max(0.0, self._leave_by - time.monotonic())
        await part.stop(left)


def _away(error: StoreUnavailableError) -> Failed:
    if "refuses work" in str(error):
        return Failed(f"the store takes no writes ({error}): see its disk, its memory, and that it is the primary")
    return Failed(f"the store does not answer ({error}): start it, or correct FOREMAN_REDIS_URL")


def check_port(settings: Settings) -> None:
    """Refuse a taken port before anything is started. Raises Refusal."""
    if settings.port == 0:
        return
    try:
        found = socket.getaddrinfo(settings.host or "0.0.0.0", settings.port, type=socket.SOCK_STREAM)  # noqa: S104 - as asked
        for family, kind, protocol, _, where in found:
            with socket.socket(family, kind, protocol) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(where)
    except OSError as error:
        raise Refusal(_bind_advice(settings, error)) from None


def _bind_advice(settings: Settings, error: OSError) -> str:
    """One sentence with the command that helps."""
    if error.errno == errno.EADDRINUSE:
        other = f"{settings.host or ''}:{settings.port + 1 if settings.port < 65535 else 8080}"
        return (
            f"port {settings.port} is taken: choose another, `FOREMAN_ADDR={other} {_same_command()}`, or see who has it, "
            f"`ss -ltnp 'sport = :{settings.port}'` (macOS: `lsof -i :{settings.port}`)"
        )
    return f"FOREMAN_ADDR is {settings.addr!r}, and foreman can't listen there ({error.strerror or error}): use an address of this machine"


def _same_command() -> str:
    """What was typed, for typing it again."""
    words = sys.argv[1:]
    return "make run" if words == ["run"] else shlex.join(["foreman", *words])


async def live(house: House, announce: Callable[[House], Awaitable[None]]) -> None:
    """Start a house, tell of it, and keep it until this task is cancelled; then leave within the grace and return."""
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, house.reread_targets)
    try:
        await house.start()
        await announce(house)
        gc.freeze()  # what a house is made of stays as long as it does: to look through it stopped all streams for 15 ms
        await asyncio.Event().wait()
    except asyncio.CancelledError:
        task.uncancel()  # told to leave: the cleanup is ordinary code, its time-outs must not mistake it for theirs
    finally:
        await house.stop(house.settings.shutdown_grace)


def until_told(main: Coroutine[Any, Any, None]) -> None:
    """Run `main` on an event loop (uvloop where it is installed); the first SIGTERM or SIGINT cancels it.

    A second signal ends the process at once: the store's append-only file and the leases cover what that breaks off.
    """
    _more_files()
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        runner.run(_watched(main))


def _more_files() -> None:
    """Let so many files be open as the system lets us: most often 1024 are allowed, and each waiting caller is one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    for many in FILES:
        wanted = many if hard == resource.RLIM_INFINITY else min(hard, many)
        if soft == resource.RLIM_INFINITY or soft >= wanted:
            return
        with contextlib.suppress(OSError, ValueError):  # macOS has a bound below the one it tells
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
            return


async def _watched(main: Coroutine[Any, Any, None]) -> None:
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None
    told: list[signal.Signals] = []

    def tell(number: signal.Signals) -> None:
        if told:
            os._exit(128 + number)
        told.append(number)
        log.info("house.leaving", signal=number.name)
        task.cancel()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, tell, number)
    try:
        await main
    except asyncio.CancelledError:
        if not told:
            raise


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop]:
    try:
        import uvloop  # noqa: PLC0415 - missing on some platforms
    except ImportError:
        return asyncio.new_event_loop
    return uvloop.new_event_loop
