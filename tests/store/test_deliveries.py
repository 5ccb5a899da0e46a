"""Deliveries in the store: written with the transition, one at a time, in order, never lost; arq's own wire format."""

from __future__ import annotations

import asyncio
import json
import time
from typing import TYPE_CHECKING

import pytest
from arq.jobs import deserialize_job_raw

from foreman.core.jobs import State, Surface
from foreman.protocols.job_object import INLINE_LIMIT
from foreman.store import keys as k
from foreman.store.answers import Answer
from foreman.store.deliveries import After, Outcome, Pace, Redelivered, Settled, Standing

if TYPE_CHECKING:
    from tests.store.ground import Ground

URL = "https://example.com/hook"
PACE = Pace(schedule=(0.0, 5.0, 30.0), lease=60.0, broken_after=4)


async def job(ground: Ground, url: str = URL, **more) -> str:
    return await ground.submit(surface=Surface.ASYNC, gateway=None, state_webhook_url=url, **more)


async def run(ground: Ground, job_id: str, to: State = State.DONE) -> None:
    claimed = await ground.claim(await ground.owner())
    assert claimed.job.id == job_id
    assert await ground.queue.transition(job_id, claimed.job.epoch, to, reason="test")


async def sent(ground: Ground) -> list[tuple[str, int]]:
    """(delivery, ticket) of the arq jobs, in order of their moments."""
    ids = await ground.look.zrange(ground.key(k.ARQ), 0, -1)
    found = []
    for one in ids:
        raw = await ground.look.get(f"arq:job:{one}")
        if raw:
            found.append(tuple(json.loads(raw)["a"]))
    return found


async def begin(ground: Ground, delivery: str, ticket: int, pace: Pace = PACE):
    return await ground.store.deliveries.begin(delivery, ticket, pace)


async def settle(ground: Ground, attempt, outcome: Outcome, delay: float | None = 5.0, **more) -> After:
    return (await ground.store.deliveries.settle(attempt, outcome, PACE, delay=delay, took=0.01, **more)).after


async def newest(ground: Ground, delivery: str) -> int:
    return int(await ground.look.hget(ground.key(k.DELIVERY, delivery), "ticket"))


async def come(ground: Ground, *deliveries: str, url: str = URL) -> None:
    """Let the moment of those that wait have come."""
    for delivery in deliveries:
        await ground.look.zadd(ground.key(k.WAITING, url), {delivery: 1}, xx=True)
    await ground.look.zadd(ground.key(k.CALLS), {url: 1}, xx=True)
    await ground.store.deliveries.call()


async def again(ground: Ground, delivery: str, pace: Pace = PACE):
    """The next attempt, as if its moment had come."""
    await come(ground, delivery)
    return await begin(ground, delivery, await newest(ground, delivery), pace)


async def log(ground: Ground, job_id: str) -> list[tuple[int, int, str | None]]:
    return [(line.seq, line.attempt, line.error) for line in await ground.store.deliveries.log(job_id)]


async def test_the_wire_format_of_arq(ground: Ground) -> None:
    """Golden: arq 0.28 reads what the transition script writes, byte for byte as arq would write it itself."""
    job_id = await job(ground)
    [name] = await ground.look.zrange(ground.key(k.ARQ), 0, -1)
    assert name == f"{ground.key(k.ARQ)}:evt_{job_id}_1:1"
    at = await ground.look.zscore(ground.key(k.ARQ), name) + 86_400_000  # a day behind is still due
    raw = await ground.look.get(f"arq:job:{name}")
    assert raw == f'{{"t":null,"f":"deliver","a":["evt_{job_id}_1",1],"k":{{}},"et":{int(at)}}}'
    function, args, kwargs, tries, enqueued = deserialize_job_raw(raw.encode(), deserializer=json.loads)
    assert (function, list(args), kwargs, tries, enqueued) == ("deliver", [f"evt_{job_id}_1", 1], {}, None, int(at))
    assert 0 < await ground.look.pttl(f"arq:job:{name}") <= 86_400_000


