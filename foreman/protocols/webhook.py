"""A webhook's headers: the names and signatures of Standard Webhooks, and the original foreman's own.

The background worker signs by me, `foreman webhooks` verifies by me. I turn secret, id, moment and body into headers;
I own no clock. Standard Webhooks 1.0.0, github.com/standard-webhooks/standard-webhooks; ADR-0005.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Final

from foreman.core import units

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

ID: Final = "webhook-id"
TIMESTAMP: Final = "webhook-timestamp"
SIGNATURE: Final = "webhook-signature"
ORIGINAL: Final = "X-Foreman-Signature"
PREFIX: Final = "whsec_"
TOLERANCE: Final = 300
"""Seconds that a timestamp may be off, as the specification's libraries have it."""
LONGEST_REST: Final = 129_600.0
"""Seconds of a Retry-After that are honoured at most: the longest gap of the schedule."""

SCHEDULE: Final = (0.0, 5.0, 30.0, 120.0, 600.0, 3600.0, 14_400.0, 43_200.0, 86_400.0, 129_600.0)
"""Seconds before the first, second … attempt: 0 s, 5 s, 30 s, 2 min, 10 min, 1 h, 4 h, 12 h, 24 h, 36 h."""

LONGEST_SWING: Final = 1.2
"""How much longer chance may make a gap."""


class SignatureError(Exception):
    """A webhook does not bear a signature of ours; the message says what is wrong."""


def key(secret: str) -> bytes:
    """The key bytes of a secret: what follows `whsec_`, base64-decoded; any other secret is its UTF-8 bytes.

    Raises ValueError where what follows is no base64.
    """
    if not secret.startswith(PREFIX):
        return secret.encode()
    try:
        found = base64.b64decode(secret.removeprefix(PREFIX), validate=True)
    except (binascii.Error, ValueError):
        raise ValueError("what follows whsec_ is no base64") from None
    if not found:
        raise ValueError("nothing follows whsec_")
    return found


def secrets(text: str) -> tuple[str, ...]:
    """The secrets of FOREMAN_WEBHOOK_SECRET; several while one is replaced. Raises ValueError with advice."""
    found = tuple(part.strip() for part in text.split(",") if part.strip())
    for secret in found:
        try:
            key(secret)
        except ValueError as error:
            raise ValueError(f"{error}: use whsec_ and the output of `openssl rand -base64 32`, or any words") from None
    return found


def schedule(text: str) -> tuple[float, ...]:
    """The gaps of FOREMAN_WEBHOOK_SCHEDULE in seconds. Raises ValueError with advice."""
    try:
        found = tuple(units.duration(part) for part in text.split(","))
    except ValueError:
        found = ()
    if not 1 <= len(found) <= 50 or max(found) > 7 * 86_400:
        raise ValueError("use 1 to 50 durations of at most 7 days with commas between, such as 0s,5s,30s,2m,10m,1h")
    return found


def sign(secret: str, identity: str, timestamp: int, body: bytes) -> str:
    """`v1,<base64 HMAC-SHA256 of id.timestamp.body>`."""
    message = f"{identity}.{timestamp}.".encode() + body
    return "v1," + base64.b64encode(hmac.digest(key(secret), message, hashlib.sha256)).decode()


def original_signature(secret: str, body: bytes) -> str:
    """`sha256=<hex HMAC-SHA256 of the body>`, as receivers of the original foreman check it."""
    return "sha256=" + hmac.digest(key(secret), body, hashlib.sha256).hex()


def headers(secrets: Sequence[str], identity: str, timestamp: int, body: bytes) -> dict[str, str]:
    """The headers of one attempt.

    Args:
        secrets: Those in force, several while one is replaced; the first signs ORIGINAL. None: no signature.
        identity: `evt_<job>_<seq>`, the same for all attempts.
        timestamp: Of this attempt, whole seconds since the epoch.
        body: The bytes that are sent.
    """
    found = {ID: identity, TIMESTAMP: str(timestamp)}
    if secrets:
        found[SIGNATURE] = " ".join(sign(secret, identity, timestamp, body) for secret in secrets)
        found[ORIGINAL] = original_signature(secrets[0], body)
    return found


def verify(secrets: Sequence[str], given: Mapping[str, str], body: bytes, now: float) -> None:
    """Check a received webhook. Header names in any case. Raises SignatureError."""
    lower = {name.lower(): value for name, value in given.items()}
    identity, stamp, signatures = (lower.get(name, "") for name in (ID, TIMESTAMP, SIGNATURE))
    if not identity or not (stamp.isdecimal() and len(stamp) < 20) or not signatures:
        raise SignatureError(f"it lacks one of the headers {ID}, {TIMESTAMP} and {SIGNATURE}")
    if abs(now - int(stamp)) > TOLERANCE:
        raise SignatureError(f"its {TIMESTAMP} is more than {TOLERANCE} s away from now")
    ours = [sign(secret, identity, int(stamp), body) for secret in secrets]
    if not any(hmac.compare_digest(mine.encode(), theirs.encode()) for mine in ours for theirs in signatures.split()):
        raise SignatureError("its signature is none of this secret: another secret, or another body")


def retry_after(value: str | None, now: float) -> float:
    """Seconds that a Retry-After asks for, 0 where it says nothing sensible (RFC 9110, 10.2.3); at most LONGEST_REST."""
    text = (value or "").strip()
    if text.isascii() and text.isdecimal():
        seconds = float(text)
    else:
        try:
            moment = parsedate_to_datetime(text)
            seconds = moment.replace(tzinfo=moment.tzinfo or UTC).timestamp() - now  # asctime's form names no zone
        except (ValueError, TypeError, OverflowError):
            return 0.0
    return min(max(seconds, 0.0), LONGEST_REST)


def gap(schedule: Sequence[float], made: int, rest: float, swing: float) -> float | None:
    """Seconds until the next attempt, or None where the schedule is over.

    Args:
        schedule: The gaps before the first, second … attempt.
        made: Attempts made so far.
        rest: What the receiver asked for; the gap is never shorter.
        swing: −1 … 1, drawn by chance: moves the schedule's gap by up to 20 %.
    """
    if made >= len(schedule):
        return None
    return max(schedule[made] * (1 + (LONGEST_SWING - 1) * swing), rest)
