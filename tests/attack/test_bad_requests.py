"""Bad input over real sockets (contract 11): a 4xx or a closed connection, one log line, no trace in the store."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json

import pytest
import pytest_asyncio

from foreman.demo.ollama import FakeOllama
from tests.attack.ground import CHAT, Site, site

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def at(tmp_path_factory, valkey):
    """The roles apart: what is refused is the gateway's alone, and is the same in one process."""
    fake = FakeOllama(models=["alpha", "embedder"], tokens=2)
    async with site(tmp_path_factory.mktemp("bad"), valkey, fake, "apart", max_body="64KiB", models="2") as made:
        yield made


PATHS = (
    *("/api/chat", "/api/generate", "/api/embed", "/api/embeddings", "/api/show", "/v1/chat/completions"),
    *("/v1/completions", "/v1/embeddings", "/v1/responses", "/v1/messages"),
)
SOME = ("/api/chat", "/api/generate", "/api/embed", "/v1/chat/completions", "/v1/messages")
TAIL = b'"messages":[{"role":"user","content":"x"}],"max_tokens":4,"prompt":"x","input":"x"'
DEEP = b"[" * 20_000 + b"]" * 20_000

BODIES = {
    "empty": b"",
    "space": b"  \n ",
    "text": b"hello",
    "half": b'{"model":"alpha","messages":[{"role"',
    "array": b"[1]",
    "null": b"null",
    "number": b"17",
    "model is a number": b'{"model":7}',
    "model is null": b'{"model":null,' + TAIL + b"}",
    "model missing": b"{" + TAIL + b"}",
    "model unknown": b'{"model":"nobody",' + TAIL + b"}",
    "broken UTF-8 in model": b'{"model":"al\xff\xfepha",' + TAIL + b"}",
    "broken UTF-8 in a key": b'{"mod\xffel":"alpha",' + TAIL + b"}",
    "overlong UTF-8 in structure": b'\xc0\xbb"model":"alpha"}',
    "BOM": b'\xef\xbb\xbf{"model":"alpha",' + TAIL + b"}",
    "UTF-16": '{"model":"alpha"}'.encode("utf-16"),
    "lone surrogate in model": b'{"model":"al\\ud800pha",' + TAIL + b"}",
    "NUL in model": b'{"model":"al\\u0000pha",' + TAIL + b"}",
    "line break in model": b'{"model":"alpha\\r\\nX-Evil: 1",' + TAIL + b"}",
    "separator in model": b'{"model":"alpha:lane:x:y",' + TAIL + b"}",
    "newline target trick": b'{"model":"alpha\\nbeta",' + TAIL + b"}",
    "path in model": b'{"model":"../../etc/passwd",' + TAIL + b"}",
    "very long model": b'{"model":"' + b"a" * 50_000 + b'",' + TAIL + b"}",
    "nesting bomb": b'{"model":"alpha","messages":' + DEEP + b"}",
    "nesting bomb elsewhere": b'{"model":"alpha","x":' + DEEP + b"," + TAIL + b"}",
    "half a bomb": b'{"model":"alpha","x":' + b'{"a":' * 10_000,
    "bare control character": b'{"model":"al\x01pha",' + TAIL + b"}",
    "gzip": gzip.compress(b'{"model":"alpha",' + TAIL + b"}"),
}


@pytest.mark.parametrize("name", BODIES)
@pytest.mark.parametrize("path", SOME)
async def test_a_bad_body_is_a_4xx_in_the_dialect_of_its_path(at: Site, path: str, name: str) -> None:
    before = len(at.fake.requests_to(path))
    async with at.quiet():
        answer = await at.post(path, BODIES[name])
    assert 400 <= answer.status < 500, (answer.status, answer.body[:200])
    error = json.loads(answer.body)["error"]
    assert isinstance(error, dict if path.startswith("/v1/") else str), error
    assert answer.header("X-Foreman-Error") in {"bad_request", "model_not_found"}
    assert answer.header("X-Evil") is None
    assert len(at.fake.requests_to(path)) == before, "the target has not seen it"


