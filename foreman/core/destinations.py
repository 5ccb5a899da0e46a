"""Where webhooks may go: public addresses, and what the operator allows beside them (FOREMAN_WEBHOOK_ALLOW).

The settings parse their rules here, the gateway refuses a URL at `POST /jobs` by me, and the guard at the background
worker's sockets asks me for each address it is about to dial. I resolve no name and open no socket.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

ADVICE: Final = "use addresses, networks, host names or *.suffix, each with an optional :port, such as 192.168.1.0/24,*.lan,localhost:9009"
URL_LIMIT: Final = 2048
_NAT64: Final = (ipaddress.IPv6Network("64:ff9b::/96"), ipaddress.IPv6Network("64:ff9b:1::/48"))
_SPECIAL: Final = (ipaddress.IPv4Network("192.0.0.0/24"), ipaddress.IPv4Network("192.88.99.0/24"))
"""Protocols' own (RFC 6890, RFC 7526), and one cloud's metadata among it; some of both count as global."""
_COMPATIBLE: Final = ipaddress.IPv6Network("::/96")
_NAME: Final = re.compile(r"(\*\.)?[a-z0-9_]([a-z0-9_.-]{0,251}[a-z0-9_])?", re.ASCII)
_DISGUISED: Final = re.compile(r"(0x[0-9a-f]*|[0-9]+)(\.(0x[0-9a-f]*|[0-9]+))*\.?", re.ASCII)
"""Host names that inet_aton(3) takes for an address: 127.1, 2130706433, 0x7f.1, 017700000001."""


@dataclass(frozen=True, slots=True)
class Rule:
    """One entry: a network, or a host's name; port None is any."""

    text: str
    network: Network | None
    host: str
    """Lower case; begins with `*.` for whatever ends so. Empty for a network."""
    port: int | None


@dataclass(frozen=True, slots=True)
class Destination:
    """Where a URL leads, as far as its text says."""

    host: str
    """Lower case, without brackets."""
    port: int
    address: Address | None
    """Of a literal address."""


class RefusedDestinationError(ValueError):
    """A webhook may not go there; the message says why and which setting to change."""


def parse(text: str) -> tuple[Rule, ...]:
    """The rules of FOREMAN_WEBHOOK_ALLOW. Raises ValueError with advice."""
    return tuple(_rule(part.strip()) for part in text.split(",") if part.strip())


def _rule(text: str) -> Rule:
    try:
        return Rule(text, ipaddress.ip_network(text.strip("[]")), "", None)
    except ValueError:
        pass
    host, colon, digits = text.lower().rpartition(":")
    if not colon:
        host, digits = text.lower(), ""
    port = int(digits) if re.fullmatch(r"\d{1,5}", digits, re.ASCII) else None
    if (colon and port is None) or (port is not None and not 1 <= port <= 65535):
        raise ValueError(ADVICE)
    try:
        return Rule(text, ipaddress.ip_network(host.strip("[]")), "", port)
    except ValueError:
        if not _NAME.fullmatch(host) or _DISGUISED.fullmatch(host):
            raise ValueError(ADVICE) from None
    return Rule(text, None, host, port)


