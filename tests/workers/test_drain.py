"""Many jobs, few swaps, and nobody starves: the dispatcher over real sockets."""

import asyncio
import json

import pytest

from foreman.core.errors import Code
from foreman.core.jobs import Slot, State
from tests.workers.conftest import wait_until


async def test_three_models_of_sixty_jobs_cost_three_loads(ollama, floor):
    fake = await ollama(["a", "b", "c"], tokens=2, load_seconds=0.01, max_loaded=1)
    here = await floor(gpu=fake, options="&resident=1", due_after="high=30s")
    gate = fake.gate(after=1)  # else a busy machine drains a lane between two submits
    callers = [await here.submit("abc"[number % 3]) for number in range(60)]
    gate.open()
    await asyncio.gather(*(caller.ended(60) for caller in callers))
    jobs = [await here.final(caller) for caller in callers]
    assert {job.state for job in jobs} == {State.DONE}
    assert sorted(load.model for load in fake.loads) == ["a:latest", "b:latest", "c:latest"]
    await wait_until(lambda: _status(here, lambda s: s.swaps == 3))


async def test_a_fourth_lane_is_served_beside_an_endless_stream_of_the_first(ollama, floor):
    fake = await ollama(["a", "d"], tokens=2, load_seconds=0.02, max_loaded=1)
    here = await floor(gpu=fake, options="&resident=1", due_after="high=100ms", swap_budget="0.5")
    feeding = True

    async def feed():
        while feeding:
            await (await here.submit("a")).ended()

    async with asyncio.TaskGroup() as group:
        for _ in range(3):
            group.create_task(feed())
        await wait_until(lambda: len(fake.loads) == 1)
        stranger = await here.submit("d")
        await stranger.ended(20)
        await wait_until(lambda: _left(here, "a:latest"))  # its turn counts from there
        feeding = False
    assert (await here.final(stranger)).state is State.DONE


async def _left(here, lane):
    survey = await here.queue.survey(Slot.DRAIN)
    return any(entry.left_at.get("gpu") for entry in survey.lanes if entry.lane == lane)


async def test_a_swap_unloads_the_idle_victim_before_it_loads(ollama, floor):
    fake = await ollama(["a", "b"], load_seconds=0.02, max_loaded=1)
    here = await floor(gpu=fake, options="&resident=1")
    await (await here.submit("a")).ended()
    await (await here.submit("b")).ended()
    paths = [(seen.path, seen.model) for seen in fake.requests_to("/api/chat", "/api/generate")]
    assert paths == [
        ("/api/generate", "a"), ("/api/chat", "a"),
        ("/api/generate", "a"), ("/api/generate", "b"), ("/api/chat", "b"),
    ]  # fmt: skip
    assert json.loads(fake.requests_to("/api/generate")[1].body) == {"model": "a", "keep_alive": 0}
    assert fake.residents == ["b:latest"]


async def test_places_are_learned_where_nobody_said_how_many(ollama, floor):
    fake = await ollama(["a", "b", "c"], max_loaded=2)
    here = await floor(gpu=fake)
    for model in "ab":
        await (await here.submit(model)).ended()
    status = await wait_until(lambda: _status(here, lambda s: s.places == 2))
    assert {entry["lane"] for entry in status.resident} == {"a:latest", "b:latest"}
    for model in "abab":
        await (await here.submit(model)).ended()
    assert len(fake.loads) == 2
    await (await here.submit("c")).ended()  # pushes one out: now the number is known
    residency = here.worker.targets["gpu"].residency
    await wait_until(lambda: residency.must_unload)
    assert residency.places == 2


async def _status(here, predicate):
    status = await here.status("gpu")
    return status if predicate(status) else None


async def test_a_resident_lane_goes_straight_to_working(ollama, floor):
    fake = await ollama(["a"])
    here = await floor(gpu=fake)
    first = await here.final(await (await here.submit("a")).ended())
    second = await here.final(await (await here.submit("a")).ended())
    assert "loading_ms" in first.timings
    assert "loading_ms" not in second.timings
    assert len(fake.loads) == 1


