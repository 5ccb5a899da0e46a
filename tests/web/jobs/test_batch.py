"""Batches over sockets: a line in, a line out, in order, while the body still comes; each bad line with its own error."""

from __future__ import annotations

import asyncio
import json

import pytest

from foreman.web.jobs import batch
from foreman.web.pool import inventory
from tests.web.conftest import wait_until

CHAT = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}


def lines(*jobs: object) -> bytes:
    return b"".join((job if isinstance(job, bytes) else json.dumps(job).encode()) + b"\n" for job in jobs)


def answers(reply) -> list[dict]:
    assert reply.status == 200, reply.body
    assert reply.header("Content-Type") == "application/x-ndjson"
    assert reply.complete
    assert reply.body.endswith(b"\n") or not reply.body
    return [json.loads(line) for line in reply.body.splitlines()]


@pytest.fixture
async def caller(gateway, dial):
    return await dial(gateway)


async def test_every_line_is_answered_in_order_bad_ones_with_their_error(caller, store) -> None:
    body = lines(
        CHAT | {"metadata": {"n": 0}},
        b"{",
        CHAT | {"priority": "urgent"},
        b"",
        b"  \r",
        CHAT | {"model": "nope"},
        b"[1]",
        CHAT | {"metadata": {"n": 1}},
    )
    found = answers(await caller.post("/jobs/batch", body))
    assert [one["error"]["code"] if "error" in one else one["state"] for one in found] == [
        *("queued", "bad_request", "bad_request", "model_not_found", "bad_request", "queued")
    ]
    assert "priority" in found[2]["error"]["message"]
    for number, one in enumerate((found[0], found[-1])):
        assert one["position"] == number + 1
        assert (await store.queue.get(one["job_id"])).metadata == {"n": number}


@pytest.mark.parametrize(
    ("line", "code"),
    [
        (b'{"model": "\xff", "messages": []}', "bad_request"),
        (b'{"mod\xffel": "m", "messages": []}', "bad_request"),
        (b'{"model": "m", "messages": [{"role": "user", "content": "\xff\xfe"}]}', None),
        (b'\xef\xbb\xbf{"model": "m", "messages": []}', "bad_request"),
        (b'{"model": "m", "messages": []}{"model": "m"}', "bad_request"),
        (b"\x00", "bad_request"),
        (b"null", "bad_request"),
        (b"[" * 100_000, "bad_request"),
    ],
    ids=lambda value: value[:24].decode("ascii", "replace") if isinstance(value, bytes) else None,
)
async def test_a_line_that_is_no_text_or_no_object_costs_itself_only(caller, line: bytes, code: str | None) -> None:
    first, found, last = answers(await caller.post("/jobs/batch", lines(CHAT, line, CHAT)))
    assert (first["state"], last["state"]) == ("queued", "queued")
    assert found.get("error", {}).get("code") == code


async def test_the_last_line_needs_no_newline(caller) -> None:
    assert len(answers(await caller.post("/jobs/batch", lines(CHAT, CHAT)[:-1]))) == 2


async def test_an_empty_batch(caller) -> None:
    assert answers(await caller.post("/jobs/batch", b"\n\n")) == []
    assert answers(await caller.post("/jobs/batch", b"")) == []


async def test_many_lines_keep_their_order(caller, store) -> None:
    found = answers(
        await caller.post("/jobs/batch", lines(*(CHAT | {"metadata": {"n": number}} for number in range(500))))
    )
    ids = [one["job_id"] for one in found]
    assert [one["position"] for one in found] == list(range(1, 501))
    assert ids == sorted(ids)
    for number in (0, 63, 64, 499):
        assert (await store.queue.get(ids[number])).metadata == {"n": number}


async def test_the_body_is_read_as_a_stream(caller) -> None:
    """Each line is answered as it comes, however its bytes are cut."""
    caller.ask("POST", "/jobs/batch", None, Transfer_Encoding="chunked")
    head = await caller.head()
    assert head.status == 200

    def chunk(data: bytes) -> None:
        caller.send(b"%x\r\n%b\r\n" % (len(data), data))

    line = lines(CHAT)
    chunk(line)
    assert json.loads(await caller.chunk())["position"] == 1
    for byte in range(len(line) - 1):
        chunk(line[byte : byte + 1])
    chunk(b"\n" + line)
    answered = b""
    while answered.count(b"\n") < 2:
        answered += await caller.chunk()
    assert [json.loads(one)["position"] for one in answered.splitlines()] == [2, 3]
    caller.send(b"0\r\n\r\n")
    assert await caller.chunk() == b""


async def test_the_limit_holds_for_each_line(open_gateway, worker, dial, store) -> None:
    caller = await dial(await open_gateway(max_body="1KiB"))
    fits = lines(CHAT | {"x": ""})
    room = 1024 - (len(fits) - 1)
    body = lines(
        *[CHAT | {"x": "y" * room}] * 3, CHAT | {"x": "y" * (room + 1)}, CHAT, b"z" * 300_000, CHAT, b"z" * 2000
    )
    found = answers(await caller.post("/jobs/batch", body[:-1]))
    codes = [one.get("error", {}).get("code") for one in found]
    too_large = "payload_too_large"
    assert codes == [None, None, None, too_large, None, too_large, None, too_large]
    assert "FOREMAN_MAX_BODY" in found[3]["error"]["message"]
    assert (await store.queue.counts()).queued == 5


