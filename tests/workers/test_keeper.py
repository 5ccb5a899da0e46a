"""What a target does beside the drain: pins, idle unloads, pauses, loads that are stuck, lanes that are one; and its history."""

from __future__ import annotations

import asyncio
import json
import random

from foreman.core.errors import Code, Failure
from foreman.core.jobs import Priority, Slot, State
from foreman.store.operators import Kind
from tests.workers.conftest import wait_until
from tests.workers.test_drain import _call


def _resident(fake):
    return sorted(name.removesuffix(":latest") for name in fake.residents)


# ------------------------------------------------------------------------ pins


async def test_a_pinned_model_is_loaded_at_start_and_never_gives_its_place(ollama, floor):
    fake = await ollama(["a", "b", "c"], max_loaded=2)
    here = await floor(gpu=fake, options="&resident=2&pin=a")
    await wait_until(lambda: _resident(fake) == ["a"])
    for model in "bcbc":
        job = await here.final(await (await here.submit(model)).ended())
        assert "loading_ms" in job.timings
        assert "a" in _resident(fake)
    job = await here.final(await (await here.submit("a")).ended())
    assert "loading_ms" not in job.timings
    assert [load.model for load in fake.loads].count("a:latest") == 1
    assert here.worker.targets["gpu"].residency.places == 1


async def test_a_pinned_model_has_a_slot_beside_the_drain(ollama, floor):
    fake = await ollama(["a", "b"], max_loaded=2)
    here = await floor(gpu=fake, options="&resident=2&pin=a")
    await wait_until(lambda: _resident(fake) == ["a"])
    gate = fake.gate(after=1, model="b")
    busy = [await here.submit("b") for _ in range(3)]
    await gate.reached()
    await (await here.submit("a")).ended()  # while b's run stands still
    assert not any(caller.over.is_set() for caller in busy)
    gate.open()
    await asyncio.gather(*(caller.ended() for caller in busy))


async def test_a_pinned_model_that_somebody_put_out_comes_back(ollama, floor):
    fake = await ollama(["a"], max_loaded=2)
    here = await floor(gpu=fake, options="&resident=2&pin=a")
    await wait_until(lambda: _resident(fake) == ["a"])
    await _call(fake, "/api/generate", {"model": "a", "keep_alive": 0})
    here.worker.targets["gpu"].probe_wanted.set()
    await wait_until(lambda: len(fake.loads) == 2 and _resident(fake) == ["a"])


async def test_a_model_that_is_kept_away_is_not_in_the_inventory(ollama, floor):
    fake = await ollama(["a", "b", "c"])
    here = await floor(gpu=fake, options="&never=b")
    status = await here.status("gpu")
    assert {entry["name"] for entry in status.tags} == {"a:latest", "c:latest"}


# ------------------------------------------------------------------------ idle, pause


async def test_what_had_no_job_for_so_long_is_unloaded(ollama, floor):
    fake = await ollama(["a"])
    here = await floor(gpu=fake, idle_unload="150ms")
    await (await here.submit("a")).ended()
    await wait_until(lambda: not fake.residents)
    history = await wait_until(lambda: _history(here, 1))
    assert (history[0].reason, history[0].ended_by) == ("room", "idle")
    job = await here.final(await (await here.submit("a")).ended())
    assert "loading_ms" in job.timings


async def _history(here, ended):
    found = await here.store.swaps.of("gpu")
    return found if sum(one.end is not None for one in found) >= ended else None


async def test_a_paused_target_claims_nothing_and_holds_nothing_if_asked(ollama, floor):
    fake = await ollama(["a", "b"], max_loaded=2)
    here = await floor(gpu=fake, options="&resident=2&pin=b")
    await wait_until(lambda: _resident(fake) == ["b"])
    gate = fake.gate(after=1, model="a")
    running = await here.submit("a")
    await gate.reached()
    operators = here.store.operators
    await operators.pause(Kind.TARGET, "gpu", "me", unload=True)
    waiting = await here.submit("a")
    assert _resident(fake) == ["a", "b"]  # what runs ends first
    gate.open()
    await running.ended()
    await wait_until(lambda: not fake.residents)
    assert (await here.job(waiting)).state is State.QUEUED
    await operators.resume(Kind.TARGET, "gpu", "me")
    await waiting.ended()
    await wait_until(lambda: _resident(fake) == ["a", "b"])  # and the pin is back


async def test_a_paused_lane_is_no_challenger_until_its_time_is_over(ollama, floor):
    fake = await ollama(["a", "b"], max_loaded=1)
    here = await floor(gpu=fake, options="&resident=1")
    await (await here.submit("a")).ended()
    operators = here.store.operators
    pause = await operators.pause(Kind.LANE, "b:latest", "me", seconds=0.6, seen=True)
    paused = await here.submit("b")
    for _ in range(3):
        await (await here.submit("a")).ended()
    await paused.ended()
    assert (await here.final(paused)).claimed_at >= pause.until
    assert [load.model for load in fake.loads][:2] == ["a:latest", "b:latest"]


