"""What operators do: pauses that hold, end by themselves and are remembered; lanes that are cleared; the log of it."""

from __future__ import annotations

import pytest

from foreman.core.errors import Code, Failure
from foreman.core.jobs import Slot, State
from foreman.store import keys as k
from foreman.store import operators as ops
from foreman.store.operators import Kind, TooManyError, UnknownError
from foreman.store.records import Changes, Taken

CLEARED = Failure(Code.CANCELLED, "an operator cleared the lane")


@pytest.fixture
def operators(ground):
    return ground.store.operators


async def over(ground, field: str) -> None:
    """Let the time of a pause have passed."""
    unload, since = (await ground.look.hget(ground.key(k.PAUSES), field)).split(" ")[1:]
    await ground.look.hset(ground.key(k.PAUSES), field, f"1 {unload} {since}")


async def test_nothing_of_a_paused_lane_starts(ground, operators):
    own = await ground.owner()
    job_id = await ground.submit()
    await operators.pause(Kind.LANE, "lane-a", "operator")
    assert [lane.paused for lane in (await ground.queue.survey(Slot.DRAIN)).lanes] == [True]
    assert await ground.queue.claim(own, "lane-a", Slot.DRAIN, State.WORKING) is None
    assert isinstance(await ground.queue.take(own, Slot.DRAIN, ["lane-a"]), Changes)
    assert await operators.resume(Kind.LANE, "lane-a", "operator") is True
    assert [lane.paused for lane in (await ground.queue.survey(Slot.DRAIN)).lanes] == [False]
    assert (await ground.claim(own)).job.id == job_id


async def test_nothing_starts_on_a_paused_target_but_what_runs_beside_everything(ground, operators):
    own, other = await ground.owner(), await ground.owner(target="gpu2")
    await ground.submit()
    await ground.submit(slot=Slot.SIDE, lane="side-a")
    pause = await operators.pause(Kind.TARGET, "gpu1", "operator", unload=True)
    assert (pause.until, pause.unload) == (None, True)
    assert await ground.queue.claim(own, "lane-a", Slot.DRAIN, State.LOADING) is None
    assert isinstance(await ground.queue.take(own, Slot.DRAIN, ["lane-a"]), Changes)
    assert await ground.queue.claim(own, "side-a", Slot.SIDE, State.WORKING) is not None
    assert isinstance(await ground.queue.take(other, Slot.DRAIN, ["lane-a"]), Taken)


async def test_a_paused_target_says_so_and_one_that_is_down_stays_down(ground, operators):
    await ground.owner()
    await ground.owner(target="gpu2", worker="wk-2")
    await operators.pause(Kind.TARGET, "gpu1", "operator", seconds=60)
    await operators.pause(Kind.TARGET, "gpu2", "operator")
    await ground.lapse(k.WORKERS, "wk-2")
    first, second = await ground.queue.targets()
    assert (first.state, second.state) == ("paused", "down")
    assert first.pause is not None
    assert first.pause.until == pytest.approx(first.pause.since + 60)
    assert second.pause is not None


async def test_a_pause_for_a_time_ends_by_itself(ground, operators):
    own = await ground.owner()
    await ground.submit()
    await operators.pause(Kind.LANE, "lane-a", "operator", seconds=7200)
    await operators.pause(Kind.TARGET, "gpu1", "operator", seconds=7200)
    assert await ground.queue.claim(own, "lane-a", Slot.DRAIN, State.WORKING) is None
    await over(ground, "lane:lane-a")
    assert await ground.queue.claim(own, "lane-a", Slot.DRAIN, State.WORKING) is None
    await over(ground, "target:gpu1")
    assert (await ground.queue.targets())[0].state == "up"
    assert await operators.pauses() == []
    assert await ground.look.exists(ground.key(k.PAUSES)) == 0, "what is over leaves nothing behind"
    await ground.claim(own)


async def test_pausing_again_changes_the_wish_and_keeps_the_moment(ground, operators):
    await ground.owner()
    first = await operators.pause(Kind.TARGET, "gpu1", "operator", seconds=60)
    second = await operators.pause(Kind.TARGET, "gpu1", "operator", unload=True)
    assert (second.since, second.until, second.unload) == (first.since, None, True)
    assert await operators.pauses() == [second]


async def test_both_ends_of_a_pause_wake_the_owner(ground, operators):
    await ground.owner()
    wake = ground.key(k.WAKE, "gpu1")
    for verb in (operators.pause, operators.resume):
        await ground.look.delete(wake)
        await verb(Kind.TARGET, "gpu1", "operator")
        assert await ground.look.lrange(wake, 0, -1) == ["drain", "embed", "probe"]


