"""Who may ask a fake Ollama: its CORS answers and its check of the Host header (gin-contrib/cors, allowedHostsMiddleware).

The server asks me before it routes. I know headers only.
"""

from __future__ import annotations

import ipaddress
import socket
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

_HOSTS: Final = ("localhost", "127.0.0.1", "0.0.0.0")  # noqa: S104  # matched against origins, nothing is bound
DEFAULT_ORIGINS: Final = (
    *(f"{scheme}://{host}{port}" for host in _HOSTS for scheme in ("http", "https") for port in ("", ":*")),
    "app://*",
    "file://*",
    "tauri://*",
    "vscode-webview://*",
    "vscode-file://*",
)
"""Ollama's own list, one `*` each."""

_STAINLESS: Final = [
    "Arch",
    "Async",
    "Custom-Poll-Interval",
    "Helper-Method",
    "Lang",
    "Os",
    "Package-Version",
    "Poll-Helper",
    "Retry-Count",
    "Runtime",
    "Runtime-Version",
    "Timeout",
]
ALLOWED_HEADERS: Final = ",".join(
    ["Authorization", "Content-Type", "User-Agent", "Accept", "X-Requested-With", "Openai-Beta"]
    + [f"X-Stainless-{name}" for name in _STAINLESS]
)
PREFLIGHT: Final = (
    ("Access-Control-Allow-Headers", ALLOWED_HEADERS),
    ("Access-Control-Allow-Methods", "GET,POST,PUT,PATCH,DELETE,HEAD,OPTIONS"),
    ("Access-Control-Max-Age", "43200"),
    ("Vary", "Origin"),
    ("Vary", "Access-Control-Request-Method"),
    ("Vary", "Access-Control-Request-Headers"),
)


def origin_allowed(origin: str, origins: Sequence[str]) -> bool:
    """Whether an Origin is on the list; each entry may hold one `*`."""
    for allowed in origins:
        head, star, tail = allowed.partition("*")
        if origin == allowed or (
            star and len(origin) >= len(head) + len(tail) and origin.startswith(head) and origin.endswith(tail)
        ):
            return True
    return False


def same_origin(origin: str, host: str) -> bool:
    """Whether the page came from this very server."""
    return origin in {f"http://{host}", f"https://{host}"}


def host_allowed(host: str) -> bool:
    """Whether a server bound to loopback answers to this Host: local names and addresses only."""
    name = _name(host)
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        own = socket.gethostname().lower()
        return name in {"", "localhost", own} or name.endswith((".localhost", ".local", ".internal"))
    return address.is_loopback or address.is_private or address.is_unspecified


def is_address(host: str) -> bool:
    """Whether a Host is an address, not a name: Ollama answers OPTIONS to a local name itself, with 204."""
    try:
        ipaddress.ip_address(_name(host))
    except ValueError:
        return False
    return True


def _name(host: str) -> str:
    """The Host without its port."""
    name = host.rpartition(":")[0] if host.count(":") == 1 or "]:" in host else host
    return name.strip("[]").lower()
