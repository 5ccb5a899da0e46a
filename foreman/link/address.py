"""Where a link port is, and with which TLS: `host:port` strings in and out, certificate files into contexts.

Settings, gateway presences and both ends of the link call me. I resolve no names and refuse half an address.
"""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


class LinkSetupError(Exception):
    """A setting of the links can't be used; the message names it and says what would be right."""


def parse(address: str) -> tuple[str, int]:
    """Host and port of `host:port`, `[v6]:port` or `:port` (host empty: all interfaces).

    Raises:
        ValueError: the port is missing or no number up to 65535.
    """
    host, colon, port = address.rpartition(":")
    if not colon or not port.isascii() or not port.isdecimal() or int(port) > 65535:
        raise ValueError(f"{address!r} is no link address: write host:port, such as 127.0.0.1:7480")
    return host.removeprefix("[").removesuffix("]"), int(port)


def spell(host: str, port: int) -> str:
    """The `host:port` that `parse` takes."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


@dataclass(frozen=True, slots=True)
class LinkTLS:
    """The files of `FOREMAN_LINK_CERT`, `_KEY` and `_CA`. Who is who, the hello proves; TLS hides what travels."""

    cert: Path | None = None
    """The gateway's certificate chain, PEM. It must name the announced host."""
    key: Path | None = None
    """Its private key, PEM; None where it stands in `cert`."""
    ca: Path | None = None
    """What the worker trusts, PEM; None: the system's authorities."""

    def server(self) -> ssl.SSLContext:
        """The gateway's context. Raises LinkSetupError for files that don't serve, ValueError without `cert`."""
        if self.cert is None:
            raise ValueError("a gateway's link with TLS needs FOREMAN_LINK_CERT")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        try:
            context.load_cert_chain(self.cert, self.key)
        except OSError as error:  # ssl.SSLError is one
            files = f"FOREMAN_LINK_CERT is '{self.cert}'" + (f", FOREMAN_LINK_KEY '{self.key}'" if self.key else "")
            raise LinkSetupError(
                f"{files}: they don't serve ({error}); name a certificate chain in PEM and the private key it belongs to"
            ) from error
        return context

    def client(self) -> ssl.SSLContext:
        """The worker's context: the gateway's certificate is checked against `ca` and the host it announced.

        Raises LinkSetupError for a file that doesn't serve.
        """
        try:
            return ssl.create_default_context(cafile=self.ca)
        except OSError as error:  # ssl.SSLError is one
            raise LinkSetupError(
                f"FOREMAN_LINK_CA is '{self.ca}': it doesn't serve ({error}); name certificates to trust, in PEM"
            ) from error
