"""Webhooks on the page: attempts are seen in a flood too, and what can't be sent again isn't offered."""

from __future__ import annotations

import pytest

from foreman.core.jobs import State
from foreman.store import keys as k
from foreman.store.deliveries import Outcome, Pace
from foreman.web.dashboard import reading
from tests.web.jobs.test_job_results import URL, finished
from tests.web.jobs.test_jobs import submit

PACE = Pace(schedule=(0.0, 60.0))


@pytest.fixture
async def caller(gateway, dial):
    return await dial(gateway)


async def told(store, delivery: str) -> None:
    """The receiver takes it."""
    ticket = await store.queue._connection.command("HGET", store.queue.keys.of(k.DELIVERY, delivery), "ticket")
    attempt = await store.deliveries.begin(delivery, int(ticket), PACE)
    assert attempt is not None
    await store.deliveries.settle(attempt, Outcome.DELIVERED, PACE, status=204, took=0.1)


@pytest.mark.parametrize("gone", [k.DELIVERY, k.ARTIFACT])
async def test_what_cannot_be_sent_again_is_not_offered(caller, worker, store, gone) -> None:
    job = await finished(caller, worker, b'{"done":true}', state_webhook_url=URL, webhook_events=["done"])
    delivery = f"evt_{job}_3"
    await told(store, delivery)
    views, offer = ("/ui/webhooks", f"/ui/jobs/{job}"), f"POST /deliveries/{delivery}/redeliver"
    for path in views:
        assert offer in (await caller.get(path)).body.decode(), path
    parts = (job, "completion") if gone is k.ARTIFACT else (delivery,)
    await store.queue._connection.command("DEL", store.queue.keys.of(gone, *parts))
    for path in views:
        text = (await caller.get(path)).body.decode()
        assert offer not in text, path
        assert "kept no longer" in text, path
    assert (await caller.post(f"/deliveries/{delivery}/redeliver", b"")).status == 410, "as the page says"


async def test_in_a_flood_the_last_attempts_are_seen(caller, worker, store, monkeypatch) -> None:
    monkeypatch.setattr(reading, "HOOKED", 2)
    ended = await submit(caller, state_webhook_url=URL)
    await (await worker.claim()).end(State.DONE)
    running = await submit(caller, state_webhook_url=URL)
    await worker.claim()
    following = await submit(caller, state_webhook_url=URL)
    for job in (ended, running, following):
        await told(store, f"evt_{job}_1")
    for _ in range(6):
        await submit(caller, state_webhook_url=URL)
    text = (await caller.get("/ui/webhooks")).body.decode()
    for job in (ended, running, following):
        assert f"/ui/jobs/{job}" in text
