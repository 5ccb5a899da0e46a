"""Many jobs in one request: a line in, a line out, in order, while the body still comes.

web/jobs/jobs_api.py runs one of me per `POST /jobs/batch`. I hold a line and a few answers at a time, never the body; a line
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

    from foreman.web.jobs.submission import Sender, Submission

log = structlog.get_logger(__name__)

AT_ONCE: Final = 16
"""Lines that came together and are submitted together, in one round trip to the store; more would hold up the streams beside."""
UNREAD: Final = 8 << 20
"""Bytes of answers kept for a caller that sends on without reading; past that its lines wait until it reads."""
_PIECE: Final = 32 * 1024
"""Bytes written at once, and waiting in the connection, while the body still comes."""


class Lines:
    """Cuts a body into lines, blank ones left out; what is longer than `limit` bytes becomes a Failure and is not kept."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._pieces: list[bytes] = []
        self._size = 0

    @property
    def held(self) -> int:
        """Bytes of the unfinished line that are kept."""
        return sum(map(len, self._pieces))

    def feed(self, data: bytes) -> list[bytes | Failure]:
        """The lines that `data` ends."""
        *ends, rest = data.split(b"\n")
        found: list[bytes | Failure] = []
        for end in ends:
            self._keep(end)
            found += self.rest()
        self._keep(rest)
        return found

    def rest(self) -> list[bytes | Failure]:
        """The line so far, as if it ended here; none where it is blank."""
        line, size = b"".join(self._pieces).strip(), self._size
        self._pieces, self._size = [], 0
        if size > self._limit:
            return [too_large(self._limit)]
        return [line] if line else []

    def _keep(self, piece: bytes) -> None:
        self._size += len(piece)
        if self._size <= self._limit:
            self._pieces.append(piece)
        else:
            self._pieces = []


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
        """The lines that each piece of the body ends."""
        content = self._request.content
        lines = Lines(self._limit)
        while not content.at_eof():
            async with asyncio.timeout(SILENCE):
                data = await content.readany()
            yield lines.feed(data)
        yield lines.rest()

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
            await self._until_read()

    async def _until_read(self) -> None:
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
