"""What is done to the pool: one method per kind of blow, each noted in the ledger with its time.

The run's phases call me. Whatever I spoil I put right again; what dies is brought back by the topology's supervisors.
Before a blow to a worker I put a job on the anvil: a long one on the very target it owns, so that every blow hits work.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import random
import signal
import time
from typing import TYPE_CHECKING, Any, Final

import aiohttp

from tests.faults.topology import ANVIL, AWAY

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tests.faults.callers import Callers
    from tests.faults.ledger import Ledger
    from tests.faults.topology import Life, Topology

TARGETS: Final = ("gpu1", "gpu2")
UPSTREAM: Final = ("hang-mid", "reset-first", "reset-mid", "half-line", "close-mid", "clean-end", "error-line", "status",
                   "garbage", "wrong-length", "drip")  # fmt: skip
AGE: Final = {"w": 2.0, "g": 3.0, "b": 1.5}
"""Seconds a process lives at least before it is killed again: a pool that is never up would prove nothing."""
NUMBERS: Final = 1_000_000
"""Jobs on the anvil are numbered from here."""


async def until(what: Callable[[], Awaitable[Any]], timeout: float) -> Any:
    """What `what()` says as soon as it says something, or None after `timeout` seconds."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(timeout):
            while True:
                with contextlib.suppress(*AWAY):
                    if seen := await what():
                        return seen
                await asyncio.sleep(0.02)
    return None


