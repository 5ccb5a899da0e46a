"""Mixed traffic for the demo: people who chat, an agent with its bursts, a nightly batch, embeddings.

`foreman demo` starts me against its own gateway; I am a caller like any other, over HTTP. Seeded, so that two runs ask
the same; a caller who is refused tries again later, and some leave in the middle of an answer.
"""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING, Any, Final

import aiohttp

from foreman.tasks import Tasks

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

QUESTIONS: Final = (
    "Why is the sky blue?",
    "Write a haiku about queues.",
    "Explain a mutex to a cook.",
    "Name three uses for a brick.",
    "Summarise the last meeting.",
)
LEAVES: Final = 0.1
"""Share of the people who close their window in the middle of an answer."""


class Traffic:
    """The callers. `start` once, `stop` once."""

    def __init__(
        self,
        url: str,
        models: Sequence[str],
        embedder: str,
        *,
        token: str | None = None,
        seed: int = 1,
        pace: float = 1.0,
    ) -> None:
        """`pace` divides all pauses: 2.0 is twice the traffic."""
        self._url = url
        self._models = tuple(models)
        self._embedder = embedder
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._seed = seed
        self._pace = pace
        self._tasks = Tasks("traffic")
        self._session: aiohttp.ClientSession | None = None
        self.answered = 0
        """Calls that got their whole answer."""

    async def start(self) -> None:
        """Let the callers begin as soon as the gateway knows their models."""
        self._session = aiohttp.ClientSession(
            headers=self._headers,
            connector=aiohttp.TCPConnector(limit=0),
            timeout=aiohttp.ClientTimeout(total=None),
        )
        self._tasks.spawn(self._open(), "open")

    async def _open(self) -> None:
        while not await self._known():  # noqa: ASYNC110 - a caller gets no event from a gateway
            await asyncio.sleep(0.1)
        for number, model in enumerate(self._models):
            self._spawn(self._person, f"person-{model}", model, number)
        self._spawn(self._agent, "agent", self._models[0], 10)
        self._spawn(self._batch, "batch", self._models[-1], 11)
        self._spawn(self._indexer, "indexer", self._embedder, 12)

    async def stop(self) -> None:
        """Let them all leave."""
        await self._tasks.close()
        if self._session is not None:
            await self._session.close()

    def _spawn(
        self, caller: Callable[[str, random.Random], Awaitable[None]], name: str, model: str, number: int
    ) -> None:
        dice = random.Random(self._seed * 1000 + number)  # noqa: S311 - traffic, not secrets

        async def forever() -> None:
            while True:
                try:
                    await caller(model, dice)
                except aiohttp.ClientError:
                    await self._pause(dice, 2.0)

        self._tasks.spawn(forever(), name)

    async def _known(self) -> bool:
        """Whether the gateway lists every model."""
        assert self._session is not None
        async with self._session.get(f"{self._url}/api/tags") as reply:
            names = {str(entry.get("name")) for entry in (await reply.json()).get("models") or ()}
        return all({name, f"{name}:latest"} & names for name in (*self._models, self._embedder))

    async def _person(self, model: str, dice: random.Random) -> None:
        """Asks, reads along, thinks, asks again."""
        await self._pause(dice, 8.0)
        leave_after = dice.randint(2, 20) if dice.random() < LEAVES else None
        await self._chat(model, dice.choice(QUESTIONS), "high", leave_after)

    async def _agent(self, model: str, dice: random.Random) -> None:
        """A handful of calls right after one another, then a while of tool work."""
        for step in range(dice.randint(3, 6)):
            await self._chat(model, f"Step {step}: what next?", "normal", None)
            await self._pause(dice, 0.3)
        await self._pause(dice, 20.0)

    async def _batch(self, model: str, dice: random.Random) -> None:
        """Ten jobs at once for which nobody waits."""
        bodies = [{"model": model, "prompt": f"Classify document {n}.", "stream": False} for n in range(10)]
        calls = (self._call("/api/generate", body, "low", None) for body in bodies)
        # No TaskGroup: one whose tasks fail just as it is cancelled raises their errors and forgets the cancel.
        for outcome in await asyncio.gather(*calls, return_exceptions=True):
            if isinstance(outcome, BaseException):
                raise outcome
        await self._pause(dice, 30.0)

    async def _indexer(self, model: str, dice: random.Random) -> None:
        """Embeds what was written."""
        await self._pause(dice, 3.0)
        await self._call("/api/embed", {"model": model, "input": list(QUESTIONS[: dice.randint(1, 4)])}, "normal", None)

    async def _chat(self, model: str, question: str, priority: str, leave_after: int | None) -> None:
        body = {"model": model, "messages": [{"role": "user", "content": question}], "stream": True}
        await self._call("/api/chat", body, priority, leave_after)

    async def _call(self, path: str, body: dict[str, Any], priority: str, leave_after: int | None) -> None:
        """One call, read to its end or left after so many lines."""
        assert self._session is not None
        headers = {"X-Foreman-Priority": priority}
        async with self._session.post(self._url + path, json=body, headers=headers) as reply:
            lines = 0
            async for _ in reply.content:
                lines += 1
                if lines == leave_after:
                    reply.close()
                    return
            if reply.status >= 400:
                await asyncio.sleep(1.0)  # a target still starting, a full queue: no reason to hammer
            else:
                self.answered += 1

    async def _pause(self, dice: random.Random, mean: float) -> None:
        """An exponential pause with that mean in seconds."""
        await asyncio.sleep(dice.expovariate(1.0) * mean / self._pace)
