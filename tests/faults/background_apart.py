"""A background worker in a process of its own, with patience for a test's seconds: `background_apart.py URL POOL`."""

from __future__ import annotations

import asyncio
import sys

from foreman import logs
from foreman.settings import load
from foreman.store.client import connect
from foreman.store.deliveries import Pace
from workers.background import Background
from workers.deliveries.post import Patience

PATIENCE = Patience(connect=0.5, total=0.5)
PACE = Pace(schedule=(0.0, 0.3, 0.6), lease=3.0, probe_gap=0.5)


async def main(url: str, pool: str) -> None:
    logs.configure("json")
    settings = load(redis_url=url, pool=pool, webhook_allow="127.0.0.1", webhook_secret="the secret")
    store = await connect(settings, url)
    await Background(settings, store, PATIENCE, PACE).start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2]))
