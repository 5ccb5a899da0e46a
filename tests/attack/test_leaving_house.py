"""Processes that leave or are lost (contract 3, 10.3, 10.4, 10.6): SIGTERM, a second worker, a gateway that is killed."""

from __future__ import annotations

import asyncio
import json
import signal
from typing import TYPE_CHECKING

import pytest

from foreman.demo.ollama import FakeOllama
from tests.attack.ground import ASK, CHAT, MODES, Site, site, until

if TYPE_CHECKING:
    from pathlib import Path

    from foreman.demo.ollama import Gate
    from tests.attack.ground import Caller

TAKEN_OVER = 6.0
"""Seconds that are promised after a SIGKILL."""
HANDED_BACK = 1.0
"""Seconds that are promised after the grace of a SIGTERM."""


async def streaming(at: Site, after: int = 2) -> tuple[Caller, Gate]:
    """A stream that stands before line `after`."""
    gate = at.fake.gate(after=after, path="/api/chat")
    caller = await at.dial()
    caller.ask("/api/chat", CHAT)
    await gate.reached()
    return caller, gate


def fake_of(**more: object) -> FakeOllama:
    return FakeOllama(models=["alpha", "beta"], tokens=6, **more)  # type: ignore[arg-type]  # its own keywords


@pytest.mark.parametrize("mode", MODES)
async def test_sigterm_lets_a_stream_end(tmp_path: Path, valkey: str, mode: str) -> None:
    """New calls are refused with 503 shutting_down, or not taken at all; what runs ends whole; exit code 0."""
    async with site(tmp_path, valkey, fake_of(), mode, models="2") as at:
        caller, gate = await streaming(at)
        await caller.head()
        kept = await at.dial()
        kept.ask("/api/version", b"", method="GET")
        assert (await kept.answer()).status == 200
        name = "serve" if mode == "one" else "gateway"
        process = at.house.processes[name]
        process.send_signal(signal.SIGTERM)
        await until(lambda: '"gateway.leaving"' in at.log() or "house.leaving" in at.log())
        kept.ask("/api/chat", CHAT)
        answer = await kept.answer()
        assert (answer.status, answer.header("X-Foreman-Error")) == (503, "shutting_down"), answer
        assert answer.header("Retry-After")
        kept.ask("/readyz", b"", method="GET")
        assert (await kept.answer()).status == 503
        gate.open()
        assert b'"done":true' in b"".join(await caller.chunks())
        assert await asyncio.wait_for(process.wait(), 20) == 0
        at.house.processes.pop(name)


@pytest.mark.parametrize("mode", MODES)
async def test_after_the_grace_what_still_runs_is_told(tmp_path: Path, valkey: str, mode: str) -> None:
    async with site(tmp_path, valkey, fake_of(), mode, models="2", shutdown_grace="300ms") as at:
        caller, _ = await streaming(at)
        await caller.head()
        waiting = await at.dial()
        waiting.ask("/v1/chat/completions", {**CHAT, "model": "beta"})
        await at.house.until(lambda state: state["jobs"]["queued"] == 1 or state["jobs"]["loading"] == 1)
        name = "serve" if mode == "one" else "gateway"
        process = at.house.processes.pop(name)
        process.send_signal(signal.SIGTERM)
        answer, said = await asyncio.gather(waiting.answer(), caller.chunks())
        assert (answer.status, answer.header("X-Foreman-Error")) in {(503, "shutting_down"), (200, None)}, answer
        assert json.loads(said[-1])["error"]
        assert not any(b'"done":true' in line for line in said)
        assert await asyncio.wait_for(process.wait(), 20) == 0
        await at.fake.until(lambda fake: not fake.answering)


