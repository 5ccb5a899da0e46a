"""One POST to a receiver: the guard at the socket, the limits, and the reply's first bytes.

workers/deliveries/webhooks.py calls me with a URL and bytes; I say what came of it and raise nothing but cancellation. No redirect is
followed, no proxy asked, no cookie kept, and no address dialled that foreman.core.destinations refuses: the check is at
the socket because a name may resolve to something else a moment later, and aiohttp asks no resolver for literal addresses.
"""

from __future__ import annotations

import asyncio
import errno
import functools
import ipaddress
import socket
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import aiohttp
from aiohttp.client_proto import ResponseHandler
from yarl import URL

import foreman
from foreman.core import destinations
from foreman.hosts import Hosts

if TYPE_CHECKING:
    from collections.abc import Mapping

    from aiohttp.abc import ResolveResult

READ: Final = 4096
"""Bytes of a reply that are read at most."""
TAKEN: Final = 256 * 1024
"""Bytes of a connection that are looked at, heads and interim replies included."""
KEPT: Final = 1024
"""Bytes of a reply that the log keeps."""
_OURS: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
"""What this machine lacks; no fault of a receiver's."""
_NUMERIC: Final = socket.AI_NUMERICHOST | socket.AI_NUMERICSERV


@dataclass(frozen=True, slots=True)
class Patience:
    """Seconds."""

    connect: float = 5.0
    total: float = 15.0


@dataclass(frozen=True, slots=True)
class Reply:
    """What came of a POST."""

    status: int | None
    took: float
    """Seconds."""
    body: str
    """The first KEPT bytes, as text."""
    error: str
    """A sentence; empty where a reply came in time."""
    retry_after: str | None = None
    ours: bool = False
    """No POST was made, and that is this machine's fault."""


class GuardedError(OSError):
    """An address that no webhook may go to; the socket was never made."""

    def __init__(self, address: str) -> None:
        super().__init__(errno.EACCES, f"{address} is no public address, and FOREMAN_WEBHOOK_ALLOW does not name it")


class Poster:
    """Sends webhooks. Make it in the loop that it lives in; `close` once."""

    def __init__(
        self,
        rules: tuple[destinations.Rule, ...],
        patience: Patience,
        resolver: aiohttp.abc.AbstractResolver | None = None,
    ) -> None:
        """`resolver`: another than the system's, for tests."""
        self._rules = rules
        self._patience = patience
        resolver = resolver or _Resolver()
        self._guarded = _session(patience, resolver, self._socket)
        self._named = _session(patience, resolver, _plain_socket)

    async def post(self, url: str, headers: Mapping[str, str], body: bytes) -> Reply:
        """One POST. What goes wrong is a Reply with an `error`."""
        began = time.perf_counter()
        try:
            destination = destinations.read(url)
            session = self._named if destinations.named(destination, self._rules) else self._guarded
            status, text, rest = await self._send(session, url, headers, body)
        except (aiohttp.ClientError, OSError, ValueError) as error:
            ours = isinstance(error, OSError) and error.errno in _OURS
            return Reply(None, time.perf_counter() - began, "", _sentence(error, self._patience), ours=ours)
        return Reply(status, time.perf_counter() - began, text, "", rest)

    async def close(self) -> None:
        """Close what is open."""
        await self._guarded.close()
        await self._named.close()

    async def _send(
        self, session: aiohttp.ClientSession, url: str, headers: Mapping[str, str], body: bytes
    ) -> tuple[int, str, str | None]:
        async with (
            asyncio.timeout(self._patience.total),
            session.post(URL(url, encoded=True), data=body, headers=headers, allow_redirects=False) as reply,
        ):
            rest = reply.headers.get("Retry-After")
            try:
                async with asyncio.timeout(self._patience.total / 3):  # the status has said it all; a drip says no more
                    start = await _first(reply.content)
            except (TimeoutError, aiohttp.ClientError):
                start = b""
            return reply.status, start[:KEPT].decode(errors="replace"), rest

    def _socket(self, where: Any) -> socket.socket:
        """The guard: the last thing before a connection is opened."""
        host, port = where[4][0], where[4][1]
        if not destinations.dialable(ipaddress.ip_address(host.partition("%")[0]), port, self._rules):
            raise GuardedError(host)
        return _plain_socket(where)


def _plain_socket(where: Any) -> socket.socket:
    made = socket.socket(where[0], where[1], where[2])
    made.setblocking(False)
    return made


class _Resolver(aiohttp.abc.AbstractResolver):
    """The system's, in threads that a silent name server can't use up for everybody."""

    def __init__(self) -> None:
        self._hosts = Hosts()

    async def resolve(self, host: str, port: int = 0, family: int = socket.AF_UNSPEC) -> list[ResolveResult]:
        """The addresses of a name; which of them may be dialled, the socket's guard says."""
        return [
            {"hostname": host, "host": where[0], "port": port, "family": one, "proto": proto, "flags": _NUMERIC}
            for one, _, proto, _, where in await self._hosts.look_up(host)
            if family in {socket.AF_UNSPEC, one}
        ]

    async def close(self) -> None:
        """Nothing is held."""


class _Bounded(ResponseHandler):
    """Takes no more than TAKEN bytes of a connection: an endless row of interim replies would hold up the whole loop."""

    _taken = 0

    def data_received(self, data: bytes) -> None:
        """Pass on what fits; past that, let the other side wait until the attempt's time is up.

        A head goes on alone: aiohttp forgets it over a broken body that it gets with it, and the status has said it all.
        """
        self._taken += len(data)
        if self._taken <= TAKEN:
            head, end, body = data.partition(b"\r\n\r\n")
            super().data_received(head + end)
            if body:
                super().data_received(body)
        elif self.transport is not None:
            self.transport.pause_reading()


def _session(patience: Patience, resolver: aiohttp.abc.AbstractResolver, factory: Any) -> aiohttp.ClientSession:
    connector = aiohttp.TCPConnector(
        limit=0, force_close=True, use_dns_cache=False, socket_factory=factory, resolver=resolver
    )
    bounded: Any = functools.partial(_Bounded, loop=asyncio.get_running_loop())
    connector._factory = bounded  # noqa: SLF001 - the only place where bytes can be counted
    return aiohttp.ClientSession(
        connector=connector,
        timeout=aiohttp.ClientTimeout(total=None, connect=patience.connect, sock_connect=patience.connect),
        cookie_jar=aiohttp.DummyCookieJar(),
        trust_env=False,
        auto_decompress=False,  # a bomb stays what it is on the wire
        headers={"User-Agent": f"foreman/{foreman.__version__}", "Content-Type": "application/json"},
    )


async def _first(content: aiohttp.StreamReader) -> bytes:
    start = b""
    while len(start) < KEPT and (piece := await content.read(READ - len(start))):
        start += piece
    return start


def _sentence(error: BaseException, patience: Patience) -> str:
    """What went wrong, for the log; at most a line."""
    if isinstance(error, aiohttp.ServerTimeoutError):
        return f"no connection within {patience.connect:g} s"
    if isinstance(error, TimeoutError):
        return f"no answer within {patience.total:g} s"
    if isinstance(error, aiohttp.ClientResponseError):  # its `status` is aiohttp's own
        what = error.message.partition("\n")[0].rstrip(":")
        return f"its reply is no HTTP: {what}"[:300]
    return (str(error) or type(error).__name__)[:300]
