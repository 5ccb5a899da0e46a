"""What the dead leave comes back: each kind, once, whoever looks and however often."""

from __future__ import annotations

import asyncio
import functools
import operator
import time
from typing import TYPE_CHECKING

import pytest

from foreman.core.errors import Code, Failure
from foreman.core.jobs import Slot, State, Surface
from foreman.store import keys as k
from foreman.store.errors import FencedError
from foreman.store.records import Counts
from tests.store.ground import gateway, worker

if TYPE_CHECKING:
    from tests.store.ground import Ground

RESET = Failure(Code.UPSTREAM_UNREACHABLE, "It reset the connection.")
CANCELLED = Failure(Code.CANCELLED, "Cancelled by its owner.")


async def code_of(ground: Ground, job_id: str) -> tuple[State, str | None]:
    job = await ground.queue.get(job_id)
    assert job is not None
    return job.state, job.error["code"] if job.error else None


class TestWorkers:
    @pytest.mark.parametrize("state", [State.LOADING, State.WORKING])
    async def test_a_lost_workers_jobs_go_back_with_an_attempt_used(self, ground: Ground, state: State) -> None:
        job_id, epoch = await ground.in_state(state)
        inbox = await ground.store.inbox("gateway", "gw-1")
        assert await ground.queue.recover() == []  # it lives
        await ground.lapse(k.WORKERS, "wk-1")
        assert await ground.queue.recover() == [job_id]
        assert await ground.queue.recover() == []
        job = await ground.queue.get(job_id)
        assert job is not None
        assert (job.state, job.attempt, job.epoch, job.worker) == (State.QUEUED, 2, epoch + 1, None)
        notice = await inbox.receive()
        assert notice is not None
        assert (notice.job_id, notice.state, notice.epoch) == (job_id, State.QUEUED, epoch + 1)
        assert not await ground.queue.transition(job_id, epoch, State.DONE, reason="zombie")
        assert await ground.queue.workers() == []
        assert not [key async for key in ground.look.scan_iter(match="*wk-1*")]

    async def test_those_who_recover_at_once_recover_once(self, ground: Ground) -> None:
        own = await ground.owner()
        jobs = [await ground.submit() for _ in range(5)]
        for _ in jobs:
            await ground.claim(own)
        await ground.lapse(k.WORKERS, "wk-1")
        found = await asyncio.gather(*(ground.queue.recover() for _ in range(6)))
        assert sorted(functools.reduce(operator.iadd, found, [])) == jobs
        assert all([len(await ground.events(job_id)) == 3 for job_id in jobs])

    async def test_three_lost_workers_in_a_row_are_poison(self, ground: Ground) -> None:
        job_id = await ground.submit()
        for lost in range(1, 4):
            own = await ground.owner(f"wk-{lost}")
            assert (await ground.claim(own)).job.attempt == lost
            await ground.lapse(k.WORKERS, own.worker)
            assert await ground.queue.recover() == [job_id]
        assert await code_of(ground, job_id) == (State.FAILED, "poison")

    async def test_a_loss_between_resets_is_no_poison(self, ground: Ground) -> None:
        job_id = await ground.submit()
        for number, lost in enumerate((True, False, True), start=1):
            own = await ground.owner(f"wk-{number}")
            claimed = await ground.claim(own)
            if lost:
                await ground.lapse(k.WORKERS, own.worker)
                await ground.queue.recover()
            else:
                await ground.queue.hand_back(job_id, claimed.job.epoch, reason="reset", failure=RESET)
                await ground.queue.retire(own.worker)
        assert await code_of(ground, job_id) == (State.FAILED, "interrupted")

    async def test_a_running_job_whose_worker_nobody_knows_goes_back(self, ground: Ground) -> None:
        job_id, _ = await ground.in_state(State.WORKING)
        prefix = ground.keys.prefix
        await ground.look.delete(*[key async for key in ground.look.scan_iter(match=f"{prefix}worker*")])
        assert await ground.queue.recover() == [job_id]
        assert await code_of(ground, job_id) == (State.QUEUED, None)
        assert (await ground.claim(await ground.owner("wk-2"))).job.id == job_id  # its target is free too

    async def test_more_than_a_batch_takes_several_rounds(self, ground: Ground) -> None:
        own = await ground.owner()
        jobs = [await ground.submit(slot=Slot.SIDE, lane="x") for _ in range(130)]
        for _ in jobs:
            assert await ground.queue.claim(own, "x", Slot.SIDE, State.WORKING)
        await ground.lapse(k.WORKERS, "wk-1")
        found = [len(await ground.queue.recover()) for _ in range(2)]
        assert found == [100, 30]
        assert (await ground.queue.counts()).queued == 130

    async def test_an_orphan_is_found_behind_any_number_of_healthy_runs(self, ground: Ground) -> None:
        own = await ground.owner()
        for _ in range(101):
            job_id = await ground.submit(slot=Slot.SIDE, lane="x")
            assert await ground.queue.claim(own, "x", Slot.SIDE, State.WORKING)
        await ground.look.srem(ground.key(k.WORKER_JOBS, "wk-1"), job_id)
        await ground.look.hset(ground.key(k.JOB, job_id), "worker", "wk-nobody")
        async with asyncio.timeout(60):
            while await ground.queue.recover() != [job_id]:
                pass

    async def test_retire_gives_back_without_an_attempt(self, ground: Ground) -> None:
        job_id, epoch = await ground.in_state(State.WORKING)
        await ground.queue.retire("wk-1")
        job = await ground.queue.get(job_id)
        assert job is not None
        assert (job.state, job.attempt, job.epoch) == (State.QUEUED, 1, epoch + 1)
        assert not await ground.queue.renew("wk-1")
        assert await ground.queue.own("gpu1", (await ground.owner("wk-2")).worker) is not None

    async def test_who_enrolls_anew_starts_with_nothing(self, ground: Ground) -> None:
        job_id, _ = await ground.in_state(State.WORKING)
        await ground.lapse(k.WORKERS, "wk-1")
        await ground.queue.enroll(worker("wk-1"))
        assert await code_of(ground, job_id) == (State.QUEUED, None)
        assert (await ground.queue.workers())[0].targets == ()

    async def test_alone_forgets_targets_of_former_settings(self, ground: Ground) -> None:
        await ground.owner()
        await ground.owner("wk-2", "gpu2")
        await ground.queue.alone(["gpu2", "gpu3"])
        assert [target.name for target in await ground.queue.targets()] == ["gpu2"]

    async def test_alone_buries_everybody(self, ground: Ground) -> None:
        running, _ = await ground.in_state(State.WORKING, gateway=None, surface=Surface.ASYNC)
        waiting = await ground.submit()
        assert set(await ground.queue.alone(["gpu1"])) == {running, waiting}
        assert await code_of(ground, running) == (State.QUEUED, None)
        assert await code_of(ground, waiting) == (State.CANCELLED, "caller_gone")
        assert await ground.queue.workers() == []
        assert await ground.queue.gateways() == []

    async def test_alone_leaves_what_waits_for_no_caller_as_it_is(self, ground: Ground) -> None:
        own = await ground.owner()
        nobodys = {"surface": Surface.ASYNC, "gateway": None}
        ran, waiting = await ground.submit(**nobodys), await ground.submit(**nobodys)
        tonight = await ground.submit(**nobodys, not_before=time.time() + 3600)
        assert (await ground.claim(own)).job.id == ran
        assert await ground.queue.alone(["gpu1"]) == [ran]
        assert not await ground.queue.transition(ran, 1, State.DONE, reason="zombie")
        assert await ground.look.zrange(ground.key(k.LANE, "drain", "lane-a"), 0, -1) == [ran, waiting]
        assert await ground.look.zrange(ground.key(k.DELAYED, "drain"), 0, -1) == [tonight]
        assert (await ground.queue.counts()).queued == 3


