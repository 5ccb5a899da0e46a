"""The wire: replies in order, one write a turn, healing by itself, every kind of trouble one kind of error."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import ssl
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import uvloop

from foreman.hosts import Hosts
from foreman.store import wire as wire_module
from foreman.store.client import locator, redis_client
from foreman.store.embedded import EmbeddedServer
from foreman.store.errors import ScriptError, StoreUnavailableError
from foreman.store.keys import PROBE, Keys
from foreman.store.url import parse
from foreman.store.wire import Wire
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

TLS = Path(__file__).with_name("tls")


@contextlib.asynccontextmanager
async def dialled(url: str, **options: Any) -> AsyncIterator[Wire]:
    where = parse(url)
    wire = Wire(where, locator(where), **options)
    try:
        await wire.open(5.0)
        yield wire
    finally:
        await wire.close()


class Server(asyncio.Protocol):
    """Answers each PING properly and all else as the test says (None: hang up)."""

    def __init__(self, answer: Callable[[bytes], bytes | None]) -> None:
        self._answer = answer

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        reply = b"+PONG\r\n" if b"PING" in data else self._answer(data)
        if reply is None:
            self._transport.close()
        else:
            self._transport.write(reply)


@contextlib.asynccontextmanager
async def server(answer: Callable[[bytes], bytes | None], tls: ssl.SSLContext | None = None) -> AsyncIterator[str]:
    loop = asyncio.get_running_loop()
    listening = await loop.create_server(lambda: Server(answer), "127.0.0.1", 0, ssl=tls)
    try:
        yield f"redis{'s' if tls else ''}://localhost:{listening.sockets[0].getsockname()[1]}"
    finally:
        listening.close()


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
async def test_replies_find_their_commands(valkey: str, run) -> None:
    async def main() -> list[bytes]:
        async with dialled(valkey) as wire:
            return await asyncio.gather(*(wire.command("ECHO", f"{number}") for number in range(2000)))

    assert await asyncio.to_thread(run, main()) == [b"%d" % number for number in range(2000)]


async def test_the_commands_of_one_turn_leave_in_one_write(valkey: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with dialled(valkey) as wire:
        pipe, writes = wire._pipe, []
        assert pipe is not None
        real = pipe._transport

        class Spy:
            def write(self, data: bytes) -> None:
                writes.append(data)
                real.write(data)

            def __getattr__(self, name: str) -> Any:
                return getattr(real, name)

        monkeypatch.setattr(pipe, "_transport", Spy())
        await asyncio.gather(*(wire.command("PING") for _ in range(50)))
        assert len(writes) == 1


async def test_bytes_pass_unharmed_in_any_size(valkey: str, pool: str) -> None:
    async with dialled(valkey) as wire:
        key = Keys(pool).of(PROBE, "blob")
        for blob in (b"", b"\r\n$-1\r\n", bytes(range(256)) * 20_000):
            await wire.command("SET", key, blob, "PX", 60_000)
            assert await wire.command("GET", key) == blob


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
async def test_a_request_of_megabytes_is_sent_uncopied_among_others(
    valkey: str, monkeypatch: pytest.MonkeyPatch, run
) -> None:
    big = bytes(range(256)) * 20_000
    args = (big, "", b"", "\u00e9", 7, 0.5, *(f"{number}" for number in range(30)), b"\r\n$-1\r\n", big)

    async def main() -> None:
        async with dialled(valkey) as wire:
            assert wire._pipe is not None
            pack, packed = wire_module.hiredis.pack_command, []
            monkeypatch.setattr(wire_module.hiredis, "pack_command", lambda args: packed.extend(args) or pack(args))
            before, echoed, after = await asyncio.gather(
                wire.command("ECHO", "before"),
                wire.command("EVAL", "return ARGV", 0, *args),
                wire.command("ECHO", "after"),
            )
            assert (before, after) == (b"before", b"after")
            assert echoed == [arg if isinstance(arg, bytes) else f"{arg}".encode() for arg in args]
            assert big not in packed
            assert await wire.command("ECHO", "later") == b"later"

    await asyncio.to_thread(run, main())


async def test_a_cancelled_command_does_not_shift_the_replies(valkey: str) -> None:
    async with dialled(valkey) as wire:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0):
                await wire.command("ECHO", "nobody waits for me")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0):
                await wire.command("NONSENSE")
        assert await wire.command("ECHO", "mine") == b"mine"


async def test_a_flushed_script_is_sent_again(valkey: str, pool: str) -> None:
    async with dialled(valkey, preload=False) as wire:
        await wire.command("SCRIPT", "FLUSH")
        for _ in range(2):
            assert await wire.script("counts", Keys(pool).prefix) == [0, 0, 0, 0, 0, 0]


async def test_what_the_server_refuses_is_our_fault(valkey: str) -> None:
    async with dialled(valkey) as wire:
        with pytest.raises(ScriptError, match="unknown command"):
            await wire.command("NONSENSE")
        assert await wire.command("ECHO", "still there") == b"still there"


@pytest.mark.parametrize("word", ["LOADING", "OOM", "MISCONF", "BUSY", "NOAUTH"])
async def test_a_server_unfit_for_now_is_unavailable(word: str) -> None:
    async with server(lambda _: f"-{word} not now\r\n".encode()) as url, dialled(url, preload=False) as wire:
        with pytest.raises(StoreUnavailableError, match=word):
            await wire.command("SET", "a", "b")


async def test_a_demoted_primary_is_looked_for_anew() -> None:
    asked = []
    async with server(lambda _: b"-READONLY You can't write against a read only replica.\r\n") as url:
        where = parse(url)
        find = locator(where)

        async def locate() -> tuple[str, int]:
            asked.append(1)
            return await find()

        wire = Wire(where, locate, preload=False)
        await wire.open(5.0)
        with pytest.raises(StoreUnavailableError):
            await wire.command("SET", "a", "b")
        await wire.command("PING")
        assert len(asked) == 2
        await wire.close()


async def test_what_was_in_flight_when_the_line_broke_fails_and_the_next_goes_through() -> None:
    answers = iter([None])
    async with server(lambda _: next(answers, b"+OK\r\n")) as url, dialled(url, preload=False) as wire:
        lost = await asyncio.gather(*(wire.command("SET", "a", n) for n in range(3)), return_exceptions=True)
        assert all(isinstance(error, StoreUnavailableError) for error in lost)
        assert await wire.command("SET", "a", "b") == b"OK"


async def test_a_silent_server_is_given_up() -> None:
    async with server(lambda _: b"") as url, dialled(url, preload=False, timeout=0.1) as wire:
        with pytest.raises(StoreUnavailableError, match=r"no reply within 0\.1 s"):
            await wire.command("GET", "a")
        await wire.command("PING")


async def test_one_that_speaks_no_resp_is_given_up() -> None:
    async with server(lambda _: b"HTTP/1.1 400 Bad Request\r\n\r\n") as url, dialled(url, preload=False) as wire:
        with pytest.raises(StoreUnavailableError, match="speaks no RESP"):
            await wire.command("GET", "a")


async def test_a_reply_nobody_asked_for_is_no_crash() -> None:
    async with server(lambda _: b"+OK\r\n+OK\r\n") as url, dialled(url, preload=False) as wire:
        assert await wire.command("GET", "a") == b"OK"
        await wait_until(lambda: wire._pipe is None or not wire._pipe.alive)
        await wire.command("PING")


async def test_nobody_there(tmp_path: Path) -> None:
    where = parse(f"unix://{tmp_path}/none.sock")
    wire = Wire(where, locator(where), patience=0.01)
    with pytest.raises(StoreUnavailableError, match=r"none\.sock does not answer"):
        await wire.open(0.05)
    with pytest.raises(StoreUnavailableError):
        await wire.command("PING")
    await wire.close()


async def test_who_gave_up_waiting_dials_no_more(tmp_path: Path) -> None:
    where = parse(f"unix://{tmp_path}/none")
    wire = Wire(where, locator(where))
    with pytest.raises(StoreUnavailableError):
        await wire.open(0.02)
    assert [task for task in asyncio.all_tasks() if task.get_name() == "store.wire.dial"] == []


async def test_a_host_that_is_no_name_is_said_to_be_none() -> None:
    where = parse("redis://store..lan")
    with pytest.raises(StoreUnavailableError, match=r"store\.\.lan is no host name"):
        await Wire(where, locator(where)).open(0.5)


async def test_its_name_is_looked_up_past_the_loops_own_threads() -> None:
    """Those are a handful, and a silent name server would stop all other look-ups too."""
    asked: list[str] = []

    def resolver(host: str, port: int, **_: Any) -> Any:
        asked.append(host)
        return socket.getaddrinfo("127.0.0.1", port, type=socket.SOCK_STREAM)

    async with server(lambda _: b"+OK\r\n") as url:
        where = parse(url.replace("localhost", "store.test"))
        wire = Wire(where, locator(where), preload=False)
        wire._hosts = Hosts(resolver)
        await wire.open(10.0)
        assert await wire.command("GET", "a") == b"OK"
        await wire.close()
    assert asked == ["store.test"]


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("can't start new thread")])
async def test_it_dials_on_whatever_a_dial_died_of(
    valkey: str, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    async with dialled(valkey, patience=60) as wire:
        whole, left = Wire._greet, [error, error]

        async def greet(self: Wire, pipe: Any) -> None:
            if left:
                raise left.pop()
            await whole(self, pipe)

        monkeypatch.setattr(Wire, "_greet", greet)
        assert wire._pipe is not None
        wire._pipe.abort("gone")
        assert await wire.command("PING") == b"PONG"
        assert left == []


async def test_closed_is_closed(valkey: str) -> None:
    async with dialled(valkey, patience=3600) as wire:
        blocked = asyncio.gather(wire.command("BLPOP", "foreman:none:list", 5), return_exceptions=True)
        await asyncio.sleep(0)  # it is on its way
        await wire.close()
        (error,) = await blocked
        assert isinstance(error, StoreUnavailableError)
        async with asyncio.timeout(60):
            with pytest.raises(StoreUnavailableError, match="closed"):
                await wire.command("PING")


async def test_over_tls_with_the_certificate_checked() -> None:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(TLS / "cert.pem", TLS / "key.pem")
    async with server(lambda _: b"+OK\r\n", context) as url:
        async with dialled(f"{url}?ssl_ca_certs={TLS}/cert.pem", preload=False) as wire:
            assert await wire.command("GET", "a") == b"OK"
        async with dialled(f"{url}?ssl_cert_reqs=none", preload=False) as wire:
            assert await wire.command("GET", "a") == b"OK"
        where = parse(url)
        stranger = Wire(where, locator(where))
        with pytest.raises(StoreUnavailableError, match="certificate verify failed"):
            await stranger.open(1.0)
        await stranger.close()


async def test_user_password_and_database(valkey: str) -> None:
    async with redis_client(valkey) as client:
        await client.execute_command("ACL", "SETUSER", "wire", "on", ">geheim", "~*", "+@all")
        try:
            path = valkey.removeprefix("unix://")
            async with dialled(f"unix://wire:geheim@{path}?db=3") as wire:
                info = (await wire.command("CLIENT", "INFO")).decode()
                assert " user=wire " in info
                assert " db=3 " in info
            where = parse(f"unix://wire:wrong@{path}")
            stranger = Wire(where, locator(where))
            with pytest.raises(StoreUnavailableError, match="WRONGPASS"):
                await stranger.open(0.2)
            await stranger.close()
        finally:
            await client.execute_command("ACL", "DELUSER", "wire")


async def test_a_killed_server_costs_what_was_in_flight_and_no_more(tmp_path: Path) -> None:
    embedded = EmbeddedServer(tmp_path, "always")
    embedded.start()
    try:
        async with dialled(embedded.url, patience=10.0) as wire:
            await wire.command("SET", "kept", "yes")
            blocked = asyncio.gather(wire.command("BLPOP", "none", 30), return_exceptions=True)
            await asyncio.sleep(0)  # it is on its way
            assert embedded.pid is not None
            os.kill(embedded.pid, signal.SIGKILL)
            (error,) = await blocked
            assert isinstance(error, StoreUnavailableError)
            assert await wire.command("GET", "kept") == b"yes"
    finally:
        embedded.stop()
