"""Addresses of host names: a name server that says nothing holds up its own domain, and nobody else.

The gateway asks me for a webhook's receiver as a job comes in, the background worker before each attempt, the worker for its
targets. The event loop's own look-ups share a handful of threads (uvloop: two), so a few names of a silent server would stop
them all. I ask in daemon threads, a bounded number in all and of one domain; the end of a process waits for none.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import os
import socket
import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, TypeVar

from aiohappyeyeballs import start_connection

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable

    from aiohappyeyeballs import AddrInfoType

P = TypeVar("P", bound=asyncio.BaseProtocol)

NEXT: Final = 0.25
"""Seconds that an address has before the next one of its name is tried beside it."""
AT_ONCE: Final = 64
"""Look-ups under way, in all."""
OF_A_DOMAIN: Final = 8
"""Of those, of names with the same last two labels; and never more than a quarter of what all of them leave free."""
_SHARES: Final = 4

Found = Sequence[tuple[int, int, int, str, Any]]
"""As `socket.getaddrinfo` has it, port 0."""


@dataclass(slots=True)
class _LookUp:
    """One name that somebody asks for."""

    found: asyncio.Future[Found] = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    waiting: int = 0
    asked: bool = False


class Hosts:
    """Look-ups for one event loop; needs no end."""

    def __init__(self, ask: Callable[..., Found] = socket.getaddrinfo) -> None:
        """`ask`: another than the system's resolver, for tests."""
        self._resolver = ask
        self._open: dict[str, _LookUp] = {}
        """By name, the longest waiting first."""
        self._busy: Counter[str] = Counter()
        """Look-ups under way, by domain."""
        self._took: dict[str, str] = {}
        """Name → the address that took the last connection. As many as somebody connects to: targets, gateways."""

    async def look_up(self, host: str) -> Found:
        """The addresses of a name, for streams. Takes as long as the system's resolver does: bring a time-out.

        Raises OSError, UnicodeError: there are none.
        """
        if host not in self._open:
            self._open[host] = _LookUp()
            self._ask_next()
        look_up = self._open[host]
        look_up.waiting += 1
        try:
            return await asyncio.shield(look_up.found)
        finally:
            look_up.waiting -= 1
            if not look_up.waiting and not look_up.asked:
                del self._open[host]

    async def connect(self, factory: Callable[[], P], host: str, port: int, tls: ssl.SSLContext | None = None) -> P:
        """A connection to the first address of `host` that takes one, and its protocol.

        Several are tried a moment apart, both families in turn (RFC 8305), the one that took the last connection first: one
        that is dead costs that moment, and once.

        Raises OSError: there is no such name, or what its addresses said.
        """
        loop, name = asyncio.get_running_loop(), host if tls else None
        with contextlib.suppress(ValueError):
            address = str(ipaddress.ip_address(host))
            return (await loop.create_connection(factory, address, port, ssl=tls, server_hostname=name))[1]
        try:
            sock = await start_connection(await self._addresses(host, port), happy_eyeballs_delay=NEXT)
        except OSError as error:
            if error.errno is None or isinstance(error, socket.gaierror):
                raise
            raise OSError(error.errno, os.strerror(error.errno)) from error  # what each of them said
        except RuntimeError as error:  # uvloop's word for some addresses that are none
            raise OSError(str(error)) from error
        self._took[host] = sock.getpeername()[0]
        return (await loop.create_connection(factory, sock=sock, ssl=tls, server_hostname=name))[1]

    async def _addresses(self, host: str, port: int) -> list[AddrInfoType]:
        try:
            found = await self.look_up(host)
        except UnicodeError as error:
            raise OSError(f"{host} is no host name") from error
        if not found:
            raise OSError(f"{host} has no address")
        last_first = sorted(found, key=lambda one: one[4][0] != self._took.get(host))
        return [
            (family, kind, proto, "", (_spelled(where), port, *where[2:]))
            for family, kind, proto, _, where in last_first
        ]

    def _ask_next(self) -> None:
        for host, look_up in self._open.items():
            free = AT_ONCE - self._busy.total()
            if free < _SHARES:
                return
            if not look_up.asked and self._busy[_domain(host)] < min(OF_A_DOMAIN, free // _SHARES):
                look_up.asked = True
                self._busy[_domain(host)] += 1
                loop = asyncio.get_running_loop()
                try:
                    threading.Thread(target=self._ask, args=(loop, host), name=f"hosts {host}", daemon=True).start()
                except RuntimeError as error:  # no thread is to be had now
                    loop.call_soon(self._end, host, OSError(f"{host} could not be looked up: {error}"))

    def _ask(self, loop: asyncio.AbstractEventLoop, host: str) -> None:
        """In a thread of its own."""
        try:
            found: Found | Exception = self._resolver(host, 0, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            found = error
        with contextlib.suppress(RuntimeError):  # the loop has ended since
            loop.call_soon_threadsafe(self._end, host, found)

    def _end(self, host: str, found: Found | Exception) -> None:
        look_up = self._open.pop(host)
        self._busy[_domain(host)] -= 1
        if not self._busy[_domain(host)]:
            del self._busy[_domain(host)]
        if not isinstance(found, Exception):
            look_up.found.set_result(found)
        elif look_up.waiting:
            look_up.found.set_exception(found)
        self._ask_next()


def _spelled(where: Any) -> str:
    """An address of a family's form as text; one of a link is none without its interface."""
    return f"{where[0]}%{where[3]}" if len(where) == 4 and where[3] else str(where[0])


def _domain(host: str) -> str:
    return ".".join(host.lower().rstrip(".").split(".")[-2:])
