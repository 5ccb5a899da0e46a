"""Errors and ends in the dialect of the path, against what a real Ollama (0.24) said."""

from __future__ import annotations

import json

import pytest

from foreman.core.errors import Code
from foreman.protocols import anthropic, openai, sse, words

JSON, JSON_UTF8 = "application/json", "application/json; charset=utf-8"


@pytest.mark.parametrize(
    ("path", "status", "message", "code", "body", "kind"),
    [
        (
            "/api/chat",
            404,
            "model 'nope' not found",
            Code.MODEL_NOT_FOUND,
            '{"error":"model \'nope\' not found"}',
            JSON_UTF8,
        ),
        (
            "/v1/chat/completions",
            404,
            "model 'nope' not found",
            Code.MODEL_NOT_FOUND,
            '{"error":{"message":"model \'nope\' not found","type":"not_found_error","param":null,"code":null}}\n',
            JSON,
        ),
        (
            "/v1/chat/completions",
            400,
            "model is required",
            Code.BAD_REQUEST,
            '{"error":{"message":"model is required","type":"invalid_request_error","param":null,"code":null}}\n',
            JSON,
        ),
        (
            "/v1/chat/completions",
            400,
            "EOF",
            Code.BAD_REQUEST,
            '{"error":{"message":"EOF","type":"invalid_request_error","param":null,"code":null}}',
            JSON_UTF8,
        ),
        (
            "/v1/completions",
            503,
            words.QUEUE_FULL,
            Code.QUEUE_FULL,
            '{"error":{"message":"server busy, please try again.  maximum pending requests exceeded","type":"api_error","param":null,"code":null}}\n',
            JSON,
        ),
        (
            "/v1/messages",
            404,
            "model 'nope' not found",
            Code.MODEL_NOT_FOUND,
            '{"type":"error","error":{"type":"not_found_error","message":"model \'nope\' not found"},"request_id":"req_1"}\n',
            JSON,
        ),
        (
            "/v1/messages",
            400,
            "model is required",
            Code.BAD_REQUEST,
            '{"type":"error","error":{"type":"invalid_request_error","message":"model is required"},"request_id":"req_1"}',
            JSON_UTF8,
        ),
        (
            "/v1/messages",
            503,
            words.QUEUE_FULL,
            Code.QUEUE_FULL,
            '{"type":"error","error":{"type":"overloaded_error","message":"server busy, please try again.  maximum pending requests exceeded"},"request_id":"req_1"}\n',
            JSON,
        ),
    ],
)
def test_a_refusal_looks_as_ollamas_own(path: str, status: int, message: str, code: Code, body: str, kind: str) -> None:
    assert words.error_body(path, status, message, code, "req_1") == (body.encode(), kind)


def test_each_anthropic_error_has_an_id_of_its_own() -> None:
    first, second = (
        json.loads(words.error_body("/v1/messages", 400, "x", Code.BAD_REQUEST)[0])["request_id"] for _ in range(2)
    )
    assert first != second
    assert len(first) == len("req_") + 24


def test_errors_in_a_stream() -> None:
    said = "the worker was lost"
    assert words.stream_error("/api/chat", False, said, Code.INTERRUPTED) == b'{"error":"the worker was lost"}\n'
    event = (
        b'data: {"error":{"message":"the worker was lost","type":"api_error","param":null,"code":"interrupted"}}\n\n'
    )
    assert words.stream_error("/api/chat", True, said, Code.INTERRUPTED) == event
    assert words.stream_error("/v1/chat/completions", False, said, Code.INTERRUPTED) == event
    assert words.stream_error("/v1/messages", True, said, Code.INTERRUPTED, "req_1") == (
        b'event: error\ndata: {"type":"error","error":{"type":"api_error","message":"the worker was lost"},"request_id":"req_1"}\n\n'
    )
    name, data = sse.fields(words.stream_error("/v1/responses", True, said, Code.INTERRUPTED))
    assert name == "error"
    assert json.loads(data) == {
        "type": "error",
        "code": "interrupted",
        "message": said,
        "param": None,
        "sequence_number": 0,
        "error": {"message": said, "type": "api_error", "param": None, "code": "interrupted"},
    }


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/responses", "/v1/messages", "/api/chat"])
def test_an_error_event_is_recognised_by_its_own_dialect(path: str) -> None:
    event = words.stream_error(path, True, "gone <&> \u2028", Code.STALLED)
    dialect = anthropic if path == "/v1/messages" else openai
    assert dialect.error_in(event) == "gone <&> \u2028"
    assert event.endswith(b"\n\n")
    assert event.count(b"\n\n") == 1


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("/api/chat", "model 'nope' not found"),
        ("/api/show", "model 'nope' not found"),
        ("/v1/completions", "model 'nope' not found"),
        ("/api/embed", 'model "nope" not found, try pulling it first'),
        ("/v1/embeddings", 'model "nope" not found, try pulling it first'),
    ],
)
def test_an_unknown_model_in_the_words_of_its_path(path: str, message: str) -> None:
    assert words.not_found_message(path, "nope") == message