NUMBERS = {
    "1e400 as an option": (b'{"model":"alpha","options":{"num_ctx":1e400},' + TAIL + b"}", "/api/chat"),
    "a huge integer as an option": (
        b'{"model":"alpha","options":{"num_ctx":1' + b"0" * 5000 + b"}," + TAIL + b"}",
        "/api/chat",
    ),
    "1e400 as keep_alive": (b'{"model":"alpha","keep_alive":1e400,' + TAIL + b"}", "/api/chat"),
    "1e400 as max_tokens": (
        b'{"model":"alpha","messages":[{"role":"user","content":"x"}],"max_tokens":1e400}',
        "/v1/messages",
    ),
    "NaN": (b'{"model":"alpha","options":{"temperature":NaN},' + TAIL + b"}", "/api/chat"),
    "Infinity": (b'{"model":"alpha","keep_alive":Infinity,' + TAIL + b"}", "/api/generate"),
    "leading zero": (b'{"model":"alpha","keep_alive":007,' + TAIL + b"}", "/api/generate"),
    "hex": (b'{"model":"alpha","keep_alive":0x10,' + TAIL + b"}", "/api/generate"),
    "stream as a number": (b'{"model":"alpha","stream":1,' + TAIL + b"}", "/api/chat"),
    "stream as a string": (b'{"model":"alpha","stream":"true",' + TAIL + b"}", "/v1/chat/completions"),
    "messages as an object": (b'{"model":"alpha","messages":{}}', "/api/chat"),
    "options as an array": (b'{"model":"alpha","options":[],' + TAIL + b"}", "/api/chat"),
}


@pytest.mark.parametrize("name", NUMBERS)
async def test_numbers_and_types_out_of_range_are_refused(at: Site, name: str) -> None:
    body, path = NUMBERS[name]
    async with at.quiet():
        answer = await at.post(path, body)
    assert 400 <= answer.status < 500, (answer.status, answer.body[:200])
    assert answer.header("X-Foreman-Error") == "bad_request"


HEADERS = {
    "priority": ({"X-Foreman-Priority": "urgent"}, 400),
    "priority in latin": ({"X-Foreman-Priority": "h\xefgh"}, 400),
    "priority empty": ({"X-Foreman-Priority": ""}, 400),
    "deadline text": ({"X-Foreman-Deadline": "soon"}, 400),
    "deadline empty": ({"X-Foreman-Deadline": ""}, 400),
    "deadline zero": ({"X-Foreman-Deadline": "0"}, 400),
    "deadline negative": ({"X-Foreman-Deadline": "-1"}, 400),
    "deadline nan": ({"X-Foreman-Deadline": "nan"}, 400),
    "deadline inf": ({"X-Foreman-Deadline": "inf"}, 400),
    "deadline 1e400": ({"X-Foreman-Deadline": "1e400"}, 400),
    "deadline underscore": ({"X-Foreman-Deadline": "1_0"}, 400),
    "deadline arabic": ({"X-Foreman-Deadline": "\u0661".encode().decode("latin-1")}, 400),
    "target unknown": ({"X-Foreman-Target": "nowhere"}, 400),
    "target with a break": ({"X-Foreman-Target": "main\tX: 1"}, 400),
}


@pytest.mark.parametrize("path", ["/api/chat", "/v1/chat/completions"])
@pytest.mark.parametrize("name", HEADERS)
async def test_a_bad_header_of_foremans_own_is_a_400(at: Site, name: str, path: str) -> None:
    headers, status = HEADERS[name]
    async with at.quiet():
        caller = await at.dial()
        caller.ask(path, {**CHAT, "stream": False}, **{key.replace("-", "_"): value for key, value in headers.items()})
        answer = await caller.answer()
    assert answer.status == status, answer.body
    assert answer.header("X-Foreman-Error") == "bad_request"
    assert answer.header("X") is None


async def test_a_huge_deadline_is_only_a_long_one(at: Site) -> None:
    for value in ("1e300", "1" + "0" * 300, "99999999999999"):
        answer = await at.post("/api/chat", {**CHAT, "stream": False}, {"X-Foreman-Deadline": value})
        assert answer.status in {200, 400}, (value, answer.status, answer.body)
    await at.alive()


async def test_broken_utf8_elsewhere_is_passed_on(at: Site) -> None:
    body = b'{"model":"alpha","stream":false,"messages":[{"role":"user","content":"a\xff\xfeb"}]}'
    answer = await at.post("/api/chat", body)
    assert answer.status == 200, answer.body
    assert b"a\xff\xfeb" in at.fake.requests_to("/api/chat")[-1].body


