"""The store goes away (contract 10.1, 10.7): streams go on, new calls get a 503, nothing is lost, everything resumes."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from typing import TYPE_CHECKING

import pytest
import pytest_asyncio

from foreman.demo.ollama import FakeOllama
from foreman.store.embedded import EmbeddedServer
from tests.attack.ground import CHAT, MODES, STREAMS, Site, site, until

if TYPE_CHECKING:
    from foreman.demo.ollama import Gate
    from tests.attack.ground import Caller

pytestmark = pytest.mark.asyncio(loop_scope="module")
LEASE = 4.0
"""Seconds."""
APART = pytest.mark.parametrize("pair", ["apart"], indirect=True, scope="module")
"""Roles apart is the harder case."""


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=MODES)
async def pair(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("away")
    server = EmbeddedServer(folder / "own")
    url = await asyncio.to_thread(server.start)
    fake = FakeOllama(models=["alpha", "beta", "embedder"], tokens=8, max_loaded=1)
    try:
        async with site(folder, url, fake, request.param, models="3", headers_after="10s") as at:
            await at.alive()
            yield at, server
    finally:
        server.stop()


async def refused(at: Site, path: str = "/api/chat") -> None:
    """New calls get the 503 of the store."""
    answer = await at.post(path, {**CHAT, "max_tokens": 5}, timeout=20)
    assert (answer.status, answer.header("X-Foreman-Error")) == (503, "store_unavailable"), answer
    assert int(answer.header("Retry-After") or 0) >= 1
    error = json.loads(answer.body)["error"]
    assert isinstance(error, dict if path.startswith("/v1/") else str)


async def back(at: Site) -> None:
    """Ready again, and everything works."""

    async def ready() -> bool:
        try:
            answer = await at.post("/readyz", b"", method="GET", timeout=5)
        except OSError:
            return False
        return answer.status == 200

    await until(ready, 15)
    await until(lambda: _works(at), 20)
    await at.settled()


async def _works(at: Site) -> bool:
    return (await at.post("/api/chat", {**CHAT, "stream": False}, timeout=20)).status == 200


async def stream(at: Site, dialect: str, after: int) -> tuple[Caller, Gate]:
    """A streamed call that stands before line `after` of its answer."""
    path, body, headers = STREAMS[dialect]
    gate = at.fake.gate(after=after, path=path)
    caller = await at.dial()
    caller.ask(path, body, **{name.replace("-", "_"): value for name, value in headers.items()})
    await gate.reached()
    return caller, gate


@pytest.mark.parametrize("dialect", ["chat", "v1-messages"])
async def test_away_in_mid_stream(pair: tuple[Site, EmbeddedServer], dialect: str) -> None:
    at, server = pair
    caller, gate = await stream(at, dialect, after=2)
    await caller.head()
    await asyncio.to_thread(server.stop)
    try:
        await refused(at)
        await refused(at, "/v1/chat/completions")
        health = await at.post("/healthz", b"", method="GET")
        assert health.status == 200
        assert json.loads(health.body)["degraded"] is True
        assert (await until(lambda: _not_ready(at))) is True
        gate.open()
        said = b"".join(await caller.chunks())
        assert {"chat": b'"done":true', "v1-messages": b"message_stop"}[dialect] in said
        assert b"error" not in said
    finally:
        at.fake.clear()
        await asyncio.to_thread(server.start)
    await back(at)


async def _not_ready(at: Site) -> bool:
    return (await at.post("/readyz", b"", method="GET")).status == 503


@APART
async def test_away_before_the_first_byte(pair: tuple[Site, EmbeddedServer]) -> None:
    """The target has the request: its answer still comes through."""
    at, server = pair
    caller, gate = await stream(at, "chat", after=0)
    await asyncio.to_thread(server.stop)
    try:
        gate.open()
        answer_head = await caller.head()
        assert answer_head.status == 200
        assert b'"done":true' in b"".join(await caller.chunks())
    finally:
        at.fake.clear()
        await asyncio.to_thread(server.start)
    await back(at)


@APART
@pytest.mark.slow
async def test_away_longer_than_the_lease_in_mid_stream(pair: tuple[Site, EmbeddedServer]) -> None:
    """The lease is gone by then. The stream ends whole or with an error, never spliced, never silently."""
    at, server = pair
    caller, gate = await stream(at, "chat", after=2)
    await caller.head()
    await asyncio.to_thread(server.stop)
    till = asyncio.get_running_loop().time() + LEASE + 1
    try:
        await until(lambda: asyncio.get_running_loop().time() > till)
    finally:
        await asyncio.to_thread(server.start)
    gate.open()
    last = (b"".join(await caller.chunks())).splitlines()[-1]
    assert b'"done":true' in last or b'"error"' in last
    at.fake.clear()
    await back(at)


@APART
async def test_away_while_calls_wait_for_a_load_and_in_the_queue(pair: tuple[Site, EmbeddedServer]) -> None:
    """Nothing is lost: all get their answers after it is back."""
    at, server = pair
    await at.alive()
    gate = at.fake.gate(model="beta", at="load")
    callers = []
    for model in ("beta", "beta", "alpha", "alpha"):
        caller = await at.dial()
        caller.ask("/api/chat", {**CHAT, "model": model, "stream": False})
        callers.append(caller)
        if len(callers) == 1:
            await gate.reached()
    await at.house.until(lambda state: state["jobs"]["queued"] == 3)
    await asyncio.to_thread(server.stop)
    await refused(at)
    gate.open()
    await asyncio.to_thread(server.start)
    for caller in callers:
        answer = await caller.answer()
        assert (answer.status, json.loads(answer.body).get("done")) == (200, True), answer
    await back(at)


@APART
async def test_a_caller_that_leaves_while_the_store_is_away(pair: tuple[Site, EmbeddedServer]) -> None:
    """A running one is cut at the target at once; a queued one never runs once it is back."""
    at, server = pair
    await at.alive()
    runs, gate = await stream(at, "chat", after=1)
    queued = await at.dial()
    queued.ask("/api/chat", {**CHAT, "model": "beta"})
    await at.house.until(lambda state: state["jobs"]["queued"] == 1)
    cancelled, asked = at.fake.cancels, len(at.fake.requests_to("/api/chat"))
    await asyncio.to_thread(server.stop)
    queued.close()
    runs.close()
    await at.fake.until(lambda fake: fake.cancels > cancelled)
    await until(lambda: "job.cancel_unsent" in at.log(), 30)
    gate.open()
    await asyncio.to_thread(server.start)
    await back(at)
    assert all(seen.model != "beta" for seen in at.fake.requests_to("/api/chat")[asked:])


async def test_killed_while_idle_and_while_a_job_runs(pair: tuple[Site, EmbeddedServer]) -> None:
    """SIGKILL of the server; its supervisor starts it again on the same data."""
    at, server = pair
    for busy in (False, True):
        started = await stream(at, "chat", after=1) if busy else None
        pid = server.pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        if started:
            caller, gate = started
            gate.open()
            await caller.head()
            assert b'"done":true' in b"".join(await caller.chunks())
        await until(lambda pid=pid: server.pid not in {None, pid})
        await back(at)
    left = {
        key for key in await at.job_keys() if key.startswith(("lane:", "queued", "running", "gateway", "deadlines"))
    }
    assert left == set()


@APART
@pytest.mark.slow
async def test_frozen_is_as_good_as_away(pair: tuple[Site, EmbeddedServer]) -> None:
    """SIGSTOP: it takes connections and says nothing. Calls are refused, not held for ever."""
    at, server = pair
    pid = server.pid
    assert pid is not None
    caller, gate = await stream(at, "chat", after=2)
    await caller.head()
    os.kill(pid, signal.SIGSTOP)
    try:
        await refused(at)
        gate.open()
        assert b'"done":true' in b"".join(await caller.chunks())
    finally:
        os.kill(pid, signal.SIGCONT)
        at.fake.clear()
    await back(at)


@APART
async def test_a_job_whose_caller_left_meanwhile_is_cancelled_once_it_is_back(
    pair: tuple[Site, EmbeddedServer],
) -> None:
    """By the gateway, at once: no worker is there that could find out."""
    at, server = pair
    await at.settled()
    await at.house.stop("worker")
    queued = await at.dial()
    queued.ask("/api/chat", {**CHAT, "model": "beta"})
    await at.house.until(lambda state: state["jobs"]["queued"] == 1)
    await asyncio.to_thread(server.stop)
    unsent = at.log().count("job.cancel_unsent")
    queued.close()
    await until(lambda: at.log().count("job.cancel_unsent") > unsent, 30)
    await asyncio.to_thread(server.start)
    await at.house.until(lambda state: state["store"]["status"] == "ok" and state["jobs"]["queued"] == 0)
    await at.house.spawn("worker", "--role", "worker")
    await back(at)
