"""Counts per hour and per day: what is counted, how it is folded, and that it stays bounded."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from foreman.core.jobs import State, Surface
from foreman.store import keys as k
from foreman.store.deliveries import Outcome, Pace
from foreman.store.tallies import DAY, HOUR

if TYPE_CHECKING:
    from tests.store.ground import Ground


async def test_ends_and_attempts_are_counted(ground: Ground) -> None:
    await ground.in_state(State.DONE)
    url = "https://hooks.example.com:8443/a/secret?x=1"
    job_id = await ground.submit(surface=Surface.ASYNC, gateway=None, state_webhook_url=url)
    attempt = await ground.store.deliveries.begin(f"evt_{job_id}_1", 1, Pace())
    await ground.store.deliveries.settle(attempt, Outcome.FAILED, Pace(), delay=5.0)
    await ground.queue.transition(job_id, None, State.CANCELLED, reason="test")
    attempt = await ground.store.deliveries.begin(f"evt_{job_id}_2", 1, Pace())
    await ground.store.deliveries.settle(attempt, Outcome.DELIVERED, Pace())
    hours = await ground.store.tallies.hours()
    assert sum(tally.jobs.get("sync", {}).get("done", 0) for tally in hours) == 1
    assert sum(tally.jobs.get("async", {}).get("cancelled", 0) for tally in hours) == 1
    for how in ("failed", "superseded", "delivered"):
        assert sum(tally.webhooks.get("hooks.example.com:8443", {}).get(how, 0) for tally in hours) == 1
    assert {tally.lasts for tally in hours} == {HOUR}
    assert all(0 <= time.time() - tally.begins < 2 * HOUR for tally in hours)


async def test_old_hours_become_days_once(ground: Ground) -> None:
    now = int(time.time() // HOUR)
    for ago, count in ((0, 1), (47, 2), (50, 4), (51, 8)):
        key = ground.key(k.TALLY, f"h{now - ago}")
        await ground.look.hset(key, "job:sync done", count)
        await ground.look.expire(key, 1000)
    assert await ground.store.tallies.roll_up() == 2
    assert await ground.store.tallies.roll_up() == 0
    assert sum(tally.jobs["sync"]["done"] for tally in await ground.store.tallies.hours()) == 3
    days = await ground.store.tallies.days()
    assert sum(tally.jobs["sync"]["done"] for tally in days) == 12
    assert {tally.lasts for tally in days} == {DAY}
    for tally in days:
        assert await ground.look.ttl(ground.key(k.TALLY, f"d{int(tally.begins // DAY)}")) > 89 * DAY


async def test_hosts_without_end_fill_nothing(ground: Ground) -> None:
    hour = int(time.time() // HOUR)
    for number in (hour, hour + 1):
        key = ground.key(k.TALLY, f"h{number}")
        await ground.look.hset(key, mapping={f"webhook:failed host-{name}": 1 for name in range(500)})
        await ground.look.expire(key, 1000)
    await ground.in_state(State.DONE)
    job_id = await ground.submit(surface=Surface.ASYNC, gateway=None, state_webhook_url="https://new.example.com/")
    attempt = await ground.store.deliveries.begin(f"evt_{job_id}_1", 1, Pace())
    await ground.store.deliveries.settle(attempt, Outcome.DELIVERED, Pace())
    [tally, *_] = await ground.store.tallies.hours()
    assert tally.jobs == {"sync": {"done": 1}}
    assert tally.webhooks["other"] == {"delivered": 1}
    assert len(tally.webhooks) == 501