async def test_what_somebody_else_loaded_counts_as_resident_and_what_he_evicts_does_not(ollama, floor):
    fake = await ollama(["a", "b"], max_loaded=1)
    here = await floor(gpu=fake, wait=False)
    await here.up("gpu")
    await _call(fake, "/api/generate", {"model": "a"})
    here.worker.targets["gpu"].probe_wanted.set()
    await wait_until(lambda: here.worker.targets["gpu"].residency.held)
    digest = (await here.status("gpu")).tags[0]["digest"]
    job = await here.final(await (await here.submit("a", digest=digest)).ended())
    assert "loading_ms" not in job.timings
    await _call(fake, "/api/generate", {"model": "b"})
    here.worker.targets["gpu"].probe_wanted.set()
    await wait_until(lambda: [held.name for held in here.worker.targets["gpu"].residency.held] == ["b:latest"])
    job = await here.final(await (await here.submit("a", digest=digest)).ended())
    assert "loading_ms" in job.timings


async def _call(fake, path, body):
    from foreman.upstream.client import Client

    client = Client(fake.url)
    reply = await client.fetch("POST", path, json.dumps(body).encode(), timeout=10)
    await client.close()
    return reply


async def test_runner_options_are_a_lane_of_their_own_and_go_into_the_preload(ollama, floor):
    fake = await ollama(["a"], max_loaded=3)
    here = await floor(gpu=fake)
    await (await here.submit("a")).ended()
    await (await here.submit("a", options={"num_ctx": 8192})).ended()
    await (await here.submit("a", options={"num_ctx": 8192})).ended()
    preloads = [json.loads(seen.body) for seen in fake.requests_to("/api/generate")]
    assert [preload.get("options") for preload in preloads] == [None, {"num_ctx": 8192}]
    assert len(fake.loads) == 2


async def test_a_refused_preload_is_nobodys_answer_and_three_hold_the_lane(ollama, floor):
    fake = await ollama(["a"])
    here = await floor(gpu=fake)
    fake.fault("load-fails", times=-1)
    for _ in range(3):
        caller = await (await here.submit("a")).ended()
        assert caller.heads[0].status == 500
        assert (await here.final(caller)).error["code"] == "upstream_error"
    fourth = await here.submit("a")
    loader = here.worker.targets["gpu"].loader
    assert loader.held_until("a:latest") > loader._clock.now() + 20
    assert (await here.job(fourth)).state is State.QUEUED
    fake.clear()
    loader._held_until.clear()
    await fourth.ended()


async def test_a_lane_whose_load_never_ends_lets_others_pass(ollama, floor):
    """Each of its jobs would hold the target for all that a load may take, one after another: they are due first."""
    fake = await ollama(["a", "b"], max_loaded=1)
    here = await floor(gpu=fake)
    fake.gate(at="load", model="a")
    loader = here.worker.targets["gpu"].loader
    patience, loader._patience = loader._patience, 0.2
    first, behind = await here.submit("a"), await here.submit("a")
    assert (await here.final(first)).error["code"] == "stalled"
    loader._patience = patience
    assert loader.held_until("a:latest") > loader._clock.now() + 20
    await (await here.submit("b")).ended()
    assert (await here.job(behind)).state is State.QUEUED
    loader._held_until.clear()
    await behind.ended()


async def test_never_a_second_lane_while_the_first_has_calls_in_flight(ollama, floor):
    fake = await ollama(["a", "b"], max_loaded=1)
    here = await floor(gpu=fake, due_after="high=10ms", swap_budget="0.9")
    gate = fake.gate(model="a")
    first = await here.submit("a")
    await gate.reached()
    more = await here.submit("a")
    second = await here.submit("b")
    target = here.worker.targets["gpu"]
    await wait_until(lambda: target.next == {"lane": "b:latest", "reason": "due"})  # its turn has come, a must go
    await wait_until(lambda: _status(here, lambda s: s.next == {"lane": "b:latest", "reason": "due"}))
    assert all(seen.model != "b" for seen in fake.requests)
    assert target.loader.current is None
    gate.open()
    await first.ended()
    await second.ended()
    await more.ended()
    jobs = [await here.final(caller) for caller in (first, second, more)]
    assert jobs[1].finished_at <= jobs[2].finished_at  # the chosen victim claimed nothing more


