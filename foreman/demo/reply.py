"""How a fake Ollama puts an answer on the wire: framed as Go's server frames it, or broken as a fault says.

The answering code gives me units of a stream or a whole body. Bodies up to 2,048 bytes get a Content-Length, larger ones
and streams are chunked, one chunk a unit. I keep count of the lines and stand at gates.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from typing import TYPE_CHECKING, Final, NoReturn

from aiohttp import web

from .faults import Fault, Gate, Kind

if TYPE_CHECKING:
    from .ledger import Ledger, Seen

GO_BUFFER: Final = 2048
"""Bytes of a body that Go's server still measures before it sends the head."""

GARBAGE: Final = b'\xff\xfe\x00{"model":\xc3\x28 not json\x80\n'

FIRST: Final = frozenset({Kind.HANG_FIRST, Kind.RESET_FIRST, Kind.GARBAGE_HTTP})


class BrokenRunnerError(Exception):
    """The scripted fault ERROR_LINE: the runner has died."""


class CleanEndError(Exception):
    """The scripted fault CLEAN_END: the answer stops here."""


class Reply:
    """The answer to one request."""

    def __init__(self, request: web.BaseRequest, seen: Seen, ledger: Ledger, headers: dict[str, str]) -> None:
        self.request = request
        self.headers = headers
        """For every answer to this request: CORS."""
        self.fault: Fault | None = None
        self.gate: Gate | None = None
        self._seen = seen
        self._ledger = ledger
        self._response: web.StreamResponse | None = None

    @property
    def plain(self) -> bool:
        """Nothing goes wrong and nothing is held."""
        return self.fault is None and self.gate is None

    async def whole(
        self,
        status: int,
        content_type: str,
        body: bytes,
        headers: dict[str, str] | None = None,
        *,
        chunked: bool = False,
    ) -> web.StreamResponse:
        """A body in one piece."""
        self._seen.status = status
        every = {**self.headers, **({"Content-Type": content_type} if content_type else {}), **(headers or {})}
        if self.fault is not None and self.fault.kind not in {Kind.STATUS, Kind.LOAD_FAILS}:
            return await self._spoilt(status, every, body, self.fault)
        if len(body) <= GO_BUFFER and not chunked:
            return web.Response(status=status, headers=every, body=body)
        response = web.StreamResponse(status=status, headers=every)
        await response.prepare(self.request)
        await response.write(body)
        return response

    async def open(self, content_type: str, headers: dict[str, str]) -> web.StreamResponse:
        """The head of a stream; it leaves with the first unit."""
        every = {**self.headers, "Content-Type": content_type, **headers}
        if self.fault is not None and self.fault.kind == Kind.WRONG_LENGTH:
            every["Content-Length"] = "1000000"
        self._response = web.StreamResponse(headers=every)
        self._seen.status = 200
        await self._response.prepare(self.request)
        return self._response

    async def first(self) -> None:
        """Before the first byte of an answer: gates, and faults that let none through."""
        if self.gate is not None and self.gate.after == 0:
            await self.gate.passed(0)
        if self.fault is not None and self.fault.kind in FIRST:
            await self._break(self.fault, b"")

    async def unit(self, unit: bytes) -> None:
        """One line or event of the stream."""
        assert self._response is not None
        if self.gate is not None:
            await self.gate.passed(self._seen.lines)
        fault = self.fault
        if fault is not None and fault.kind == Kind.DRIP:
            await self._drip(self._response, unit, fault.seconds)
        else:
            if fault is not None and fault.after <= self._seen.lines:
                await self._break(fault, unit)
            await self._response.write(unit)
        self._count()

    async def token(self) -> None:
        """One token of an answer that is sent whole: gates and mid faults count tokens there."""
        if self.gate is not None:
            await self.gate.passed(self._seen.lines)
        if self.fault is not None and self.fault.kind == Kind.ERROR_LINE and self.fault.after <= self._seen.lines:
            raise BrokenRunnerError
        if self.fault is not None and self.fault.kind == Kind.HANG_MID and self.fault.after <= self._seen.lines:
            await self._hang()
        self._count()

    async def finish(self) -> web.StreamResponse:
        """The end of the stream."""
        assert self._response is not None
        if self.fault is not None and self.fault.kind == Kind.WRONG_LENGTH:
            await self._cut(reset=False)
        return self._response

    def _count(self) -> None:
        self._seen.lines += 1
        self._ledger.note()

    # ------------------------------------------------------------------------------------------- going wrong

    async def _break(self, fault: Fault, unit: bytes) -> None:
        """Do what a fault says before `unit`; return where the answer goes on after it."""
        kind = fault.kind
        if kind in {Kind.HANG_FIRST, Kind.HANG_MID}:
            await self._hang()
        elif kind in {Kind.RESET_FIRST, Kind.RESET_MID}:
            await self._cut(reset=True)
        elif kind == Kind.GARBAGE_HTTP:
            if self.request.transport is not None:
                self.request.transport.write(GARBAGE * 8)
            await self._cut(reset=False)
        elif kind == Kind.CLOSE_MID:
            await self._cut(reset=False)
        elif kind == Kind.ERROR_LINE:
            raise BrokenRunnerError
        elif kind == Kind.CLEAN_END:
            raise CleanEndError
        elif kind in {Kind.HALF_LINE, Kind.GARBAGE}:
            assert self._response is not None
            await self._response.write(GARBAGE if kind == Kind.GARBAGE else unit[: len(unit) // 2])
            await self._cut(reset=False)
        elif kind == Kind.ENDLESS_LINE:
            assert self._response is not None
            self.fault = None
            await self._endless(self._response, fault.size)

    @staticmethod
    async def _endless(response: web.StreamResponse, size: int) -> None:
        await response.write(b'{"junk":"')
        block = b"x" * 65_536
        for _ in range(size // len(block)):
            await response.write(block)
        await response.write(b"x" * (size % len(block)) + b'"}\n')

    @staticmethod
    async def _drip(response: web.StreamResponse, unit: bytes, seconds: float) -> None:
        for index in range(len(unit)):
            await response.write(unit[index : index + 1])
            await asyncio.sleep(seconds)

    async def _spoilt(self, status: int, headers: dict[str, str], body: bytes, fault: Fault) -> web.StreamResponse:
        """A whole body, broken."""
        if fault.kind in {Kind.HANG_MID, Kind.RESET_MID, Kind.HANG_FIRST, Kind.RESET_FIRST, Kind.GARBAGE_HTTP}:
            await self._break(fault, b"")
        response = web.StreamResponse(status=status, headers=headers)
        if fault.kind == Kind.WRONG_LENGTH:
            response.headers["Content-Length"] = str(len(body) + 1000)
        await response.prepare(self.request)
        if fault.kind == Kind.ENDLESS_LINE:
            await self._endless(response, fault.size)
        elif fault.kind == Kind.DRIP:
            await self._drip(response, body, fault.seconds)
        elif fault.kind == Kind.GARBAGE:
            await response.write(GARBAGE)
        elif fault.kind == Kind.WRONG_LENGTH:
            await response.write(body)
            await self._cut(reset=False)
        else:
            await response.write(body[: len(body) // 2])
            if fault.kind != Kind.CLEAN_END:
                await self._cut(reset=False)
        return response

    @staticmethod
    async def _hang() -> NoReturn:
        await asyncio.Event().wait()
        raise AssertionError("an event nobody sets")

    async def _cut(self, *, reset: bool) -> NoReturn:
        """Close the connection, with RST or after what is buffered; the server then cancels this handler."""
        self._seen.phase = "cut"
        self._ledger.note()
        transport = self.request.transport
        if transport is not None:
            if reset:
                sock = transport.get_extra_info("socket")
                with contextlib.suppress(OSError):
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                transport.abort()
            else:
                transport.close()
        await self._hang()
