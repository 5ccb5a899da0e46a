"""The bytes of an HTTP/1.x answer into a head and pieces of body.

The client feeds me what it reads; httptools parses. I add what it lacks: 1xx answers are passed over (it reports each as
a whole message), an answer framed by the connection's end is recognised, heads and trailers are bounded, and bytes
beyond a Content-Length are a fault (a lying length must not look like a whole answer).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import httptools

if TYPE_CHECKING:
    from collections.abc import Callable

Headers = tuple[tuple[str, str], ...]

HEAD_LIMIT: Final = 64 * 1024
"""Bytes of head, chunk extensions or trailers that may come without a byte of body."""
_INTERIM_LIMIT: Final = 16
_HOP_BY_HOP: Final = frozenset(
    {
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "content-length",
        "date",
    }
)
"""Not passed on: RFC 9110 7.6.1, and the two the gateway writes itself."""


class Garbage(Exception):  # noqa: N818 - names what was read
    """Bytes that are no acceptable HTTP answer."""


class AnswerParser:
    """One answer. `head` and `body` are called from within `feed`.

    Args:
        bodyless: the request was a HEAD, whose answer has no body whatever its headers say.
    """

    def __init__(self, head: Callable[[int, Headers], None], body: Callable[[bytes], None], *, bodyless: bool) -> None:
        self._tell_head = head
        self._tell_body = body
        self._bodyless = bodyless
        self._parser = httptools.HttpResponseParser(self)
        self._headers: list[tuple[bytes, bytes]] = []
        self._told = False
        self._complete = False
        self._framed = False
        self._measured = False
        self._mute = 0
        self._interim = 0
        self.persists = False
        """The answer is complete, and its connection may carry another."""

    @property
    def untouched(self) -> bool:
        """Not a byte has come."""
        return not self._told and not self._mute

    @property
    def ends_at_eof(self) -> bool:
        """Whether the head is there and only the connection's end can end the body."""
        return self._told and not self._framed

    def release(self) -> None:
        """Let go of everybody it calls, and who calls it: nothing more is fed."""
        del self._parser, self._tell_head, self._tell_body

    def feed(self, data: bytes) -> bool:
        """Parse; True when the answer is complete.

        Raises:
            Garbage: no HTTP, or past the bounds.
        """
        self._mute += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            raise Garbage("the server wants another protocol") from None
        except httptools.HttpParserCallbackError as error:
            if isinstance(error.__context__, Garbage):
                raise error.__context__ from None
            raise
        except httptools.HttpParserError as error:
            if not self._complete:
                raise Garbage(f"what came is no HTTP answer ({error})") from error
            if self._measured:
                raise Garbage("more bytes came than the Content-Length said") from error
        if self._mute > HEAD_LIMIT and not self._complete:
            raise Garbage(f"more than {HEAD_LIMIT} bytes of head or trailers")
        return self._complete

    # -- what httptools calls

    def on_header(self, name: bytes, value: bytes) -> None:
        """One header, or one trailer (those are dropped)."""
        if not self._told:
            self._headers.append((name, value))

    def on_headers_complete(self) -> None:
        """The head is whole: find its framing and pass it on, unless it is interim."""
        if self._told:  # a second answer after the first one's end
            raise Garbage("more bytes came than the Content-Length said")
        status = self._parser.get_status_code()
        if status < 200:
            if status == 101:
                raise Garbage("the server wants another protocol")
            return
        if self._mute > HEAD_LIMIT and sum(len(name) + len(value) for name, value in self._headers) > HEAD_LIMIT:
            raise Garbage(f"more than {HEAD_LIMIT} bytes of head")
        headers = tuple((name.decode("latin-1"), value.decode("latin-1")) for name, value in self._headers)
        lower = {name.lower(): value.lower() for name, value in headers}
        chunked = lower.get("transfer-encoding", "").rpartition(",")[2].strip() == "chunked"
        self._measured = not chunked and "content-length" in lower
        self._framed = chunked or self._measured or status in {204, 304}
        named = {word.strip() for word in lower.get("connection", "").split(",")}
        self._told = True
        self._tell_head(status, tuple(pair for pair in headers if pair[0].lower() not in _HOP_BY_HOP | named))
        if self._bodyless:
            self._complete = True

    def on_body(self, data: bytes) -> None:
        """A piece of body."""
        self._mute = 0
        if not self._complete:
            self._tell_body(data)

    def on_message_complete(self) -> None:
        """The end, unless it was an interim answer's."""
        if self._told:
            self._complete = True
            self.persists = self._framed and self._parser.should_keep_alive()
            return
        self._headers.clear()
        self._interim += 1
        if self._interim > _INTERIM_LIMIT:
            raise Garbage("interim answers without end")