async def test_embeddings_pass_beside_the_drain(ollama, floor):
    fake = await ollama(["a", "embedder"], max_loaded=2)
    here = await floor(gpu=fake)
    gate = fake.gate(model="a")
    chat = await here.submit("a")
    await gate.reached()
    vectors = await (await here.submit("embedder", endpoint="/api/embed", slot=Slot.EMBED, stream=False)).ended()
    assert json.loads(vectors.body)["embeddings"]
    assert not chat.over.is_set()
    gate.open()
    await chat.ended()
    job = await here.final(vectors)
    assert (job.state, job.usage.get("prompt_tokens", 0) > 0) == (State.DONE, True)
    await wait_until(lambda: _status(here, lambda s: len(s.ps) == 2))
    assert here.worker.targets["gpu"].residency.places == 1


async def test_embeddings_that_push_out_the_resident_join_the_drain(ollama, floor):
    fake = await ollama(["a", "embedder"], max_loaded=1)
    here = await floor(gpu=fake)
    await (await here.submit("a")).ended()
    await (await here.submit("embedder", endpoint="/api/embed", slot=Slot.EMBED, stream=False)).ended()
    status = await wait_until(lambda: _status(here, lambda s: not s.embed_fits))
    assert status.embed_fits is False
    await (await here.submit("a")).ended()
    caller = await (await here.submit("embedder", endpoint="/api/embed", slot=Slot.EMBED, stream=False)).ended()
    job = await here.final(caller)
    assert (job.state, "loading_ms" in job.timings) == (State.DONE, True)


async def test_the_side_slot_answers_while_the_drain_is_busy(ollama, floor):
    fake = await ollama(["a"])
    here = await floor(gpu=fake)
    gate = fake.gate(model="a")
    chat = await here.submit("a")
    await gate.reached()
    body = json.dumps({"model": "a"}).encode()
    shown = await (await here.submit("a", endpoint="/api/show", slot=Slot.SIDE, stream=False, body=body)).ended()
    assert "details" in json.loads(shown.body)
    unload = json.dumps({"model": "a", "keep_alive": 0}).encode()
    await (await here.submit("a", endpoint="/api/generate", slot=Slot.SIDE, body=unload, unload=True)).ended()
    gate.open()
    await chat.ended()
    await wait_until(lambda: _status(here, lambda s: not s.ps and not s.resident))


async def test_an_openai_target_never_loads_and_shares_its_slots(ollama, floor):
    fake = await ollama(["a", "b"], kind="openai")
    here = await floor(vllm=fake, options="&slots=2")
    gates = [fake.gate(model=model) for model in "ab"]
    body = {"model": "a", "stream": True, "messages": [{"role": "user", "content": "hi"}]}
    callers = [
        await here.submit(model, endpoint="/v1/chat/completions", body=body | {"model": model}) for model in "aba"
    ]
    for gate in gates:
        await gate.reached()
    assert len(here.worker.targets["vllm"].runs) == 2
    for gate in gates:
        gate.open()
    for caller in callers:
        await caller.ended()
        job = await here.final(caller)
        assert (job.state, "loading_ms" in job.timings) == (State.DONE, False)
        assert caller.body.endswith(b"data: [DONE]\n\n")
    status = await here.status("vllm")
    assert (status.swaps, {entry["name"] for entry in status.tags}) == (0, {"a:latest", "b:latest"})


async def test_slots_of_a_resident_run_side_by_side(ollama, floor):
    fake = await ollama(["a"], slots=2)
    here = await floor(gpu=fake, options="&slots=2")
    await (await here.submit("a")).ended()
    gate = fake.gate(times=2)
    callers = [await here.submit("a") for _ in range(3)]
    await wait_until(lambda: gate.standing == 2)
    assert len(here.worker.targets["gpu"].runs) == 2
    gate.open()
    for caller in callers:
        await caller.ended()


@pytest.mark.parametrize("who", ["first", "second"])
async def test_a_job_asks_for_its_target(ollama, floor, who):
    first, second = await ollama(["a"]), await ollama(["a"])
    here = await floor(first=first, second=second)
    job = await here.final(await (await here.submit("a", target_only=who)).ended())
    assert job.target == who


async def test_a_model_only_one_target_has_goes_there(ollama, floor):
    first, second = await ollama(["a"]), await ollama(["b"])
    here = await floor(first=first, second=second)
    jobs = [await here.final(await (await here.submit(model)).ended()) for model in "abab"]
    assert [job.target for job in jobs] == ["first", "second", "first", "second"]


