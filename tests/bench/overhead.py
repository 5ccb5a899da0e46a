"""What streaming costs against not streaming, on the same work: tokens per second of both, in turn. Goal: within 2 %.

    .venv/bin/python tests/bench/overhead.py [--passes 5] [--callers 4] [--rate 50]

The fake makes each token at its own pace and streams or gathers them, as it is asked; callers ask again at once.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import tempfile
import time
from pathlib import Path

import aiohttp

sys.path.insert(0, str(Path(__file__).parent.parent.parent))

from foreman.demo.ollama import FakeOllama
from tests.rig import rig

TOKENS = 100


async def work(session: aiohttp.ClientSession, url: str, callers: int, *, stream: bool) -> float:
    """Tokens per second of all callers, two answers each."""

    async def one() -> None:
        for _ in range(2):
            body = {"model": "alpha", "messages": [{"role": "user", "content": "x"}], "stream": stream}
            async with session.post(url + "/api/chat", json=body) as reply:
                async for _ in reply.content.iter_any():
                    pass

    began = time.perf_counter()
    await asyncio.gather(*(one() for _ in range(callers)))
    return 2 * callers * TOKENS / (time.perf_counter() - began)


async def measure(passes: int, callers: int, rate: float) -> None:
    """Both, `passes` times in turn, straight and through foreman."""
    with tempfile.TemporaryDirectory() as folder:
        async with (
            FakeOllama(models=["alpha"], tokens=TOKENS, token_seconds=1 / rate, slots=callers, fast=True) as fake,
            rig(Path(folder), f"main={fake.url}?slots={callers}") as house,
            aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session,
        ):
            for name, url in (("straight", fake.url), ("through foreman", house.url)):
                await work(session, url, callers, stream=True)
                ratios, rates = [], []
                for _ in range(passes):
                    plain = await work(session, url, callers, stream=False)
                    streamed = await work(session, url, callers, stream=True)
                    rates.append((streamed, plain))
                    ratios.append(streamed / plain)
                streamed, plain = (statistics.median(column) for column in zip(*rates, strict=True))
                print(
                    f"{name:15} {streamed:8.1f} tokens/s streamed, {plain:8.1f} not: × {statistics.median(ratios):.4f}"
                )


def main() -> None:
    """Parse, run, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--passes", type=int, default=5)
    parser.add_argument("--callers", type=int, default=4)
    parser.add_argument("--rate", type=float, default=50.0)
    args = parser.parse_args()
    asyncio.run(measure(args.passes, args.callers, args.rate))


if __name__ == "__main__":
    main()
