"""The two outsiders of a link, played by the tests: a relay that records its calls, an executor that records its orders."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from foreman.link.channel import Channels, Framing, Head
from foreman.link.client import LinkClient
from foreman.link.server import LinkServer
from foreman.store.records import GatewayPresence

if TYPE_CHECKING:
    from foreman.link.local import LocalLink
    from foreman.link.wire import Pace

SECRET = b"the pool's own secret"
GATEWAY = "gw-01"
WORKER = "wk-01"
HEAD = Head(200, (("Content-Type", "application/x-ndjson"), ("X-Odd", "caf\udce9")), Framing.NDJSON)
WINDOW = 1 << 20


async def wait_until(predicate, timeout: float = 20, what: str = "the condition"):
    """Give the loop turns until `predicate()` holds; its value."""
    async with asyncio.timeout(timeout):
        while not (value := predicate()):  # noqa: ASYNC110 - sockets and transports have no event to wait for
            await asyncio.sleep(0.001)
    assert value, what
    return value


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

    async def open(self, job_id="job-1", epoch=1, control=None, window=WINDOW):
        return await self.channels.open(GATEWAY, job_id, epoch, control or FakeControl(), window=window)

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
