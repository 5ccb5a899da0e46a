"""A worker's links: dialled, kept, lost and found again; against gateways that are gone, mute, hostile or newer."""

from __future__ import annotations

import asyncio
import socket

import pytest
from structlog.testing import capture_logs

from foreman.core.errors import Code, Failure
from foreman.link.channel import NoLinkError
from foreman.link.client import LinkClient
from foreman.link.local import LocalLink
from foreman.link.outlet import Metered
from foreman.link.server import LinkServer
from foreman.link.switchboard import Switchboard
from foreman.link.wire import HIGH_WATER, Pace
from foreman.protocols import link as codec
from foreman.protocols.link import HEADER, MAX_FRAME, MAX_SKIP, Kind
from tests.link.fakes import (
    GATEWAY,
    HEAD,
    SECRET,
    WINDOW,
    WORKER,
    FakeControl,
    FakeDoor,
    Pipe,
    linked,
    presence,
    raw_gateway,
    wait_until,
)

QUICK = Pace(open=0.05, dial=0.05, ping=0.02, hello=0.05, back_off=(0.01, 0.05))
HEARING = Pace(open=0.05, dial=60, hello=60, back_off=(0.01, 0.05))
"""Quick to try again, but the other end may take its time to speak: a busy machine does."""


@pytest.fixture
async def peered():
    """A client linked to a raw gateway: `(client, peer)`."""
    client = LinkClient(WORKER, SECRET)
    async with raw_gateway() as (address, peers):
        client.update([presence(address)])
        peer = await peers.get()
        await peer.greet()
        await wait_until(lambda: client._wire(GATEWAY))
        yield client, peer
        await peer.close()
        await client.close()


async def opened(client, job_id="job-1", window=WINDOW, epoch=1):
    control = FakeControl()
    return await client.open(GATEWAY, job_id, epoch, control, window=window), control


# -- no way


async def test_an_unknown_gateway_is_no_link_in_time():
    client = LinkClient(WORKER, SECRET, pace=QUICK)
    with pytest.raises(NoLinkError, match="not among the living"):
        await opened(client)
    assert client.unreachable() == ()
    await client.close()


async def test_a_gateway_that_refuses_connections_is_unreachable():
    client = LinkClient(WORKER, SECRET, pace=HEARING)
    client.update([presence("127.0.0.1:1")])
    await wait_until(client.unreachable)
    with pytest.raises(NoLinkError, match=r"refused|Connect call failed"):
        await opened(client)
    assert client.unreachable() == (GATEWAY,)
    client.update([])
    await wait_until(lambda: not client._gateways)
    assert client.unreachable() == ()
    await client.close()


@pytest.mark.parametrize("address", ["nonsense", "no such host:1", "\udce9:1", "x" * 70 + ":1"])
async def test_an_address_that_is_none_is_unreachable_and_no_accident(address):
    client = LinkClient(WORKER, SECRET, pace=QUICK)
    client.update([presence(address)])
    await wait_until(client.unreachable)
    await client.close()


async def test_a_gateway_that_never_says_hello_is_unreachable():
    client = LinkClient(WORKER, SECRET, pace=QUICK)
    async with raw_gateway() as (address, peers):
        client.update([presence(address)])
        with pytest.raises(NoLinkError):
            await opened(client)
        await wait_until(client.unreachable)
        await client.close()
        while not peers.empty():
            await peers.get_nowait().close()


@pytest.mark.parametrize("words", [b"HTTP/1.1 400 Bad Request\r\n\r\n", codec.frame(Kind.DATA, 1, b"x"), b""])
async def test_whoever_else_listens_there_is_no_gateway(words):
    client = LinkClient(WORKER, SECRET, pace=QUICK)
    async with raw_gateway() as (address, peers):
        client.update([presence(address)])
        peer = await peers.get()
        peer.say(words)
        if not words:
            await peer.close()
        await wait_until(client.unreachable)
        await client.close()
        await peer.close()
        while not peers.empty():
            await peers.get_nowait().close()


