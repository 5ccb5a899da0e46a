"""One TCP connection of the link, whichever end: frames out in one write per loop turn, frames in one by one, pings.

link/client.py and link/server.py derive their end from me; protocols/link.py cuts the bytes. I isolate each frame, so
that one job's error never reaches the connection all jobs share, and see a dead peer after a few silent pings. I know
no job and no secret. TCP_NODELAY stays on: without it a delta waits 41 ms for a delayed ACK (ADR-0016).
"""

from __future__ import annotations

import asyncio
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, cast

import structlog

from foreman.protocols.link import HEADER, MAX_FRAME, Decoder, FrameError, Kind, frame
from foreman.protocols.link_hello import HELLO_LIMIT

if TYPE_CHECKING:
    from collections.abc import Sequence

log = structlog.get_logger(__name__)

HIGH_WATER: Final = 1024 * 1024
"""Bytes in a connection's write buffer past which the jobs on it pause."""
LOW_WATER: Final = 256 * 1024
"""Bytes at which they resume."""

_pack = HEADER.pack


@dataclass(frozen=True, slots=True)
class Pace:
    """How long a link waits for what. Seconds, but for `silent_pings`."""

    ping: float = 1.0
    """Between two pings, both ways."""
    silent_pings: int = 4
    """A peer that sends nothing for so many of our pings is dead. Counted in pings, not seconds: an end that was
    itself asleep must not blame the other."""
    hello: float = 3.0
    """From the connection to the end of the hello."""
    dial: float = 3.0
    """For a connection attempt, TLS included."""
    open: float = 1.0
    """How long a claimed job waits for a link."""
    back_off: tuple[float, float] = (0.1, 2.0)
    """Between two attempts to dial, the first and the longest; doubled each time."""
    stop: float = 1.0
    """For the last bytes of a link that is closed."""


class Wire(asyncio.Protocol):
    """A connection that has frames. `closed` is done, with the reason, once the connection is gone."""

    def __init__(self, pace: Pace) -> None:
        self._loop = asyncio.get_running_loop()
        self._pace = pace
        self._decoder = Decoder(HELLO_LIMIT)
        self._transport: asyncio.Transport | None = None
        self._out: list[bytes] = []
        self._flushing = False
        self._silent = 0
        self._timer: asyncio.TimerHandle | None = None
        self._reason = "closed by the other end"
        self.congested = False
        """True while the transport holds more than `HIGH_WATER` bytes."""
        self.closed: asyncio.Future[str] = self._loop.create_future()

    # -- what an end fills in

    def _frame(self, kind: int, job: int, payload: bytes) -> None:
        """Take one frame. Anything it raises but ConnectionAbortedError ends at the frame."""
        raise NotImplementedError

    def _lost(self, reason: str) -> None:
        """The connection is gone: end what ran on it."""
        raise NotImplementedError

    def _congestion(self) -> None:
        """`congested` has changed."""

    # -- sending

    def send(self, data: bytes) -> None:
        """Send encoded frames at the end of this loop turn, with all others in one write."""
        self._out.append(data)
        if not self._flushing:
            self._flushing = True
            self._loop.call_soon(self._flush_turn)

    def send_now(self, data: bytes) -> None:
        """Send encoded frames and all that waits, at once."""
        self._out.append(data)
        self.flush()

    def send_data(self, kind: int, job: int, payload: bytes) -> None:
        """`send` without gluing header and payload first: they are joined once, in the write."""
        out = self._out
        out.append(_pack(len(payload), kind, job))
        out.append(payload)
        if not self._flushing:
            self._flushing = True
            self._loop.call_soon(self._flush_turn)

    def flush(self) -> None:
        """Write what waits. Nothing happens on a closing transport: uvloop raises on a write after close."""
        out = self._out
        transport = self._transport
        if out and transport is not None and not transport.is_closing():
            transport.write(out[0] if len(out) == 1 else b"".join(out))
        out.clear()

    def _flush_turn(self) -> None:
        self._flushing = False
        self.flush()

    # -- the connection's life

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by the loop."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's own class is no subclass of it
        self._transport.set_write_buffer_limits(high=HIGH_WATER, low=LOW_WATER)
        sock = transport.get_extra_info("socket")
        if sock is not None and sock.family in {socket.AF_INET, socket.AF_INET6}:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._timer = self._loop.call_later(self._pace.hello, self.abort, "no hello in time")

    def _established(self) -> None:
        """The hello is over: full frames, pings."""
        self._decoder.limit = MAX_FRAME
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(self._pace.ping, self._tick)

    def _tick(self) -> None:
        if self._silent >= self._pace.silent_pings:
            self.abort(f"silent for {self._silent} pings")
            return
        self._silent += 1
        self.send_now(frame(Kind.PING, 0))
        self._timer = self._loop.call_later(self._pace.ping, self._tick)

    def data_received(self, data: bytes) -> None:
        """Called by the loop. Each frame is dispatched on its own: what one raises, the next does not see."""
        self._silent = 0
        try:
            frames = self._decoder.feed(data)
        except FrameError as error:
            self.abort(str(error))
            return
        for kind, job, payload in frames:
            try:
                self._frame(kind, job, payload)
            except ConnectionAbortedError as error:
                self.abort(str(error))
                return
            except Exception:
                log.exception("link.frame_failed", kind=kind)

    def pause_writing(self) -> None:
        """Called by the transport: its buffer is over the high-water mark."""
        self.congested = True
        self._congestion()

    def resume_writing(self) -> None:
        """Called by the transport: its buffer has drained."""
        self.congested = False
        self._congestion()

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by the loop, once."""
        if self._timer is not None:
            self._timer.cancel()
        if exc is not None:
            self._reason = str(exc) or repr(exc)
        self._out.clear()
        try:
            self._lost(self._reason)
        except Exception:
            log.exception("link.loss_failed")
        if not self.closed.done():
            self.closed.set_result(self._reason)

    def close(self, reason: str) -> None:
        """Send what waits, then close."""
        self.flush()
        self._reason = reason
        if self._transport is not None:
            self._transport.close()

    def abort(self, reason: str) -> None:
        """Close at once; what waits is lost."""
        self._reason = reason
        if self._transport is not None:
            self._transport.abort()

    @property
    def closing(self) -> bool:
        """Whether nothing more can be sent."""
        return self._transport is None or self._transport.is_closing()

    @property
    def peer(self) -> str:
        """The other end's address, for logs."""
        name = self._transport.get_extra_info("peername") if self._transport is not None else None
        return f"{name[0]}:{name[1]}" if isinstance(name, tuple) else str(name)


async def shut(wires: Sequence[Wire], reason: str, timeout: float) -> None:
    """Close these connections; abort those whose last bytes do not leave within `timeout` seconds."""
    for wire in wires:
        wire.close(reason)
    waiting = [wire.closed for wire in wires]
    if not waiting:
        return
    await asyncio.wait(waiting, timeout=timeout)
    for wire in wires:
        if not wire.closed.done():
            wire.abort(reason)
    await asyncio.wait(waiting)
