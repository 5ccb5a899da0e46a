"""Lane keys: what shares a runner has one key, what makes Ollama reload has another, and no key grows."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foreman.core import lanes


@pytest.mark.parametrize(
    ("name", "short"),
    [
        ("llama3.2", "llama3.2:latest"),
        ("Llama3.2:Latest", "llama3.2:latest"),
        ("library/llama3.2", "llama3.2:latest"),
        ("registry.ollama.ai/library/llama3.2:latest", "llama3.2:latest"),
        ("REGISTRY.ollama.ai/Library/llama3.2", "llama3.2:latest"),
        ("https://registry.ollama.ai/library/llama3.2", "llama3.2:latest"),
        ("smollm2:135M", "smollm2:135m"),
        ("me/model", "me/model:latest"),
        ("hf.co/bartowski/Llama-3.2-GGUF:Q4_K_M", "hf.co/bartowski/llama-3.2-gguf:q4_k_m"),
        ("localhost:5000/me/model:x", "localhost:5000/me/model:x"),
        ("localhost:5000/library/model", "localhost:5000/library/model:latest"),
        (" llama3.2\n", "llama3.2:latest"),
        ("llama3.2:3b:local", "llama3.2:3b"),
        ("llama3.2:local", "llama3.2:latest"),
        ("gpt-oss:20b-cloud", "gpt-oss:20b-cloud"),
        ("gpt-oss:20b:cloud", "gpt-oss:20b-cloud"),
        ("glm-5:cloud", "glm-5:cloud"),
    ],
)
def test_all_spellings_of_a_model_have_one_canonical_name(name: str, short: str) -> None:
    assert lanes.parse(name)
    assert lanes.canonical(name) == short
    assert lanes.canonical(short) == short


@pytest.mark.parametrize(
    "name",
    [
        "",
        " ",
        "a b",
        "../../etc/passwd",
        "a//b",
        "/a",
        "a/",
        ":tag",
        "model:",
        "mod\ufffdel",
        "modèl",
        "-x",
        "a\r\nb",
        "x" * 81,
        "n" * 81 + "/x",
        "x:" + "t" * 81,
        "h" * 351 + "/n/m",
        "x@sha256:abc",
        "name.space/model",
        "x:local:cloud",
        " " * 1000 + "x",
    ],
)
def test_names_ollama_refuses_are_invalid_and_stay_as_they_are(name: str) -> None:
    with pytest.raises(lanes.ModelNameError):
        lanes.parse(name)
    assert lanes.canonical(name) == name


def test_no_long_name_is_remembered() -> None:
    before = lanes._spelled.cache_info().misses
    assert lanes.canonical("x" * (64 << 10)) == "x" * (64 << 10)
    assert lanes._spelled.cache_info().misses == before


def test_the_refusal_uses_ollamas_words() -> None:
    for name, words in (
        ("../../etc/passwd", "invalid model name"),
        ("x:local:cloud", 'use either :local or :cloud, not both: "x:local:cloud"'),
        ("  ", "model is required"),
    ):
        with pytest.raises(lanes.ModelNameError) as caught:
            lanes.parse(name)
        assert str(caught.value) == words


@pytest.mark.parametrize(
    ("name", "cloud"),
    [
        ("glm-5:cloud", True),
        ("gpt-oss:20b-cloud", True),
        ("GPT-OSS:20b-CLOUD", True),
        ("x:cloud:local", False),
        ("cloud", False),
        ("my-cloud", False),
        ("a b:cloud", False),
    ],
)
def test_cloud_models_are_known_by_their_explicit_tag(name: str, cloud: bool) -> None:
    assert lanes.is_cloud(name) is cloud


def test_a_cloud_model_never_shares_a_lane_with_the_local_one() -> None:
    assert lanes.lane_key("gpt-oss:20b", None, {}) != lanes.lane_key("gpt-oss:20b:cloud", None, {})


@pytest.mark.parametrize(
    ("options", "print_"),
    [
        ({}, ""),
        ({"temperature": 0.2, "num_predict": 8, "seed": 1}, ""),
        ({"num_ctx": None, "shift": None}, ""),
        ({"num_ctx": 8192}, "num_ctx=8192"),
        ({"num_ctx": 8192.0}, "num_ctx=8192"),
        ({"num_ctx": 8192.9}, "num_ctx=8192"),
        ({"num_gpu": -1}, ""),
        ({"num_gpu": -7.0}, ""),
        ({"num_gpu": 0, "num_ctx": 4096}, "num_ctx=4096&num_gpu=0"),
        ({"use_mmap": False, "shift": True}, "use_mmap=false&shift=true"),
        (
            {"num_batch": 1, "main_gpu": 0, "num_thread": 2, "draft_num_predict": 3},
            "num_batch=1&main_gpu=0&num_thread=2&draft_num_predict=3",
        ),
    ],
)
def test_the_fingerprint_names_what_reloads_and_nothing_else(options: dict[str, object], print_: str) -> None:
    assert lanes.fingerprint(options) == print_


def test_the_order_of_options_makes_no_lane() -> None:
    assert lanes.fingerprint({"num_ctx": 1, "num_gpu": 2}) == lanes.fingerprint({"num_gpu": 2, "num_ctx": 1})


def test_odd_values_are_told_apart_and_bounded() -> None:
    odd: list[object] = ["big", "x" * 10_000, True, [1], {"a": 1}, 10**40, float("inf"), float("nan"), "\ud800"]
    prints = [lanes.fingerprint({"num_ctx": value}) for value in odd]
    assert len(set(prints)) == len(odd)
    assert all(len(text) <= 20 for text in prints)
    assert lanes.fingerprint({"use_mmap": 1}) != lanes.fingerprint({"use_mmap": True})


def test_the_lane_is_the_digest_where_there_is_one() -> None:
    digest = "3f2a9c0d1e5b7a86" + "0" * 48
    assert lanes.lane_key("llama3.2", digest, {}) == "3f2a9c0d1e5b7a86"
    assert lanes.lane_key("alias", "sha256:" + digest, {}) == "3f2a9c0d1e5b7a86"
    assert lanes.lane_key("Llama3.2", None, {"num_ctx": 8192}) == "llama3.2:latest?num_ctx=8192"
    assert lanes.lane_key("gpt-4o", "", {}) == "gpt-4o:latest"


def test_long_names_keep_their_lanes_apart() -> None:
    one, two = ("h" * 300 + "/n/" + "m" * 79 + letter for letter in "ab")
    assert lanes.lane_key(one, None, {}) != lanes.lane_key(two, None, {})
    assert len(lanes.lane_key(one, None, {})) <= lanes.KEY_LIMIT


_values = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=30) | st.lists(st.integers(), max_size=3)
)


@given(
    st.text(max_size=400),
    st.none() | st.text(alphabet="0123456789abcdef", min_size=16, max_size=64),
    st.dictionaries(st.sampled_from([*lanes.RUNNER_OPTIONS, "temperature"]), _values),
)
def test_a_lane_key_is_always_bounded_and_stable(name: str, digest: str | None, options: dict[str, object]) -> None:
    key = lanes.lane_key(name, digest, options)
    assert 0 <= len(key) <= lanes.KEY_LIMIT
    assert key == lanes.lane_key(name, digest, dict(reversed(options.items())))
    assert lanes.canonical(lanes.canonical(name)) == lanes.canonical(name)
