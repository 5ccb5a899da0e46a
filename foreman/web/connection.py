"""One caller's connection: aiohttp's own protocol with patience for slow headers and short words for broken requests.

The app makes one of me per connection. I close a connection whose request head does not come within ten seconds, or
never ends, and answer what is no HTTP with a plain 400 and one log line; everything else is aiohttp's.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

import structlog
from aiohttp.http_exceptions import InvalidURLError
from aiohttp.web_protocol import RequestHandler

from foreman.web.middleware import NO_HOST, plain

if TYPE_CHECKING:
    import asyncio

    from aiohttp import web
    from aiohttp.web_server import Server

log = structlog.get_logger(__name__)

HEAD_WITHIN: Final = 10.0
"""Seconds for a request's head, from the connection's start or the head's first byte."""
FIELD_LIMIT: Final = 32 * 1024
"""Bytes of one header field, or of the request line: tokens and a browser's cookies on localhost grow past 8 KiB."""
HEAD_LIMIT: Final = 4 * FIELD_LIMIT
"""Bytes of a whole head that is still on its way."""
_QUOTES: Final = re.compile(r"\n|(?:line|:) (?:bytearray\()?b?['\"]")
"""Where aiohttp begins to quote a request that it could not parse."""


class CallerConnection(RequestHandler):
    """aiohttp's HTTP/1.1 server protocol for one connection."""

    __slots__ = ("_head_size", "_head_timer", "_head_within", "heard")

    def __init__(self, server: Server, **kwargs: Any) -> None:
        super().__init__(server, **kwargs)
        self._head_within = HEAD_WITHIN
        self._head_timer: asyncio.TimerHandle | None = None
        self._head_size = 0
        self.heard = False
        """Whether anything has come on it."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by the loop."""
        super().connection_made(transport)
        self._arm()

    def connection_lost(self, exc: BaseException | None) -> None:
        """Called by the loop."""
        self._disarm()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Called by the loop with what came."""
        self.heard = True
        seen = self._request_count
        super().data_received(data)
        if self._request_count != seen:
            self._disarm()
            self._head_size = 0
        elif self._waiter is not None:  # a head, as far as it has come
            self._head_size += len(data)
            if self._head_size > HEAD_LIMIT:
                log.info("request.head_too_long", limit=HEAD_LIMIT)
                self.force_close()
            elif self._head_timer is None:
                self._arm()  # the first bytes of one between two requests

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """What aiohttp could not parse, and what a handler died of."""
        if status < 500:
            log.info("request.malformed", status=status, why=_why(exc, message or ""))
        else:
            log.error("request.died", path=request.path, error=type(exc).__name__, exc_info=exc)
        if request.writer.output_size > 0:
            raise ConnectionError("an answer is on its way already")
        text = b"400 Bad Request" if status == 400 else b"%d internal error: see the gateway's log" % status
        if status == 400 and (message or "").startswith("Missing 'Host'"):
            text = NO_HOST
        response = plain(status, text, close=True)
        response.headers["Server"] = "foreman"  # aiohttp's own says more than a stranger needs to know
        return response

    def _arm(self) -> None:
        self._head_timer = self._loop.call_later(self._head_within, self._too_slow)

    def _disarm(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _too_slow(self) -> None:
        self._head_timer = None
        if self.heard:  # browsers open connections in advance and leave them be: no sign of anything wrong
            log.info("request.head_too_slow", seconds=self._head_within)
        self.force_close()


def _why(error: BaseException | None, message: str) -> str:
    """What was wrong with a request, without a word of it: that may be a cookie or a token."""
    return "no URL" if isinstance(error, InvalidURLError) else _QUOTES.split(message, maxsplit=1)[0][:100]
