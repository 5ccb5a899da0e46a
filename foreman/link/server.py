"""The gateway's end of the links: a port that takes workers, and for each a connection whose frames become sink calls.

The gateway starts me beside its HTTP port and announces the address I return. Each run's frames go to its link/run.py;
when a connection ends, its open sinks are `lost`. I refuse who does not know the pool's secret, and hold at most
`STRANGERS` connections that have not proved it yet.
"""

from __future__ import annotations

import asyncio
import secrets
from typing import TYPE_CHECKING, Final

import structlog

from foreman.core.errors import Code
from foreman.link import address
from foreman.link.address import LinkSetupError
from foreman.link.channel import Framing, Head
from foreman.link.run import Run, runs_of
from foreman.link.wire import Pace, Wire, shut
from foreman.protocols import link as codec
from foreman.protocols.link import FrameError, Kind
from foreman.protocols.link_hello import NONCE_SIZE, GatewayHello, HelloError, reject

if TYPE_CHECKING:
    from foreman.link.address import LinkTLS
    from foreman.link.channel import Door

log = structlog.get_logger(__name__)

STRANGERS: Final = 64
"""Connections in their hello at one time; a further one is closed."""

_DATA: Final = int(Kind.DATA)


class LinkServer:
    """A gateway's link port."""

    def __init__(
        self,
        door: Door,
        gateway_id: str,
        secret: bytes,
        bind: str,
        announced: str | None = None,
        tls: LinkTLS | None = None,
        *,
        pace: Pace | None = None,
    ) -> None:
        """`bind` and `announced` are `host:port`; port 0 is any free one; `announced=None`: as bound."""
        if not secret:
            raise ValueError("a link without a secret would take anybody: set FOREMAN_LINK_SECRET")
        self.door = door
        self.gateway_id = gateway_id
        self.secret = secret
        self.pace = pace or Pace()
        self._bind = bind
        self._announced = announced or bind
        self._tls = tls
        self._server: asyncio.Server | None = None
        self.strangers: set[GatewayWire] = set()
        self.wires: dict[str, GatewayWire] = {}
        """The connection of each worker that has proved itself, by worker id."""

    async def start(self) -> str:
        """Listen. The address as announced, with the port it got where 0 was asked. Raises LinkSetupError."""
        host, port = address.parse(self._bind)
        context = self._tls.server() if self._tls is not None else None
        try:
            self._server = await asyncio.get_running_loop().create_server(
                lambda: GatewayWire(self),
                # All interfaces at any port: one family, so that there is one port to announce.
                host or (None if port else "0.0.0.0"),  # noqa: S104 - asked for by an address without a host
                port,
                ssl=context,
                ssl_handshake_timeout=self.pace.hello if context is not None else None,
            )
        except OSError as error:
            raise LinkSetupError(
                f"FOREMAN_LINK_ADDR binds {self._bind!r}, and foreman can't listen there ({error.strerror or error}): "
                "use an address of this machine and a port that nobody has, such as 127.0.0.1:0"
            ) from error
        bound = int(self._server.sockets[0].getsockname()[1])
        said_host, said_port = address.parse(self._announced)
        announced = address.spell(said_host or "0.0.0.0", said_port or bound)  # noqa: S104 - as above, as written
        log.info("link.listening", address=announced, tls=context is not None)
        return announced

    async def stop(self) -> None:
        """Close the port and all links; what was said to the workers still leaves. Open sinks are `lost`."""
        if self._server is None:
            return
        self._server.close()
        await shut([*self.strangers, *self.wires.values()], "the gateway leaves", self.pace.stop)
        await self._server.wait_closed()
        self._server = None

    @property
    def workers(self) -> tuple[str, ...]:
        """The workers linked now."""
        return tuple(sorted(self.wires))


