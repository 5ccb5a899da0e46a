"""What a pool looks like now, for programs: one question to `/ops/state`.

`foreman top` calls me. I ask once and repeat nothing; whoever wants to know again asks again.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final, Self

import aiohttp

from foreman.client.gateways import Gateways

if TYPE_CHECKING:
    from types import TracebackType

_TIMEOUT: Final = aiohttp.ClientTimeout(total=10, sock_connect=5)


class Overview:
    """The pool behind a gateway: `async with Overview(url, token) as pool: await pool.state()`."""

    def __init__(self, url: str, token: str | None = None) -> None:
        self._gateways = Gateways([url], token)

    async def __aenter__(self) -> Self:
        await self._gateways.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._gateways.close()

    async def state(self) -> dict[str, Any]:
        """The snapshot, as docs/api.md describes it. Raises ForemanError, UnreachableError."""
        async with self._gateways.ask("GET", "/ops/state", timeout=_TIMEOUT) as reply:
            found: dict[str, Any] = json.loads(await reply.read())
            return found
