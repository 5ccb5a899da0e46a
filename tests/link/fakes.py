"""The two outsiders of a link, played by the tests: a relay that records its calls, an executor that records its orders."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

from foreman.core.errors import Code
from foreman.link.address import parse, spell
from foreman.link.channel import Channels, Framing, Head
from foreman.link.client import LinkClient
from foreman.link.run import runs_of
from foreman.link.server import LinkServer
from foreman.protocols.link import Decoder, Frame, Kind
from foreman.protocols.link_hello import GatewayHello, WorkerHello
from foreman.store.records import GatewayPresence
from foreman.tasks import Tasks
from tests.waiting import wait_until

if TYPE_CHECKING:
    from foreman.link.local import LocalLink
    from foreman.link.wire import Pace

SECRET = b"the pool's own secret"
GATEWAY = "gw-01"
WORKER = "wk-01"
HEAD = Head(200, (("Content-Type", "application/x-ndjson"), ("X-Odd", "caf\udce9")), Framing.NDJSON)
WINDOW = 1 << 20


@dataclass
class FakeSink:
    """Records each call as a tuple; raises in the calls named in `raises`."""

    calls: list[tuple[Any, ...]] = field(default_factory=list)
    raises: set[str] = field(default_factory=set)
    credits: bool = True
    """Take each unit at once."""
    feedback: Any = None

    def _note(self, *call):
        self.calls.append(call)
        if call[0] in self.raises:
            raise RuntimeError(f"the sink breaks in {call[0]}")

    def started(self, epoch, feedback):
        self.feedback = feedback
        self._note("started", epoch)

    def working(self):
        self._note("working")

    def head(self, head):
        self._note("head", head)

    def data(self, unit):
        self._note("data", unit)
        if self.credits:
            self.feedback.credit(len(unit))

    def held(self, waits):
        self.held_calls = [*getattr(self, "held_calls", ()), waits]

    def end(self):
        self._note("end")

    def error(self, failure):
        self._note("error", failure.code)
        self.failure = failure

    def lost(self):
        self._note("lost")

    @property
    def names(self):
        return [call[0] for call in self.calls]

    @property
    def body(self):
        return b"".join(call[1] for call in self.calls if call[0] == "data")


@dataclass(eq=False)
class FakeDoor:
    """Callers wait for the jobs in `sinks`."""

    sinks: dict[str, FakeSink] = field(default_factory=dict)

    def expect(self, job_id: str, **how) -> FakeSink:
        return self.sinks.setdefault(job_id, FakeSink(**how))

    def accept(self, job_id):
        return self.sinks.get(job_id)


@dataclass
class FakeControl:
    """Records its orders; `raises` makes each of them an accident."""

    orders: list[Any] = field(default_factory=list)
    raises: bool = False

    def _note(self, order):
        self.orders.append(order)
        if self.raises:
            raise RuntimeError("the executor breaks")

    def cancel(self, code):
        self._note(code)

    def pause(self):
        self._note("pause")

    def resume(self):
        self._note("resume")


@dataclass
class Channel:
    """One channel, set up: the gateway's door on one side, the worker's `Channels` on the other."""

    door: FakeDoor
    channels: Channels
    local: LocalLink | None = None
    server: LinkServer | None = None
    client: LinkClient | None = None
    _probes: int = 0

    async def open(self, job_id="job-1", epoch=1, control=None, window=WINDOW):
        return await self.channels.open(GATEWAY, job_id, epoch, control or FakeControl(), window=window)

    async def settle(self):
        """Wait until all that was said so far, in both directions, has arrived."""
        self._probes += 1
        job_id, control = f"probe-{self._probes}", FakeControl()
        sink = self.door.expect(job_id)
        outlet = await self.open(job_id, control=control)
        await wait_until(lambda: sink.feedback)
        sink.feedback.cancel(Code.CANCELLED)
        await wait_until(lambda: control.orders)
        outlet.back()
        await wait_until(lambda: "lost" in sink.names)

    def held(self):
        """Every record of a job that either end still holds."""
        held = [*runs_of(self.door)._open]
        if self.local is not None:
            return [*held, *self.local._outlets[GATEWAY]]
        return [*held, *self.server.wires[WORKER].runs, *self.client._wire(GATEWAY).outlets]

    async def gateway_leaves(self):
        if self.local is not None:
            self.local.unregister(GATEWAY)
        else:
            await self.server.stop()

    async def close(self):
        if self.client is not None:
            await self.client.close()
            await self.server.stop()


def presence(link: str, gateway_id: str = GATEWAY) -> GatewayPresence:
    return GatewayPresence(id=gateway_id, link=link, callers=0, since=0.0)


async def linked(door: FakeDoor, *, secret=SECRET, tls=None, pace: Pace | None = None) -> Channel:
    """A server and a client with its connection up."""
    server = LinkServer(door, GATEWAY, SECRET, "127.0.0.1:0", tls=tls, pace=pace)
    address = await server.start()
    client = LinkClient(WORKER, secret, tls, pace=pace)
    client.update([presence(address)])
    await wait_until(lambda: client._wire(GATEWAY))
    return Channel(door, client, server=server, client=client)


class RawPeer:
    """An end of a link whose every byte is the test's own: greets properly, then says what it is told to."""

    def __init__(self, reader, writer):
        self.reader, self.writer = reader, writer
        self._decoder = Decoder()
        self._frames: list[Frame] = []

    @classmethod
    async def dial(cls, address: str, *, worker=WORKER, secret=SECRET) -> RawPeer:
        """A worker, its hello done."""
        peer = cls(*await asyncio.open_connection(*parse(address)))
        hello = WorkerHello(secret, worker, GATEWAY, secrets.token_bytes(32))
        peer.say(hello.open())
        try:
            while not hello.done:
                kind, _, payload = await peer.hear()
                peer.say(hello.step(kind, payload))
        except BaseException:
            await peer.close()
            raise
        return peer

    async def greet(self, *, secret=SECRET) -> None:
        """As a gateway: take the hello of who has dialled."""
        hello = GatewayHello(secret, GATEWAY, secrets.token_bytes(32))
        while not hello.done:
            kind, _, payload = await self.hear()
            self.say(hello.step(kind, payload))

    def say(self, data: bytes) -> None:
        self.writer.write(data)

    async def hear(self, timeout: float = 60) -> Frame:
        """The next frame that is no ping. Raises IncompleteReadError at the end of the connection."""
        async with asyncio.timeout(timeout):
            while True:
                while self._frames:
                    frame = self._frames.pop(0)
                    if frame[0] != Kind.PING:
                        return frame
                data = await self.reader.read(65536)
                if not data:
                    raise asyncio.IncompleteReadError(b"", None)
                self._frames += self._decoder.feed(data)

    async def ended(self, timeout: float = 60) -> None:
        """Wait for the other end to close."""
        async with asyncio.timeout(timeout):
            with contextlib.suppress(ConnectionError):
                while await self.reader.read(65536):
                    pass

    async def close(self) -> None:
        self.writer.close()
        with contextlib.suppress(ConnectionError):
            await self.writer.wait_closed()