class TestGateways:
    async def test_callers_of_a_dead_gateway_are_gone(self, ground: Ground) -> None:
        running, epoch = await ground.in_state(State.WORKING)
        queued, other = await ground.submit(), await ground.submit(gateway="gw-2")
        detached = await ground.submit(gateway=None, surface=Surface.ASYNC)
        for name in ("gw-1", "gw-2"):
            await ground.queue.announce(gateway(name))
        assert await ground.queue.recover() == []
        await ground.lapse(k.GATEWAYS, "gw-1")
        assert await ground.queue.recover() == [queued]
        assert await code_of(ground, queued) == (State.CANCELLED, "caller_gone")
        for job_id in (other, detached):
            assert await code_of(ground, job_id) == (State.QUEUED, None)
        job = await ground.queue.get(running)
        assert job is not None
        assert (job.state, job.cancel_reason) == (State.WORKING, "caller_gone")
        assert await ground.queue.hand_back(running, epoch, reason="stopping", failure=None) is State.CANCELLED
        assert [presence.id for presence in await ground.queue.gateways()] == ["gw-2"]

    async def test_leave_does_the_same_at_once(self, ground: Ground) -> None:
        await ground.queue.announce(gateway())
        job_id = await ground.submit()
        await ground.queue.leave("gw-1")
        assert await code_of(ground, job_id) == (State.CANCELLED, "caller_gone")
        assert await ground.queue.gateways() == []

    async def test_one_that_never_announced_itself_counts_from_its_submit(self, ground: Ground) -> None:
        job_id = await ground.submit(gateway="gw-mute")
        await ground.lapse(k.GATEWAYS, "gw-mute")
        assert await ground.queue.recover() == [job_id]