async def test_past_the_queues_limit(store, caller) -> None:
    store.queue._limits = type(store.queue._limits)(max_queue=10)
    found = answers(await caller.post("/jobs/batch", lines(*[CHAT] * 12)))
    assert [one.get("error", {}).get("code") for one in found] == [None] * 9 + ["queue_full"] * 3
    assert found[-1]["error"]["retryable"] is True


async def test_sent_again_under_its_key(caller, store) -> None:
    body = lines(*[CHAT] * 40)
    first = answers(await caller.post("/jobs/batch", body, Idempotency_Key="nightly"))
    again = answers(await caller.post("/jobs/batch", body, Idempotency_Key="nightly"))
    assert [one["job_id"] for one in again] == [one["job_id"] for one in first]
    assert len({one["job_id"] for one in first}) == 40
    assert (await store.queue.counts()).queued == 40


async def test_a_caller_that_sends_all_before_it_reads(gateway, caller, monkeypatch) -> None:
    """Its answers are kept for it, up to a bound; nobody waits for the other."""
    all_read = asyncio.Event()
    submit = batch.Batch._submit

    async def watched(self, found) -> None:
        await submit(self, found)
        if self._number == 70_000:
            all_read.set()

    monkeypatch.setattr(batch.Batch, "_submit", watched)
    body = lines(*[b"{"] * 70_000)  # five megabytes of answers: more than the sockets between us hold
    caller.ask("POST", "/jobs/batch", None, Content_Length=str(len(body)))
    caller.writer.transport.pause_reading()
    caller.send(body)
    async with asyncio.timeout(40):
        await all_read.wait()
    caller.writer.transport.resume_reading()
    assert len(answers(await caller.reply())) == 70_000


async def test_past_the_bound_its_lines_wait_until_it_reads(gateway, caller, monkeypatch) -> None:
    monkeypatch.setattr(batch, "UNREAD", 1000)
    full = asyncio.Event()
    until_read = batch.Batch._until_read
    held = []

    async def watched(self) -> None:
        full.set()
        held.append(len(self._answers))
        await until_read(self)

    monkeypatch.setattr(batch.Batch, "_until_read", watched)
    body = lines(*[b"{"] * 70_000)
    caller.ask("POST", "/jobs/batch", None, Content_Length=str(len(body)))
    caller.writer.transport.pause_reading()
    caller.send(body)
    async with asyncio.timeout(60):
        await full.wait()
    caller.writer.transport.resume_reading()
    assert len(answers(await caller.reply())) == 70_000
    assert max(held) < 1000 + batch.AT_ONCE * 200


@pytest.mark.parametrize("cut", [1, 2, 3, 7, 100])
def test_lines_however_they_are_cut(cut: int) -> None:
    body = b"ab\n\n \r\n12345678\n123456789\n" + b"x" * 50 + b"\nend"
    taken = batch.Lines(8)
    found = []
    for at in range(0, len(body), cut):
        found += taken.feed(body[at : at + cut])
        assert taken.held <= 8, "what is too long is not kept"
    found += taken.rest()
    assert [line if isinstance(line, bytes) else line.code for line in found] == [
        *(b"ab", b"12345678", "payload_too_large", "payload_too_large", b"end")
    ]


async def test_a_body_that_breaks_off(gateway, caller, store, monkeypatch) -> None:
    monkeypatch.setattr(batch, "SILENCE", 0.05)
    caller.ask("POST", "/jobs/batch", None, Content_Length="100000")
    caller.send(lines(CHAT) + b'{"model"')
    reply = await caller.reply()
    found = [json.loads(line) for line in reply.body.splitlines()]
    assert found[0]["state"] == "queued"
    assert "broke off" in found[1]["error"]["message"]
    assert await caller.ended()
    assert (await store.queue.counts()).queued == 1


async def test_a_caller_that_leaves(gateway, caller, store) -> None:
    caller.ask("POST", "/jobs/batch", None, Content_Length="100000")
    caller.send(lines(CHAT) + b'{"model"')

    async def queued() -> bool:
        return (await store.queue.counts()).queued == 1

    await wait_until(queued)
    await caller.close()
    assert await queued(), "what was acknowledged stays; the half line is no job"


async def test_expect_100(caller) -> None:
    body = lines(CHAT)
    caller.ask("POST", "/jobs/batch", None, Content_Length=str(len(body)), Expect="100-continue")
    assert (await caller.head()).status == 100
    caller.send(body)
    assert len(answers(await caller.reply())) == 1


async def test_models_that_nobody_has_cost_one_look_a_second(gateway, caller, monkeypatch) -> None:
    asked, ask = [], gateway.inventory._queue.ask_probe

    async def counted(names):
        asked.append(names)
        return await ask(names)

    monkeypatch.setattr(gateway.inventory._queue, "ask_probe", counted)
    monkeypatch.setattr(inventory, "PROBE_WAIT", 3600.0)
    monkeypatch.setattr(inventory, "_PROBE_POLL", 900.0)
    monkeypatch.setattr(inventory.asyncio, "sleep", lambda _: asyncio.tasks.sleep(0))
    found = answers(await caller.post("/jobs/batch", lines(*(CHAT | {"model": f"nope-{n}"} for n in range(100)))))
    assert {one["error"]["code"] for one in found} == {"model_not_found"}
    assert len(found) == 100
    assert 1 <= len(asked) <= batch.AT_ONCE
