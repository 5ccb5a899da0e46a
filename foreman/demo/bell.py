"""Something has changed: wakes all who wait, and remembers nothing.

The ledger and the gates ring me; their waiters look again at what they wait for. Unlike asyncio.Event, several may wait
for several things.
"""

from __future__ import annotations

import asyncio


class Bell:
    """One loop, any number of waiters."""

    __slots__ = ("_waiters",)

    def __init__(self) -> None:
        self._waiters: set[asyncio.Future[None]] = set()

    def ring(self) -> None:
        """Wake all who wait now."""
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)

    async def wait(self) -> None:
        """Until the next ring."""
        waiter = asyncio.get_running_loop().create_future()
        self._waiters.add(waiter)
        try:
            await waiter
        finally:
            self._waiters.discard(waiter)
