"""Tests on both event loops, asyncio's and uvloop's: their transports differ in what they allow. For the conftest of a folder."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import uvloop

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable


def both(item: pytest.Item) -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """What `pytest_asyncio_loop_factories` answers for a test; the virtual clock patches asyncio's and no other."""
    if item.get_closest_marker("looptime"):
        return {"asyncio": asyncio.new_event_loop}
    return {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


def spare_uvloop(items: Iterable[pytest.Item], conftest: str) -> None:
    """Let a leak on uvloop be a warning, below this conftest's folder.

    uvloop warns from inside a handle's close; raised as an error there, the loop never ends, and a red test that left a
    socket open hangs the whole run. On asyncio the same leak is still an error.
    """
    here = str(Path(conftest).parent)
    for item in items:
        if str(item.path).startswith(here) and "uvloop" in item.name:
            item.add_marker(pytest.mark.filterwarnings("default::ResourceWarning"))