RAW = {
    "no http": b"hello there\r\n\r\n",
    "tls": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    "http 2 preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "http 9.9": b"GET / HTTP/9.9\r\nHost: %(host)b\r\n\r\n",
    "NUL in the path": b"GET /\x00 HTTP/1.1\r\nHost: %(host)b\r\n\r\n",
    "no host": b"POST /api/chat HTTP/1.1\r\nContent-Length: 0\r\n\r\n",
    "two hosts": b"GET /api/version HTTP/1.1\r\nHost: %(host)b\r\nHost: evil\r\n\r\n",
    "two lengths": b"POST /api/chat HTTP/1.1\r\nHost: %(host)b\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nx",
    "negative length": b"POST /api/chat HTTP/1.1\r\nHost: %(host)b\r\nContent-Length: -5\r\n\r\n",
    "length in words": b"POST /api/chat HTTP/1.1\r\nHost: %(host)b\r\nContent-Length: five\r\n\r\n",
    "plus length": b"POST /api/chat HTTP/1.1\r\nHost: %(host)b\r\nContent-Length: +5\r\n\r\n",
    "length and chunked": b"POST /api/chat HTTP/1.1\r\nHost: %(host)b\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "unknown transfer-encoding": b"POST /api/chat HTTP/1.1\r\nHost: %(host)b\r\nTransfer-Encoding: cow\r\n\r\n{}",
    "bad chunk size": b"POST /api/chat HTTP/1.1\r\nHost: %(host)b\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n",
    "huge chunk size": b"POST /api/chat HTTP/1.1\r\nHost: %(host)b\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\n{}\r\n",
    "negative chunk size": b"POST /api/chat HTTP/1.1\r\nHost: %(host)b\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\n{}\r\n",
    "control in a header": b"GET / HTTP/1.1\r\nHost: %(host)b\r\nBad\x01Header: y\r\n\r\n",
    "space before colon": b"GET / HTTP/1.1\r\nHost: %(host)b\r\nX : y\r\n\r\n",
    "folded header": b"GET / HTTP/1.1\r\nHost: %(host)b\r\nX: a\r\n b\r\n\r\n",
    "long url": b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\nHost: %(host)b\r\n\r\n",
    "long header": b"GET / HTTP/1.1\r\nHost: %(host)b\r\nX: " + b"a" * 100_000 + b"\r\n\r\n",
    "many headers": b"GET / HTTP/1.1\r\nHost: %(host)b\r\n" + b"X: y\r\n" * 50_000 + b"\r\n",
}


@pytest.mark.parametrize("name", RAW)
async def test_what_is_no_proper_http_ends_in_a_400_and_the_end(at: Site, name: str) -> None:
    caller = await at.dial()
    async with at.quiet():
        caller.send(RAW[name].replace(b"%(host)b", caller.host.encode()))
        got = await caller.rest(15)
    assert got == b"" or got.split(b" ")[1][:1] == b"4", got[:200]
    assert b"Traceback" not in got
    assert b"aiohttp" not in got.lower()
    assert got.count(b"HTTP/1.") <= 1, got


@pytest.mark.parametrize("method", ["BREW", "TRACE", "CONNECT", "PROPFIND", "get", "PUT", "PATCH", "A" * 200])
async def test_absurd_methods_are_refused(at: Site, method: str) -> None:
    async with at.quiet(None):
        answer = await at.post("/api/chat", CHAT, method=method)
    assert answer.status in {400, 404, 405}, answer.status
    if answer.status == 405:
        assert answer.body == b"405 method not allowed"
        assert answer.header("Allow") == "POST"
        assert answer.header("Content-Type") == "text/plain"


async def test_lying_lengths(at: Site) -> None:
    """Short: what follows is no request. Long: the connection ends without its rest."""
    payload = json.dumps({**CHAT, "stream": False}).encode()
    caller = await at.dial()
    async with at.quiet(None):
        caller.send(
            b"POST /api/chat HTTP/1.1\r\nHost: %b\r\nContent-Length: %d\r\n\r\n%b"
            % (caller.host.encode(), len(payload) - 9, payload)
        )
        got = await caller.rest(15)
    assert got.split(b" ")[1] == b"400", got
    caller = await at.dial()
    async with at.quiet():
        caller.send(
            b"POST /api/chat HTTP/1.1\r\nHost: %b\r\nContent-Length: %d\r\n\r\n%b"
            % (caller.host.encode(), len(payload) + 9, payload)
        )
        caller.writer.write_eof()
        got = await caller.rest(15)
    assert got == b"" or got.split(b" ")[1][:1] == b"4", got


