"""What changed in the drain's lanes since the last look: never less than the truth, and the whole of it where the log is too short."""

from __future__ import annotations

import math
import random
from dataclasses import replace

import pytest

from foreman.core.errors import Code, Failure
from foreman.core.jobs import Slot, State
from foreman.store.operators import Kind


async def test_the_first_look_sees_all_the_next_what_changed(ground) -> None:
    queue = ground.queue
    await ground.submit(lane="a")
    await ground.submit(lane="b")
    first = await queue.changes(Slot.DRAIN)
    assert first.whole
    assert {facts.lane for facts in first.lanes} == {"a", "b"}
    nothing = await queue.changes(Slot.DRAIN, first.cursor)
    assert (nothing.whole, nothing.lanes, nothing.gone, nothing.cursor) == (False, (), (), first.cursor)
    await ground.submit(lane="b")
    await ground.submit(lane="b")
    second = await queue.changes(Slot.DRAIN, first.cursor)
    assert [(facts.lane, sum(facts.classes)) for facts in second.lanes] == [("b", 3)]
    own = await ground.owner()
    taken, seen = await queue.claim_and_look(own, "a", Slot.DRAIN, State.WORKING, second.cursor)
    assert taken is not None
    assert (seen.lanes, seen.gone) == ((), ("a",))


async def test_a_cut_is_a_change(ground) -> None:
    await ground.submit(lane="a")
    first = await ground.queue.changes(Slot.DRAIN)
    await ground.queue.cut("gpu1", "a")
    seen = await ground.queue.changes(Slot.DRAIN, first.cursor)
    assert [list(facts.left_at) for facts in seen.lanes] == [["gpu1"]]


async def test_a_cursor_that_is_too_old_or_of_another_store_sees_all(ground) -> None:
    await ground.submit(lane="a")
    first = await ground.queue.changes(Slot.DRAIN)
    assert (await ground.queue.changes(Slot.DRAIN, "1-1")).whole, "though little has changed since"
    for _ in range(1300):
        await ground.queue.cut("gpu1", "a")
    assert (await ground.queue.changes(Slot.DRAIN, first.cursor)).whole
    assert (await ground.queue.changes(Slot.DRAIN, "1-1")).whole
    assert (await ground.queue.changes(Slot.DRAIN, "9999999999999-1")).whole


async def test_pauses_come_along(ground) -> None:
    await ground.submit(lane="a")
    await ground.owner()
    operators = ground.store.operators
    await operators.pause(Kind.LANE, "a", "me")
    await operators.pause(Kind.TARGET, "gpu1", "me", seconds=60, unload=True)
    seen = await ground.queue.changes(Slot.DRAIN)
    assert seen.pauses["lane:a"] == math.inf
    assert 50 < seen.pauses["target:gpu1"] - seen.now <= 60
    assert seen.unloading == {"target:gpu1"}


async def test_other_slots_are_no_part_of_it(ground) -> None:
    await ground.submit(lane="a", slot=Slot.EMBED)
    assert (await ground.queue.changes(Slot.DRAIN)).lanes == ()


async def test_jobs_pinned_to_another_target_block_nobody_however_many(ground) -> None:
    store = ground.store
    store.queue._limits = replace(store.queue._limits, max_queue=1000)
    for _ in range(150):
        await ground.submit(lane="a", target_only="dead")
    wanted = await ground.submit(lane="a")
    own = await ground.owner()
    assert [facts.head_target_only for facts in (await ground.queue.survey(Slot.DRAIN)).lanes] == [None]
    claimed = await ground.queue.claim(own, "a", Slot.DRAIN, State.WORKING)
    assert claimed is not None
    assert claimed.job.id == wanted
    assert [facts.head_target_only for facts in (await ground.queue.survey(Slot.DRAIN)).lanes] == ["dead"]
    assert await ground.queue.claim(own, "a", Slot.DRAIN, State.WORKING) is None


async def test_whether_all_of_a_lane_asked_for_one_target_is_known_whatever_happens_to_its_jobs(ground) -> None:
    own, chance = await ground.owner(), random.Random(7)
    waiting: list[str] = []
    for _ in range(150):
        what = chance.choice(["submit", "submit", "claim", "back", "cancel"])
        if what == "submit":
            waiting.append(await ground.submit(lane="a", target_only=chance.choice([None, "gpu1", "gpu1", "gpu2"])))
        elif what == "cancel" and waiting:
            await ground.queue.cancel(waiting.pop(chance.randrange(len(waiting))), Failure(Code.CANCELLED, "x"))
        elif claimed := await ground.queue.claim(own, "a", Slot.DRAIN, State.WORKING):
            if what == "back":
                await ground.queue.hand_back(claimed.job.id, claimed.job.epoch, reason="test", failure=None)
            else:
                waiting.remove(claimed.job.id)
        jobs = [await ground.queue.get(job_id) for job_id in waiting]
        asked = {job.target_only for job in jobs if job is not None and job.state is State.QUEUED}
        found = [facts.head_target_only for facts in (await ground.queue.survey(Slot.DRAIN)).lanes]
        assert found == ([asked.pop() if len(asked) == 1 else None] if asked else [])


@pytest.mark.parametrize("ground", ["valkey"], indirect=True)
async def test_a_look_at_a_lane_costs_the_same_however_many_asked_for_one_target(ground) -> None:
    async def reads() -> int:
        return (await ground.look.info("commandstats")).get("cmdstat_hget", {}).get("calls", 0)

    ground.store.queue._limits = replace(ground.store.queue._limits, max_queue=1000)
    for _ in range(60):
        await ground.submit(lane="a", target_only="gpu1")
    before = await reads()
    [facts] = (await ground.queue.survey(Slot.DRAIN)).lanes
    assert facts.head_target_only == "gpu1"
    assert await reads() - before < 10


async def test_what_was_learned_is_kept_until_it_is_forgotten(ground) -> None:
    own = await ground.owner()
    status = (await ground.queue.targets())[0]
    await ground.queue.publish(own, status, {"a": "[1]", "b": "[2]"})
    await ground.queue.publish(own, status, {"a": "[3]"}, ["b"])
    await ground.queue.publish(own, status)
    assert await ground.queue.learned("gpu1") == {"a": "[3]"}
