"""The wire: framing, one write per turn, back-pressure, and what a gone caller does to it."""

from __future__ import annotations

import asyncio
import weakref
from types import SimpleNamespace

import pytest
from aiohttp import HttpVersion10, HttpVersion11

from foreman.web.calls.response import HIGH_WATER, Wire, head_bytes


class Transport:
    """Writes down each write; full when told so."""

    def __init__(self) -> None:
        self.writes = []
        self.closing = False
        self.aborted = False
        self.protocol = None
        self.room = 1 << 62

    def write(self, data):
        assert not self.closing, "uvloop would raise here"
        self.writes.append(data)
        self.room -= len(data)
        if self.room <= 0:
            self.protocol.writing_paused = True

    def is_closing(self):
        return self.closing

    def get_extra_info(self, name):
        return None

    def abort(self):
        self.aborted = self.closing = True


class Case:
    def __init__(self, version=HttpVersion11, keep_alive=True) -> None:
        self.transport = Transport()
        self.protocol = SimpleNamespace(transport=self.transport, writing_paused=False)
        self.transport.protocol = self.protocol
        self.resumed = asyncio.Event()
        writer = SimpleNamespace(output_size=0, drain=self.resumed.wait)
        request = SimpleNamespace(protocol=self.protocol, version=version, keep_alive=keep_alive, writer=writer)
        self.request = request
        self.wire = Wire(request, asyncio.get_running_loop(), base_headers=[("X-Base", "1")])
        self.taken = []
        self.changes = 0
        self.wire.on_taken = self.taken.append
        self.wire.on_change = self._changed

    def _changed(self):
        self.changes += 1

    @property
    def sent(self):
        return b"".join(self.transport.writes)


async def test_all_of_one_turn_leaves_in_one_write():
    c = Case()
    c.wire.commit(200, [("Content-Type", "application/x-ndjson")], None)
    c.wire.chunk(b"a\n")
    c.wire.chunk(b"bc\n")
    assert c.transport.writes == []
    await asyncio.sleep(0)
    (write,) = c.transport.writes
    head, _, body = write.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\nX-Base: 1\r\nDate: ")
    assert head.endswith(b"GMT\r\nTransfer-Encoding: chunked")
    assert body == b"2\r\na\n\r\n3\r\nbc\n\r\n"
    c.wire.chunk(b"d\n")
    await asyncio.sleep(0)
    assert c.transport.writes[1:] == [b"2\r\nd\n\r\n"]


async def test_the_end_leaves_at_once():
    c = Case()
    c.wire.commit(200, [], None)
    c.wire.chunk(b"a")
    c.wire.finish()
    assert c.sent.endswith(b"1\r\na\r\n0\r\n\r\n")
    assert c.wire.flushed
    await asyncio.sleep(0)
    assert c.changes >= 1


async def test_a_known_length_is_told_and_not_chunked():
    c = Case()
    c.wire.commit(404, [], 3)
    c.wire.chunk(b"abc")
    c.wire.finish()
    assert b"HTTP/1.1 404 Not Found\r\n" in c.sent
    assert b"Content-Length: 3\r\n" in c.sent
    assert c.sent.endswith(b"\r\n\r\nabc")


async def test_http_10_ends_with_the_connection():
    c = Case(HttpVersion10)
    c.wire.commit(200, [], None)
    c.wire.chunk(b"abc")
    c.wire.finish()
    assert c.sent.startswith(b"HTTP/1.0 200 OK\r\n")
    assert b"Connection: close" in c.sent
    assert c.sent.endswith(b"\r\n\r\nabc")
    assert not c.wire.keep_alive


async def test_what_the_caller_does_not_take_waits_here():
    c = Case()
    c.wire.commit(200, [], None)
    await asyncio.sleep(0)
    c.transport.room = HIGH_WATER
    for _ in range(100):
        c.wire.chunk(b"x" * 4096, 4096)
    await asyncio.sleep(0)
    assert c.wire.backlog
    assert sum(map(len, c.transport.writes)) < 3 * HIGH_WATER
    assert c.taken == [HIGH_WATER]
    assert c.changes == 1
    draining = asyncio.get_running_loop().create_task(c.wire.drained())
    await asyncio.sleep(0)
    assert not draining.done()
    c.transport.room = 1 << 30
    c.protocol.writing_paused = False
    c.resumed.set()
    await draining
    assert not c.wire.backlog
    assert sum(c.taken) > 100 * 4096 - HIGH_WATER
    assert c.sent.count(b"x") == 100 * 4096


async def test_nothing_is_written_to_a_caller_that_has_gone():
    c = Case()
    c.wire.commit(200, [], None)
    c.wire.chunk(b"a")
    c.transport.closing = True
    await asyncio.sleep(0)
    c.wire.chunk(b"b")
    c.wire.finish()
    assert c.transport.writes == []
    assert c.wire.flushed
    await c.wire.drained()


async def test_an_abort_drops_what_is_pending():
    c = Case()
    c.wire.commit(200, [], None)
    c.wire.chunk(b"a")
    c.wire.abort()
    await asyncio.sleep(0)
    assert c.transport.aborted
    assert c.transport.writes == []
    assert c.wire.flushed


async def test_a_wire_that_is_done_with_holds_nobody_it_told():
    c = Case()
    held, wire = weakref.ref(c), c.wire
    wire.close()
    del c
    assert held() is None


async def test_aiohttp_knows_that_an_answer_is_under_way():
    c = Case()
    c.wire.commit(200, [], None)
    assert c.request.writer.output_size > 0


@pytest.mark.parametrize("value", ["a\r\nX-Evil: 1", "a\nb", "a\x00b", "\x7f"])
def test_a_header_that_would_split_the_head_is_left_out(value):
    assert b"X-Bad" not in head_bytes(200, [("X-Bad", value), ("X-Good", "1")])


def test_an_unknown_status_has_no_words():
    assert head_bytes(499, []).startswith(b"HTTP/1.1 499 \r\n")
