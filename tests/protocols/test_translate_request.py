"""Native requests in OpenAI's words: nothing lost where both dialects have a word, a 400 with the field where not."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foreman.core.errors import Code, Failure
from foreman.protocols.translate import translate_request

PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
JPEG = "/9j/4AAQSkZJRgABAQAAAQABAAD/2w=="
HI = {"role": "user", "content": "hi"}
TOOL = {
    "type": "function",
    "function": {
        "name": "f",
        "description": "d",
        "parameters": {"type": "object", "properties": {"x": {"type": "string"}}},
    },
}


def chat(**fields: Any) -> dict[str, Any]:
    body = {"model": "m", "messages": [HI], "stream": False, **fields}
    return json.loads(translate_request("/api/chat", json.dumps(body).encode()).body)  # type: ignore[no-any-return]  # ours


def generate(**fields: Any) -> dict[str, Any]:
    body = {"model": "m", "prompt": "hi", "stream": False, **fields}
    return json.loads(translate_request("/api/generate", json.dumps(body).encode()).body)  # type: ignore[no-any-return]  # ours


def refusal(path: str, **fields: Any) -> tuple[int, str]:
    body = {"model": "m", **({"messages": [HI]} if path == "/api/chat" else {"prompt": "hi"}), **fields}
    with pytest.raises(Failure) as caught:
        translate_request(path, json.dumps(body).encode())
    assert caught.value.code is Code.BAD_REQUEST
    return caught.value.status, caught.value.message


def test_a_plain_chat() -> None:
    asked = translate_request("/api/chat", json.dumps({"model": "M:Latest", "messages": [HI]}).encode(), "m")
    assert asked.path == "/v1/chat/completions"
    assert json.loads(asked.body) == {
        "model": "m",
        "stream": True,
        "stream_options": {"include_usage": True},
        "messages": [HI],
    }
    assert asked.shape.model == "M:Latest"
    assert asked.shape.chat
    assert asked.stream


def test_not_streamed_asks_for_no_stream_options() -> None:
    assert chat() == {"model": "m", "stream": False, "messages": [HI]}
    assert translate_request("/api/chat", b'{"model":"m","stream":null}').stream


def test_generate_becomes_a_conversation() -> None:
    asked = translate_request(
        "/api/generate", json.dumps({"model": "m", "prompt": "hi", "system": "be kind", "images": [PNG]}).encode()
    )
    assert asked.path == "/v1/chat/completions"
    assert not asked.shape.chat
    assert json.loads(asked.body)["messages"] == [
        {"role": "system", "content": "be kind"},
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "hi"},
                {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}"}},
            ],
        },
    ]


def test_a_raw_prompt_goes_as_it_is() -> None:
    asked = translate_request(
        "/api/generate",
        b'{"model":"m","prompt":"<|user|>hi","raw":true,"stream":false,"options":{"num_predict":3},"suffix":"x","think":false}',
    )
    assert asked.path == "/v1/completions"
    assert json.loads(asked.body) == {"model": "m", "stream": False, "prompt": "<|user|>hi", "max_tokens": 3}


def test_a_gap_to_fill_goes_to_completions() -> None:
    asked = translate_request("/api/generate", b'{"model":"m","prompt":"def f(","suffix":"return 1","stream":false}')
    assert asked.path == "/v1/completions"
    assert json.loads(asked.body) == {"model": "m", "stream": False, "prompt": "def f(", "suffix": "return 1"}


def test_pictures_become_data_uris_of_their_type() -> None:
    message = chat(
        messages=[{"role": "user", "content": "", "images": [JPEG, PNG, "R0lGODlh", "UklGRiIAAABXRUJQVlA4", "AAAA"]}]
    )["messages"][0]
    assert [part["image_url"]["url"].partition(",")[0] for part in message["content"]] == [
        f"data:image/{kind};base64" for kind in ("jpeg", "png", "gif", "webp", "png")
    ]


def test_a_picture_with_line_breaks_is_taken_as_go_takes_it() -> None:
    message = chat(messages=[{"role": "user", "images": [PNG[:40] + "\r\n" + PNG[40:]]}])["messages"][0]
    assert message["content"][0]["image_url"]["url"] == f"data:image/png;base64,{PNG}"


@pytest.mark.parametrize("image", ["@@@", "AAA", "AAAAA", "AA=A", "AAAA====", "data:image/png;base64,AAAA", "é"])
def test_bad_base64_is_refused_as_go_does(image: str) -> None:
    status, words = refusal("/api/chat", messages=[{"role": "user", "content": "hi", "images": [image]}])
    assert status == 400
    assert words.startswith("illegal base64 data at input byte ")
    if image == "@@@":
        assert words.endswith(" 0")
    assert refusal("/api/generate", images=[image])[0] == 400


def test_calls_of_tools_and_their_results() -> None:
    messages = [
        HI,
        {
            "role": "assistant",
            "content": "",
            "thinking": "let me see",
            "tool_calls": [
                {"function": {"name": "weather", "arguments": {"city": "Paris", "n": 1}}},
                {"id": "call_x", "function": {"index": 1, "name": "time", "arguments": {}}},
                {"function": {"name": "weather"}},
            ],
        },
        {"role": "tool", "content": "12:00", "tool_name": "time"},
        {"role": "tool", "content": "sun", "tool_name": "weather"},
        {"role": "tool", "content": "rain"},
        {"role": "tool", "content": "late", "tool_call_id": "call_other"},
    ]
    assert chat(messages=messages, tools=[TOOL])["messages"][1:] == [
        {
            "role": "assistant",
            "content": None,
            "reasoning": "let me see",
            "reasoning_content": "let me see",
            "tool_calls": [
                {
                    "id": "call_1_0",
                    "type": "function",
                    "function": {"name": "weather", "arguments": '{"city":"Paris","n":1}'},
                },
                {"id": "call_x", "type": "function", "function": {"name": "time", "arguments": "{}"}},
                {"id": "call_1_2", "type": "function", "function": {"name": "weather", "arguments": "{}"}},
            ],
        },
        {"role": "tool", "content": "12:00", "tool_call_id": "call_x", "name": "time"},
        {"role": "tool", "content": "sun", "tool_call_id": "call_1_0", "name": "weather"},
        {"role": "tool", "content": "rain", "tool_call_id": "call_1_2"},
        {"role": "tool", "content": "late", "tool_call_id": "call_other"},
    ]


def test_a_result_without_a_call_is_refused_by_its_field() -> None:
    assert refusal("/api/chat", messages=[HI, {"role": "tool", "content": "x"}]) == (
        400,
        "messages[1].tool_call_id: no call of a tool before it; OpenAI's dialect needs one",
    )


def test_tools_go_as_they_are_and_none_go_not_at_all() -> None:
    assert chat(tools=[TOOL])["tools"] == [TOOL]
    assert "tools" not in chat(tools=[])
    assert "tools" not in chat(tools=None)


def test_keys_in_any_case_inside_messages() -> None:
    assert chat(messages=[{"Role": "USER", "Content": "hi"}])["messages"] == [HI]


@pytest.mark.parametrize(
    ("given_", "expected"),
    [
        ("json", {"type": "json_object"}),
        (
            {"type": "object"},
            {"type": "json_schema", "json_schema": {"name": "response", "schema": {"type": "object"}}},
        ),
        ("", None),
        (None, None),
    ],
)
def test_format(given_: object, expected: object) -> None:
    assert chat(format=given_).get("response_format") == expected
    assert generate(format=given_).get("response_format") == expected


@pytest.mark.parametrize(
    ("think", "effort"),
    [(True, "medium"), (False, "none"), ("low", "low"), ("high", "high"), ("max", "xhigh"), (None, None)],
)
def test_think(think: object, effort: object) -> None:
    assert chat(think=think).get("reasoning_effort") == effort


def test_options_under_their_names_in_v1() -> None:
    options = {
        "temperature": 0.2,
        "top_p": 0.9,
        "seed": 7,
        "stop": ["a", "b"],
        "num_predict": 20.9,
        "presence_penalty": 0.1,
        "frequency_penalty": -0.1,
        "top_k": 40,
        "min_p": 0.05,
        "repeat_penalty": 1.1,
        "typical_p": None,
    }
    asked = chat(options=options)
    assert {key: value for key, value in asked.items() if key not in {"model", "messages", "stream"}} == {
        "temperature": 0.2,
        "top_p": 0.9,
        "seed": 7,
        "stop": ["a", "b"],
        "max_tokens": 20,
        "presence_penalty": 0.1,
        "frequency_penalty": -0.1,
        "top_k": 40,
        "min_p": 0.05,
        "repeat_penalty": 1.1,
    }


def test_what_only_tells_ollama_how_to_load_is_left_out() -> None:
    assert (
        chat(
            options={"num_ctx": 8192, "num_gpu": 1, "num_keep": 4, "unknown": {}, "stop": []},
            keep_alive="5m",
            shift=True,
            truncate=False,
        )
        == chat()
    )


@pytest.mark.parametrize("limit", [-1, -2, 0])
def test_no_limit_of_tokens_is_no_limit(limit: int) -> None:
    assert "max_tokens" not in chat(options={"num_predict": limit})


def test_logprobs() -> None:
    assert chat(logprobs=True)["logprobs"] is True
    assert "top_logprobs" not in chat(logprobs=True)
    assert chat(logprobs=True, top_logprobs=2)["top_logprobs"] == 2
    assert generate(logprobs=True, top_logprobs=2, raw=True)["logprobs"] == 2
    assert "logprobs" not in chat(top_logprobs=2)


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({"template": "{{ .Prompt }}"}, "template"),
        ({"context": [1, 2]}, "context"),
        ({"_debug_render_only": True}, "_debug_render_only"),
        ({"raw": True, "images": [PNG]}, "images"),
        ({"raw": True, "format": "json"}, "format"),
        ({"raw": True, "think": True}, "think"),
        ({"suffix": "x", "system": "y"}, "system"),
        ({"suffix": "x", "images": [PNG]}, "images"),
    ],
)
def test_what_has_no_word_is_refused_by_its_field(fields: dict[str, Any], name: str) -> None:
    status, words = refusal("/api/generate", **fields)
    assert status == 400
    assert words.startswith(f"{name}: ")


@pytest.mark.parametrize(
    ("path", "fields", "status", "words"),
    [
        ("/api/generate", {"raw": True, "system": "x"}, 400, "raw mode does not support template, system, or context"),
        ("/api/generate", {"raw": True, "context": [1]}, 400, "raw mode does not support template, system, or context"),
        ("/api/chat", {"top_logprobs": 21}, 400, "top_logprobs must be between 0 and 20"),
        (
            "/api/chat",
            {"think": "very"},
            400,
            'invalid think value: "very" (must be "high", "medium", "low", "max", true, or false)',
        ),
        (
            "/api/chat",
            {"think": 1},
            400,
            'think must be a boolean or string ("high", "medium", "low", "max", true, or false)',
        ),
        (
            "/api/chat",
            {"format": "yaml"},
            500,
            'invalid format: "\\"yaml\\""; expected "json" or a valid JSON Schema object',
        ),
        ("/api/chat", {"format": 7}, 500, 'invalid format: "7"; expected "json" or a valid JSON Schema object'),
        ("/api/chat", {"options": {"temperature": "hot"}}, 500, 'option "temperature" must be of type float32'),
        ("/api/chat", {"options": {"seed": True}}, 500, 'option "seed" must be of type integer'),
        ("/api/chat", {"options": {"stop": "x"}}, 500, 'option "stop" must be of type array'),
        ("/api/chat", {"options": {"stop": [1]}}, 500, 'option "stop" must be of an array of strings'),
        (
            "/api/chat",
            {"messages": [5]},
            400,
            "json: cannot unmarshal number into Go struct field ChatRequest.messages of type api.Alias",
        ),
        (
            "/api/chat",
            {"messages": [{"content": 5}]},
            400,
            "json: cannot unmarshal number into Go struct field ChatRequest.messages.content of type string",
        ),
        (
            "/api/chat",
            {"messages": [{"tool_calls": [{"function": {"arguments": "{}"}}]}]},
            400,
            "json: cannot unmarshal string into Go struct field ChatRequest.messages.tool_calls.function.arguments of type map[string]interface {}",
        ),
        (
            "/api/chat",
            {"tools": "x"},
            400,
            "json: cannot unmarshal string into Go struct field ChatRequest.tools of type api.Tools",
        ),
        (
            "/api/generate",
            {"raw": "yes"},
            400,
            "json: cannot unmarshal string into Go struct field GenerateRequest.raw of type bool",
        ),
    ],
)
def test_what_ollama_refuses_is_refused_in_its_words(
    path: str, fields: dict[str, Any], status: int, words: str
) -> None:
    assert refusal(path, **fields) == (status, words)


def test_a_long_text_full_of_brackets_is_translated_whole() -> None:
    text = "[{," * 400_000
    assert chat(messages=[{"role": "user", "content": text}])["messages"][0]["content"] == text


def test_nesting_is_translated_whole_or_refused() -> None:
    """How deep Python's own JSON writer goes depends on its version; past it there is a sentence, never a crash."""
    body = b'{"model":"m","format":' + b'{"a":' * 5000 + b"1" + b"}" * 5000 + b"}"
    refused = ""
    translated = b""
    try:
        translated = translate_request("/api/chat", body).body
    except Failure as failure:
        refused = failure.message
    assert "nests too deep" in refused or translated.count(b'{"a":') == 5000


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
_message = st.dictionaries(
    st.sampled_from(["role", "content", "thinking", "images", "tool_calls", "tool_name", "tool_call_id"]), _json
)
_fields = st.fixed_dictionaries(
    {},
    optional={
        "messages": st.lists(_message, max_size=3) | _json,
        "prompt": st.text(max_size=5),
        **dict.fromkeys(
            ["options", "format", "think", "tools", "images", "suffix", "raw", "logprobs", "top_logprobs", "stream"],
            _json,
        ),
    },
)


@given(st.sampled_from(["/api/chat", "/api/generate"]), _fields)
def test_any_request_is_translated_or_refused(path: str, fields: dict[str, Any]) -> None:
    try:
        asked = translate_request(path, json.dumps(fields).encode())
    except Failure as failure:
        refused = failure
    else:
        assert json.loads(asked.body)["stream"] is asked.stream
        return
    assert refused.code is Code.BAD_REQUEST
    assert refused.message
