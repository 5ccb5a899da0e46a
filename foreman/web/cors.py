"""Which browser pages may call the gateway, answered as Ollama answers (gin-contrib/cors with its own list).

The middleware asks me before anything else of a request is looked at. I turn an Origin and a Host into a verdict and
the headers that go with it; what is not on the list gets a 403, plain requests too (its body: middleware.py, _foreign).
"""

from __future__ import annotations

import ipaddress
import socket
from functools import lru_cache
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

LOCAL_NAMES: Final = ("localhost", "127.0.0.1", "0.0.0.0")  # noqa: S104 - names of origins, nothing is bound
OWN_LIST: Final = (
    *(f"{scheme}://{name}{port}" for name in LOCAL_NAMES for scheme in ("http", "https") for port in ("", ":*")),
    "app://*",
    "file://*",
    "tauri://*",
    "vscode-webview://*",
    "vscode-file://*",
)
"""What Ollama allows without being asked (envconfig.AllowedOrigins)."""

_ALLOWED_HEADERS: Final = (
    "Authorization",
    "Content-Type",
    "User-Agent",
    "Accept",
    "X-Requested-With",
    "Openai-Beta",
    *(
        f"X-Stainless-{name}"
        for name in (
            *("Arch", "Async", "Custom-Poll-Interval", "Helper-Method", "Lang", "Os", "Package-Version"),
            *("Poll-Helper", "Retry-Count", "Runtime", "Runtime-Version", "Timeout"),
        )
    ),
    "X-Api-Key",
    "Anthropic-Version",
    "Anthropic-Beta",
    "Idempotency-Key",
    "X-Foreman-Priority",
    "X-Foreman-Deadline",
    "X-Foreman-Target",
    "X-Foreman-On-Disconnect",
    "X-Foreman-Progress",
)

PREFLIGHT: Final = (
    ("Access-Control-Allow-Headers", ",".join(_ALLOWED_HEADERS)),
    ("Access-Control-Allow-Methods", "GET,POST,PUT,PATCH,DELETE,HEAD,OPTIONS"),
    ("Access-Control-Max-Age", "43200"),
)

EXPOSED: Final = "X-Foreman-Job-Id,X-Foreman-Error,Retry-After,X-Should-Retry"
"""Answer headers that a page's script may read."""


class Origins:
    """The origins one gateway lets in."""

    def __init__(self, extra: Iterable[str] = ()) -> None:
        self._patterns = tuple(pattern.strip().lower() for pattern in (*OWN_LIST, *extra) if pattern.strip())

    def allows(self, origin: str, host: str | None) -> bool:
        """Whether a page of `origin` may call us as `host`; `null` only where `*` is set."""
        return same_origin(origin, host) or any(_matches(pattern, origin.lower()) for pattern in self._patterns)

    def trusts(self, origin: str, host: str | None) -> bool:
        """Whether a page of `origin` may do what an operator does: our own, and those that were configured."""
        return same_origin(origin, host) or any(
            _matches(pattern, origin.lower()) for pattern in self._patterns[len(OWN_LIST) :]
        )

    def headers(self, origin: str, host: str | None) -> tuple[tuple[str, str], ...]:
        """What an allowed page's answer carries; nothing for our own pages, as Ollama does."""
        if same_origin(origin, host):
            return ()
        allowed = "*" if "*" in self._patterns else origin
        vary = () if allowed == "*" else (("Vary", "Origin"),)
        return (("Access-Control-Allow-Origin", allowed), ("Access-Control-Expose-Headers", EXPOSED), *vary)

    def preflight(self, origin: str) -> tuple[tuple[str, str], ...]:
        """What the answer to a preflight carries."""
        allowed = "*" if "*" in self._patterns else origin
        vary = () if allowed == "*" else ("Origin", "Access-Control-Request-Method", "Access-Control-Request-Headers")
        return (*PREFLIGHT, ("Access-Control-Allow-Origin", allowed), *(("Vary", name) for name in vary))

    def names_host(self, host: str) -> bool:
        """Whether one of the configured origins covers pages of this very host."""
        pages = (f"http://{host}", f"https://{host}")
        return any(_matches(pattern, page) for pattern in self._patterns[len(OWN_LIST) :] for page in pages)


def same_origin(origin: str, host: str | None) -> bool:
    """Whether the page was served by us."""
    return bool(host) and origin.lower() in {f"http://{host}".lower(), f"https://{host}".lower()}


def host_is_local(host: str | None) -> bool:
    """Whether a Host header names this machine or its own network, as Ollama's allowedHostsMiddleware sees it.

    It keeps a foreign page from reaching a loopback listener under a name of its own (DNS rebinding).
    """
    name = host_name(host or "")
    near = _is_near(name)
    return (
        near
        if near is not None
        else name in {"", "localhost", socket.gethostname().lower()}
        or name.endswith((".localhost", ".local", ".internal"))
    )


@lru_cache(maxsize=64)  # callers send the same few, each as long as a header may be
def _is_near(name: str) -> bool | None:
    """Whether an address is this machine's or its own network's; None for what is no address."""
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        return None
    return address.is_loopback or address.is_private or address.is_unspecified


def host_name(host: str) -> str:
    """The name in a Host header, without its port, in lower case."""
    host = host.strip().lower()
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.rpartition(":")[0] if host.count(":") == 1 else host


def _matches(pattern: str, origin: str) -> bool:
    head, star, tail = pattern.partition("*")
    if not star:
        return pattern == origin
    return len(origin) >= len(head) + len(tail) and origin.startswith(head) and origin.endswith(tail)
