"""Frames of the link: bytes in, frames out, however the bytes are cut; and the table of a run's moves."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foreman.core.errors import RETRYABLE, Code, Failure
from foreman.protocols import link as codec
from foreman.protocols.link import HEADER, MAX_FRAME, MAX_SKIP, MOVES, Decoder, FrameError, Kind, Stage

HEADERS = (("Content-Type", "text/event-stream"), ("x-Odd-Case", "a, b"), ("X-Twice", "1"), ("X-Twice", "2"))

PLAY = [
    (codec.started(1, 7, "01JOB"), (Kind.STARTED, 1, b"\0\0\0\0\0\0\0\x0701JOB")),
    (codec.frame(Kind.WORKING, 1), (Kind.WORKING, 1, b"")),
    (codec.frame(Kind.DATA, 1, b"{}\n"), (Kind.DATA, 1, b"{}\n")),
    (codec.frame(Kind.DATA, 2, b""), (Kind.DATA, 2, b"")),
    (codec.frame(Kind.DATA, 2, b"\0" * 300), (Kind.DATA, 2, b"\0" * 300)),
    (codec.frame(Kind.END, 1), (Kind.END, 1, b"")),
    (codec.credit(2, 65536), (Kind.CREDIT, 2, b"\0\0\0\0\0\x01\0\0")),
    (codec.cancel(2**32 - 1, Code.CALLER_GONE), (Kind.CANCEL, 2**32 - 1, b"caller_gone")),
    (codec.refused(3, Code.INTERRUPTED), (Kind.REFUSED, 3, b"interrupted")),
    (HEADER.pack(4, 200, 9) + b"next", (200, 9, b"next")),
    (codec.frame(Kind.PING, 0), (Kind.PING, 0, b"")),
]
WIRE = b"".join(said for said, _ in PLAY)
HEARD = [heard for _, heard in PLAY]


def test_frames_come_out_as_they_went_in():
    assert Decoder().feed(WIRE) == HEARD


def test_frames_cut_at_every_position():
    for cut in range(len(WIRE) + 1):
        decoder = Decoder()
        assert decoder.feed(WIRE[:cut]) + decoder.feed(WIRE[cut:]) == HEARD, cut


def test_frames_byte_by_byte():
    decoder = Decoder()
    assert [frame for byte in WIRE for frame in decoder.feed(bytes([byte]))] == HEARD


@given(st.lists(st.integers(0, len(WIRE)), max_size=8))
def test_frames_cut_anywhere(cuts):
    edges = [0, *sorted(cuts), len(WIRE)]
    decoder = Decoder()
    assert [f for a, b in itertools.pairwise(edges) for f in decoder.feed(WIRE[a:b])] == HEARD


def test_a_frame_is_given_as_soon_as_its_last_byte_is_there():
    decoder = Decoder()
    for said, heard in PLAY:
        assert decoder.feed(said[:-1]) == []
        assert decoder.feed(said[-1:]) == [heard]


def test_a_frame_past_the_limit_is_skipped_at_every_cut_and_its_neighbours_live():
    wire = codec.frame(Kind.WORKING, 1) + codec.frame(Kind.DATA, 2, b"x" * 101) + codec.frame(Kind.END, 3)
    for cut in range(len(wire) + 1):
        decoder = Decoder(limit=100)
        heard = decoder.feed(wire[:cut]) + decoder.feed(wire[cut:])
        assert [(kind, job) for kind, job, _ in heard] == [(Kind.WORKING, 1), (Kind.BROKEN, 2), (Kind.END, 3)], cut


def test_a_skipped_frame_holds_no_memory():
    decoder = Decoder()
    assert decoder.feed(HEADER.pack(MAX_FRAME + 1, Kind.DATA, 5)) == [
        (Kind.BROKEN, 5, b"kind 19 with %d bytes" % (MAX_FRAME + 1))
    ]
    for _ in range(16):
        assert decoder.feed(bytes(1024 * 1024)) == []
        assert decoder._parts == []
    assert decoder.feed(b"\0" + codec.frame(Kind.END, 6)) == [(Kind.END, 6, b"")]


def test_the_longest_frame_passes_in_pieces():
    unit = bytes(MAX_FRAME)
    decoder = Decoder()
    wire = codec.frame(Kind.DATA, 1, unit)
    heard = [frame for at in range(0, len(wire), 65536) for frame in decoder.feed(wire[at : at + 65536])]
    assert heard == [(Kind.DATA, 1, unit)]


def test_a_length_that_is_no_length_loses_the_connection():
    with pytest.raises(FrameError, match="border"):
        Decoder().feed(HEADER.pack(MAX_SKIP + 1, Kind.DATA, 1))
    with pytest.raises(FrameError, match="border"):
        Decoder().feed(b"GET / HTTP/1.1\r\n")


def test_payloads_survive_the_way():
    assert codec.parse_started(codec.started(1, 2**63, "01JOB")[9:]) == (2**63, "01JOB")
    assert codec.parse_head(codec.head(1, 404, HEADERS, 2)[9:]) == (404, HEADERS, 2)
    assert codec.parse_credit(codec.credit(1, 2**40)[9:]) == 2**40
    assert [codec.parse_code(codec.cancel(1, code)[9:]) for code in Code] == list(Code)


@given(st.lists(st.tuples(st.text(), st.text())), st.integers(100, 999))
def test_any_header_survives(headers, status):
    headers = (*headers, ("raw", "caf\udce9"))
    assert codec.parse_head(codec.head(1, status, headers, 0)[9:]) == (status, headers, 0)


@pytest.mark.parametrize("code", list(Code))
def test_any_failure_survives(code):
    said = Failure(code, 'words with "quotes" – ü', status=418, retryable=code not in RETRYABLE, retry_after=0.5)
    heard = codec.parse_error(codec.error(1, said)[9:])
    for name in ("code", "message", "status", "retryable", "retry_after"):
        assert getattr(heard, name) == getattr(said, name)


def test_a_failure_of_a_newer_version_keeps_its_words():
    heard = codec.parse_error(b'{"code":"moon_phase","message":"wait","status":599,"retryable":true,"new":1}')
    assert (heard.code, heard.message, heard.status, heard.retryable) == (Code.INTERRUPTED, "wait", 599, True)
    assert codec.parse_code(b"moon_phase") is Code.CANCELLED


@pytest.mark.parametrize(
    ("parse", "payload"),
    [
        (codec.parse_started, b""),
        (codec.parse_started, b"\0" * 8),
        (codec.parse_started, b"\0" * 8 + b"\xff"),
        (codec.parse_head, b""),
        (codec.parse_head, b"{"),
        (codec.parse_head, b"[1]"),
        (codec.parse_head, b"\xff\xfe"),
        (codec.parse_head, b"[" * 100_000),
        (codec.parse_head, b'{"status":"200","headers":[],"framing":0}'),
        (codec.parse_head, b'{"status":true,"headers":[],"framing":0}'),
        (codec.parse_head, b'{"status":200,"headers":{},"framing":0}'),
        (codec.parse_head, b'{"status":200,"headers":[["a"]],"framing":0}'),
        (codec.parse_head, b'{"status":200,"headers":[["a",1]],"framing":0}'),
        (codec.parse_head, b'{"status":200,"headers":["ab"],"framing":0}'),
        (codec.parse_error, b"no"),
        (codec.parse_error, b'{"code":"stalled"}'),
        (codec.parse_error, b'{"code":"stalled","message":"m","status":"x"}'),
        (codec.parse_error, b'{"code":"stalled","message":"m","retry_after":"x"}'),
        (codec.parse_credit, b""),
        (codec.parse_credit, b"\0" * 9),
    ],
)
def test_a_payload_that_says_nothing_is_a_frame_error(parse, payload):
    with pytest.raises(FrameError):
        parse(payload)


def test_every_stage_but_the_last_has_a_way_out_and_the_last_has_none():
    out = {stage: {kind for (at, kind) in MOVES if at is stage} for stage in Stage}
    assert out[Stage.OVER] == set()
    for stage in Stage:
        if stage is not Stage.OVER:
            assert {Kind.ERROR, Kind.BACK} <= out[stage]
    assert [at for (at, kind) in MOVES if kind in {Kind.DATA, Kind.END}] == [Stage.BODY, Stage.BODY]


def test_numbers_of_kinds_are_frozen():
    assert {kind.name: kind.value for kind in Kind} == {
        "BROKEN": 0, "HELLO": 1, "CHALLENGE": 2, "PROOF": 3, "WELCOME": 4, "REJECT": 5, "PING": 6, "PONG": 7,
        "STARTED": 16, "WORKING": 17, "HEAD": 18, "DATA": 19, "END": 20, "ERROR": 21, "BACK": 22, "HELD": 24,
        "CREDIT": 32, "CANCEL": 33, "REFUSED": 34, "SPOOL": 36,
    }  # fmt: skip
