"""How a run ends, and what the last bytes of an answer say of it. Pure."""

import json

import pytest

from foreman.core.errors import Code
from foreman.link.channel import Framing
from foreman.upstream.faults import Fault, Kind
from workers.runs import ending, ends
from workers.runs.cutter import RAW_PIECE, Cutter, framing_of
from workers.runs.ends import How
from workers.runs.times import Times


@pytest.mark.parametrize(
    ("kind", "spliced", "how", "code"),
    [
        (Kind.REFUSED, False, How.BACK, None),
        (Kind.REFUSED, True, How.BACK, None),
        (Kind.RESET, False, How.BACK, Code.UPSTREAM_UNREACHABLE),
        (Kind.TRUNCATED, False, How.BACK, Code.UPSTREAM_TRUNCATED),  # nobody has a byte: an async job
        (Kind.TRUNCATED, True, How.FAILED, Code.UPSTREAM_TRUNCATED),
        (Kind.GARBAGE, False, How.FAILED, Code.UPSTREAM_ERROR),
        (Kind.STALLED, False, How.FAILED, Code.STALLED),
    ],
)
def test_a_fault_ends_a_run_by_its_kind(kind, spliced, how, code):
    end = ends.by_fault(Fault(kind, "words"), "gpu1", spliced=spliced)
    assert (end.how, end.failure and end.failure.code) == (how, code)
    assert end.failure is None or end.failure.message == "target gpu1: words"


@pytest.mark.parametrize(
    ("code", "spliced", "how"),
    [
        (Code.CANCELLED, True, How.CANCELLED),
        (Code.CALLER_GONE, False, How.CANCELLED),
        (Code.DEADLINE_EXCEEDED, False, How.FAILED),
        (Code.DEADLINE_EXCEEDED, True, How.FAILED),
        (Code.INTERRUPTED, False, How.BACK),
        (Code.INTERRUPTED, True, How.FAILED),
        (Code.STALLED, False, How.FAILED),
    ],
)
def test_a_wish_ends_a_run_by_its_code(code, spliced, how):
    end = ends.by_wish(code, spliced=spliced)
    assert (end.how, end.failure.code) == (how, code)


def test_who_reads_a_job_that_somebody_cancelled_is_not_told_that_its_caller_did():
    """Two callers with one key are one job; DELETE is anybody's."""
    words = {code: ends.by_wish(code, spliced=False).failure.message for code in (Code.CANCELLED, Code.CALLER_GONE)}
    assert "caller" in words[Code.CALLER_GONE]
    assert "caller" not in words[Code.CANCELLED]


def test_a_leaving_worker_uses_up_no_attempt_and_splices_nothing():
    assert ends.by_leaving(spliced=False) == ends.End(How.BACK, None, "shutdown")
    assert ends.by_leaving(spliced=True).failure.code == Code.INTERRUPTED


LINE = b'{"model":"m","message":{"role":"assistant","content":"\\"done\\":true"},"done":false}\n'
DONE = b'{"model":"m","done":true,"prompt_eval_count":3,"eval_count":5}\n'
CHUNK = b'data: {"model":"m","choices":[{"delta":{"content":"x"}}]}\n\n'


@pytest.mark.parametrize(
    ("endpoint", "framing", "previous", "last", "code", "told"),
    [
        ("/api/chat", Framing.NDJSON, LINE, DONE, None, False),
        ("/api/chat", Framing.NDJSON, DONE, b"\n", None, False),
        ("/api/chat", Framing.NDJSON, LINE, LINE, Code.UPSTREAM_TRUNCATED, False),
        ("/api/chat", Framing.NDJSON, b"", b"", Code.UPSTREAM_TRUNCATED, False),
        ("/api/chat", Framing.NDJSON, LINE, b'{"error":"boom"}\n', Code.UPSTREAM_ERROR, True),
        ("/api/chat", Framing.NDJSON, LINE, b"\xff\x00\n", Code.UPSTREAM_TRUNCATED, False),
        ("/api/pull", Framing.NDJSON, b"", b'{"status":"success"}\n', None, False),
        ("/api/pull", Framing.NDJSON, b"", b'{"status":"pulling"}\n', Code.UPSTREAM_TRUNCATED, False),
        ("/v1/chat/completions", Framing.SSE, CHUNK, b"data: [DONE]\n\n", None, False),
        ("/v1/chat/completions", Framing.SSE, b"data: [DONE]\n\n", b": bye\n\n", None, False),
        ("/v1/chat/completions", Framing.SSE, CHUNK, CHUNK, Code.UPSTREAM_TRUNCATED, False),
        (
            "/v1/chat/completions",
            Framing.SSE,
            CHUNK,
            b'data: {"model":"","choices":[]}\n\n',
            Code.UPSTREAM_ERROR,
            False,
        ),
        ("/v1/chat/completions", Framing.SSE, CHUNK, b'data: {"error":{"message":"x"}}\n\n', Code.UPSTREAM_ERROR, True),
        ("/v1/messages", Framing.SSE, b"", b'event: message_stop\ndata: {"type":"message_stop"}\n\n', None, False),
        ("/v1/messages", Framing.SSE, b"", b"event: ping\ndata: {}\n\n", Code.UPSTREAM_TRUNCATED, False),
        ("/v1/responses", Framing.SSE, b"", b'data: {"type":"response.completed","response":{}}\n\n', None, False),
        ("/v1/unheard-of", Framing.SSE, b"", CHUNK, None, False),
    ],
)
def test_an_answer_is_whole_only_with_its_own_end_mark(endpoint, framing, previous, last, code, told):
    got = ending.ending(endpoint, framing, previous, last)
    assert (got.failure and got.failure.code, got.told) == (code, told)


