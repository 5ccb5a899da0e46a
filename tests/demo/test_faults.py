"""What a test can make the fake do wrong, seen from the wire; and the gates at which it holds a request."""

from __future__ import annotations

import json

import pytest

from foreman.demo.ollama import FakeOllama, Kind
from tests.demo.calls import begin, chat, lines, post, ps


@pytest.fixture
async def fake():
    async with FakeOllama(tokens=8) as fake:
        yield fake


async def test_reset_before_the_first_byte(fake: FakeOllama):
    fake.fault("reset-first")
    with pytest.raises(ConnectionResetError):
        await post(fake, "/api/chat", chat("alpha"))
    assert fake.requests[-1].phase == "cut"
    assert fake.cancels == 0
    assert (await post(fake, "/api/chat", chat("alpha"))).status == 200


@pytest.mark.parametrize("kind", ["reset-mid", "half-line", "close-mid", "garbage"])
async def test_cut_in_the_middle(fake: FakeOllama, kind: str):
    fake.fault(kind, after=3)
    call = await begin(fake, "/api/chat", chat("alpha"))
    try:
        answer = await call.answer()
    except ConnectionResetError:
        assert kind == "reset-mid"
        return
    assert not answer.whole
    assert [chunk.endswith(b"}\n") for chunk in answer.chunks[:3]] == [True] * 3
    rest = b"".join(answer.chunks[3:])
    assert bool(rest) == (kind in {"half-line", "garbage"})
    assert not rest.endswith(b"}\n")


async def test_a_clean_end_without_done(fake: FakeOllama):
    fake.fault("clean-end", after=3)
    answer = await post(fake, "/api/chat", chat("alpha"))
    assert answer.whole
    assert [line["done"] for line in lines(answer)] == [False] * 3


async def test_a_clean_end_without_done_mark_on_v1(fake: FakeOllama):
    fake.fault("clean-end", after=3)
    answer = await post(fake, "/v1/chat/completions", chat("alpha", stream=True))
    assert answer.whole
    assert b"[DONE]" not in answer.body


@pytest.mark.parametrize("path", ["/api/chat", "/v1/chat/completions", "/v1/messages"])
async def test_a_status_in_the_shape_of_the_path(fake: FakeOllama, path: str):
    fake.fault("status", status=503, words="out of paper", retry_after="7")
    answer = await post(fake, path, chat("alpha", max_tokens=5))
    assert answer.status == 503
    assert answer.header("retry-after") == "7"
    body = json.loads(answer.body)
    assert body["error"] == "out of paper" if path == "/api/chat" else body["error"]["message"] == "out of paper"


@pytest.mark.parametrize("kind", ["hang-first", "hang-mid"])
@pytest.mark.parametrize("stream", [True, False])
async def test_hanging_until_the_caller_leaves(fake: FakeOllama, kind: str, stream: bool):
    fake.fault(kind, after=2)
    call = await begin(fake, "/api/chat", chat("alpha", stream=stream))
    await fake.until(lambda _: call.seen.phase == "answering" and call.seen.lines == (2 if kind == "hang-mid" else 0))
    call.leave()
    await fake.until(lambda fake: fake.cancels == 1 and fake.connections == 0)
    assert call.seen.left_in == "answering"
    assert (await post(fake, "/api/chat", chat("alpha"))).status == 200


async def test_a_line_without_an_end(fake: FakeOllama):
    fake.fault("endless-line", after=1, size=1_000_000)
    answer = await post(fake, "/api/chat", chat("alpha"))
    longest = max(answer.body.splitlines(), key=len)
    assert 1_000_000 <= len(longest) <= 1_000_100


@pytest.mark.parametrize("stream", [True, False])
async def test_a_content_length_that_lies(fake: FakeOllama, stream: bool):
    fake.fault("wrong-length")
    answer = await post(fake, "/api/chat", chat("alpha", stream=stream))
    assert not answer.whole
    assert int(answer.header("content-length") or 0) > len(answer.body)


async def test_bytes_that_are_no_http(fake: FakeOllama):
    fake.fault("garbage-http")
    call = await begin(fake, "/api/chat", chat("alpha"))
    data = await call.reader.read()
    assert data
    assert not data.startswith(b"HTTP/")
    call.leave()


