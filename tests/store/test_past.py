"""The jobs that ended, for traces: what is told of each, for how long, and of how many."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from foreman.core.jobs import Priority, Slot, State
from foreman.store import keys as k

if TYPE_CHECKING:
    from tests.store.ground import Ground


async def test_of_each_ended_job_its_lane_class_and_times_are_told(ground: Ground) -> None:
    await ground.in_state(State.DONE)
    waiting = await ground.submit(priority=Priority.LOW, deadline_in=60.0)
    await ground.queue.transition(waiting, None, State.CANCELLED, reason="test")
    now = time.time()
    done, cancelled = await ground.store.past.jobs(now - 60)
    assert (done.state, cancelled.state) == ("done", "cancelled")
    assert done.started_at is not None
    assert now - 60 < done.came_at <= done.started_at <= done.ended_at <= now + 1
    assert done.target is not None
    assert (cancelled.started_at, cancelled.target, cancelled.priority) == (None, None, Priority.LOW)
    assert cancelled.deadline is not None
    assert 59 < cancelled.deadline - cancelled.came_at < 61
    assert done.lane == cancelled.lane
    assert not done.embedding
    assert await ground.store.past.jobs(now + 60) == []


async def test_what_runs_beside_the_drain_is_told_apart_or_left_out(ground: Ground) -> None:
    for slot in Slot:
        job_id = await ground.submit(slot=slot)
        await ground.queue.transition(job_id, None, State.CANCELLED, reason="test")
    assert [job.embedding for job in await ground.store.past.jobs(0)] == [False, True]


async def test_a_day_of_them_is_kept_and_more_than_a_page_is_read(ground: Ground) -> None:
    line = "a\nb\ndrain\n2\ndone\n1000\n2000\n3000\n\ngpu1"  # whatever a lane is called
    for number in range(2500):
        await ground.look.xadd(ground.key(k.PAST), {"job": line}, id=f"{number + 1}-0")
    assert len(await ground.store.past.jobs(0)) == 2500
    job_id = await ground.submit()
    await ground.queue.transition(job_id, None, State.CANCELLED, reason="test")
    assert 86000 < await ground.look.ttl(ground.key(k.PAST)) <= 86400
