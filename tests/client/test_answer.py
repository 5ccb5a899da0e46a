"""Reader and accumulator: every stream of every dialect, cut at each byte, adds up to the same; one parse per tool call."""

from __future__ import annotations

import asyncio
import json
import logging
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from foreman.client.answer import Answer
from foreman.client.reader import Chunk, Reader, State
from tests.client.streams import ALL, ARGUMENTS, TOOLS, Stream
from tests.needs import needs

ROOT = Path(__file__).parent.parent.parent


def fed(stream: Stream, *pieces: bytes) -> dict[str, Any]:
    """What the pieces of a stream add up to."""
    reader, answer, offsets = Reader(events=stream.events), Answer(), []
    for piece in pieces:
        for item in reader.feed(piece):
            if isinstance(item, Chunk):
                answer.add(item.value, len(offsets))
                offsets.append(item.offset)
    assert reader.rest() == []
    return {
        "text": answer.text,
        "thinking": answer.thinking,
        "calls": [{"id": call.id, "name": call.name, "arguments": call.arguments} for call in answer.calls],
        "usage": [answer.prompt_tokens, answer.completion_tokens],
        "finish": answer.finish,
        "parses": answer.parses,
        "offsets": offsets,
    }


@pytest.mark.parametrize("stream", ALL, ids=lambda stream: stream.name)
def test_cut_at_each_byte_it_adds_up_to_the_same(stream: Stream):
    body = stream.body
    whole = fed(stream, body)
    assert whole["text"] or whole["calls"] or whole["finish"] or b"error" in body
    assert whole["parses"] == len(whole["calls"]) == stream.calls
    for at in range(1, len(body)):
        assert fed(stream, body[:at], body[at:]) == whole
    assert fed(stream, *(body[at : at + 1] for at in range(len(body)))) == whole


