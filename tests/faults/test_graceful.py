"""Every role leaves and comes back under load, one of each at a time, and no sync call fails (contract of an upgrade).

The callers stand where a load balancer does: a gateway that refuses, or says that it is leaving, sends them to the other.
"""

from __future__ import annotations

import asyncio
import random
import signal
import sys
import time
from collections import Counter

import aiohttp
import pytest

from tests.faults.callers import PATHS, Callers
from tests.faults.ledger import Ledger, Try
from tests.faults.topology import MODELS, Topology

ROUNDS = (("g1", "w1", "b1"), ("g2", "w2", "b2"), ("w3",))
"""Who leaves at once; whoever is of their role and stays takes over."""
PACE = 0.1
"""Seconds from one call to the next."""
ELSEWHERE = {"refused", "error shutting_down"}
"""Answers upon which a balancer asks the next one: no byte of an answer has come."""


async def call(callers: Callers, number: int, chance: random.Random, outcomes: Counter[str], wrong: list[str]) -> None:
    tokens, pause = chance.choice([(6, 0.01), (20, 0.02), (40, 0.04)])
    body = {"model": chance.choice(MODELS), "messages": [{"role": "user", "content": f"call {number}"}],
            "stream": chance.random() < 0.9, "fake": {"tokens": tokens, "token_seconds": pause}}  # fmt: skip
    for attempt in range(100):
        one = Try(number, f"g{(number + attempt) % 2 + 1}", chance.choice(PATHS), tokens, time.time())
        await callers._try(one, body)
        if one.outcome not in ELSEWHERE:
            break
        outcomes["sent to the other gateway"] += 1
        await asyncio.sleep(0.02)
    outcomes[one.outcome] += 1
    if one.outcome != "whole" or one.said is None or one.said.spliced or len(one.said.places) != tokens:
        wrong.append(f"{one}")


@pytest.mark.timeout(240)
async def test_every_role_is_restarted_under_load(tmp_path, capsys):
    outcomes: Counter[str] = Counter()
    wrong: list[str] = []
    left: dict[str, float] = {}
    async with Topology(tmp_path, None, worker_grace=15, gateway_grace=15) as pool:
        pool.store_up()
        async with asyncio.TaskGroup() as group:
            keepers = [group.create_task(pool.keep(name)) for name in pool.seats]
            await asyncio.gather(*(pool.ready(name, 60) for names in ROUNDS for name in names))
            callers, chance = Callers(pool, Ledger(1), ""), random.Random(1)
            limits = aiohttp.ClientTimeout(total=40)
            async with (
                aiohttp.ClientSession(
                    connector=aiohttp.TCPConnector(limit=0, force_close=True), timeout=limits
                ) as callers._session,
                asyncio.TaskGroup() as load,
            ):
                over = asyncio.Event()

                async def pour() -> None:
                    number = 0
                    while not over.is_set():
                        number += 1
                        load.create_task(call(callers, number, chance, outcomes, wrong))
                        await asyncio.sleep(PACE)

                load.create_task(pour())

                async def restart(name: str) -> None:
                    began = time.monotonic()
                    life = await pool.end(name, signal.SIGTERM)
                    left[name] = time.monotonic() - began
                    assert life.process.returncode == 0, life.log.read_text()[-2000:]
                    await pool.ready(name, 60)

                for names in ROUNDS:
                    await asyncio.gather(*map(restart, names))
                    await asyncio.sleep(0.5)
                over.set()
            for task in keepers:
                task.cancel()
        assert pool.strays == []
    with capsys.disabled():
        took = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in left.items())
        print(f"\nSIGTERM to exit: {took}\ncalls: {dict(outcomes)}", file=sys.stderr)
    assert not wrong, "\n".join(wrong[:10])
    assert outcomes["whole"] > 50
