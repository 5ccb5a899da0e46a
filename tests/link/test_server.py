"""A gateway's link port against workers that are broken, stale, hostile or newer: a raw peer says every byte."""

from __future__ import annotations

import asyncio

import pytest
from structlog.testing import capture_logs

from foreman.core.errors import Code
from foreman.link.address import LinkSetupError, parse
from foreman.link.server import STRANGERS, LinkServer
from foreman.link.wire import Pace
from foreman.protocols import link as codec
from foreman.protocols.link import HEADER, MAX_FRAME, MAX_SKIP, Kind
from foreman.protocols.link_hello import HelloError
from tests.link.fakes import GATEWAY, HEAD, SECRET, FakeDoor, RawPeer, linked, wait_until

HEAD_FRAME = codec.head(1, HEAD.status, HEAD.headers, HEAD.framing)


@pytest.fixture
async def gateway():
    door = FakeDoor()
    server = LinkServer(door, GATEWAY, SECRET, "127.0.0.1:0")
    address = await server.start()
    yield door, server, address
    await server.stop()


@pytest.mark.parametrize(
    "garbage",
    [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        codec.frame(Kind.HELLO, 0, b"{}"),
        codec.frame(Kind.HELLO, 0, b"x" * 5000),
        codec.started(1, 1, "job-1") * 1000,
        HEADER.pack(MAX_SKIP + 1, Kind.DATA, 1),
    ],
)
async def test_a_broken_hello_ends_its_connection_and_only_that(gateway, garbage):
    door, server, address = gateway
    door.expect("job-1")
    good = await RawPeer.dial(address)
    stranger = RawPeer(*await asyncio.open_connection(*parse(address)))
    with capture_logs() as logs:
        stranger.say(garbage)
        await stranger.ended()
        await wait_until(lambda: not server.strangers)
    assert len([log for log in logs if log["event"] == "link.refused"]) <= 1
    good.say(codec.started(1, 1, "job-1"))
    await wait_until(lambda: door.sinks["job-1"].names == ["started"])
    await stranger.close()
    await good.close()


async def test_a_wrong_secret_is_refused_and_told(gateway):
    _, server, address = gateway
    with pytest.raises(HelloError, match="FOREMAN_LINK_SECRET"):
        await RawPeer.dial(address, secret=b"guess")
    assert server.workers == ()


async def test_a_worker_that_says_no_hello_is_dropped_in_time(gateway):
    server = LinkServer(FakeDoor(), GATEWAY, SECRET, "127.0.0.1:0", pace=Pace(hello=0.05))
    silent = RawPeer(*await asyncio.open_connection(*parse(await server.start())))
    await silent.ended()
    await wait_until(lambda: not server.strangers)
    await silent.close()
    await server.stop()


async def test_strangers_are_counted(gateway):
    _, server, address = gateway
    crowd = [RawPeer(*await asyncio.open_connection(*parse(address))) for _ in range(STRANGERS + 5)]
    await wait_until(lambda: len(server.strangers) == STRANGERS)
    await crowd[-1].ended()
    for stranger in crowd:
        await stranger.close()
    await wait_until(lambda: not server.strangers)
    peer = await RawPeer.dial(address)
    assert server.workers == ("wk-01",)
    await peer.close()


@pytest.mark.parametrize(
    "broken",
    [
        codec.frame(Kind.HEAD, 1, b"{"),
        codec.frame(Kind.HEAD, 1, b'{"status":200,"headers":[],"framing":99}'),
        codec.frame(Kind.DATA, 1, b"data before head"),
        codec.frame(Kind.END, 1),
        codec.frame(Kind.ERROR, 1, b"?"),
        codec.started(1, 2, "job-2"),
        codec.frame(Kind.WORKING, 1) * 2,
        HEADER.pack(MAX_FRAME + 1, Kind.DATA, 1) + bytes(MAX_FRAME + 1),
        codec.frame(Kind.BROKEN, 1, b"\xff"),
    ],
    ids=["head", "framing", "order", "end", "error", "started twice", "working twice", "too long", "kind 0"],
)
async def test_a_broken_frame_ends_its_job_and_only_that(gateway, broken):
    door, _, address = gateway
    sink, other = door.expect("job-1"), door.expect("job-9")
    door.expect("job-2")
    peer = await RawPeer.dial(address)
    peer.say(codec.started(1, 1, "job-1") + codec.started(9, 1, "job-9"))
    peer.say(broken + codec.frame(Kind.DATA, 1, b"late") + codec.frame(Kind.END, 1))
    assert await peer.hear() == (Kind.CANCEL, 1, b"interrupted")
    await wait_until(lambda: sink.names[-1] == "lost")
    peer.say(codec.head(9, 200, (), 0) + codec.frame(Kind.DATA, 9, b"well") + codec.frame(Kind.END, 9))
    await wait_until(lambda: other.names[-1] == "end")
    assert sink.names[-1] == "lost"
    assert "data" not in sink.names
    await peer.close()