def test_wrong_methods_name_the_right_ones_as_gin_does() -> None:
    assert words.ALLOW["/api/tags"] == "HEAD, GET"
    assert words.ALLOW["/api/ps"] == "GET"
    assert words.ALLOW["/v1/messages"] == "POST"


@pytest.mark.parametrize(
    ("event", "end"),
    [
        (b"data: [DONE]\n\n", True),
        (b"data:[DONE]\r\n\r\n", True),
        (b": ping\ndata: [DONE]\n\n", True),
        (b'data: {"choices":[{"delta":{"content":"data: [DONE]"}}]}\n\n', False),
        (b": [DONE]\n\n", False),
        (b"", False),
    ],
)
def test_openais_end_mark(event: bytes, end: bool) -> None:
    assert openai.ends(event) is end


@pytest.mark.parametrize(
    ("event", "end"),
    [
        (b'event: response.completed\ndata: {"type":"response.completed"}\n\n', True),
        (b'data: {"type":"response.incomplete"}\n\n', True),
        (b'event: response.failed\ndata: {"response":{}}\n\n', True),
        (
            b'event: response.output_text.delta\ndata: {"type":"response.output_text.delta","delta":"response.completed"}\n\n',
            False,
        ),
        (b"data: response.completed\n\n", False),
    ],
)
def test_the_end_of_responses(event: bytes, end: bool) -> None:
    assert openai.responses_ends(event) is end


@pytest.mark.parametrize(
    ("event", "end"),
    [
        (b'event: message_stop\ndata: {"type":"message_stop"}\n\n', True),
        (b'data: {"type":"message_stop"}\n\n', True),
        (
            b'event: content_block_delta\ndata: {"type":"content_block_delta","delta":{"text":"message_stop"}}\n\n',
            False,
        ),
    ],
)
def test_the_end_of_messages(event: bytes, end: bool) -> None:
    assert anthropic.ends(event) is end


@pytest.mark.parametrize(
    ("event", "message"),
    [
        (b'data: {"error":{"message":"boom","type":"x"}}\n\n', "boom"),
        (b'data: {"error":"boom"}\n\n', "boom"),
        (b'data: {"error":{"code":500}}\n\n', "the target names no reason"),
        (b'event: error\ndata: {"type":"error","message":"boom"}\n\n', "boom"),
        (
            b'event: response.failed\ndata: {"type":"response.failed","response":{"error":{"message":"boom"}}}\n\n',
            "boom",
        ),
        (b'data: {"error":null,"choices":[]}\n\n', None),
        (b'data: {"type":"response.created","response":{"error":null}}\n\n', None),
        (b'data: {"choices":[{"delta":{"content":"an error"}}]}\n\n', None),
        (b'data: {"error', None),
    ],
)
def test_openais_errors_in_a_stream(event: bytes, message: str | None) -> None:
    assert openai.error_in(event) == message


def test_anthropics_errors_in_a_stream() -> None:
    assert (
        anthropic.error_in(
            b'event: error\ndata: {"type":"error","error":{"type":"overloaded_error","message":"boom"}}\n\n'
        )
        == "boom"
    )
    assert anthropic.error_in(b"event: error\ndata: garbage\n\n") == "the target names no reason"
    assert anthropic.error_in(b'event: content_block_delta\ndata: {"delta":{"text":"error"}}\n\n') is None


@pytest.mark.parametrize(
    ("event", "lost"),
    [
        (
            b'data: {"id":"chatcmpl-640","model":"","choices":[{"index":0,"delta":{"role":"assistant","content":""},"finish_reason":null}]}\n\n',
            True,
        ),
        (b'data: {"id":"cmpl-843","choices":[{"text":"","index":0,"finish_reason":null}],"model":""}\n\n', True),
        (b'data: {"model":"","choices":[{"delta":{"content":"a"}}]}\n\n', False),
        (b'data: {"model":"","choices":[{"delta":{},"finish_reason":"stop"}]}\n\n', False),
        (b'data: {"model":"m","choices":[{"delta":{"content":""}}]}\n\n', False),
        (b"data: [DONE]\n\n", False),
    ],
)
def test_the_error_that_ollama_loses_on_v1_is_known_by_its_empty_chunk(event: bytes, lost: bool) -> None:
    assert openai.lost_error(event) is lost


def test_usage_in_every_shape() -> None:
    both = {"prompt_tokens": 12, "completion_tokens": 6}
    assert openai.usage_of({"usage": {"prompt_tokens": 12, "completion_tokens": 6, "total_tokens": 18}}) == both
    assert openai.usage_of({"response": {"usage": {"input_tokens": 12, "output_tokens": 6}}}) == both
    assert openai.usage_of({"usage": {"input_tokens": 12, "output_tokens": 6}}) == both
    assert openai.usage_of({"usage": None}) == {}
    assert openai.usage_of({"usage": {"prompt_tokens": "12"}}) == {}


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b'{"error":"a"}', "a"),
        (b'{"error":{"message":"a"}}\n', "a"),
        (b'{"type":"error","error":{"type":"x","message":"a"}}', "a"),
        (b"<html>", None),
        (b'{"error":{}}', None),
        (b"[1]", None),
    ],
)
def test_the_message_of_an_error_body(body: bytes, message: str | None) -> None:
    assert openai.message_in(body) == message
