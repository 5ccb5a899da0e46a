"""One HTTP answer on its way to a caller, written straight to the caller's transport.

The relay commits a head and pushes chunks into me by plain calls; I frame them and hand each to the transport at once (uvloop
sends what came in one turn of the loop together), the head with the first of them. While its buffer is full I keep the rest and say so. I know no job, no
dialect and no waiting; the handler returns `Sent` so that aiohttp adds nothing to what is already on the wire.
"""

from __future__ import annotations

import contextlib
import fcntl
import re
import socket
import struct
import sys
import termios
import time
from collections import deque
from email.utils import formatdate
from functools import lru_cache
from http import HTTPStatus
from typing import TYPE_CHECKING, Final, Protocol

from aiohttp import HttpVersion11, web

from foreman.web.calls.spool import Spool, Spools

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Iterable

HIGH_WATER: Final = 64 * 1024
"""Bytes handed to a transport in one write, and between two credits at most."""

_RESET: Final = struct.pack("ii", 1, 0)
"""SO_LINGER: on, for no time."""
_FORBIDDEN: Final = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")


class Outgoing(Protocol):
    """The caller's end as the relay sees it. `Wire` implements it; tests put a list there."""

    @property
    def idle_since(self) -> float:
        """When the last byte left, by the loop's clock."""

    @property
    def backlog(self) -> bool:
        """Bytes wait because the caller does not read."""

    def commit(self, status: int, headers: Iterable[tuple[str, str]], length: int | None) -> None:
        """Write the head."""

    def chunk(self, data: bytes, credit: int = 0) -> None:
        """Send one HTTP chunk that is worth `credit` bytes of the target's answer."""

    def held(self, waits: bool) -> None:
        """The target waits for this caller, or goes on."""

    def finish(self) -> None:
        """End the answer properly."""

    def abort(self) -> None:
        """Cut the connection."""


def head_bytes(status: int, headers: Iterable[tuple[str, str]], *, version: tuple[int, int] = (1, 1)) -> bytes:
    """A status line and headers as bytes. A header that carries a control character is left out, never passed on."""
    try:
        reason = HTTPStatus(status).phrase
    except ValueError:
        reason = ""
    lines = [f"HTTP/{version[0]}.{version[1]} {status} {reason}"]
    lines += [f"{name}: {value}" for name, value in headers if not _FORBIDDEN.search(name + value)]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1", "replace")