@pytest.mark.parametrize(
    ("endpoint", "body", "code"),
    [
        ("/api/chat", b"{}", None),
        ("/api/chat", b'{"message":{"conte', Code.UPSTREAM_TRUNCATED),
        ("/v1/chat/completions", b' {"choices":[]', Code.UPSTREAM_TRUNCATED),
        ("/v1/chat/completions", b'{"half a character":"\xe2\x82"}', None),
        ("/v1/chat/completions", b"", Code.UPSTREAM_ERROR),
        ("/v1/messages", b"<html>Sign in</html>", Code.UPSTREAM_ERROR),
        ("/v1/messages", b"[1]", None),
        ("/v1/unheard-of", b"PNG", None),
        # streams under another content type, as some servers send them
        ("/api/chat", LINE + DONE, None),
        ("/api/chat", LINE, None),
        ("/api/chat", LINE + LINE, Code.UPSTREAM_ERROR),
        ("/v1/chat/completions", CHUNK + b"data: [DONE]\r\n\r\n", None),
        ("/v1/chat/completions", CHUNK, Code.UPSTREAM_ERROR),
        ("/v1/messages", b'event: message_stop\ndata: {"type":"message_stop"}\n\n', None),
    ],
)
def test_an_unstreamed_answer_is_json(endpoint, body, code):
    got = ending.whole(endpoint, body)
    assert (got.failure and got.failure.code, got.told) == (code, False)


@pytest.mark.parametrize(
    ("framing", "previous", "last", "counts"),
    [
        (Framing.NDJSON, LINE, DONE, {"prompt_tokens": 3, "completion_tokens": 5}),
        (Framing.SSE, b'data: {"usage":{"prompt_tokens":1,"completion_tokens":2}}\n\n', b"data: [DONE]\n\n", (1, 2)),
        (Framing.RAW, b"", b'{"usage":{"input_tokens":4,"output_tokens":6}}', (4, 6)),
        (Framing.RAW, b"", b'{"embeddings":[[1]],"prompt_eval_count":7}', {"prompt_tokens": 7}),
        (Framing.RAW, b"", b"not json", {}),
    ],
)
def test_usage_is_read_from_the_end(framing, previous, last, counts):
    want = (
        counts if isinstance(counts, dict) else dict(zip(("prompt_tokens", "completion_tokens"), counts, strict=True))
    )
    assert ending.usage(framing, previous, last) == want


@pytest.mark.parametrize(
    ("endpoint", "body", "counts"),
    [
        ("/api/chat", b'{"done":true,"prompt_eval_count":3,"eval_count":5}', (3, 5)),
        ("/v1/chat/completions", b'{"usage":{"prompt_tokens":4,"completion_tokens":6}}', (4, 6)),
        ("/v1/messages", b"[1]", ()),
    ],
)
def test_an_unstreamed_answer_is_read_once_for_its_end_and_its_usage(monkeypatch, endpoint, body, counts):
    read = []
    loads = json.loads
    monkeypatch.setattr(json, "loads", lambda text: read.append(text) or loads(text))
    cutter = Cutter(endpoint, 200, (("Content-Type", "application/json"),))
    cutter.feed(body)
    cutter.rest()
    assert cutter.ending() == ending.Ending(usage=cutter.usage())
    assert cutter.usage() == dict(zip(("prompt_tokens", "completion_tokens"), counts, strict=False))
    assert len(read) == 1


def test_framing_goes_by_content_type_and_never_into_what_is_compressed():
    ndjson = ("Content-Type", "application/x-ndjson; charset=utf-8")
    assert framing_of((ndjson,)) is Framing.NDJSON
    assert framing_of((("content-type", "Text/Event-Stream"),)) is Framing.SSE
    assert framing_of((ndjson, ("Content-Encoding", "gzip"))) is Framing.RAW
    assert framing_of(()) is Framing.RAW


def test_a_large_piece_of_no_stream_is_passed_on_in_pieces():
    cutter = Cutter("/api/embed", 200, (("Content-Type", "application/json"),))
    pieces = cutter.feed(b"x" * (2 * RAW_PIECE + 1))
    assert [len(piece) for piece in pieces] == [RAW_PIECE, RAW_PIECE, 1]


def test_timings_are_milliseconds_that_add_up():
    times = Times(claimed=100.0, working=102.0, first=102.5, ended=104.5, loading=1.5)
    assert times.timings(queued=3.0, now=0, tokens=5) == {
        "queued_ms": 3000,
        "loading_ms": 1500,
        "ttft_ms": 500,
        "tpot_ms": 500,
        "total_ms": 7500,
    }
    assert Times(claimed=1.0).timings(queued=0, now=2.0, tokens=0) == {"queued_ms": 0, "total_ms": 1000}