async def test_a_gateway_with_another_secret_is_named_once():
    server = LinkServer(FakeDoor(), GATEWAY, b"other", "127.0.0.1:0")
    address = await server.start()
    client = LinkClient(WORKER, SECRET, pace=HEARING)
    with capture_logs() as logs:
        client.update([presence(address)])
        await wait_until(lambda: len([log for log in logs if log["event"] == "link.refused"]) >= 3)
    said = [log for log in logs if log["event"] == "link.unreachable"]
    assert len(said) == 1
    assert "FOREMAN_LINK_SECRET" in said[0]["why"]
    assert "FOREMAN_LINK_SECRET" in client.troubles()[GATEWAY]
    with pytest.raises(NoLinkError, match="FOREMAN_LINK_SECRET"):
        await opened(client)
    await client.close()
    await server.stop()


async def test_an_impostor_that_knows_no_secret_gets_no_job():
    client = LinkClient(WORKER, SECRET, pace=HEARING)
    async with raw_gateway() as (address, peers):
        client.update([presence(address)])
        peer = await peers.get()
        with pytest.raises(Exception, match="secret"):
            await peer.greet(secret=b"guess")
        peer.say(codec.frame(Kind.WELCOME, 0, b"\0" * 32))
        await peer.ended()
        await wait_until(client.unreachable)
        await client.close()
        await peer.close()
        while not peers.empty():
            await peers.get_nowait().close()


async def test_another_gateway_at_the_old_address_is_not_mistaken():
    channel = await linked(FakeDoor(), pace=HEARING)
    address = f"127.0.0.1:{channel.server._server.sockets[0].getsockname()[1]}"
    channel.client.update([presence(address, "gw-older")])
    await wait_until(channel.client.unreachable)
    assert "gw-older" in channel.client.troubles()["gw-older"]
    await channel.close()


# -- the way comes and goes


async def test_a_job_waits_for_a_link_that_is_being_made():
    door = FakeDoor()
    sink = door.expect("job-1")
    server = LinkServer(door, GATEWAY, SECRET, "127.0.0.1:0")
    address = await server.start()
    client = LinkClient(WORKER, SECRET, pace=Pace(open=20))
    async with asyncio.TaskGroup() as group:
        opening = group.create_task(opened(client))
        await wait_until(lambda: client._waiters)
        client.update([presence(address)])
    opening.result()[0].back()
    await wait_until(lambda: sink.names == ["started", "lost"])
    assert not client._waiters
    await client.close()
    await server.stop()


async def test_a_job_that_waits_hurries_the_next_attempt():
    channel = await linked(FakeDoor())
    address = f"127.0.0.1:{channel.server._server.sockets[0].getsockname()[1]}"
    await channel.close()
    client = LinkClient(WORKER, SECRET, pace=Pace(open=20, back_off=(1000, 1000)))
    client.update([presence(address)])
    await wait_until(client.unreachable)
    server = LinkServer(FakeDoor(), GATEWAY, SECRET, address)
    await server.start()
    await opened(client)
    await client.close()
    await server.stop()


async def test_closing_waits_until_the_last_word_has_left():
    door = FakeDoor()
    sink = door.expect("job-1")
    channel = await linked(door)
    outlet = await channel.open("job-1")
    wire = channel.client._wire(GATEWAY)
    outlet.head(HEAD)
    outlet.data(b"x" * 500_000)
    outlet.end()
    await channel.client.close()
    assert wire.closed.result() == "the worker leaves"
    await wait_until(lambda: "end" in sink.names)
    await channel.close()


async def test_a_lost_link_cancels_its_jobs_and_is_dialled_again():
    client = LinkClient(WORKER, SECRET)
    async with raw_gateway() as (address, peers):
        client.update([presence(address)])
        first = await peers.get()
        await first.greet()
        await wait_until(lambda: client._wire(GATEWAY))
        outlet, control = await opened(client)
        _, other = await opened(client, "job-2")
        first.writer.transport.abort()
        await wait_until(lambda: control.orders and other.orders)
        assert control.orders == other.orders == [Code.INTERRUPTED]
        await wait_until(lambda: client.unreachable() == (GATEWAY,))
        outlet.data(b"nobody hears")
        outlet.error(Failure(Code.CANCELLED, "nobody hears"))
        second = await peers.get()
        await second.greet()
        await opened(client, "job-3", epoch=9)
        assert await second.hear() == (Kind.STARTED, 1, b"\0" * 7 + b"\x09job-3")
        assert client.unreachable() == ()
        await client.close()
        await first.close()
        await second.close()


