"""Streams folded: against a real server's own whole answers, against the fake's, and cut at every byte."""

from __future__ import annotations

import json
import re
from typing import Any

import aiohttp
import pytest

from foreman.core.errors import Failure
from foreman.demo.ollama import FakeOllama
from foreman.protocols.fold import Fold
from foreman.protocols.ndjson import Splitter
from tests.demo.recordings import read, shape

LIMIT = 1 << 20
RECORDED = {recording["name"]: recording for recording in read("exchanges.jsonl") if "scenario" not in recording}
STREAMS = [
    name
    for name, recording in RECORDED.items()
    if recording["request"]["path"] in {"/api/chat", "/api/generate"}
    and ["Content-Type", "application/x-ndjson"] in recording["response"]["headers"]
    and recording["response"]["status"] == 200
]
METRICS = re.compile(rb'"(created_at|\w+_duration)":("[^"]*"|\d+)')
SOME = (
    b'{"model":"m","created_at":"t1","message":{"role":"assistant","content":"","thinking":"H\\u003cm"},"done":false}\n'
    b'{"model":"m","created_at":"t2","message":{"role":"assistant","content":"\xc3\x84\\n"},"done":false,'
    b'"logprobs":[{"token":"a","logprob":-1e-7,"bytes":[97]}]}\n'
    b'{"model":"m","created_at":"t3","message":{"role":"assistant","content":"","tool_calls":[{"id":"1","function":'
    b'{"index":0,"name":"f","arguments":{"b":1,"a":2.50}}}]},"done":false}\n'
    b'{"model":"m","created_at":"t4","message":{"role":"assistant","content":"","tool_calls":[{"id":"2"}]},"done":false}\n'
    b'{"model":"m","created_at":"t5","message":{"role":"assistant","content":"!"},"done":true,"done_reason":"stop",'
    b'"total_duration":12345678901234567890,"eval_count":4}\n'
)
SOME_WHOLE = (
    b'{"model":"m","created_at":"t5","message":{"role":"assistant","content":"\xc3\x84\\n!","thinking":"H\\u003cm",'
    b'"tool_calls":[{"id":"1","function":{"index":0,"name":"f","arguments":{"b":1,"a":2.50}}},{"id":"2"}]},'
    b'"done":true,"done_reason":"stop","total_duration":12345678901234567890,"eval_count":4,'
    b'"logprobs":[{"token":"a","logprob":-1e-7,"bytes":[97]}]}'
)


def folded(body: bytes, *cuts: int) -> bytes:
    """The whole of a body that came in pieces."""
    splitter, fold = Splitter(LIMIT), Fold(LIMIT)
    for start, end in zip((0, *cuts), (*cuts, len(body)), strict=True):
        for line in splitter.feed(body[start:end]):
            fold.feed(line)
    if rest := splitter.rest():
        fold.feed(rest)
    return fold.whole()


def body_of(name: str) -> bytes:
    return RECORDED[name]["response"]["body"].encode()


@pytest.mark.parametrize(
    ("streamed", "whole"),
    [
        ("016-chat-stream-true", "018-chat-stream-false"),
        ("015-chat-stream-absent", "026-chat-content-type-form"),
        ("030-generate-stream", "031-generate-stream-false"),
    ],
)
def test_a_real_servers_stream_becomes_its_own_whole_answer(streamed: str, whole: str):
    """The same question, asked with and without a stream: equal but for times."""
    assert METRICS.sub(rb"", folded(body_of(streamed))) == METRICS.sub(rb"", body_of(whole))


@pytest.mark.parametrize("name", STREAMS)
def test_every_recorded_stream_folds_to_its_text_and_its_last_line(name: str):
    lines = [json.loads(line) for line in body_of(name).splitlines()]
    whole = json.loads(folded(body_of(name)))
    assert _text(whole) == "".join(map(_text, lines))
    assert whole.get("logprobs", []) == [item for line in lines for item in line.get("logprobs", [])]
    assert list(whole)[: len(lines[-1])] == list(lines[-1])
    kept = [key for key in lines[-1] if key not in {"message", "response"}]
    assert {key: whole[key] for key in kept} == {key: lines[-1][key] for key in kept}


def test_logprobs_stand_where_a_real_server_puts_them():
    generated = json.loads(body_of("164-logprobs-top-nonstream"))
    whole = json.loads(folded(body_of("163-logprobs-stream")))
    assert list(whole)[-1] == list(generated)[-1] == "logprobs"
    assert shape(whole["logprobs"][0]).items() <= shape(generated["logprobs"][0]).items()


