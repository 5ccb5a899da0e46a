"""Webhooks from a transition to a receiver's socket: bytes, headers, order, patience, and where none may go."""

from __future__ import annotations

import base64
import errno
import hashlib
import hmac
import json
import re
import socket
from importlib import resources

import aiohttp.abc
import pytest
from arq.utils import timestamp_ms
from jsonschema import Draft202012Validator
from standardwebhooks.webhooks import Webhook

from foreman.core.errors import Code, Failure
from foreman.core.ids import UlidFactory
from foreman.core.jobs import Priority, Slot, State, Surface
from foreman.protocols import webhook
from foreman.protocols.job_object import NINE, JobObject
from foreman.settings import load
from foreman.store.answers import Answer
from foreman.store.deliveries import Pace
from foreman.store.records import NewJob, TargetStatus, WorkerPresence
from tests.receivers import Receivers
from tests.workers.conftest import wait_until
from workers.background import AT_ONCE, Background
from workers.deliveries import post
from workers.deliveries.post import KEPT, READ, Patience, Poster

new_id = UlidFactory(iter(range(10**12, 10**13)).__next__, lambda _: 7)
QUICK = Pace(schedule=(0.0, 0.05, 0.1), probe_gap=0.2, broken_after=1000)
SECRET = "whsec_" + base64.b64encode(b"k" * 32).decode()


@pytest.fixture
async def receivers():
    async with Receivers() as made:
        yield made


class House:
    """A store with a background worker, and hands to drive jobs through their states."""

    def __init__(self, store):
        self.store = store
        self.queue = store.queue

    async def own(self):
        await self.queue.enroll(WorkerPresence("wk-1", 0.0, 0.0, ()))
        own = await self.queue.own("gpu1", "wk-1")
        status = TargetStatus("gpu1", "http://gpu1", "ollama", "up", 1.0, 2.0, "wk-1")
        await self.queue.publish(own, status)
        return own

    async def submit(self, url, lane="lane-a", **more):
        job_id = new_id()
        await self.queue.submit(
            NewJob(
                id=job_id, surface=Surface.ASYNC, endpoint="/api/chat", model="llama3", canonical="llama3:latest",
                lane=lane, slot=Slot.DRAIN, priority=Priority.NORMAL, request=b"{}", max_wait=5.0,
                state_webhook_url=url, **more,
            )
        )  # fmt: skip
        return job_id

    async def run(self, to=State.DONE, lane="lane-a", load=True, answer=None, failure=None):
        claimed = await self.queue.claim(await self.own(), lane, Slot.DRAIN, State.LOADING if load else State.WORKING)
        job = claimed.job
        if load:
            await self.queue.transition(job.id, job.epoch, State.WORKING, reason="loaded")
        more = {"usage": {"prompt_tokens": 3, "completion_tokens": 5}, "timings": {"queued_ms": 1.5, "total_ms": 9.25}}
        if answer is not None:
            more["answer"] = answer
        assert await self.queue.transition(job.id, job.epoch, to, reason="test", failure=failure, **more)
        return job.id

    async def log(self, job_id):
        return [(line.seq, line.attempt, line.status, line.error) for line in await self.store.deliveries.log(job_id)]

    async def settled(self, job_id):
        async def none():
            return not await self.store.deliveries.open(job_id)

        await wait_until(none)


@pytest.fixture
async def house(store, pool, valkey, tmp_path, monkeypatch):
    """A factory: `await house(setting=…)` starts a background worker with quick retries."""
    monkeypatch.chdir(tmp_path)
    started = []

    async def make(pace=QUICK, patience=None, **settings):
        settings = {"webhook_allow": "127.0.0.1", "webhook_secret": SECRET} | settings
        background = Background(load(redis_url=valkey, pool=pool, **settings), store, patience, pace)
        await background.start()
        started.append(background)
        made = House(store)
        made.background = background
        return made

    yield make
    for background in started:
        await background.stop()


