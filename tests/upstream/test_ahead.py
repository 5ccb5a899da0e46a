"""A connection begun before its call: used once, for a moment, and never where a fresh one would have served better."""

import asyncio

import pytest

from foreman.upstream import ahead
from foreman.upstream.client import Client, Request
from foreman.upstream.faults import Kind
from tests.upstream.test_client import Recorder, read_request, server

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


class Counting:
    """A server that answers each request and counts its connections."""

    def __init__(self) -> None:
        self.accepted = 0
        self.open = 0
        self.changed = asyncio.Event()

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        self.open += 1
        self.changed.set()
        try:
            await read_request(reader)
            writer.write(ANSWER)
            await writer.drain()
        finally:
            self.open -= 1
            self.changed.set()

    async def until(self, *, accepted: int, open_now: int) -> None:
        async with asyncio.timeout(10):
            while (self.accepted, self.open) != (accepted, open_now):
                self.changed.clear()
                await self.changed.wait()


async def call(client: Client) -> Recorder:
    recorder = Recorder()
    client.start(Request("GET", "/"), recorder)
    async with asyncio.timeout(10):
        await recorder.over.wait()
    return recorder


@pytest.mark.parametrize("stands", [True, False])
async def test_the_next_call_gets_it_and_only_that_one(stands):
    script = Counting()
    async with server(script) as url:
        client = Client(url)
        client.ahead()
        client.ahead()
        if stands:
            await script.until(accepted=1, open_now=1)
        assert (await call(client)).body_bytes == b"ok"
        assert script.accepted == 1
        assert (await call(client)).body_bytes == b"ok"
        assert script.accepted == 2
        await client.close()


async def test_nobody_needs_it_for_a_moment_and_it_is_closed(monkeypatch):
    monkeypatch.setattr(ahead, "AHEAD", 0.05)
    script = Counting()
    async with server(script) as url:
        client = Client(url)
        client.ahead()
        await script.until(accepted=1, open_now=0)
        assert (await call(client)).body_bytes == b"ok"
        assert script.accepted == 2
        await client.close()


async def test_one_that_the_server_closed_hurts_no_call():
    closed = asyncio.Event()
    accepted = 0

    async def script(reader, writer):
        nonlocal accepted
        accepted += 1
        if accepted == 1:
            writer.close()
            closed.set()
            return
        await read_request(reader)
        writer.write(ANSWER)

    async with server(script) as url:
        client = Client(url)
        client.ahead()
        async with asyncio.timeout(10):
            await closed.wait()
            while not client._ahead.over:  # noqa: ASYNC110 - nobody is told of a connection that nobody uses
                await asyncio.sleep(0)  # the loop reads the server's FIN
        assert (await call(client)).body_bytes == b"ok"
        assert accepted == 2
        await client.close()


async def test_a_refused_one_is_told_by_the_call_that_needs_it(unused_port):
    client = Client(f"http://127.0.0.1:{unused_port}")
    client.ahead()
    recorder = await call(client)
    assert recorder.fault.kind is Kind.REFUSED
    assert (await call(client)).fault.kind is Kind.REFUSED
    await client.close()


async def test_a_call_closed_while_it_waits_for_it_takes_it_along():
    script = Counting()
    async with server(script) as url:
        client = Client(url)
        client.ahead()
        recorder = Recorder()
        client.start(Request("GET", "/"), recorder).close()
        assert (await call(client)).body_bytes == b"ok"
        assert not recorder.status
        assert recorder.fault is None
        await script.until(accepted=script.accepted, open_now=0)
        await client.close()


async def test_the_client_leaves_none_behind():
    script = Counting()
    async with server(script) as url:
        client = Client(url)
        client.ahead()
        await script.until(accepted=1, open_now=1)
        await client.close()
        await script.until(accepted=1, open_now=0)
