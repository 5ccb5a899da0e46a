"""Both channels behind one `Channels`, for a worker that shares its process with a gateway but serves others too.

The worker calls me as it would call either; a gateway in this process is reached directly, any other over TCP.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from foreman.link.channel import Control, Outlet
    from foreman.link.client import LinkClient
    from foreman.link.local import LocalLink
    from foreman.store.records import GatewayPresence


class Switchboard:
    """Asks the local link first, then the client; implements `Channels`."""

    def __init__(self, local: LocalLink, client: LinkClient) -> None:
        self._local = local
        self._client = client

    async def open(self, gateway: str, job_id: str, epoch: int, control: Control, *, window: int) -> Outlet:
        """See `Channels.open`."""
        way = self._local if gateway in self._local else self._client
        return await way.open(gateway, job_id, epoch, control, window=window)

    def update(self, gateways: list[GatewayPresence]) -> None:
        """See `LinkClient.update`; gateways in this process are never dialled."""
        self._client.update([gateway for gateway in gateways if gateway.id not in self._local])

    def unreachable(self) -> tuple[str, ...]:
        """See `LinkClient.unreachable`."""
        return self._client.unreachable()

    async def close(self) -> None:
        """End the links over TCP."""
        await self._client.close()
