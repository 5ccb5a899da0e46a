"""keep_alive: what Ollama takes is sent as it takes it, and put into a body without touching the rest."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foreman.protocols.keep_alive import (
    FOREVER_NS,
    KeepAliveError,
    insert_keep_alive,
    nanoseconds,
    parse_keep_alive,
)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (300, 300.0),
        (1.5, 1.5),
        (0, 0.0),
        (-1, math.inf),
        (-0.5, math.inf),
        ("5m", 300.0),
        ("0.5s", 0.5),
        ("1h30m", 5400.0),
        ("-1m", math.inf),
        ("0", 0.0),
        ("0s", 0.0),
        ("1.5h", 5400.0),
        ("250ms", 0.25),
        ("1\u00b5s", 1e-6),
        ("1\u03bcs", 1e-6),
        ("+1m", 60.0),
        (".5s", 0.5),
        ("90", None),
        ("-1", None),
        ("", None),
        ("forever", None),
        ("5 m", None),
        ("5d", None),
        ("1e3s", None),
        (True, None),
        ([], None),
        ({}, None),
        ("9223372036854775808ns", None),
        ("0s" * 1000, None),
    ],
)
def test_durations_are_gos(value: object, seconds: float | None) -> None:
    try:
        spent = nanoseconds(value)
    except KeepAliveError:
        assert seconds is None
    else:
        assert (math.inf if spent == FOREVER_NS else spent / 1e9) == seconds


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("90", 'time: missing unit in duration "90"'),
        ("forever", 'time: invalid duration "forever"'),
        ("", 'time: invalid duration ""'),
        ("5d", 'time: unknown unit "d" in duration "5d"'),
        ('"\\é', 'time: invalid duration "\\"\\\\\\xc3\\xa9"'),
        (True, "Unsupported type: 'bool'"),
        ([1], "Unsupported type: '[]interface {}'"),
        ({}, "Unsupported type: 'map[string]interface {}'"),
    ],
)
def test_refusals_use_gos_words(value: object, words: str) -> None:
    with pytest.raises(KeepAliveError) as caught:
        nanoseconds(value)
    assert str(caught.value) == words


def test_a_number_that_overflows_is_gone_at_once_and_yet_no_unload() -> None:
    assert 0 < nanoseconds(9e18) < 1000
    assert nanoseconds(10**400) == nanoseconds(9e18)
    assert nanoseconds(-(10**400)) == FOREVER_NS


@pytest.mark.parametrize(
    ("text", "sent"),
    [
        ("-1", "-1"),
        ("300", "300"),
        ("1.5", "1.5"),
        ("0", "0"),
        (" 15m ", '"15m"'),
        ("1h30m", '"1h30m"'),
        ("-1m", '"-1m"'),
        ("0s", '"0s"'),
    ],
)
def test_the_setting_is_sent_as_ollama_wants_it(text: str, sent: str) -> None:
    assert parse_keep_alive(text) == sent
    assert nanoseconds(json.loads(sent)) >= 0


@pytest.mark.parametrize("text", ["", "forever", "5 minutes", "5d", "nan", "inf", "1e30", "+5", "05", '"5m"', "true"])
def test_a_wrong_setting_is_refused_with_a_sentence(text: str) -> None:
    with pytest.raises(
        ValueError, match=r"is no keep-alive: use seconds \(300\), a duration \(15m, 1h30m\), 0 .* or -1 for ever"
    ):
        parse_keep_alive(text)


@pytest.mark.parametrize(
    ("body", "result"),
    [
        (b'{"model":"m"}', b'{"keep_alive":-1,"model":"m"}'),
        (b' \n{ "model" : "m" } tail', b' \n{"keep_alive":-1, "model" : "m" } tail'),
        (b"{}", b'{"keep_alive":-1}'),
        (b"{ \t\r\n}", b'{"keep_alive":-1 \t\r\n}'),
        (b'{"a":"{\xff","n":1e999}', b'{"keep_alive":-1,"a":"{\xff","n":1e999}'),
    ],
)
def test_it_is_put_in_first_and_nothing_else_changes(body: bytes, result: bytes) -> None:
    assert insert_keep_alive(body, "-1") == result


@given(st.dictionaries(st.text(), st.integers() | st.text()), st.sampled_from([None, 0, 2]))
def test_a_body_with_it_means_the_same(value: dict[str, object], indent: int | None) -> None:
    value.pop("keep_alive", None)
    body = json.dumps(value, indent=indent).encode()
    assert json.loads(insert_keep_alive(body, '"15m"')) == {"keep_alive": "15m", **value}
