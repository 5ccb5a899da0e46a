"""Peeking into requests: what Ollama's decoder would read is read, what it would refuse is refused in its words."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foreman.core.errors import Code, Failure
from foreman.protocols.ollama import peek

ALL_PATHS = [
    "/api/chat",
    "/api/generate",
    "/api/embed",
    "/api/embeddings",
    "/api/show",
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/embeddings",
    "/v1/responses",
    "/v1/messages",
]
HI = '"messages":[{"role":"user","content":"hi"}]'


def refusal(path: str, body: bytes) -> tuple[int, str]:
    with pytest.raises(Failure) as caught:
        peek(path, body)
    assert caught.value.code in {Code.BAD_REQUEST, Code.MODEL_NOT_FOUND}
    return caught.value.status, caught.value.message


def test_an_ordinary_chat() -> None:
    body = {
        "model": "llama3.2",
        "messages": [{"role": "user", "content": "hi"}],
        "options": {"num_ctx": 8192, "temperature": 0},
    }
    seen = peek("/api/chat", json.dumps(body).encode())
    assert seen.model == "llama3.2"
    assert seen.stream is True
    assert seen.keep_alive_present is False
    assert seen.keep_alive is None
    assert seen.options == {"num_ctx": 8192}
    assert (seen.is_load, seen.is_unload) == (False, False)


@pytest.mark.parametrize(
    ("path", "fields", "stream"),
    [
        ("/api/chat", "", True),
        ("/api/chat", ',"stream":null', True),
        ("/api/chat", ',"stream":false', False),
        ("/api/chat", ',"stream":false,"stream":null', True),
        ("/api/generate", ',"STREAM":false', False),
        ("/api/embed", ',"stream":true', False),
        ("/api/show", ',"stream":true', False),
        ("/api/pull", "", True),
        ("/v1/chat/completions", f",{HI}", False),
        ("/v1/chat/completions", f',{HI},"stream":null', False),
        ("/v1/chat/completions", f',{HI},"stream":true', True),
        ("/v1/chat/completions", f',{HI},"stream":true,"stream":null', True),
        ("/v1/responses", ',"stream":true,"stream":null', False),
        ("/v1/completions", ',"stream":true', True),
        ("/v1/messages", f',{HI},"max_tokens":5,"stream":true', True),
        ("/v1/embeddings", "", False),
    ],
)
def test_stream_has_the_default_of_its_path(path: str, fields: str, stream: bool) -> None:
    assert peek(path, f'{{"model":"m"{fields}}}'.encode()).stream is stream


@pytest.mark.parametrize(
    ("body", "model"),
    [
        (b'{"MODEL":"nope","Model":"smollm2:135m"} trailing garbage', "smollm2:135m"),
        (b'{"model":"a","Model":"b","model":"c"}', "c"),
        (b'{"model":"a","model":null}', "a"),
        (b'{"m\\u006fdel":"a"}', "a"),
        (b'{"model":" a "}', " a "),
        (b'\n\t {"x":[1,{"model":"no"}],"model":"a"}', "a"),
        (b'{"junk":"\xff\xfe","model":"a"}', "a"),
        (b'{"junk":' + b"9" * 5000 + b',"model":"a"}', "a"),
        (b'{"junk":1e999,"model":"a"}', "a"),
        (b'{"junk":' + b"[" * 9990 + b"]" * 9990 + b',"model":"a"}', "a"),
    ],
)
def test_the_body_is_read_as_gos_decoder_reads_it(body: bytes, model: str) -> None:
    assert peek("/api/chat", body).model == model
    assert peek("/api/generate", body).model == model


def test_folding_of_keys_is_gos() -> None:
    seen = peek("/api/chat", '{"model":"a","\u212aeep_alive":0,"\u017ftream":false}'.encode())
    assert seen.keep_alive_present
    assert seen.is_unload
    assert not seen.stream
    assert not peek("/api/chat", '{"model":"a","me\u00dfages":[1]}'.encode()).keep_alive_present


@pytest.mark.parametrize(
    ("fields", "options"),
    [
        ('"options":{"num_ctx":1},"options":{"num_gpu":2}', {"num_ctx": 1, "num_gpu": 2}),
        ('"options":{"num_ctx":1},"options":null,"options":{"use_mmap":true}', {"use_mmap": True}),
        ('"options":{"NUM_CTX":1}', {}),
        ('"options":{"num_ctx":null,"num_gpu":0}', {"num_gpu": 0}),
        ('"options":{"num_ctx":8192.5,"shift":true}', {"num_ctx": 8192.5}),
        ('"options":{},"shift":false', {"shift": False}),
        ('"shift":null', {}),
    ],
)
def test_runner_options_are_found_as_ollama_finds_them(fields: str, options: dict[str, Any]) -> None:
    assert peek("/api/chat", f'{{"model":"a",{HI},{fields}}}'.encode()).options == options


def test_no_options_on_v1_paths() -> None:
    assert (
        peek("/v1/chat/completions", f'{{"model":"a",{HI},"options":{{"num_ctx":"big"}},"shift":1}}'.encode()).options
        == {}
    )


@pytest.mark.parametrize(
    ("path", "fields", "load", "unload"),
    [
        ("/api/chat", "", True, False),
        ("/api/chat", ',"messages":[]', True, False),
        ("/api/chat", ',"messages":null,"keep_alive":"5m"', True, False),
        ("/api/chat", ',"keep_alive":0', False, True),
        ("/api/chat", ',"keep_alive":"0s"', False, True),
        ("/api/chat", ',"keep_alive":"0"', False, True),
        ("/api/chat", ',"keep_alive":-1', True, False),
        ("/api/chat", ',"keep_alive":9e18', True, False),
        ("/api/chat", ',"keep_alive":0,"options":{"num_ctx":"big"}', False, True),
        ("/api/chat", f',{HI},"keep_alive":0', False, False),
        ("/api/chat", ',"prompt":"hi"', True, False),
        ("/api/generate", ',"prompt":""', True, False),
        ("/api/generate", ',"images":["aGk="],"suffix":"x"', True, False),
        ("/api/generate", ',"keep_alive":0.0', False, True),
        ("/api/generate", ',"prompt":" "', False, False),
        ("/api/embed", ',"keep_alive":0', False, False),
    ],
)
def test_load_and_unload_calls_are_known(path: str, fields: str, load: bool, unload: bool) -> None:
    seen = peek(path, f'{{"model":"m"{fields}}}'.encode())
    assert (seen.is_load, seen.is_unload) == (load, unload)


def test_a_null_keep_alive_is_present_and_unset() -> None:
    seen = peek("/api/chat", b'{"model":"m","keep_alive":"5m","keep_alive":null}')
    assert seen.keep_alive_present
    assert seen.keep_alive is None
    assert seen.is_load


@pytest.mark.parametrize("path", ALL_PATHS)
@pytest.mark.parametrize("body", [b"", b" \n\t"])
def test_an_empty_body(path: str, body: bytes) -> None:
    assert refusal(path, body) == (400, "missing request body" if path.startswith("/api/") else "EOF")


@pytest.mark.parametrize("path", ALL_PATHS)
@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"{xyz", "invalid character 'x' looking for beginning of object key string"),
        (b'{"model":"m","messages":[', "unexpected EOF"),
        (b"xyz", "invalid character 'x' looking for beginning of value"),
        (b"\xef\xbb\xbf{}", "invalid character '\u00ef' looking for beginning of value"),
        (b'{"model":"m",}', "invalid character '}' looking for beginning of object key string"),
        (b'{"model":NaN}', "invalid character 'N' looking for beginning of value"),
        (b'{"model":"a\nb"}', "invalid character '\\n' in string literal"),
        (b'{"model":"m"\xff}', "invalid character '\u00ff' after object key:value pair"),
        (b'{"a":' + b"[" * 10_000, "invalid character '[' exceeded max depth"),
        (b"[" * 1_000_000, "invalid character '[' exceeded max depth"),
    ],
)
def test_broken_json_is_refused_in_gos_words(path: str, body: bytes, words: str) -> None:
    assert refusal(path, body) == (400, words)


@pytest.mark.parametrize(
    ("path", "status", "words"),
    [
        ("/api/generate", 404, "model '' not found"),
        ("/api/chat", 400, "model is required"),
        ("/api/embed", 404, "model '' not found"),
        ("/api/embeddings", 400, "model is required"),
        ("/api/show", 400, "model is required"),
        ("/v1/chat/completions", 400, "model is required"),
        ("/v1/completions", 404, "model '' not found"),
        ("/v1/embeddings", 404, "model '' not found"),
        ("/v1/responses", 400, "model is required"),
        ("/v1/messages", 400, "model is required"),
    ],
)
def test_a_missing_model_is_refused_as_its_path_does(path: str, status: int, words: str) -> None:
    for model in ("", '"model":"",', '"model":null,'):
        assert refusal(path, f'{{{model}{HI},"max_tokens":1}}'.encode()) == (status, words)
    with pytest.raises(Failure) as caught:
        peek(path, f'{{"model":"  ",{HI}}}'.encode())
    assert caught.value.status == status
    if path == "/api/chat":
        assert refusal(path, b"null") == (400, "model is required")


@pytest.mark.parametrize("path", ALL_PATHS)
@pytest.mark.parametrize(
    ("model", "words"),
    [
        (b"../../etc/passwd", "invalid model name"),
        (b"a b", "invalid model name"),
        (b"mod\xffel", "invalid model name"),
        (b"mod\\ud800el", "invalid model name"),
        (b"a\\r\\nX-Header: 1", "invalid model name"),
        (b"m" * 100_000, "invalid model name"),
        (b"x:local:cloud", 'use either :local or :cloud, not both: "x:local:cloud"'),
    ],
)
def test_a_malformed_name_is_refused(path: str, model: bytes, words: str) -> None:
    assert refusal(path, b'{"model":"' + model + b'",' + HI.encode() + b',"max_tokens":1}') == (400, words)


def test_a_name_that_an_openai_target_lists_is_no_malformed_one() -> None:
    name = "accounts/fireworks/models/llama-v3"
    body = f'{{"model":"{name}",{HI}}}'.encode()
    assert refusal("/api/chat", body) == (400, "invalid model name")
    assert peek("/api/chat", body, {name}).model == name


@pytest.mark.parametrize(
    ("path", "body", "words"),
    [
        (
            "/api/chat",
            '{"model":5}',
            "json: cannot unmarshal number into Go struct field ChatRequest.model of type string",
        ),
        (
            "/api/chat",
            '{"MODEL":true}',
            "json: cannot unmarshal bool into Go struct field ChatRequest.model of type string",
        ),
        (
            "/api/chat",
            '{"messages":"hi"}',
            "json: cannot unmarshal string into Go struct field ChatRequest.messages of type []api.Message",
        ),
        (
            "/api/chat",
            '{"stream":"yes"}',
            "json: cannot unmarshal string into Go struct field ChatRequest.stream of type bool",
        ),
        (
            "/api/chat",
            '{"options":[1]}',
            "json: cannot unmarshal array into Go struct field ChatRequest.options of type map[string]interface {}",
        ),
        (
            "/api/chat",
            '{"options":{"a":[-1e999]}}',
            "json: cannot unmarshal number -1e999 into Go struct field ChatRequest.options of type float64",
        ),
        (
            "/api/chat",
            '{"keep_alive":1e999}',
            "json: cannot unmarshal number 1e999 into Go struct field ChatRequest.keep_alive of type float64",
        ),
        (
            "/api/chat",
            '{"shift":{}}',
            "json: cannot unmarshal object into Go struct field ChatRequest.shift of type bool",
        ),
        (
            "/api/chat",
            '{"model":5,"stream":5}',
            "json: cannot unmarshal number into Go struct field ChatRequest.model of type string",
        ),
        ("/api/chat", '{"model":5,"keep_alive":"soon"}', 'time: invalid duration "soon"'),
        ("/api/chat", '{"keep_alive":"soon"}', 'time: invalid duration "soon"'),
        ("/api/chat", '{"keep_alive":"90"}', 'time: missing unit in duration "90"'),
        ("/api/chat", '{"keep_alive":"\\ud800"}', 'time: invalid duration "\\xef\\xbf\\xbd"'),
        ("/api/chat", '{"keep_alive":true}', "Unsupported type: 'bool'"),
        ("/api/embed", '{"keep_alive":[]}', "Unsupported type: '[]interface {}'"),
        ("/api/embeddings", '{"keep_alive":{}}', "Unsupported type: 'map[string]interface {}'"),
        ("/api/chat", "[1]", "json: cannot unmarshal array into Go value of type api.ChatRequest"),
        ("/api/generate", '"s"', "json: cannot unmarshal string into Go value of type api.GenerateRequest"),
        (
            "/api/generate",
            '{"prompt":5}',
            "json: cannot unmarshal number into Go struct field GenerateRequest.prompt of type string",
        ),
        (
            "/api/show",
            '{"name":5}',
            "json: cannot unmarshal number into Go struct field ShowRequest.name of type string",
        ),
        (
            "/v1/chat/completions",
            '{"model":"m","messages":5}',
            "json: cannot unmarshal number into Go struct field ChatCompletionRequest.messages of type []openai.Message",
        ),
        ("/v1/chat/completions", '{"model":"m","messages":[]}', "[] is too short - 'messages'"),
        (
            "/v1/completions",
            '{"stream":1}',
            "json: cannot unmarshal number into Go struct field CompletionRequest.stream of type bool",
        ),
        ("/v1/responses", "true", "json: cannot unmarshal bool into Go value of type openai.ResponsesRequest"),
        ("/v1/messages", f'{{"model":"m",{HI}}}', "max_tokens is required and must be positive"),
        ("/v1/messages", f'{{"model":"m",{HI},"max_tokens":0}}', "max_tokens is required and must be positive"),
        ("/v1/messages", '{"model":"m","max_tokens":5,"messages":[]}', "messages is required"),
        (
            "/v1/messages",
            '{"max_tokens":1.5}',
            "json: cannot unmarshal number 1.5 into Go struct field MessagesRequest.max_tokens of type int",
        ),
    ],
)
def test_wrong_types_are_refused_in_gos_words(path: str, body: str, words: str) -> None:
    assert refusal(path, body.encode()) == (400, words)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ('{"num_ctx":"big"}', 'option "num_ctx" must be of type integer'),
        ('{"num_gpu":true}', 'option "num_gpu" must be of type integer'),
        ('{"use_mmap":1}', 'option "use_mmap" must be of type boolean'),
    ],
)
def test_a_wrong_runner_option_is_ollamas_500_before_it_costs_a_load(options: str, words: str) -> None:
    assert refusal("/api/chat", f'{{"model":"m",{HI},"options":{options}}}'.encode()) == (500, words)


def test_options_of_other_kinds_are_the_targets_business() -> None:
    assert peek("/api/chat", f'{{"model":"m",{HI},"options":{{"temperature":"hot"}}}}'.encode()).options == {}


def test_show_takes_the_old_name_field_and_management_needs_no_model() -> None:
    assert peek("/api/show", b'{"name":"a"}').model == "a"
    assert peek("/api/show", b'{"name":"a","model":"b"}').model == "b"
    assert peek("/api/copy", b'{"source":"a","destination":"b"}').model == "a"
    assert peek("/api/pull", b"{}").model == ""
    with pytest.raises(KeyError):
        peek("/api/tags", b"{}")


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    ("body", "refused"),
    [
        (b'{"model":"m","messages":[' + b"[1]," * 4_000_000, True),
        (b'{"model":"m","messages":[' + b"[1]," * 4_000_000 + b"1]}", False),
        (b'{"model":"m",' + b'"a":1,' * 2_000_000 + b'"b":2}', True),
        (b'{"model":"m","keep_alive":"' + b"0s" * 4_000_000 + b'"}', True),
        (b'{"model":"m","messages":[' + b"0.5," * 4_000_000 + b"1]}", False),
        (b'{"model":"m","messages":["' + b"[{,\\n" * 4_000_000 + b'"]}', False),
    ],
)
def test_bombs_are_judged_in_bounded_time(body: bytes, refused: bool) -> None:
    """16 to 20 MB each; read as Python objects some would take seconds and gigabytes."""
    if refused:
        assert refusal("/api/chat", body)[0] == 400
    else:
        assert not peek("/api/chat", body).is_load


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["model", "num_ctx", "use_mmap", "a"]), inner, max_size=3)
    ),
    max_leaves=8,
)
_fields = st.dictionaries(
    st.sampled_from(["model", "Model", "stream", "keep_alive", "options", "shift", "messages", "prompt", "max_tokens"]),
    _json,
)


@given(st.sampled_from(ALL_PATHS), _fields | _json, st.integers(0, 40))
def test_any_body_is_read_or_refused_with_a_4xx_or_a_500(path: str, value: object, cut: int) -> None:
    whole = json.dumps(value).encode()
    for body in (whole, whole[:cut], whole.replace(b"a", b"\xff")):
        refused: Failure | None = None
        try:
            seen = peek(path, body)
        except Failure as failure:
            refused = failure
        if refused is not None:
            assert refused.status in {400, 404, 500}
            assert refused.message
        else:
            seen.model.encode()
            json.dumps(seen.options)