STATES = {
    "job.queued": (1, None), "job.loading": (2, "queued"), "job.working": (3, "loading"), "job.done": (4, "working"),
}  # fmt: skip


async def test_each_state_has_the_nine_keys_and_the_schema(house, receivers):
    house = await house()
    first = await house.submit(receivers.url + "/done", metadata='{"order": 7}')
    await house.run(answer=Answer.of(b'{"message":{"content":"hi"},"done":true}'))
    failed = await house.submit(receivers.url + "/failed")
    await house.run(State.FAILED, failure=Failure(Code.UPSTREAM_ERROR, "it said no"))
    cancelled = await house.submit(receivers.url + "/cancelled")
    await house.queue.cancel(cancelled, Failure(Code.CANCELLED, "not wanted"))
    for job_id in (first, failed, cancelled):
        await house.settled(job_id)
    schema = Draft202012Validator(JobObject.model_json_schema())
    events = [seen.event for path in receivers.seen.values() for seen in path]
    for event in events:
        schema.validate(event)
        assert set(NINE) <= set(event)
        assert event["timestamp"].endswith("Z")
        assert event["type"] == f"job.{event['state']}"
    assert {event["state"] for event in events} == {state.value for state in State}
    assert {
        one.event["type"]: (one.event["seq"], one.event["previous_state"]) for one in receivers.seen["/done"]
    } == STATES
    done = receivers.seen["/done"][-1].event
    assert done["result"] == done["artifacts"][0]["inline"] == {"message": {"content": "hi"}, "done": True}
    assert done["artifacts"][0]["url"] is None
    assert (done["error"], done["attempt"], done["metadata"]) == (None, 1, {"order": 7})
    assert (done["usage"]["completion_tokens"], done["timings"]["total_ms"]) == (5, 9.25)
    end = receivers.seen["/failed"][-1].event
    assert end["error"] == {"code": "upstream_error", "message": "it said no", "retryable": False}
    assert end["result"] is end["artifacts"] is None
    waiting = receivers.seen["/cancelled"][0].event
    assert [waiting[key] for key in ("previous_state", "error", "result", "artifacts", "target", "started_at")] == [
        None
    ] * 6


@pytest.mark.parametrize(("size", "inline"), [(262_144, True), (262_145, False)])
async def test_an_answer_is_inline_up_to_256_kib_inclusive(house, receivers, size, inline):
    house = await house()
    body = b'{"a":"' + b"x" * (size - 8) + b'"}'
    assert len(body) == size
    job_id = await house.submit(receivers.url + "/", webhook_events=(State.DONE,))
    await house.run(answer=Answer.of(body))
    await house.settled(job_id)
    [seen] = receivers.seen["/"]
    [artifact] = seen.event["artifacts"]
    assert (artifact["size"], artifact["sha256"]) == (size, hashlib.sha256(body).hexdigest())
    assert (artifact["inline"] is not None, seen.event["result"] is not None) == (inline, inline)
    assert artifact["url"] == (None if inline else f"/jobs/{job_id}/artifacts/completion")


async def test_every_attempt_is_signed_anew_over_the_same_bytes(house, receivers):
    house = await house(webhook_secret=f"{SECRET},the old one")
    receivers.kinds["/"] = ["500", "reset", "ok"]
    job_id = await house.submit(receivers.url + "/")
    await house.settled(job_id)
    seen = receivers.seen["/"]
    assert [one.kind for one in seen] == ["500", "reset", "ok"]
    assert len({one.body for one in seen}) == 1
    assert {one.id for one in seen} == {f"evt_{job_id}_1"}
    for one in seen:
        Webhook(SECRET).verify(one.body, one.headers)
        Webhook("whsec_" + base64.b64encode(b"the old one").decode()).verify(one.body, one.headers)
        digest = hmac.new(webhook.key(SECRET), one.body, hashlib.sha256).hexdigest()
        assert one.headers["x-foreman-signature"] == f"sha256={digest}"
        assert one.headers["content-type"] == "application/json"
        assert one.headers["user-agent"].startswith("foreman/")


