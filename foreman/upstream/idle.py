"""A connection that has just served one call whole, kept for a moment: the next call may follow at once.

The client makes me of a finished call's connection and takes it back for its next call. I am no promise: whatever the
server does to an idle connection ends it here; where it dies under a call, that is a reset like any other (an attempt
is used, the job runs again), and the client keeps none for a while.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

KEPT: Final = 1.0
"""Seconds; less than any server's own patience with idle connections (uvicorn's is 5 s)."""
MOST: Final = 32
"""Connections kept per server."""
DISTRUST: Final = 60.0
"""Seconds without any, after one was found dead by the call that followed on it."""


class Idle(asyncio.Protocol):
    """One idle connection."""

    def __init__(self, transport: asyncio.Transport, gone: Callable[[Idle], None]) -> None:
        self._transport = transport
        self._gone = gone
        self._timer = asyncio.get_running_loop().call_later(KEPT, self.close)
        transport.set_protocol(self)

    def take(self) -> asyncio.Transport | None:
        """The connection for another call; None where it is closing. Whoever takes it sets its protocol."""
        self._timer.cancel()
        return None if self._transport.is_closing() else self._transport

    def close(self) -> None:
        """Nobody came."""
        self._timer.cancel()
        self._gone(self)
        self._transport.abort()

    def data_received(self, data: bytes) -> None:  # noqa: ARG002 - whatever it is, nobody asked
        """Called by the loop: what comes now would be taken for the next call's answer."""
        self.close()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - no call is hurt
        """Called by the loop."""
        self._timer.cancel()
        self._gone(self)