# ------------------------------------------------------------------------ lanes, strays, stuck loads


async def test_a_name_and_its_digest_are_one_lane(ollama, floor):
    fake = await ollama(["a"], max_loaded=3)
    here = await floor(gpu=fake)
    digest = (await here.status("gpu")).tags[0]["digest"]
    for number in range(6):
        await (await here.submit("a", digest=digest if number % 2 else None)).ended()
    assert len(fake.loads) == 1
    await wait_until(lambda: _holds(here, 1))


async def _holds(here, count):
    return len((await here.status("gpu")).resident) == count


async def test_a_lane_whose_load_was_refused_keeps_nobody_out(ollama, floor):
    fake = await ollama(["a", "b"], max_loaded=1)
    here = await floor(gpu=fake, options="&resident=1", due_after="high=100ms", swap_budget="0.5")
    fake.fault("load-fails", times=1)
    gate = fake.gate(after=1, model="a")
    first = await here.submit("a")
    await gate.reached()  # its preload was refused; the job itself is on its way
    behind, other = await here.submit("a"), await here.submit("b")
    gate.open()
    await asyncio.gather(first.ended(), behind.ended(), other.ended())


async def test_a_load_that_is_stuck_behind_residents_is_freed(ollama, floor, monkeypatch):
    """ollama#17408: two places were promised, there is one; what runs keeps the victim alive, and the load hangs for ever."""
    monkeypatch.setattr("workers.drain.keeper.STUCK_AFTER", 0.3)
    fake = await ollama(["a", "b"], max_loaded=1, tokens=3)
    here = await floor(gpu=fake, options="&resident=2&slots=2")
    await (await here.submit("a")).ended()
    feeding = True

    async def feed():
        while feeding:
            await (await here.submit("a")).ended()

    async with asyncio.TaskGroup() as group:
        for _ in range(3):
            group.create_task(feed())
        stranger = await here.submit("b")
        await stranger.ended(60)
        await wait_until(lambda: here.worker.targets["gpu"].residency.places == 1)
        feeding = False


# ------------------------------------------------------------------------ history, what was learned


async def test_every_swap_is_in_the_history_with_its_reason_and_in_the_ledger(ollama, floor):
    fake = await ollama(["a", "b"], max_loaded=1, load_seconds=0.05)
    here = await floor(gpu=fake, options="&resident=1")
    callers = [await here.submit("ab"[number % 2]) for number in range(8)]
    await asyncio.gather(*(caller.ended() for caller in callers))
    first, second = await wait_until(lambda: _two(here))
    assert [(one.lane, one.reason) for one in (first, second)] == [("a:latest", "room"), ("b:latest", "empty")]
    assert (first.ended_by, second.end, second.victim, second.cut) == ("swap", None, "a:latest", False)
    assert first.t0 <= first.loaded <= first.end <= second.loaded
    ledger = await wait_until(lambda: _spared(here, 8))
    assert ledger.swaps == 2
    assert ledger.seconds_saved > 0
    assert ledger.by_target == {"gpu": {"room": 1, "empty": 1}}


async def _two(here):
    found = await here.store.swaps.of("gpu")
    return found if len(found) == 2 else None


async def _spared(here, count):
    ledger = await here.store.swaps.ledger()
    return ledger if ledger.fifo_swaps == count else None


async def test_what_was_learned_outlives_the_worker(ollama, floor):
    fake = await ollama(["a"], tokens=2)
    here = await floor(gpu=fake)
    for _ in range(3):
        await (await here.submit("a")).ended()
    await wait_until(lambda: _learned(here))
    await wait_until(lambda: here.worker.targets["gpu"].learned.pace("a:latest", 0.0).service_seconds < 5.0)
    await here.worker.stop(0)
    again = await floor(gpu=fake)
    learned = again.worker.targets["gpu"].learned
    await wait_until(lambda: learned.pace("a:latest", 0.0).service_seconds < 5.0)
    pace = learned.pace("a:latest", 0.0)
    status = await wait_until(lambda: _paces(again))
    assert status.paces["a:latest"][0] == round(pace.service_seconds, 5)


async def _learned(here):
    packed = (await here.queue.learned("gpu")).get("a:latest")
    return packed is not None and len(json.loads(packed)[0]) == 3


async def _paces(here):
    status = await here.status("gpu")
    return status if "a:latest" in status.paces else None


async def test_an_agent_that_comes_back_soon_finds_its_lane_kept(ollama, floor):
    """Rule 6: two agents that call one after the other don't swap at every call."""
    fake = await ollama(["a", "b"], max_loaded=1, load_seconds=0.3, tokens=2)
    here = await floor(gpu=fake, options="&resident=1")

    async def agent(model):
        for _ in range(8):
            await (await here.submit(model)).ended(60)

    async with asyncio.TaskGroup() as group:
        group.create_task(agent("a"))
        group.create_task(agent("b"))
    assert len(fake.loads) <= 8  # one call, one swap would be 16