class GatewayWire(Wire):
    """One worker's connection, seen from the gateway."""

    def __init__(self, server: LinkServer) -> None:
        super().__init__(server.pace)
        self._server = server
        self._hello = GatewayHello(server.secret, server.gateway_id, secrets.token_bytes(NONCE_SIZE))
        self._door = server.door
        self._table = runs_of(server.door)
        self.runs: dict[int, Run] = {}
        """Open runs by job number."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by the loop."""
        super().connection_made(transport)
        self._server.strangers.add(self)
        if len(self._server.strangers) > STRANGERS:
            self.abort("too many connections in their hello")

    def _frame(self, kind: int, job: int, payload: bytes) -> None:
        if not self._hello.done:
            self._greet(kind, payload)
            return
        run = self.runs.get(job)
        if run is not None:
            if kind == _DATA:
                run.data(payload)
            else:
                self._told(run, kind, payload)
        elif kind == Kind.STARTED and job:
            self._begin(job, payload)
        elif kind == Kind.PING:
            self.send_now(codec.frame(Kind.PONG, 0))
        # Anything else is of a run that is over here, or of a newer version: skipped.

    def _greet(self, kind: int, payload: bytes) -> None:
        if self.closing:
            return  # refused already; the rest of what it sent in one go is not worth a word
        try:
            self.send_now(self._hello.step(kind, payload))
        except HelloError as error:
            log.warning("link.refused", peer=self.peer, reason=error.reason, why=str(error))
            self.send_now(reject(error))
            self.close(error.reason)
            return
        if self._hello.done:
            self._established()
            worker = self._hello.worker
            self._server.strangers.discard(self)
            older = self._server.wires.get(worker)
            self._server.wires[worker] = self
            if older is not None:
                older.abort("the worker has dialled anew")
            log.info("link.up", worker=worker, peer=self.peer)

    def _begin(self, job: int, payload: bytes) -> None:
        try:
            epoch, job_id = codec.parse_started(payload)
        except FrameError as error:
            log.warning("link.frame_broken", worker=self._hello.worker, why=str(error))
            self.send_now(codec.refused(job, Code.INTERRUPTED))
            return
        run = self._table.begin(self._door, job_id, epoch, _WireBack(self, job))
        if isinstance(run, Code):
            self.send_now(codec.refused(job, run))
            return
        self.runs[job] = run
        run.start()

    @staticmethod
    def _told(run: Run, kind: int, payload: bytes) -> None:
        try:
            match kind:
                case Kind.WORKING:
                    run.working()
                case Kind.HEAD:
                    status, headers, framing = codec.parse_head(payload)
                    run.head(Head(status, headers, _framing(framing)))
                case Kind.HELD:
                    run.held(payload == b"\1")
                case Kind.END:
                    run.end()
                case Kind.ERROR:
                    run.error(codec.parse_error(payload))
                case Kind.BACK:
                    run.back()
                case Kind.BROKEN | Kind.STARTED:
                    run.broken(payload.decode(errors="replace") if kind == Kind.BROKEN else "STARTED twice")
                case _:
                    pass  # a kind of a newer version
        except FrameError as error:
            run.broken(str(error))

    def _lost(self, reason: str) -> None:
        self._server.strangers.discard(self)
        if self._hello.done:
            if self._server.wires.get(self._hello.worker) is self:
                del self._server.wires[self._hello.worker]
            log.info("link.down", worker=self._hello.worker, reason=reason, runs=len(self.runs))
        for run in list(self.runs.values()):
            run.lost()


class _WireBack:
    """The way back to the worker for one run."""

    __slots__ = ("_job", "_wire")

    def __init__(self, wire: GatewayWire, job: int) -> None:
        self._wire = wire
        self._job = job

    def cancel(self, code: Code) -> None:
        self._wire.send_now(codec.cancel(self._job, code))

    def credit(self, taken: int) -> None:
        self._wire.send(codec.credit(self._job, taken))

    def fit(self, window: int) -> None:
        self._wire.send(codec.spool(self._job, window))

    def over(self) -> None:
        self._wire.runs.pop(self._job, None)


def _framing(number: int) -> Framing:
    try:
        return Framing(number)
    except ValueError as error:
        raise FrameError(f"HEAD names framing {number}") from error
