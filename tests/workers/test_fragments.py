"""Every recorded stream of every dialect, re-cut at each byte: the same units, the same verdict, the same answer."""

from __future__ import annotations

import json

import pytest

from foreman.link.channel import Framing
from foreman.web.calls.call import WRAPPED
from foreman.web.calls.manner import Manner
from foreman.web.calls.replayed import Replayed
from foreman.web.dialect import Dialect
from tests.demo.recordings import read
from tests.web.calls.relay_script import FakeWire, Worker
from workers.runs.cutter import Cutter, framing_of


def streams() -> dict[str, tuple[str, tuple[tuple[str, str], ...], bytes]]:
    """Each recorded answer that came as lines or events: path, headers, body."""
    found = {}
    exchanges = [(one["name"], one) for one in read("exchanges.jsonl")]
    for scenario in read("scenarios.jsonl"):
        parts = scenario.get("exchanges", scenario.get("steps", []))
        exchanges += [(f"{scenario['name']}/{number}", part) for number, part in enumerate(parts)]
    for name, one in exchanges:
        response = one.get("response") or {}
        headers = tuple((key, value) for key, value in response.get("headers", ()))
        body = response.get("body")
        if isinstance(body, str) and body and framing_of(headers) is not Framing.RAW and response["status"] == 200:
            found[name] = (one["request"]["path"], headers, body.encode())
    return found


STREAMS = streams()


def cut(name: str, pieces: list[bytes]) -> tuple[list[bytes], object]:
    """The units of a body that came in these pieces, and how its end is judged."""
    path, headers, _ = STREAMS[name]
    cutter = Cutter(path, 200, headers)
    units = [unit for piece in pieces for unit in cutter.feed(piece)]
    units += cutter.rest()
    return units, (repr(cutter.ending()), cutter.usage(), cutter.count)


def test_there_are_streams_of_all_dialects():
    paths = {path for path, _, _ in STREAMS.values()}
    assert {"/api/chat", "/api/generate", "/v1/chat/completions", "/v1/completions", "/v1/messages"} <= paths


@pytest.mark.parametrize("name", STREAMS)
def test_a_stream_cut_anywhere_gives_the_same_units_and_verdict(name):
    body = STREAMS[name][2]
    whole = cut(name, [body])
    assert b"".join(whole[0]) == body
    assert cut(name, [body[at : at + 1] for at in range(len(body))]) == whole
    step = max(1, len(body) // 2000)  # the longest ones at two thousand places
    for at in range(1, len(body), step):
        assert cut(name, [body[:at], body[at:]]) == whole, at


@pytest.mark.looptime
@pytest.mark.parametrize(
    ("name", "wrap"),
    [(name, wrap) for name in STREAMS for wrap in ((False, True) if STREAMS[name][0] in WRAPPED else (False,))],
)
async def test_from_any_byte_on_the_rest_goes_out_and_nothing_else(name, wrap):
    path, headers, body = STREAMS[name]
    cutter = Cutter(path, 200, headers)
    units = [*cutter.feed(body), *cutter.rest()]

    def out(begin: int) -> bytes:
        wire = FakeWire()
        relay = Replayed(wire, Manner(Dialect(path), stream=True, wrap=wrap), "JOB", begin)
        relay.started(1, Worker())
        relay.head(cutter.head)
        for unit in units:
            relay.data(unit)
        relay.end()
        relay.close()
        assert wire.end == "finished"
        return wire.body

    whole = out(0)
    if not wrap:
        assert whole == body
    elif json.loads(units[-1]).get("error") is None:
        assert whole.endswith(b"data: [DONE]\n\n")
    for begin in range(1, len(whole) + 1, max(1, len(whole) // 100)):
        assert out(begin) == whole[begin:]
