"""Socket options of a connection to a model server.

The client calls me once per connection: a vanished peer is noticed within a minute although the answer may rightly be silent for much longer.
"""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import asyncio

_KEEPALIVE: Final = (("TCP_KEEPIDLE", 20), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 3))
"""Seconds, seconds, probes; names that a platform lacks are passed over."""


def tune(transport: asyncio.Transport) -> None:
    """Set keepalive where the connection is TCP; both event loops set TCP_NODELAY themselves."""
    sock = None if transport.is_closing() else transport.get_extra_info("socket")
    if sock is None or sock.family not in {socket.AF_INET, socket.AF_INET6}:
        return
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _KEEPALIVE:
        if hasattr(socket, name):
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
