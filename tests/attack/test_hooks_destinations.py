"""Where webhooks never go, and receivers that talk without end (contract 6 and 10.8); over sockets."""

from __future__ import annotations

import asyncio
import contextlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio

from foreman.core.destinations import parse
from foreman.demo.ollama import FakeOllama
from tests.attack.ground import CHAT, Site, site
from tests.receivers import Receivers
from workers.deliveries.post import Patience, Poster

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

pytestmark = pytest.mark.asyncio(loop_scope="module")
MIB = 1 << 20


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def at(tmp_path_factory, valkey):
    fake = FakeOllama(models=["alpha"], tokens=2)
    async with site(tmp_path_factory.mktemp("strict"), valkey, fake, "one", webhook_schedule="0s,50ms") as made:
        yield made


HOSTS = [
    *(
        "127.0.0.1",
        "127.1",
        "127.0.1",
        "2130706433",
        "0x7f000001",
        "0x7f.1",
        "0177.0.0.1",
        "017700000001",
        "0",
        "0.0.0.0",
    ),
    *(
        "localhost",
        "LOCALHOST",
        "localhost.",
        "a.localhost",
        "127.0.0.1.",
        "127.255.255.254",
        "[::1]",
        "[::]",
        "[0:0::1]",
    ),
    *("[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[::127.0.0.1]", "[64:ff9b::7f00:1]", "[2002:7f00:1::]", "[::1%25lo]"),
    *("[fec0::1]", "[fe80::1]", "[fd00::1]", "[ff02::1]", "10.0.0.1", "192.168.0.1", "169.254.169.254", "100.64.0.1"),
    *(
        "%31%32%37.0.0.1",
        "user@127.0.0.1",
        "user:pass@example.com",
        "@example.com",
        "example.com@127.0.0.1",
        "127。0。0。1",
    ),
]


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("scheme", ["http", "HTTPS"])
async def test_no_spelling_of_ours_is_taken_or_dialled(at: Site, host: str, scheme: str) -> None:
    async with Receivers() as receivers:
        answer = await at.post("/jobs", {**CHAT, "state_webhook_url": f"{scheme}://{host}:{receivers.port}/x"})
        assert answer.status == 422, answer.body
        message = json.loads(answer.body)["error"]["message"]
        assert message.startswith("state_webhook_url: ")
        assert "pass@" not in message
        assert receivers.connections == 0


@pytest.mark.parametrize(
    "url",
    [
        *("", "//example.com/", "example.com", "ftp://example.com/", "file:///etc/passwd", "http:///x", "http://:80/"),
        *("http://example.com:0/", "http://example.com:65536/", "http://example.com:x/", "http://[::1/", "http://a b/"),
        *("http://127.0.0.1\\@example.com/", "http://example.com/\n", "http://example.com/\x00", "javascript:alert(1)"),
        *("http://" + "a" * 300 + ".com/", "http://ex..ample.com/", "unix:///tmp/x.sock", "http://a,b/", "http://*/"),
    ],
)
async def test_what_is_no_url(at: Site, url: str) -> None:
    answer = await at.post("/jobs", {**CHAT, "state_webhook_url": url})
    assert answer.status == 422, answer.body
    assert json.loads(answer.body)["error"]["message"].startswith("state_webhook_url: ")


class Torrent:
    """A receiver that answers with as much as anybody takes, in one of several ways; it counts what left."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.sent = 0
        self.calls = 0

    async def __aenter__(self) -> Torrent:  # noqa: PYI034 - nobody derives from it
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.calls += 1
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            await reader.readuntil(b"\r\n\r\n")
            starts = {
                "body": b"HTTP/1.1 500 No\r\nContent-Length: 100000000\r\n\r\n",
                "chunks": b"HTTP/1.1 500 No\r\nTransfer-Encoding: chunked\r\n\r\n5F5E100\r\n",
                "header": b"HTTP/1.1 500 No\r\nX: ",
                "headers": b"HTTP/1.1 500 No\r\n",
                "status": b"HTTP/1.1 500 ",
                "early": b"",
            }
            piece = b"X: y\r\n" * 10_000 if self.kind == "headers" else b"x" * 65_536
            if self.kind == "early":
                piece = b"HTTP/1.1 100 Continue\r\n\r\n" * 2000
            writer.write(starts[self.kind])
            while self.sent < 100_000_000:
                writer.write(piece)
                await writer.drain()
                self.sent += len(piece)
        writer.close()


def resident(at: Site) -> int:
    """Bytes of memory that the process holds."""
    pid = at.house.processes["serve"].pid
    pages = Path(f"/proc/{pid}/statm").read_text().split()[1]
    return int(pages) * 4096


@contextlib.asynccontextmanager
async def letting(folder: Path, valkey: str, port: str) -> AsyncIterator[Site]:
    fake = FakeOllama(models=["alpha"], tokens=2)
    more: dict[str, Any] = {"webhook_allow": f"127.0.0.1:{port}", "webhook_schedule": "0s,20ms,20ms"}
    async with site(folder, valkey, fake, "one", **more) as made:
        yield made


@pytest.mark.parametrize("kind", ["body", "chunks", "header", "headers", "status"])
async def test_a_receiver_that_talks_without_end_costs_no_memory(tmp_path, valkey, kind: str) -> None:
    async with Torrent(kind) as torrent, letting(tmp_path, valkey, torrent.url.rpartition(":")[2]) as at:
        await at.post("/jobs", CHAT)
        await at.settled()
        before = resident(at)
        job_id = ""
        for _ in range(4):
            job = {**CHAT, "state_webhook_url": torrent.url, "webhook_events": ["done"]}
            job_id = json.loads((await at.post("/jobs", job)).body)["job_id"]

        def over(found: dict[str, Any]) -> bool:
            return any(line["error"] == "exhausted" for line in found["deliveries"])

        log = (await at.house.until(over, f"/jobs/{job_id}/deliveries", timeout=60))["deliveries"]
        assert all(line["error"] and len(line["reply"] or "") <= 1024 for line in log)
        assert torrent.sent < 60_000_000
        assert resident(at) - before < 32 * MIB
        assert "Traceback" not in at.log()


async def test_interim_replies_without_end_hold_up_nobody() -> None:
    async with Torrent("early") as torrent:
        poster = Poster(parse("127.0.0.1"), Patience(0.5, 0.5))
        reply = await poster.post(torrent.url, {}, b"{}")
        await poster.close()
        assert (reply.status, reply.error) == (None, "no answer within 0.5 s")
        assert torrent.sent < 20_000_000
