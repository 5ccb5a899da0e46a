"""Who calls during a fault run: sync callers on sockets of their own, async ones with webhooks; both write in the ledger.

A sync caller does what a program behind a load balancer does: another gateway where one takes no connection, and again
where the answer was an error or the connection broke. An async one sends with a key until it has a yes. Each request
asks for a number of tokens, so that an answer that is too short shows.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import time
from typing import TYPE_CHECKING, Any, Final

import aiohttp

from tests.faults.ledger import Said, Sent, Try, words_of
from tests.faults.topology import MODELS

if TYPE_CHECKING:
    from tests.faults.ledger import Ledger
    from tests.faults.topology import Topology

PATIENCE: Final = 60.0
"""Seconds after which a call that says nothing counts as hung."""
PATHS: Final = ("/api/chat", "/api/chat", "/v1/chat/completions")
KEYED: Final = 0.3
"""Share of the sync calls that come with an Idempotency-Key: what they ask again finds the job, and its answer."""
RECEIVERS: Final = 12
LATER: Final = frozenset({"store_unavailable", "shutting_down", "queue_full"})
"""Codes of a 503: ask again."""


def shape(chance: random.Random) -> tuple[int, float]:
    """Tokens and seconds per token: most short, some long enough to be hit in the middle."""
    return chance.choices([(6, 0.005), (20, 0.02), (40, 0.04)], [70, 24, 6])[0]


class Callers:
    """All callers of a run."""

    def __init__(self, pool: Topology, ledger: Ledger, hooks: str) -> None:
        self.pool = pool
        self.ledger = ledger
        self.hooks = hooks
        """Where receivers listen, past their wire."""
        self.chance = random.Random(ledger.seed)
        self.over = asyncio.Event()
        """No new calls; what is under way goes on."""
        self._session: aiohttp.ClientSession | None = None

    async def run(self, calls: int, seconds: float) -> None:
        """`calls` jobs, every second one sync, evenly over `seconds`; returns when each has its end. `close` afterwards."""
        loop = asyncio.get_running_loop()
        limits = aiohttp.ClientTimeout(total=PATIENCE, sock_connect=3)
        connector = aiohttp.TCPConnector(limit=0, force_close=True)
        self._session = aiohttp.ClientSession(
            connector=connector, timeout=limits
        )  # the injectors' too, who may need it longer
        async with asyncio.TaskGroup() as group:
            began = loop.time()
            for number in range(calls):
                step = self._sync(number) if number % 2 else self.send(number, *shape(self.chance))
                group.create_task(step)
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(
                        self.over.wait(), max(0.0, began + seconds * (number + 1) / calls - loop.time())
                    )
                if self.over.is_set():
                    return

    async def close(self) -> None:
        """Nobody sends any more."""
        if self._session is not None:
            await self._session.close()

    # ------------------------------------------------------------------ sync

    async def _sync(self, number: int) -> None:
        """One call, again until it is answered."""
        tokens, pause = shape(self.chance)
        path, model = self.chance.choice(PATHS), self.chance.choice(MODELS)
        stream, keyed = self.chance.random() < 0.85, self.chance.random() < KEYED
        body = {"model": model, "messages": [{"role": "user", "content": f"call {number}"}], "stream": stream,
                "fake": {"tokens": tokens, "token_seconds": pause}}  # fmt: skip
        first = self.chance.randrange(2)
        for attempt in range(200):
            one = Try(number, f"g{(first + attempt) % 2 + 1}", path, tokens, time.time(), keyed=keyed)
            await self._try(one, body)
            one.ended = time.time()
            if one.outcome == "refused":
                await asyncio.sleep(0.1)
                continue
            self.ledger.tries.append(one)
            if one.outcome == "whole":
                self.ledger.calls["answered at once" if attempt == 0 else "answered on a later try"] += 1
                return
            await asyncio.sleep(min(3.0, 0.2 * 2 ** min(attempt, 6)) * self.chance.uniform(0.5, 1.0))
        self.ledger.calls["given up"] += 1
        self.ledger.trouble.append(f"call {number} got no answer in 200 tries")

    async def _try(self, one: Try, body: dict[str, Any]) -> None:
        assert self._session is not None
        said = b""
        headers = {"Idempotency-Key": f"call-{one.call}"} if one.keyed else {}
        try:
            async with self._session.post(self.pool.url(one.gateway) + one.path, json=body, headers=headers) as reply:
                one.status = reply.status
                one.job_id = reply.headers.get("X-Foreman-Job-Id", "")
                code = reply.headers.get("X-Foreman-Error", "")
                async for piece in reply.content.iter_any():
                    said += piece
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError):
            one.outcome = "refused"
            return
        except TimeoutError:
            one.outcome = "hung"
            return
        except (aiohttp.ClientError, OSError) as error:
            one.said = Said.of(words_of(one.path, said)[0])
            one.outcome, one.words = "broken", repr(error)[:120]
            if one.status is None and any(at >= one.began for at in self.pool.wires[one.gateway].refused):
                one.outcome = "refused"
            return
        text, whole, error_words = words_of(one.path, said)
        one.said = Said.of(text)
        one.words = error_words[:200]
        if one.status != 200:
            one.outcome = f"error {code or one.status}"
        elif error_words:
            one.outcome = "error in the stream"
        else:
            one.outcome = "whole" if whole else "silent"
            one.words = "" if whole else repr(said[-160:])

    # ------------------------------------------------------------------ async

    async def send(self, number: int, tokens: int, pause: float, model: str = "", priority: str = "normal") -> Sent:
        """One job, sent with its key until somebody takes it."""
        assert self._session is not None
        path = f"/ok/{number % RECEIVERS}" if number % 10 else f"/flaky/{number % 3}"
        one = Sent(number, path, tokens, time.time())
        self.ledger.sent.append(one)
        body = {"model": model or self.chance.choice(MODELS), "messages": [{"role": "user", "content": f"job {number}"}],
                "fake": {"tokens": tokens, "token_seconds": pause}, "state_webhook_url": self.hooks + path,
                "priority": priority, "metadata": {"number": number}}  # fmt: skip
        headers = {"Idempotency-Key": f"job-{number}"}
        for attempt in range(400):
            gateway = f"g{(number + attempt) % 2 + 1}"
            try:
                async with self._session.post(self.pool.url(gateway) + "/jobs", json=body, headers=headers) as reply:
                    answer = json.loads(await reply.read())
            except (aiohttp.ClientError, OSError, TimeoutError, ValueError):
                await asyncio.sleep(0.1)
                continue
            if reply.status in {200, 202}:
                one.job_id, one.accepted = answer["job_id"], time.time()
                one.ids.add(one.job_id)
                return one
            code = answer.get("error", {}).get("code", "")
            if reply.status == 503 and code in LATER:
                await asyncio.sleep(0.2)
                continue
            one.refused = f"{reply.status} {code}"
            self.ledger.trouble.append(f"job {number} was refused: {one.refused}: {answer}")
            return one
        self.ledger.trouble.append(f"job {number} was never taken")
        return one
