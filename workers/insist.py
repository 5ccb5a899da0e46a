"""Ask the store again and again while it is away.

The worker and its runs call me for what must be said sooner or later. I bear StoreUnavailableError and nothing else.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, TypeVar

from foreman.store.errors import StoreUnavailableError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

T = TypeVar("T")

_FIRST, _MOST = 0.05, 1.0
"""Seconds between two tries."""
_GROWTH: Final = 2


async def insist(step: Callable[[], Awaitable[T]], given_up: Callable[[], bool] = lambda: False) -> T | None:
    """What `step` returns once the store answers; None as soon as `given_up` says that nobody wants to know."""
    pause = _FIRST
    while True:
        try:
            return await step()
        except StoreUnavailableError:
            if given_up():
                return None
            await asyncio.sleep(pause)
            pause = min(pause * _GROWTH, _MOST)