async def test_a_started_that_says_nothing_is_refused(gateway):
    door, _, address = gateway
    sink = door.expect("job-1")
    peer = await RawPeer.dial(address)
    peer.say(codec.frame(Kind.STARTED, 4, b"short") + codec.frame(Kind.STARTED, 0, b"\0" * 8 + b"job-1"))
    peer.say(codec.frame(Kind.DATA, 4, b"of nobody"))
    assert await peer.hear() == (Kind.REFUSED, 4, b"interrupted")
    peer.say(codec.frame(Kind.PING, 0))
    assert await peer.hear() == (Kind.PONG, 0, b"")
    assert sink.names == []
    await peer.close()


async def test_kinds_of_a_newer_version_are_skipped(gateway):
    door, _, address = gateway
    sink = door.expect("job-1")
    peer = await RawPeer.dial(address)
    news = HEADER.pack(3, 77, 1) + b"new" + HEADER.pack(3, 77, 0) + b"new" + HEADER.pack(3, 77, 5) + b"new"
    reserved = HEADER.pack(0, 23, 1) + HEADER.pack(0, 35, 1) + codec.frame(Kind.SPOOL, 0, b"")
    peer.say(codec.started(1, 1, "job-1") + news + HEAD_FRAME + reserved + codec.frame(Kind.END, 1))
    await wait_until(lambda: "end" in sink.names)
    assert sink.names == ["started", "head", "end"]
    await peer.close()


async def test_frames_of_an_old_epoch_are_dropped(gateway):
    """A worker that stalled comes back while a second one already runs its job."""
    door, _, address = gateway
    first, second = door.expect("job-1"), None
    old = await RawPeer.dial(address, worker="wk-old")
    old.say(codec.started(1, 1, "job-1") + HEAD_FRAME)
    await wait_until(lambda: "head" in first.names)
    second = door.sinks["job-1"] = type(first)()
    new = await RawPeer.dial(address, worker="wk-new")
    new.say(codec.started(1, 2, "job-1"))
    assert await old.hear() == (Kind.CANCEL, 1, b"interrupted")
    old.say(codec.frame(Kind.DATA, 1, b"stale") + codec.frame(Kind.END, 1))
    old.say(codec.started(2, 1, "job-1"))
    assert await old.hear() == (Kind.REFUSED, 2, b"interrupted")
    new.say(HEAD_FRAME + codec.frame(Kind.DATA, 1, b"fresh") + codec.frame(Kind.END, 1))
    await wait_until(lambda: "end" in second.names)
    assert first.names == ["started", "head", "lost"]
    assert second.calls == [("started", 2), ("head", HEAD), ("data", b"fresh"), ("end",)]
    old.say(codec.started(3, 2, "job-1"))
    assert await old.hear() == (Kind.REFUSED, 3, b"interrupted")
    await old.close()
    await new.close()


async def test_a_worker_that_dies_loses_its_sinks(gateway):
    door, server, address = gateway
    sinks = [door.expect(f"job-{n}") for n in range(3)]
    sinks[0].raises = {"lost"}
    peer = await RawPeer.dial(address)
    for n in range(3):
        peer.say(codec.started(n + 1, 1, f"job-{n}"))
    await wait_until(lambda: all(sink.names for sink in sinks))
    peer.writer.transport.abort()
    await wait_until(lambda: not server.workers)
    assert [sink.names for sink in sinks] == [["started", "lost"]] * 3


