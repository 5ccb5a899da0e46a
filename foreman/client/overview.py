"""What a pool looks like now, for programs: one question to `/ops/state` or `/api/tags`.

`foreman top` calls me, and whoever has to say what models there are. I ask once and repeat nothing; whoever wants to know
again asks again.
"""

from __future__ import annotations

import json
from typing import Any, Final

import aiohttp

from foreman.client.gateways import Gateways, Opened

_TIMEOUT: Final = aiohttp.ClientTimeout(total=10, sock_connect=5)


class Overview(Opened):
    """The pool behind a gateway: `async with Overview(url, token) as pool: await pool.state()`."""

    def __init__(self, url: str, token: str | None = None) -> None:
        super().__init__(Gateways([url], token))

    async def state(self) -> dict[str, Any]:
        """The snapshot, as docs/api.md describes it. Raises ForemanError, UnreachableError."""
        async with self._gateways.ask("GET", "/ops/state", timeout=_TIMEOUT) as reply:
            found: dict[str, Any] = json.loads(await reply.read())
            return found

    async def models(self) -> list[str]:
        """The names of the models there are. Raises ForemanError, UnreachableError."""
        async with self._gateways.ask("GET", "/api/tags", timeout=_TIMEOUT) as reply:
            return [str(model["name"]) for model in json.loads(await reply.read())["models"]]
