"""What a handler returns whose answer is on the wire already, so that nobody adds to it.

A sync call's handler makes me once its response has ended; the middleware knows me and leaves the headers alone.
"""

from __future__ import annotations

from aiohttp import web


class Sent(web.StreamResponse):
    """What a handler returns when its answer is already on the wire."""

    def __init__(self, status: int, *, keep_alive: bool) -> None:
        super().__init__(status=status)
        self._persist = keep_alive

    @property
    def keep_alive(self) -> bool:
        """Whether the connection may carry another request."""
        return self._persist

    async def prepare(self, request: web.BaseRequest) -> None:
        """Nothing: the head has been written."""

    async def write_eof(self, data: bytes = b"") -> None:
        """Nothing: the end has been written."""
