"""Look-ups of strangers' names: a silent name server is its own domain's trouble."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections import Counter

import pytest
import uvloop

from foreman import hosts as hosts_module
from foreman.hosts import AT_ONCE, OF_A_DOMAIN, Hosts
from tests.attack.ground import until
from tests.receivers import Receivers
from tests.rig import free_port
from workers.deliveries import post
from workers.deliveries.post import Patience, Poster


class NameServer:
    """Answers 127.0.0.1, nothing for `nowhere.…`, and is silent about `*.hung.example` and `*.silent` until `go` is set."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.asked: Counter[str] = Counter()

    def __call__(self, host, port, **_kwargs):
        self.asked[host] += 1
        if host.endswith((".hung.example", ".silent")):
            self.go.wait(60)
        if host.startswith("nowhere."):
            raise socket.gaierror(socket.EAI_NONAME, "no such name")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]


@pytest.fixture
def server():
    made = NameServer()
    yield made
    made.go.set()


async def test_a_silent_domain_holds_up_itself_only(server):
    hosts = Hosts(server)
    async with asyncio.TaskGroup() as group:
        hung = [group.create_task(hosts.look_up(f"n{n}.hung.example")) for n in range(3 * OF_A_DOMAIN)]
        await until(lambda: len(server.asked) == OF_A_DOMAIN)
        found = await asyncio.wait_for(hosts.look_up("fine.test"), 20)
        assert found[0][4][0] == "127.0.0.1"
        assert len(server.asked) == OF_A_DOMAIN + 1
        assert not any(one.done() for one in hung)
        server.go.set()
    assert len(server.asked) == 3 * OF_A_DOMAIN + 1, "in the end each had its turn"


async def test_silent_domains_leave_room_for_the_next(server):
    hosts = Hosts(server)
    async with asyncio.TaskGroup() as group:
        for number in range(20 * OF_A_DOMAIN):
            group.create_task(hosts.look_up(f"n{number // 20}.of{number % 20}.silent"))
        await until(lambda: len({name.partition(".")[2] for name in server.asked}) == 20)
        found = await asyncio.wait_for(hosts.look_up("fine.test"), 20)
        assert found[0][4][0] == "127.0.0.1"
        server.go.set()
    assert len(server.asked) == 20 * OF_A_DOMAIN + 1


async def test_so_many_in_all_and_each_name_once(server):
    hosts = Hosts(server)
    async with asyncio.TaskGroup() as group:
        for n in [*range(AT_ONCE), *range(AT_ONCE)]:
            group.create_task(hosts.look_up(f"one.n{n}.silent"))
        late = group.create_task(hosts.look_up("fine.test"))
        await until(lambda: len(server.asked) == AT_ONCE - 3)
        server.go.set()
    assert late.result()
    assert set(server.asked.values()) == {1}


async def test_who_gives_up_leaves_nothing_behind(server):
    hosts = Hosts(server)
    for n in range(OF_A_DOMAIN + 3):
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(hosts.look_up(f"n{n}.hung.example"), 0.001)
    server.go.set()
    assert await hosts.look_up("again.hung.example")
    assert len(server.asked) == OF_A_DOMAIN + 1, "three had not been asked for yet"


async def test_no_such_name(server):
    hosts = Hosts(server)
    for _ in range(2):
        with pytest.raises(socket.gaierror):
            await hosts.look_up("nowhere.example")
    assert server.asked["nowhere.example"] == 2


async def test_no_thread_to_be_had_is_no_end_for_the_name(server, monkeypatch):
    hosts = Hosts(server)

    def refuse(_thread):
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        with pytest.raises(OSError, match="can't start new thread"):
            await asyncio.wait_for(hosts.look_up("fine.test"), 20)
    assert await asyncio.wait_for(hosts.look_up("fine.test"), 20)


@pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_an_address_of_a_link_is_dialled_by_its_interface(loop, monkeypatch):
    dialled, interface = [], socket.if_nameindex()[0][0]
    spell = hosts_module._spelled

    def note(where):
        dialled.append(spell(where))
        return dialled[-1]

    monkeypatch.setattr(hosts_module, "_spelled", note)
    found = [
        (socket.AF_INET6, socket.SOCK_STREAM, 6, "", (address, 0, 0, on))
        for address, on in [("fe80::1", interface), ("::1", 0)]
    ]
    port = free_port()

    async def connect():
        with pytest.raises(OSError, match=r"^(?!.*Invalid argument)"):  # as where the interface got lost
            await Hosts(lambda *_args, **_kwargs: found).connect(asyncio.Protocol, "box.local", port)

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(connect())
    assert dialled == [f"fe80::1%{interface}", "::1"]


async def test_the_first_address_that_takes_a_connection(server):
    def two(host, port, **_kwargs):
        return [*server("first", port), *server("second", port)][::-1] if host == "two.test" else server(host, port)

    hosts = Hosts(
        lambda *args, **kwargs: [(*one[:4], (f"127.0.0.{2 - at}", 0)) for at, one in enumerate(two(*args, **kwargs))]
    )
    async with Receivers() as receivers:
        protocol = await hosts.connect(asyncio.Protocol, "two.test", receivers.port)
        assert isinstance(protocol, asyncio.Protocol)
        await until(lambda: receivers.connections == 1)
        with pytest.raises(ConnectionRefusedError, match="Connection refused"):
            await hosts.connect(asyncio.Protocol, "one.test", receivers.port)
        await hosts.connect(asyncio.Protocol, "127.0.0.1", receivers.port)
    with pytest.raises(ConnectionRefusedError, match=r"^\[Errno \d+\] Connection refused$"):
        await hosts.connect(asyncio.Protocol, "two.test", receivers.port)
    with pytest.raises(OSError, match="no such name"):
        await hosts.connect(asyncio.Protocol, "nowhere.example", 80)
    assert not server.asked["127.0.0.1"]


async def test_an_address_that_is_dead_costs_a_moment_and_once(monkeypatch):
    """A machine's AAAA that nothing answers stands before its A, as in many a home's name server."""
    loop, dialled = asyncio.get_running_loop(), []
    dial = loop.sock_connect

    async def hang(sock, where):
        dialled.append(where[0])
        await (asyncio.Event().wait() if where[0] == "127.0.0.9" else dial(sock, where))

    monkeypatch.setattr(loop, "sock_connect", hang)
    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (f"127.0.0.{last}", 0)) for last in (9, 1)]
    hosts = Hosts(lambda *_args, **_kwargs: found)
    async with Receivers() as receivers, asyncio.timeout(20):
        for _ in range(2):
            await hosts.connect(asyncio.Protocol, "box.lan", receivers.port)
        await until(lambda: receivers.connections == 2)
    assert dialled == ["127.0.0.9", "127.0.0.1", "127.0.0.1"]


async def test_webhooks_go_out_while_names_hang(server, monkeypatch):
    monkeypatch.setattr(post, "Hosts", lambda: Hosts(server))
    async with Receivers() as receivers, asyncio.TaskGroup() as group:
        poster = Poster(post.destinations.parse("*.test,*.example"), Patience())
        hung = [group.create_task(poster.post(f"http://n{n}.hung.example/", {}, b"")) for n in range(20)]
        await until(lambda: server.asked)
        reply = await poster.post(f"http://fine.test:{receivers.port}/", {}, b"{}")
        assert reply.status == 200
        assert not any(one.done() for one in hung)
        for one in hung:
            one.cancel()
        await poster.close()
