"""Callers that do not read (contract 4 Slow readers): dropped after their time, in every form, and nothing of them is left."""

from __future__ import annotations

import asyncio
import json
import socket
from urllib.parse import urlsplit

import pytest
import pytest_asyncio

from foreman.demo.ollama import FakeOllama
from tests.attack.ground import ASK, CHAT, MODES, Caller, Site, site, until

pytestmark = pytest.mark.asyncio(loop_scope="module")
TIMEOUT = 0.5
ENDLESS = 60_000
"""Tokens: far more than all buffers on the way take."""


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=MODES)
async def at(request, tmp_path_factory, valkey):
    fake = FakeOllama(models=["alpha"], tokens=4, fast=True)
    settings = {"reader_timeout": f"{TIMEOUT}s", "spool_bytes": "64KiB"}
    async with site(tmp_path_factory.mktemp("slow"), valkey, fake, request.param, **settings) as made:
        await made.alive()
        yield made
        fake.clear()


async def deaf(at: Site, path: str, body: object, **headers: str) -> Caller:
    """A caller that has asked and reads nothing; its own buffers are small."""
    parts = urlsplit(at.url)
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
    sock.setblocking(False)
    await asyncio.get_running_loop().sock_connect(sock, (parts.hostname, parts.port))
    reader, writer = await asyncio.open_connection(sock=sock, limit=1 << 10)
    caller = Caller(reader, writer, parts.netloc)
    at.callers.append(caller)
    writer.transport.pause_reading()
    caller.ask(path, body, **headers)
    return caller


FORMS = {
    "lines": ("/api/chat", {}, {}),
    "events": ("/api/chat", {}, {"Accept": "text/event-stream"}),
    "v1": ("/v1/chat/completions", {"stream": True}, {}),
}


@pytest.mark.parametrize("form", FORMS)
async def test_one_that_never_reads_is_dropped_and_leaves_nothing(at: Site, form: str) -> None:
    await at.alive()
    path, more, headers = FORMS[form]
    options = {"options": {"num_predict": ENDLESS}} if path.startswith("/api") else {"max_tokens": ENDLESS}
    at.fake.pace.tokens, before, dropped = ENDLESS, at.fake.pace.tokens, at.log().count("reader.dropped")
    try:
        caller = await deaf(at, path, {**CHAT, **more, **options}, **headers)
        await until(lambda: at.log().count("reader.dropped") > dropped)
    finally:
        at.fake.pace.tokens = before
    await at.settled()
    caller.writer.transport.resume_reading()
    assert b'"done":true' not in await caller.rest()
    jobs = await at.house.get("/jobs?surface=sync&limit=1")
    assert (jobs["jobs"][0]["state"], jobs["jobs"][0]["error"]["code"]) == ("cancelled", "caller_gone")
    await at.alive()


async def test_the_slot_is_free_as_soon_as_the_target_is_done(at: Site) -> None:
    """An answer that fits into the buffers on the way holds nobody, whether it is read or not."""
    await at.alive()
    at.fake.pace.tokens, before = 400, at.fake.pace.tokens
    try:
        caller = await deaf(at, "/api/chat", CHAT)
        await at.settled()
    finally:
        at.fake.pace.tokens = before
    assert (await at.post("/api/chat", {"model": "alpha", "messages": ASK})).status == 200
    caller.writer.transport.resume_reading()
    answer = await caller.answer()
    assert json.loads(answer.chunks[-1])["done"] is True


async def test_a_kept_answer_holds_no_target_however_it_is_read(at: Site) -> None:
    await at.alive()
    at.fake.pace.tokens, before, dropped = 40_000, at.fake.pace.tokens, at.log().count("reader.dropped")
    try:
        caller = await deaf(at, "/api/chat", CHAT, Idempotency_Key=f"deaf {at.url}")
        await at.settled(60)
    finally:
        at.fake.pace.tokens = before
    jobs = await at.house.get("/jobs?surface=sync&limit=1")
    assert jobs["jobs"][0]["state"] == "done"
    await until(lambda: at.log().count("reader.dropped") > dropped)
    caller.close()
    again = await at.post("/api/chat", CHAT, {"Idempotency-Key": f"deaf {at.url}"})
    assert (again.status, json.loads(again.chunks[-1])["done"]) == (200, True)
    assert len(again.body) > 4_000_000
