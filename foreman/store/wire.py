"""Our own line to the store: commands of one loop turn in one write, replies matched in order.

Queue and inboxes send through me; I turn arguments into RESP by hiredis and replies into futures, and dial again by
myself. I retry nothing: a command whose reply was lost fails, because only its caller knows whether it may be repeated.
redis-py on this path was measured at 0.4 ms a verb and two thirds of the throughput (ADR-0015).
"""

from __future__ import annotations

import asyncio
import re
import time
from collections import deque
from typing import TYPE_CHECKING, Any, Final, Protocol, cast

import hiredis
import structlog

from foreman.hosts import Hosts
from foreman.protocols.gojson import LARGE
from foreman.store.errors import ScriptError, StoreUnavailableError
from foreman.store.scripts import names, script
from foreman.tasks import Tasks

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from foreman.store.url import StoreUrl

log = structlog.get_logger(__name__)

Arg = str | bytes | int | float

DIAL_TIMEOUT: Final = 3.0
BACKOFF: Final = (0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
"""Seconds between attempts to dial; the last one for ever."""
_AWAY: Final = re.compile(
    r"\b(LOADING|READONLY|MASTERDOWN|BUSY|OOM|MISCONF|NOREPLICAS|CLUSTERDOWN|UNBLOCKED|NOAUTH|WRONGPASS|NOPERM)\b"
)
"""Error replies that say that the server, not the command, is not fit for now."""

_MANY: Final = 30
"""Arguments of a command that may have a request among them, and more: only those are looked at one by one."""

_DEMOTED: Final = re.compile(r"\b(READONLY|UNBLOCKED|MASTERDOWN)\b")
"""Replies of a primary that is none any more."""


class Connection(Protocol):
    """What Queue needs of a line to the store."""

    async def command(self, *args: Arg) -> Any:
        """One command. Raises StoreUnavailableError, ScriptError."""

    async def script(self, name: str, *args: Arg) -> Any:
        """A script by name; the first argument is its only key, the pool's prefix. Raises as `command`."""

    async def close(self) -> None:
        """Close the line; what is in flight fails."""


class NoScriptError(ScriptError):
    """The server does not know the script: it was restarted or flushed."""


class Wire:
    """A line to the store that heals itself. One event loop; not thread-safe."""

    def __init__(
        self,
        url: StoreUrl,
        locate: Callable[[], Awaitable[tuple[str, int]]],
        *,
        timeout: float = 5.0,
        patience: float = 0.5,
        preload: bool = True,
    ) -> None:
        """Nothing is dialled before `open`.

        Args:
            url: Where the store is.
            locate: Host and port of the primary, asked before each dial over TCP (Sentinel may have moved it).
            timeout: Seconds after which an unanswered command takes the connection for dead.
            patience: Seconds a command waits for a lost connection to come back before it fails.
            preload: Send all scripts at each dial, so that none is sent in a job's way.
        """
        self._url = url
        self._locate = locate
        self._timeout = timeout
        self._patience = patience
        self._preload = preload
        self._hosts = Hosts()
        self._pipe: _Pipe | None = None
        self._ready = asyncio.Event()
        self._tasks = Tasks("store.wire")
        self._closed = False
        self._why = "not dialled yet"

    async def open(self, wait: float) -> None:
        """Dial, for at most `wait` seconds. Raises StoreUnavailableError; nothing is dialled any more then."""
        self._tasks.spawn(self._dial_until_up(time.monotonic()), "dial")
        try:
            await self._until_ready(wait)
        except BaseException:
            await self.close()
            raise

    async def command(self, *args: Arg) -> Any:
        """See Connection."""
        if self._pipe is None:
            await self._until_ready(self._patience)
        assert self._pipe is not None
        return await self._pipe.send(args)

    async def script(self, name: str, *args: Arg) -> Any:
        """See Connection."""
        entry = script(name)
        try:
            return await self.command("EVALSHA", entry.sha, 1, *args)
        except NoScriptError:
            return await self.command("EVAL", entry.source, 1, *args)

    async def close(self) -> None:
        """See Connection."""
        self._closed = True
        self._why = "closed"
        if self._pipe is not None:
            self._pipe.abort("closed")
        await self._tasks.close()

    async def _until_ready(self, wait: float) -> None:
        try:
            async with asyncio.timeout(0 if self._closed else wait):
                while self._pipe is None:
                    await self._ready.wait()
        except TimeoutError:
            raise StoreUnavailableError(f"The store at {self._url.shown} does not answer ({self._why}).") from None

    async def _dial_until_up(self, since: float) -> None:
        for attempt in range(1_000_000_000):
            try:
                pipe = await self._dial()
            except Exception as error:  # noqa: BLE001 - out of memory, say: a line that no more dials is lost for good
                silent = f"no answer within {DIAL_TIMEOUT:g} s" if isinstance(error, TimeoutError) else ""
                self._why = str(error) or silent or type(error).__name__
                if attempt == 0:
                    log.warning("store.away", address=self._url.shown, error=self._why)
                await asyncio.sleep(BACKOFF[min(attempt, len(BACKOFF) - 1)])
                continue
            self._pipe = pipe
            self._ready.set()
            if attempt:
                log.info("store.back", address=self._url.shown, away_seconds=round(time.monotonic() - since, 3))
            return

    async def _dial(self) -> _Pipe:
        url = self._url
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(DIAL_TIMEOUT):
            if url.path is not None:
                _, pipe = await loop.create_unix_connection(self._new_pipe, url.path)
            else:
                host, port = await self._locate()
                pipe = await self._hosts.connect(self._new_pipe, host, port, url.ssl_context())
            try:
                await self._greet(pipe)
            except BaseException:
                pipe.abort("not greeted")
                raise
        if not pipe.alive:  # lost again before we got here: nobody would tell us a second time
            raise StoreUnavailableError("connection closed by the server at once")
        return pipe

    async def _greet(self, pipe: _Pipe) -> None:
        url = self._url
        if url.password is not None:
            await pipe.send(("AUTH", url.username, url.password) if url.username else ("AUTH", url.password))
        if url.db:
            await pipe.send(("SELECT", url.db))
        await pipe.send(("PING",))
        if self._preload:
            await asyncio.gather(*(pipe.send(("SCRIPT", "LOAD", script(name).source)) for name in names()))

    def _new_pipe(self) -> _Pipe:
        return _Pipe(self._timeout, self._lost)

    def _lost(self, pipe: _Pipe, why: str) -> None:
        if pipe is not self._pipe:
            return
        self._pipe = None
        self._ready.clear()
        if not self._closed:
            self._why = why
            log.warning("store.lost", address=self._url.shown, error=why)
            self._tasks.spawn(self._dial_until_up(time.monotonic()), "dial")


class _Pipe(asyncio.Protocol):
    """One connection: writes of a loop turn joined, replies given to their futures in order."""

    def __init__(self, timeout: float, lost: Callable[[_Pipe, str], None]) -> None:
        self._timeout = timeout
        self._lost = lost
        self._loop = asyncio.get_running_loop()
        self._reader = hiredis.Reader()
        self._waiting: deque[tuple[asyncio.Future[Any], float]] = deque()
        self._buffer: list[bytes] = []
        self._whole = True
        """It is small enough to be copied into one write."""
        self._transport: asyncio.Transport | None = None
        self._watch: asyncio.TimerHandle | None = None
        self._ended = False
        self._why = "not connected"

    def send(self, args: tuple[Any, ...]) -> asyncio.Future[Any]:
        """Queue one command for this loop turn's write; the future of its reply."""
        future = self._loop.create_future()
        if not self.alive:
            future.set_exception(StoreUnavailableError(f"The store is away ({self._why})."))
            return future
        if not self._buffer:
            self._loop.call_soon(self._flush)
        if len(args) > _MANY and _bulky(args):
            self._buffer += _in_pieces(args)
            self._whole = False
        else:
            self._buffer.append(hiredis.pack_command(args))
        self._waiting.append((future, self._loop.time()))
        if self._watch is None:
            self._watch = self._loop.call_later(self._timeout, self._check_age)
        return future

    @property
    def alive(self) -> bool:
        """Whether commands can be sent."""
        return self._transport is not None and not self._ended and not self._transport.is_closing()

    def abort(self, why: str) -> None:
        """Drop the connection; what waits on it fails at once."""
        if self._transport is not None:
            self._transport.abort()
        self._end(why)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is one by its methods only

    def data_received(self, data: bytes) -> None:
        try:
            self._reader.feed(data)
            while (reply := self._reader.gets()) is not False:
                if not self._waiting:
                    self.abort("the server sent a reply nobody had asked for")
                    return
                self._give(reply)
        except hiredis.ProtocolError as error:
            self.abort(f"the server speaks no RESP: {error}")

    def eof_received(self) -> None:
        self._end("connection closed by the server")

    def connection_lost(self, exc: Exception | None) -> None:
        self._end(str(exc) if exc else "connection closed")

    def _end(self, why: str) -> None:
        """Fail what waits and tell the wire, at the first of the signs that the connection is over."""
        if self._ended:
            return
        self._ended = True
        self._why = why
        if self._watch is not None:
            self._watch.cancel()
        self._buffer.clear()
        for future, _ in self._waiting:
            if not future.done():
                future.set_exception(StoreUnavailableError(f"The connection to the store was lost ({why})."))
        self._waiting.clear()
        self._lost(self, why)

    def _flush(self) -> None:
        if self._buffer and self._transport is not None and not self._transport.is_closing():
            pieces = [b"".join(self._buffer)] if self._whole and len(self._buffer) > 1 else self._buffer
            for piece in pieces:
                self._transport.write(piece)
        self._buffer.clear()
        self._whole = True

    def _give(self, reply: Any) -> None:
        future, _ = self._waiting.popleft()
        if isinstance(reply, hiredis.ReplyError):
            error = _translated(str(reply))
            if _DEMOTED.search(str(reply)):  # ask anew where the primary is
                self.abort(str(reply))
            if not future.done():
                future.set_exception(error)
        elif not future.done():
            future.set_result(reply)

    def _check_age(self) -> None:
        self._watch = None
        if not self._waiting:
            return
        left = self._waiting[0][1] + self._timeout - self._loop.time()
        if left <= 0:
            self.abort(f"no reply within {self._timeout:g} s")
        else:
            self._watch = self._loop.call_later(left, self._check_age)


def _bulky(args: tuple[Any, ...]) -> bool:
    for arg in args:  # noqa: SIM110 - a generator takes twice as long, for every job
        if arg.__class__ is bytes and len(arg) > LARGE:
            return True
    return False


def _in_pieces(args: tuple[Any, ...]) -> list[bytes]:
    """A command with a request of megabytes in it, which is not copied: 64 MiB take a tenth of a second."""
    pieces = [b"*%d\r\n" % len(args)]
    for arg in args:
        if arg.__class__ is bytes:
            pieces += [b"$%d\r\n" % len(arg), arg, b"\r\n"]
        else:
            pieces.append(hiredis.pack_command((arg,)).removeprefix(b"*1\r\n"))
    return pieces


def _translated(text: str) -> Exception:
    if text.startswith("NOSCRIPT"):
        return NoScriptError(text)
    if _AWAY.search(text):
        return StoreUnavailableError(f"The store refuses work for now: {text}")
    return ScriptError(text)