class TestDeadlines:
    async def test_a_queued_job_past_it_fails(self, ground: Ground) -> None:
        inbox = await ground.store.inbox("gateway", "gw-1")
        job_id = await ground.submit(deadline_in=60.0)
        assert await ground.queue.recover() == []
        await ground.late(job_id)
        assert await ground.queue.recover() == [job_id]
        assert await code_of(ground, job_id) == (State.FAILED, "deadline_exceeded")
        notice = await inbox.receive()
        assert notice is not None
        assert (notice.job_id, notice.state) == (job_id, State.FAILED)

    async def test_a_running_one_is_cut_by_its_worker(self, ground: Ground) -> None:
        job_id, epoch = await ground.in_state(State.WORKING, deadline_in=60.0)
        await ground.late(job_id)
        assert await ground.queue.recover() == []
        job = await ground.queue.get(job_id)
        assert job is not None
        assert (job.state, job.cancel_reason) == (State.WORKING, "deadline_exceeded")
        assert await ground.queue.hand_back(job_id, epoch, reason="cut", failure=None) is State.FAILED
        assert await code_of(ground, job_id) == (State.FAILED, "deadline_exceeded")

    async def test_done_in_time_nothing_follows(self, ground: Ground) -> None:
        job_id, _ = await ground.in_state(State.DONE, deadline_in=60.0)
        assert await ground.look.zcard(ground.key(k.DEADLINES)) == 0
        assert await ground.queue.recover() == []
        assert await code_of(ground, job_id) == (State.DONE, None)


async def test_an_order_nobody_heard_is_repeated(ground: Ground) -> None:
    job_id, epoch = await ground.in_state(State.WORKING)
    await ground.queue.cancel(job_id, CANCELLED)
    inbox = ground.key(k.INBOX, "worker", "wk-1")
    await ground.look.delete(inbox)
    await ground.queue.recover()
    assert await ground.look.llen(inbox) == 0  # it was told less than a second ago
    await ground.look.hset(ground.key(k.JOB, job_id), "cancel_sent", 1)
    await ground.queue.recover()
    await ground.queue.recover()
    assert await ground.look.llen(inbox) == 1
    order = await (await ground.store.inbox("worker", "wk-1")).receive()
    assert order is not None
    assert (order.verb, order.job_id, order.epoch, order.code) == ("cancel", job_id, epoch, "cancelled")


async def test_a_run_ended_by_its_lease_fulfils_the_wish(ground: Ground) -> None:
    job_id, _ = await ground.in_state(State.WORKING)
    await ground.queue.cancel(job_id, CANCELLED)
    await ground.lapse(k.WORKERS, "wk-1")
    await ground.queue.recover()
    assert await code_of(ground, job_id) == (State.CANCELLED, "cancelled")


