"""Who may do what: the bearer a caller shows becomes a `Caller` with its rights.

The middleware asks me once per request; the APIs ask the `Caller`. Every token is compared in constant time, and all of
them, so that an answer's time tells nothing. I know no HTTP; the middleware turns my failures into statuses.
"""

from __future__ import annotations

import base64
import binascii
import enum
import hmac
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from foreman.core.errors import Code, Failure
from foreman.core.jobs import Priority

if TYPE_CHECKING:
    from foreman.settings import Settings

COOKIE: Final = "foreman_token"
"""The cookie in which the page keeps a token; to look at the page and `/ops`, and for what the page's own script asks."""

OPEN: Final = frozenset(
    {("GET", "/healthz"), ("HEAD", "/healthz"), ("GET", "/readyz"), ("HEAD", "/readyz"), ("GET", "/"), ("HEAD", "/")}
    | {("POST", "/ui")}
)
"""Open to everybody, whatever the settings. What is posted to the page is the token itself."""


class Role(enum.Enum):
    """What kind of caller it is."""

    OPERATOR = "operator"
    """Everything. Where no token is set, everybody is one."""
    NAMED = "named"
    """Inference and its own jobs; no `/ops` POSTs, model management or audit."""
    READER = "reader"
    """May look at the page, `/ops`, `/metrics` and the list of jobs."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Who sent a request."""

    role: Role
    name: str | None = None
    """The name of its token; None for the operator and where no tokens are set."""
    ceiling: Priority | None = None
    """The highest class it may ask for, and the one it gets by default; None: no limit."""

    @property
    def operator(self) -> str | None:
        """Who it is in the audit log; None for one that is no operator."""
        return (self.name or "operator") if self.role is Role.OPERATOR else None

    def priority(self, asked: str | None, default: Priority) -> Priority:
        """The class of a job: what was asked for, never above the ceiling.

        Raises:
            Failure: BAD_REQUEST when `asked` is no class.
        """
        if asked is None:
            return default if self.ceiling is None else self.ceiling
        try:
            wanted = Priority.of(asked.strip().lower())
        except ValueError as error:
            raise Failure(Code.BAD_REQUEST, f"X-Foreman-Priority: {error}") from error
        return wanted if self.ceiling is None else min(wanted, self.ceiling)


OPERATOR: Final = Caller(Role.OPERATOR)


class Gatekeeper:
    """Knows the tokens of one gateway."""

    def __init__(self, settings: Settings) -> None:
        self._known: list[tuple[bytes, Caller]] = []
        if settings.token:
            self._known.append((settings.token.encode(), OPERATOR))
        for named in settings.tokens:
            self._known.append((named.token.encode(), Caller(Role.NAMED, named.name, named.priority)))
        self.closed = bool(self._known)
        """A token is asked for."""
        if settings.read_token:
            self._known.append((settings.read_token.encode(), Caller(Role.READER)))

    def who(self, shown: str | None) -> Caller | None:
        """The caller behind a token; None when it is unknown, or missing where one is needed."""
        if shown is None:
            return None if self.closed else OPERATOR
        found = None
        given = shown.encode("utf-8", "surrogateescape")
        for token, caller in self._known:
            if hmac.compare_digest(token, given):
                found = caller
        if found is None and not self.closed:
            return OPERATOR
        return found


def bearer(authorization: str | None) -> str | None:
    """The token of an Authorization header, or None."""
    scheme, _, token = (authorization or "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" and token.strip() else None


def to_cookie(token: str) -> str:
    """A token as a cookie's value: only letters that need no quoting."""
    return base64.urlsafe_b64encode(token.encode()).decode().rstrip("=")


def from_cookie(value: str | None) -> str | None:
    """The token in a cookie's value, or None when there is none."""
    if not value:
        return None
    try:
        return base64.b64decode(value + "=" * (-len(value) % 4), b"-_", validate=True).decode()
    except (binascii.Error, UnicodeDecodeError, ValueError):
        return None
