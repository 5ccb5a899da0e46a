"""OpenAI's answers in Ollama's words. Playbooks: events in, lines out, and again with the bytes cut at every position."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foreman.core.errors import Code, Failure
from foreman.protocols import ndjson, sse
from foreman.protocols.native import Shape, timestamp
from foreman.protocols.translate import StreamTranslator, Translated, load_answer, translate_answer, translate_error

SENT = 1_795_244_894.0
CHAT = Translated("/v1/chat/completions", b"", Shape("m:latest", chat=True), stream=True)
GENERATE = Translated("/v1/chat/completions", b"", Shape("m:latest", chat=False), stream=True)


def event(**said: Any) -> bytes:
    return b"data: " + json.dumps(said, ensure_ascii=False).encode() + b"\n\n"


def delta(finish: str | None = None, **said: Any) -> bytes:
    return event(
        id="x",
        object="chat.completion.chunk",
        model="other",
        choices=[{"index": 0, "delta": said, "finish_reason": finish}],
    )


USAGE = event(choices=[], usage={"prompt_tokens": 12, "completion_tokens": 3, "total_tokens": 15})
DONE = b"data: [DONE]\n\n"


def played(asked: Translated, pieces: list[bytes], step: float = 0.5) -> list[dict[str, Any]]:
    """Feed the pieces, one moment apart, through splitter and translator; the lines that come out."""
    splitter = sse.Splitter(1_000_000)
    translator = StreamTranslator(asked, SENT)
    now = SENT
    lines = []
    for piece in pieces:
        now += step
        for unit in splitter.feed(piece):
            lines += translator.feed(unit, now)
    lines += translator.finish(now)
    assert all(line.endswith(b"\n") and line.count(b"\n") == 1 for line in lines)
    return [json.loads(line) for line in lines]


def test_a_streamed_chat() -> None:
    lines = played(
        CHAT,
        [
            delta(role="assistant", content=None),
            delta(content="Hel"),
            delta(content="lo\u2028"),
            delta("stop"),
            USAGE,
            DONE,
        ],
    )
    assert lines == [
        {
            "model": "m:latest",
            "created_at": "2026-11-21T07:08:15Z",
            "message": {"role": "assistant", "content": "Hel"},
            "done": False,
        },
        {
            "model": "m:latest",
            "created_at": "2026-11-21T07:08:15.5Z",
            "message": {"role": "assistant", "content": "lo\u2028"},
            "done": False,
        },
        {
            "model": "m:latest",
            "created_at": "2026-11-21T07:08:17Z",
            "message": {"role": "assistant", "content": ""},
            "done": True,
            "done_reason": "stop",
            "total_duration": 3_000_000_000,
            "load_duration": 0,
            "prompt_eval_count": 12,
            "prompt_eval_duration": 1_000_000_000,
            "eval_count": 3,
            "eval_duration": 2_000_000_000,
        },
    ]
    assert list(lines[-1]) == [
        "model",
        "created_at",
        "message",
        "done",
        "done_reason",
        "total_duration",
        "load_duration",
        "prompt_eval_count",
        "prompt_eval_duration",
        "eval_count",
        "eval_duration",
    ]


def test_a_streamed_generate() -> None:
    lines = played(GENERATE, [delta(content="a"), delta("length", content="b"), DONE])
    assert [(line["response"], line["done"]) for line in lines] == [("a", False), ("b", False), ("", True)]
    assert lines[-1]["done_reason"] == "length"
    assert "message" not in lines[-1]
    assert "eval_count" not in lines[-1]  # nobody told


def test_a_raw_generate_comes_from_completions() -> None:
    pieces = [
        event(choices=[{"text": "a", "index": 0, "finish_reason": None}]),
        event(choices=[{"text": "", "finish_reason": "stop"}]),
        DONE,
    ]
    assert [line["response"] for line in played(GENERATE, pieces)] == ["a", ""]


@pytest.mark.parametrize("word", ["reasoning", "reasoning_content"])
def test_reasoning_is_thinking(word: str) -> None:
    lines = played(CHAT, [delta(**{word: "hm"}), delta(content="a", **{word: "m"}), delta("stop"), DONE])
    assert [line["message"] for line in lines[:2]] == [
        {"role": "assistant", "content": "", "thinking": "hm"},
        {"role": "assistant", "content": "a", "thinking": "m"},
    ]
    assert "thinking" in played(GENERATE, [delta(**{word: "hm"}), delta("stop"), DONE])[0]


def call(
    index: int | None, identity: str | None = None, name: str | None = None, arguments: str | None = None
) -> bytes:
    function = {key: value for key, value in (("name", name), ("arguments", arguments)) if value is not None}
    entry = {key: value for key, value in (("index", index), ("id", identity)) if value is not None}
    return delta(tool_calls=[{**entry, "type": "function", "function": function}])


@pytest.mark.parametrize(
    "pieces",
    [
        [call(0, "a", "f", ""), call(0, None, None, '{"x"'), call(1, "b", "g", "{}"), call(0, None, None, ":1}")],
        [call(0, "a", "f", '{"x":'), call(0, "a", "f", "1}"), call(1, "b", "g")],
        [call(None, "a", "f", '{"x":'), call(None, None, None, "1}"), call(None, "b", "g", "")],
        [call(0, "a", "f", '{"x":1}'), call(0, "b", "g", "{}")],
        [
            delta(
                tool_calls=[
                    {"id": "a", "index": 0, "function": {"name": "f", "arguments": {"x": 1}}},
                    {"id": "b", "index": 1, "function": {"name": "g", "arguments": "{}"}},
                ]
            )
        ],
    ],
)
def test_pieces_of_tool_calls_are_joined_into_one_line(pieces: list[bytes]) -> None:
    lines = played(CHAT, [*pieces, delta("tool_calls"), DONE])
    assert [line["message"].get("tool_calls") for line in lines] == [
        [
            {"id": "a", "function": {"index": 0, "name": "f", "arguments": {"x": 1}}},
            {"id": "b", "function": {"index": 1, "name": "g", "arguments": {}}},
        ],
        None,
    ]
    assert lines[-1]["done_reason"] == "stop"


@pytest.mark.parametrize("arguments", ["{", "[1]", '"x"', "1"])
def test_arguments_that_are_no_object_are_the_targets_fault(arguments: str) -> None:
    with pytest.raises(Failure, match="the tool f with arguments that are no JSON object") as caught:
        played(CHAT, [call(0, "a", "f", arguments), delta("tool_calls"), DONE])
    assert caught.value.code is Code.UPSTREAM_ERROR


def test_tool_calls_without_end_are_cut_off() -> None:
    with pytest.raises(Failure, match="without end"):
        played(CHAT, [call(number, str(number), "f", "{}") for number in range(1100)])
    with pytest.raises(Failure, match="without end"):
        played(CHAT, [call(0, "a", "f", "x" * 900_000)] * 20)


def test_logprobs_of_a_chat() -> None:
    content = [
        {
            "token": "é",
            "logprob": -0.5,
            "bytes": [195, 169],
            "top_logprobs": [{"token": "e", "logprob": -1.5, "bytes": None}],
        }
    ]
    piece = event(choices=[{"delta": {"content": "é"}, "logprobs": {"content": content}}])
    assert played(CHAT, [piece, delta("stop"), DONE])[0]["logprobs"] == [
        {
            "token": "é",
            "logprob": -0.5,
            "bytes": [195, 169],
            "top_logprobs": [{"token": "e", "logprob": -1.5, "bytes": [101]}],
        }
    ]


def test_logprobs_of_a_completion() -> None:
    logprobs = {"tokens": ["a", "b"], "token_logprobs": [-0.5, -1], "top_logprobs": [{"a": -0.5, "c": -2}, None]}
    piece = event(choices=[{"text": "ab", "logprobs": logprobs}])
    assert played(GENERATE, [piece, delta("stop"), DONE])[0]["logprobs"] == [
        {
            "token": "a",
            "logprob": -0.5,
            "bytes": [97],
            "top_logprobs": [
                {"token": "a", "logprob": -0.5, "bytes": [97]},
                {"token": "c", "logprob": -2, "bytes": [99]},
            ],
        },
        {"token": "b", "logprob": -1, "bytes": [98]},
    ]


def test_comments_and_empty_deltas_make_no_line() -> None:
    assert [
        line["done"]
        for line in played(
            CHAT, [b":\n\n", b": ping\n\n", delta(), delta(content=""), delta("stop"), b"event: x\n\n", DONE]
        )
    ] == [True]


def test_a_finish_reason_is_an_end_also_without_done() -> None:
    lines = played(CHAT, [delta(content="a"), delta("stop"), USAGE])
    assert lines[-1]["done"] is True
    assert lines[-1]["eval_count"] == 3


@pytest.mark.parametrize(
    "pieces", [[], [delta(content="a")], [delta(content="a"), DONE], [DONE], [delta(content="a"), USAGE, DONE]]
)
def test_an_answer_without_a_finish_reason_is_cut(pieces: list[bytes]) -> None:
    with pytest.raises(Failure) as caught:
        played(CHAT, pieces)
    assert caught.value.code is Code.UPSTREAM_TRUNCATED


def test_an_error_in_mid_stream_becomes_ollamas_line_and_the_end() -> None:
    translator = StreamTranslator(CHAT, SENT)
    assert translator.feed(event(error={"message": "boom <1>", "type": "x"}), SENT) == [
        b'{"error":"boom \\u003c1\\u003e"}\n'
    ]
    assert translator.error == "boom <1>"
    assert translator.feed(delta(content="a"), SENT) == []
    assert translator.finish(SENT) == []


def test_nothing_comes_after_the_end() -> None:
    translator = StreamTranslator(CHAT, SENT)
    translator.feed(delta("stop"), SENT)
    assert ndjson.ends(translator.feed(DONE, SENT)[-1])
    assert translator.feed(delta(content="late"), SENT) == []
    assert translator.finish(SENT) == []


def test_garbage_is_the_targets_fault() -> None:
    for garbage in (b"data: hello\n\n", b"data: [1]\n\n", b'data: {"a"\n\n'):
        with pytest.raises(Failure) as caught:
            StreamTranslator(CHAT, SENT).feed(garbage, SENT)
        assert caught.value.code is Code.UPSTREAM_ERROR


def test_a_clock_that_steps_back_makes_no_negative_durations() -> None:
    translator = StreamTranslator(CHAT, SENT)
    translator.feed(delta("stop", content="a"), SENT - 5)
    last = json.loads(translator.finish(SENT - 9)[-1])
    assert last["total_duration"] == last["prompt_eval_duration"] == last["eval_duration"] == 0


PLAYBOOK = [
    b": queued\n\n",
    delta(role="assistant", content=None),
    delta(reasoning_content="hm\u2028"),
    delta(content="caf\u00e9 \U0001f600"),
    call(0, "a", "f", '{"x":"\u00e9"'),
    call(0, None, None, "}"),
    delta("tool_calls"),
    USAGE.replace(b"\n\n", b"\r\n\r\n"),
    DONE,
]


def test_the_bytes_may_be_cut_at_every_position() -> None:
    stream = b"".join(PLAYBOOK)
    whole = played(CHAT, [stream], step=1.0)
    assert len(whole) == 4
    for cut in range(1, len(stream)):
        assert played(CHAT, [stream[:cut], stream[cut:]], step=0.0) == played(CHAT, [stream], step=0.0)
    assert played(CHAT, [bytes([byte]) for byte in stream], step=0.0) == played(CHAT, [stream], step=0.0)


def test_a_whole_chat() -> None:
    said = {
        "choices": [
            {
                "message": {
                    "role": "assistant",
                    "content": None,
                    "reasoning_content": "hm",
                    "tool_calls": [{"id": "a", "type": "function", "function": {"name": "f", "arguments": '{"x":1}'}}],
                },
                "finish_reason": "tool_calls",
            }
        ],
        "usage": {"prompt_tokens": 12, "completion_tokens": 3},
    }
    body, usage = translate_answer(CHAT, json.dumps(said).encode(), SENT, SENT + 1.25)
    assert json.loads(body) == {
        "model": "m:latest",
        "created_at": "2026-11-21T07:08:15.25Z",
        "message": {
            "role": "assistant",
            "content": "",
            "thinking": "hm",
            "tool_calls": [{"id": "a", "function": {"index": 0, "name": "f", "arguments": {"x": 1}}}],
        },
        "done": True,
        "done_reason": "stop",
        "total_duration": 1_250_000_000,
        "load_duration": 0,
        "prompt_eval_count": 12,
        "eval_count": 3,
        "eval_duration": 1_250_000_000,
    }
    assert not body.endswith(b"\n")
    assert usage == {"prompt_tokens": 12, "completion_tokens": 3}


def test_a_whole_generate() -> None:
    for choice in (
        {"message": {"content": "hi"}},
        {"text": "hi"},
        {"message": {"content": [{"type": "text", "text": "hi"}]}},
        {"message": {"refusal": "hi"}},
    ):
        body, usage = translate_answer(
            GENERATE, json.dumps({"choices": [{**choice, "finish_reason": "length"}]}).encode(), SENT, SENT
        )
        assert json.loads(body)["response"] == "hi"
        assert json.loads(body)["done_reason"] == "length"
        assert usage == {}


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"<html>", "the target's answer is no JSON"),
        (b"[1]", "the target's answer has no choices"),
        (b'{"choices":[]}', "the target's answer has no choices"),
        (b'{"error":{"message":"boom"}}', "boom"),
        (b"[" * 100_000, "the target's answer is no JSON"),
    ],
)
def test_a_body_that_is_no_answer_is_the_targets_fault(body: bytes, words: str) -> None:
    with pytest.raises(Failure) as caught:
        translate_answer(CHAT, body, SENT, SENT)
    assert (caught.value.code, caught.value.message) == (Code.UPSTREAM_ERROR, words)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b'{"error":{"message":"no such model","type":"x"}}', "no such model"),
        (b'{"error":"no such model"}', "no such model"),
        (b'{"detail":"Not Found"}', "Not Found"),
        (b'{"detail":[{"loc":["body"]}]}', '[{"loc":["body"]}]'),
        (b'{"object":"error","message":"too long"}', "too long"),
        (b"Bad Gateway\n", "Bad Gateway"),
        (b"", "the target answered 500"),
        (b'{"error":{}}', "the target answered 500"),
        (b"x" * 5000, "x" * 2000),
    ],
)
def test_an_error_answer_keeps_its_words(body: bytes, message: str) -> None:
    assert json.loads(translate_error(500, body)) == {"error": message}


def test_calls_that_only_load_are_answered_without_a_target() -> None:
    assert load_answer("/api/chat", "M", unload=False, now=SENT) == (
        b'{"model":"M","created_at":"2026-11-21T07:08:14Z","message":{"role":"assistant","content":""},"done":true,"done_reason":"load"}'
    )
    assert load_answer("/api/generate", "M", unload=True, now=SENT) == (
        b'{"model":"M","created_at":"2026-11-21T07:08:14Z","response":"","done":true,"done_reason":"unload"}'
    )


@pytest.mark.parametrize(
    ("now", "text"),
    [
        (0.0, "1970-01-01T00:00:00Z"),
        (1.5, "1970-01-01T00:00:01.5Z"),
        (10.0, "1970-01-01T00:00:10Z"),
        (100.000001, "1970-01-01T00:01:40.000001Z"),
    ],
)
def test_times_are_written_as_go_writes_them(now: float, text: str) -> None:
    assert timestamp(now) == text


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["index", "id", "function", "name", "arguments", "token", "text", "delta"]),
            inner,
            max_size=3,
        )
    ),
    max_leaves=8,
)
_choice = st.dictionaries(st.sampled_from(["delta", "message", "text", "finish_reason", "logprobs"]), _json)
_delta = st.dictionaries(st.sampled_from(["content", "reasoning", "tool_calls", "refusal"]), _json)


@given(
    st.dictionaries(
        st.sampled_from(["choices", "usage", "error", "model"]),
        _json | st.lists(_choice | _json | st.fixed_dictionaries({"delta": _delta})),
        max_size=4,
    )
)
def test_whatever_json_a_target_sends_it_is_an_answer_or_a_failure(said: dict[str, Any]) -> None:
    body = json.dumps(said).encode()
    translator = StreamTranslator(CHAT, SENT)
    outcomes = (
        lambda: translator.feed(b"data: " + body + b"\n\n", SENT),
        lambda: translator.finish(SENT),
        lambda: translate_answer(CHAT, body, SENT, SENT),
    )
    for outcome in outcomes:
        try:
            outcome()
        except Failure as failure:
            code = failure.code
        else:
            code = Code.UPSTREAM_ERROR
        assert code in {Code.UPSTREAM_ERROR, Code.UPSTREAM_TRUNCATED}