async def test_each_transition_is_recorded_with_what_the_job_was_then(ground: Ground) -> None:
    job_id = await job(ground, metadata='{"a": 1}')
    await run(ground, job_id)
    assert await ground.store.deliveries.open(job_id) == [f"evt_{job_id}_{seq}" for seq in (1, 2, 3)]
    assert await sent(ground) == [(f"evt_{job_id}_1", 1)], "only the head of the lane is tried"
    seen = []
    for seq in (1, 2, 3):
        attempt = await again(ground, f"evt_{job_id}_{seq}")
        assert attempt is not None
        seen.append((attempt.job.seq, attempt.job.state, attempt.job.previous_state, attempt.number, attempt.body))
        assert attempt.job.metadata == {"a": 1}
        assert await settle(ground, attempt, Outcome.DELIVERED, status=200) is After.DELIVERED
    assert seen == [
        (1, State.QUEUED, None, 1, None),
        (2, State.WORKING, State.QUEUED, 1, None),
        (3, State.DONE, State.WORKING, 1, None),
    ]
    assert await ground.store.deliveries.open(job_id) == []
    assert [line.status for line in await ground.store.deliveries.log(job_id)] == [200, 200, 200]


async def test_a_job_without_url_has_none_and_one_with_few_events_those(ground: Ground) -> None:
    silent = await ground.submit(lane="lane-b")
    picky = await job(ground, webhook_events=(State.DONE, State.FAILED))
    await run(ground, picky)
    assert await ground.store.deliveries.open(silent) == []
    assert await ground.store.deliveries.open(picky) == [f"evt_{picky}_3"]


async def test_a_ticket_is_good_for_one_attempt(ground: Ground) -> None:
    job_id = await job(ground)
    evt = f"evt_{job_id}_1"
    first = await begin(ground, evt, 1)
    assert first is not None
    assert await begin(ground, evt, 1) is None, "its attempt is under way"
    assert await settle(ground, first, Outcome.FAILED) is After.AGAIN
    assert await settle(ground, first, Outcome.DELIVERED) is After.STALE
    assert await begin(ground, evt, 1) is None, "its moment has not come"
    await come(ground, evt)
    assert await begin(ground, evt, 1) is None, "an old ticket"
    second = await begin(ground, evt, 2)
    assert second is not None
    assert second.number == 2


async def test_every_attempt_sends_the_bytes_of_the_first(ground: Ground) -> None:
    job_id = await job(ground)
    first = await begin(ground, f"evt_{job_id}_1", 1)
    assert await ground.store.deliveries.keep_body(first, b"one\xff") == b"one\xff"
    await settle(ground, first, Outcome.FAILED)
    assert await ground.store.deliveries.keep_body(first, b"late") is None
    second = await again(ground, f"evt_{job_id}_1")
    assert second.body == b"one\xff"
    assert await ground.store.deliveries.keep_body(second, b"two") == b"one\xff"


async def test_a_failed_one_is_superseded_by_a_newer_one_but_the_end_is_not(ground: Ground) -> None:
    job_id = await job(ground)
    attempt = await begin(ground, f"evt_{job_id}_1", 1)
    assert await settle(ground, attempt, Outcome.FAILED, error="500") is After.AGAIN
    await run(ground, job_id)  # working supersedes it at once; done waits for working's first attempt
    assert await log(ground, job_id) == [(1, 1, "500"), (1, 0, "superseded")]
    attempt = await again(ground, f"evt_{job_id}_2")
    assert await settle(ground, attempt, Outcome.FAILED, error="500") is After.SUPERSEDED
    for number in (1, 2):
        attempt = await again(ground, f"evt_{job_id}_3")
        assert attempt.number == number
        assert await settle(ground, attempt, Outcome.FAILED, error="500") is After.AGAIN
    await ground.look.hset(ground.key(k.RECEIVER, URL), "probe_at", 1)
    attempt = await again(ground, f"evt_{job_id}_3")
    assert await settle(ground, attempt, Outcome.FAILED, delay=None, error="500") is After.EXHAUSTED
    assert (await log(ground, job_id))[-2:] == [(3, 3, "500"), (3, 0, "exhausted")]
    assert await ground.store.deliveries.open(job_id) == []


async def test_the_newer_one_waits_where_the_receiver_asked_for_rest(ground: Ground) -> None:
    job_id = await job(ground)
    attempt = await begin(ground, f"evt_{job_id}_1", 1)
    await settle(ground, attempt, Outcome.FAILED, delay=50.0, rest=50.0)
    before = await ground.look.zscore(ground.key(k.WAITING, URL), f"evt_{job_id}_1")
    await ground.claim(await ground.owner())
    after = await ground.look.zscore(ground.key(k.WAITING, URL), f"evt_{job_id}_2")
    assert after == pytest.approx(before, abs=5)


