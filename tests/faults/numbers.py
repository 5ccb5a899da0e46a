"""Whether the numbers that gateways tell are true, all through a fault run: the same recount before and after the question.

The run starts me beside its load and asks me for my promise at the end. Where something moved between two recounts, or
the store or the gateway was away, there is nothing to compare, and I ask again.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import TYPE_CHECKING

import aiohttp

from tests.faults.judge import Promise
from tests.faults.topology import AWAY
from tests.recount import recount

if TYPE_CHECKING:
    from tests.faults.topology import Topology

PAUSE = 0.5
"""Seconds between two questions."""
GATEWAYS = ("g1", "g2")


class Numbers:
    """The comparisons of one run."""

    def __init__(self, pool: Topology) -> None:
        self._pool = pool
        self._agreed = dict.fromkeys(GATEWAYS, 0)
        self._asked = 0
        self._breaches: list[str] = []

    async def watch(self) -> None:
        """Compare until cancelled."""
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=5)) as session:
            while True:
                for gateway in GATEWAYS:
                    with contextlib.suppress(aiohttp.ClientError, TimeoutError, ValueError, *AWAY):
                        await self._compare(session, gateway)
                await asyncio.sleep(PAUSE)

    async def _compare(self, session: aiohttp.ClientSession, gateway: str) -> None:
        before = await recount(self._pool.look, self._pool.key)
        async with session.get(f"{self._pool.url(gateway)}/ops/state") as reply:
            state = json.loads(await reply.read())
        self._asked += 1
        if reply.status != 200 or state["store"]["status"] != "ok" or "lanes_more" not in state:
            return  # away, or of an older version
        if await recount(self._pool.look, self._pool.key) == before:
            self._agreed[gateway] += 1
            self._breaches += [
                f"{gateway} at {state['now']}: {wrong}" for wrong in before.differs(state, kept_all=False)
            ]

    def promise(self) -> Promise:
        """What came of it."""
        agreed = ", ".join(f"{count} at {gateway}" for gateway, count in self._agreed.items())
        return Promise(
            "numbers equal a recount of the store",
            seen=f"{self._asked} questions; of those in a moment in which nothing moved: {agreed}",
            breaches=self._breaches[:10],
        )
