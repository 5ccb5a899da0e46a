"""Waiting for something that nobody announces."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


async def wait_until(predicate: Callable[[], bool], timeout: float = 10.0) -> None:
    """Look again and again until it is so; fails after `timeout` seconds."""
    till = time.monotonic() + timeout
    while not predicate():
        assert time.monotonic() < till, f"not so within {timeout:g} s: {predicate}"
        await asyncio.sleep(0.005)
