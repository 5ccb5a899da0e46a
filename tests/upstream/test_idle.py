"""The connection of a call that has ended, left to the next: used at once or not at all, and never at a call's cost."""

import asyncio

import pytest

from foreman.upstream import client as client_module
from foreman.upstream import idle
from foreman.upstream.client import Client, Request
from foreman.upstream.faults import Kind
from tests.upstream.test_client import Recorder, read_request, server

WHOLE = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


class Server:
    """Answers requests until told otherwise, and counts connections and requests."""

    def __init__(self, *answers: bytes, per_connection: int = 1_000) -> None:
        self.answers = answers or (WHOLE,)
        self.per_connection = per_connection
        self.connections = self.requests = self.open = 0
        self.changed = asyncio.Event()
        self.heads: list[bytes] = []

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.open += 1
        try:
            for _ in range(self.per_connection):
                head, _ = await read_request(reader)
                self.heads.append(head)
                writer.write(self.answers[self.requests % len(self.answers)])
                self.requests += 1
                await writer.drain()
            await reader.read(1)  # the next request: it is not answered
        finally:
            self.open -= 1
            self.changed.set()

    async def closed(self) -> None:
        async with asyncio.timeout(60):
            while self.open:
                self.changed.clear()
                await self.changed.wait()


async def call(client: Client, *, follows: bool = True) -> Recorder:
    recorder = Recorder()
    client.start(Request("POST", "/api/chat", b"{}"), recorder, follows=follows)
    async with asyncio.timeout(60):
        await recorder.over.wait()
    return recorder


async def test_calls_that_follow_each_other_share_a_connection():
    script = Server()
    async with server(script) as url:
        client = Client(url)
        for _ in range(3):
            assert (await call(client)).body_bytes == b"ok"
        assert (script.connections, script.requests) == (1, 3)
        assert all(b"Connection: keep-alive\r\n" in head for head in script.heads)
        assert (await call(client, follows=False)).body_bytes == b"ok"
        assert script.connections == 2, "a probe or a change of models has one of its own"
        assert b"Connection: close\r\n" in script.heads[-1]
        await client.close()
        await script.closed()


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok",
    ],
)
async def test_a_server_that_wants_none_gets_none(answer):
    script = Server(answer)
    async with server(script) as url:
        client = Client(url)
        await call(client)
        await call(client)
        assert script.connections == 2
        await client.close()


async def test_a_cancelled_call_leaves_nothing():
    script = Server(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nok")
    async with server(script) as url:
        client = Client(url)
        recorder = Recorder()
        begun = client.start(Request("POST", "/"), recorder, follows=True)
        async with asyncio.timeout(60):
            await recorder.heard.wait()
        begun.close()
        await script.closed()
        await client.close()


async def test_one_that_dies_under_a_call_is_a_reset_and_none_is_kept_for_a_while(monkeypatch):
    script = Server(per_connection=1)  # it closes when the second request comes, without a byte
    async with server(script) as url:
        client = Client(url)
        await call(client)
        assert (await call(client)).fault.kind is Kind.RESET
        assert (script.connections, script.requests) == (1, 1), "nothing is sent twice"
        for already in (1, 2):
            assert (await call(client)).body_bytes == b"ok"
            assert script.connections == already + 1, "fresh ones only"
        await client.close()
        monkeypatch.setattr(client_module, "DISTRUST", 0.0)
        client = Client(url)
        await call(client)
        assert (await call(client)).fault.kind is Kind.RESET
        await call(client)
        assert (await call(client)).fault.kind is Kind.RESET, "later they are kept again"
        await client.close()


async def test_a_fresh_connection_that_dies_without_a_byte_is_a_reset_and_nothing_is_sent_again():
    script = Server(per_connection=0)
    async with server(script) as url:
        client = Client(url)
        assert (await call(client)).fault.kind is Kind.RESET
        assert script.connections == 1
        await client.close()


async def test_a_reused_connection_that_dies_within_the_answer_is_a_fault():
    script = Server(WHOLE, b"HTTP/1.1 200 OK\r\nContent-", per_connection=2)

    async def cut(reader, writer):
        script.connections += 1
        for answer in script.answers:
            await read_request(reader)
            writer.write(answer)

    async with server(cut) as url:
        client = Client(url)
        await call(client)
        assert (await call(client)).fault.kind is Kind.RESET
        assert script.connections == 1
        await client.close()


async def test_a_server_that_went_away_is_down_and_its_idle_connections_hide_nothing():
    script = Server()
    async with server(script) as url:
        client = Client(url)
        await call(client)
    async with asyncio.timeout(60):
        while client._idle:  # noqa: ASYNC110 - nobody is told of a connection that nobody uses
            await asyncio.sleep(0)
    assert (await call(client)).fault.kind is Kind.REFUSED
    await client.close()


async def test_nobody_follows_within_a_moment_and_it_is_closed(monkeypatch):
    monkeypatch.setattr(idle, "KEPT", 0.05)
    script = Server()
    async with server(script) as url:
        client = Client(url)
        await call(client)
        await script.closed()
        assert (await call(client)).body_bytes == b"ok"
        assert script.connections == 2
        await client.close()


class Line(asyncio.Transport):
    """A connection that takes everything and never ends."""

    def write(self, data):
        pass

    def is_closing(self):
        return False

    def set_protocol(self, protocol):
        pass

    def abort(self):
        pass


async def test_an_answer_that_outruns_its_own_connect_task_leaves_a_connection_that_lives(monkeypatch):
    """A task that is cancelled within create_connection takes the connection along, and tells nobody."""
    through = asyncio.Event()

    async def connect(begun):
        begun.connection_made(Line())
        begun.data_received(WHOLE)
        await asyncio.sleep(0)
        through.set()

    client = Client("http://127.0.0.1:1")
    monkeypatch.setattr(client, "_connect", connect)
    assert (await call(client)).body_bytes == b"ok"
    async with asyncio.timeout(60):
        await through.wait()
    await client.close()