@contextlib.asynccontextmanager
async def raw_gateway():
    """A port where the next worker that dials becomes a RawPeer: `(address, queue of peers)`."""
    peers: asyncio.Queue[RawPeer] = asyncio.Queue()
    server = await asyncio.start_server(lambda r, w: peers.put_nowait(RawPeer(r, w)), "127.0.0.1", 0)
    try:
        yield spell(*server.sockets[0].getsockname()[:2]), peers
    finally:
        server.close()


class Pipe:
    """A TCP relay between the two ends that can turn into a black hole: connected, but nothing comes through."""

    def __init__(self, address: str) -> None:
        self._to = parse(address)
        self._open = asyncio.Event()
        self._open.set()
        self._tasks = Tasks("pipe")
        self._writers: list[asyncio.StreamWriter] = []

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._join, "127.0.0.1", 0)
        self.address = spell(*self._server.sockets[0].getsockname()[:2])
        return self

    async def __aexit__(self, *exc) -> None:
        self._server.close()
        await self._tasks.close()
        for writer in self._writers:
            writer.close()

    def swallow(self) -> None:
        """From now on nothing comes through, and nobody is told."""
        self._open.clear()

    async def _join(self, reader, writer) -> None:
        far_reader, far_writer = await asyncio.open_connection(*self._to)
        self._writers += [writer, far_writer]
        self._tasks.spawn(self._pump(reader, far_writer), "up")
        self._tasks.spawn(self._pump(far_reader, writer), "down")

    async def _pump(self, reader, writer) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(65536):
                await self._open.wait()
                writer.write(data)
                await writer.drain()
            writer.close()
