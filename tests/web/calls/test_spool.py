"""Slow readers: for how long one is borne, what all may be behind in sum, and that a gateway keeps nothing of a dropped one."""

from __future__ import annotations

import asyncio
import json

import pytest

from foreman.core.jobs import State
from foreman.web.calls.spool import NARROW, WHOLE, Spool, Spools
from tests.web.conftest import wait_until
from tests.web.puppet import JSON, NDJSON

CHAT = {"model": "m", "messages": []}
LAST = b'{"message":{"content":""},"done":true,"done_reason":"stop"}\n'
LINE = json.dumps({"message": {"content": "x" * 60_000}, "done": False}).encode() + b"\n"


class Reader:
    """One reader's spool on a virtual clock."""

    def __init__(self, spools: Spools) -> None:
        self.left: object = 0
        self.dropped_at: float | None = None
        self.windows: list[int] = []
        self.loop = asyncio.get_running_loop()
        self.spool = Spool(spools, self.loop, left=lambda: self.left, drop=self._drop, fit=self.windows.append)

    def _drop(self) -> None:
        self.dropped_at = round(self.loop.time(), 2)

    def lags(self, behind: int, *, moved: bool = True, draining: bool = False) -> None:
        self.spool.lags(behind, moved=moved, draining=draining)


@pytest.mark.looptime
async def test_pauses_count_in_sum_however_steadily_it_drips():
    reader = Reader(Spools(1000, 60))
    for _ in range(7):
        reader.spool.held(waits=True)
        await asyncio.sleep(9)
        reader.spool.held(waits=False)
        await asyncio.sleep(100)
    assert reader.dropped_at == 6 * 109 + 6


@pytest.mark.looptime
async def test_one_that_lags_but_holds_nobody_is_left_alone():
    reader = Reader(Spools(1000, 60))
    reader.lags(990)
    await asyncio.sleep(1000)
    assert reader.dropped_at is None
    reader.spool.clear()


@pytest.mark.looptime
async def test_one_that_catches_up_in_time_is_left_alone():
    reader = Reader(Spools(1000, 60))
    reader.lags(1001)
    reader.spool.held(waits=True)
    await asyncio.sleep(59)
    reader.spool.clear()
    await asyncio.sleep(1000)
    assert reader.dropped_at is None


@pytest.mark.looptime
async def test_a_whole_answer_drains_for_as_long_as_anything_moves():
    reader = Reader(Spools(1000, 60))
    reader.lags(900, draining=True)
    for number in range(1, 101):
        await asyncio.sleep(50)
        reader.left = number  # seen in the socket alone
    assert reader.dropped_at is None
    await asyncio.sleep(200)
    assert 5000 + 60 <= reader.dropped_at <= 5000 + 75


@pytest.mark.looptime
async def test_all_together_are_bounded_those_that_drain_go_first_then_windows_are_narrowed():
    spools = Spools(1000, 60)
    readers = [Reader(spools) for _ in range(WHOLE + 10)]
    for reader in readers[:5]:
        await asyncio.sleep(1)
        reader.lags(1000, draining=True)
    for reader in readers[5 : WHOLE + 1]:
        reader.lags(1000)
    assert [reader.dropped_at is not None for reader in readers[:5]] == [True, False, False, False, False]
    assert spools.bytes == WHOLE * 1000
    for reader in readers[WHOLE + 1 :]:
        reader.lags(1000)
    assert all(reader.dropped_at is not None for reader in readers[:5])
    assert readers[5].windows == [1000 // NARROW]
    for reader in readers[5:]:
        reader.lags(400)
    assert readers[5].windows == [1000 // NARROW, 1000]
    for reader in readers:
        reader.spool.clear()
    assert (len(spools), spools.bytes) == (0, 0)


@pytest.mark.looptime
async def test_one_that_lags_far_at_once_costs_others_no_more_than_it_must():
    spools = Spools(1000, 60)
    readers = [Reader(spools) for _ in range(WHOLE)]
    for reader in readers:
        reader.lags(1000, draining=True)
    late = Reader(spools)
    late.lags(3000)
    assert [reader.dropped_at is not None for reader in readers] == [True] * 3 + [False] * (WHOLE - 3)
    assert (late.dropped_at, spools.bytes) == (None, WHOLE * 1000)
    for reader in [*readers, late]:
        reader.spool.clear()


async def stalled(gateway, worker, dial, *, head=NDJSON, lines: int = 400):
    """A caller that reads nothing of a stream that is far longer than all buffers on the way; its run."""
    caller = await dial(gateway)
    caller.writer.transport.pause_reading()
    caller.ask("POST", "/api/chat", CHAT)
    run = await worker.claim()
    run.begin(head)
    for _ in range(lines):
        run.outlet.data(LINE)
        await asyncio.sleep(0)
        if run.paused:
            break
        await asyncio.sleep(0)
    await wait_until(lambda: gateway.calls.spools.bytes or not run.paused)
    return caller, run


async def test_a_reader_that_stops_is_dropped_and_leaves_nothing(open_gateway, worker, dial):
    gateway = await open_gateway(reader_timeout="300ms")
    caller, run = await stalled(gateway, worker, dial)
    assert run.paused
    assert gateway.calls.spools.bytes >= 1 << 20
    async with asyncio.timeout(60):
        assert await run.cancelled == "caller_gone"
    await wait_until(lambda: not gateway.waiting.calls)
    assert (len(gateway.calls.spools), gateway.calls.spools.bytes) == (0, 0)
    await run.end(State.CANCELLED)
    caller.writer.transport.resume_reading()
    assert await caller.ended() is not None


async def test_a_whole_answer_frees_its_run_at_once_and_drains(open_gateway, worker, dial):
    gateway = await open_gateway(reader_timeout="20s")
    caller, run = await stalled(gateway, worker, dial)
    run.outlet.data(LAST)
    run.outlet.end()
    await run.end(State.DONE)
    call = next(iter(gateway.waiting.calls.values()))
    assert call.relay.wire.backlog
    caller.writer.transport.resume_reading()
    reply = await caller.reply()
    assert reply.complete
    assert reply.body.endswith(LAST)
    await wait_until(lambda: not gateway.waiting.calls)
    assert gateway.calls.spools.bytes == 0


async def test_a_whole_answer_that_nobody_takes_is_dropped(open_gateway, worker, dial):
    gateway = await open_gateway(reader_timeout="300ms")
    caller, run = await stalled(gateway, worker, dial)
    run.outlet.end()
    await run.end(State.DONE)
    await wait_until(lambda: not gateway.waiting.calls)
    assert (len(gateway.calls.spools), gateway.calls.spools.bytes) == (0, 0)
    assert not run.cancelled.done()
    caller.writer.transport.resume_reading()
    assert await caller.ended() is not None


async def test_a_caller_that_leaves_while_it_is_behind_leaves_nothing(open_gateway, worker, dial):
    gateway = await open_gateway()
    caller, run = await stalled(gateway, worker, dial, head=JSON)
    assert gateway.calls.spools.bytes
    caller.writer.transport.abort()
    async with asyncio.timeout(60):
        assert await run.cancelled == "caller_gone"
    await wait_until(lambda: not gateway.waiting.calls)
    assert (len(gateway.calls.spools), gateway.calls.spools.bytes) == (0, 0)
    await run.end(State.CANCELLED)