async def test_a_link_to_a_gateway_no_longer_living_ends_with_its_last_job():
    door = FakeDoor()
    door.expect("job-1")
    channel = await linked(door)
    outlet = await channel.open("job-1")
    wire = channel.client._wire(GATEWAY)
    channel.client.update([])
    assert not wire.closing
    outlet.head(HEAD)
    outlet.end()
    await wire.closed
    await wait_until(lambda: door.sinks["job-1"].names == ["started", "head", "end"])
    await wait_until(lambda: not channel.client._gateways)
    await channel.close()


async def test_a_gateway_that_comes_back_to_life_keeps_its_link_or_gets_a_new_one():
    door = FakeDoor()
    channel = await linked(door)
    address = f"127.0.0.1:{channel.server._server.sockets[0].getsockname()[1]}"
    door.expect("job-1")
    outlet = await channel.open("job-1")
    wire = channel.client._wire(GATEWAY)
    channel.client.update([])
    channel.client.update([presence(address)])
    outlet.back()
    await channel.open("job-unknown")
    assert channel.client._wire(GATEWAY) is wire
    await wait_until(lambda: not wire.outlets)
    channel.client.update([])
    assert wire.closing
    channel.client.update([presence(address)])
    await wait_until(lambda: channel.client._wire(GATEWAY))
    assert channel.client._wire(GATEWAY) is not wire
    await channel.close()


async def test_a_gateway_that_takes_no_links_is_never_dialled():
    client = LinkClient(WORKER, SECRET)
    client.update([presence("")])
    assert not client._gateways
    await client.close()


# -- a peer that vanishes without a word


async def test_a_black_hole_is_seen_from_both_ends():
    door = FakeDoor()
    sink = door.expect("job-1")
    pace = Pace(ping=0.05)
    server = LinkServer(door, GATEWAY, SECRET, "127.0.0.1:0", pace=pace)
    async with Pipe(await server.start()) as pipe:
        client = LinkClient(WORKER, SECRET, pace=pace)
        client.update([presence(pipe.address)])
        await wait_until(lambda: client._wire(GATEWAY))
        outlet, control = await opened(client)
        outlet.head(HEAD)
        outlet.data(b"one")
        await wait_until(lambda: sink.body)
        pipe.swallow()
        await wait_until(lambda: control.orders and sink.names[-1] == "lost")
        assert control.orders == [Code.INTERRUPTED]
        await wait_until(lambda: client.unreachable() == (GATEWAY,))
        await client.close()
        await server.stop()


async def test_an_idle_link_lives_on_pings_alone():
    channel = await linked(FakeDoor(), pace=Pace(ping=0.01, silent_pings=20))
    wire = channel.client._wire(GATEWAY)
    ticks = []
    tick, wire._tick = wire._tick, lambda: (ticks.append(1), tick())
    wire._timer.cancel()
    wire._tick()
    await wait_until(lambda: len(ticks) > 60)
    assert channel.client._wire(GATEWAY) is wire
    await channel.close()


# -- what a gateway may say


@pytest.mark.parametrize(
    "broken",
    [codec.frame(Kind.CREDIT, 1, b"?"), HEADER.pack(MAX_FRAME + 1, Kind.CANCEL, 1) + bytes(MAX_FRAME + 1)],
    ids=["credit", "too long"],
)
async def test_a_broken_frame_ends_its_job_and_only_that(peered, broken):
    client, peer = peered
    _, control = await opened(client)
    outlet, other = await opened(client, "job-2")
    await peer.hear()
    await peer.hear()
    peer.say(broken)
    assert await peer.hear() == (Kind.BACK, 1, b"")
    assert control.orders == [Code.INTERRUPTED]
    outlet.head(HEAD)
    outlet.end()
    assert [(await peer.hear())[:2] for _ in range(2)] == [(Kind.HEAD, 2), (Kind.END, 2)]
    assert other.orders == []


