"""What `tests/bench/soak.py --kills` does beside its load: SIGKILL to a process of each kind in turn, and its next life.

The soak starts me. A gateway, a worker and a background process are started again by me, as a supervisor would; the store
by its own. What is to hold afterwards is the soak's to judge.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import signal
from collections import Counter
from typing import TYPE_CHECKING, Final

from foreman.store.client import redis_client

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.rig import House

EVERY: Final = 20.0
"""Seconds from one kill to the next."""
STORE: Final = "store"


class Kills:
    """The kills of one soak. `done` counts them by kind."""

    def __init__(self, house: House, renewed: Callable[[str, int], object]) -> None:
        """`renewed` is told of each next life: whose, and its pid."""
        self._house = house
        self._renewed = renewed
        self.done: Counter[str] = Counter()
        self._hands = asyncio.Lock()

    async def run(self) -> None:
        """Until cancelled; the next life of one just killed is started all the same, see `settled`."""
        for name in itertools.cycle((*self._house.processes, STORE)):
            await asyncio.sleep(EVERY)
            await (self._store() if name == STORE else asyncio.shield(self._process(name)))

    async def settled(self) -> None:
        """After `run`: whoever was killed last has been started again."""
        async with self._hands:
            pass

    async def _process(self, name: str) -> None:
        async with self._hands:
            await self._house.stop(name, signal.SIGKILL)
            self.done[name] += 1
            role = [] if name == "serve" else ["--role", name]
            self._renewed(name, (await self._house.spawn(name, *role)).pid)

    async def _store(self) -> None:
        url = self._house.env.get("FOREMAN_REDIS_URL") or f"unix://{self._house.env['FOREMAN_DATA_DIR']}/store.sock"
        with contextlib.suppress(OSError):
            async with redis_client(url, decode_responses=True) as client:
                pid = int((await client.info("server"))["process_id"])
            os.kill(pid, signal.SIGKILL)
            self.done[STORE] += 1
