"""`/ops/events`: one look for all, only what changed, nobody held up."""

from __future__ import annotations

import asyncio
import itertools
import json
import socket
from urllib.parse import quote

import pytest

from foreman.core.jobs import State
from foreman.store.operators import Kind
from foreman.web.ops import feed
from tests.web.conftest import wait_until

JOB = {"model": "m", "messages": []}

PACE = min(feed.EVERY, feed.CALM)
"""Seconds between two events at least, before the tests hurry it."""


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(feed, "EVERY", 0.02)
    monkeypatch.setattr(feed, "CALM", 0.04)
    monkeypatch.setattr(feed, "QUIET", 0.2)
    monkeypatch.setattr(feed, "SHARE", 0.0)  # a look that took long on a busy machine is no pause of twenty times that


class Listener:
    """A page: events as they come, and the state that they add up to."""

    def __init__(self, caller) -> None:
        self.caller = caller
        self.state: dict = {}
        self.last_id = ""
        self._rest = b""

    async def open(self, last_id: str = ""):
        headers = {"Last-Event-ID": last_id} if last_id else {}
        self.caller.ask("GET", "/ops/events", **headers)
        return await self.caller.head()

    async def event(self) -> tuple[str, dict]:
        while b"\n\n" not in self._rest:
            chunk = await self.caller.chunk()
            assert chunk, "the feed has ended"
            self._rest += chunk
        text, _, self._rest = self._rest.partition(b"\n\n")
        fields = dict(line.split(": ", 1) for line in text.decode().split("\n"))
        data = json.loads(fields["data"])
        self.last_id = fields.get("id", self.last_id)
        if fields["event"] == "snapshot":
            self.state = data
        elif fields["event"] == "change":
            tokens = data.pop("tokens", {})
            self.state |= data
            for job in (job for target in self.state.get("targets", ()) for job in target["running"]):
                job["tokens"], job["tokens_per_second"] = tokens.get(
                    job["job_id"], (job["tokens"], job["tokens_per_second"])
                )
        return fields["event"], data

    async def until(self, condition):
        async with asyncio.timeout(60):
            while not condition(self.state):
                await self.event()


@pytest.fixture
async def listen(gateway, dial):
    async def opened(last_id: str = "") -> Listener:
        listener = Listener(await dial(gateway))
        reply = await listener.open(last_id)
        assert (reply.status, reply.header("Content-Type")) == (200, "text/event-stream; charset=utf-8")
        assert reply.header("X-Accel-Buffering") == "no"
        return listener

    return opened


async def test_a_snapshot_then_only_what_changes(gateway, worker, listen, dial) -> None:
    listener, caller = await listen(), await dial(gateway)
    kind, state = await listener.event()
    assert kind == "snapshot"
    assert state.keys() == (await caller.get("/ops/state")).json().keys()
    await caller.post("/jobs", JOB)
    await listener.until(lambda state: state["jobs"]["queued"] == 1)
    assert listener.state["lanes"][0]["depth"] == 1
    kind, change = await listener.event()
    while "jobs" in change or "lanes" in change:
        kind, change = await listener.event()
    assert kind == "change"
    assert {"now", "store"} <= change.keys() < state.keys(), "what stays the same is not said again"
    run = await worker.claim()
    await run.end(State.DONE)
    await listener.until(lambda state: state["jobs"]["done"] == 1)
    final = (await caller.get("/ops/state")).json()
    for section in ("jobs", "targets", "lanes", "ledger"):
        assert listener.state[section] == final[section]


async def test_whoever_comes_back_gets_what_it_missed(gateway, worker, listen, dial) -> None:
    keeper, first, caller = await listen(), await listen(), await dial(gateway)
    await first.event()
    await first.caller.close()
    await caller.post("/jobs", JOB)
    await keeper.until(lambda state: state.get("jobs", {}).get("queued") == 1)
    again = await listen(first.last_id)
    kind, change = await again.event()
    assert (kind, change["jobs"]["queued"]) == ("change", 1)
    assert "workers" not in change or "targets" not in change
    for stranger in ("other-1", "x", f"{first.last_id.partition('-')[0]}-999999"):
        assert (await (await listen(stranger)).event())[0] == "snapshot"