class Injectors:
    """The hands of a run."""

    def __init__(self, pool: Topology, ledger: Ledger, callers: Callers) -> None:
        self.pool = pool
        self.ledger = ledger
        self.callers = callers
        self.chance = random.Random(ledger.seed + 1)
        self._numbers = itertools.count(NUMBERS)

    # ------------------------------------------------------------------ processes

    async def _anvil(self, target: str, seconds: float) -> tuple[str, str, Life] | None:
        """A job of `seconds` at work on a target: its id, its worker's id and life."""
        number = next(self._numbers)
        tokens = int(seconds / 0.05)
        sent = await self.callers.send(number, tokens, 0.05, ANVIL.format(target=target), "high")
        if not sent.job_id:
            return None

        async def at_work() -> tuple[str, str, Life] | None:
            state, worker = await self.pool.look.hmget(f"{self.pool.key}job:{sent.job_id}", "state", "worker")
            life = self.pool.whose(worker) if state == "working" and worker else None
            return (sent.job_id, worker, life) if life is not None and life.ended is None else None

        return await until(at_work, 15)

    async def kill_owner(self, target: str) -> bool:
        """SIGKILL to the owner of a target while a job of ours runs there."""
        found = await self._anvil(target, 2.0)
        if found is None:
            return False
        await asyncio.sleep(self.chance.uniform(0.0, 0.3))
        _, worker, life = found
        await self.another(life.seat)
        return await self._strike(worker, life, signal.SIGKILL, self.ledger.kills)

    async def _strike(self, worker: str, life: Life, sign: signal.Signals, book: dict[str, float]) -> bool:
        """Signal a worker where it still lives, and write it down; whether it was struck."""
        async with self.pool.seats[life.seat].hands:
            if life.ended is not None:
                return False
            book[worker] = at = time.time()
            await self.pool.end(life.seat, sign)
        self.ledger.blow(f"{sign.name} worker", life.seat, at)
        return True

    async def kill(self, name: str) -> None:
        """SIGKILL to whoever holds a seat, once it is up."""
        async with self.pool.seats[name].hands:
            life = self.pool.seats[name].life
            if not name.startswith("gpu"):  # one that never comes up would prove nothing
                with contextlib.suppress(TimeoutError):
                    life = await self.pool.ready(name, 20)
            if life is None:
                return
            await asyncio.sleep(
                max(0.0, life.began + AGE[name[0]] - time.time())
            )  # on a busy machine a start takes long
            if life.ended is not None:
                return
            at = time.time()
            await self.pool.end(name, signal.SIGKILL)
            for worker in life.ids() if name.startswith("w") else ():
                self.ledger.kills[worker] = at
            kind = {"w": "worker", "g": "gateway", "b": "background"}[name[0]]
            self.ledger.blow(f"SIGKILL {'target' if name.startswith('gpu') else kind}", name, at)

    async def another(self, name: str) -> None:
        """Wait (a while) until somebody else of that role is up: a pool that nobody serves shows nothing but waiting."""
        peers = [
            other for other in self.pool.seats if other[0] == name[0] and len(other) == len(name) and other != name
        ]
        if name.startswith("gpu"):
            return

        async def up() -> bool:
            return any(self.pool.up(other) for other in peers)

        await until(up, 8)

    async def terminate_owner(self, target: str) -> bool:
        """SIGTERM to the owner of a target whose job outlasts the grace."""
        found = await self._anvil(target, 4.0)
        if found is None:
            return False
        _, worker, life = found
        return await self._strike(worker, life, signal.SIGTERM, self.ledger.terms)

    async def terminate(self, name: str) -> None:
        """SIGTERM to a gateway or a background process."""
        async with self.pool.seats[name].hands:
            with contextlib.suppress(TimeoutError):
                await self.pool.ready(name, 10)
                at = time.time()
                await self.pool.end(name, signal.SIGTERM)
                self.ledger.blow(f"SIGTERM {'gateway' if name.startswith('g') else 'background'}", name, at)

    async def leave(self, name: str) -> None:
        """SIGTERM for good: nobody comes after it."""
        seat = self.pool.seats[name]
        async with seat.hands:
            seat.closed = True
            if seat.life is not None:
                await self.pool.end(name, signal.SIGTERM)

    async def zombie(self, target: str) -> bool:
        """SIGSTOP to the owner in mid-job until another worker runs that job again, then SIGCONT while it still does."""
        found = await self._anvil(target, 4.0)
        if found is None:
            return False
        job_id, worker, life = found
        await self.another(life.seat)
        async with self.pool.seats[life.seat].hands:
            if life.ended is not None:
                return False
            at = time.time()
            life.process.send_signal(signal.SIGSTOP)
            try:

                async def elsewhere() -> str | None:
                    state, other = await self.pool.look.hmget(f"{self.pool.key}job:{job_id}", "state", "worker")
                    over = state in {"done", "failed", "cancelled"}
                    return state if over or (state == "working" and other and other != worker) else None

                again = await until(elsewhere, 14)
                await asyncio.sleep(self.chance.uniform(0.1, 0.6))
            finally:
                life.process.send_signal(signal.SIGCONT)
            life.stops.append((at, time.time()))

            async def awake() -> bool:
                return life.ended is not None or life.ids()[-1] != worker

            await until(awake, 6)
        self.ledger.blow("zombie" if again == "working" else "frozen for nothing", life.seat, at)
        return again == "working"

    async def amnesia(self, target: str) -> bool:
        """SIGKILL to an owner, and the store forgets its lease and what it ran, as after an eviction or an old backup."""
        found = await self._anvil(target, 3.0)
        if found is None:
            return False
        _, worker, life = found
        async with self.pool.seats[life.seat].hands:
            if life.ended is not None:
                return False
            self.ledger.kills[worker] = at = time.time()
            await self.pool.end(life.seat, signal.SIGKILL)
            key = self.pool.key
            with contextlib.suppress(*AWAY):
                await self.pool.look.zrem(f"{key}workers", worker)
                await self.pool.look.delete(f"{key}worker:{worker}", f"{key}worker:{worker}:jobs")
        self.ledger.blow("SIGKILL worker", life.seat, at)
        self.ledger.blow("lease forgotten", life.seat, at)
        return True

    # ------------------------------------------------------------------ the store

    async def store_killed(self) -> None:
        """SIGKILL to the store, and its start on the same files."""
        at = time.time()
        try:
            await self.pool.store_kill(self.chance.uniform(0.1, 2.0))
        finally:
            self.ledger.blow("SIGKILL store", "store", at)

    async def store_full(self, seconds: float) -> None:
        """Every write is answered `OOM command not allowed`."""
        await self._configured("store full (OOM)", seconds, {"maxmemory": "1"}, {"maxmemory": "0"})

    async def store_read_only(self, seconds: float) -> None:
        """Every write is answered `NOREPLICAS`."""
        name = "min-replicas-to-write"
        await self._configured("store read-only", seconds, {name: "1"}, {name: "0"})

    async def store_demoted(self, seconds: float) -> None:
        """It is a replica of nobody for a while: `READONLY`."""
        at = time.time()
        await self.pool.look.execute_command("REPLICAOF", "127.0.0.1", "1")
        try:
            await asyncio.sleep(seconds)
        finally:
            await self.pool.look.execute_command("REPLICAOF", "NO", "ONE")
            self.ledger.blow("store read-only", "store", at)

    async def _configured(self, kind: str, seconds: float, bad: dict[str, str], good: dict[str, str]) -> None:
        at = time.time()
        for name, value in bad.items():
            await self.pool.look.config_set(name, value)
        try:
            await asyncio.sleep(seconds)
        finally:
            for name, value in good.items():
                await self.pool.look.config_set(name, value)
            self.ledger.blow(kind, "store", at)

    # ------------------------------------------------------------------ between them

    async def cable(self) -> None:
        """Something happens to one cable."""
        name = self.chance.choice(sorted(self.pool.wires))
        wire = self.pool.wires[name]
        seconds = self.chance.uniform(0.5, 3.0 if not name.endswith("store") else 6.0)
        at = time.time()
        kind = self.chance.choice(["cut", "cut", "slow", "black hole", "black hole one way"])
        try:
            if kind == "cut":
                wire.cut()
            elif kind == "slow":
                await wire.slow(seconds, self.chance.uniform(0.02, 0.3))
            elif kind == "black hole":
                await wire.hole(seconds)
            else:
                up = self.chance.random() < 0.5
                await wire.hole(seconds, up=up, down=not up)
        finally:
            self.ledger.blow(f"cable {kind}", name, at)

    async def upstream(self) -> None:
        """The next request to a target goes wrong."""
        target, kind = self.chance.choice(TARGETS), self.chance.choice(UPSTREAM)
        fault = {"kind": kind, "after": self.chance.randrange(4), "seconds": 0.002}
        with contextlib.suppress(aiohttp.ClientError, OSError, TimeoutError):
            async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=3)) as session:
                async with session.post(f"{self.pool.fakes[target]}/_fake/faults", data=json.dumps(fault)) as reply:
                    await reply.read()
                self.ledger.blow(f"upstream {kind}", target, time.time())

    async def clock(self, name: str, offset: float, seconds: float) -> None:
        """The wall clock of a seat's processes jumps, and back."""
        at = time.time()
        self.pool.clock(name, offset)
        try:
            await asyncio.sleep(seconds)
        finally:
            self.pool.clock(name, 0.0)
        self.ledger.blow("clock jump", name, at)