async def test_frames_for_jobs_that_are_over_and_kinds_of_a_newer_version_are_skipped(peered):
    client, peer = peered
    _, control = await opened(client)
    await peer.hear()
    peer.say(codec.cancel(77, Code.CALLER_GONE) + codec.credit(77, 1) + codec.refused(77, Code.CALLER_GONE))
    peer.say(HEADER.pack(3, 99, 1) + b"new" + HEADER.pack(1, 35, 1) + b"?" + codec.frame(Kind.SPOOL, 0, b"?"))
    peer.say(codec.frame(Kind.DATA, 1, b"?") + codec.frame(Kind.PING, 0))
    assert await peer.hear() == (Kind.PONG, 0, b"")
    assert control.orders == []
    peer.say(codec.frame(Kind.CANCEL, 1, b"a code of tomorrow"))
    peer.say(codec.cancel(1, Code.CALLER_GONE) + codec.frame(Kind.PING, 0))
    assert await peer.hear() == (Kind.PONG, 0, b"")
    assert control.orders == [Code.CANCELLED]


async def test_a_lost_frame_border_ends_the_connection(peered):
    client, peer = peered
    _, control = await opened(client)
    peer.say(HEADER.pack(MAX_SKIP + 1, Kind.CANCEL, 1))
    await wait_until(lambda: control.orders)
    await peer.ended()
    await wait_until(lambda: "border" in client.troubles().get(GATEWAY, ""))


@pytest.mark.parametrize("order", [codec.cancel(1, Code.CANCELLED), codec.refused(1, Code.CALLER_GONE)])
async def test_an_executor_that_raises_harms_nobody_else(peered, order):
    client, peer = peered
    control = FakeControl(raises=True)
    outlet = await client.open(GATEWAY, "job-1", 1, control, window=10)
    _, other = await opened(client, "job-2")
    outlet.head(HEAD)
    outlet.data(b"x" * 11)
    peer.say(codec.credit(1, 11) + order + codec.cancel(2, Code.CANCELLED))
    await wait_until(lambda: other.orders)
    assert control.orders[:2] == ["pause", "resume"]
    assert len(control.orders) == 3
    assert client._wire(GATEWAY)


async def test_numbers_wrap_and_skip_those_in_use(peered):
    client, peer = peered
    first, _ = await opened(client)
    client._wire(GATEWAY)._number = 2**32 - 2
    await opened(client, "job-2")
    await opened(client, "job-3")
    assert [(await peer.hear())[1] for _ in range(3)] == [1, 2**32 - 1, 2]
    first.back()


# -- how calls become writes


async def test_frames_of_one_turn_leave_in_one_write(peered, monkeypatch):
    client, _ = peered
    outlets = [(await opened(client, f"job-{n}"))[0] for n in range(3)]
    wire = client._wire(GATEWAY)
    writes = record_writes(wire)
    for outlet in outlets:
        outlet.working()
        outlet.head(HEAD)
    assert writes == []
    await asyncio.sleep(0)
    assert [kinds(write) for write in writes] == [["WORKING", "HEAD"] * 3]
    writes.clear()
    outlets[0].data(b"first delta leaves at once")
    assert [kinds(write) for write in writes] == [["DATA"]]
    outlets[0].data(b"further ones")
    outlets[0].data(b"with their turn")
    assert len(writes) == 1
    await asyncio.sleep(0)
    assert [kinds(write) for write in writes] == [["DATA"], ["DATA", "DATA"]]
    outlets[0].data(b"last")
    outlets[0].end()
    assert [kinds(write) for write in writes[2:]] == [["DATA", "END"]]


def record_writes(wire):
    """Replace the wire's transport by one that records."""
    writes = []

    class Recorder:
        def __init__(self, transport):
            self._transport = transport

        def __getattr__(self, name):
            return getattr(self._transport, name)

        def write(self, data):
            writes.append(bytes(data))
            self._transport.write(data)

    wire._transport = Recorder(wire._transport)
    return writes


def kinds(data):
    return [Kind(kind).name for kind, _, _ in codec.Decoder().feed(data)]


