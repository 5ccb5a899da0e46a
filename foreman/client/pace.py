"""How fast answers come by a URL: the same call many times over, with what each felt like to its caller.

`foreman bench` calls me, for a gateway and for a model server beside it. I measure and add up; I judge nothing.
"""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from foreman.client.chat import Ask, Chat
from foreman.client.errors import ForemanError
from foreman.client.gateways import Gateways

if TYPE_CHECKING:
    from collections.abc import Iterable


@dataclass(slots=True)
class Pace:
    """What the calls by one URL were like, so far. Times in seconds."""

    ttft: list[float] = field(default_factory=list)
    """From the call to its first token, waiting included; one for each answer with a token."""
    tpot: list[float] = field(default_factory=list)
    """Between two tokens; one for each answer with two."""
    tokens: int = 0
    seconds: float = 0.0
    """Spent calling; not the sum of the calls, which run side by side."""
    answered: int = 0
    failures: list[ForemanError] = field(default_factory=list)

    @property
    def tokens_per_second(self) -> float:
        """Of all calls together."""
        return self.tokens / self.seconds if self.seconds else 0.0


async def measure(
    pace: Pace, url: str, token: str | None, request: dict[str, Any], *, calls: int, streams: int
) -> None:
    """Make `calls` streamed calls to `/api/chat`, `streams` at a time, and add them to `pace`."""
    body = json.dumps(request | {"stream": True}).encode()
    gateways = Gateways([url], token)
    await gateways.open()
    begin = time.monotonic()
    turns = iter(range(calls))
    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(min(streams, calls)):
                group.create_task(_follow(pace, gateways, body, turns))
    finally:
        pace.seconds += time.monotonic() - begin
        await gateways.close()


async def _follow(pace: Pace, gateways: Gateways, body: bytes, turns: Iterable[int]) -> None:
    """One call after the other, until none is left."""
    for _ in turns:
        ask = Ask("/api/chat", body, {"Content-Type": "application/json"}, None, _untold, None, 0.0, _HEARTBEAT)
        try:
            answer = await Chat(gateways, ask).whole()
        except ForemanError as error:
            pace.failures.append(error)
            continue
        pace.answered += 1
        pace.tokens += answer.tokens
        pace.ttft += [] if answer.ttft is None else [answer.ttft]
        pace.tpot += [] if answer.tpot is None else [answer.tpot]


_HEARTBEAT = 60.0
"""Seconds a gateway may take between two signs of life: more than any `FOREMAN_HEARTBEAT` one would set."""


def _untold(_state: object) -> None:
    """Nobody watches."""
