"""What a caller sees while it waits (contract 4, Waiting): when the head comes, what a heartbeat is, and what never is one."""

from __future__ import annotations

import asyncio
import json
import re
import time
from typing import TYPE_CHECKING

import pytest
import pytest_asyncio

from foreman.demo.ollama import FakeOllama
from tests.attack.ground import CHAT, MODES, STREAMS, Site, site
from tests.exchange import read_chunk

if TYPE_CHECKING:
    from tests.attack.ground import Caller

pytestmark = pytest.mark.asyncio(loop_scope="module")
BEAT = 0.1
NATIVE = ("chat", "generate")
WORDS = re.compile(
    rb": (queued position=\d+ eta=\d+s|loading elapsed=\d+s( eta=\d+s)?|working elapsed=\d+s"
    rb"|waiting target=main down_for=\d+s)\n"
)


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=MODES)
async def at(request, tmp_path_factory, valkey):
    fake = FakeOllama(models=["alpha", "beta", "embedder"], tokens=4, max_loaded=1)
    async with site(
        tmp_path_factory.mktemp("wait"),
        valkey,
        fake,
        request.param,
        models="3",
        headers_after="150ms",
        heartbeat=f"{BEAT}s",
    ) as made:
        await made.alive()
        yield made
        fake.clear()


async def chunks(caller: Caller, count: int, timeout: float = 60) -> list[bytes]:
    """The next chunks."""
    async with asyncio.timeout(timeout):
        return [await read_chunk(caller.reader) for _ in range(count)]


@pytest.mark.parametrize("dialect", ["chat", "chat-sse", "v1-chat", "v1-messages"])
async def test_the_head_is_held_then_heartbeats_in_every_state(at: Site, dialect: str) -> None:
    """queued, then prefill, then silence between two tokens: spaces or comment lines, and a whole answer after them."""
    await at.alive()
    path, body, headers = STREAMS[dialect]
    ahead = at.fake.gate(model="alpha", path="/api/chat")
    first = await at.dial()
    first.ask("/api/chat", CHAT)
    await ahead.reached()
    gate = at.fake.gate(after=0, model="alpha", path=path)
    caller = await at.dial()
    began = time.monotonic()
    caller.ask(path, body, **{name.replace("-", "_"): value for name, value in headers.items()})
    head = await caller.head()
    assert time.monotonic() - began > 0.14, "headers are held"
    assert head.status == 200
    assert head.header("Content-Type") == ("application/x-ndjson" if dialect in NATIVE else "text/event-stream")
    assert (head.header("X-Accel-Buffering"), head.header("Cache-Control")) == ("no", "no-cache")
    assert head.header("X-Foreman-Job-Id")
    waiting = await chunks(caller, 3)
    ahead.open()
    await gate.reached()
    prefill = await chunks(caller, 4)
    gate.after = 2
    await gate.release(0)
    silent = []
    while (
        silent[-3:] != [b" "] * 3
        if dialect in NATIVE
        else not all(WORDS.fullmatch(beat) for beat in silent[-3:] or [b""])
    ):
        silent += await chunks(caller, 1)
    gate.open()
    last = await caller.chunks()
    everything = b"".join([*waiting, *prefill, *silent, *last])
    if dialect in NATIVE:
        assert waiting == [b" "] * 3
        lines = everything.split(b"\n")
        assert lines[-1] == b"", "nothing after the last line"
        for line in lines[:-1]:
            json.loads(line)
        assert json.loads(lines[-2])["done"] is True
    else:
        assert all(re.fullmatch(rb": queued position=\d+ eta=\d+s\n", beat) for beat in waiting), waiting
        assert WORDS.fullmatch(prefill[-1])
        assert prefill[-1].startswith(b": working elapsed=")
        for chunk in [*waiting, *prefill, *silent, *last]:
            assert WORDS.fullmatch(chunk) or (chunk.endswith(b"\n\n") and not chunk.startswith(b" ")), chunk
    await first.answer()
    await at.settled()


async def test_loading_says_so_and_then_its_eta(at: Site) -> None:
    for turn, pattern in enumerate((rb": loading elapsed=\d+s\n", rb": loading elapsed=\d+s eta=\d+s\n")):
        await at.alive()
        gate = at.fake.gate(model="beta", at="load")
        caller = await at.dial()
        caller.ask("/v1/chat/completions", {**CHAT, "model": "beta", "stream": True})
        await gate.reached()
        await caller.head()
        async with asyncio.timeout(
            20
        ):  # queued, loading; the second time, when it is known what a load takes, with its eta
            while not re.fullmatch(pattern, beat := await read_chunk(caller.reader)):
                assert re.match(rb": (queued|loading) ", beat), (turn, beat)
        gate.open()
        assert (await caller.chunks())[-1] == b"data: [DONE]\n\n"
        await at.settled()


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/api/chat", {**CHAT, "stream": False}),
        ("/v1/chat/completions", CHAT),
        ("/api/embed", {"model": "embedder", "input": "x"}),
        ("/v1/embeddings", {"model": "embedder", "input": "x"}),
    ],
)
async def test_what_does_not_stream_waits_without_a_head(at: Site, path: str, body: dict[str, object]) -> None:
    gate = at.fake.gate(path=path)
    caller = await at.dial()
    caller.ask(path, body)
    await gate.reached()
    with pytest.raises(TimeoutError):
        await caller.head(BEAT * 4)
    gate.open()
    answer = await caller.answer()
    assert (answer.status, answer.framing) == (200, "length")
    assert answer.body[:1] == b"{"
    await at.settled()


async def test_a_failure_before_the_head_keeps_its_status_and_after_it_is_in_band(at: Site) -> None:
    for path in ("/api/chat", "/v1/chat/completions"):
        gate = at.fake.gate(path=path)
        at.fake.fault("status", path=path, status=500, words="no luck")
        caller = await at.dial()
        caller.ask(path, {**CHAT, "stream": True})
        await gate.reached()
        assert (await caller.head()).status == 200
        await chunks(caller, 2)
        gate.open()
        said = await caller.chunks()
        text = b"".join(said)
        if path == "/api/chat":
            assert text.lstrip(b" ") == b'{"error":"no luck"}\n'
        else:
            assert json.loads(said[-1].removeprefix(b"data: "))["error"]["message"] == "no luck"
        await at.settled()


async def test_a_load_call_that_was_committed_is_one_line(at: Site) -> None:
    """`{"model"}` alone answers one object without a newline, after the spaces."""
    await at.alive()
    gate = at.fake.gate(model="beta", at="load")
    caller = await at.dial()
    caller.ask("/api/generate", {"model": "beta"})
    await gate.reached()
    head = await caller.head()
    assert (head.status, head.header("Content-Type")) == (200, "application/x-ndjson")
    await chunks(caller, 2)
    gate.open()
    said = b"".join(await caller.chunks())
    assert json.loads(said)["done_reason"] == "load"
    assert said.lstrip(b" ").rstrip(b"\n") == said.strip()
    await at.settled()


async def test_a_call_waits_for_a_target_that_is_down_and_then_runs(at: Site) -> None:
    await at.settled()
    await at.fake.stop()
    caller = await at.dial()
    caller.ask("/v1/chat/completions", {**CHAT, "stream": True})
    await caller.head()
    async with asyncio.timeout(60):
        while True:
            beat = await read_chunk(caller.reader)
            assert WORDS.fullmatch(beat), beat
            if beat.startswith(b": waiting target=main down_for="):
                break
    await at.fake.start()
    assert (await caller.chunks())[-1] == b"data: [DONE]\n\n"
    await at.settled()