async def test_in_order_although_the_receiver_is_slow(house, receivers):
    house = await house()
    receivers.kinds["/"] = ["gate", "ok"]
    job_id = await house.submit(receivers.url + "/")
    await receivers.until(lambda it: it.seen["/"])
    await house.run()
    receivers.gate.set()
    await house.settled(job_id)
    assert [one.event["seq"] for one in receivers.seen["/"]] == [1, 2, 3, 4]
    assert not receivers.trouble


@pytest.mark.parametrize(
    ("kind", "status", "error"),
    [
        ("500", 500, "status 500"),
        ("redirect", 302, "status 302, a redirect is not followed"),
        ("reset", None, None),
        ("garbage", None, "its reply is no HTTP: Bad status line"),
        ("timeout", None, "no answer within 0.3 s"),
        ("drip", None, "no answer within 0.3 s"),
    ],
)
async def test_what_counts_as_failure(house, receivers, kind, status, error):
    house = await house(patience=Patience(connect=0.3, total=0.3))
    receivers.kinds["/"] = [kind]
    job_id = await house.submit(receivers.url + "/", webhook_events=(State.CANCELLED,))
    await house.queue.cancel(job_id, Failure(Code.CANCELLED, "not wanted"))
    await house.settled(job_id)
    log = await house.log(job_id)
    assert [(seq, attempt) for seq, attempt, _, _ in log] == [(2, 1), (2, 2), (2, 3), (2, 0)], "the whole schedule"
    assert log[-1][3] == "exhausted"
    assert {line[2] for line in log[:3]} == {status}
    assert {line[3] for line in log[:3]} == {error} if error else all(line[3] for line in log[:3])
    assert "/landed" not in receivers.seen


@pytest.mark.parametrize(("kind", "status"), [("drip-body", 200), ("204-body", 204), ("no-chunk", 200)])
async def test_a_reply_whose_body_is_broken_has_said_it_all_with_its_status(house, receivers, kind, status):
    house = await house(patience=Patience(connect=0.3, total=0.6))
    receivers.kinds["/"] = [kind]
    job_id = await house.submit(receivers.url + "/")
    await house.settled(job_id)
    assert [line[2:] for line in await house.log(job_id)] == [(status, None)]


async def test_a_background_worker_whose_clock_is_behind_holds_up_nothing(house, receivers, monkeypatch):
    monkeypatch.setattr("arq.worker.timestamp_ms", lambda: timestamp_ms() - 3_600_000)
    house = await house()
    job_id = await house.submit(receivers.url + "/")
    await house.settled(job_id)
    assert [line[2] for line in await house.log(job_id)] == [200]


async def test_410_and_the_log_keeps_a_kibibyte(house, receivers):
    house = await house()
    receivers.kinds |= {"/gone": ["410"], "/long": ["long", "ok"]}
    gone, long = await house.submit(receivers.url + "/gone"), await house.submit(receivers.url + "/long", lane="lane-b")
    await house.settled(gone)
    await house.settled(long)
    await house.run()
    assert len(receivers.seen["/gone"]) == 1
    [first, second] = await house.store.deliveries.log(long)
    assert (first.reply, first.status, second.status) == ("x" * 1024, 500, 200)
    assert first.duration is not None


async def test_retry_after_is_honoured(house, receivers):
    house = await house()
    receivers.kinds["/"] = ["429", "ok"]
    job_id = await house.submit(receivers.url + "/")
    await receivers.until(lambda it: it.seen["/"])
    await house.settled(job_id)
    first, second = receivers.seen["/"]
    assert second.began - first.began >= 1.0


def test_the_patience_that_is_promised():
    assert (Patience().connect, Patience().total, READ, KEPT) == (5, 15, 4096, 1024)