def read(url: str) -> Destination:
    """Where `url` leads. Raises RefusedDestinationError for what no webhook can go to, whatever is allowed."""
    if len(url) > URL_LIMIT or not url.isascii() or re.search(r"[\s\x00-\x1f\x7f\\]", url):
        raise RefusedDestinationError(
            f"use a URL of at most {URL_LIMIT} plain characters, without blanks; others are %XX in a path, xn--… in a name"
        )
    try:
        parts = urlsplit(url)
        host = (parts.hostname or "").lower()
    except ValueError:
        raise RefusedDestinationError("it is no URL: use one such as https://example.com/hook") from None
    try:
        port = parts.port
    except ValueError:
        port = 0
    if parts.scheme not in {"http", "https"} or not host:
        raise RefusedDestinationError("use a URL with http or https, such as https://example.com/hook")
    if parts.username is not None or parts.password is not None:
        raise RefusedDestinationError(
            "it holds a user or a password: put a secret into its path, or check the signature"
        )
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        address = None
        if "[" in parts.netloc:
            raise RefusedDestinationError(f"[{host}] is no IPv6 address") from None
        if _DISGUISED.fullmatch(host):
            raise RefusedDestinationError(
                f"{host} is an address in disguise: write it as four decimal numbers"
            ) from None
        labels = host.removesuffix(".").split(".")
        if not _NAME.fullmatch(host.removesuffix(".")) or not all(
            1 <= len(label) <= 63 for label in labels
        ):  # RFC 1035
            raise RefusedDestinationError(f"{host} is no host name") from None
    if port == 0:
        raise RefusedDestinationError("its port is none: use a number from 1 to 65535")
    return Destination(host, port or (443 if parts.scheme == "https" else 80), address)


def named(destination: Destination, rules: tuple[Rule, ...]) -> bool:
    """Whether a rule allows the host by its name; it may then resolve to anything."""
    host = destination.host.rstrip(".")
    for rule in rules:
        if not rule.host or (rule.port is not None and rule.port != destination.port):
            continue
        if rule.host == host or (rule.host.startswith("*.") and host.endswith(rule.host[1:])):
            return True
    return False


def dialable(address: Address, port: int, rules: tuple[Rule, ...]) -> bool:
    """Whether a connection to this address may be opened: a public one, or one of an allowed network."""
    inner = unwrapped(address)
    for rule in rules:
        fits = rule.network is not None and rule.port in {None, port}
        if fits and (address in rule.network or inner in rule.network):  # type: ignore[operator] # fits says it is one
            return True
    site_local = isinstance(inner, ipaddress.IPv6Address) and inner.is_site_local  # fec0::/10, which counts as global
    special = any(inner in network for network in _SPECIAL)
    return inner.is_global and not (inner.is_multicast or inner.is_reserved or site_local or special)


def unwrapped(address: Address) -> Address:
    """The IPv4 address inside an IPv6 one that leads to it: mapped, compatible, NAT64, 6to4, Teredo."""
    if isinstance(address, ipaddress.IPv4Address):
        return address
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    if address.sixtofour is not None:
        return address.sixtofour
    if address.teredo is not None:
        return address.teredo[1]
    if any(address in network for network in _NAT64) or (address in _COMPATIBLE and int(address) > 1):
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return address


def allowing(destination: Destination) -> str:
    """The line that would allow it; of an address that leads to another one, that."""
    host = destination.host.rstrip(".") if destination.address is None else str(unwrapped(destination.address))
    host = host.partition("%")[0]  # a rule names no interface
    return f"FOREMAN_WEBHOOK_ALLOW={f'[{host}]' if ':' in host else host}:{destination.port}"


def refusal(destination: Destination, address: Address | None) -> str:
    """Why a webhook may not go there, and the line to add."""
    inner = None if address is None else unwrapped(address)
    leads = "" if inner is None or inner == destination.address else f" leads to {inner}, which"
    return (
        f"{destination.host}{leads} is no public address: if it is yours, start foreman with {allowing(destination)} "
        "(a comma separates several)"
    )


def check(url: str, rules: tuple[Rule, ...]) -> Destination | None:
    """Check what the text of a URL says.

    Returns:
        The destination where its name must still be resolved, None where it may be gone to as it is.

    Raises:
        RefusedDestinationError: It may not be gone to.
    """
    destination = read(url)
    if named(destination, rules):
        return None
    if destination.address is not None:
        if not dialable(destination.address, destination.port, rules):
            raise RefusedDestinationError(refusal(destination, destination.address))
        return None
    local = f".{destination.host.rstrip('.')}".endswith(".localhost")
    if local and not dialable(ipaddress.IPv4Address("127.0.0.1"), destination.port, rules):
        raise RefusedDestinationError(refusal(destination, None))
    return destination