async def test_a_worker_that_leaves_hands_its_jobs_back(tmp_path: Path, valkey: str) -> None:
    """Before the first byte: the next worker runs it, on the first attempt still. In mid-stream: `interrupted`."""
    async with site(tmp_path, valkey, fake_of(slots=2), "apart", models="2", shutdown_grace="200ms") as at:
        gate = at.fake.gate(path="/api/generate")
        early = await at.dial()
        early.ask("/api/generate", {"model": "alpha", "prompt": "x", "stream": False})
        await gate.reached()
        process = at.house.processes.pop("worker")
        process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(process.wait(), 20) == 0
        state = await at.house.until(lambda state: state["jobs"]["queued"] == 1)
        assert state["jobs"]["working"] == 0
        gate.open()
        await at.house.spawn("worker2", "--role", "worker")
        async with asyncio.timeout(10 * HANDED_BACK):
            assert (await early.answer()).status == 200
        caller, gate = await streaming(at)
        await caller.head()
        process = at.house.processes.pop("worker2")
        process.send_signal(signal.SIGTERM)
        last = json.loads((b"".join(await caller.chunks())).splitlines()[-1])
        assert "error" in last
        assert await asyncio.wait_for(process.wait(), 20) == 0


@pytest.mark.slow
async def test_a_job_that_kills_three_workers_is_poison(tmp_path: Path, valkey: str) -> None:
    """Each time one that stood by takes over; the job is run again, before the first byte, until it has had its share."""
    async with site(tmp_path, valkey, fake_of(), "apart", models="2") as at:
        await at.house.spawn("w2", "--role", "worker")
        await at.house.spawn("w3", "--role", "worker")
        await at.house.spawn("w4", "--role", "worker")
        await at.house.until(lambda state: len({worker["id"] for worker in state["workers"]}) == 4)
        at.fake.gate(path="/v1/chat/completions", times=9)
        caller = await at.dial()
        caller.ask("/v1/chat/completions", {**CHAT, "stream": False})
        for runs in (1, 2, 3):
            await at.fake.until(
                lambda fake, runs=runs: len(fake.requests_to("/v1/chat/completions")) == runs, 3 * TAKEN_OVER
            )
            state = await at.house.until(lambda state: any(t["running"] for t in state["targets"]))
            owner = next(worker["id"] for worker in state["workers"] if worker["target"] == "main")
            name = next(n for n in ("worker", "w2", "w3", "w4") if owner in at.house.log(n) and n in at.house.processes)
            await at.house.stop(name, signal.SIGKILL)
        answer = await caller.answer(30)
        assert (answer.status, answer.header("X-Foreman-Error")) == (502, "poison"), answer
        at.fake.clear()
        await at.alive()


async def test_a_gateway_that_is_killed_leaves_no_job_behind(tmp_path: Path, valkey: str) -> None:
    """Nobody listens any more: what it had queued or running is cancelled, and the target is let go.

    The one that waits is due before anybody can know that its gateway is dead.
    """
    due = "high=100ms,normal=2m,low=30m"
    async with site(tmp_path, valkey, fake_of(), "apart", models="2", due_after=due) as at:
        caller, gate = await streaming(at)
        waiting = await at.dial()
        waiting.ask("/api/chat", {"model": "beta", "messages": ASK})
        await at.house.until(lambda state: state["jobs"]["queued"] == 1)
        cancels = at.fake.cancels
        await at.house.stop("gateway", signal.SIGKILL)
        await caller.rest()
        await at.fake.until(lambda fake: fake.cancels > cancels)
        gate.open()
        await at.house.spawn("gateway2", "--role", "gateway")
        await at.house.until(lambda tags: len(tags.get("models", [])) == 2, "/api/tags")
        await at.settled(30)
        assert all(seen.model != "beta" for seen in at.fake.requests_to("/api/chat"))
        assert all(not load.model.startswith("beta") for load in at.fake.loads), "nobody waits for it: it costs no load"
        left = {key for key in await at.job_keys() if key.startswith(("lane:", "queued", "running"))}
        assert left == set()
        await at.alive()
