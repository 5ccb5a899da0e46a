"""Streams on `/v1` folded: what comes of them is what a call without `stream` is answered with."""

from __future__ import annotations

import base64
import functools
import json

import pytest

from foreman.demo.ollama import FakeOllama
from foreman.protocols import fold_events, sse
from tests.clients.cases import ASK, TOOLS
from tests.exchange import exchange

USAGE = {"stream_options": {"include_usage": True}}
CASES = {
    "chat": ("/v1/chat/completions", {"messages": ASK, **USAGE}),
    "chat tools": ("/v1/chat/completions", {"messages": ASK, "tools": TOOLS, **USAGE}),
    "chat thinking": ("/v1/chat/completions", {"messages": ASK, "reasoning_effort": "low", **USAGE}),
    "chat logprobs": ("/v1/chat/completions", {"messages": ASK, "logprobs": True, **USAGE}),
    "completions": ("/v1/completions", {"prompt": "Once", **USAGE}),
    "responses": ("/v1/responses", {"input": "Once"}),
    "responses tools": ("/v1/responses", {"input": "Once", "tools": [{"type": "function", "name": "weather"}]}),
    "messages": ("/v1/messages", {"messages": ASK, "max_tokens": 50}),
    "messages thinking": ("/v1/messages", {"messages": ASK, "max_tokens": 50, "thinking": {"type": "enabled"}}),
    "messages tools": (
        *("/v1/messages",),
        {"messages": ASK, "max_tokens": 50, "tools": [{"name": "weather", "input_schema": {"type": "object"}}]},
    ),
}


DEEP = functools.reduce(lambda inside, _: {"x": inside}, range(700), {})


def events_of(body: bytes) -> list[bytes]:
    return sse.Splitter(1 << 20).feed(body)


@pytest.mark.parametrize("name", CASES)
async def test_a_folded_stream_is_the_answer_without_stream(name):
    path, asked = CASES[name]
    async with FakeOllama(["alpha"], tokens=4, repeatable=True) as fake:
        answers = []
        for stream in (True, False):
            body = {"model": "alpha", "stream": stream, **asked}
            if not stream:
                body.pop("stream_options", None)
            answers.append((await exchange(fake.url, "POST", path, json.dumps(body).encode())).body)
    streamed, whole = answers
    folded = fold_events.whole(path, events_of(streamed))
    assert folded is not None
    assert _stable(json.loads(folded)) == _stable(json.loads(whole))
    assert folded.endswith(b"}\n")


def _stable(value):
    """Without what no two answers share."""
    if isinstance(value, dict):
        return {
            name: _stable(one) for name, one in value.items() if name not in {"id", "call_id"} and "created" not in name
        }
    return [_stable(one) for one in value] if isinstance(value, list) else value


def test_fragments_of_arguments_and_several_choices():
    chunks = [
        {"index": 1, "delta": {"role": "assistant", "content": "b"}, "finish_reason": None},
        {"index": 0, "delta": {"role": "assistant", "content": None}, "finish_reason": None},
        {"index": 0, "delta": {"tool_calls": [{"index": 0, "id": "c1", "type": "function", "function": {"name": "f", "arguments": ""}}]}},
        {"index": 0, "delta": {"tool_calls": [{"index": 0, "id": "", "type": "function", "function": {"name": "", "arguments": '{"a"'}}]}},
        {"index": 0, "delta": {"tool_calls": [{"index": 0, "function": {"arguments": ":1}"}}, {"index": 1, "id": "c2", "function": {"name": "g"}}]}},
        {"index": 0, "delta": {}, "finish_reason": "tool_calls"},
        {"index": 1, "delta": {"content": "c"}, "finish_reason": "stop"},
    ]  # fmt: skip
    said = [{"id": "x", "object": "chat.completion.chunk", "choices": [chunk]} for chunk in chunks]
    found = json.loads(fold_events.whole("/v1/chat/completions", map(_event, said)) or b"")
    first, second = found["choices"]
    assert found["object"] == "chat.completion"
    assert first["finish_reason"] == "tool_calls"
    assert first["message"]["content"] is None
    assert [(one["id"], one["function"]) for one in first["message"]["tool_calls"]] == [
        ("c1", {"name": "f", "arguments": '{"a":1}'}),
        ("c2", {"name": "g"}),
    ]
    assert (second["message"]["content"], second["finish_reason"]) == ("bc", "stop")


