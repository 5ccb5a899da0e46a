"""The worker's end of the links: one connection to each living gateway, kept up, and an outlet for each job on it.

The worker tells me the living gateways (`update`) and its executors `open` outlets; I dial, greet, dial again with
back-off, and turn outlet calls into frames. When a connection ends, the jobs on it are cancelled (`caller_gone`):
their callers sat behind it. I refuse a gateway that does not know the pool's secret.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import structlog

from foreman.core.errors import Code
from foreman.hosts import Hosts
from foreman.link import address
from foreman.link.channel import NoLinkError
from foreman.link.outlet import Metered
from foreman.link.wire import Pace, Wire, shut
from foreman.protocols import link as codec
from foreman.protocols.link import FrameError, Kind
from foreman.protocols.link_hello import NONCE_SIZE, HelloError, WorkerHello
from foreman.tasks import Tasks

if TYPE_CHECKING:
    from collections.abc import Callable

    from foreman.core.errors import Failure
    from foreman.link.address import LinkTLS
    from foreman.link.channel import Control, Head, Outlet
    from foreman.store.records import GatewayPresence

log = structlog.get_logger(__name__)

_DATA: Final = int(Kind.DATA)
_NUMBERS: Final = 2**32
"""Job numbers are u32; 0 is the connection itself."""


def _nothing() -> None:
    """Nobody wants to know."""


@dataclass(slots=True, eq=False)
class _Gateway:
    """A gateway I have been told of."""

    id: str
    address: str
    wanted: bool = True
    """False once it is no longer among the living: never dialled again, its open jobs may end."""
    wire: WorkerWire | None = None
    reason: str | None = None
    """Why there is no link, once an attempt has failed."""
    hurry: asyncio.Event = field(default_factory=asyncio.Event)
    """Set while a job waits: dial now."""


class LinkClient:
    """A worker's links to all gateways; implements `Channels` over TCP."""

    def __init__(self, worker_id: str, secret: bytes, tls: LinkTLS | None = None, *, pace: Pace | None = None) -> None:
        if not secret:
            raise ValueError("a link without a secret would trust anybody: set FOREMAN_LINK_SECRET")
        self._worker = worker_id
        self._secret = secret
        self._ssl = tls.client() if tls is not None else None
        self._pace = pace or Pace()
        self._hosts = Hosts()
        self._gateways: dict[str, _Gateway] = {}
        self._waiters: dict[str, set[asyncio.Future[None]]] = {}
        self._tasks = Tasks("link")
        self.changed: Callable[[], None] = _nothing
        """Called whenever `unreachable` may say something else."""

    def update(self, gateways: list[GatewayPresence]) -> None:
        """The living gateways. New ones are dialled; a link to one that is gone ends with its last job."""
        living = {gateway.id: gateway.link for gateway in gateways if gateway.link}
        for gateway_id, link in living.items():
            known = self._gateways.get(gateway_id)
            if known is None:
                known = self._gateways[gateway_id] = _Gateway(gateway_id, link)
                self._tasks.spawn(self._keep(known), f"keep.{gateway_id}")
            known.address = link
            known.wanted = True
            if known.wire is not None:
                known.wire.retiring = False
        for known in self._gateways.values():
            if known.id not in living:
                known.wanted = False
                known.hurry.set()
                if known.wire is not None:
                    known.wire.retire()

    def unreachable(self) -> tuple[str, ...]:
        """The living gateways that could not be linked, or whose link was lost."""
        return tuple(sorted(self.troubles()))

    def troubles(self) -> dict[str, str]:
        """Why each unreachable gateway is so, in a sentence for `doctor`."""
        return {
            gateway.id: gateway.reason
            for gateway in self._gateways.values()
            if gateway.wanted and gateway.wire is None and gateway.reason is not None
        }

    async def open(self, gateway: str, job_id: str, epoch: int, control: Control, *, window: int) -> Outlet:
        """See `Channels.open`."""
        wire = self._wire(gateway)
        if wire is None:
            wire = await self._wait(gateway)
        return wire.open(job_id, epoch, control, window)

    async def close(self) -> None:
        """End all links. Jobs still open are cancelled (`caller_gone`); their gateways see `lost`."""
        wires = [gateway.wire for gateway in self._gateways.values() if gateway.wire is not None]
        await self._tasks.close()
        await shut(wires, "the worker leaves", self._pace.stop)
        self._gateways.clear()

    # -- inside

    def _wire(self, gateway: str) -> WorkerWire | None:
        known = self._gateways.get(gateway)
        # A wire whose end `_keep` has not heard of yet would take a job and never say that it is gone.
        return known.wire if known is not None and known.wire is not None and not known.wire.closing else None

    async def _wait(self, gateway: str) -> WorkerWire:
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        waiters = self._waiters.setdefault(gateway, set())
        waiters.add(waiter)
        known = self._gateways.get(gateway)
        if known is not None:
            known.hurry.set()
        try:
            async with asyncio.timeout(self._pace.open):
                await waiter
        except TimeoutError:
            known = self._gateways.get(gateway)
            why = "it is not among the living" if known is None else known.reason or "no connection yet"
            raise NoLinkError(f"no link to gateway {gateway} within {self._pace.open:g} s: {why}") from None
        finally:
            waiters.discard(waiter)
            if not waiters:
                self._waiters.pop(gateway, None)
        wire = self._wire(gateway)
        if wire is None:
            raise NoLinkError(f"the link to gateway {gateway} ended as it came")
        return wire

    async def _keep(self, gateway: _Gateway) -> None:
        """Dial, hold the link until it ends, dial again: for as long as the gateway lives."""
        first, longest = self._pace.back_off
        delay = first
        loop = asyncio.get_running_loop()
        while gateway.wanted:
            gateway.hurry.clear()
            try:
                wire = await self._dial(gateway)
            except (OSError, HelloError, ValueError, TimeoutError) as error:
                self._failed(gateway, str(error) or f"no answer within {self._pace.dial:g} s")
            else:
                up_since = loop.time()
                await self._hold(gateway, wire)
                if loop.time() - up_since > longest:
                    delay = first
            if gateway.wanted:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(delay):
                        await gateway.hurry.wait()
            delay = min(2 * delay, longest)
        del self._gateways[gateway.id]

    async def _hold(self, gateway: _Gateway, wire: WorkerWire) -> None:
        gateway.wire = wire
        gateway.reason = None
        log.info("link.up", gateway=gateway.id, address=gateway.address)
        self.changed()
        for waiter in self._waiters.get(gateway.id, ()):
            if not waiter.done():
                waiter.set_result(None)
        if not gateway.wanted:
            wire.retire()
        await asyncio.wait([wire.closed])  # not `await wire.closed`: a cancel of this task would cancel the future
        gateway.wire = None
        gateway.reason = f"the link was lost: {wire.closed.result()}"
        log.info("link.down", gateway=gateway.id, reason=wire.closed.result())
        self.changed()

    def _failed(self, gateway: _Gateway, reason: str) -> None:
        if reason != gateway.reason:
            gateway.reason = reason
            log.warning("link.unreachable", gateway=gateway.id, address=gateway.address, why=reason)
            self.changed()

    async def _dial(self, gateway: _Gateway) -> WorkerWire:
        """A connection whose hello is over. Raises OSError, TimeoutError, HelloError."""
        host, port = address.parse(gateway.address)
        hello = WorkerHello(self._secret, self._worker, gateway.id, secrets.token_bytes(NONCE_SIZE))
        async with asyncio.timeout(self._pace.dial):
            wire = await self._hosts.connect(lambda: WorkerWire(hello, self._pace), host, port, self._ssl)
            try:
                await wire.ready
            except BaseException:
                wire.abort("no hello")
                raise
        return wire


