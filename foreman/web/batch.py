"""Many jobs in one request: a line in, a line out, in order, while the body still comes.

web/jobs_api.py runs one of me per `POST /jobs/batch`. I hold a line and a few answers at a time, never the body; a line
that will do for no job gets its error where its answer would stand, and the rest goes on.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

import structlog
from aiohttp import hdrs, web
from aiohttp.web_protocol import RequestPayloadError

from foreman.core.errors import Code, Failure
from foreman.protocols import job_object
from foreman.web.body import SILENCE, send_continue, too_large
from foreman.web.middleware import CORS_HEADERS

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from foreman.web.submission import Sender, Submission

log = structlog.get_logger(__name__)

AT_ONCE: Final = 16
"""Lines that came together and are submitted together, in one round trip to the store; more would hold up the streams beside."""
UNREAD: Final = 8 << 20
"""Bytes of answers kept for a caller that sends on without reading; past that its lines wait until it reads."""
_PIECE: Final = 32 * 1024
"""Bytes written at once, and waiting in the connection, while the body still comes."""


class Batch:
    """One batch."""

    def __init__(self, request: web.Request, submission: Submission, sender: Sender) -> None:
        self._request = request
        self._submission = submission
        self._sender = sender
        self._limit = submission.settings.max_body
        self._response = web.StreamResponse(
            headers={
                hdrs.CONTENT_TYPE: "application/x-ndjson",
                hdrs.CACHE_CONTROL: "no-store",
                "X-Accel-Buffering": "no",
            }
        )
        self._response.headers.extend(request[CORS_HEADERS])
        self._answers = bytearray()
        self._number = 0
        self._failed = 0

    async def run(self) -> web.StreamResponse:
        """Answer every line. Raises Failure where nothing has been answered yet and nothing will be."""
        await send_continue(self._request)
        await self._response.prepare(self._request)
        try:
            async for lines in self._lines():
                for first in range(0, len(lines), AT_ONCE):
                    await self._submit(lines[first : first + AT_ONCE])
        except (TimeoutError, RequestPayloadError) as error:
            what = f"no byte for {SILENCE:g} s" if isinstance(error, TimeoutError) else "unexpected EOF"
            self._answer(Failure(Code.BAD_REQUEST, f"the batch broke off: {what}; what was answered before stands"))
            self._response.force_close()
        await self._response.write(bytes(self._answers))
        await self._response.write_eof()
        log.info("batch.done", lines=self._number, refused=self._failed)
        return self._response

    async def _lines(self) -> AsyncIterator[list[bytes | Failure]]:
        """The lines that each piece of the body ends, blank ones left out; a Failure in the place of one too long."""
        content = self._request.content
        pieces: list[bytes] = []
        size = 0
        while not content.at_eof():
            async with asyncio.timeout(SILENCE):
                data = await content.readany()
            found: list[bytes | Failure] = []
            *ends, rest = data.split(b"\n")
            for end in ends:
                if size + len(end) > self._limit:
                    found.append(too_large(self._limit))
                elif line := b"".join((*pieces, end)).strip():
                    found.append(line)
                pieces, size = [], 0
            size += len(rest)
            if size <= self._limit:
                pieces.append(rest)
            else:
                pieces = []  # too long: what follows is counted and dropped
            yield found
        if size > self._limit:
            yield [too_large(self._limit)]
        elif line := b"".join(pieces).strip():
            yield [line]

    async def _submit(self, lines: list[bytes | Failure]) -> None:
        """Queue these lines and keep their answers, in order; send what the caller takes."""
        answers = await asyncio.gather(*(self._one(line, self._number + at) for at, line in enumerate(lines, 1)))
        self._number += len(lines)
        for found in answers:
            self._answer(found)
        transport = self._request.transport
        while self._answers and transport is not None and transport.get_write_buffer_size() < _PIECE:
            await self._response.write(bytes(self._answers[:_PIECE]))
            del self._answers[:_PIECE]
        if len(self._answers) > UNREAD:
            await self._response.write(bytes(self._answers))
            self._answers.clear()

    async def _one(self, line: bytes | Failure, number: int) -> job_object.Accepted | Failure:
        if isinstance(line, Failure):
            return line
        sender = self._sender.line(number)
        try:
            return (await self._submission.submit(line, sender)).accepted
        except Failure as failure:
            return failure

    def _answer(self, found: job_object.Accepted | Failure) -> None:
        if isinstance(found, Failure):
            self._failed += 1
            shape = job_object.ErrorBody(error=job_object.JobError(**found.as_dict()))
            self._answers += job_object.encode(shape) + b"\n"
        else:
            self._answers += job_object.encode(found) + b"\n"
