"""A connection's clock, on a virtual one: the promise is a dead peer in five seconds and a hello in three."""

from __future__ import annotations

import asyncio

import pytest

from foreman.link.wire import Pace, Wire
from foreman.protocols.link import Decoder, Kind, frame

pytestmark = pytest.mark.looptime


class Ear(Wire):
    """Greeted already; hears everything and does nothing."""

    def __init__(self, *, greeted: bool = True):
        super().__init__(Pace())
        self.transport = Transport(self)
        self.connection_made(self.transport)
        if greeted:
            self._established()

    def _frame(self, kind, job, payload): ...
    def _lost(self, reason): ...


class Transport(asyncio.Transport):
    def __init__(self, wire):
        super().__init__()
        self.wire, self.kinds, self.closed = wire, [], False

    def write(self, data):
        self.kinds += [Kind(kind) for kind, _, _ in Decoder().feed(data)]

    def set_write_buffer_limits(self, high=None, low=None): ...

    def is_closing(self):
        return self.closed

    def abort(self):
        self.closed = True
        asyncio.get_running_loop().call_soon(self.wire.connection_lost, None)


async def test_a_silent_peer_is_dead_within_five_seconds(looptime):
    wire = Ear()
    assert await wire.closed == "silent for 4 pings"
    assert looptime == 5
    assert wire.transport.kinds == [Kind.PING] * 4


async def test_a_peer_that_says_anything_lives(looptime):
    wire = Ear()
    async with asyncio.TaskGroup() as group:
        group.create_task(talk(wire))
        await wire.closed
    assert looptime == 57 + 5


async def talk(wire):
    """One frame, cut into pieces that come every three seconds for a minute: half a frame is a sign of life too."""
    said = frame(Kind.PONG, 0, b"x" * 11)
    for byte in said:
        wire.data_received(bytes([byte]))
        await asyncio.sleep(3)


async def test_a_connection_without_a_hello_ends_after_three_seconds(looptime):
    wire = Ear(greeted=False)
    assert await wire.closed == "no hello in time"
    assert looptime == 3
    assert wire.transport.kinds == []


async def test_a_loss_that_raises_is_still_a_loss():
    wire = Ear()

    def fail(reason):
        raise RuntimeError(reason)

    wire._lost = fail
    wire.connection_lost(OSError("cable cut"))
    assert await wire.closed == "cable cut"


async def test_a_frame_that_raises_leaves_the_next_alone():
    wire = Ear()
    heard = []

    def take(kind, job, payload):
        heard.append(job)
        raise ValueError(job)

    wire._frame = take
    wire.data_received(frame(Kind.DATA, 1, b"a") + frame(Kind.DATA, 2, b"b"))
    assert heard == [1, 2]
    assert not wire.closing
    wire.abort("done")
    await wire.closed
