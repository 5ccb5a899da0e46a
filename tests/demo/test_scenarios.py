"""The fake behaves: the recorded scenarios of several requests, replayed; what each shows is held against the recording."""

from __future__ import annotations

import datetime as dt
import json
import math
from typing import Any

import pytest

from tests.demo.calls import begin, chat, lines, post, ps
from tests.demo.recordings import compare, read, recorded_server, request_bytes, send

SCENARIOS = {row["name"][:3]: row["exchanges"] for row in read("scenarios.jsonl")}
LOADED = 200_000_000
"""ns of a recorded load_duration above which the runner was loaded anew (quiet machine, one request at a time)."""


def _last(body: str) -> dict[str, Any]:
    return json.loads(body.strip().splitlines()[-1])


def _moment(text: str) -> float:
    head, _, rest = text.rstrip("Z").partition(".")
    whole = dt.datetime.fromisoformat(head).replace(tzinfo=dt.UTC).timestamp()
    return whole + float(f"0.{rest or 0}")


async def _replay(fake, row: dict[str, Any]):
    return await send(fake, request_bytes(row["request"], fake.url.removeprefix("http://")))


async def test_keep_alive_in_all_its_spellings():
    """060: a load, then what /api/ps says of its end; a refused one changes nothing, null keeps what was."""
    async with recorded_server() as fake:
        told, said = 0.0, 0.0
        for row in SCENARIOS["060"]:
            answer = await _replay(fake, row)
            recorded = row["response"]
            assert not compare(recorded, answer).found, row["label"]
            if row["request"]["path"] == "/api/generate" and answer.status == 200:
                told, said = (
                    _moment(json.loads(recorded["body"])["created_at"]),
                    _moment(json.loads(answer.body)["created_at"]),
                )
            for theirs, ours in zip(
                json.loads(recorded["body"]).get("models", []), json.loads(answer.body).get("models", []), strict=True
            ):
                stays = _moment(theirs["expires_at"]) - told
                assert math.isclose(_moment(ours["expires_at"]) - said, stays, abs_tol=1.0), row["label"]


async def test_keep_alive_zero_with_messages_answers_and_goes():
    """061."""
    async with recorded_server() as fake:
        for row in SCENARIOS["061"][:2]:
            assert not compare(row["response"], await _replay(fake, row)).found


@pytest.mark.parametrize("number", ["250", "251", "255"])
async def test_loads_where_the_recorded_server_loads(number: str):
    """250: which options reload; 251: names of one digest share a runner; 255: two models, room for one."""
    async with recorded_server(max_loaded=1 if number == "255" else 3) as fake:
        for row in SCENARIOS[number]:
            before = len(fake.loads)
            answer = await _replay(fake, row)
            assert answer.status == row["response"]["status"]
            if row["request"]["path"] == "/api/ps":
                assert sorted(model["name"] for model in json.loads(answer.body)["models"]) == sorted(
                    model["name"] for model in json.loads(row["response"]["body"])["models"]
                )
            elif "load_duration" in (told := _last(row["response"]["body"])):
                assert (len(fake.loads) > before) == (told["load_duration"] > LOADED), row["label"]


async def test_nothing_is_listed_while_it_loads():
    """254, 252."""
    async with recorded_server() as fake:
        gate = fake.gate(at="load")
        call = await begin(fake, "/api/chat", chat("smollm2:135m"))
        await gate.reached()
        assert await ps(fake) == []
        await gate.release()
        await call.answer()
        assert [model["name"] for model in await ps(fake)] == ["smollm2:135m"]


async def test_a_caller_who_leaves_stops_the_load_it_asked_for():
    """253."""
    async with recorded_server() as fake:
        gate = fake.gate(at="load")
        first = await begin(fake, "/api/chat", chat("smollm2:135m"))
        await gate.reached()
        first.leave()
        await fake.until(lambda fake: fake.ledger.loads_stopped == 1)
        assert fake.residents == []
        assert (await post(fake, "/api/chat", chat("smollm2:135m"))).status == 200
        assert len(fake.loads) == 2