async def test_few_at_once_per_url_and_nobody_waits_for_another_url(house, receivers):
    house = await house()
    receivers.kinds["/slow"] = ["gate"]
    slow = [await house.submit(receivers.url + "/slow") for _ in range(30)]
    await receivers.until(lambda it: len(it.seen["/slow"]) == 4)
    fast = await house.submit(receivers.url + "/fast")
    await house.settled(fast)
    assert len(receivers.seen["/slow"]) == 4
    receivers.gate.set()
    for job_id in slow:
        await house.settled(job_id)
    assert receivers.most["/slow"] == 4
    assert len(receivers.seen["/slow"]) == 30


def test_arq_runs_as_many_as_there_are_places():
    source = resources.files("foreman.store").joinpath("lua/include/outbox.lua").read_text()
    places = re.search(r"^local POOL_PLACES = (\d+)", source, re.MULTILINE)
    assert places is not None
    assert int(places[1]) < AT_ONCE < 1.1 * int(places[1]), "the rest is for what the clock starts"


async def test_a_receiver_that_fails_and_fails_is_let_alone(house, receivers):
    house = await house(Pace(schedule=(0.0,) * 3, broken_after=3, probe_gap=3600.0))
    receivers.kinds["/"] = ["500"]
    jobs = [await house.submit(receivers.url + "/") for _ in range(10)]
    for job_id in jobs:
        await house.settled(job_id)
    assert 10 <= len(receivers.seen["/"]) < 30
    for job_id in jobs:
        *made, end = await house.log(job_id)
        assert [status for _, _, status, _ in made] == [500] * len(made), "each that is counted was made"
        assert end[3] == "exhausted"


async def test_hundreds_to_one_url_stand_in_its_line_and_in_nobody_elses(house, receivers):
    house = await house()
    receivers.kinds["/many"] = ["gate"]
    jobs = [await house.submit(receivers.url + "/many") for _ in range(300)]
    await house.settled(await house.submit(receivers.url + "/other"))
    assert len(receivers.seen["/many"]) <= 4, "the others stand in no queue of arq's"
    receivers.gate.set()
    for job_id in jobs:
        await house.settled(job_id)
    assert receivers.most["/many"] == 4


async def test_a_fault_of_ours_costs_a_look_and_no_more(house, receivers, store, monkeypatch):
    call, calls = store.deliveries.call, []

    async def broken():
        calls.append(1)
        if len(calls) < 3:
            raise ValueError("ours")
        return await call()

    monkeypatch.setattr(store.deliveries, "call", broken)
    house = await house()
    receivers.kinds["/"] = ["500", "ok"]
    await house.settled(await house.submit(receivers.url + "/"))
    assert len(receivers.seen["/"]) == 2


async def test_what_this_machine_lacks_is_no_fault_of_a_receivers(house, receivers, monkeypatch):
    make, lacking = post._plain_socket, [OSError(errno.EMFILE, "Too many open files")]

    def plain_socket(where):
        if lacking:
            raise lacking.pop()
        return make(where)

    monkeypatch.setattr(post, "_plain_socket", plain_socket)
    house = await house()
    job_id = await house.submit(receivers.url + "/")
    await house.settled(job_id)
    assert not lacking
    assert [line[1:3] for line in await house.log(job_id)] == [(1, 200)], "the attempt that was none does not count"


async def test_sent_again_by_hand_with_the_same_bytes(house, receivers):
    house = await house()
    job_id = await house.submit(receivers.url + "/")
    await house.run(answer=Answer.of(b'{"x":1.50}'))
    await house.settled(job_id)
    for seq in (2, 4):
        assert await house.store.deliveries.redeliver(f"evt_{job_id}_{seq}") == "sent"
    await receivers.until(lambda it: len(it.seen["/"]) == 6)
    by_id = {}
    for one in receivers.seen["/"]:
        by_id.setdefault(one.id, set()).add(one.body)
    assert all(len(bodies) == 1 for bodies in by_id.values())


async def test_leaving_in_the_middle_of_an_attempt_loses_nothing(house, receivers, store, pool, valkey):
    make, receivers.kinds["/"] = house, ["gate", "ok"]
    house = await make()
    job_id = await house.submit(receivers.url + "/")
    await receivers.until(lambda it: it.seen["/"])
    await house.background.stop()
    assert await store.deliveries.open(job_id)
    await make()
    await house.settled(job_id)
    assert len({one.body for one in receivers.seen["/"]}) == 1
    assert [line[1:3] for line in await house.log(job_id)] == [(1, 200)], "a broken-off attempt does not count"


