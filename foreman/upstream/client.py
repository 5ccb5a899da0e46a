"""One HTTP/1.1 call to a model server, pushed into a receiver as it arrives.

The executor and the probe call me. I turn a `Request` into one connection of its own (closing it cancels exactly that
call; a call that has ended whole may leave it to the next) and what comes back into `head`, `body`, `end` or `failed`;
no task, queue or await per piece. I refuse to follow redirects, ask for compression, half-close, or let an answer's head
grow without bounds.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol, cast
from urllib.parse import urlsplit

import structlog

import foreman
from foreman.hosts import Hosts
from foreman.tasks import Tasks
from foreman.upstream.answer import AnswerParser, Garbage
from foreman.upstream.faults import Fault, Kind
from foreman.upstream.idle import DISTRUST, MOST, Idle
from foreman.upstream.sockets import tune

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from foreman.upstream.answer import Headers

log = structlog.get_logger(__name__)

CONNECT_TIMEOUT: Final = 5.0
"""Seconds for name, connection and TLS handshake together."""
_JOIN_BELOW: Final = 64 * 1024
"""Bodies up to this size leave in one write with their head: one packet instead of two."""


class Receiver(Protocol):
    """Who takes the answer. Plain calls on the event loop; after `end` or `failed` none comes."""

    def head(self, status: int, headers: Headers) -> None:
        """The status and the end-to-end headers of the final (not a 1xx) answer."""

    def body(self, data: bytes) -> None:
        """The next bytes of the body, unframed, as they came."""

    def end(self) -> None:
        """The answer is complete by its own framing."""

    def failed(self, fault: Fault) -> None:
        """There is no answer, or no more of it."""


@dataclass(frozen=True, slots=True)
class Request:
    """What is sent."""

    method: str
    path: str
    body: bytes = b""
    headers: tuple[tuple[str, str], ...] = ()
    """Beside Host, Content-Length, Authorization and the like, which the client adds."""


@dataclass(frozen=True, slots=True)
class Patience:
    """Seconds of silence that are borne; 0 for ever."""

    first: float = 0.0
    """Before the first byte of the body."""
    between: float = 0.0
    """Between two bytes of it."""


@dataclass(frozen=True, slots=True)
class Reply:
    """A whole answer, for small questions."""

    status: int
    headers: Headers
    body: bytes


class Client:
    """The way to one model server.

    Args:
        url: `http://` or `https://`, with a path prefix where the server has one.
        token: the bearer sent in Authorization, or None.
        connect_timeout: seconds until a server counts as down.
    """

    def __init__(self, url: str, token: str | None = None, *, connect_timeout: float = CONNECT_TIMEOUT) -> None:
        parts = urlsplit(url)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise ValueError(f"{url!r} is no http:// or https:// address")
        self.url = url
        self._host = parts.hostname
        self._tls = ssl.create_default_context() if parts.scheme == "https" else None
        self._port = parts.port or (443 if self._tls else 80)
        self._prefix = parts.path.rstrip("/")
        self._connect_timeout = connect_timeout
        self._hosts = Hosts()
        self._tasks = Tasks(f"upstream[{self._host}:{self._port}]")
        fixed = [
            f"Host: {parts.netloc.rpartition('@')[2]}",
            f"User-Agent: foreman/{foreman.__version__}",
            "Accept: */*",
        ]
        if token:
            fixed.append(f"Authorization: Bearer {token}")
        self._fixed = "\r\n".join(fixed)
        self._idle: list[Idle] = []
        self._trust_from = float("-inf")
        """From when on, by the loop's clock, connections are kept."""

    def start(
        self, request: Request, receiver: Receiver, patience: Patience | None = None, *, follows: bool = False
    ) -> Call:
        """Begin a call; everything that follows, a refused connection too, comes through `receiver`.

        With `follows` it may use the connection of a call that has just ended, and leave its own to the next one. Where
        that connection turns out to be dead the call is reset, as on any other: nothing is ever sent twice from here.
        """
        wire = self._wire(request, "keep-alive" if follows else "close")
        call = Call(receiver, wire, patience or Patience(), bodyless=request.method == "HEAD")
        if follows:
            call.leave = self._keep
        while follows and self._idle:
            transport = self._idle.pop().take()
            if transport is not None:
                call.follow(transport, self._distrust)
                return call
        call.connecting = self._tasks.spawn(self._connect(call), "connect")
        return call

    async def fetch(
        self,
        method: str,
        path: str,
        body: bytes = b"",
        *,
        timeout: float | None,
        limit: int = 8 * 1024 * 1024,
        headers: Mapping[str, str] | None = None,
    ) -> Reply:
        """A whole small answer, within `timeout` seconds in all (None: however long) and of at most `limit` bytes.

        Raises:
            Fault: no answer, or not a whole one.
        """
        collector = _Collector(limit)
        call = self.start(Request(method, path, body, tuple((headers or {}).items())), collector)
        collector.call = call
        try:
            async with asyncio.timeout(timeout):
                return await collector.reply
        except TimeoutError:
            raise Fault(Kind.STALLED, f"no whole answer to {method} {path} within {timeout:g} s") from None
        finally:
            call.close()
            collector.call = None  # they hold each other

    async def close(self) -> None:
        """Give up connections that are still being made, and idle ones; calls under way are their owners'."""
        for idle in list(self._idle):
            idle.close()
        await self._tasks.close()

    def _wire(self, request: Request, connection: str) -> tuple[bytes, bytes]:
        path = request.path
        if any("\n" in text or "\r" in text for text in (path, *(part for pair in request.headers for part in pair))):
            raise ValueError("a line break in a request's path or headers")
        if self._prefix.endswith("/v1") and path.startswith("/v1/"):
            path = path.removeprefix("/v1")  # a base URL given as `…/v1` means the same as without
        lines = [f"{request.method} {self._prefix}{path} HTTP/1.1", self._fixed, f"Connection: {connection}"]
        lines += [f"{name}: {value}" for name, value in request.headers]
        if request.body or request.method in {"POST", "PUT", "PATCH"}:
            if not any(name.lower() == "content-type" for name, _ in request.headers):
                lines.append("Content-Type: application/json")
            lines.append(f"Content-Length: {len(request.body)}")
        return "\r\n".join([*lines, "", ""]).encode("latin-1"), request.body

    def _keep(self, transport: asyncio.Transport) -> None:
        """A call has ended whole; where enough wait already, its connection goes."""
        if len(self._idle) < MOST and asyncio.get_running_loop().time() >= self._trust_from:
            self._idle.append(Idle(transport, self._forget))
        else:
            transport.abort()

    def _distrust(self) -> None:
        """A connection that a call followed on was dead: fresh ones only, for a while."""
        self._trust_from = asyncio.get_running_loop().time() + DISTRUST
        for idle in list(self._idle):
            idle.close()

    def _forget(self, idle: Idle) -> None:
        if idle in self._idle:
            self._idle.remove(idle)

    async def _connect(self, call: Call) -> None:
        try:
            async with asyncio.timeout(self._connect_timeout):
                await self._hosts.connect(lambda: call, self._host, self._port, self._tls)
        except TimeoutError:
            call.fail(Fault(Kind.REFUSED, f"{self.url} did not take a connection within {self._connect_timeout:g} s"))
        except OSError as error:  # refused, no route, unknown name, bad certificate
            fault = Fault(Kind.REFUSED, f"{self.url} cannot be reached: {error.strerror or error}")
            fault.__cause__ = error
            call.fail(fault)
        finally:
            call.connecting = None