async def test_an_attempt_under_way_is_not_superseded(ground: Ground) -> None:
    job_id = await job(ground)
    evt = f"evt_{job_id}_1"
    await settle(ground, await begin(ground, evt, 1), Outcome.FAILED)
    attempt = await again(ground, evt)
    await run(ground, job_id)
    assert len(await ground.store.deliveries.open(job_id)) == 3
    assert await settle(ground, attempt, Outcome.DELIVERED) is After.DELIVERED
    assert (await again(ground, f"evt_{job_id}_2")) is not None


async def test_410_ends_the_jobs_deliveries_and_no_other_jobs(ground: Ground) -> None:
    job_id, other = await job(ground), await job(ground, lane="lane-b")
    await ground.claim(await ground.owner())
    assert await settle(ground, await begin(ground, f"evt_{job_id}_1", 1), Outcome.GONE, status=410) is After.GONE
    assert await ground.store.deliveries.open(job_id) == []
    assert await log(ground, job_id) == [(1, 1, None), (2, 0, "gone")]
    assert await ground.queue.transition(job_id, 1, State.DONE, reason="test")
    assert await ground.store.deliveries.open(job_id) == []
    assert await ground.store.deliveries.open(other) == [f"evt_{other}_1"]


async def test_a_url_gets_a_few_at_once_and_the_rest_in_turn(ground: Ground) -> None:
    jobs = [await job(ground) for _ in range(6)]
    elsewhere = await job(ground, url=URL + "/other")
    assert await sent(ground) == [(f"evt_{one}_1", 1) for one in (*jobs[:4], elsewhere)], "arq holds what has a place"
    attempts = [await begin(ground, f"evt_{one}_1", 1) for one in jobs]
    assert [attempt is not None for attempt in attempts] == [True] * 4 + [False] * 2
    await settle(ground, attempts[0], Outcome.FAILED)
    assert await newest(ground, f"evt_{jobs[4]}_1") == 1, "an end calls the one that waited longest"
    assert await newest(ground, f"evt_{jobs[5]}_1") == 0
    assert await begin(ground, f"evt_{jobs[4]}_1", 1) is not None


async def test_thousands_for_one_url_keep_arq_from_nobody(ground: Ground) -> None:
    for _ in range(15):
        await job(ground)
    other = await job(ground, url=URL + "/other")
    assert len(await sent(ground)) == 5
    assert (await sent(ground))[-1] == (f"evt_{other}_1", 1)
    attempts = [await begin(ground, *one) for one in (await sent(ground))[:4]]
    await ground.look.delete(ground.key(k.ARQ))
    for attempt in attempts[:3]:
        await settle(ground, attempt, Outcome.FAILED, delay=0.0)
    assert len(await sent(ground)) == 3, "those that are due again stand behind those that wait"
    assert not {attempt.id for attempt in attempts} & {name for name, _ in await sent(ground)}


async def test_who_settles_may_begin_the_next_before_arq_does(ground: Ground) -> None:
    jobs = [await job(ground) for _ in range(6)]
    attempts = [await begin(ground, f"evt_{one}_1", 1) for one in jobs[:4]]
    settled = await ground.store.deliveries.settle(attempts[0], Outcome.DELIVERED, PACE)
    assert settled == Settled(After.DELIVERED, (f"evt_{jobs[4]}_1", 1))
    assert (f"evt_{jobs[4]}_1", 1) in await sent(ground), "arq has it, should nobody begin it"
    assert await ground.store.deliveries.begin(*settled.handed, PACE) is not None
    assert (f"evt_{jobs[4]}_1", 1) not in await sent(ground)
    assert await begin(ground, f"evt_{jobs[4]}_1", 1) is None, "arq comes too late"
    settled = await ground.store.deliveries.settle(attempts[1], Outcome.ABANDONED, PACE)
    assert settled == Settled(After.ABANDONED, (attempts[1].id, 2))


HOST = "hook.example"


async def crowd(ground: Ground, places: int, until: float, where: str = HOST) -> None:
    """So many places at the host, or in all, are taken, until then (ms), by deliveries of other URLs."""
    await ground.look.zadd(ground.key(k.BUSY, where), {f"evt_other_{number}": until for number in range(places)})