class TestTakeover:
    async def test_a_living_owner_stays_and_may_ask_again(self, ground: Ground) -> None:
        own = await ground.owner()
        await ground.queue.enroll(worker("wk-2"))
        assert await ground.queue.own("gpu1", "wk-2") is None
        assert await ground.queue.own("gpu1", "wk-1") == own

    async def test_a_dead_owners_jobs_are_orphaned_at_once(self, ground: Ground) -> None:
        own = await ground.owner()
        other = await ground.queue.own("gpu2", "wk-1")
        assert other is not None
        here, there = await ground.submit(), await ground.submit(lane="lane-b")
        taken = await ground.claim(own)
        await ground.claim(other, lane="lane-b")
        await ground.lapse(k.WORKERS, "wk-1")
        await ground.queue.enroll(worker("wk-2"))
        new = await ground.queue.own("gpu1", "wk-2")
        assert new is not None
        assert new.epoch > own.epoch
        assert await code_of(ground, here) == (State.QUEUED, None)
        assert (await ground.claim(new)).job.id == here
        assert not await ground.queue.transition(here, taken.job.epoch, State.DONE, reason="zombie")
        with pytest.raises(FencedError):
            await ground.queue.claim(own, "lane-a", Slot.DRAIN, State.WORKING)
        assert await code_of(ground, there) == (State.WORKING, None)  # its target was not taken
        assert await ground.queue.recover() == [there]
        assert await ground.queue.own("gpu1", "wk-2") == new  # burying the old owner took nothing from the new one

    async def test_release_frees_the_target_and_gives_back(self, ground: Ground) -> None:
        own = await ground.owner()
        job_id = await ground.submit()
        await ground.claim(own)
        await ground.queue.release(own)
        await ground.queue.release(own)
        job = await ground.queue.get(job_id)
        assert job is not None
        assert (job.state, job.attempt) == (State.QUEUED, 1)
        assert await ground.queue.targets() == []
        await ground.queue.enroll(worker("wk-2"))
        new = await ground.queue.own("gpu1", "wk-2")
        assert new is not None
        assert new.epoch > own.epoch

    async def test_a_right_given_up_ends_no_later_one(self, ground: Ground) -> None:
        old = await ground.owner()
        await ground.queue.release(old)
        new = await ground.owner()
        await ground.queue.release(old)
        assert await ground.queue.own("gpu1", "wk-1") == new

    async def test_without_a_lease_nothing_is_owned(self, ground: Ground) -> None:
        with pytest.raises(FencedError):
            await ground.queue.own("gpu1", "wk-ghost")


class TestLeases:
    async def test_renewal_ends_with_the_lease(self, ground: Ground) -> None:
        await ground.owner()
        assert await ground.queue.renew("wk-1")
        await ground.lapse(k.WORKERS, "wk-1")
        assert not await ground.queue.renew("wk-1")
        assert not await ground.queue.renew("wk-ghost")

    async def test_when_the_store_was_away_those_who_lived_get_a_new_lease(self, ground: Ground) -> None:
        """Nobody was heard for 10 s, so nobody could renew: that is the store's absence, not everybody's death."""
        job_id, epoch = await ground.in_state(State.WORKING)
        await ground.queue.announce(gateway())
        now = (await ground.queue.survey(Slot.DRAIN)).now * 1000
        await ground.look.zadd(ground.key(k.WORKERS), {"wk-1": now - 7000, "wk-dead": now - 11000})
        await ground.look.zadd(ground.key(k.GATEWAYS), {"gw-1": now - 7000})
        await ground.look.set(ground.key(k.PULSE), int(now - 10000))
        assert await ground.queue.recover() == []
        assert [presence.id for presence in await ground.queue.workers()] == ["wk-1"]
        assert [presence.id for presence in await ground.queue.gateways()] == ["gw-1"]
        assert await ground.queue.renew("wk-1")
        assert await ground.queue.transition(job_id, epoch, State.DONE, reason="done")

    async def test_a_clock_that_stepped_back_makes_nobody_immortal(self, ground: Ground) -> None:
        await ground.owner()
        now = (await ground.queue.survey(Slot.DRAIN)).now
        await ground.look.zadd(ground.key(k.WORKERS), {"wk-1": (now + 3600) * 1000})
        await ground.look.set(ground.key(k.PULSE), int((now + 3600) * 1000))
        await ground.queue.recover()
        (presence,) = await ground.queue.workers()
        assert presence.expires - now < 70


async def test_everything_comes_to_rest(ground: Ground) -> None:
    """After a drain nothing is left but what is kept for its time: no lanes, no leases, no lists."""
    own = await ground.owner()
    await ground.queue.announce(gateway())
    for number in range(6):
        await ground.submit(lane=f"lane-{number % 2}", deadline_in=60.0)
    for number in range(6):
        claimed = await ground.claim(own, lane=f"lane-{number % 2}")
        assert await ground.queue.transition(claimed.job.id, claimed.job.epoch, State.DONE, reason="done")
    await ground.queue.retire("wk-1")
    await ground.queue.leave("gw-1")
    assert await ground.queue.counts() == Counts(0, 0, 0, 6, 0, 0)
    prefix = ground.keys.prefix
    left = [
        key async for key in ground.look.scan_iter(match=f"{prefix}*", count=1000) if await ground.look.ttl(key) == -1
    ]
    assert {ground.keys.template(key) for key in left} <= k.PERMANENT
