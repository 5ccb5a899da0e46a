"""Who may call: named tokens with their class, read from `name=token?priority=low,…`.

The settings call me with the text; the gateway compares what callers send. What is wrong is a ValueError whose message
names the entry and says what would be right; it never holds a token.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Final

from foreman.core.jobs import Priority

_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}", re.ASCII)
_EXAMPLE: Final = "write name=token?priority=low, such as webui=TOKEN?priority=high"


@dataclass(frozen=True, slots=True)
class NamedToken:
    """A caller that has a token of its own."""

    name: str
    token: str = field(repr=False)
    priority: Priority | None = None
    """Its class: default and ceiling. None: the surface's default, and no ceiling."""


def token(text: str) -> str:
    """A bearer token that fits into a header. Raises ValueError, with advice that does not show it."""
    if not text or any(char <= " " or char > "~" for char in text):
        raise ValueError("use visible ASCII characters without spaces")
    return text


def parse(text: str) -> tuple[NamedToken, ...]:
    """The named callers of a comma list, in its order.

    Raises:
        ValueError: an entry is wrong, or a name or a token stands twice.
    """
    callers = tuple(_entry(entry.strip()) for entry in text.split(",") if entry.strip())
    if len({caller.name for caller in callers}) < len(callers):
        raise ValueError("give each caller a name of its own: one stands twice")
    if len({caller.token for caller in callers}) < len(callers):
        raise ValueError("give each caller a token of its own: two share one")
    return callers


def _entry(entry: str) -> NamedToken:
    name, equals, rest = entry.partition("=")
    if not equals or not _NAME.fullmatch(name):
        raise ValueError(f"{_EXAMPLE} (a name is letters, digits, . _ -)")
    secret, mark, option = rest.rpartition("?")
    if not mark:
        secret, option = rest, ""
    try:
        token(secret)
    except ValueError as error:
        raise ValueError(f"the token of {name!r}: {error}") from None
    return NamedToken(name, secret, _priority(name, option))


def _priority(name: str, option: str) -> Priority | None:
    if not option:
        return None
    key, _, word = option.partition("=")
    try:
        if key == "priority":
            return Priority.of(word)
    except ValueError:
        pass
    raise ValueError(f"caller {name!r}: after the token's ? comes priority=high, normal or low")