async def test_a_host_gets_so_many_at_once_whatever_its_urls(ground: Ground) -> None:
    """Some have a URL per job: a place for each would leave other hosts none."""
    await crowd(ground, 123, (time.time() + 3600) * 1000)
    first, second, third, fourth = [await job(ground, f"https://{HOST}/{number}") for number in range(4)]
    other = await job(ground, "https://hook.elsewhere.example/")
    assert await sent(ground) == [(f"evt_{one}_1", 1) for one in (first, second, other)]
    for done, then in ((first, third), (second, fourth)):
        attempt = await begin(ground, f"evt_{done}_1", 1)
        assert await settle(ground, attempt, Outcome.FAILED, delay=0.0) is After.AGAIN
        assert (f"evt_{then}_1", 1) in await sent(ground), (
            "the one that waited longest, before the first one's next try"
        )
    assert await newest(ground, f"evt_{first}_1") == 1
    assert await ground.look.zrange(ground.key(k.WAITING, HOST), 0, -1) == [f"https://{HOST}/0", f"https://{HOST}/1"]
    await crowd(ground, 123, 1.0)
    attempt = await begin(ground, f"evt_{third}_1", 1)
    assert await settle(ground, attempt, Outcome.DELIVERED) is After.DELIVERED
    assert await newest(ground, f"evt_{first}_1") == 2


async def test_at_a_full_host_who_takes_its_events_goes_before_who_hangs(ground: Ground) -> None:
    """One host may be many receivers' front door, and those that hang have its places most of the time."""

    async def told(url: str, outcome: Outcome) -> None:
        attempt = await begin(ground, f"evt_{await job(ground, url)}_1", 1)
        await settle(ground, attempt, outcome)

    await told(f"https://{HOST}/well", Outcome.DELIVERED)
    await told(f"https://{HOST}/hung", Outcome.FAILED)
    busy = await begin(ground, f"evt_{await job(ground, f'https://{HOST}/busy')}_1", 1)
    await crowd(ground, 249, (time.time() + 3600) * 1000)
    for path in ("hung", "new", "well"):
        await job(ground, f"https://{HOST}/{path}")
    assert busy is not None
    line = await ground.look.zrange(ground.key(k.WAITING, HOST), 0, -1, withscores=True)
    assert [url.rpartition("/")[2] for url, _ in line] == ["well", "new", "hung"]
    (_, first), (_, second), (_, third) = line
    assert second - first > 7 * 86_400_000 < third - second, (
        "however long one waits: it may have no room where others have"
    )
    shouted = await job(ground, f"https://{HOST.upper()}/shouted")
    assert await newest(ground, f"evt_{shouted}_1") == 0, "a host's name has no case"


async def test_at_a_host_where_many_hang_there_is_room_for_who_does_not(ground: Ground) -> None:
    """Hanging ones have a quarter of its places, new ones half: the rest is for those that are known to answer."""
    url = f"https://{HOST}/"
    for path, outcome in (("well", Outcome.DELIVERED), ("hung", Outcome.FAILED)):
        await settle(ground, await begin(ground, f"evt_{await job(ground, url + path)}_1", 1), outcome)
    for taken, told in ((61, ["hung", "new", "well"]), (62, ["new", "well"]), (125, ["well"]), (250, [])):
        await crowd(ground, taken, (time.time() + 3600) * 1000)
        went = []
        for path in ("hung", "new", "well"):
            delivery = f"evt_{await job(ground, url + path + str(taken) * (path == 'new'))}_1"
            if await newest(ground, delivery):
                went.append(path)
                attempt = await begin(ground, delivery, 1)
                await settle(ground, attempt, Outcome.FAILED if path == "hung" else Outcome.DELIVERED)
        assert went == told


async def test_hosts_that_hang_leave_a_place_for_the_next(ground: Ground) -> None:
    """Each takes at most a part of what all leave free: whatever their number, there is something left."""
    well, hung, new = (f"https://{name}.example/" for name in ("well", "hung", "new"))
    for url, outcome in ((well, Outcome.DELIVERED), (hung, Outcome.FAILED)):
        await settle(ground, await begin(ground, f"evt_{await job(ground, url)}_1", 1), outcome)
    await crowd(ground, 997, (time.time() + 3600) * 1000, "*")
    waits, goes_last, goes_first = [f"evt_{await job(ground, url)}_1" for url in (hung, new, well)]
    assert [await newest(ground, one) for one in (waits, goes_last, goes_first)] == [0, 1, 1]
    assert [name for name, _ in await sent(ground)] == [goes_first, goes_last], "arq begins with who is known to answer"
    moment = await ground.look.zscore(ground.key(k.CALLS), hung)
    assert moment < (time.time() + 20) * 1000, "nobody at its host has a place to give back: it is looked at again soon"
    await crowd(ground, 997, 1.0, "*")
    await come(ground, waits, url=hung)
    assert await newest(ground, waits) == 1
    for delivery in (waits, goes_last, goes_first):
        await settle(ground, await begin(ground, delivery, 1), Outcome.DELIVERED)
    assert not await ground.look.exists(ground.key(k.BUSY, "*")), "each gave its place back"


