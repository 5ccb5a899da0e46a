"""Foreman's own fields: off the payload, which keeps every other byte; and back again, byte for byte."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foreman.protocols.envelope import OWN_LIMIT, put_back, take_off
from foreman.protocols.goscan import GoJSONError

OWN = ("priority", "metadata")


@pytest.mark.parametrize(
    ("body", "payload", "own"),
    [
        (b'{"model":"m"}', b'{"model":"m"}', {}),
        (b'{"priority":"low","model":"m"}', b'{"model":"m"}', {"priority": "low"}),
        (b'{"model":"m", "priority" : "low" }', b'{"model":"m" }', {"priority": "low"}),
        (b'{ "priority":"low" }', b"{  }", {"priority": "low"}),
        (
            b'{"a":1,\n"priority":"low",\n"metadata":{"b":[1]},"c":"\xff"} \n',
            b'{"a":1,\n"c":"\xff"} \n',
            {"priority": "low", "metadata": {"b": [1]}},
        ),
        (b'{"priority":1,"a":2,"priority":3}', b'{"a":2}', {"priority": 3}),
        (b'{"a":{"priority":"low"},"Priority":1}', b'{"a":{"priority":"low"},"Priority":1}', {}),
        (b'{"pri\\u006frity":"low","a":1}', b'{"a":1}', {"priority": "low"}),
    ],
)
def test_taken_off_and_put_back(body: bytes, payload: bytes, own: dict[str, object]) -> None:
    taken = take_off(body, OWN)
    assert (taken.payload, taken.own) == (payload, own)
    assert put_back(taken.payload, taken.cuts) == body


_values = st.recursive(st.none() | st.booleans() | st.integers() | st.text(), st.lists, max_leaves=5)


@given(
    st.lists(st.tuples(st.sampled_from(("a", "b", "priority", "metadata")), _values), max_size=6),
    st.sampled_from((None, 1)),
)
def test_any_object(members: list[tuple[str, object]], indent: int | None) -> None:
    pieces = [f"{json.dumps(name)}: {json.dumps(value, indent=indent)}" for name, value in members]
    body = ("{" + " ,\n".join(pieces) + "}").encode()
    taken = take_off(body, OWN)
    assert put_back(taken.payload, taken.cuts) == body
    assert json.loads(taken.payload) == {name: value for name, value in members if name not in OWN}
    assert taken.own == {name: value for name, value in members if name in OWN}


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[1]",
        b'"x"',
        b"{",
        b'{"a":1,}',
        b'{"a":1} tail',
        b"{}{}",
        b'{"metadata":' + b"[" * 12_000 + b"]" * 12_000 + b"}",
    ],
)
def test_what_is_no_job(body: bytes) -> None:
    with pytest.raises(GoJSONError):
        take_off(body, OWN)


def test_own_fields_are_bounded() -> None:
    with pytest.raises(GoJSONError, match="own fields"):
        take_off(b'{"metadata":"' + b"x" * OWN_LIMIT + b'"}', OWN)
