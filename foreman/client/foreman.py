"""A gateway, or several of one pool, for programs: chats that survive, and jobs.

    async with Foreman("http://127.0.0.1:8080") as foreman:
        async for delta in foreman.chat({"model": "llama3.2", "messages": [...]}): ...
        job = await foreman.jobs.submit({...})

I am what a program imports; chat.py follows one call and jobs.py speaks of jobs. I know nothing of the store.
"""

from __future__ import annotations

import json
import os
import uuid
from typing import TYPE_CHECKING, Any, Final

from foreman.client.chat import Ask, Chat
from foreman.client.gateways import Gateways, Opened
from foreman.client.jobs import Jobs

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from foreman.client.reader import State

OWN_KEY: Final = object()
"""`key=OWN_KEY`: a key is made up."""


class Foreman(Opened):
    """One client: `async with Foreman(url) as foreman`.

    Args:
        urls: the base URL of the gateway, or those of several of one pool, asked one after the other when one fails. Default:
            `FOREMAN_URL`, else http://127.0.0.1:8080.
        token: the bearer. Default: `FOREMAN_TOKEN`.
        patience: seconds without a sign of life after which an answer or a call about jobs is given up.
    """

    def __init__(
        self, urls: str | Sequence[str] | None = None, token: str | None = None, *, patience: float = 60.0
    ) -> None:
        given = urls or os.environ.get("FOREMAN_URL") or "http://127.0.0.1:8080"
        urls = [given] if isinstance(given, str) else given
        super().__init__(Gateways(urls, token or os.environ.get("FOREMAN_TOKEN")))
        self._patience = patience
        self._chats: list[Chat] = []
        self.jobs = Jobs(self._gateways, patience=patience, again=patience)
        """The async surface: submit, get, wait, list, cancel, retry, events, artifact."""

    async def aclose(self) -> None:
        """Leave every chat, and close the connections."""
        for chat in self._chats:
            await chat.aclose()
        await super().aclose()

    def chat(
        self,
        request: dict[str, Any],
        *,
        path: str = "/api/chat",
        key: str | object | None = OWN_KEY,
        on_state: Callable[[State], None] | None = None,
        on_restart: Callable[[], None] | None = None,
        progress: float = 1.0,
        headers: dict[str, str] | None = None,
    ) -> Chat:
        """A streamed call: an async iterator of `Delta`, with what they add up to in `answer`.

        Args:
            request: the body in the dialect of `path`; `stream` is set to true.
            path: `/api/chat`, `/api/generate`, `/v1/chat/completions`, `/v1/completions`, `/v1/messages` or
                `/v1/responses`.
            key: the Idempotency-Key under which a lost connection or gateway is gone after; one is made up. None: the
                job ends with its connection, and so does the answer.
            on_state: told what the call does while nothing of its answer comes, and that it thinks.
            on_restart: told that the answer was lost with its run and begins anew: throw away what was shown. Without
                it that is a ForemanError once a delta was given.
            progress: seconds between two states while waiting.
            headers: more of the request's, such as `X-Foreman-Priority`.

        Raises (while iterating):
            UnreachableError: no gateway answers.
            ForemanError: refused, failed, or lost for good.
        """
        made = {
            "Content-Type": "application/json",
            "Accept": "text/event-stream",
            "X-Foreman-Progress": f"{progress:g}",
            **(headers or {}),
        }
        named = str(uuid.uuid4()) if key is OWN_KEY else key
        assert named is None or isinstance(named, str)
        ask = Ask(
            path,
            json.dumps(request | {"stream": True}).encode(),
            made,
            named,
            on_state or _nobody,
            on_restart,
            self._patience,
            progress,
        )
        chat = Chat(self._gateways, ask)
        self._chats = [*(kept for kept in self._chats if not kept.over), chat]
        return chat


def _nobody(_state: State) -> None:
    """Nobody asked."""