# ---------------------------------------------------------------------------- where none may go

FORMS = [
    "127.0.0.1", "localhost", "[::1]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "0.0.0.0", "0x7f000001", "127.1",
    "2130706433", "017700000001", "[64:ff9b::7f00:1]", "[::]", "[::127.0.0.1]", "[2002:7f00:1::]", "ip6-localhost",
    "user:pw@127.0.0.1", "rebinding.example",
]  # fmt: skip


class Rebinding(aiohttp.abc.AbstractResolver):
    """A resolver whose answer changes: public when asked first, ours from then on."""

    def __init__(self) -> None:
        self.asked = 0

    async def resolve(self, host, port=0, family=socket.AF_INET):
        self.asked += 1
        address = "93.184.216.34" if self.asked == 1 else "127.0.0.1"
        return [{"hostname": host, "host": address, "port": port, "family": socket.AF_INET, "proto": 0, "flags": 0}]

    async def close(self):
        pass


@pytest.mark.parametrize("host", FORMS)
async def test_no_form_of_our_addresses_reaches_a_socket(receivers, host):
    resolver = Rebinding() if host == "rebinding.example" else None
    if resolver:
        await resolver.resolve(host)  # as the gateway did when it took the job
    poster = Poster((), Patience(connect=2, total=2), resolver)
    try:
        reply = await poster.post(f"http://{host}:{receivers.port}/x", {}, b"{}")
    finally:
        await poster.close()
    assert reply.status is None
    assert reply.error
    assert receivers.connections == 0


@pytest.mark.parametrize(
    "addresses", [("127.0.0.1", "203.0.113.9"), ("203.0.113.9", "127.0.0.1"), ("::1", "127.0.0.1")]
)
async def test_each_address_of_a_name_is_checked(receivers, addresses):
    class Several(Rebinding):
        async def resolve(self, host, port=0, family=socket.AF_INET):
            [found] = await super().resolve(host, port)
            families = [socket.AF_INET6 if ":" in one else socket.AF_INET for one in addresses]
            return [found | {"host": one, "family": kind} for one, kind in zip(addresses, families, strict=True)]

    poster = Poster(load(webhook_allow="203.0.113.9").webhook_allow, Patience(connect=0.3, total=0.3), Several())
    reply = await poster.post(f"http://several.example:{receivers.port}/x", {}, b"{}")
    await poster.close()
    assert reply.error
    assert receivers.connections == 0


async def test_an_allowed_name_may_resolve_to_anything_and_an_allowed_network_is_dialled(receivers):
    resolver = Rebinding()
    await resolver.resolve("hook.internal")
    for rules, host in (
        ("hook.internal", "hook.internal"),
        ("127.0.0.0/8", "127.0.0.1"),
        ("127.0.0.0/8", "[::ffff:127.0.0.1]"),
    ):
        poster = Poster(load(webhook_allow=rules).webhook_allow, Patience(), resolver if host[0] == "h" else None)
        try:
            reply = await poster.post(f"http://{host}:{receivers.port}/x", {}, b"{}")
        finally:
            await poster.close()
        assert reply.status == 200, (rules, host, reply)


async def test_a_redirect_to_ours_is_not_followed(house, receivers):
    house = await house()
    receivers.kinds["/r"] = ["redirect"]
    job_id = await house.submit(receivers.url + "/r")
    await house.settled(job_id)
    assert set(receivers.seen) == {"/r"}


async def test_the_receiver_gets_json_that_a_strict_reader_takes(house, receivers):
    house = await house()
    job_id = await house.submit(receivers.url + "/", metadata='{"smile": "\\ud83d", "ü": 1e2}')
    await house.settled(job_id)
    json.loads(receivers.seen["/"][0].body.decode("utf-8", "strict"))