@pytest.mark.parametrize("how", ["close", "eof"])
async def test_half_sent_bodies_leave_one_line_and_nothing_else(at: Site, how: str) -> None:
    for framing in (b"Content-Length: 5000", b"Transfer-Encoding: chunked"):
        caller = await at.dial()
        async with at.quiet():
            caller.send(b"POST /api/chat HTTP/1.1\r\nHost: %b\r\n%b\r\n\r\n" % (caller.host.encode(), framing))
            caller.send(b'10\r\n{"model":"alpha"\r\n' if b"chunked" in framing else b'{"model":"alpha"')
            await caller.writer.drain()
            if how == "close":
                caller.writer.close()
            else:
                caller.writer.write_eof()
                got = await caller.rest(15)
                assert got == b"" or got.split(b" ")[1][:1] == b"4", got


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("framing", ["length", "chunked", "expect"])
async def test_413_in_each_dialect_whatever_the_framing(at: Site, path: str, framing: str) -> None:
    caller = await at.dial()
    start = b"POST %b HTTP/1.1\r\nHost: %b\r\n" % (path.encode(), caller.host.encode())
    async with at.quiet():
        if framing == "length":
            caller.send(start + b"Content-Length: 65537\r\n\r\n" + b" " * 65537)
        elif framing == "expect":
            caller.send(start + b"Content-Length: 65537\r\nExpect: 100-continue\r\n\r\n")
        else:
            caller.send(start + b"Transfer-Encoding: chunked\r\n\r\n" + (b"1000\r\n" + b" " * 4096 + b"\r\n") * 17)
        answer = await caller.answer()
    assert answer.status == 413, answer.body
    assert answer.header("X-Foreman-Error") == "payload_too_large"
    error = json.loads(answer.body)["error"]
    words = error["message"] if path.startswith("/v1/") else error
    assert "FOREMAN_MAX_BODY" in words


async def test_an_endless_chunked_upload_is_cut_off(at: Site) -> None:
    """After the 413 the sender is not listened to for ever."""
    caller = await at.dial()
    caller.send(b"POST /api/chat HTTP/1.1\r\nHost: %b\r\nTransfer-Encoding: chunked\r\n\r\n" % caller.host.encode())
    piece = b"4000\r\n" + b" " * 16384 + b"\r\n"
    async with at.quiet(), asyncio.timeout(60):
        with contextlib.suppress(ConnectionError):
            while True:
                caller.send(piece)
                await caller.writer.drain()
    await at.alive()


async def test_pipelined_requests_are_answered_in_order(at: Site) -> None:
    caller = await at.dial()
    caller.ask("/api/chat", {**CHAT, "stream": False})
    caller.ask("/api/version", b"", method="GET")
    caller.ask("/api/chat", CHAT)
    caller.ask("/api/nope", b"")
    first, second, third, fourth = [await caller.answer() for _ in range(4)]
    assert json.loads(first.body)["done"] is True
    assert b"version" in second.body
    assert json.loads(third.chunks[-1])["done"] is True
    assert (fourth.status, fourth.body) == (404, b"404 page not found")


async def test_expect_100_continue(at: Site) -> None:
    payload = json.dumps({**CHAT, "stream": False}).encode()
    caller = await at.dial()
    head = b"POST /api/chat HTTP/1.1\r\nHost: %b\r\nContent-Length: %d\r\nExpect: 100-continue\r\n\r\n"
    caller.send(head % (caller.host.encode(), len(payload)))
    assert (await caller.head()).status == 100
    caller.send(payload)
    assert json.loads((await caller.answer()).body)["done"] is True


async def test_http_1_0_gets_a_stream_that_ends_with_the_connection(at: Site) -> None:
    answer = await at.post("/api/chat", CHAT, version="1.0")
    assert (answer.status, answer.framing) == (200, "close")
    assert json.loads(answer.body.splitlines()[-1])["done"] is True
    whole = await at.post("/api/chat", {**CHAT, "stream": False}, version="1.0")
    assert (whole.framing, json.loads(whole.body)["done"]) == ("length", True)


async def test_the_house_stands(at: Site) -> None:
    await at.alive()