async def test_what_nobody_knows_is_neither_paused_nor_resumed_nor_cleared(ground, operators):
    await ground.owner()
    for kind in Kind:
        with pytest.raises(UnknownError):
            await operators.pause(kind, "x:y", "operator")
        with pytest.raises(UnknownError):
            await operators.resume(kind, "x:y", "operator")
    with pytest.raises(UnknownError):
        await operators.clear("x:y", "operator", CLEARED)
    assert await operators.audit(10) == []
    await operators.pause(Kind.LANE, "x:y", "operator", seen=True)
    assert [pause.name for pause in await operators.pauses()] == ["x:y"]


async def test_no_more_than_a_thousand_pauses(ground, operators):
    await ground.look.hset(ground.key(k.PAUSES), mapping={f"lane:{number}": "0 0 1" for number in range(1000)})
    with pytest.raises(TooManyError):
        await operators.pause(Kind.LANE, "new", "operator", seen=True)
    await operators.pause(Kind.LANE, "7", "operator")
    await over(ground, "lane:8")
    await operators.pause(Kind.LANE, "new", "operator", seen=True)


async def test_clearing_cancels_all_that_is_queued_in_steps(ground, operators, monkeypatch):
    monkeypatch.setattr(ops, "STEP", 2)
    own = await ground.owner()
    running = await ground.submit()
    await ground.claim(own)
    mine = [await ground.submit() for _ in range(5)] + [await ground.submit(slot=Slot.EMBED)]
    others = await ground.submit(lane="lane-b")
    assert await operators.clear("lane-a", "anna", CLEARED) == (6, 0)
    for job_id in mine:
        job = await ground.queue.get(job_id)
        assert (job.state, job.error["code"]) == (State.CANCELLED, "cancelled")
        assert await ground.events(job_id) == [("queued", "submitted"), ("cancelled", "cleared")]
    assert (await ground.queue.get(running)).state is State.WORKING
    assert (await ground.queue.get(others)).state is State.QUEUED
    said = [(deed.who, deed.action, deed.name, deed.outcome) for deed in await operators.audit(10)]
    assert said == [
        ("anna", "clear", "lane-a", {"cancelled": 6, "left": 0}),
        ("anna", "clear", "lane-a", {"cancelled": 2, "left": 4}),
    ]


async def test_clearing_ends_although_more_keeps_coming(ground, operators, monkeypatch):
    monkeypatch.setattr(ops, "STEP", 2)
    await ground.owner()
    for _ in range(4):
        await ground.submit()
    script = operators._moving

    async def and_one_more(*args):
        reply = await script(*args)
        await ground.submit()
        await ground.submit()
        return reply

    monkeypatch.setattr(operators, "_moving", and_one_more)
    done, left = await operators.clear("lane-a", "operator", CLEARED)
    assert (done, left) == (4, 2)
    assert (await operators.audit(1))[0].outcome == {"cancelled": 4, "left": 2}


async def test_the_log_is_capped_and_ends(ground, operators):
    await ground.owner()
    for number in range(3):
        await operators.pause(Kind.TARGET, "gpu1", f"op{number}", seconds=60, unload=True)
    await operators.resume(Kind.TARGET, "gpu1", "anna")
    deeds = await operators.audit(2)
    assert [(deed.action, deed.who) for deed in deeds] == [("resume", "anna"), ("pause", "op2")]
    assert deeds[0].outcome == {"changed": 1}
    assert deeds[1].outcome["unload"] == 1
    assert deeds[1].outcome["until"] > deeds[1].time * 1000
    assert 0 < await ground.look.ttl(ground.key(k.AUDIT)) <= 90 * 86400


async def test_deeds_on_jobs_stand_in_the_log_and_push_out_no_others(ground, operators):
    own = await ground.owner()
    await operators.pause(Kind.TARGET, "gpu2", "anna", seen=True)
    running, queued = await ground.submit(), await ground.submit()
    await ground.claim(own)
    cancelled = Failure(Code.CANCELLED, "not wanted")
    for _ in range(2):  # the second time there is nothing to do
        await ground.queue.cancel(queued, cancelled, "anna")
    for _ in range(2):
        await ground.queue.cancel(running, cancelled, "ben")
    await ground.queue.cancel(await ground.submit(), cancelled)  # its own caller
    again = await ground.submit(retry_of=queued, retried_by="anna")
    deeds = await operators.audit(10)
    assert sorted(deed.kind for deed in deeds) == ["job", "job", "job", "target"]
    said = [(deed.who, deed.action, deed.name, deed.outcome, deed.made) for deed in deeds if deed.kind == "job"]
    assert said == [
        ("anna", "retry", queued, {}, again),
        ("ben", "cancel", running, {"running": 1}, None),
        ("anna", "cancel", queued, {"running": 0}, None),
    ]
    await ground.look.xtrim(ground.key(k.AUDIT_JOBS), maxlen=0)
    assert [deed.action for deed in await operators.audit(10)] == ["pause"]
    assert 0 < await ground.look.ttl(ground.key(k.AUDIT_JOBS)) <= 90 * 86400
