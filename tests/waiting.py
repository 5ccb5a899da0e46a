"""Waiting for something that nobody announces: sockets, other processes, what the store says."""

from __future__ import annotations

import asyncio
import inspect
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable


async def wait_until(what: Callable[[], Any], timeout: float = 60) -> Any:
    """The value of `what()`, awaited where it is awaitable, once it is true.

    Raises:
        TimeoutError: it was not within `timeout` seconds.
    """
    async with asyncio.timeout(timeout):
        while True:
            value = what()
            if inspect.isawaitable(value):
                value = await value
            if value:
                return value
            await asyncio.sleep(0.005)
