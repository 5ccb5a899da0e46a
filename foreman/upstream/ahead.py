"""A connection to a model server begun before the call that will use it is there.

The client keeps at most one of me, for `AHEAD` seconds, and gives me to its next call: the handshake runs while the
store is still asked for the job. I am no pool: I carry one call, as every connection does, and one that the server has
closed, or said anything on, is never used.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, Protocol, cast

if TYPE_CHECKING:
    from foreman.upstream.faults import Fault

AHEAD: Final = 1.0
"""Seconds an unused connection is kept: no server closes an idle one that soon, so it fails no call that a fresh one
would not have failed."""


class _Heir(Protocol):
    """The call that gets the connection."""

    connecting: asyncio.Task[None] | None

    def connection_made(self, transport: asyncio.BaseTransport) -> None: ...

    def fail(self, fault: Fault) -> None: ...


class Ahead(asyncio.Protocol):
    """One connection without a call yet."""

    def __init__(self) -> None:
        self.connecting: asyncio.Task[None] | None = None
        self.over = False
        """Given away, or of no use."""
        self._heir: _Heir | None = None
        self._transport: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None

    def give(self, call: _Heir) -> bool:
        """Let `call` have the connection, now or as soon as it stands; False where it is of no use any more."""
        if self.over or (self._transport is not None and self._transport.is_closing()):
            return False
        self.over = True
        if self._transport is None:
            self._heir, call.connecting = call, self.connecting
        else:
            self._hand(self._transport, call)
        return True

    def close(self) -> None:
        """Nobody needs it. What was given away is its call's."""
        if not self.over:
            self.over = True
            if self._transport is not None:
                self._transport.abort()
            elif self.connecting is not None:
                self.connecting.cancel()

    def fail(self, fault: Fault) -> None:
        """The connection could not be made: the call's failure where one has it, else nobody's."""
        self.over = True
        if self._heir is not None:
            self._heir.connecting = None
            self._heir.fail(fault)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by the loop."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is one without saying so
        if self._heir is not None:
            self._hand(self._transport, self._heir)
        elif self.over:
            self._transport.abort()
        else:
            self._timer = asyncio.get_running_loop().call_later(AHEAD, self.close)

    def data_received(self, data: bytes) -> None:  # noqa: ARG002 - whatever it is, nobody asked
        """Called by the loop: a server that speaks first is no HTTP server."""
        self.close()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - no call is hurt
        """Called by the loop."""
        self.over = True
        if self._timer is not None:
            self._timer.cancel()

    def _hand(self, transport: asyncio.Transport, call: _Heir) -> None:
        if self._timer is not None:
            self._timer.cancel()
        transport.set_protocol(cast("asyncio.Protocol", call))
        call.connecting = None
        call.connection_made(transport)
