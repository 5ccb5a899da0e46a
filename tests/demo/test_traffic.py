"""The demo's callers: they come again after whatever a gateway did to them."""

from __future__ import annotations

import asyncio

from foreman.demo.traffic import Traffic
from tests.waiting import wait_until


async def test_a_batch_whose_connections_broke_comes_again() -> None:
    calls: list[str] = []

    async def gateway(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        calls.append(head.split()[1])
        if calls[-1] == "/api/tags":
            names = b'{"models":[{"name":"m"},{"name":"e"}]}'
            writer.write(
                b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(names)
            )
            writer.write(names)
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(gateway, "127.0.0.1", 0)
    traffic = Traffic(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", ["m"], "e", pace=1000.0)
    await traffic.start()
    try:
        await wait_until(lambda: calls.count("/api/generate") > 20)  # ten a batch
    finally:
        await traffic.stop()
        server.close()
        await server.wait_closed()