async def test_one_answer_at_a_time():
    """245, 246: the others get no byte before it has ended; one who leaves while waiting never reaches the runner."""
    async with recorded_server() as fake:
        gate = fake.gate(after=1)
        first = await begin(fake, "/api/chat", chat("smollm2:135m", "a"))
        await gate.reached()
        second = await begin(fake, "/api/chat", chat("smollm2:135m", "b"))
        third = await begin(fake, "/api/chat", chat("smollm2:135m", "c"))
        await fake.until(lambda _: second.seen.phase == third.seen.phase == "waiting")
        second.leave()
        await fake.until(lambda _: second.seen.phase == "cancelled")
        await gate.release()
        for call in (first, third):
            assert lines(await call.answer())[-1]["done"]
        assert second.seen.lines == 0
        assert second.seen.left_in == "waiting"


async def test_slots_run_side_by_side():
    """247."""
    async with recorded_server(slots=4) as fake:
        gate = fake.gate(after=1, times=3)
        calls = [await begin(fake, "/api/chat", chat("smollm2:135m", text)) for text in "abc"]
        await fake.until(lambda _: gate.standing == 3)
        await gate.release()
        for call in calls:
            assert (await call.answer()).status == 200


async def test_a_swap_waits_for_the_running_request():
    """256."""
    async with recorded_server(max_loaded=1) as fake:
        gate = fake.gate(after=1, model="smollm2:135m")
        first = await begin(fake, "/api/chat", chat("smollm2:135m"))
        await gate.reached()
        other = await begin(fake, "/api/chat", chat("second"))
        await fake.until(lambda _: other.seen.phase == "queued")
        assert fake.residents == ["smollm2:135m"]
        await gate.release()
        await first.answer()
        assert (await other.answer()).status == 200
        assert [load.model for load in fake.loads] == ["smollm2:135m", "second:latest"]
        assert fake.residents == ["second:latest"]


async def test_later_calls_for_the_resident_model_overtake():
    """257: eight of them are answered before the one that waits for the other model."""
    async with recorded_server(max_loaded=1) as fake:
        gate = fake.gate(after=1, model="smollm2:135m")
        first = await begin(fake, "/api/chat", chat("smollm2:135m"))
        await gate.reached()
        other = await begin(fake, "/api/chat", chat("second"))
        later = [await begin(fake, "/api/chat", chat("smollm2:135m", str(number))) for number in range(8)]
        await gate.release()
        for call in (first, *later):
            await call.answer()
            assert other.seen.lines == 0
        assert (await other.answer()).status == 200


async def test_a_call_with_keep_alive_undoes_an_eviction():
    """258, ollama#17408: the other model, and a third, hang until that keep_alive has run out, though nobody answers."""
    async with recorded_server(max_loaded=1) as fake:
        gate = fake.gate(after=1, model="smollm2:135m")
        running = await begin(fake, "/api/chat", chat("smollm2:135m"))
        await gate.reached()
        other = await begin(fake, "/api/chat", chat("second"))
        reviver = await begin(fake, "/api/chat", chat("smollm2:135m", keep_alive="300ms"))
        await gate.release()
        await running.answer()
        await reviver.answer()
        third = await begin(fake, "/api/chat", chat("third"))
        assert fake.residents == ["smollm2:135m"]
        assert other.seen.phase == third.seen.phase == "queued"
        assert fake.answering == 0
        for call in (other, third):
            assert (await call.answer()).status == 200
        waited = fake.loads[1].at - reviver.seen.at
        assert waited >= 0.3


async def test_an_unload_lets_the_running_answer_end():
    """259: it is answered at once, the stream goes on, then the runner goes."""
    async with recorded_server(max_loaded=1) as fake:
        gate = fake.gate(after=1)
        running = await begin(fake, "/api/chat", chat("smollm2:135m"))
        await gate.reached()
        unload = await post(fake, "/api/generate", {"model": "smollm2:135m", "keep_alive": 0})
        assert not compare(SCENARIOS["259"][1]["response"], unload).found
        assert len(await ps(fake)) == 1
        await gate.release()
        assert lines(await running.answer())[-1]["done"]
        assert await ps(fake) == []


async def test_the_queue_is_full_in_every_dialect():
    """262: one in the scheduler's hand, one in the queue; the loaded model is never refused."""
    rows = SCENARIOS["262"]
    async with recorded_server(max_loaded=1, max_queue=1) as fake:
        gate = fake.gate(after=1, model="smollm2:135m")
        running = await begin(fake, "/api/chat", chat("smollm2:135m"))
        await gate.reached()
        waiting = [await begin(fake, "/api/chat", chat("second")) for _ in range(2)]
        await fake.until(lambda _: all(call.seen.phase == "queued" for call in waiting))
        refused = [row for row in rows if row["response"]["status"] == 503]
        assert len(refused) == 7
        for row in refused:
            assert not compare(row["response"], await _replay(fake, row)).found, row["label"]
        same = await begin(fake, "/api/chat", chat("smollm2:135m"))
        await gate.release()
        for call in (running, same, *waiting):
            assert (await call.answer()).status == 200