async def test_a_target_that_holds_what_it_may_not_serve_keeps_nobody_from_loading_it(ollama, floor):
    first, second = await ollama(["a", "b"]), await ollama(["a", "b"])
    await _call(second, "/api/generate", {"model": "b"})  # somebody else's doing, or ours before `never` came
    here = await floor(first=first, second=second, targets=f"first={first.url},second={second.url}?never=b")
    await wait_until(lambda: _holds(here, "second", "b:latest"))
    await wait_until(lambda: _knows_of_others(here.worker.targets["first"]))
    digest = next(entry["digest"] for entry in (await here.status("first")).tags if entry["name"] == "b:latest")
    job = await here.final(await (await here.submit("b", digest=digest)).ended(10))
    assert (job.state, job.target) == (State.DONE, "first")


async def _knows_of_others(target):
    await target.ask_others()
    return target.rivals.any


async def _holds(here, target, model):
    return any(entry["model"] == model for entry in (await here.status(target)).resident)


async def test_a_model_nobody_has_gets_the_targets_own_words(ollama, floor):
    fake = await ollama(["a"])
    here = await floor(gpu=fake)
    caller = await (await here.submit("nope")).ended()
    assert (caller.heads[0].status, json.loads(caller.body)) == (404, {"error": "model 'nope' not found"})
    assert (await here.final(caller)).error["code"] == Code.UPSTREAM_ERROR


async def test_the_running_list_is_published(ollama, floor):
    fake = await ollama(["a"], tokens=20)
    here = await floor(gpu=fake)
    fake.gate(after=5)
    caller = await here.submit("a")
    status = await wait_until(lambda: _status(here, lambda s: s.running and s.running[0]["tokens"] == 5))
    entry = status.running[0]
    assert (entry["job_id"], entry["state"], entry["lane"]) == (caller.job_id, "working", "a:latest")
    fake.clear()
    await caller.ended()
    await wait_until(lambda: _status(here, lambda s: not s.running))


async def test_the_embedding_model_is_loaded_at_start(ollama, floor):
    fake = await ollama(["a", "embedder"])
    here = await floor(gpu=fake, embed_model="embedder", keep_alive="20m")
    await wait_until(lambda: _status(here, lambda s: [entry["name"] for entry in s.ps] == ["embedder:latest"]))
    assert json.loads(fake.requests_to("/api/embed")[0].body) == {"model": "embedder", "keep_alive": "20m"}
    assert (await here.status("gpu")).resident == []


async def test_a_model_that_comes_by_management_is_known_at_once(ollama, floor):
    fake = await ollama(["a"])
    here = await floor(gpu=fake)
    body = json.dumps({"source": "a", "destination": "z"}).encode()
    await (await here.submit("a", endpoint="/api/copy", slot=Slot.SIDE, stream=False, body=body)).ended()
    await wait_until(lambda: _status(here, lambda s: "z:latest" in {entry["name"] for entry in s.tags}), timeout=5)


async def test_a_probe_that_is_asked_for_comes_at_once(ollama, floor):
    fake = await ollama(["a"])
    here = await floor(gpu=fake)
    await _call(fake, "/api/copy", {"source": "a", "destination": "z"})
    await here.queue.ask_probe(["gpu"])
    await wait_until(lambda: _status(here, lambda s: "z:latest" in {entry["name"] for entry in s.tags}), timeout=10)


async def test_a_redirect_is_passed_on_and_no_answer(floor, ollama):
    from tests.upstream.test_client import read_request, server

    async def script(reader, writer):
        head, _ = await read_request(reader)
        known = {b"/api/tags": b'{"models":[{"name":"a:latest","digest":"d"}]}', b"/api/ps": b'{"models":[]}'}
        body = known.get(head.split(b" ")[1], b"{}")
        status = b"307 Temporary Redirect\r\nLocation: /elsewhere" if b"/api/chat" in head else b"200 OK"
        writer.write(b"HTTP/1.1 %b\r\nContent-Length: %d\r\n\r\n" % (status, len(body)) + body)
        await writer.drain()

    async with server(script) as url:
        here = await floor(targets=f"gpu={url}")
        await here.up("gpu")
        caller = await (await here.submit("a")).ended()
        job = await here.final(caller)
        await here.worker.stop(0)
    assert (caller.heads[0].status, job.state, job.error["code"]) == (307, State.FAILED, "upstream_error")
