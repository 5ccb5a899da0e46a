"""Artifacts in a job object: whatever a target answered, the object is JSON that anybody reads."""

from __future__ import annotations

import json

import pytest

from foreman.protocols import job_object


def _refuse(word: str) -> None:
    raise AssertionError(word)


@pytest.mark.parametrize(
    "body", [b'{"x":NaN}', b'{"x":-Infinity}', b'{"x":1e999}', b'{"x":' * 5000 + b"1" + b"}" * 5000]
)
def test_an_answer_that_is_no_json_stands_inline_as_text(body: bytes) -> None:
    entry = job_object.artifact("id", "completion", "application/json", len(body), "", body)
    assert json.loads(job_object.encode(entry), parse_constant=_refuse)["inline"] == body.decode()


def test_an_answer_stands_inline_as_its_value() -> None:
    entry = job_object.artifact("id", "completion", "application/json", 9, "", b'{"x":1.5}')
    assert json.loads(job_object.encode(entry))["inline"] == {"x": 1.5}