async def test_no_delta_waits_for_a_delayed_ack():
    channel = await linked(FakeDoor())
    for wire in (channel.client._wire(GATEWAY), channel.server.wires[WORKER]):
        sock = wire._transport.get_extra_info("socket")
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    await channel.close()


async def test_nothing_is_written_after_close(peered):
    client, _ = peered
    outlet, _ = await opened(client)
    wire = client._wire(GATEWAY)
    writes = record_writes(wire)
    outlet.head(HEAD)
    wire._transport.abort()
    outlet.data(b"late")
    outlet.end()
    await wire.closed
    assert writes == []


async def test_pressure_on_the_link_pauses_its_jobs(peered):
    """The gateway reads nothing: the write buffer fills, and jobs far below their own window pause too."""
    client, peer = peered
    peer.reader._limit = 1024  # the stream's own flow control stops reading
    loud, loud_control = await opened(client, "job-1", window=1 << 40)
    quiet, quiet_control = await opened(client, "job-2", window=1 << 40)
    mute, mute_control = await opened(client, "job-3", window=1 << 40)
    for outlet in (loud, quiet):
        outlet.head(HEAD)
        outlet.data(b"x")
    for _ in range(1000):
        loud.data(bytes(65536))
        await asyncio.sleep(0)
        if loud_control.orders:
            break
    assert loud_control.orders == quiet_control.orders == ["pause"]
    assert mute_control.orders == []
    assert client._wire(GATEWAY)._transport.get_write_buffer_size() > HIGH_WATER
    late, late_control = await opened(client, "job-4", window=1 << 40)
    for outlet, control in ((mute, mute_control), (late, late_control)):
        outlet.head(HEAD)
        outlet.data(b"x")
        assert control.orders == ["pause"]
    _, told = await opened(client, "job-5")
    peer.say(codec.credit(1, 1 << 40) + codec.cancel(5, Code.CANCELLED))
    await wait_until(lambda: told.orders)
    assert loud_control.orders == ["pause"]
    quiet.end()
    while late_control.orders == ["pause"]:
        await peer.hear()
    assert loud_control.orders == mute_control.orders == ["pause", "resume"]
    assert quiet_control.orders == ["pause"]


async def test_a_unit_past_the_longest_frame_fails_its_job(peered, monkeypatch):
    client, peer = peered
    monkeypatch.setattr("foreman.link.outlet.MAX_FRAME", 100)
    outlet, control = await opened(client)
    outlet.head(HEAD)
    outlet.data(b"x" * 101)
    assert control.orders == [Code.UPSTREAM_ERROR]
    assert [(await peer.hear())[0] for _ in range(3)] == [Kind.STARTED, Kind.HEAD, Kind.ERROR]
    outlet.end()


# -- both ways behind one


async def test_a_switchboard_asks_the_process_first_then_the_links():
    near, far = FakeDoor(), FakeDoor()
    local = LocalLink()
    local.register("gw-near", near)
    channel = await linked(far)
    board = Switchboard(local, channel.client)
    address = f"127.0.0.1:{channel.server._server.sockets[0].getsockname()[1]}"
    board.update([presence("127.0.0.1:1", "gw-near"), presence("127.0.0.1:1", "gw-gone"), presence(address)])
    assert set(channel.client._gateways) == {GATEWAY, "gw-gone"}
    here, there = near.expect("job-1"), far.expect("job-2")
    await board.open("gw-near", "job-1", 1, FakeControl(), window=1)
    await board.open(GATEWAY, "job-2", 1, FakeControl(), window=1)
    await wait_until(lambda: here.names and there.names)
    await wait_until(board.unreachable)
    assert board.unreachable() == ("gw-gone",)
    with pytest.raises(NoLinkError):
        await local.open(GATEWAY, "job-2", 1, FakeControl(), window=1)
    await board.close()
    await channel.close()


def test_no_secret_no_link():
    with pytest.raises(ValueError, match="FOREMAN_LINK_SECRET"):
        LinkClient(WORKER, b"")


def test_an_outlet_needs_a_way():
    outlet = Metered("job-1", FakeControl(), 1)
    for call in (outlet.working, lambda: outlet.head(HEAD), lambda: outlet.data(b"")):
        with pytest.raises(NotImplementedError):
            call()
