"""What the attacks share: a running foreman in front of a fake Ollama, its store and its log seen from outside.

    async with site(tmp_path, valkey, FakeOllama(…), mode="one", heartbeat="100ms") as at: …
    async with at.quiet(): …      # whatever is sent inside leaves no job in the store, and one log line

The store is the test run's own Valkey under a pool of its own, so that its keys can be counted from here.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from foreman.store.client import redis_client
from tests.exchange import Answer, exchange, read_answer, read_chunk, read_head
from tests.rig import House, rig
from tests.waiting import wait_until as until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from foreman.demo.ollama import FakeOllama

_pools = itertools.count(1)
MODES = ["one", "apart"]
ASK = [{"role": "user", "content": "x"}]
CHAT: dict[str, Any] = {"model": "alpha", "messages": ASK}
STREAMS: dict[str, tuple[str, dict[str, Any], dict[str, str]]] = {
    "chat": ("/api/chat", CHAT, {}),
    "generate": ("/api/generate", {"model": "alpha", "prompt": "x"}, {}),
    "chat-sse": ("/api/chat", CHAT, {"Accept": "text/event-stream"}),
    "v1-chat": ("/v1/chat/completions", {**CHAT, "stream": True}, {}),
    "v1-completions": ("/v1/completions", {"model": "alpha", "prompt": "x", "stream": True}, {}),
    "v1-responses": ("/v1/responses", {"model": "alpha", "input": "x", "stream": True}, {}),
    "v1-messages": ("/v1/messages", {**CHAT, "max_tokens": 9, "stream": True}, {}),
}
"""A streamed call in each dialect: path, body, headers."""


@dataclass(slots=True)
class Caller:
    """One raw connection to foreman."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    host: str

    def send(self, data: bytes) -> None:
        """Bytes as they are."""
        self.writer.write(data)

    def ask(self, path: str, body: Any, method: str = "POST", **headers: str) -> None:
        """A request; its body as JSON unless it is bytes. Header names with `_` for `-`."""
        payload = body if isinstance(body, bytes) else json.dumps(body).encode()
        lines = [f"{method} {path} HTTP/1.1", f"Host: {self.host}", f"Content-Length: {len(payload)}"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        self.send("\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + payload)

    async def answer(self, timeout: float = 60) -> Answer:
        """The whole next answer."""
        async with asyncio.timeout(timeout):
            return await read_answer(self.reader)

    async def head(self, timeout: float = 60) -> Answer:
        """The next head."""
        async with asyncio.timeout(timeout):
            return await read_head(self.reader)

    async def chunks(self, timeout: float = 60) -> list[bytes]:
        """All chunks of the body that are still to come."""
        found = []
        async with asyncio.timeout(timeout):
            while chunk := await read_chunk(self.reader):
                found.append(chunk)
        return found

    async def rest(self, timeout: float = 60) -> bytes:
        """Everything until the connection ends, reset or not."""
        got = b""
        async with asyncio.timeout(timeout):
            with contextlib.suppress(ConnectionError):
                while piece := await self.reader.read(65536):
                    got += piece
        return got

    def close(self) -> None:
        """Leave."""
        self.writer.transport.abort()


@dataclass(slots=True)
class Site:
    """A foreman under attack."""

    house: House
    fake: FakeOllama
    store_url: str
    pool: str
    callers: list[Caller] = field(default_factory=list)

    @property
    def url(self) -> str:
        return self.house.url

    def log(self, since: dict[str, int] | None = None) -> str:
        """What all processes have logged, from the lengths `since` on."""
        names = sorted(path.stem for path in self.house.folder.glob("*.log"))
        return "".join(self.house.log(name)[(since or {}).get(name, 0) :] for name in names)

    def log_sizes(self) -> dict[str, int]:
        """How much each process has logged."""
        return {path.stem: len(self.house.log(path.stem)) for path in self.house.folder.glob("*.log")}

    async def dial(self) -> Caller:
        """A new raw connection, closed with the site."""
        parts = urlsplit(self.url)
        reader, writer = await asyncio.open_connection(parts.hostname, parts.port, limit=1 << 26)
        caller = Caller(reader, writer, parts.netloc)
        self.callers.append(caller)
        return caller

    async def post(self, path: str, body: Any, headers: dict[str, str] | None = None, **more: Any) -> Answer:
        """One exchange on a connection of its own."""
        payload = body if isinstance(body, bytes) else json.dumps(body).encode()
        return await exchange(self.url, more.pop("method", "POST"), path, payload, headers, **more)

    async def job_keys(self) -> set[str]:
        """The keys of jobs, lanes and queues."""
        found = set()
        async with redis_client(self.store_url) as client:
            async for key in client.scan_iter(match=f"foreman:{self.pool}:*", count=1000):
                name = key.decode().split(":", 2)[2]
                if name.startswith(("job:", "lane", "queued", "facts", "running", "ended", "deadlines")):
                    found.add(name)
                if name.startswith("gateway:") and name.endswith(":jobs"):
                    found.add(name)
        return found

    async def jobs(self) -> dict[str, int]:
        """Counts by state."""
        counts: dict[str, int] = (await self.house.get("/ops/state"))["jobs"]
        return counts

    async def settled(self, timeout: float = 60) -> None:
        """Until nothing is queued, running or held anywhere: not in the store, not by a worker."""

        async def nobody() -> bool:
            state = await self.house.get("/ops/state")
            busy = sum(state["jobs"][name] for name in ("queued", "loading", "working"))
            runs = sum(len(target["running"]) for target in state["targets"])
            return not busy and not runs and not self.fake.answering

        await until(nobody, timeout)

    @contextlib.asynccontextmanager
    async def quiet(self, lines: int | None = 1) -> AsyncIterator[None]:
        """What is sent inside leaves no job key, and so many log lines (None: any number)."""
        before, said = await self.job_keys(), self.log_sizes()
        yield
        if lines is not None:
            with contextlib.suppress(TimeoutError):
                await until(lambda: self._lines(said) >= lines, 3)
            assert self._lines(said) == lines, self.log(said)
        assert await self.job_keys() <= before
        assert "Traceback" not in self.log(said)

    def _lines(self, since: dict[str, int]) -> int:
        return sum('"request.' in line for line in self.log(since).splitlines())

    async def alive(self) -> None:
        """A plain call works: the worker lives, its slot is free, the model answers. Nothing else is under way."""
        await self.alive_beside()
        await self.settled()

    async def alive_beside(self) -> None:
        """A plain call works, whatever else waits."""
        answer = await self.post("/api/chat", {**CHAT, "stream": False}, timeout=20)
        assert answer.status == 200, answer.body
        assert json.loads(answer.body)["done"] is True


@contextlib.asynccontextmanager
async def site(
    folder: Path, valkey: str, fake: FakeOllama, mode: str = "one", targets: str | None = None, **settings: str
) -> AsyncIterator[Site]:
    """Start foreman in front of `fake`, which is started here too unless `targets` names those to stand before."""
    pool = f"attack-{os.getpid()}-{next(_pools)}"
    models = int(settings.pop("models", "1"))
    settings["redis_url"] = valkey
    async with contextlib.AsyncExitStack() as stack:
        if targets is None:
            await stack.enter_async_context(fake)
            targets = f"main={fake.url}"
        house = await stack.enter_async_context(rig(folder, targets, mode, models, pool=pool, **settings))
        made = Site(house, fake, house.env["FOREMAN_REDIS_URL"], pool)
        try:
            yield made
        finally:
            for caller in made.callers:
                caller.close()
