"""The yardstick of the bench: the plainest streaming proxy one would write with aiohttp, on uvloop.

Run as a process by run.py (`passthrough.py UPSTREAM`). No queue, no retries, no checks: read a chunk, write a chunk.
"""

from __future__ import annotations

import sys

import aiohttp
import uvloop
from aiohttp import web


async def proxy(request: web.Request) -> web.StreamResponse:
    session: aiohttp.ClientSession = request.app["session"]
    body = await request.read()
    async with session.request(
        request.method,
        request.app["upstream"] + request.path_qs,
        data=body,
        headers={"Content-Type": "application/json"},
    ) as upstream:
        response = web.StreamResponse(status=upstream.status)
        response.content_type = upstream.content_type
        await response.prepare(request)
        async for chunk in upstream.content.iter_any():
            await response.write(chunk)
        await response.write_eof()
        return response


async def main(upstream: str) -> None:
    app = web.Application(client_max_size=0)
    app["upstream"] = upstream
    app["session"] = aiohttp.ClientSession(
        timeout=aiohttp.ClientTimeout(total=None), connector=aiohttp.TCPConnector(limit=0)
    )
    app.router.add_route("*", "/{path:.*}", proxy)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, backlog=1024)
    await site.start()
    print("READY", runner.addresses[0][1], flush=True)
    import asyncio

    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1]))
