"""The upstream client against servers that say exactly the bytes of a script."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from foreman.core.errors import Code
from foreman.upstream.client import Call, Client, Patience, Request
from foreman.upstream.faults import Fault, Kind

Script = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Recorder:
    """A receiver that writes everything down."""

    def __init__(self) -> None:
        self.status = 0
        self.headers = ()
        self.pieces: list[bytes] = []
        self.fault: Fault | None = None
        self.over = asyncio.Event()
        self.heard = asyncio.Event()
        self.ends = 0

    @property
    def body_bytes(self) -> bytes:
        return b"".join(self.pieces)

    def head(self, status, headers):
        assert not self.status, "two heads"
        self.status, self.headers = status, headers

    def body(self, data):
        assert self.status, "a body before its head"
        assert not self.over.is_set(), "a body after the end"
        self.pieces.append(data)
        self.heard.set()

    def end(self):
        self.ends += 1
        self.over.set()

    def failed(self, fault):
        assert not self.over.is_set()
        self.fault = fault
        self.over.set()


@contextlib.asynccontextmanager
async def server(script: Script) -> AsyncIterator[str]:
    """Serve `script` to each connection; its address."""
    closers = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        closers.append(writer)
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            await script(reader, writer)
        writer.close()

    listener = await asyncio.start_server(serve, "127.0.0.1", 0)
    host, port = listener.sockets[0].getsockname()
    try:
        yield f"http://{host}:{port}"
    finally:
        listener.close()
        for writer in closers:
            writer.transport.abort()
        await listener.wait_closed()


async def read_request(reader: asyncio.StreamReader) -> tuple[bytes, bytes]:
    head = await reader.readuntil(b"\r\n\r\n")
    for line in head.split(b"\r\n"):
        if line.lower().startswith(b"content-length:"):
            return head, await reader.readexactly(int(line.split(b":")[1]))
    return head, b""


def says(*parts: bytes, abort: bool = False) -> Script:
    """A server that reads the request, says the parts each in its own segment, and closes."""

    async def script(reader, writer):
        await read_request(reader)
        for part in parts:
            writer.write(part)
            await writer.drain()
            await asyncio.sleep(0)
        if abort:
            writer.transport.abort()

    return script


async def call(
    script: Script, request: Request | None = None, patience: Patience | None = None, prefix: str = ""
) -> Recorder:
    recorder = Recorder()
    async with server(script) as url:
        client = Client(url + prefix, "tok")
        client.start(request or Request("POST", "/api/chat", b"{}"), recorder, patience)
        await asyncio.wait_for(recorder.over.wait(), 10)
        await client.close()
    return recorder


CHUNKED = b"HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n"


async def test_a_chunked_stream_arrives_unframed_with_its_head():
    got = await call(says(CHUNKED + b'8\r\n{"a":1}\n\r\n', b'8\r\n{"b":2}\n\r\n0\r\n\r\n'))
    assert (got.status, got.body_bytes, got.ends) == (200, b'{"a":1}\n{"b":2}\n', 1)
    assert got.headers == (("Content-Type", "application/x-ndjson"),)


ANSWERS = {
    "chunked": (CHUNKED + b'8\r\n{"a":1}\n\r\n3;x=y\r\nabc\r\n0\r\nTrailer: t\r\n\r\n', b'{"a":1}\nabc'),
    "length": (b"HTTP/1.1 404 Not Found\r\ncontent-length: 5\r\nX-A: b\r\n\r\nhello", b"hello"),
    "eof": (b"HTTP/1.0 200 OK\r\nContent-Type: text/plain\r\n\r\nhello", b"hello"),
    "interim": (
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
        b"ok",
    ),
    "empty": (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", b""),
    "no content": (b"HTTP/1.1 204 No Content\r\n\r\n", b""),
}


@pytest.mark.parametrize("name", ANSWERS)
async def test_an_answer_cut_into_two_segments_anywhere_is_the_same_answer(name):
    wire, body = ANSWERS[name]
    for cut in range(1, len(wire)):
        recorder = Recorder()
        one = Call(recorder, (b"", b""), Patience(), bodyless=False)
        one.data_received(wire[:cut])
        one.data_received(wire[cut:])
        if name == "eof":
            assert not recorder.ends
            one.connection_lost(None)
        assert (recorder.body_bytes, recorder.ends, recorder.fault) == (body, 1, None), cut


@pytest.mark.parametrize("name", ["chunked", "length"])
async def test_an_answer_that_stops_anywhere_is_never_a_whole_one(name):
    wire, _ = ANSWERS[name]
    for cut in range(len(wire) - 1):
        recorder = Recorder()
        one = Call(recorder, (b"", b""), Patience(), bodyless=False)
        one.data_received(wire[:cut])
        one.connection_lost(None)
        assert recorder.ends == 0, cut
        assert recorder.fault.kind is (Kind.TRUNCATED if recorder.pieces else Kind.RESET), cut


@pytest.mark.parametrize(
    ("wire", "kind", "code"),
    [
        (b"", Kind.RESET, Code.UPSTREAM_UNREACHABLE),
        (b"HTTP/1.1 200 OK\r\n", Kind.RESET, Code.UPSTREAM_UNREACHABLE),
        (CHUNKED, Kind.RESET, Code.UPSTREAM_UNREACHABLE),
        (CHUNKED + b'8\r\n{"a"', Kind.TRUNCATED, Code.UPSTREAM_TRUNCATED),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhello", Kind.TRUNCATED, Code.UPSTREAM_TRUNCATED),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhello", Kind.GARBAGE, Code.UPSTREAM_ERROR),
        (b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\nhello", Kind.GARBAGE, Code.UPSTREAM_ERROR),
        (b"\x00\x01\x02 no http at all\r\n\r\n", Kind.GARBAGE, Code.UPSTREAM_ERROR),
        (CHUNKED + b"zz\r\nhello", Kind.GARBAGE, Code.UPSTREAM_ERROR),
        (
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
            Kind.GARBAGE,
            Code.UPSTREAM_ERROR,
        ),
        (b"HTTP/1.1 103 Early Hints\r\n\r\n" * 50, Kind.GARBAGE, Code.UPSTREAM_ERROR),
        (b"HTTP/1.1 200 OK\r\nX-A: " + b"a" * 200_000, Kind.GARBAGE, Code.UPSTREAM_ERROR),
        (b"HTTP/1.1 200 OK\r\n" + b"X-A: abcdefgh\r\n" * 20_000 + b"\r\n", Kind.GARBAGE, Code.UPSTREAM_ERROR),
        (CHUNKED + b"1\r\nx\r\n0\r\nX-T: " + b"a" * 200_000, Kind.GARBAGE, Code.UPSTREAM_ERROR),
    ],
)
async def test_each_way_an_answer_breaks_has_its_kind(wire, kind, code):
    got = await call(says(wire))
    assert got.fault is not None
    assert (got.fault.kind, got.fault.failure("gpu1").code) == (kind, code)


async def test_a_reset_before_and_after_the_first_byte():
    assert (await call(says(abort=True))).fault.kind is Kind.RESET

    async def later(reader, writer):
        await read_request(reader)
        writer.write(CHUNKED + b'8\r\n{"a":1}\n\r\n')
        await writer.drain()
        await reader.read(1)

    recorder = Recorder()
    async with server(later) as url:
        Client(url).start(Request("POST", "/", b""), recorder)
        await asyncio.wait_for(recorder.heard.wait(), 10)
    await asyncio.wait_for(recorder.over.wait(), 10)
    assert recorder.fault.kind is Kind.TRUNCATED


async def test_the_request_says_what_it_must_and_no_more():
    seen = []

    async def script(reader, writer):
        seen.append((await read_request(reader), writer.get_extra_info("sockname")))
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        await writer.drain()

    body = b'{"model":"m"}' + b" " * 300_000
    await call(
        script,
        Request("POST", "/v1/messages?beta=true", body, (("anthropic-version", "2023-06-01"),)),
        prefix="/deep/v1/",
    )
    (head, sent), (host, port) = seen[0]
    assert sent == body
    lines = head.decode().split("\r\n")
    assert lines[0] == "POST /deep/v1/messages?beta=true HTTP/1.1"
    assert sorted(lines[1:-2]) == sorted(
        [
            f"Host: {host}:{port}",
            "User-Agent: foreman/0.1.0",
            "Accept: */*",
            "Connection: close",
            "Authorization: Bearer tok",
            "anthropic-version: 2023-06-01",
            "Content-Type: application/json",
            f"Content-Length: {len(body)}",
        ]
    )


async def test_a_line_break_in_a_header_is_refused():
    client = Client("http://127.0.0.1:1")
    with pytest.raises(ValueError, match="line break"):
        client.start(Request("POST", "/", b"", (("a", "b\r\nc: d"),)), Recorder())


async def test_nobody_listening_is_refused_and_said_in_a_sentence(unused_port):
    recorder = Recorder()
    client = Client(f"http://127.0.0.1:{unused_port}")
    client.start(Request("GET", "/"), recorder)
    await asyncio.wait_for(recorder.over.wait(), 10)
    assert recorder.fault.kind is Kind.REFUSED
    assert f"http://127.0.0.1:{unused_port} cannot be reached" in recorder.fault.message


async def test_a_connection_nobody_takes_is_refused_in_time():
    # A listener with a full backlog swallows SYNs: the connection is never made.
    import socket

    with socket.socket() as listener, contextlib.ExitStack() as stack:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(4):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        recorder = Recorder()
        client = Client(f"http://127.0.0.1:{listener.getsockname()[1]}", connect_timeout=0.2)
        client.start(Request("GET", "/"), recorder)
        await asyncio.wait_for(recorder.over.wait(), 10)
    assert recorder.fault.kind is Kind.REFUSED
    assert "within 0.2 s" in recorder.fault.message


async def test_closing_a_call_cuts_its_connection_and_silences_it():
    cut = asyncio.Event()

    async def script(reader, writer):
        await read_request(reader)
        writer.write(CHUNKED + b'8\r\n{"a":1}\n\r\n')
        await writer.drain()
        assert await reader.read(1) == b""
        cut.set()

    recorder = Recorder()
    async with server(script) as url:
        client = Client(url)
        one = client.start(Request("POST", "/", b"{}"), recorder)
        await asyncio.wait_for(recorder.heard.wait(), 10)
        one.close()
        await asyncio.wait_for(cut.wait(), 10)
    assert not recorder.over.is_set()


async def test_closing_before_the_connection_is_made_leaves_nothing():
    async with server(says(b"")) as url:
        recorder = Recorder()
        client = Client(url)
        client.start(Request("POST", "/", b"{}"), recorder).close()
        await client.close()
    assert not recorder.over.is_set()


async def test_silence_before_and_between_bytes_is_a_stall():
    async def hangs(reader, writer):
        await read_request(reader)
        await reader.read(1)

    got = await call(hangs, patience=Patience(first=0.05, between=5))
    assert got.fault.kind is Kind.STALLED
    assert "before the first byte" in got.fault.message

    async def stops(reader, writer):
        await read_request(reader)
        writer.write(CHUNKED + b'8\r\n{"a":1}\n\r\n')
        await reader.read(1)

    got = await call(stops, patience=Patience(first=5, between=0.05))
    assert (got.fault.kind, got.body_bytes) == (Kind.STALLED, b'{"a":1}\n')
    assert "between two bytes" in got.fault.message


async def test_a_paused_call_is_no_stall_and_goes_on_when_resumed():
    release = asyncio.Event()

    async def script(reader, writer):
        await read_request(reader)
        writer.write(CHUNKED + b"2\r\na\n\r\n")
        await release.wait()
        writer.write(b"2\r\nb\n\r\n0\r\n\r\n")
        await writer.drain()

    recorder = Recorder()
    async with server(script) as url:
        one = Client(url).start(Request("POST", "/", b"{}"), recorder, Patience(first=5, between=0.05))
        await asyncio.wait_for(recorder.heard.wait(), 10)
        one.pause()
        release.set()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(recorder.over.wait(), 0.3)
        assert recorder.body_bytes == b"a\n"
        one.resume()
        await asyncio.wait_for(recorder.over.wait(), 10)
    assert (recorder.body_bytes, recorder.ends) == (b"a\nb\n", 1)


async def test_a_receiver_that_raises_ends_its_own_call_only():
    class Broken(Recorder):
        def body(self, data):
            raise RuntimeError("a bug")

    recorder = Broken()
    async with server(says(ANSWERS["length"][0])) as url:
        Client(url).start(Request("POST", "/", b"{}"), recorder)
        await asyncio.wait_for(recorder.over.wait(), 10)
    assert recorder.fault.kind is Kind.GARBAGE


async def test_fetch_collects_bounds_and_times_out():
    async with server(says(ANSWERS["length"][0])) as url:
        reply = await Client(url).fetch("GET", "/", timeout=10)
        assert (reply.status, reply.body) == (404, b"hello")
        with pytest.raises(Fault, match="more than 3 bytes"):
            await Client(url).fetch("GET", "/", timeout=10, limit=3)

    async def hangs(reader, writer):
        await reader.read()

    async with server(hangs) as url:
        with pytest.raises(Fault) as caught:
            await Client(url).fetch("GET", "/", timeout=0.05)
        assert caught.value.kind is Kind.STALLED