async def test_dripping_byte_by_byte(fake: FakeOllama):
    fake.fault("drip", seconds=0.0)
    answer = await post(fake, "/api/chat", chat("alpha"))
    assert {len(chunk) for chunk in answer.chunks} == {1}
    assert lines(answer)[-1]["done"]


async def test_a_load_that_fails(fake: FakeOllama):
    fake.fault("load-fails")
    answer = await post(fake, "/api/generate", {"model": "alpha"})
    assert answer.status == 500
    assert json.loads(answer.body)["error"].startswith("model failed to load")
    assert await ps(fake) == []
    fake.fault("load-fails", status=507, words="no room")
    answer = await post(fake, "/v1/chat/completions", chat("alpha"))
    assert (answer.status, json.loads(answer.body)["error"]["message"]) == (507, "no room")
    assert (await post(fake, "/api/chat", chat("alpha"))).status == 200


async def test_faults_find_their_request(fake: FakeOllama):
    fake.fault(Kind.STATUS, model="beta", status=418)
    fake.fault(Kind.STATUS, path="/v1/chat/completions", status=419)
    fake.fault(Kind.STATUS, path="/api/embed", status=420, times=2)
    assert (await post(fake, "/api/chat", chat("alpha"))).status == 200
    assert (await post(fake, "/api/generate", {"model": "beta"})).status == 200, "a load is no answer"
    assert (await post(fake, "/api/chat", chat("BETA:latest"))).status == 418
    assert (await post(fake, "/v1/chat/completions", chat("alpha"))).status == 419
    statuses = [(await post(fake, "/api/embed", {"model": "alpha", "input": "x"})).status for _ in range(3)]
    assert statuses == [420, 420, 200]
    assert not fake.plan.faults


async def test_a_gate_holds_the_answer_line_by_line(fake: FakeOllama):
    gate = fake.gate(after=2)
    call = await begin(fake, "/api/chat", chat("alpha"))
    await gate.reached()
    assert call.seen.lines == 2
    await gate.release(1)
    await fake.until(lambda _: call.seen.lines == 3)
    assert (await gate.reached()).standing == 1
    await gate.release()
    assert len(lines(await call.answer())) == 9


async def test_a_gate_before_the_first_byte_lets_no_header_through(fake: FakeOllama):
    gate = fake.gate()
    call = await begin(fake, "/v1/chat/completions", chat("alpha"))
    await gate.reached()
    assert call.seen.status is None
    assert call.seen.phase == "answering"
    await gate.release()
    assert (await call.answer()).status == 200


async def test_leaving_at_a_gate_takes_one_away_from_it(fake: FakeOllama):
    gate = fake.gate(after=1)
    call = await begin(fake, "/api/chat", chat("alpha"))
    await gate.reached()
    call.leave()
    await fake.until(lambda fake: fake.cancels == 1)
    assert gate.standing == 0


async def test_clearing_opens_gates_and_forgets(fake: FakeOllama):
    fake.fault("status")
    gate = fake.gate(after=1, model="beta")
    held = fake.gate(after=1, model="alpha")
    fake.plan.faults.clear()
    call = await begin(fake, "/api/chat", chat("alpha"))
    await held.reached()
    fake.clear()
    await call.answer()
    assert (await post(fake, "/api/chat", chat("beta"))).status == 200
    assert gate.standing == 0
    assert fake.ledger.request_count == 1


async def test_waiting_for_what_does_not_come_gives_up(fake: FakeOllama):
    with pytest.raises(TimeoutError):
        await fake.until(lambda fake: fake.cancels, timeout=0.05)
    with pytest.raises(TimeoutError):
        await fake.gate().reached(timeout=0.05)


async def test_what_was_seen_is_what_was_sent(fake: FakeOllama):
    body = b'{ "model":"alpha",\n"messages":[{"role":"user","content":"x"}], "stream":false}'
    from tests.exchange import exchange

    await exchange(fake.url, "POST", "/api/chat?x=1", body, {"X-Odd": "Yes", "Content-Encoding": "gzip"})
    seen = fake.requests_to("/api/chat")[-1]
    assert seen.body == body
    assert (b"X-Odd", b"Yes") in seen.headers
    assert seen.header("x-odd") == "Yes"
    assert seen.path == "/api/chat?x=1"
    assert (seen.model, seen.status, seen.phase) == ("alpha", 200, "done")
    assert fake.tokens == 8