async def test_many_pages_cost_one_look(gateway, worker, listen, monkeypatch) -> None:
    looks = 0
    real = type(gateway.feed._snapshots).state

    async def counted(self):
        nonlocal looks
        looks += 1
        return await real(self)

    monkeypatch.setattr(type(gateway.feed._snapshots), "state", counted)
    listeners = [await listen() for _ in range(20)]
    for listener in listeners:
        await listener.event()
    before = looks
    for listener in listeners:
        for _ in range(3):
            await listener.event()
    assert looks - before <= 60, "20 listeners, 3 events each"
    frames = gateway.feed._frames
    assert len(frames) <= 3, "one frame for all that have seen the same"


async def test_tokens_alone_are_news_but_no_hurry(gateway, worker, listen, dial) -> None:
    listener, caller = await listen(), await dial(gateway)
    await caller.post("/jobs", JOB)
    run = await worker.claim()
    take, paces = gateway.feed._take, []
    gateway.feed._take = lambda state: (paces.append(take(state)), paces[-1])[1]
    for tokens in range(1, 50):
        running = [{"job_id": run.job.id, "tokens": tokens, "tokens_per_second": 1.0}]
        await worker.publish("gpu1", "m:latest", since=1.0, probed_at=1.0, running=running)
        del paces[:]

        def shows(state: dict, tokens: int = tokens) -> bool:
            return any(job["tokens"] == tokens for target in state.get("targets", ()) for job in target["running"])

        await listener.until(shows)
        if tokens >= 3 and not any(paces):  # the jobs and all else stayed as they were
            break
    else:
        raise AssertionError("tokens alone are a hurry")
    assert listener.state["targets"] == (await caller.get("/ops/state")).json()["targets"]
    del paces[:]
    await run.end(State.DONE)
    await listener.until(lambda state: state["jobs"]["done"] == 1)
    assert any(paces)


async def test_while_it_is_calm_no_look_is_whole(gateway, worker, listen, dial, store, monkeypatch) -> None:
    listener, caller = await listen(), await dial(gateway)
    await listener.event()
    snapshots, looks = type(gateway.feed._snapshots), list[str]()
    whole, calm = snapshots.state, snapshots.calm

    async def calmly(self) -> dict | None:
        seen = await calm(self)
        looks.append("calm" if seen else "not calm")
        return seen

    monkeypatch.setattr(snapshots, "state", lambda self: (looks.append("whole"), whole(self))[1])
    monkeypatch.setattr(snapshots, "calm", calmly)
    monkeypatch.setattr(feed, "WHOLE", 1e9)
    monkeypatch.setattr(feed, "EVERY", 0.05)
    monkeypatch.setattr(feed, "CALM", 0.06)
    await wait_until(lambda: looks[-3:] == ["calm"] * 3)
    await caller.post("/jobs", JOB)
    await listener.until(lambda state: state["jobs"]["queued"] == 1)
    assert ("not calm", "whole") in itertools.pairwise(looks)
    await wait_until(lambda: looks[-2:] == ["calm"] * 2)
    lane = listener.state["lanes"][0]["lane"]
    await store.operators.pause(Kind.LANE, lane, "operator")
    monkeypatch.setattr(feed, "WHOLE", 0.0)
    await listener.until(lambda state: state["lanes"][0]["paused"])
    monkeypatch.setattr(feed, "WHOLE", 1e9)
    await wait_until(lambda: looks[-2:] == ["calm"] * 2)
    await (await dial(gateway)).post(
        f"/ops/lanes/{quote(lane, safe='')}/resume", b""
    )  # a deed done here waits for no pace
    await listener.until(lambda state: not state["lanes"][0]["paused"])


def test_a_page_hears_twice_a_second_at_most():
    assert PACE >= 0.5


