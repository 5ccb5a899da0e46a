"""How people write spans, sizes, booleans and addresses in settings, and what they mean.

The settings and the command line call me; I turn text into seconds, bytes, booleans and host/port pairs. What I don't
understand is a ValueError whose message is advice ("use a number with ms, s, m or h, such as 30s"), never a guess.
"""

from __future__ import annotations

import ipaddress
import math
import re
from typing import Final

_SECONDS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "": 1.0}
_BYTES: Final = {"": 1, "b": 1, "kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30}
_NUMBER: Final = re.compile(r"(\d+(?:\.\d*)?|\.\d+)([A-Za-z]*)", re.ASCII)
_HOST: Final = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_.-]{0,251}[A-Za-z0-9_])?", re.ASCII)

LONGEST: Final = 3650 * 86400.0
"""Seconds a span may be: ten years. More is a slip of the pen, and timers overflow."""

LARGEST: Final = 1 << 50
"""Bytes a size may be."""


def duration(text: str | float, *, zero: bool = True) -> float:
    """Seconds of a number with `ms`, `s`, `m` or `h`; a bare number is seconds. Fractions allowed.

    Args:
        text: such as `250ms`, `1.5h`, `20` or a number of seconds.
        zero: whether 0 is a value here (off, never, at once).

    Raises:
        ValueError: anything else, negative, more than ten years, or 0 where `zero` is false; the message is advice.
    """
    value = math.nan
    if not isinstance(text, str):
        value = math.nan if isinstance(text, bool) else float(text)
    elif (found := _NUMBER.fullmatch(text.strip())) and found[2] in _SECONDS:
        value = float(found[1]) * _SECONDS[found[2]]
    if not 0 <= value <= LONGEST:  # NaN is in no range
        raise ValueError("use a number with ms, s, m or h, such as 30s")
    if value == 0 and not zero:
        raise ValueError("use a duration above 0, such as 30s")
    return value


def size(text: str | int) -> int:
    """Bytes of a number with `KiB`, `MiB` or `GiB`; a bare number is bytes. At least 1.

    Raises:
        ValueError: anything else; the message is advice.
    """
    value = 0.0
    if not isinstance(text, str):
        value = 0 if isinstance(text, bool) else text
    elif (found := _NUMBER.fullmatch(text.strip())) and found[2].lower() in _BYTES:
        value = float(found[1]) * _BYTES[found[2].lower()]
    if not 1 <= value <= LARGEST:
        raise ValueError("use a number of bytes, or one with KiB, MiB or GiB, such as 64MiB")
    return int(value)


def boolean(text: str | bool) -> bool:
    """`true` or `false`. Raises ValueError, with advice, for anything else."""
    if isinstance(text, bool):
        return text
    word = text.strip().lower()
    if word not in {"true", "false"}:
        raise ValueError("use true or false")
    return word == "true"


def address(text: str) -> tuple[str, int]:
    """Host and port of `host:port`, `[v6]:port` or `:port` (all interfaces: the host is then empty).

    Raises:
        ValueError: no such address; the message is advice.
    """
    host, colon, port = text.strip().rpartition(":")
    if not (colon and re.fullmatch(r"\d{1,5}", port, re.ASCII) and int(port) <= 65535):
        raise ValueError("use host:port, such as 127.0.0.1:8080, or :8080 for all interfaces")
    if host.startswith("[") and host.endswith("]"):
        try:
            return str(ipaddress.IPv6Address(host[1:-1])), int(port)
        except ValueError:
            raise ValueError("use an IPv6 address in brackets, such as [::1]:8080") from None
    if host and not _HOST.fullmatch(host):
        raise ValueError("use host:port, such as 127.0.0.1:8080, or [::1]:8080 for IPv6")
    return host, int(port)


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches that host: `localhost`, 127/8, ::1. The empty host (all interfaces) is not."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
