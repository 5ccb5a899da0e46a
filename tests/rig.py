"""A running foreman for tests that go through every floor: real processes, real sockets, the embedded store.

    async with rig(tmp_path, targets="alpha=…", mode="one" | "apart") as house: …

`one` is `foreman serve`; `apart` is a gateway, a worker and a background process over one Valkey on a socket of its own.
The model server in front of which it stands is the caller's (mostly a FakeOllama in the test's own loop).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

ROOT = Path(__file__).parent.parent
ROLES = ("gateway", "worker", "background")


@dataclass(slots=True)
class House:
    """A foreman in operation."""

    url: str
    env: dict[str, str]
    folder: Path
    processes: dict[str, asyncio.subprocess.Process] = field(default_factory=dict)

    async def spawn(self, name: str, *args: str) -> asyncio.subprocess.Process:
        """Start `foreman serve args` under `name`; its output goes to `<name>.log` in the test's folder."""
        with self.folder.joinpath(f"{name}.log").open("ab") as log:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "foreman", "serve", *args),
                stdout=log,
                stderr=log,
                env=self.env,
                cwd=self.folder,
            )
        self.processes[name] = process
        return process

    async def stop(self, name: str, how: signal.Signals = signal.SIGTERM) -> int:
        """End a process and say how it ended."""
        process = self.processes.pop(name)
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(how)
        try:
            return await asyncio.wait_for(process.wait(), 45)
        except TimeoutError:
            process.kill()
            await process.wait()
            raise

    def log(self, name: str) -> str:
        """What a process has written so far."""
        path = self.folder / f"{name}.log"
        return path.read_text(errors="replace") if path.exists() else ""

    async def get(self, path: str) -> Any:
        """The JSON that foreman answers to a GET."""
        token = self.env.get("FOREMAN_TOKEN")
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        async with aiohttp.ClientSession(headers=headers) as session, session.get(self.url + path) as reply:
            return await reply.json(content_type=None)

    async def until(self, what: Callable[[Any], Any], path: str = "/ops/state", timeout: float = 60) -> Any:
        """Poll `path` until `what(its JSON)` is true; the JSON then. For states that no event announces to a test."""
        async with asyncio.timeout(timeout):
            while True:
                with contextlib.suppress(aiohttp.ClientError):
                    seen = await self.get(path)
                    if what(seen):
                        return seen
                await asyncio.sleep(0.02)


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


@contextlib.asynccontextmanager
async def rig(folder: Path, targets: str, mode: str = "one", models: int = 1, **settings: str) -> AsyncIterator[House]:
    """Start foreman in front of `targets` (the value of FOREMAN_TARGETS) and wait until it knows `models` models."""
    port = free_port()
    env = {key: value for key, value in os.environ.items() if not key.startswith(("FOREMAN_", "OLLAMA_"))}
    env |= {
        "PYTHONPATH": str(ROOT),
        "FOREMAN_ADDR": f"127.0.0.1:{port}",
        "FOREMAN_TARGETS": targets,
        "FOREMAN_DATA_DIR": str(folder / "data"),
        "FOREMAN_LOG": "json",
        "SSL_CERT_FILE": os.devnull,  # nobody here calls the world: its authorities took a tenth of every start
    }
    env |= {f"FOREMAN_{key.upper()}": value for key, value in settings.items()}
    house = House(f"http://127.0.0.1:{port}", env, folder)
    async with contextlib.AsyncExitStack() as stack:
        if mode == "one":
            stack.push_async_callback(_stop_all, house)
            await house.spawn("serve")
        else:
            from foreman.store.embedded import EmbeddedServer

            if "redis_url" not in settings:
                server = EmbeddedServer(folder / "store")
                house.env["FOREMAN_REDIS_URL"] = await asyncio.to_thread(server.start)
                stack.callback(server.stop)
            stack.push_async_callback(_stop_all, house)
            for role in ROLES:
                await house.spawn(role, "--role", role)
        try:
            await house.until(lambda tags: len(tags.get("models", [])) >= models, "/api/tags")
        except TimeoutError:
            logs = "\n".join(f"--- {name}\n{house.log(name)[-3000:]}" for name in house.processes)
            raise AssertionError(f"foreman did not come up in front of {targets}:\n{logs}") from None
        yield house


async def _stop_all(house: House) -> None:
    for name in list(house.processes):
        await house.stop(name)
