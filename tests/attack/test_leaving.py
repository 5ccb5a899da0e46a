"""Callers that leave in every state (contract 4 Leaving, 10.6), deadlines, classes and the limit of the queue."""

from __future__ import annotations

import asyncio
import json

import pytest
import pytest_asyncio

from foreman.demo.ollama import FakeOllama
from tests.attack.ground import ASK, CHAT, MODES, Site, site, until

pytestmark = pytest.mark.asyncio(loop_scope="module")
PROMISE = 0.1
"""Seconds in which the target sees a cancel; ten times that is borne here."""
DEADLINE = "2"
"""Seconds: more than a busy machine's loads take, or the job is refused at once."""
FORMS = [("/api/chat", True), ("/api/chat", False), ("/v1/chat/completions", True), ("/v1/messages", False)]


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=MODES)
async def at(request, tmp_path_factory, valkey):
    fake = FakeOllama(models=["alpha", "beta", "embedder"], tokens=4, max_loaded=1)
    async with site(
        tmp_path_factory.mktemp("leave"), valkey, fake, request.param, models="3", max_queue="20", headers_after="100ms"
    ) as made:
        await made.alive()
        yield made


@pytest_asyncio.fixture(autouse=True, loop_scope="module")
async def open_gates(at: Site):
    """A test that failed leaves no gate closed to the next."""
    yield
    at.fake.clear()


def body_of(stream: bool, model: str = "alpha") -> dict[str, object]:
    return {"model": model, "messages": ASK, "max_tokens": 9, "stream": stream}


async def gone(at: Site, cancelled: int) -> None:
    """Wait until the fake has seen one more caller leave; tests/bench/cancel.py measures how soon it does."""
    await at.fake.until(lambda fake: fake.cancels > cancelled, timeout=100 * PROMISE)


@pytest.mark.parametrize(("path", "stream"), FORMS)
@pytest.mark.parametrize("how", ["reset", "fin"])
async def test_leaving_while_the_target_works(at: Site, path: str, stream: bool, how: str) -> None:
    """In prefill: the upstream connection is closed at once."""
    await at.alive()
    failed, cancelled = (await at.jobs())["failed"], at.fake.cancels
    gate = at.fake.gate(path=path)
    caller = await at.dial()
    caller.ask(path, body_of(stream))
    await gate.reached()
    if how == "reset":
        caller.close()
    else:
        caller.writer.close()
    await gone(at, cancelled)
    gate.open()
    await at.settled()
    assert (await at.jobs())["failed"] == failed, "it is no failure of the target"


@pytest.mark.parametrize("path", ["/api/chat", "/v1/chat/completions"])
async def test_leaving_in_mid_stream(at: Site, path: str) -> None:
    await at.alive()
    cancelled = at.fake.cancels
    gate = at.fake.gate(after=2, path=path)
    caller = await at.dial()
    caller.ask(path, body_of(stream=True))
    await caller.head()
    await gate.reached()
    caller.close()
    await gone(at, cancelled)
    gate.open()
    await at.alive()


@pytest.mark.parametrize(("path", "stream"), FORMS)
async def test_leaving_while_queued_costs_no_load(at: Site, path: str, stream: bool) -> None:
    await at.alive()
    gate = at.fake.gate(path="/api/generate")
    first = await at.dial()
    first.ask("/api/generate", {"model": "alpha", "prompt": "x"})
    await gate.reached()
    loads, seen = len(at.fake.loads), len(at.fake.requests_to(path))
    caller = await at.dial()
    caller.ask(path, body_of(stream, "beta"))
    await at.house.until(lambda state: state["jobs"]["queued"] == 1)
    caller.close()
    await at.house.until(lambda state: state["jobs"]["queued"] == 0)
    gate.open()
    await first.answer()
    await at.settled()
    assert (len(at.fake.loads), len(at.fake.requests_to(path))) == (loads, seen)


@pytest.mark.parametrize("stream", [True, False])
async def test_leaving_while_loading_stops_the_load(at: Site, stream: bool) -> None:
    await at.alive()
    gate = at.fake.gate(model="beta", at="load")
    stopped = at.fake.ledger.loads_stopped
    caller = await at.dial()
    caller.ask("/api/chat", body_of(stream, "beta"))
    await gate.reached()
    caller.close()
    await at.fake.until(lambda fake: fake.ledger.loads_stopped > stopped, timeout=100 * PROMISE)
    gate.open()
    await at.settled()
    await at.alive()


async def test_a_load_goes_on_while_another_of_its_lane_waits(at: Site) -> None:
    await at.alive()
    gate = at.fake.gate(model="beta", at="load")
    caller, second = await at.dial(), await at.dial()
    caller.ask("/api/chat", body_of(stream=True, model="beta"))
    await gate.reached()
    second.ask("/api/chat", body_of(stream=False, model="beta"))
    await at.house.until(lambda state: state["jobs"]["queued"] == 1)
    loads = len(at.fake.loads)
    caller.close()
    await at.house.until(lambda state: state["jobs"]["loading"] == 0 or state["jobs"]["queued"] == 0)
    gate.open()
    assert (await second.answer()).status == 200
    assert len(at.fake.loads) == loads, "the load under way served the other"
    await at.settled()


async def test_embeddings_go_beside_the_drain_and_leave_it_alone(at: Site) -> None:
    await at.alive()
    gate = at.fake.gate(path="/api/chat")
    chat = await at.dial()
    chat.ask("/api/chat", CHAT)
    await gate.reached()
    shown = await at.post("/api/show", {"model": "alpha"})
    assert shown.status == 200
    gate.open()
    assert (await chat.answer()).status == 200
    held = at.fake.gate(path="/api/embed")
    caller, cancelled = await at.dial(), at.fake.cancels
    caller.ask("/api/embed", {"model": "embedder", "input": "x"})
    await held.reached()
    caller.close()
    await gone(at, cancelled)
    held.open()
    await at.settled()


