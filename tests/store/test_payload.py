"""FOREMAN_STORE_BYTES: what is counted, what goes first when the store is full, and that no byte is counted wrong.

The `ground` fixture counts anew after each test of this folder; here a small store is filled on purpose.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest

from foreman.core.errors import Code, Failure
from foreman.core.jobs import State, Surface
from foreman.store import keys as k
from foreman.store.answers import Answer
from foreman.store.client import Store
from foreman.store.deliveries import Outcome, Pace
from foreman.store.roster import Limits
from tests.store.ground import Ground, new_job

if TYPE_CHECKING:
    from foreman.core.jobs import Job

LIMIT = 10_000
URL = "https://example.com/hook"
ANSWER = b'"' + b"a" * 998 + b'"'


@pytest.fixture
def small(ground: Ground) -> Ground:
    """The pool with a store of 10,000 bytes."""
    limits = Limits(max_queue=1000, job_ttl=3600.0, lease=60.0, store_bytes=LIMIT)
    pool = ground.keys.prefix.split(":")[1]
    return Ground(Store(ground.store._connection, ground.store._new_connection, pool, limits), ground.look)


async def used(ground: Ground) -> int:
    """As it is counted, which is as it is."""
    counted = (await ground.store.answers.room()).used
    assert await ground.store.answers.recount() == 0
    return counted


async def submit(ground: Ground, size: int = 1000, **more) -> str:
    values = {"surface": Surface.ASYNC, "gateway": None} | more
    return await ground.submit(request=b"r" * size, **values)


async def done(ground: Ground, size: int = 1000, answer: bytes = ANSWER, **more) -> str:
    """A job that came with so many bytes and left an answer."""
    job_id = await submit(ground, size, lane="lane-run", **more)
    claimed = await ground.claim(await ground.owner(), lane="lane-run")
    assert claimed.job.id == job_id
    made = Answer.of(answer)
    assert await ground.queue.transition(job_id, claimed.job.epoch, State.DONE, reason="test", answer=made)
    return job_id


async def kept(ground: Ground, *jobs: str) -> list[bool]:
    """Which of them still have both, request and answer; none has one of them."""
    found = []
    for job_id in jobs:
        job: Job | None = await ground.queue.get(job_id)
        assert job is not None, "its record stays"
        request, answer = await ground.queue.kept(job_id), await ground.store.answers.get(job, "completion")
        assert (request is None) == (answer is None)
        found.append(request is not None)
    return found


async def test_what_is_counted(small: Ground) -> None:
    assert (await small.store.answers.room()).limit is None
    waiting = await submit(small, 700)
    assert await used(small) == 700
    assert (await small.store.answers.room()).limit == LIMIT
    await small.queue.cancel(waiting, Failure(Code.CANCELLED, "x"))
    assert await used(small) == 700, "an async job keeps its request for a retry"
    await done(small, 300, b"x" * 50)
    assert await used(small) == 1050
    caller = await small.submit(request=b"r" * 90)
    assert await used(small) == 1140
    await small.queue.cancel(caller, Failure(Code.CANCELLED, "x"))
    assert await used(small) == 1050, "a sync one keeps nothing"
    await small.submit(request=b"r" * 40, finish=True)
    claimed = await small.claim(await small.owner())
    answer = Answer(b"x" * 10, "[]", head="{}", stream=b"s" * 20)
    await small.queue.transition(claimed.job.id, claimed.job.epoch, State.DONE, reason="test", answer=answer)
    assert await used(small) == 1120, "but one that may be read again does"


async def test_a_deliverys_body_counts_until_it_ends(small: Ground) -> None:
    job_id = await submit(small, 100, state_webhook_url=URL)
    attempt = await small.store.deliveries.begin(f"evt_{job_id}_1", 1, Pace())
    for _ in range(2):
        await small.store.deliveries.keep_body(attempt, b"b" * 500)
    assert await used(small) == 600
    await small.store.deliveries.settle(attempt, Outcome.DELIVERED, Pace())
    assert await used(small) == 100
    assert await small.store.deliveries.redeliver(f"evt_{job_id}_1") == "sent"
    attempt = await small.store.deliveries.begin(f"evt_{job_id}_1", 2, Pace())
    assert await small.store.deliveries.keep_body(attempt, b"b" * 500) == b"b" * 500
    assert await used(small) == 100, "a resend keeps none"


async def test_full_the_oldest_ended_ones_lose_theirs(small: Ground) -> None:
    jobs = [await done(small) for _ in range(5)]
    assert await used(small) == LIMIT
    assert await kept(small, *jobs) == [True] * 5
    await submit(small, 2500)
    assert await kept(small, *jobs) == [False, False, True, True, True]
    assert await used(small) == LIMIT - 4000 + 2500
    jobs.append(await done(small, 1500, b"x" * 1000))
    assert await kept(small, *jobs) == [False, False, False, True, True, True], "an answer makes room as well"
    assert await used(small) <= LIMIT


async def test_the_oldest_of_both_surfaces(small: Ground) -> None:
    kinds = [{"surface": Surface.SYNC, "finish": True}, {}, {"surface": Surface.SYNC, "finish": True}, {}]
    jobs = []
    for number, kind in enumerate(kinds):
        jobs.append(await done(small, **kind))
        listed = small.key(k.PAYLOADS, str(kind.get("surface", Surface.ASYNC)))
        [entry] = [one for one in await small.look.zrange(listed, 0, -1) if one.startswith(jobs[-1])]
        till = await small.look.zscore(listed, entry)
        await small.look.zrem(listed, entry)  # as if each had ended a second after the one before
        await small.look.zadd(listed, {f"{entry.rpartition(' ')[0]} {1000 * (number + 1)}": till})
    for number in range(4):
        await submit(small, 3000 if number == 0 else 2000)
        assert await kept(small, *jobs) == [False] * (number + 1) + [True] * (3 - number)


async def test_then_the_queue_is_full(small: Ground) -> None:
    old = await done(small)
    waiting = [await submit(small, 2500) for _ in range(4)]
    assert await kept(small, old) == [False]
    assert await used(small) == LIMIT
    with pytest.raises(Failure) as refused:
        await submit(small, 1)
    assert (refused.value.code, refused.value.retry_after) == (Code.QUEUE_FULL, 60.0)
    assert "FOREMAN_STORE_BYTES" in refused.value.message
    await small.queue.cancel(waiting[0], Failure(Code.CANCELLED, "x"))
    await submit(small, 2500)
    assert await used(small) == LIMIT
    assert await small.queue.kept(waiting[0]) is None


async def test_one_that_can_never_fit_costs_nobody_anything(small: Ground) -> None:
    old = await done(small)
    with pytest.raises(Failure):
        await submit(small, LIMIT + 1)
    assert await kept(small, old) == [True]


async def test_whose_webhooks_are_open_goes_last(small: Ground) -> None:
    told = await done(small, state_webhook_url=URL, webhook_events=(State.DONE,))
    later = await done(small)
    await submit(small, 7000)
    assert await kept(small, told, later) == [True, False]
    await submit(small, 2000)
    assert await kept(small, told, later) == [False, False]
    attempt = await small.store.deliveries.begin(f"evt_{told}_3", 1, Pace())
    assert await small.store.answers.shown(attempt.job), "the event still says what there was, and where"


async def test_a_sync_answer_that_is_gone_frees_its_key(small: Ground) -> None:
    keyed = {"surface": Surface.SYNC, "idempotency_key": "k", "finish": True, "fingerprint": "f"}
    first = await done(small, **keyed)
    assert (await small.queue.submit(new_job(request=b"r", **keyed))).job_id == first
    await submit(small, 9000)
    again = await small.queue.submit(new_job(request=b"r", **keyed))
    assert not again.known
    assert again.job_id != first


async def test_a_failed_try_that_loses_its_request_leaves_the_key_to_the_next_one(small: Ground) -> None:
    keyed = {"surface": Surface.SYNC, "idempotency_key": "k", "finish": True, "fingerprint": "f"}
    failed = await submit(small, lane="lane-run", **keyed)
    claimed = await small.claim(await small.owner(), lane="lane-run")
    wrong = Failure(Code.UPSTREAM_ERROR, "x")
    assert await small.queue.transition(failed, claimed.job.epoch, State.FAILED, reason="test", failure=wrong)
    second = (await small.queue.submit(new_job(request=b"r", **keyed))).job_id
    assert second != failed
    await submit(small, 9500)
    assert await small.queue.kept(failed) is None, "the store is full: the oldest ended one goes first"
    again = await small.queue.submit(new_job(request=b"r", **keyed))
    assert (again.known, again.job_id) == (True, second)


async def test_what_a_ttl_removes_is_counted_too(small: Ground) -> None:
    jobs = [await done(small) for _ in range(5)]
    for job_id in jobs[:2]:  # as an hour later
        await small.look.delete(*(small.key(one, job_id) for one in (k.JOB, k.REQUEST, k.EVENTS)))
        await small.look.delete(small.key(k.ARTIFACT, job_id, "completion"))
    entries = small.key(k.PAYLOADS, "async")
    for entry in await small.look.zrange(entries, 0, 1):
        await small.look.zadd(entries, {entry: 1})
    await submit(small, 100)
    assert await used(small) == LIMIT - 4000 + 100
    assert await kept(small, *jobs[2:]) == [True] * 3


async def test_one_that_is_kept_for_its_webhooks_still_counts_after_its_time(small: Ground) -> None:
    job_id = await done(small, state_webhook_url=URL)
    entries = small.key(k.PAYLOADS, "async")
    [entry] = await small.look.zrange(entries, 0, -1)
    await small.look.zadd(entries, {entry: 1})
    await submit(small, 100)
    assert await used(small) == 2100
    assert await kept(small, job_id) == [True]


async def test_a_count_that_went_wrong_is_put_right_before_anybody_is_refused(small: Ground) -> None:
    await submit(small, 100)
    await small.look.hset(small.key(k.PAYLOAD), "bytes", LIMIT)
    await submit(small, 100)
    assert await used(small) == 200


async def test_anything_in_any_order_stays_within_the_limit(small: Ground) -> None:
    chance = random.Random(4)
    waiting: list[str] = []
    refused: set[Code] = set()
    for _ in range(120):
        what = chance.choice(["submit", "done", "cancel"])
        try:
            if what == "submit":
                url = chance.choice([None, URL + chance.choice("abc")])
                waiting.append(await submit(small, chance.randrange(1, 1500), lane="lane-b", state_webhook_url=url))
            elif what == "done":
                await done(small, chance.randrange(1, 1500), b"x" * chance.randrange(1, 1500))
            elif waiting:
                job_id = waiting.pop(chance.randrange(len(waiting)))
                await small.queue.cancel(job_id, Failure(Code.CANCELLED, "x"))
        except Failure as failure:
            refused.add(failure.code)
        assert await used(small) <= LIMIT
    assert refused == {Code.QUEUE_FULL}