KILLED = [row for row in SCENARIOS["265"] if "killed" in row["label"]]


@pytest.mark.parametrize("row", KILLED, ids=[row["label"].partition(":")[0] for row in KILLED])
async def test_a_runner_that_dies_in_the_middle(row: dict[str, Any]):
    """265: /api says so in a line, /v1 loses it; the body ends properly; the next request loads anew."""
    async with recorded_server() as fake:
        fake.fault("error-line", after=5)
        answer = await _replay(fake, row)
        recorded = row["response"]
        assert answer.status == recorded["status"]
        assert answer.whole
        last = recorded["body"].strip().rpartition("\n\n")[2].rpartition("\n")[2]
        said = answer.body.decode().strip().rpartition("\n\n")[2].rpartition("\n")[2]
        if '"error"' in last:
            assert said == last
        elif '"model":""' in last:
            assert '"model":""' in said
        assert ("[DONE]" in answer.body.decode()) == ("[DONE]" in recorded["body"])
        assert "completed" not in said
        assert "message_stop" not in said
        assert (await post(fake, "/api/chat", chat("smollm2:135m"))).status == 200
        assert len(fake.loads) == 2


async def test_a_stopped_server_cuts_the_socket():
    """266: no final chunk; an answer in one piece gets no byte. It comes back on the same port with nothing loaded."""
    async with recorded_server(slots=2) as fake:
        gate = fake.gate(after=2, times=2)
        stream = await begin(fake, "/api/chat", chat("smollm2:135m"))
        whole = await begin(fake, "/api/chat", chat("smollm2:135m", stream=False))
        await fake.until(lambda _: gate.standing == 2)
        url = fake.url
        await fake.stop()
        cut = await stream.answer()
        assert not cut.whole
        assert len(cut.chunks) == 2
        with pytest.raises((EOFError, ConnectionError)):
            await whole.answer()
        await fake.start()
        assert fake.url == url
        assert await ps(fake) == []
        assert (await post(fake, "/api/chat", chat("smollm2:135m"))).status == 200


async def test_leaving_in_the_prefill_keeps_the_slot_until_it_is_over():
    """240, 241."""
    async with recorded_server(prefill_seconds=0.4) as fake:
        first = await begin(fake, "/api/chat", chat("smollm2:135m"))
        await fake.until(lambda _: first.seen.phase == "prefill")
        first.leave()
        await fake.until(lambda _: first.seen.phase == "cancelled")
        fake.pace.prefill_seconds = 0.0
        second = await begin(fake, "/api/chat", chat("smollm2:135m"))
        assert second.seen.phase == "waiting"
        assert (await second.answer()).status == 200
        assert second.seen.phase_at["answering"] - first.seen.phase_at["prefill"] >= 0.4


async def test_leaving_in_the_answer_frees_the_slot_at_once():
    """240: streaming or not."""
    async with recorded_server(token_seconds=5.0) as fake:
        for stream in (True, False):
            first = await begin(fake, "/api/chat", chat("smollm2:135m", stream=stream))
            await fake.until(lambda _, first=first: first.seen.phase == "answering")
            first.leave()
            second = await begin(fake, "/api/chat", chat("smollm2:135m", options={"num_predict": 1}))
            assert (await second.answer()).status == 200
        assert fake.cancels == 2


async def test_expires_at_stands_still_while_a_request_runs():
    """272, 273."""
    async with recorded_server() as fake:
        await post(fake, "/api/generate", {"model": "smollm2:135m", "keep_alive": "10m"})
        (before,) = await ps(fake)
        gate = fake.gate(after=1)
        call = await begin(fake, "/api/chat", chat("smollm2:135m"))
        await gate.reached()
        (during,) = await ps(fake)
        assert during["expires_at"] == before["expires_at"]
        await gate.release()
        await call.answer()
        (after,) = await ps(fake)
        assert _moment(after["expires_at"]) > _moment(before["expires_at"])
        await post(fake, "/api/generate", {"model": "smollm2:135m", "keep_alive": "20ms"})
        await fake.until(lambda fake: fake.residents == [])
        assert [unload.model for unload in fake.unloads] == ["smollm2:135m"]