@pytest.mark.parametrize("body", [SOME, SOME[:-1]])
def test_cut_at_every_byte(body: bytes):
    for cut in range(len(body)):
        assert folded(body, cut) == SOME_WHOLE


def test_fed_byte_by_byte():
    assert folded(SOME, *range(1, len(SOME))) == SOME_WHOLE


QUESTIONS: list[tuple[str, dict[str, Any]]] = [
    ("/api/chat", {"messages": [{"role": "user", "content": "hi"}]}),
    ("/api/chat", {"messages": [{"role": "user", "content": "hi"}], "think": True}),
    ("/api/chat", {"messages": [{"role": "user", "content": "hi"}], "options": {"num_predict": 1}}),
    ("/api/chat", {"messages": [{"role": "user", "content": "hi"}], "logprobs": True, "top_logprobs": 2}),
    ("/api/chat", {"messages": [{"role": "user", "content": "hi"}], "format": "json"}),
    ("/api/chat", {"messages": [{"role": "user", "content": "<b> & \u2028"}], "think": True, "logprobs": True}),
    (
        "/api/chat",
        {
            "messages": [{"role": "user", "content": "weather?"}],
            "tools": [
                {"type": "function", "function": {"name": "f", "parameters": {"properties": {"n": {"type": "number"}}}}}
            ],
        },
    ),
    ("/api/generate", {"prompt": "hi"}),
    ("/api/generate", {"prompt": "hi", "think": True, "logprobs": True}),
    ("/api/generate", {"prompt": "hi", "raw": True}),
]


@pytest.mark.parametrize(("path", "question"), QUESTIONS)
async def test_what_the_fake_streams_folds_to_what_it_says_whole(path: str, question: dict[str, Any]):
    """Every kind of answer, from a model that can do everything."""
    async with FakeOllama(["a"], tokens=9) as fake, aiohttp.ClientSession(fake.url) as session:

        async def ask(stream: bool) -> bytes:
            async with session.post(path, json={"model": "a", **question, "stream": stream}) as reply:
                assert reply.status == 200
                return await reply.read()

        assert METRICS.sub(rb"", folded(await ask(stream=True))) == METRICS.sub(rb"", await ask(stream=False))


@pytest.mark.parametrize("line", [b"\xff\xfe garbage\n", b"[1]\n", b'"x"\n', b'{"done":tru}\n', b'{"a":1'])
def test_what_is_no_line_is_refused(line: bytes):
    fold = Fold(LIMIT)
    fold.feed(SOME.splitlines(keepends=True)[0])
    with pytest.raises(Failure, match="the target sent a line") as refused:
        fold.feed(line)
    assert refused.value.code == "upstream_error"


def test_nothing_is_no_answer():
    fold = Fold(LIMIT)
    fold.feed(b"\n")
    with pytest.raises(Failure, match="empty"):
        fold.whole()


def test_the_limit_is_on_the_whole_and_inclusive():
    fold = Fold(len(SOME_WHOLE))
    for line in SOME.splitlines(keepends=True):
        fold.feed(line)
    assert fold.whole() == SOME_WHOLE
    fold = Fold(len(SOME_WHOLE) - 1)
    for line in SOME.splitlines(keepends=True):
        fold.feed(line)
    with pytest.raises(Failure, match="FOREMAN_MAX_ANSWER"):
        fold.whole()


@pytest.mark.parametrize("piece", [b"x", b"x" * 400])
def test_the_limit_counts_what_the_whole_has_however_it_comes(piece: bytes):
    fold = Fold(900)
    for _ in range(800 // len(piece)):
        fold.feed(b'{"message":{"content":"%s"},"done":false}\n' % piece)
    fold.feed(b'{"message":{"content":""},"done":true}\n')
    assert fold.whole() == b'{"message":{"content":"%s"},"done":true}' % (b"x" * 800)


def test_a_long_answer_is_refused_while_it_comes():
    fold = Fold(800)
    line = b'{"message":{"content":"%s"},"done":false}\n' % (b"x" * 100)
    for _ in range(8):
        fold.feed(line)
    with pytest.raises(Failure, match="FOREMAN_MAX_ANSWER"):
        fold.feed(line)


def _text(line: dict[str, Any]) -> str:
    return line.get("response", "") + line.get("message", {}).get("content", "")
