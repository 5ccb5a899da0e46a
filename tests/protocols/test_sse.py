"""Events of an SSE stream: cut at blank lines however the bytes arrive, comments kept, data read on demand."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foreman.protocols import sse
from foreman.protocols.ndjson import UnitTooLong

EVENTS = [
    b'data: {"a":1}\n\n',
    b": keep-alive\ndata: {\ndata: }\n\n",
    b":\n\n",
    b'event: message_stop\r\ndata: {"type":"message_stop"}\r\n\r\n',
    b"\ndata: a\xe2\x80\xa8b\rc\n\n",
    b"data: x\n\r\n",
    b"data: [DONE]\n\n",
]
STREAM = b"".join(EVENTS)


def test_a_stream_is_cut_at_blank_lines_and_nowhere_else() -> None:
    assert sse.Splitter(1000).feed(STREAM) == EVENTS


def test_the_bytes_may_be_cut_at_every_position() -> None:
    for one in range(len(STREAM) + 1):
        for two in (one, min(one + 1, len(STREAM)), min(one + 2, len(STREAM)), (one + len(STREAM)) // 2):
            splitter = sse.Splitter(1000)
            units = [unit for piece in (STREAM[:one], STREAM[one:two], STREAM[two:]) for unit in splitter.feed(piece)]
            assert units == EVENTS
            assert splitter.rest() == b""


def test_byte_by_byte_gives_the_same_events() -> None:
    splitter = sse.Splitter(1000)
    assert [unit for byte in STREAM for unit in splitter.feed(bytes([byte]))] == EVENTS


def test_an_event_that_comes_alone_is_passed_on_without_a_copy() -> None:
    assert sse.Splitter(1000).feed(EVENTS[0])[0] is EVENTS[0]


def test_an_event_without_its_blank_line_is_the_rest() -> None:
    splitter = sse.Splitter(1000)
    assert splitter.feed(b"data: a\n\ndata: b\n") == [b"data: a\n\n"]
    assert splitter.rest() == b"data: b\n"
    assert splitter.rest() == b""


@given(st.lists(st.text(alphabet="\n\r:d", max_size=6).map(str.encode), max_size=30))
def test_no_byte_is_lost_or_moved_and_pieces_make_no_difference(pieces: list[bytes]) -> None:
    splitter = sse.Splitter(10_000)
    units = [unit for piece in pieces for unit in splitter.feed(piece)]
    rest = splitter.rest()
    assert b"".join([*units, rest]) == b"".join(pieces)
    whole = sse.Splitter(10_000)
    assert (whole.feed(b"".join(pieces)), whole.rest()) == (units, rest)


@pytest.mark.parametrize(
    "pieces",
    [(b"data: 12\n\n",), (b"data: 123",), (b"data", b": 123"), (b"data:", b" 12\n\n"), (b"a\n\ndata: 12\n\n",)],
)
def test_an_event_past_the_limit_is_refused_complete_or_not(pieces: tuple[bytes, ...]) -> None:
    splitter = sse.Splitter(8)
    with pytest.raises(UnitTooLong):
        list(map(splitter.feed, pieces))


@pytest.mark.timeout(30)
def test_a_long_event_costs_linear_time_byte_by_byte() -> None:
    """A second; copying the whole event for each byte would take minutes, and the limit above would end it."""
    splitter = sse.Splitter(10_000_000)
    for _ in range(2_000_000):
        splitter.feed(b"x")
    assert [len(unit) for unit in splitter.feed(b"\n\n")] == [2_000_000 + len(b"\n\n")]


def test_an_event_says_its_name_and_its_data() -> None:
    assert sse.fields(b"event: a\r\ndata: 1\r\ndata:2\r\nid: 3\r\n\r\n") == ("a", b"1\n2")
    assert sse.fields(b": comment\n\n") == ("", b"")


@pytest.mark.parametrize(
    ("event", "value"),
    [
        (b'data: {"a":1}\n\n', {"a": 1}),
        (b'data:{"a":\ndata: 1}\n\n', {"a": 1}),
        (b"data: [DONE]\n\n", None),
        (b"data: [1]\n\n", None),
        (b": ping\n\n", None),
        (b"data: " + b"[" * 100_000 + b"\n\n", None),
    ],
)
def test_the_payload_is_an_object_or_nothing(event: bytes, value: object) -> None:
    assert sse.payload(event) == value
