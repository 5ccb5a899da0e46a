"""The text that names model servers, read: `name=url?option&option,…` into targets with their options.

The settings call me with the text and the environment that `token_env` points into. I dial nobody. What is wrong is a
ValueError whose message names the entry and says what would be right; it never holds a token.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from foreman.core import callers, units
from foreman.core.lanes import canonical

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

OLLAMA: Final = "ollama"
OPENAI: Final = "openai"
SLOTS: Final = {OLLAMA: 1, OPENAI: 8}
"""Jobs in flight at once where `slots` is not given, by kind."""

_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}", re.ASCII)
_OPTIONS: Final = ("kind", "slots", "resident", "token_env", "pin", "only", "never")
_EXAMPLE: Final = "write name=url?option&option, such as gpu1=http://10.0.0.5:11434?slots=2"


@dataclass(frozen=True, slots=True)
class TargetSettings:
    """One upstream server as the operator named it."""

    name: str
    url: str
    """`http://host:port` or `https://…`, a path prefix allowed, no slash at its end."""
    kind: str = OLLAMA
    """`ollama`, or `openai` for any other server that speaks `/v1`."""
    slots: int = 1
    """Jobs in flight at once: per resident lane for `ollama`, in all for `openai`."""
    resident: int | None = None
    """Lanes it holds at once; None: the most that its `/api/ps` ever listed, at least 1."""
    token: str | None = field(default=None, repr=False)
    """The bearer it wants, or None."""
    only: tuple[str, ...] = ()
    """Models it may take; empty: all."""
    never: tuple[str, ...] = ()
    """Models it may not take."""
    pin: tuple[str, ...] = ()
    """Models loaded at start and never evicted by foreman; they have a slot of their own beside the drain."""


def parse(text: str, environ: Mapping[str, str], ollama_token: str | None = None) -> tuple[TargetSettings, ...]:
    """The targets of a comma list, in its order.

    Args:
        text: `name=url?option&option,…`.
        environ: where `token_env=NAME` looks.
        ollama_token: the bearer of `ollama` targets that name none of their own.

    Raises:
        ValueError: an entry is wrong, a name stands twice, or there is none; the message is advice.
    """
    targets = [_entry(entry.strip(), environ, ollama_token) for entry in text.split(",") if entry.strip()]
    if not targets:
        raise ValueError(f"name at least one target: {_EXAMPLE}")
    names = [target.name for target in targets]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"give each target a name of its own: {name!r} stands twice")
    return tuple(targets)


def parse_lines(
    lines: Iterable[str], environ: Mapping[str, str], token: str | None = None
) -> tuple[TargetSettings, ...]:
    """The same, one entry a line; empty lines and lines that start with `#` don't count."""
    entries = [line.strip() for line in lines]
    return parse(",".join(line for line in entries if not line.startswith("#")), environ, token)


def url(text: str) -> str:
    """The base URL of a server, without the slash at its end. Raises ValueError, with advice, for anything else."""
    parts = urlsplit(text.strip())
    try:
        port = parts.port
    except ValueError:
        port = 0
    if parts.scheme not in {"http", "https"} or not parts.hostname or port == 0:
        raise ValueError("use a URL such as http://127.0.0.1:11434")
    if parts.username is not None or parts.password is not None:
        raise ValueError(
            "take user and password out of the URL: a bearer token goes in by token_env or FOREMAN_OLLAMA_TOKEN"
        )
    if parts.query or parts.fragment:
        raise ValueError("use a URL without ? or #, such as http://127.0.0.1:11434")
    if any(char <= " " or char > "~" for char in text.strip()):
        raise ValueError("use a URL of plain ASCII without spaces")
    return f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/')}"


def idle_unload(text: str | float | None) -> float | None:
    """The seconds of `FOREMAN_IDLE_UNLOAD`; None for `off`. Raises ValueError, with advice."""
    if text is None or (isinstance(text, str) and text.strip().lower() == "off"):
        return None
    try:
        return units.duration(text, zero=False)
    except ValueError:
        raise ValueError("use off, or a duration such as 30m") from None


def _entry(entry: str, environ: Mapping[str, str], ollama_token: str | None) -> TargetSettings:
    name, equals, rest = entry.partition("=")
    if not equals or not _NAME.fullmatch(name):
        raise ValueError(f"{_EXAMPLE} (a name is letters, digits, . _ -)")
    base, _, query = rest.partition("?")
    try:
        where = url(base)
        options = dict(_option(part) for part in query.split("&") if part)
    except ValueError as error:
        raise ValueError(f"target {name!r}: {error}") from None
    try:
        return _target(name, where, options, environ, ollama_token)
    except ValueError as error:
        raise ValueError(f"target {name!r}: {error}") from None


def _option(part: str) -> tuple[str, str]:
    key, _, value = part.partition("=")
    if key not in _OPTIONS:
        raise ValueError(f"{key!r} is no option: use one of {', '.join(_OPTIONS)}")
    if not value:
        raise ValueError(f"give {key} a value, such as {key}={'2' if key in {'slots', 'resident'} else '…'}")
    return key, value


def _target(
    name: str, where: str, options: dict[str, str], environ: Mapping[str, str], ollama_token: str | None
) -> TargetSettings:
    kind = options.get("kind", OLLAMA)
    if kind not in SLOTS:
        raise ValueError(f"kind={kind}: use ollama or openai")
    token = ollama_token if kind == OLLAMA else None
    if "token_env" in options:
        token = environ.get(options["token_env"])
        if not token:
            raise ValueError(f"token_env={options['token_env']}: set that variable to the server's bearer token")
        callers.token(token)
    only, never, pin = (_names(options.get(key, "")) for key in ("only", "never", "pin"))
    _check_pin(kind, pin, only, never)
    return TargetSettings(
        name=name,
        url=where,
        kind=kind,
        slots=_count("slots", options.get("slots")) or SLOTS[kind],
        resident=_count("resident", options.get("resident")),
        token=token,
        only=only,
        never=never,
        pin=pin,
    )


def _check_pin(kind: str, pin: tuple[str, ...], only: tuple[str, ...], never: tuple[str, ...]) -> None:
    if pin and kind == OPENAI:
        raise ValueError("an openai target loads nothing: leave pin out")
    allowed = {canonical(name) for name in only}
    barred = {canonical(name) for name in never}
    for name in pin:
        if canonical(name) in barred or (allowed and canonical(name) not in allowed):
            raise ValueError(f"pin={name}, but only or never keeps it away: let it in, or pin another")


def _count(key: str, text: str | None) -> int | None:
    if text is None:
        return None
    if not re.fullmatch(r"\d{1,5}", text, re.ASCII) or int(text) < 1:
        raise ValueError(f"{key}={text}: use a whole number from 1 on")
    return int(text)


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(";") if name.strip())
