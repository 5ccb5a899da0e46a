"""Reading a request's body whole, within limits of size and patience.

The APIs call me before they look at anything in a body: until it is read, a caller that leaves would go unseen. I
refuse what is too large before it is in memory and what dribbles in; I look at no byte of it.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

import structlog
from aiohttp import HttpVersion11, hdrs, web
from aiohttp.web_protocol import RequestPayloadError
from multidict import CIMultiDict, CIMultiDictProxy

from foreman.core.errors import Code, Failure
from foreman.tasks import aside

if TYPE_CHECKING:
    from collections.abc import Callable

log = structlog.get_logger(__name__)

EXPECTS: Final = web.RequestKey("expects", str)
"""The `Expect` of a request, lower case; where it has one."""

SILENCE: Final = 30.0
"""Seconds a body may stay without a byte."""


async def read_body(request: web.Request, limit: int, *, silence: float = SILENCE) -> bytes:
    """The whole body, at most `limit` bytes.

    Raises:
        Failure: PAYLOAD_TOO_LARGE; BAD_REQUEST (408) after `silence` seconds without a byte, or for a broken body.
    """
    announced = request.content_length
    if announced is not None and announced > limit:
        raise too_large(limit)
    await send_continue(request)
    pieces: list[bytes] = []
    size = 0
    content = request.content
    try:
        while not content.at_eof():
            async with asyncio.timeout(silence):
                piece = await content.readany()
            pieces.append(piece)
            size += len(piece)
            if size > limit:
                raise too_large(limit)
    except TimeoutError as error:
        raise Failure(
            Code.BAD_REQUEST, f"no byte of the body for {silence:g} s: send it in one go", status=408
        ) from error
    except asyncio.CancelledError:
        log.info("request.half_sent", received=size, announced=announced)
        raise
    except RequestPayloadError as error:
        raise Failure(Code.BAD_REQUEST, "unexpected EOF") from error
    return (
        pieces[0] if len(pieces) == 1 else await aside(size, b"".join, pieces)
    )  # which lets go of the interpreter's lock


def too_large(limit: int) -> Failure:
    """The failure for a body above the limit; it names the setting."""
    return Failure(
        Code.PAYLOAD_TOO_LARGE, f"the request body is larger than {limit} bytes; FOREMAN_MAX_BODY sets the limit"
    )


def expect_later(make: Callable[..., web.BaseRequest]) -> Callable[..., web.BaseRequest]:
    """The server's maker of requests, but that `Expect` is set aside, which aiohttp would answer at once.

    The 100 goes out when somebody reads the body, so none before a refusal, as Go's server does.
    """

    def request(message: Any, *rest: Any) -> web.BaseRequest:
        expects = message.headers.get(hdrs.EXPECT)
        if expects is None:
            return make(message, *rest)
        headers = CIMultiDict(message.headers)
        headers.popall(hdrs.EXPECT)
        made = make(message._replace(headers=CIMultiDictProxy(headers)), *rest)
        made[EXPECTS] = expects.lower()
        return made

    return request


async def send_continue(request: web.Request) -> None:
    """Tell a caller that waits for it to send its body."""
    if request.version >= HttpVersion11 and EXPECTS in request and request.content_length != 0:
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        request.writer.output_size = 0  # an interim answer is no answer yet