async def test_the_drain_slot_counts_no_pinned_run(ollama, floor):
    fake = await ollama(["a"], max_loaded=2)
    here = await floor(gpu=fake, options="&resident=2&pin=a")
    await wait_until(lambda: _resident(fake) == ["a"])
    gate = fake.gate(after=1)
    caller = await here.submit("a")
    await gate.reached()
    assert here.worker.targets["gpu"].running(Slot.DRAIN) == {}
    gate.open()
    await caller.ended()


async def test_a_call_that_puts_its_model_out_costs_the_next_one_a_load_that_it_knows_of(ollama, floor):
    fake = await ollama(["a"])
    here = await floor(gpu=fake)
    body = {"model": "a", "messages": [{"role": "user", "content": "hi"}], "keep_alive": 0}
    await (await here.submit("a", body=body)).ended()
    second = await here.final(await (await here.submit("a")).ended())
    assert "loading_ms" in second.timings  # not a load that hides in `working`
    third = await here.final(await (await here.submit("a")).ended())
    assert "loading_ms" not in third.timings
    assert len(fake.loads) == 2


async def test_an_idle_target_takes_what_another_would_take_too_long_for(ollama, floor):
    """Rule 8: a backlog that its home works off soon stays there; a long one is shared."""
    one, two = await ollama(["a"], tokens=2), await ollama(["a"], tokens=2)
    here = await floor(one=one, two=two)
    for _ in range(6):
        await (await here.submit("a")).ended()
    assert len(one.loads) + len(two.loads) == 1  # its home is quick enough for whoever comes one by one
    gates = [fake.gate(after=1) for fake in (one, two)]
    callers = [await here.submit("a") for _ in range(60)]
    await wait_until(lambda: len(one.loads) + len(two.loads) == 2)
    for gate in gates:
        gate.open()
    await asyncio.gather(*(caller.ended(60) for caller in callers))
    targets = {(await here.final(caller)).target for caller in callers}
    assert targets == {"one", "two"}


async def test_an_embedding_model_that_nobody_used_for_so_long_is_unloaded(ollama, floor):
    fake = await ollama(["a", "embedder"], max_loaded=2)
    here = await floor(gpu=fake, idle_unload="200ms")
    await (await here.submit("embedder", endpoint="/api/embed", slot=Slot.EMBED, stream=False)).ended()
    await wait_until(lambda: not fake.residents)


async def test_whatever_callers_and_operators_do_at_once_every_job_ends_and_no_target_starts_anew(ollama, floor):
    models = [*"abcdef", "embedder"]
    fakes = {
        name: await ollama(models, tokens=3, token_seconds=0.003, load_seconds=0.05, max_loaded=2, slots=2)
        for name in ("one", "two")
    }
    options = "&slots=2&pin=f&resident=2"
    how = {"swap_budget": "0.5", "due_after": "high=300ms,normal=1s,low=3s", "idle_unload": "500ms"}
    here = await floor(**fakes, options=options, **how)
    epochs = {name: target.own.epoch for name, target in here.worker.targets.items()}
    draw, callers = random.Random(3), []
    digests = {entry["name"].removesuffix(":latest"): entry["digest"] for entry in (await here.status("one")).tags}
    for _ in range(150):
        model, chance = draw.choice(models[:-1]), draw.random()
        how = {"digest": digests[model]} if draw.random() < 0.5 else {}
        if chance < 0.1:
            callers.append(await here.submit("embedder", endpoint="/api/embed", slot=Slot.EMBED, stream=False))
            continue
        if chance < 0.2:
            how["options"] = {"num_ctx": draw.choice([2048, 8192])}
        elif chance < 0.3:
            how["target_only"] = draw.choice(["one", "two"])
        elif chance < 0.4:
            how["body"] = {"model": model, "messages": [{"role": "user", "content": "x"}], "keep_alive": 0}
        callers.append(await here.submit(model, priority=draw.choice(list(Priority)), **how))
        if chance > 0.9:
            await here.queue.cancel(draw.choice(callers).job_id, Failure(Code.CANCELLED, "no longer wanted"))
        if chance > 0.97:
            pause = {"seconds": 0.3, "unload": draw.random() < 0.5}
            await here.store.operators.pause(Kind.TARGET, draw.choice(["one", "two"]), "me", **pause)
        await asyncio.sleep(draw.expovariate(1 / 0.015))
    jobs = [await here.final(caller) for caller in callers]
    assert {job.state for job in jobs} <= {State.DONE, State.CANCELLED}
    assert {name: target.own.epoch for name, target in here.worker.targets.items()} == epochs
