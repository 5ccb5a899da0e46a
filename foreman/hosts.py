"""Addresses of host names: a name server that says nothing holds up its own domain, and nobody else.

The gateway asks me for a webhook's receiver as a job comes in, the background worker before each attempt, the worker for its
targets. The event loop's own look-ups share a handful of threads (uvloop: two), so a few names of a silent server would stop
them all. I ask in daemon threads, a bounded number in all and of one domain; the end of a process waits for none.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import socket
import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, TypeVar

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable

P = TypeVar("P", bound=asyncio.BaseProtocol)

AT_ONCE: Final = 64
"""Look-ups under way, in all."""
OF_A_DOMAIN: Final = 8
"""Of those, of names with the same last two labels."""

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

        Raises OSError: there is no such name, or what the last address said.
        """
        loop = asyncio.get_running_loop()
        name = host if tls else None
        addresses = await self._addresses(host)
        for number, address in enumerate(addresses, 1):
            try:
                return (await loop.create_connection(factory, address, port, ssl=tls, server_hostname=name))[1]
            except OSError:
                if number == len(addresses):
                    raise
        raise OSError(f"{host} has no address")

    async def _addresses(self, host: str) -> Sequence[str]:
        with contextlib.suppress(ValueError):
            return [str(ipaddress.ip_address(host))]
        try:
            return [_spelled(where) for *_, where in await self.look_up(host)]
        except UnicodeError as error:
            raise OSError(f"{host} is no host name") from error

    def _ask_next(self) -> None:
        for host, look_up in self._open.items():
            if self._busy.total() >= AT_ONCE:
                return
            if not look_up.asked and self._busy[_domain(host)] < OF_A_DOMAIN:
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
