"""Foreman's own fields of a job: what is taken, and how what is wrong is refused, by its name."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from foreman.core.errors import Failure
from foreman.core.jobs import State
from foreman.protocols.job_request import FURTHEST, LONGEST, METADATA_LIMIT, OWN, URL_LIMIT, check

NOW = 1_800_000_000.0  # 2027-01-15T08:00:00Z


def test_the_names() -> None:
    assert {
        *("state_webhook_url", "webhook_events", "endpoint", "priority", "deadline_seconds", "not_before", "metadata")
    } == OWN


def test_nothing_said() -> None:
    asked = check(dict.fromkeys(OWN), NOW)
    assert asked.endpoint == "/api/chat"
    assert {getattr(asked, name) for name in OWN - {"endpoint"}} == {None}


def test_everything_said() -> None:
    asked = check(
        {
            "state_webhook_url": "https://example.com/hook",
            "webhook_events": ["job.done", "failed", "done"],
            "endpoint": "/v1/chat/completions",
            "priority": "low",
            "deadline_seconds": 10**400,
            "not_before": "2027-01-15t09:00:00.5+00:00",
            "metadata": {"a": "ä" * 2044},
        },
        NOW,
    )
    assert asked.webhook_events == (State.DONE, State.FAILED)
    assert asked.deadline_seconds == LONGEST
    assert asked.not_before == NOW + 3600.5
    assert asked.metadata == {"a": "ä" * 2044}, "4096 bytes exactly"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("endpoint", "/api/show"),
        ("endpoint", ["/api/chat"]),
        ("priority", "urgent"),
        ("priority", {}),
        ("state_webhook_url", ""),
        ("state_webhook_url", 7),
        ("state_webhook_url", "https://example.com/" + "x" * URL_LIMIT),
        ("webhook_events", []),
        ("webhook_events", "done"),
        ("webhook_events", ["done", "finished"]),
        ("webhook_events", ["job.job.done"]),
        ("webhook_events", [["done"]]),
        ("deadline_seconds", 0),
        ("deadline_seconds", -1),
        ("deadline_seconds", True),
        ("deadline_seconds", "60"),
        ("deadline_seconds", float("inf")),
        ("deadline_seconds", float("nan")),
        ("not_before", "tonight"),
        ("not_before", "2027-01-15"),
        ("not_before", "2027-01-15T09:00:00"),
        ("not_before", "2027-02-30T09:00:00Z"),
        ("not_before", "2027-01-15T09:00:00+99:99"),
        ("not_before", 1_800_000_000),
        ("not_before", "2027-01-22T08:00:01Z"),
        ("metadata", []),
        ("metadata", {"a": "ä" * 2044 + "x"}),
        ("metadata", {"a": float("inf")}),
    ],
)
def test_a_wrong_field_is_named(field: str, value: object) -> None:
    with pytest.raises(Failure) as refused:
        check({field: value}, NOW)
    assert refused.value.status == 422
    assert refused.value.message.startswith(f"{field}: ")
    assert "\n" not in refused.value.message


def test_seven_days_ahead_is_not_too_far() -> None:
    assert check({"not_before": "2027-01-22T08:00:00Z"}, NOW).not_before == NOW + FURTHEST
    assert METADATA_LIMIT == 4096


def test_a_leap_second_is_the_one_after() -> None:
    assert check({"not_before": "2026-12-31T23:59:60Z"}, NOW).not_before == datetime(2027, 1, 1, tzinfo=UTC).timestamp()
    with pytest.raises(Failure):
        check({"not_before": "2026-12-31T23:59:61Z"}, NOW)