async def test_places_at_a_host_that_nobody_gave_back_are_free_again(ground: Ground) -> None:
    await crowd(ground, 250, (time.time() + 3600) * 1000)
    late = await job(ground, f"https://{HOST}/")
    assert await newest(ground, f"evt_{late}_1") == 0
    await crowd(ground, 250, 1.0)
    await come(ground, f"evt_{late}_1", url=f"https://{HOST}/")
    assert await newest(ground, f"evt_{late}_1") == 1
    assert not await ground.look.exists(ground.key(k.WAITING, HOST))
    ends = await ground.look.ttl(ground.key(k.BUSY, HOST))
    assert 0 < ends <= 60, "an older version's process may leave its places for ever: nobody must come to clear them"


async def test_a_job_is_told_one_thing_at_a_time_also_when_asked_again(ground: Ground) -> None:
    job_id = await job(ground)
    await settle(ground, await begin(ground, f"evt_{job_id}_1", 1), Outcome.DELIVERED)
    await run(ground, job_id)
    running = await again(ground, f"evt_{job_id}_2")
    assert await ground.store.deliveries.redeliver(f"evt_{job_id}_1") is Redelivered.SENT
    assert await newest(ground, f"evt_{job_id}_1") == 1
    other = await job(ground)
    assert await newest(ground, f"evt_{other}_1") == 1, "others need not wait for that"
    await settle(ground, running, Outcome.DELIVERED)
    assert await newest(ground, f"evt_{job_id}_1") == 2


async def test_a_first_gap_is_waited_for_without_a_place(ground: Ground) -> None:
    pace = Pace(schedule=(60.0, 5.0))
    waiting = f"evt_{await job(ground)}_1"
    assert await begin(ground, waiting, 1, pace) is None
    assert await ground.look.zcard(ground.key(k.BUSY, URL)) == 0
    at = await ground.look.zscore(ground.key(k.WAITING, URL), waiting)
    assert await ground.look.zscore(ground.key(k.CALLS), URL) == at > time.time() * 1000 + 50_000


async def broken(ground: Ground, pace: Pace = PACE) -> list[str]:
    """A receiver that has failed as often in a row as it takes; the deliveries it failed at."""
    found = [f"evt_{await job(ground)}_1" for _ in range(pace.broken_after)]
    for evt in found:
        await settle(ground, await begin(ground, evt, 1), Outcome.FAILED, delay=3600.0, status=500, error="status 500")
    [receiver] = await ground.store.deliveries.receivers()
    assert receiver.standing is Standing.BROKEN
    return found


async def test_what_a_broken_receiver_puts_off_uses_up_nothing(ground: Ground) -> None:
    await broken(ground)
    late = [f"evt_{await job(ground)}_1" for _ in range(3)]
    assert await ground.look.zcard(ground.key(k.BUSY, URL)) == 0
    probe_at = float(await ground.look.hget(ground.key(k.RECEIVER, URL), "probe_at"))
    assert await ground.look.zscore(ground.key(k.CALLS), URL) == probe_at
    await ground.look.hset(ground.key(k.RECEIVER, URL), "probe_at", 1)
    await come(ground, *late)
    assert [await newest(ground, one) for one in late] == [1, 0, 0], "one each gap is let through"
    await settle(ground, await begin(ground, late[0], 1), Outcome.FAILED, delay=3600.0)
    assert [await newest(ground, one) for one in late] == [1, 0, 0]
    await ground.look.hset(ground.key(k.RECEIVER, URL), "probe_at", 1)
    await come(ground, *late[1:])
    await settle(ground, await begin(ground, late[1], 1), Outcome.DELIVERED)
    attempt = await begin(ground, late[2], 1)
    assert attempt is not None, "after a success all that is due goes"
    assert attempt.number == 1


async def test_an_event_that_was_only_put_off_is_not_superseded(ground: Ground) -> None:
    await broken(ground)
    job_id = await job(ground, lane="lane-b")
    await ground.queue.transition(job_id, None, State.CANCELLED, reason="test")
    assert await ground.store.deliveries.open(job_id) == [f"evt_{job_id}_1", f"evt_{job_id}_2"]
    assert await log(ground, job_id) == []


