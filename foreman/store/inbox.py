"""Waiting to be told: a worker's orders and wake-ups, a gateway's notices, on a connection of their own.

Dispatchers and gateways await me in a loop; I turn one blocking pop into one message, and never lose one to a cancelled
task: the pop goes on and its reply is the next caller's. A message is a hint, never the truth; the store's records are.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from foreman.store import rows
from foreman.store.errors import ScriptError, StoreUnavailableError
from foreman.store.keys import INBOX, WAKE
from foreman.store.records import Notice, Order

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from foreman.store.keys import Keys
    from foreman.store.wire import Connection

MessageT = TypeVar("MessageT")


class Inbox(Generic[MessageT]):
    """One inbox. Awaited by one task at a time."""

    def __init__(
        self,
        connection: Connection,
        keys: Keys,
        kind: str,
        owner: str,
        parse: Callable[[bytes], MessageT],
        wake: Callable[[str, str], MessageT],
    ) -> None:
        self._connection = connection
        self._keys = keys
        self._own = keys.of(INBOX, kind, owner)
        self._parse = parse
        self._wake = wake
        self._wakes: dict[str, str] = {}
        self._pop: asyncio.Future[Any] | None = None
        self.closed = False

    def watch(self, targets: Iterable[str]) -> None:
        """Also listen to the wake-ups of these targets, from the next pop on (within a second)."""
        self._wakes = {self._keys.of(WAKE, target): target for target in targets}

    async def receive(self) -> MessageT | None:
        """The next message, or None after a second without one. Raises StoreUnavailableError, ScriptError."""
        if self._pop is None:
            self._pop = asyncio.ensure_future(  # noqa: TID251 - not a child: it outlives a cancelled receive on purpose
                self._connection.command("BLPOP", self._own, *self._wakes, 1)
            )
        try:
            reply = await asyncio.shield(self._pop)
        except (StoreUnavailableError, ScriptError):
            self._pop = None
            raise
        self._pop = None
        if reply is None:
            return None
        key, text = reply[0].decode(), reply[1]
        if key == self._own:
            return self._parse(text)
        return self._wake(self._wakes.get(key, key), text.decode())

    async def close(self) -> None:
        """Give the connection back; a pop under way is dropped."""
        self.closed = True
        await self._connection.close()
        if self._pop is not None:
            await asyncio.wait([self._pop])
            self._pop.exception()
            self._pop = None


def _wake(target: str, word: str) -> Order:
    if word == "probe":
        return Order("probe", target=target)
    return Order("wake", target=target, slot=word)


def _no_wake(target: str, word: str) -> Notice:
    raise AssertionError(f"a gateway watches no targets, but was woken for {target} ({word})")


def of_worker(connection: Connection, keys: Keys, worker_id: str) -> Inbox[Order]:
    """The inbox of a worker."""
    return Inbox(connection, keys, "worker", worker_id, rows.order, _wake)


def of_gateway(connection: Connection, keys: Keys, gateway_id: str) -> Inbox[Notice]:
    """The inbox of a gateway."""
    return Inbox(connection, keys, "gateway", gateway_id, rows.notice, _no_wake)
