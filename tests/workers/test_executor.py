"""One job through a worker to a fake model server and back: what the caller gets and what the store says."""

import json

from foreman.core.jobs import State
from foreman.demo.ollama import FakeOllama


async def test_a_stream_comes_back_live_and_whole(floor):
    async with FakeOllama(["a"], tokens=4, load_seconds=0.02) as fake:
        here = await floor(gpu=fake)
        gate = fake.gate(after=1)
        caller = await here.submit("a")
        await gate.reached()
        await caller.until(lambda c: len(c.units) == 1)  # the server holds the rest until the first line is here
        assert json.loads(caller.units[0])["done"] is False
        assert (await here.job(caller)).state is State.WORKING
        await gate.release()
        await caller.ended()
        job = await here.final(caller)
    assert caller.calls == ["started", "working", "head", "end"]
    assert caller.heads[0].status == 200
    assert all(unit.endswith(b"\n") for unit in caller.units)
    assert json.loads(caller.units[-1])["done"] is True
    assert (job.state, job.attempt, job.target) == (State.DONE, 1, "gpu")
    assert job.usage["completion_tokens"] == 4
    assert job.timings.keys() == {"queued_ms", "loading_ms", "ttft_ms", "tpot_ms", "total_ms"}