class Call(asyncio.Protocol):
    """One call under way. Its owner may `close`, `pause` and `resume` it at any moment."""

    def __init__(self, receiver: Receiver, wire: tuple[bytes, bytes], patience: Patience, *, bodyless: bool) -> None:
        self.connecting: asyncio.Task[None] | None = None
        self.leave: Callable[[asyncio.Transport], None] | None = None
        """Who keeps the connection after a whole answer; None: it is closed."""
        self._dead: Callable[[], None] | None = None
        """Whom to tell, where the connection has served another call, should it be dead."""
        self._receiver = receiver
        self._wire = wire
        self._patience = patience
        self._loop = asyncio.get_running_loop()
        self._parser = AnswerParser(self._head, self._body, bodyless=bodyless)
        self._transport: asyncio.Transport | None = None
        self._over = False
        self._paused = False
        self._begun = False
        self._heard = 0.0
        self._timer: asyncio.TimerHandle | None = None

    # -- the owner's side

    def close(self) -> None:
        """Cancel the call: the connection is cut at once and nothing more is received. Idempotent."""
        self._over = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._transport is not None:
            self._transport.abort()
        elif self.connecting is not None:
            self.connecting.cancel()

    def pause(self) -> None:
        """Read no further: the server feels it once the socket's buffers are full."""
        self._paused = True
        if self._transport is not None and not self._transport.is_closing():
            self._transport.pause_reading()

    def resume(self) -> None:
        """Read on; silence is counted from now."""
        self._paused = False
        self._heard = self._loop.time()
        if self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()

    def follow(self, transport: asyncio.Transport, dead: Callable[[], None]) -> None:
        """Use the connection of a call that has ended; should it end without a byte, `dead` is called."""
        self._dead = dead
        transport.set_protocol(self)
        self.connection_made(transport)

    # -- the connection's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Send the request."""
        line = cast("asyncio.Transport", transport)  # uvloop's is one without saying so
        self._transport = line
        if self._over:
            line.abort()
            return
        head, body = self._wire
        self._wire = (b"", b"")
        if self._dead is None:
            self._loop.call_soon(tune, line)  # while the server works on the request
        if len(body) <= _JOIN_BELOW:
            line.write(head + body)
        else:
            line.write(head)
            line.write(body)
        self._heard = self._loop.time()
        if self._paused:
            line.pause_reading()
        self._watch()

    def data_received(self, data: bytes) -> None:
        """The hot path: parse, which pushes into the receiver."""
        if self._over:
            return
        self._heard = self._loop.time()
        try:
            complete = self._parser.feed(data)
        except Garbage as error:
            self.fail(Fault(Kind.GARBAGE, str(error)))
            return
        except Exception:  # a fault of ours in the receiver ends its own call and no more
            log.exception("upstream.receiver_failed")
            self.fail(Fault(Kind.GARBAGE, "foreman could not take the answer in; see its log"))
            return
        if complete:
            self._finish()

    def connection_lost(self, exc: Exception | None) -> None:
        """The server closed, or the way to it broke."""
        if self._over:
            return
        if self._dead is not None and self._parser.untouched:
            self._dead()
        if exc is None and self._parser.ends_at_eof:
            self._finish()
        elif self._begun:
            self.fail(Fault(Kind.TRUNCATED, "the connection was cut in the middle of the answer"))
        else:
            self.fail(Fault(Kind.RESET, "the connection was closed before the first byte of the answer"))

    def fail(self, fault: Fault) -> None:
        """End the call with `fault`, unless it has ended."""
        if self._over:
            return
        self.close()
        self._receiver.failed(fault)

    def _finish(self) -> None:
        if self._over:
            return
        transport, whole = self._transport, self._parser.persists and not self._paused
        if self.leave is not None and whole and transport is not None and not transport.is_closing():
            self._transport = self.connecting = None  # a connect task that has not noticed yet is not to be cancelled
            self.leave(transport)
        self.close()
        self._parser.release()
        self._receiver.end()

    def _head(self, status: int, headers: Headers) -> None:
        if not self._over:
            self._receiver.head(status, headers)

    def _body(self, data: bytes) -> None:
        if self._over:
            return
        if not self._begun:
            self._begun = True
            self._watch()
        self._receiver.body(data)

    def _watch(self) -> None:
        """(Re-)arm the one timer of silence. It is looked at when it fires, never touched per piece."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        limit = self._patience.between if self._begun else self._patience.first
        if not limit or self._over:
            return
        silent = 0.0 if self._paused else self._loop.time() - self._heard
        if silent >= limit:
            what = "between two bytes of the answer" if self._begun else "before the first byte of the answer"
            self.fail(Fault(Kind.STALLED, f"silent for {limit:g} s {what}"))
        else:
            self._timer = self._loop.call_later(limit - silent, self._watch)


class _Collector:
    """Gathers a small answer."""

    def __init__(self, limit: int) -> None:
        self.reply: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self.call: Call | None = None
        self._limit = limit
        self._status = 0
        self._headers: Headers = ()
        self._body = bytearray()

    def head(self, status: int, headers: Headers) -> None:
        self._status, self._headers = status, headers

    def body(self, data: bytes) -> None:
        self._body += data
        if len(self._body) > self._limit and self.call is not None:
            self.call.fail(Fault(Kind.GARBAGE, f"an answer of more than {self._limit} bytes"))

    def end(self) -> None:
        with contextlib.suppress(asyncio.InvalidStateError):  # its waiter has given up in this very turn
            self.reply.set_result(Reply(self._status, self._headers, bytes(self._body)))

    def failed(self, fault: Fault) -> None:
        with contextlib.suppress(asyncio.InvalidStateError):  # as above
            self.reply.set_exception(fault)
