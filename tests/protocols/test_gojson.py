"""JSON as Go reads and writes it, checked against what encoding/json itself says (Go 1.26)."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foreman.protocols import gojson
from foreman.protocols.goscan import EmptyBodyError, GoJSONError, Span, scan


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("{", "unexpected EOF"),
        ('{"a', "unexpected EOF"),
        ('{"a"', "unexpected EOF"),
        ('{"a":', "unexpected EOF"),
        ('{"a":1', "unexpected EOF"),
        ('{"a":"\\', "unexpected EOF"),
        ('{"a":"\\u12', "unexpected EOF"),
        ('{"a":-', "unexpected EOF"),
        ('{"a":tru', "unexpected EOF"),
        ('{"a":1.', "unexpected EOF"),
        ('{"a":1e+', "unexpected EOF"),
        ("12.", "unexpected EOF"),
        ('{"a" 1}', "invalid character '1' after object key"),
        ('{"a":1 "b":2}', "invalid character '\"' after object key:value pair"),
        ("[1 2]", "invalid character '2' after array element"),
        ("[1,]", "invalid character ']' looking for beginning of value"),
        ("{'a':1}", "invalid character '\\'' looking for beginning of object key string"),
        ('{"a":"\\x"}', "invalid character 'x' in string escape code"),
        ('{"a":"\\u12G4"}', "invalid character 'G' in \\u hexadecimal character escape"),
        ('{"a":"\x01"}', "invalid character '\\x01' in string literal"),
        ('{"a":-x}', "invalid character 'x' in numeric literal"),
        ('{"a":1.x}', "invalid character 'x' after decimal point in numeric literal"),
        ('{"a":1ex}', "invalid character 'x' in exponent of numeric literal"),
        ('{"a":01}', "invalid character '1' after object key:value pair"),
        ('{"a":trux}', "invalid character 'x' in literal true (expecting 'e')"),
        ('{"a":[[{"b":nil}]]}', "invalid character 'i' in literal null (expecting 'u')"),
        ('{"a":{"b":1,}}', "invalid character '}' looking for beginning of object key string"),
        ("}", "invalid character '}' looking for beginning of value"),
    ],
)
def test_what_is_wrong_is_said_in_gos_words(body: str, words: str) -> None:
    for reader in (gojson.read, scan):
        with pytest.raises(GoJSONError) as caught:
            reader(body.encode())  # type: ignore[operator]  # both take the body
        assert str(caught.value) == words


def test_nothing_at_all_is_no_broken_json() -> None:
    for body in (b"", b" \r\n\t"):
        with pytest.raises(EmptyBodyError):
            gojson.read(body)


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b"5", "number"),
        (b"-0.5e3x", "number"),
        (b'"a"', "string"),
        (b"true", "bool"),
        (b"false!", "bool"),
        (b"null", "null"),
        (b"[1]", "array"),
        (b"{} {", "object"),
    ],
)
def test_the_first_value_counts_and_what_follows_is_ignored(body: bytes, kind: str) -> None:
    assert gojson.read(body).kind == kind
    assert scan(body).kind == kind


def test_members_come_in_order_with_duplicates() -> None:
    top = gojson.read(b' { "a" : 1 , "A":[2,{"b":3}],"a":null,"\\u0062":"\xff"}')
    assert [(member.key, member.value) for member in top.members] == [
        ("a", 1),
        ("A", [2, {"b": 3}]),
        ("a", None),
        ("b", "\ufffd"),
    ]
    assert [member.source for member in top.members][:2] == ["1", '[2,{"b":3}]']


def test_spans_are_those_of_the_top_level() -> None:
    body = b'{"a":{"x":1},"b":[1,2,{"c":[]}] ,"d":"e"}'
    spans = scan(body).spans
    assert all(isinstance(span, Span) for span in spans)
    assert [(body[span.key_start : span.key_end], body[span.start : span.end]) for span in spans] == [
        (b'"a"', b'{"x":1}'),
        (b'"b"', b'[1,2,{"c":[]}]'),
        (b'"d"', b'"e"'),
    ]


@pytest.mark.parametrize("depth", [900, 5000, 9999, 10_000])
def test_nesting_go_bears_is_borne(depth: int) -> None:
    top = gojson.read(b'{"a":' + b"[" * (depth - 1) + b"]" * (depth - 1) + b',"b":7}')
    assert [member.key for member in top.members] == ["a", "b"]
    assert top.members[0].value
    assert top.members[1].value == 7


def test_nesting_go_refuses_is_refused() -> None:
    with pytest.raises(GoJSONError, match="exceeded max depth"):
        gojson.read(b"[" * 10_001 + b"]" * 10_001)


_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=10,
)


@given(st.dictionaries(st.text(max_size=8), _values, max_size=5), st.booleans(), st.sampled_from([None, 1]))
def test_both_readers_agree_with_python_on_sound_json(
    value: dict[str, object], ascii_only: bool, indent: int | None
) -> None:
    body = json.dumps(value, ensure_ascii=ascii_only, indent=indent).encode("utf-8", "surrogatepass")
    top = gojson.read(body)
    assert top.kind == "object"
    spans = scan(body).spans
    assert [(body[span.start : span.end]) for span in spans] == [
        member.source.encode("utf-8", "surrogatepass") or body[span.start : span.end]
        for member, span in zip(top.members, spans, strict=True)
    ]
    if b"\xed" not in body:
        assert {member.key: member.value for member in top.members} == value


@given(st.binary(max_size=40), st.integers(0, 60))
def test_both_readers_agree_on_garbage(noise: bytes, at: int) -> None:
    sound = b'{"model":"a","options":{"num_ctx":[1,-2.5e3,true,null]},"b":"\\u00e9\\n"}'
    body = sound[:at] + noise + sound[at:]

    def verdict(read: object) -> str:
        try:
            return str(read(body).kind)  # type: ignore[operator]  # one of two readers
        except GoJSONError as error:
            return f"refused: {error}"

    assert verdict(gojson.read) == verdict(scan)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ({"error": "a<b>&c"}, '{"error":"a\\u003cb\\u003e\\u0026c"}'),
        ({"error": "é\u2028\u2029\x85"}, '{"error":"é\\u2028\\u2029\\u0085"}'),
        ({"error": '\x00\x1f\b\f\n\r\t"\\/\x7f'}, '{"error":"\\u0000\\u001f\\b\\f\\n\\r\\t\\"\\\\/\x7f"}'),
        ({"error": "\ud800"}, '{"error":"\ufffd"}'),
        ({"a": [1, True, None, 0.5]}, '{"a":[1,true,null,0.5]}'),
    ],
)
def test_json_is_written_as_go_writes_it(value: object, text: str) -> None:
    assert gojson.dumps(value) == text.encode()


@pytest.mark.parametrize(
    ("source", "number"),
    [
        ("1e999", "1e999"),
        ('{"a":[1,-1E400]}', "-1E400"),
        ("9" * 309, "9" * 309),
        ("9" * 300 + "e20", "9" * 300 + "e20"),
        ('{"a":"1e999"}', None),
        ('"\\"1e999"', None),
        ("1e308", None),
        ("1e-999", None),
    ],
)
def test_numbers_no_float64_holds_are_found(source: str, number: str | None) -> None:
    assert gojson.overflow(source) == number


@pytest.mark.timeout(20)
def test_a_bomb_is_not_built() -> None:
    with pytest.raises(GoJSONError, match="more than 500000 objects, arrays and members"):
        gojson.read(b'{"messages":[' + b"[1]," * 4_000_000 + b"1]}", whole=True)


@pytest.mark.parametrize("deep", [9_999, 10_000])
def test_a_flat_value_nests_no_deeper_than_any_other(deep: int) -> None:
    """The body's object is the first level; the innermost list is taken in one go where it may be."""
    body = b'{"messages":' + b"[" * (deep - 1) + b'[1],{"a":2},3' + b"]" * (deep - 1) + b"}"
    if deep == 10_000:
        with pytest.raises(GoJSONError, match="exceeded max depth"):
            scan(body)
    else:
        assert scan(body).kind == "object"


@given(
    st.recursive(
        st.none() | st.integers() | st.text(max_size=3), lambda i: st.lists(i) | st.dictionaries(st.text(max_size=3), i)
    )
)
def test_flat_runs_and_single_steps_see_the_same(value: object) -> None:
    body = json.dumps({"a": value, "b": [value, value], "c": {"d": value}}).encode()
    for text in (body, body[:-3], body.replace(b",", b",,", 1), body.replace(b"]", b"}", 1)):
        seen = []
        for each in (False, True):
            try:
                seen.append(scan(text, each=each))
            except GoJSONError as error:
                seen.append(str(error))
        assert seen[0] == seen[1]