# ------------------------------------------------------------------ deadlines


@pytest.mark.parametrize("path", ["/api/chat", "/v1/chat/completions"])
async def test_a_deadline_in_the_queue_is_a_504_and_costs_no_load(at: Site, path: str) -> None:
    await at.alive()
    gate = at.fake.gate(path="/api/generate")
    first = await at.dial()
    first.ask("/api/generate", {"model": "alpha", "prompt": "x"})
    await gate.reached()
    loads = len(at.fake.loads)
    answer = await at.post(path, body_of(stream=False, model="beta"), {"X-Foreman-Deadline": DEADLINE})
    assert (answer.status, answer.header("X-Foreman-Error")) == (504, "deadline_exceeded")
    gate.open()
    await first.answer()
    await at.settled()
    assert len(at.fake.loads) == loads


@pytest.mark.parametrize("stream", [True, False])
async def test_a_running_job_past_its_deadline_is_cut(at: Site, stream: bool) -> None:
    await at.alive()
    cancelled = at.fake.cancels
    gate = at.fake.gate(after=2 if stream else 0, path="/api/chat")
    answer = await at.post("/api/chat", body_of(stream), {"X-Foreman-Deadline": DEADLINE})
    if stream:
        assert answer.status == 200
        assert "deadline" in json.loads(answer.body.splitlines()[-1])["error"]
    else:
        assert (answer.status, answer.header("X-Foreman-Error")) == (504, "deadline_exceeded")
    await at.fake.until(lambda fake: fake.cancels > cancelled)
    gate.open()
    await at.alive()


# ------------------------------------------------------------------ classes, and a full queue


async def test_a_higher_class_goes_first_within_a_lane(at: Site) -> None:
    await at.alive()
    gate = at.fake.gate(path="/api/generate")
    first = await at.dial()
    first.ask("/api/generate", {"model": "alpha", "prompt": "x"})
    await gate.reached()
    at.fake.ledger.reset()
    waiting = []
    for word in ("low", "normal", "HIGH"):
        caller = await at.dial()
        caller.ask(
            "/api/chat",
            {**body_of(stream=False), "messages": [{"role": "user", "content": word}]},
            X_Foreman_Priority=word,
        )
        waiting.append(caller)
        await at.house.until(lambda state: state["jobs"]["queued"] == len(waiting))
    gate.open()
    for caller in [first, *waiting]:
        assert (await caller.answer()).status == 200
    order = [json.loads(seen.body)["messages"][0]["content"] for seen in at.fake.requests_to("/api/chat")]
    assert order == ["HIGH", "normal", "low"]
    await at.settled()


async def test_a_full_queue_in_ollamas_words_and_its_last_tenth(at: Site) -> None:
    """20 places: 18 for anybody, the last 2 for class high; embeddings and show are not counted."""
    await at.alive()
    gate = at.fake.gate(path="/api/generate")
    first = await at.dial()
    first.ask("/api/generate", {"model": "alpha", "prompt": "x"})
    await gate.reached()
    waiting = []
    for _ in range(18):
        caller = await at.dial()
        caller.ask("/api/chat", body_of(stream=False), X_Foreman_Priority="low")
        waiting.append(caller)
    await at.house.until(lambda state: state["jobs"]["queued"] == 18)
    words = "server busy, please try again.  maximum pending requests exceeded"
    for path in ("/api/chat", "/v1/chat/completions", "/v1/messages"):
        for word in ("normal", "low"):
            answer = await at.post(path, body_of(stream=True), {"X-Foreman-Priority": word})
            assert (answer.status, answer.header("X-Foreman-Error")) == (503, "queue_full"), answer
            said = json.loads(answer.body)["error"]
            assert (said if path == "/api/chat" else said["message"]) == words
            assert int(answer.header("Retry-After") or 0) >= 1
    for _ in range(2):
        caller = await at.dial()
        caller.ask("/api/chat", body_of(stream=False))
        waiting.append(caller)
    await at.house.until(lambda state: state["jobs"]["queued"] == 20)
    assert (await at.post("/api/chat", CHAT)).status == 503
    assert (await at.post("/api/show", {"model": "alpha"})).status == 200
    keys = await at.job_keys()
    assert (await at.post("/api/chat", CHAT)).status == 503
    assert await at.job_keys() <= keys
    for caller in waiting[::2]:
        caller.close()
    gate.open()
    await asyncio.gather(*(caller.answer() for caller in [first, *waiting[1::2]]))
    await at.settled()
    assert not {
        key for key in await at.job_keys() if key.startswith(("lane:", "queued", "running", "gateway", "deadlines"))
    }


async def test_a_herd_that_leaves_at_once(at: Site) -> None:
    """Whenever each of them leaves, nothing stays behind."""
    await at.alive()
    herd = [await at.dial() for _ in range(16)]
    for number, caller in enumerate(herd):
        caller.ask("/api/chat", body_of(stream=bool(number % 2), model=("alpha", "beta")[number % 2]))
        if number % 3:
            caller.close()
    kept = [caller for number, caller in enumerate(herd) if not number % 3]
    for answer in await asyncio.gather(*(caller.answer() for caller in kept)):
        assert answer.status == 200
    await at.settled()
    await until(lambda: at.fake.connections <= 2)
    jobs = await at.jobs()
    assert (jobs["queued"], jobs["loading"], jobs["working"]) == (0, 0, 0)
    assert "Traceback" not in at.log()