async def test_whose_schedule_a_broken_receiver_outlasts_gets_a_last_attempt(ground: Ground) -> None:
    await broken(ground)
    early, late = f"evt_{await job(ground)}_1", f"evt_{await job(ground)}_1"
    assert await ground.store.deliveries.sweep(PACE) == []
    await ground.look.zadd(ground.key(k.DELIVERIES), {early: 1})
    assert await ground.store.deliveries.sweep(PACE) == [early]
    assert await begin(ground, late, 1) is None
    assert await settle(ground, await begin(ground, early, 1), Outcome.FAILED, error="500") is After.EXHAUSTED
    assert await log(ground, early.split("_")[1]) == [(1, 1, "500"), (1, 0, "exhausted")]


async def test_one_that_is_not_put_off_keeps_its_whole_schedule(ground: Ground) -> None:
    """A receiver that asks for rest makes a schedule longer than its gaps."""
    evt = f"evt_{await job(ground)}_1"
    await settle(ground, await begin(ground, evt, 1), Outcome.FAILED, delay=9e5, rest=9e5)
    since = await ground.look.zscore(ground.key(k.DELIVERIES), evt)
    assert since > (time.time() + 8e5) * 1000
    await ground.look.zadd(ground.key(k.DELIVERIES), {evt: 1})
    assert await ground.store.deliveries.sweep(PACE) == []
    assert await settle(ground, await again(ground, evt), Outcome.FAILED) is After.AGAIN


async def test_what_somebody_asks_for_passes_the_breaker(ground: Ground) -> None:
    [*_, last] = await broken(ground)
    assert await ground.store.deliveries.redeliver(last) is Redelivered.SENT
    assert await begin(ground, last, 2) is not None


async def test_how_receivers_stand(ground: Ground) -> None:
    deliveries = ground.store.deliveries
    assert await deliveries.receivers() == []
    await broken(ground)
    other = await job(ground, url=URL + "/other")
    [second, first] = await deliveries.receivers()
    assert (first.url, first.standing, first.failures, first.failed, first.delivered) == (URL, "broken", 4, 4, 0)
    assert (first.open, first.waiting, first.running, first.status, first.error) == (4, 4, 0, 500, "status 500")
    assert first.next_at > first.tried_at
    assert (second.url, second.standing, second.open, second.running) == (URL + "/other", "well", 1, 1)
    assert (second.next_at, second.tried_at) == (None, None)
    await settle(ground, await begin(ground, f"evt_{other}_1", 1), Outcome.DELIVERED, status=200)
    [second] = await deliveries.receivers(1)
    assert (second.url, second.open, second.delivered, second.status) == (URL + "/other", 0, 1, 200)
    assert await ground.look.ttl(ground.key(k.RECEIVER, URL + "/other")) > 80_000
    assert await ground.look.ttl(ground.key(k.RECEIVER, URL)) == -1, "something is open there"


async def test_the_job_stays_until_its_delivery_has_ended(ground: Ground) -> None:
    job_id = await job(ground)
    await ground.queue.transition(job_id, None, State.CANCELLED, reason="test")
    await settle(ground, await begin(ground, f"evt_{job_id}_1", 1), Outcome.DELIVERED)
    keys = [ground.key(template, job_id) for template in (k.JOB, k.EVENTS, k.REQUEST)]
    assert {await ground.look.ttl(key) for key in keys} == {-1}
    await settle(ground, await again(ground, f"evt_{job_id}_2"), Outcome.FAILED, delay=129_600.0)
    assert {await ground.look.ttl(key) for key in keys} == {-1}
    assert (await ground.store.deliveries.redeliver(f"evt_{job_id}_2")).value == "sent"
    await settle(ground, await again(ground, f"evt_{job_id}_2"), Outcome.DELIVERED)
    assert {0 < await ground.look.ttl(key) <= 86_400 for key in keys} == {True}
    assert await ground.look.ttl(ground.key(k.ATTEMPTS, job_id)) > 6 * 86_400


async def test_its_idempotency_key_stays_as_long_as_the_job_does(ground: Ground) -> None:
    named = {"idempotency_key": "night", "fingerprint": "f", "webhook_events": (State.DONE, State.FAILED)}
    job_id = await job(ground, **named)
    [key] = [one async for one in ground.look.scan_iter(match=ground.key(k.IDEMPOTENCY, "*"))]
    await run(ground, job_id)
    attempt = await begin(ground, f"evt_{job_id}_3", 1)
    assert await ground.look.ttl(key) > 6 * 86_400, "the job is kept until its receiver was told"
    await settle(ground, attempt, Outcome.DELIVERED)
    assert 0 < await ground.look.ttl(key) <= 86_400