async def test_a_worker_that_dials_anew_replaces_its_old_connection(gateway):
    door, server, address = gateway
    sink = door.expect("job-1")
    old = await RawPeer.dial(address)
    old.say(codec.started(1, 1, "job-1"))
    await wait_until(lambda: sink.names)
    new = await RawPeer.dial(address)
    await old.ended()
    await wait_until(lambda: sink.names == ["started", "lost"])
    assert server.workers == ("wk-01",)
    await old.close()
    await new.close()
    await wait_until(lambda: not server.workers)


async def test_a_silent_worker_is_seen_dead(gateway):
    door = FakeDoor()
    sink = door.expect("job-1")
    server = LinkServer(door, GATEWAY, SECRET, "127.0.0.1:0", pace=Pace(ping=0.02))
    peer = await RawPeer.dial(await server.start())
    peer.say(codec.started(1, 1, "job-1"))
    with capture_logs() as logs:
        await wait_until(lambda: not server.workers)
    assert sink.names == ["started", "lost"]
    assert any(log["event"] == "link.down" and "silent" in log["reason"] for log in logs)
    await peer.close()
    await server.stop()


async def test_a_caller_that_leaves_is_told_once(gateway):
    door, _, address = gateway
    sink = door.expect("job-1")
    peer = await RawPeer.dial(address)
    peer.say(codec.started(1, 1, "job-1"))
    await wait_until(lambda: sink.feedback)
    sink.feedback.cancel(Code.CALLER_GONE)
    sink.feedback.cancel(Code.CANCELLED)
    sink.feedback.credit(7)
    assert await peer.hear() == (Kind.CANCEL, 1, b"caller_gone")
    assert await peer.hear() == (Kind.CREDIT, 1, b"\0" * 7 + b"\x07")
    await peer.close()


async def test_a_ping_is_answered(gateway):
    _, _, address = gateway
    peer = await RawPeer.dial(address)
    peer.say(codec.frame(Kind.PING, 0))
    assert await peer.hear() == (Kind.PONG, 0, b"")
    await peer.close()


async def test_a_door_that_raises_refuses_its_job_only(gateway):
    door, _, address = gateway
    peer = await RawPeer.dial(address)
    accept, door.accept = door.accept, None
    peer.say(codec.started(1, 1, "job-1"))
    assert await peer.hear() == (Kind.REFUSED, 1, b"caller_gone")
    door.accept = accept
    sink = door.expect("job-2")
    peer.say(codec.started(2, 1, "job-2"))
    await wait_until(lambda: sink.names == ["started"])
    await peer.close()


async def test_stopping_closes_the_links_and_the_port():
    door = FakeDoor()
    sink = door.expect("job-1")
    channel = await linked(door)
    await channel.open("job-1")
    await wait_until(lambda: sink.names)
    await channel.server.stop()
    await channel.server.stop()
    assert sink.names == ["started", "lost"]
    await wait_until(lambda: channel.client.unreachable() == (GATEWAY,))
    await channel.close()


@pytest.mark.parametrize(
    ("bind", "announced", "expected"),
    [
        ("127.0.0.1:0", None, "127.0.0.1:{}"),
        ("127.0.0.1:0", "gateway:0", "gateway:{}"),
        ("127.0.0.1:0", "gateway:7480", "gateway:7480"),
        (":0", None, "0.0.0.0:{}"),
    ],
)
async def test_the_address_is_announced_as_written_with_the_port_it_got(bind, announced, expected):
    server = LinkServer(FakeDoor(), GATEWAY, SECRET, bind, announced)
    said = await server.start()
    assert said == expected.format(server._server.sockets[0].getsockname()[1])
    await server.stop()


async def test_a_port_that_is_taken_is_an_error_of_the_start():
    first = LinkServer(FakeDoor(), GATEWAY, SECRET, "127.0.0.1:0")
    address = await first.start()
    with pytest.raises(LinkSetupError, match=r"FOREMAN_LINK_ADDR binds .*address already in use"):
        await LinkServer(FakeDoor(), GATEWAY, SECRET, address).start()
    await first.stop()


def test_no_secret_no_link():
    with pytest.raises(ValueError, match="FOREMAN_LINK_SECRET"):
        LinkServer(FakeDoor(), GATEWAY, b"", "127.0.0.1:0")
