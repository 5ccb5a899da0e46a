"""The contestants of the relay bench: each starts its processes in front of the same upstream and says where to call.

run.py enters them one after another as async context managers; they yield a `Running` and stop what they started.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import socket
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.request import urlopen

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

HERE = Path(__file__).parent
ROOT = HERE.parent.parent


@dataclass(frozen=True, slots=True)
class Running:
    """A design in operation."""

    port: int
    pids: tuple[int, ...]
    """Every process whose CPU counts (their children are found at measuring time)."""


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


@contextlib.asynccontextmanager
async def process(
    *argv: str, env: dict[str, str] | None = None, log: Path | None = None
) -> AsyncIterator[asyncio.subprocess.Process]:
    """A child that is gone at the end, politely first."""
    with contextlib.ExitStack() as stack:
        stderr = stack.enter_context(log.open("ab")) if log else None
        child = await asyncio.create_subprocess_exec(
            *argv,
            stdout=asyncio.subprocess.PIPE if log is None else stderr,
            stderr=stderr,
            env={**os.environ, **(env or {})},
        )
        try:
            yield child
        finally:
            with contextlib.suppress(ProcessLookupError):
                child.send_signal(signal.SIGTERM)
            try:
                await asyncio.wait_for(child.wait(), 10)
            except TimeoutError:
                child.kill()
                await child.wait()


async def ready_port(child: asyncio.subprocess.Process) -> int:
    """The port in the child's `READY <port>` line."""
    assert child.stdout
    line = await asyncio.wait_for(child.stdout.readline(), 20)
    return int(line.split()[1])


async def answers(url: str, log: Path, seconds: float = 30) -> None:
    """Wait until `url` answers 200."""
    deadline = asyncio.get_running_loop().time() + seconds
    while asyncio.get_running_loop().time() < deadline:
        try:
            with await asyncio.to_thread(urlopen, url, None, 2) as reply:
                if reply.status == 200:
                    return
        except OSError:
            await asyncio.sleep(0.1)
    raise RuntimeError(f"{url} did not answer within {seconds} s; its log:\n{log.read_text()[-2000:]}")


@contextlib.asynccontextmanager
async def direct(upstream: int) -> AsyncIterator[Running]:
    """No proxy at all."""
    yield Running(upstream, ())


@contextlib.asynccontextmanager
async def nginx(upstream: int) -> AsyncIterator[Running]:
    """nginx with one worker, HTTP/1.1 to the upstream, buffering off."""
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        temp = "\n".join(
            f"{name}_temp_path {folder}/{name};" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        conf = Path(folder, "nginx.conf")
        conf.write_text(
            f"""worker_processes 1; daemon off; master_process on; pid {folder}/pid; error_log {folder}/error.log;
            events {{ worker_connections 2048; }}
            http {{ access_log off; {temp}
              upstream u {{ server 127.0.0.1:{upstream}; keepalive 512; }}
              server {{ listen 127.0.0.1:{port} backlog=1024; client_max_body_size 0;
                location / {{ proxy_pass http://u; proxy_http_version 1.1; proxy_set_header Connection "";
                  proxy_buffering off; proxy_read_timeout 300s; }} }} }}
            """
        )
        log = Path(folder, "out.log")
        async with process("nginx", "-e", f"{folder}/error.log", "-c", str(conf), log=log) as child:
            await answers(f"http://127.0.0.1:{port}/api/version", log)
            yield Running(port, (child.pid,))


@contextlib.asynccontextmanager
async def aiohttp_proxy(upstream: int) -> AsyncIterator[Running]:
    """The yardstick."""
    async with process(sys.executable, str(HERE / "passthrough.py"), f"http://127.0.0.1:{upstream}") as child:
        yield Running(await ready_port(child), (child.pid,))


def _env(folder: str, upstream: int, port: int) -> dict[str, str]:
    return {
        "FOREMAN_ADDR": f"127.0.0.1:{port}",
        "FOREMAN_TARGETS": f"bench=http://127.0.0.1:{upstream}?slots=1000",
        "FOREMAN_DATA_DIR": folder,
        "FOREMAN_LOG": "json",
        "PYTHONPATH": str(ROOT),
    }


SERVE = (sys.executable, "-m", "foreman", "serve")


@contextlib.asynccontextmanager
async def foreman_one(upstream: int) -> AsyncIterator[Running]:
    """foreman with everything in one process, and its embedded store."""
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder, "foreman.log")
        async with process(*SERVE, env=_env(folder, upstream, port), log=log) as child:
            await answers(f"http://127.0.0.1:{port}/readyz", log)
            await answers(f"http://127.0.0.1:{port}/v1/models/bench", log)
            yield Running(port, (child.pid,))


@contextlib.asynccontextmanager
async def foreman_apart(upstream: int) -> AsyncIterator[Running]:
    """foreman's gateway and worker as processes of their own, over one Valkey on TCP, the link on TCP."""
    from foreman.store.embedded import find_binary

    port, store = free_port(), free_port()
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder, "foreman.log")
        env = _env(folder, upstream, port) | {"FOREMAN_REDIS_URL": f"redis://127.0.0.1:{store}/0"}
        valkey = (
            *(str(find_binary()), "--port", str(store), "--bind", "127.0.0.1", "--dir", folder),
            *("--appendonly", "yes", "--appendfsync", "everysec", "--save", "", "--maxmemory-policy", "noeviction"),
        )
        async with (
            process(*valkey, log=Path(folder, "valkey.log")) as server,
            process(*SERVE, "--role", "gateway", env=env, log=log) as gateway,
            process(*SERVE, "--role", "worker", env=env, log=log) as worker,
        ):
            await answers(f"http://127.0.0.1:{port}/readyz", log)
            await answers(f"http://127.0.0.1:{port}/v1/models/bench", log)
            yield Running(port, (gateway.pid, worker.pid, server.pid))


DESIGNS: dict[str, Callable[[int], contextlib.AbstractAsyncContextManager[Running]]] = {
    "direct": direct,
    "nginx": nginx,
    "aiohttp": aiohttp_proxy,
    "foreman-one": foreman_one,
    "foreman-apart": foreman_apart,
}


def available() -> dict[str, str]:
    """Designs that cannot run here, with what is missing."""
    return {} if shutil.which("nginx") else {"nginx": "nginx is not installed: apt-get install nginx-light"}
