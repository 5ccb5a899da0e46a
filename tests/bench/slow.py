"""One reader at 1 KB/s beside twenty normal ones: what it costs them, the target, and both processes' memory.

    .venv/bin/python tests/bench/slow.py [--seconds 8] [--mode one,apart]

The slow one asks for an answer of 5 MB that its target has ready at once; the normal ones stream 50 tokens a second.
Printed: how fast the target got rid of its answer up to the spool, the growth of each process' RSS while it is held, the
normal ones' time per token beside it and without it, and that nothing of the slow one is left once it is cut off.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import socket
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent.parent))

from aiohttp import web

from tests.bench.cancel import Line
from tests.rig import House, rig

SIZE = 5_000_000
LINE = (
    json.dumps({"model": "big", "message": {"role": "assistant", "content": "x" * 900}, "done": False}).encode() + b"\n"
)
TOKEN = (
    json.dumps({"model": "small", "message": {"role": "assistant", "content": "word "}, "done": False}).encode() + b"\n"
)
LAST = b'{"model":"m","message":{"role":"assistant","content":""},"done":true,"done_reason":"stop"}\n'
RATE = 50.0
OTHERS = 20


class Target:
    """A server of two models: `big` sends SIZE bytes as fast as they are taken, `small` a token each 20 ms."""

    def __init__(self, seconds: float) -> None:
        self.tokens = int(seconds * RATE)
        self.sent = 0
        """Bytes of the big answer that have left."""
        self.closed = asyncio.Event()

    async def chat(self, request: web.Request) -> web.StreamResponse:
        model = (await request.json())["model"]
        if not (await request.json()).get("messages"):
            return web.json_response({"model": model, "done": True, "done_reason": "load"})
        response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
        await response.prepare(request)
        if model.startswith("big"):
            try:
                while self.sent < SIZE:
                    await response.write(LINE)
                    self.sent += len(LINE)
            finally:
                self.closed.set()
        else:
            began = time.perf_counter()
            for number in range(self.tokens):
                await asyncio.sleep(max(0.0, began + number / RATE - time.perf_counter()))
                await response.write(TOKEN)
        await response.write(LAST)
        return response

    async def tags(self, _: web.Request) -> web.Response:
        names = ("big:latest", "small:latest")
        return web.json_response(
            {"models": [{"name": n, "model": n, "digest": f"{i}" * 64} for i, n in enumerate(names)]}
        )

    async def ps(self, _: web.Request) -> web.Response:
        return await self.tags(_)

    async def version(self, _: web.Request) -> web.Response:
        return web.json_response({"version": "0.24.0"})

    async def start(self) -> tuple[web.AppRunner, str]:
        app = web.Application()
        app.add_routes(
            [
                *(
                    web.post("/api/chat", self.chat),
                    web.post("/api/generate", self.chat),
                    web.get("/api/tags", self.tags),
                ),
                *(web.get("/api/ps", self.ps), web.get("/api/version", self.version)),
            ]
        )
        runner = web.AppRunner(app, handler_cancellation=True, access_log=None)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        return runner, f"http://127.0.0.1:{runner.addresses[0][1]}"


def rss(pid: int) -> float:
    """Resident memory in MiB."""
    row = next(row for row in Path(f"/proc/{pid}/status").read_text().splitlines() if row.startswith("VmRSS"))
    return int(row.split()[1]) / 1024


async def normal(house: House) -> float:
    """One normal reader; its mean time per token in ms."""
    line = await Line.ask(house.url, "/api/chat", {"model": "small", "messages": [{"role": "user", "content": "x"}]})
    times = []
    try:
        while True:
            row = await line.reader.readuntil(b"\n")
            if row.startswith(b"{"):
                times.append(time.perf_counter())
                if b'"done":true' in row:
                    return 1e3 * (times[-2] - times[0]) / (len(times) - 2)
    finally:
        line.writer.close()


async def dripping(house: House, taken: list[int]) -> None:
    """Read 1 KB each second, until cut off."""
    loop = asyncio.get_running_loop()
    host, port = house.url.removeprefix("http://").split(":")
    body = json.dumps({"model": "big", "messages": [{"role": "user", "content": "x"}]})
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 32768)  # or the kernel takes most of it for us
        sock.setblocking(False)
        await loop.sock_connect(sock, (host, int(port)))
        await loop.sock_sendall(
            sock,
            f"POST /api/chat HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode(),
        )
        with contextlib.suppress(ConnectionError):
            while data := await loop.sock_recv(sock, 1000):
                taken[0] += len(data)
                await asyncio.sleep(1)


async def measure(mode: str, seconds: float) -> None:
    """One channel."""
    target = Target(seconds)
    runner, url = await target.start()
    with tempfile.TemporaryDirectory() as folder:
        timeout = f"{seconds + 6:g}s"
        async with rig(Path(folder), f"main={url}?slots=32&resident=2", mode, 2, reader_timeout=timeout) as house:
            alone = await asyncio.gather(*(normal(house) for _ in range(OTHERS)))
            before = {name: rss(process.pid) for name, process in house.processes.items()}
            taken = [0]
            async with asyncio.TaskGroup() as group:
                began = time.perf_counter()
                slow = group.create_task(dripping(house, taken))
                others = [group.create_task(normal(house)) for _ in range(OTHERS)]
                held = 0
                while held != target.sent or not held:
                    held = target.sent
                    await asyncio.sleep(0.2)
                quick = time.perf_counter() - began
                beside = [await one for one in others]
                grown = {name: rss(process.pid) - before[name] for name, process in house.processes.items()}
                async with asyncio.timeout(seconds + 30):
                    await target.closed.wait()
                    await house.until(lambda state: not any(state["jobs"][s] for s in ("queued", "loading", "working")))
                slow.cancel()  # what its kernel has taken it would read for a minute yet
            tpot, with_it = statistics.median(alone), statistics.median(beside)
            print(
                f"{mode}: the target was rid of {held / 1e6:.1f} MB within {quick:.1f} s; the reader had {taken[0]} bytes"
            )
            print("  RSS grew by " + ", ".join(f"{name} {mib:+.1f} MiB" for name, mib in grown.items()))
            print(
                f"  time per token of {OTHERS} others: {tpot:.2f} ms alone, {with_it:.2f} ms beside it: × {with_it / tpot:.3f}"
            )
            dropped = [row for log in house.processes for row in house.log(log).splitlines() if "reader.dropped" in row]
            print(f"  cut off: {len(dropped)} ({json.loads(dropped[0])['why'] if dropped else 'no'}); jobs left: 0")
    await runner.cleanup()


def main() -> None:
    """Parse, run, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--mode", default="one,apart")
    args = parser.parse_args()
    for mode in args.mode.split(","):
        asyncio.run(measure(mode, args.seconds))


if __name__ == "__main__":
    main()