class WorkerWire(Wire):
    """One gateway's connection, seen from the worker. `ready` is done once the hello is over."""

    def __init__(self, hello: WorkerHello, pace: Pace) -> None:
        super().__init__(pace)
        self._hello = hello
        self._number = 0
        self.retiring = False
        """True once the gateway is no longer among the living: the last job closes the connection."""
        self.ready: asyncio.Future[None] = self._loop.create_future()
        self.ready.add_done_callback(lambda ready: ready.cancelled() or ready.exception())  # a lost dial reads it never
        self.outlets: dict[int, WireOutlet] = {}
        """Open jobs by job number."""

    def open(self, job_id: str, epoch: int, control: Control, window: int) -> WireOutlet:
        """The outlet of a job just claimed; the gateway is told at once, so that its cancel can travel here too."""
        number = self._number % (_NUMBERS - 1) + 1
        while number in self.outlets:
            number = number % (_NUMBERS - 1) + 1
        self._number = number
        outlet = self.outlets[number] = WireOutlet(self, number, job_id, control, window)
        self.send_now(codec.started(number, epoch, job_id))
        return outlet

    def done(self, number: int) -> None:
        """A job on this link is over."""
        self.outlets.pop(number, None)
        if self.retiring and not self.outlets:
            self.close("the gateway is gone")

    def retire(self) -> None:
        """Close once no job is open."""
        self.retiring = True
        if not self.outlets:
            self.close("the gateway is gone")

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by the loop."""
        super().connection_made(transport)
        self.send_now(self._hello.open())

    def _frame(self, kind: int, job: int, payload: bytes) -> None:
        if not self._hello.done:
            self._greet(kind, payload)
            return
        outlet = self.outlets.get(job)
        if outlet is not None:
            self._told(outlet, kind, payload)
        elif kind == Kind.PING:
            self.send_now(codec.frame(Kind.PONG, 0))
        # Anything else is for a job that is over here, or of a newer version: skipped.

    def _greet(self, kind: int, payload: bytes) -> None:
        try:
            answer = self._hello.step(kind, payload)
        except HelloError as error:
            if not self.ready.done():
                self.ready.set_exception(error)
            raise ConnectionAbortedError(error.reason) from error
        if answer:
            self.send_now(answer)
        if self._hello.done:
            self._established()
            if not self.ready.done():
                self.ready.set_result(None)

    @staticmethod
    def _told(outlet: WireOutlet, kind: int, payload: bytes) -> None:
        match kind:
            case Kind.CREDIT | Kind.SPOOL:
                try:
                    (outlet.credit if kind == Kind.CREDIT else outlet.fit)(codec.parse_credit(payload))
                except FrameError as error:
                    outlet.broken(str(error))
            case Kind.CANCEL:
                outlet.cancel(codec.parse_code(payload))
            case Kind.REFUSED:
                outlet.refused(codec.parse_code(payload))
            case Kind.BROKEN:
                outlet.broken(payload.decode(errors="replace"))
            case _:
                pass  # a kind of a newer version

    def _congestion(self) -> None:
        for outlet in list(self.outlets.values()):
            outlet.congestion(self.congested)

    def _lost(self, reason: str) -> None:
        if not self.ready.done():
            self.ready.set_exception(HelloError("rejected", f"{reason} during the hello: is TLS on at one end only?"))
        for outlet in list(self.outlets.values()):
            outlet.gone(Code.INTERRUPTED)
        self.outlets.clear()


class WireOutlet(Metered):
    """An outlet whose calls become frames."""

    __slots__ = ("_begun", "_number", "_wire")

    def __init__(self, wire: WorkerWire, number: int, job_id: str, control: Control, window: int) -> None:
        super().__init__(job_id, control, window)
        self._wire = wire
        self._number = number
        self._begun = False
        self._congested = wire.congested

    def refused(self, code: Code) -> None:
        """Nobody waits for this run at the gateway."""
        self.gone(code)
        self._wire.done(self._number)

    def broken(self, why: str) -> None:
        """What the gateway says of this job makes no sense: it ends at both ends."""
        log.warning("link.job_broken", job_id=self.job_id, why=why)
        self._wire.send_now(codec.frame(Kind.BACK, self._number))
        self.refused(Code.INTERRUPTED)

    def _pass_working(self) -> None:
        self._wire.send(codec.frame(Kind.WORKING, self._number))

    def _pass_head(self, head: Head) -> None:
        self._wire.send(codec.head(self._number, head.status, head.headers, head.framing))

    def _pass_data(self, unit: bytes) -> None:
        wire = self._wire
        wire.send_data(_DATA, self._number, unit)
        if not self._begun:
            self._begun = True
            wire.flush()

    def _pass_held(self, waits: bool) -> None:
        self._wire.send(codec.held(self._number, waits))

    def _pass_end(self) -> None:
        self._last(codec.frame(Kind.END, self._number))

    def _pass_error(self, failure: Failure) -> None:
        self._last(codec.error(self._number, failure))

    def _pass_back(self) -> None:
        self._last(codec.frame(Kind.BACK, self._number))

    def _last(self, data: bytes) -> None:
        self._wire.send_now(data)
        self._wire.done(self._number)