async def test_a_key_that_is_another_jobs_by_now_is_left_alone(ground: Ground) -> None:
    named = {"idempotency_key": "night", "fingerprint": "f", "webhook_events": (State.FAILED,)}
    failed = await job(ground, **named)
    await run(ground, failed, State.FAILED)
    [key] = [one async for one in ground.look.scan_iter(match=ground.key(k.IDEMPOTENCY, "*"))] or [""]
    assert not key, "free for another try"
    await job(ground, **named)
    [key] = [one async for one in ground.look.scan_iter(match=ground.key(k.IDEMPOTENCY, "*"))]
    await settle(ground, await begin(ground, f"evt_{failed}_3", 1), Outcome.DELIVERED)
    assert await ground.look.ttl(key) == -1


async def test_sending_again(ground: Ground) -> None:
    deliveries = ground.store.deliveries
    job_id = await job(ground)
    evt = f"evt_{job_id}_1"
    assert await deliveries.redeliver(evt) is Redelivered.WAITING, "it is on its way"
    await settle(ground, await begin(ground, evt, 1), Outcome.FAILED, delay=50.0)
    assert await deliveries.redeliver(evt, "anna") is Redelivered.SENT, "an open one is tried at once"
    attempt = await begin(ground, evt, 2)
    assert await deliveries.redeliver(evt, "ben") is Redelivered.WAITING
    await settle(ground, attempt, Outcome.DELIVERED)
    assert await deliveries.redeliver(evt) is Redelivered.SENT
    for outcome, after in ((Outcome.FAILED, After.EXHAUSTED), (Outcome.DELIVERED, After.DELIVERED)):
        await deliveries.redeliver(evt)
        attempt = await again(ground, evt)
        assert await settle(ground, attempt, outcome) is after
        assert await deliveries.open(job_id) == []
    assert await deliveries.redeliver(f"evt_{job_id}_9") is Redelivered.UNKNOWN
    assert len(await deliveries.log(job_id)) == 4
    deeds = [(deed.who, deed.action, deed.kind, deed.name) for deed in await ground.store.operators.audit(9)]
    assert deeds == [("anna", "redeliver", "delivery", evt)]


class TestSentAgainLate:
    """What a job leaves behind ends before its log does."""

    async def ended(self, ground: Ground, size: int) -> str:
        """A job whose `done` has been delivered, with an answer of so many bytes."""
        job_id = await job(ground, webhook_events=(State.DONE,))
        claimed = await ground.claim(await ground.owner())
        answer = Answer.of(b'"' + b"x" * (size - 2) + b'"')
        assert await ground.queue.transition(job_id, claimed.job.epoch, State.DONE, reason="test", answer=answer)
        await settle(ground, await begin(ground, f"evt_{job_id}_3", 1), Outcome.DELIVERED, status=200)
        return job_id

    async def test_after_its_record_the_log_still_knows_it(self, ground: Ground) -> None:
        job_id = await self.ended(ground, 10)
        await ground.look.delete(ground.key(k.DELIVERY, f"evt_{job_id}_3"))  # as a day later
        assert await ground.store.deliveries.redeliver(f"evt_{job_id}_3") is Redelivered.OVER
        assert await ground.store.deliveries.redeliver(f"evt_{job_id}_2") is Redelivered.UNKNOWN

    async def test_what_would_soon_be_gone_is_kept_for_its_attempts(self, ground: Ground) -> None:
        job_id = await self.ended(ground, 10)
        key = ground.key(k.DELIVERY, f"evt_{job_id}_3")
        await ground.look.expire(key, 60)
        assert await ground.store.deliveries.redeliver(f"evt_{job_id}_3") is Redelivered.SENT
        assert await ground.look.ttl(key) > 600

    async def test_what_is_known_of_its_receiver_begins_anew_and_ends_again(self, ground: Ground) -> None:
        job_id = await self.ended(ground, 10)
        await ground.look.delete(ground.key(k.RECEIVER, URL))  # as a day later
        assert await ground.store.deliveries.redeliver(f"evt_{job_id}_3") is Redelivered.SENT
        await settle(ground, await again(ground, f"evt_{job_id}_3"), Outcome.DELIVERED, status=200)
        assert await ground.look.ttl(ground.key(k.RECEIVER, URL)) > 80_000

    @pytest.mark.parametrize(("size", "met"), [(INLINE_LIMIT, "over"), (INLINE_LIMIT + 1, "sent")])
    async def test_without_the_answer_that_stood_in_it_other_bytes_would_go(self, ground, size, met) -> None:
        job_id = await self.ended(ground, size)
        await ground.look.delete(ground.key(k.ARTIFACT, job_id, "completion"))
        assert await ground.store.deliveries.redeliver(f"evt_{job_id}_3") == met

    async def test_while_another_of_its_job_is_open(self, ground: Ground) -> None:
        job_id = await job(ground)
        await settle(ground, await begin(ground, f"evt_{job_id}_1", 1), Outcome.DELIVERED)
        await ground.queue.transition(job_id, None, State.CANCELLED, reason="test")
        await settle(ground, await begin(ground, f"evt_{job_id}_2", 1), Outcome.FAILED, delay=3600.0)
        assert await ground.store.deliveries.redeliver(f"evt_{job_id}_1") is Redelivered.SENT
        resend = await begin(ground, f"evt_{job_id}_1", 2)
        assert await ground.store.deliveries.redeliver(f"evt_{job_id}_2") is Redelivered.SENT, "behind the resend"
        assert await newest(ground, f"evt_{job_id}_2") == 1
        await settle(ground, resend, Outcome.FAILED)
        assert await newest(ground, f"evt_{job_id}_2") == 2
        assert await ground.store.deliveries.open(job_id) == [f"evt_{job_id}_2"]