def test_a_character_whose_halves_come_apart():
    halves = ["\ud83d", "\ude00", "\ud83d"]
    said = [
        {"object": "chat.completion.chunk", "choices": [{"index": 0, "delta": {"content": half}}]} for half in halves
    ]
    found = json.loads(fold_events.whole("/v1/chat/completions", map(_event, said)) or b"")
    assert found["choices"][0]["message"]["content"] == "\U0001f600\ufffd"


@pytest.mark.parametrize(
    ("pieces", "whole"),
    [(["AAEC", "AwQF"], b"\0\1\2\3\4\5"), (["AA==", "AQI=", "AwQF"], b"\0\1\2\3\4\5"), (["AAE", "CAw=="], b"\0\1\2\3")],
)
def test_an_answer_that_speaks(pieces: list[str], whole: bytes):
    deltas = [{"audio": {"id": "a1", "transcript": "Hel"}}, {"audio": {"transcript": "lo"}}]
    deltas += [{"audio": {"data": piece}} for piece in pieces] + [{"audio": {"expires_at": 7}}]
    said = [{"object": "chat.completion.chunk", "choices": [{"index": 0, "delta": delta}]} for delta in deltas]
    found = json.loads(fold_events.whole("/v1/chat/completions", map(_event, said)) or b"")
    audio = found["choices"][0]["message"]["audio"]
    assert base64.b64decode(audio.pop("data"), validate=True) == whole
    assert audio == {"id": "a1", "transcript": "Hello", "expires_at": 7}


def test_what_a_message_cites():
    said = [
        {"type": "message_start", "message": {"id": "m", "content": []}},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": "", "citations": None}},
        *({"type": "content_block_delta", "index": 0, "delta": {"type": "citations_delta", "citation": {"at": at}}} for at in (1, 2)),
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "so"}},
    ]  # fmt: skip
    found = json.loads(fold_events.whole("/v1/messages", map(_event, said)) or b"")
    assert found["content"] == [{"type": "text", "text": "so", "citations": [{"at": 1}, {"at": 2}]}]


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("/v1/chat/completions", {"choices": 7, "object": "x"}),
        ("/v1/chat/completions", {"choices": [{"delta": {}}], "object": "x"}),
        ("/v1/messages", {"type": "content_block_delta", "index": 0, "delta": {"type": "new_delta"}}),
        ("/v1/messages", {"type": "ping"}),
        ("/v1/responses", {"type": "response.output_text.delta", "delta": "x"}),
        ("/v1/somewhere", {"type": "x"}),
        ("/v1/chat/completions", {"choices": [], "object": "x", "usage": {"cost": float("nan")}}),
        ("/v1/chat/completions", {"choices": [{"index": 0, "delta": DEEP}], "object": "x"}),
    ],
)
def test_what_is_of_another_shape_is_not_folded(path, said):
    assert fold_events.whole(path, [_event(said)]) is None
    assert fold_events.whole(path, []) is None


def test_a_message_that_failed_is_not_folded():
    said = {"type": "message_start", "message": {"id": "m"}}, {"type": "error", "error": {"message": "overloaded"}}
    assert fold_events.whole("/v1/messages", map(_event, said[:1])) is not None
    assert fold_events.whole("/v1/messages", map(_event, said)) is None


def _event(said: dict) -> bytes:
    return b"data: " + json.dumps(said).encode() + b"\n\n"