@needs("node")
async def test_the_browsers_client_adds_up_to_the_same_wherever_it_is_cut(tmp_path: Path):
    told = {stream.name: fed(stream, stream.body) for stream in ALL}
    streams = [{**asdict(stream), "body": stream.body.decode(), "expected": told[stream.name]} for stream in ALL]
    (tmp_path / "streams.json").write_text(json.dumps(streams))
    process = await asyncio.create_subprocess_exec(
        *("node", str(ROOT / "tests" / "client" / "node" / "recut.mjs")),
        *(str(ROOT / "foreman" / "web" / "dashboard" / "foreman-client.js"), str(tmp_path / "streams.json")),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    out, _ = await asyncio.wait_for(process.communicate(), 50)
    assert process.returncode == 0, out.decode()
    assert out.decode().strip() == f"{len(streams)} streams"


@pytest.mark.parametrize("stream", TOOLS, ids=lambda stream: stream.name)
def test_a_call_is_parsed_once_at_its_end_mark_and_a_log_event_says_so(
    stream: Stream, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    parsed: list[str] = []
    loads = json.loads
    monkeypatch.setattr("foreman.client.answer.json.loads", lambda text: parsed.append(text) or loads(text))
    reader, answer = Reader(events=stream.events), Answer()
    items = [item for item in reader.feed(stream.body) if isinstance(item, Chunk)]
    with caplog.at_level(logging.INFO, "foreman.client.answer"):
        del parsed[:]  # the reader's own
        for item in items:
            answer.add(item.value)
    assert answer.calls[0].arguments == ARGUMENTS
    marks = {
        "openai-tools": "finish_reason",
        "anthropic-tools": "content_block_stop",
        "native-tools": "done",
        "responses-tools": "response.function_call_arguments.done",
    }
    events = [record.getMessage() for record in caplog.records]
    assert len(events) == stream.calls
    assert all(event.startswith("tool_call.parsed id=c") for event in events)
    assert all(f"mark={marks[stream.name]} " in event for event in events)
    assert len(parsed) == (0 if stream.name == "native-tools" else stream.calls), "Ollama's come as objects"


def test_arguments_that_are_no_json_are_kept_as_they_came():
    answer = Answer()
    for delta in ({"tool_calls": [{"index": 0, "id": "c", "function": {"name": "f", "arguments": '{"a": '}}]}, {}):
        answer.add({"choices": [{"delta": delta, "finish_reason": None if delta else "length"}]})
    (call,) = answer.calls
    assert call.arguments == '{"a": '
    assert call.error


def test_arguments_that_never_end_are_never_parsed():
    answer = Answer()
    answer.add({"choices": [{"delta": {"tool_calls": [{"index": 0, "function": {"arguments": "{"}}]}}]})
    assert (answer.calls, answer.parses) == ([], 0)


def test_empty_arguments_are_an_empty_object():
    answer = Answer()
    answer.add(
        {"type": "content_block_start", "index": 0, "content_block": {"type": "tool_use", "id": "c", "name": "f"}}
    )
    answer.add({"type": "content_block_delta", "index": 0, "delta": {"type": "input_json_delta", "partial_json": ""}})
    delta = answer.add({"type": "content_block_stop", "index": 0})
    assert [(call.name, call.arguments, call.error) for call in delta.calls] == [("f", {}, None)]


@pytest.mark.parametrize(
    "whole",
    [
        {
            "message": {"content": "hi", "tool_calls": [{"function": {"name": "f", "arguments": {"a": 1}}}]},
            "done": True,
        },
        {
            "choices": [
                {
                    "message": {"content": "hi", "tool_calls": [{"function": {"name": "f", "arguments": '{"a": 1}'}}]},
                    "finish_reason": "stop",
                }
            ]
        },
        {
            "type": "message",
            "content": [{"type": "text", "text": "hi"}, {"type": "tool_use", "name": "f", "input": {"a": 1}}],
        },
    ],
    ids=["native", "openai", "anthropic"],
)
def test_an_answer_that_came_whole_adds_up_too(whole: dict[str, Any]):
    answer = Answer()
    answer.add(whole)
    assert answer.text == "hi"
    assert [(call.name, call.arguments) for call in answer.calls] == [("f", {"a": 1})]


def test_the_times_of_an_answer():
    answer = Answer(sent_at=10.0)
    for at, text in enumerate(("", "a", "b", "c")):
        answer.add({"message": {"content": text}, "done": False}, 11.0 + at / 10)
    answer.add({"message": {"content": ""}, "done": True, "eval_count": 5}, 20.0)
    assert answer.ttft == pytest.approx(1.1)
    assert answer.tpot == pytest.approx(0.2 / 4)
    assert answer.tokens == 5


def test_no_token_has_no_times():
    answer = Answer(sent_at=10.0)
    answer.add({"message": {"content": ""}, "done": True}, 11.0)
    assert (answer.ttft, answer.tpot, answer.tokens) == (None, None, 0)


HEARTBEATS = b": queued position=3 eta=41s\n: loading elapsed=7s eta=4s\n: working elapsed=12s\n: waiting target=gpu1 down_for=12s\n"


def test_heartbeats_tell_states_and_are_no_part_of_the_answer():
    reader = Reader(events=True)
    assert reader.feed(HEARTBEATS) == [
        State("queued", position=3, eta=41.0),
        State("loading", elapsed=7.0, eta=4.0),
        State("working", elapsed=12.0),
        State("waiting", target="gpu1", down_for=12.0),
    ]
    first = b'data: {"a":1}\n\n'
    assert reader.feed(first + b": working elapsed=1s\n" + first) == [
        Chunk({"a": 1}, len(first)),
        State("working", elapsed=1.0),
        Chunk({"a": 1}, 2 * len(first)),
    ]


def test_a_targets_own_comments_are_part_of_the_answer():
    reader = Reader(events=True)
    (chunk,) = reader.feed(b":\n\n: ping\n\ndata: {}\n\n")
    assert isinstance(chunk, Chunk)
    assert chunk.offset == len(b":\n\n: ping\n\ndata: {}\n\n")


def test_spaces_of_heartbeats_are_no_part_of_the_answer():
    reader = Reader(events=False)
    assert reader.feed(b"   ") == []
    assert reader.feed(b' {"a":1}\n  {"b":2}\n') == [Chunk({"a": 1}, 8), Chunk({"b": 2}, 16)]


def test_half_a_chunk_at_the_end_is_none():
    for events, text in ((False, b'{"a":1'), (True, b'data: {"a":1')):
        reader = Reader(events=events)
        assert reader.feed(text) == []
        assert reader.rest() == []
        assert reader.offset == 0


@pytest.mark.parametrize(
    ("state", "words"),
    [
        (State("queued", position=3, eta=41.0), "queued, position 3, about 41 s to go"),
        (State("waiting", target="gpu1", down_for=12.4), "waiting for gpu1, down for 12 s"),
        (State("loading", elapsed=7.0), "loading, 7 s"),
    ],
)
def test_a_state_in_words(state: State, words: str):
    assert str(state) == words
