"""Webhook headers: what other people's verifiers accept, and what they would have to refuse."""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
import time
from typing import TYPE_CHECKING

import pytest
from standardwebhooks.webhooks import Webhook, WebhookVerificationError

from foreman.protocols import webhook

if TYPE_CHECKING:
    from collections.abc import Iterator

NOW = 1_790_000_000
WORDS = "correct horse"
WHSEC = "whsec_" + base64.b64encode(b"0123456789abcdef0123456789abcdef").decode()


def official(secret: str) -> Webhook:
    """The library takes base64 only: other secrets as their bytes."""
    return Webhook("whsec_" + base64.b64encode(webhook.key(secret)).decode())


@pytest.mark.parametrize("secret", [WORDS, WHSEC, "ü€"])
@pytest.mark.parametrize("body", [b"{}", '{"a":"ü"}'.encode(), b'{"big":"' + b"x" * 300_000 + b'"}'])
def test_the_official_library_verifies(secret: str, body: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    stamp = int(time.time())
    given = webhook.headers([secret], "evt_01ABC_3", stamp, body)
    official(secret).verify(body, given)
    with pytest.raises(WebhookVerificationError):
        official(secret).verify(body + b" ", given)
    webhook.verify([secret], given, body, stamp)


def test_a_receiver_of_the_original_foreman_verifies() -> None:
    body = os.urandom(64)
    given = webhook.headers([WORDS, "old"], "evt_1_1", NOW, body)
    kind, _, digest = given["X-Foreman-Signature"].partition("=")
    assert kind == "sha256"
    assert hmac.compare_digest(digest, hmac.new(WORDS.encode(), body, hashlib.sha256).hexdigest())


def test_two_secrets_while_one_is_replaced() -> None:
    given = webhook.headers(["new", "old"], "evt_1_1", NOW, b"{}")
    assert len(given["webhook-signature"].split()) == 2
    for secret in ("new", "old"):
        webhook.verify([secret], given, b"{}", NOW)
    with pytest.raises(webhook.SignatureError, match="another secret"):
        webhook.verify(["other"], given, b"{}", NOW)


def test_without_a_secret_there_is_no_signature() -> None:
    assert set(webhook.headers([], "evt_1_1", NOW, b"{}")) == {"webhook-id", "webhook-timestamp"}


@pytest.mark.parametrize(
    ("change", "why"),
    [({"webhook-timestamp": str(NOW - 301)}, "away from now"), ({"webhook-id": ""}, "lacks"),
     ({"webhook-signature": "nonsense"}, "none of this secret"), ({"webhook-timestamp": "soon"}, "lacks"),
     ({"webhook-timestamp": "\u00b2"}, "lacks"), ({"webhook-timestamp": "9" * 5000}, "lacks"),
     ({"webhook-id": "evt_1_2"}, "none of this secret")],
)  # fmt: skip
def test_what_is_not_verified(change: dict[str, str], why: str) -> None:
    given = webhook.headers([WORDS], "evt_1_1", NOW, b"{}") | change
    with pytest.raises(webhook.SignatureError, match=why):
        webhook.verify([WORDS], given, b"{}", NOW)


@pytest.fixture
def far_east(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """This machine's clock stands in Tokyo: dates of HTTP are in UTC all the same."""
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "Asia/Tokyo")
        time.tzset()
        yield
    time.tzset()


@pytest.mark.parametrize(
    ("value", "seconds"),
    [(None, 0), ("", 0), ("7", 7), ("-1", 0), ("1.5", 0), ("soon", 0), ("9999999", 129_600), ("²", 0), ("9" * 4000, 129_600),
     ("9999999999", 129_600), ("Fri, 31 Dec 9999 23:59:59 GMT", 129_600), ("Monday, 21-Sep-26 14:14:50 GMT", 90),
     ("Mon Sep 21 14:14:50 2026", 90), ("Mon, 21 Sep 2026 14:14:50 GMT", 90), ("Mon, 21 Sep 2020 14:14:50 GMT", 0), ("Mon, 99 Sep 2026 14:14:50 GMT", 0)],
)  # fmt: skip
@pytest.mark.usefixtures("far_east")
def test_retry_after(value: str | None, seconds: float) -> None:
    assert webhook.retry_after(value, 1_790_000_000) == seconds


def test_gaps() -> None:
    assert webhook.gap(webhook.SCHEDULE, 1, 0, 0) == 5
    assert webhook.gap(webhook.SCHEDULE, 1, 0, 1) == 6
    assert webhook.gap(webhook.SCHEDULE, 1, 0, -1) == 4
    assert webhook.gap(webhook.SCHEDULE, 1, 60, -1) == 60
    assert webhook.gap(webhook.SCHEDULE, 10, 60, 0) is None
    assert len(webhook.SCHEDULE) == 10


def test_the_schedule_that_is_promised() -> None:
    minute, hour = 60, 3600
    assert (0, 5, 30, 2 * minute, 10 * minute, hour, 4 * hour, 12 * hour, 24 * hour, 36 * hour) == webhook.SCHEDULE
    assert webhook.schedule("0s,5s,30s,2m,10m,1h,4h,12h,24h,36h") == webhook.SCHEDULE