class TestCall:
    """What is looked after where an attempt, or arq, was lost."""

    async def overdue(self, ground: Ground, *deliveries: str) -> list[str]:
        """A look, as if the places of these had been given long ago."""
        for one in deliveries:
            await ground.look.zadd(ground.key(k.BUSY, URL), {one: 1}, xx=True)
        await ground.look.zadd(ground.key(k.CALLS), {URL: 1}, xx=True)
        return await ground.store.deliveries.call()

    async def test_what_is_on_its_way_is_left_alone(self, ground: Ground) -> None:
        job_id = await job(ground)
        assert await self.overdue(ground, f"evt_{job_id}_1") == [], "arq is behind"
        assert await sent(ground) == [(f"evt_{job_id}_1", 1)]
        assert await ground.look.zscore(ground.key(k.CALLS), URL) > time.time() * 1000
        await begin(ground, f"evt_{job_id}_1", 1)
        assert await self.overdue(ground) == []

    async def test_a_lost_arq_job_is_written_anew(self, ground: Ground) -> None:
        job_id = await job(ground)
        await ground.look.delete(f"arq:job:{ground.key(k.ARQ)}:evt_{job_id}_1:1")
        assert await self.overdue(ground, f"evt_{job_id}_1") == [f"evt_{job_id}_1"]
        assert await sent(ground) == [(f"evt_{job_id}_1", 2)]
        assert await self.overdue(ground) == []

    async def test_an_arq_job_that_died_before_its_attempt_is_written_anew(self, ground: Ground) -> None:
        job_id = await job(ground)
        await ground.look.set(f"arq:in-progress:{ground.key(k.ARQ)}:evt_{job_id}_1:1", 1, ex=60)
        assert await self.overdue(ground, f"evt_{job_id}_1") == [f"evt_{job_id}_1"]
        assert await sent(ground) == [(f"evt_{job_id}_1", 2)], "the dead one stands in nobody's way"

    async def test_a_lost_attempt_is_made_anew_and_others_get_its_place(self, ground: Ground) -> None:
        jobs = [await job(ground) for _ in range(5)]
        short = Pace(lease=0.01)
        attempts = [await begin(ground, f"evt_{one}_1", 1, short) for one in jobs[:4]]
        lost: list[str] = []
        async with asyncio.timeout(60):
            while len(lost) < 4:
                lost += await self.overdue(ground)
        assert await settle(ground, attempts[0], Outcome.DELIVERED) is After.STALE
        assert await newest(ground, f"evt_{jobs[4]}_1") == 1
        made = await begin(ground, f"evt_{jobs[0]}_1", 2)
        assert made.number == 1

    async def test_a_held_attempt_is_not_lost(self, ground: Ground) -> None:
        job_id = await job(ground)
        attempt = await begin(ground, f"evt_{job_id}_1", 1, Pace(lease=5.0))
        assert await ground.store.deliveries.hold([attempt], 60.0) == {attempt.id}
        assert await ground.look.zscore(ground.key(k.BUSY, URL), attempt.id) > (attempt.now + 30) * 1000
        await settle(ground, attempt, Outcome.DELIVERED)
        assert await ground.store.deliveries.hold([attempt], 60.0) == set()