class Wire:
    """One answer to one aiohttp request. Not thread-safe; all calls but `drained` are plain and never block."""

    def __init__(
        self,
        request: web.Request,
        loop: asyncio.AbstractEventLoop,
        *,
        base_headers: Iterable[tuple[str, str]] = (),
        spools: Spools | None = None,
    ) -> None:
        """`spools`: where the gateway counts how far its readers are behind; a credit comes four times in their window."""
        self._request = request
        self._protocol = request.protocol
        self._loop = loop
        self._base = tuple(base_headers)
        self.on_taken: Callable[[int], None] = _nothing
        """Told how many bytes of the target's answer were handed over, a step at a time."""
        self.on_change: Callable[[], None] = _nothing
        """Told when bytes have to wait for the caller, and when everything has left."""
        self._pending: deque[tuple[bytes, int]] = deque()
        self._scheduled = False
        self._chunked = False
        self._finishing = False
        self.on_slow: Callable[[], None] = _nothing
        """Told that the caller takes too little, and shall be cut off."""
        self.on_fit: Callable[[int], None] = _nothing
        """Told how many bytes a worker may be ahead from now on."""
        self.patient = False
        """No target waits for this caller: it may read at its own pace."""
        self._brought = self._credited = self._taken = 0
        self._spools = Spools(4 * HIGH_WATER, float("inf")) if spools is None else spools
        self._step = max(1, min(HIGH_WATER, self._spools.window // 4))
        self._spool: Spool | None = None
        """Once the caller has been behind."""
        self._lags = False
        self.idle_since = loop.time()
        self.status: int | None = None
        """The status that was committed; None before."""
        self.keep_alive = bool(request.keep_alive)
        self.flushed = False
        """Everything, the end included, has been handed to the transport (or the caller is gone)."""

    @property
    def backlog(self) -> bool:
        """Bytes wait because the caller does not read."""
        return bool(self._pending) and self._protocol.writing_paused

    @property
    def gone(self) -> bool:
        """The caller has closed its connection."""
        transport = self._protocol.transport
        return transport is None or transport.is_closing()

    def commit(self, status: int, headers: Iterable[tuple[str, str]], length: int | None) -> None:
        """Write the head with the next flush. `length` in bytes; None: chunked, or until close for HTTP/1.0."""
        assert self.status is None, "an answer has one head"
        self.status = status
        version = self._request.version
        modern = version >= HttpVersion11
        pairs = [*headers, *self._base, ("Date", _date(int(time.time())))]
        if length is not None:
            pairs.append(("Content-Length", str(length)))
        elif modern:
            self._chunked = True
            pairs.append(("Transfer-Encoding", "chunked"))
        else:
            self.keep_alive = False
        if not self.keep_alive:
            pairs.append(("Connection", "close"))
        elif not modern:
            pairs.append(("Connection", "keep-alive"))
        head = head_bytes(status, pairs, version=(1, 1) if modern else (1, 0))
        self._request.writer.output_size += len(head)  # tells aiohttp that a second answer is out of the question
        self._pending.append((head, 0))
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._flush)

    def chunk(self, data: bytes, credit: int = 0) -> None:
        """Send `data` as one HTTP chunk; `credit` bytes of the target's answer count as taken once it is handed over."""
        if not data:
            return
        self._brought += credit
        framed = b"%x\r\n%b\r\n" % (len(data), data) if self._chunked else data
        protocol = self._protocol
        if self._pending or protocol.writing_paused:
            self._pending.append((framed, credit))
            if not self._scheduled:
                self._scheduled = True
                self._loop.call_soon(self._flush)
            return
        transport = protocol.transport  # the usual token
        if transport is not None and not transport.is_closing():  # uvloop raises on a write after close
            transport.write(framed)
            self.idle_since = self._loop.time()
            self._credit(credit)

    def held(self, waits: bool) -> None:
        """The target waits for this caller, or goes on."""
        self._its_spool().held(waits)

    def finish(self) -> None:
        """End the answer properly and flush at once."""
        self._finishing = True
        if self._chunked:
            self._pending.append((b"0\r\n\r\n", 0))
        self._flush()

    def abort(self) -> None:
        """Cut the connection without a proper end, so that the caller cannot take it for one.

        By a reset: a FIN is a proper end to an HTTP/1.0 caller, and the kernel would keep what nobody reads.
        """
        self._pending.clear()
        self._finishing = True
        self.flushed = True
        self.keep_alive = False
        self.on_change()
        self.close()
        transport = self._protocol.transport
        if transport is not None:
            sock = transport.get_extra_info("socket")
            if sock is not None and not transport.is_closing():
                with contextlib.suppress(OSError):
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            transport.abort()

    def close(self) -> None:
        """The handler is done with me: nobody is behind any more, and nobody is told."""
        self._pending.clear()
        self.on_taken = self.on_change = self.on_slow = self.on_fit = _nothing
        if self._spool is not None:
            self._lags = False
            self._spool.clear()

    async def drained(self) -> None:
        """Wait until the caller has read enough for everything that is pending to be handed over."""
        while self._pending and not self.gone:
            with contextlib.suppress(ConnectionError):  # the caller has gone: the flush sees it
                await self._request.writer.drain()
            self._flush()

    def _flush(self) -> None:
        self._scheduled = False
        pending = self._pending
        transport = self._protocol.transport
        if transport is None or transport.is_closing():
            pending.clear()
        moved = False
        while pending and not self._protocol.writing_paused:
            moved = True
            assert transport is not None
            size = credit = 0
            batch = []
            while pending and size < HIGH_WATER:
                framed, worth = pending.popleft()
                batch.append(framed)
                size += len(framed)
                credit += worth
            transport.write(batch[0] if len(batch) == 1 else b"".join(batch))
            self.idle_since = self._loop.time()
            self._credit(credit)
        if not pending and self._finishing:
            self.flushed = True
        if pending or self._lags:
            self._behind(moved=moved)
        if pending or self.flushed:
            self.on_change()

    def _behind(self, *, moved: bool) -> None:
        """The caller could not take everything, or can again."""
        self._lags = bool(self._pending)
        if self._lags:
            behind = self._brought - self._credited
            if self._finishing:  # nobody waits for credit any more: what counts is what is held
                behind = sum(len(framed) for framed, _ in self._pending)
            self._its_spool().lags(behind, moved=moved, draining=self._finishing or self.patient)
        else:
            self._its_spool().clear()

    def _its_spool(self) -> Spool:
        if self._spool is None:
            self._spool = Spool(self._spools, self._loop, left=self._left, drop=self.on_slow, fit=self.on_fit)
        return self._spool

    def _left(self) -> tuple[int, int, int]:
        """What is not sent yet: pieces here, bytes in the transport, bytes in the kernel that the caller has not acknowledged."""
        transport = self._protocol.transport
        if transport is None:
            return (0, 0, 0)
        return (len(self._pending), transport.get_write_buffer_size(), unacknowledged(transport))

    def _credit(self, taken: int) -> None:
        self._taken += taken
        if self._taken >= self._step:
            taken, self._taken = self._taken, 0
            self._credited += taken
            self.on_taken(taken)


def unacknowledged(transport: asyncio.WriteTransport) -> int:
    """Bytes in the socket's send queue (SIOCOUTQ, tcp(7)); 0 where the system does not tell."""
    sock = transport.get_extra_info("socket")
    try:
        return int.from_bytes(fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, bytes(4)), sys.byteorder)
    except (AttributeError, OSError):
        return 0


@lru_cache(maxsize=1)
def _date(now: int) -> str:
    """The Date of all heads within a second."""
    return formatdate(now, usegmt=True)


def _nothing(*_: object) -> None:
    """Nobody listens."""