async def test_nobody_listens_nobody_looks(gateway, worker, listen) -> None:
    listener = await listen()
    await listener.event()
    await listener.caller.close()
    await wait_until(lambda: gateway.feed.listeners == 0)
    await wait_until(lambda: gateway.feed._look is None)


async def test_a_stop_says_so_and_waits_for_no_page(open_gateway, worker, dial) -> None:
    gateway = await open_gateway()
    listener = Listener(await dial(gateway))
    await listener.open()
    await listener.event()
    async with asyncio.timeout(60):
        stopping = asyncio.get_running_loop().create_task(gateway.stop(30))
        kind = ""
        while kind != "leaving":
            kind, _ = await listener.event()
        await stopping


async def test_a_page_that_takes_nothing_skips_what_is_stale_and_holds_up_no_stop(
    open_gateway, worker, dial, monkeypatch
) -> None:
    gateway = await open_gateway()
    caller = await dial(gateway)
    host, port = gateway.url.removeprefix("http://").split(":")
    loop = asyncio.get_running_loop()
    with socket.socket() as stuck:
        stuck.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        stuck.setblocking(False)
        await loop.sock_connect(stuck, (host, int(port)))
        await loop.sock_sendall(stuck, b"GET /ops/events HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        await wait_until(lambda: gateway.feed.listeners == 1)
        real, number = gateway.feed._snapshots.state, 0

        async def ever_new() -> dict:
            nonlocal number
            number += 1
            return await real() | {"padding": f"{number}" * 100_000}

        monkeypatch.setattr(type(gateway.feed._snapshots), "state", lambda _self: ever_new())
        listener = Listener(caller)
        await listener.open()
        await listener.until(lambda state: state.get("padding", "").startswith("9"))
        assert gateway.feed.listeners == 2, "others go on"
        async with asyncio.timeout(60):
            await gateway.stop(30)
    assert gateway.feed.listeners == 0


async def test_one_that_takes_nothing_for_long_is_let_go(open_gateway, worker, dial, monkeypatch) -> None:
    monkeypatch.setattr(feed, "STALLED", 0.05)
    gateway = await open_gateway()
    caller = await dial(gateway)
    listener = Listener(caller)
    await listener.open()
    await listener.event()
    (inside,) = gateway.feed._listeners
    monkeypatch.setattr(type(inside._protocol), "writing_paused", True)
    assert await caller.ended()
    await wait_until(lambda: gateway.feed.listeners == 0)


async def test_too_many_feeds_are_refused(gateway, worker, listen, dial, monkeypatch) -> None:
    monkeypatch.setattr(feed, "MOST", 1)
    await listen()
    reply = await (await dial(gateway)).get("/ops/events")
    assert (reply.status, reply.header("Retry-After")) == (503, "5")


async def test_a_look_that_fails_costs_one_look(gateway, worker, listen, monkeypatch) -> None:
    listener = await listen()
    await listener.event()
    broke = asyncio.Event()

    async def broken(_self):
        broke.set()
        raise ValueError("a fault of ours")

    with monkeypatch.context() as patch:
        patch.setattr(type(gateway.feed._snapshots), "state", broken)
        await broke.wait()
    before = listener.state["now"]
    await listener.until(lambda state: state["now"] > before)


async def test_the_store_away_shows_what_was_known_and_since_when(gateway, worker, listen, dial, monkeypatch) -> None:
    from foreman.store.errors import StoreUnavailableError

    listener, caller = await listen(), await dial(gateway)
    await caller.post("/jobs", JOB)
    await listener.until(lambda state: state and state["jobs"]["queued"] == 1)

    async def away(*_args):
        raise StoreUnavailableError("gone")

    monkeypatch.setattr(gateway.feed._snapshots.store.queue, "ping", away)
    await listener.until(lambda state: state["store"]["status"] == "unavailable")
    assert listener.state["store"]["error"] == "gone"
    assert listener.state["jobs"]["queued"] == 1
    assert listener.state["as_of"] < listener.state["now"]
    monkeypatch.undo()
    await listener.until(lambda state: state["store"]["status"] == "ok")
