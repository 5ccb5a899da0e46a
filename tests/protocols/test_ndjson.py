"""Lines of a native stream: cut right however the bytes arrive, and read only where somebody asks."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foreman.protocols.ndjson import SSE_DONE, Splitter, UnitTooLong, ends, error_in, native_to_sse, tokens_of

STREAM = (
    b'{"model":"m","message":{"role":"assistant","content":"a\xe2\x80\xa8b\\n"},"done":false}\n'
    b'{"model":"m","message":{"role":"assistant","content":"caf\xc3\xa9"},"done":false}\r\n'
    b"\n"
    b'   {"model":"m","done":true,"done_reason":"stop","eval_count":3}\n'
)
LINES = [
    b'{"model":"m","message":{"role":"assistant","content":"a\xe2\x80\xa8b\\n"},"done":false}\n',
    b'{"model":"m","message":{"role":"assistant","content":"caf\xc3\xa9"},"done":false}\r\n',
    b"\n",
    b'   {"model":"m","done":true,"done_reason":"stop","eval_count":3}\n',
]


def test_a_stream_is_cut_at_newlines_and_nowhere_else() -> None:
    assert Splitter(1000).feed(STREAM) == LINES


def test_the_bytes_may_be_cut_at_every_position() -> None:
    for one in range(len(STREAM) + 1):
        for two in (one, min(one + 1, len(STREAM)), (one + len(STREAM)) // 2):
            splitter = Splitter(1000)
            units = [unit for piece in (STREAM[:one], STREAM[one:two], STREAM[two:]) for unit in splitter.feed(piece)]
            assert units == LINES
            assert splitter.rest() == b""


def test_a_line_that_comes_alone_is_passed_on_without_a_copy() -> None:
    line = LINES[0]
    assert Splitter(1000).feed(line)[0] is line


def test_a_last_line_without_its_newline_is_the_rest() -> None:
    splitter = Splitter(1000)
    assert splitter.feed(b'{"a":1}\n{"b"') == [b'{"a":1}\n']
    assert splitter.feed(b":2}") == []
    assert splitter.rest() == b'{"b":2}'
    assert splitter.rest() == b""


@given(st.lists(st.binary(max_size=6).map(lambda text: text.replace(b"x", b"\n")), max_size=30))
def test_no_byte_is_lost_or_moved(pieces: list[bytes]) -> None:
    splitter = Splitter(10_000)
    units = [unit for piece in pieces for unit in splitter.feed(piece)]
    assert b"".join([*units, splitter.rest()]) == b"".join(pieces)
    assert all(unit.endswith(b"\n") and unit.count(b"\n") == 1 for unit in units)


@pytest.mark.parametrize(
    "pieces",
    [
        (b"123456789\n",),
        (b"123456789",),
        (b"12345", b"6789"),
        (b"12345", b"678\n"),
        (b"ok\n123456789\n",),
        (b"ok\n12345678\nok\n",),
        (b"ok\n123456789",),
    ],
)
def test_a_line_past_the_limit_is_refused_complete_or_not(pieces: tuple[bytes, ...]) -> None:
    splitter = Splitter(8)
    with pytest.raises(UnitTooLong):
        list(map(splitter.feed, pieces))
    assert issubclass(UnitTooLong, ValueError)


def test_a_line_as_long_as_the_limit_passes() -> None:
    assert Splitter(8).feed(b"1234567\n1234567\n") == [b"1234567\n"] * 2


@pytest.mark.timeout(30)
def test_a_long_line_costs_linear_time_byte_by_byte() -> None:
    """A second; copying the whole line for each byte would take minutes, and the limit above would end it."""
    splitter = Splitter(10_000_000)
    for _ in range(2_000_000):
        splitter.feed(b"x")
    assert [len(unit) for unit in splitter.feed(b"\n")] == [2_000_000 + len(b"\n")]


@pytest.mark.parametrize(
    ("line", "last"),
    [
        (b'{"model":"m","response":"","done":true,"done_reason":"stop"}\n', True),
        (b'{"model":"m","response":"", "done" : true}\n', True),
        (b'   {"done":true}', True),
        (b'{"model":"m","response":"it is true","done":false}\n', False),
        (b'{"model":"m","response":"say \\"done\\":true","done":false}\n', False),
        (b'{"message":{"tool_calls":[{"function":{"arguments":{"done":true}}}]},"done":false}\n', False),
        (b'{"done":"true"}\n', False),
        (b'{"error":"done true"}\n', False),
        (b'{"done":true', False),
        (b'["done",true]\n', False),
        (b"[" * 100_000 + b'"done"true', False),
        (b"", False),
    ],
)
def test_only_done_in_the_object_itself_ends_a_stream(line: bytes, last: bool) -> None:
    assert ends(line) is last


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            b'{"error":"an error was encountered while running the model: unexpected EOF"}\n',
            "an error was encountered while running the model: unexpected EOF",
        ),
        (b'{"model":"m","response":"{\\"error\\":1}","done":false}\n', None),
        (b'{"message":{"tool_calls":[{"function":{"arguments":{"error":"x"}}}]},"done":false}\n', None),
        (b'{"error":{"message":"out of memory","code":500}}\n', "out of memory"),
        (b'{"error":{}}\n', None),
        (b'{"error":null}\n', None),
        (b'{"error":"cut', None),
    ],
)
def test_an_error_line_is_told_from_words_about_errors(line: bytes, message: str | None) -> None:
    assert error_in(line) == message


def test_a_native_line_becomes_one_event() -> None:
    assert native_to_sse(b'{"done":false}\n') == b'data: {"done":false}\n\n'
    assert native_to_sse(b'  {"done":false}\r\n') == b'data: {"done":false}\n\n'
    assert native_to_sse(b'{"done":true}') == b'data: {"done":true}\n\n'
    assert native_to_sse(b" \n") == b""
    assert SSE_DONE == b"data: [DONE]\n\n"


def test_the_last_line_tells_tokens_and_durations_as_far_as_it_has_them() -> None:
    line = b'{"done":true,"total_duration":186828853,"load_duration":27565495,"prompt_eval_count":12,"eval_count":1,"eval_duration":null}'
    assert tokens_of(line) == {
        "prompt_tokens": 12,
        "completion_tokens": 1,
        "total_duration": 186828853,
        "load_duration": 27565495,
    }
    assert tokens_of(b"garbage") == {}
    assert tokens_of(b'{"eval_count":true}') == {}
