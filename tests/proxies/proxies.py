"""Real reverse proxies in front of a gateway, each with the snippet of docs/deploy or with lines of the test's own.

    async with nginx(folder, house.url, DEFAULTS) as proxy: … proxy.url …

Beside them what every test here asks of a stream: when its bytes came, and what a model server's gate has to do with it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from aiohttp import web

from tests.needs import ROOT, needs
from tests.rig import free_port

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

DEPLOY = ROOT / "docs" / "deploy"
DEFAULTS = "location / { proxy_pass http://UPSTREAM; }"
"""nginx with nothing set: HTTP/1.0 to the upstream, buffering on."""
GZIP = (
    "gzip on; gzip_proxied any; gzip_min_length 1; gzip_types application/x-ndjson text/event-stream application/json;"
)


@dataclass(frozen=True, slots=True)
class Proxy:
    """One that runs."""

    name: str
    url: str
    folder: Path
    words: Callable[[], str]
    """What it has logged so far."""


async def _answers(port: int) -> None:
    async with asyncio.timeout(60):
        while True:
            with contextlib.suppress(OSError):
                _, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.close()
                return
            await asyncio.sleep(0.02)


@contextlib.asynccontextmanager
async def _running(folder: Path, port: int, log: Path, *command: str) -> AsyncIterator[Proxy]:
    with log.open("ab") as out:
        process = await asyncio.create_subprocess_exec(
            *command, stdout=out, stderr=out, cwd=folder, env={"HOME": str(folder), "XDG_DATA_HOME": str(folder)}
        )
    try:
        try:
            await _answers(port)
        except TimeoutError:
            raise AssertionError(f"{command[0]} did not come up:\n{log.read_text()}") from None
        yield Proxy(Path(command[0]).name, f"http://127.0.0.1:{port}", folder, lambda: log.read_text(errors="replace"))
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        await process.wait()


@contextlib.asynccontextmanager
async def nginx(folder: Path, upstream: str, server: str, *, read_timeout: str = "") -> AsyncIterator[Proxy]:
    """An nginx whose server block holds `server`; UPSTREAM in it is the gateway's address.

    Args:
        folder: for its configuration, log and temporary files.
        upstream: base URL of what it stands before.
        server: lines of the server block, or all of docs/deploy/nginx.conf.
        read_timeout: `proxy_read_timeout` where `server` says none.
    """
    folder.mkdir(exist_ok=True)
    port, log = free_port(), folder / "nginx.log"
    address = urlsplit(upstream).netloc
    block = server.replace("UPSTREAM", address)
    if "server {" in block:
        block = block.replace("listen 80;", f"listen 127.0.0.1:{port};").replace("127.0.0.1:8080", address)
    else:
        block = f"server {{ listen 127.0.0.1:{port}; {block} }}"
    paths = " ".join(
        f"{name}_temp_path {folder}/{name};" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    conf = folder / "nginx.conf"
    timeout = f"proxy_read_timeout {read_timeout};" if read_timeout else ""
    user = "user root;" if os.getuid() == 0 else ""  # else its temporary files are not its own
    conf.write_text(
        f"{user} daemon off; worker_processes 1; pid {folder}/pid; error_log {log} warn; events {{}}\n"
        f"http {{ access_log off; {paths} {timeout}\ndefault_type text/html;\n{block}\n}}\n"
    )
    async with _running(folder, port, log, needs.path("nginx"), "-e", str(log), "-c", str(conf)) as proxy:
        yield proxy


@contextlib.asynccontextmanager
async def caddy(folder: Path, upstream: str) -> AsyncIterator[Proxy]:
    """Caddy with docs/deploy/Caddyfile."""
    folder.mkdir(exist_ok=True)
    port = free_port()
    text = (DEPLOY / "Caddyfile").read_text().replace("127.0.0.1:8080", urlsplit(upstream).netloc)
    text = re.sub(r"^foreman\.example \{", f"http://127.0.0.1:{port} {{", text, flags=re.MULTILINE)
    (folder / "Caddyfile").write_text("{\n\tadmin off\n}\n" + text)
    command = (needs.path("caddy"), "run", "--config", str(folder / "Caddyfile"), "--adapter", "caddyfile")
    async with _running(folder, port, folder / "caddy.log", *command) as proxy:
        yield proxy


@contextlib.asynccontextmanager
async def haproxy(folder: Path, upstream: str) -> AsyncIterator[Proxy]:
    """HAProxy with docs/deploy/haproxy.cfg."""
    folder.mkdir(exist_ok=True)
    port = free_port()
    text = (DEPLOY / "haproxy.cfg").read_text().replace("127.0.0.1:8080", urlsplit(upstream).netloc)
    (folder / "haproxy.cfg").write_text(text.replace("bind :80", f"bind 127.0.0.1:{port}"))
    command = (needs.path("haproxy"), "-db", "-f", str(folder / "haproxy.cfg"))
    async with _running(folder, port, folder / "haproxy.log", *command) as proxy:
        yield proxy


@dataclass(slots=True)
class Plain:
    """A model server as many are: it streams, and says nothing to proxies. The control of every flush."""

    lines: int = 6
    pause: float = 0.1
    """Seconds between two lines."""
    silence: float = 0.0
    """Seconds before the first."""
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    """It has written its last line."""
    url: str = ""

    async def answer(self, request: web.Request) -> web.StreamResponse:
        await request.read()
        await asyncio.sleep(self.silence)
        response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
        await response.prepare(request)
        for at in range(self.lines):
            await asyncio.sleep(self.pause)
            await response.write(b'{"message":{"content":"word %d "},"done":false}\n' % at)
        await response.write(b'{"message":{"content":""},"done":true}\n')
        self.ended.set()
        return response


@contextlib.asynccontextmanager
async def plain(**how: float) -> AsyncIterator[Plain]:
    """Serve one."""
    control = Plain(**how)  # type: ignore[arg-type]  # lines and seconds alike
    app = web.Application()
    app.router.add_post("/api/chat", control.answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1, handler_cancellation=True)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        control.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        yield control
    finally:
        await runner.cleanup()


@dataclass(slots=True)
class Arrivals:
    """What a caller read, and when: seconds since it asked."""

    began: float = field(default_factory=time.monotonic)
    pieces: list[tuple[float, bytes]] = field(default_factory=list)

    def came(self, piece: bytes) -> None:
        """Something was read just now."""
        self.pieces.append((time.monotonic() - self.began, piece))

    def __str__(self) -> str:
        return " ".join(f"{at:.2f}" for at, _ in self.pieces)
