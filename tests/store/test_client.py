"""The door: URLs, the checks at the start, Sentinel, and what arq is given."""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import ssl
import subprocess
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from foreman.store import checks
from foreman.store.client import Store, arq_client, close_arq, connect, locator, redis_client
from foreman.store.embedded import find_binary
from foreman.store.errors import ScriptError, StoreRefusedError, StoreUnavailableError
from foreman.store.url import StoreUrl, parse
from tests.conftest import StoreSettings

if TYPE_CHECKING:
    from collections.abc import Iterator

TLS = Path(__file__).with_name("tls")
FIT = {
    "redis_version": "7.2.4", "valkey_version": "9.1.2", "redis_mode": "standalone", "role": "master", "maxmemory": "0",
    "maxmemory_policy": "noeviction", "aof_enabled": "1", "cluster_enabled": "0",
}  # fmt: skip


class TestUrl:
    @pytest.mark.parametrize(
        ("url", "found"),
        [
            ("redis://store.lan", StoreUrl(nodes=(("store.lan", 6379),))),
            ("redis://:p%40ss@h:7000/3", StoreUrl(nodes=(("h", 7000),), password="p@ss", db=3)),
            ("redis://u:p@[::1]:7000", StoreUrl(nodes=(("::1", 7000),), username="u", password="p")),
            ("redis://h?db=2", StoreUrl(nodes=(("h", 6379),), db=2)),
            (
                "rediss://h?ssl_ca_certs=/ca.pem&ssl_certfile=/c.pem&ssl_keyfile=/k.pem&ssl_cert_reqs=none",
                StoreUrl(nodes=(("h", 6379),), tls=True, ca="/ca.pem", cert="/c.pem", key="/k.pem", verify=False),
            ),
            ("unix:///run/a%20b.sock", StoreUrl(path="/run/a b.sock")),
            ("unix://u:p@/run/s.sock?db=4", StoreUrl(path="/run/s.sock", username="u", password="p", db=4)),
            (
                "redis+sentinel://:p@a,b:26380/mine/1",
                StoreUrl(nodes=(("a", 26379), ("b", 26380)), service="mine", password="p", db=1),
            ),
        ],
    )
    def test_taken_apart(self, url: str, found: StoreUrl) -> None:
        assert parse(url) == found

    @pytest.mark.parametrize(
        "url",
        [
            "",
            "redis://",
            "localhost:6379",
            "http://h",
            "redis:/h",
            "redis://h:port",
            "redis://h:65536",
            "redis://h/x",
            "redis+sentinel://h",
        ],
    )
    def test_what_is_none(self, url: str) -> None:
        with pytest.raises(ValueError, match=r"is no store URL|names no Sentinel service"):
            parse(url)

    @pytest.mark.parametrize(
        "url", ["http://u:geheim@h", "u:geheim@h", "redis://u:geheim@h:port", "redis+sentinel://u:geheim@h"]
    )
    def test_no_secret_is_complained_of(self, url: str) -> None:
        with pytest.raises(ValueError, match="…@h") as refused:
            parse(url)
        assert "geheim" not in str(refused.value)

    def test_no_secret_is_shown(self) -> None:
        for url in ("redis://u:geheim@h/1", "unix://u:geheim@/s", "redis+sentinel://u:geheim@h/svc"):
            assert "geheim" not in parse(url).shown + repr(parse(url))


class TestChecks:
    def test_a_fit_server(self) -> None:
        assert checks.judge(FIT) == ()

    @pytest.mark.parametrize(
        ("said", "fatal", "words"),
        [
            ({"redis_version": "6.0.16"}, True, "is Redis 6.0.16"),
            ({"cluster_enabled": "1"}, True, "FOREMAN_POOL"),
            ({"redis_mode": "cluster"}, True, "Redis Cluster"),
            ({"role": "slave"}, True, "address of its primary"),
            ({"maxmemory_policy": "allkeys-lru", "maxmemory": "1000"}, False, "throws queued jobs away"),
            ({"maxmemory_policy": "volatile-lru"}, False, "CONFIG SET maxmemory-policy noeviction"),
            ({"aof_enabled": "0"}, False, "CONFIG SET appendonly yes"),
            ({"maxmemory": str(100 << 20), "used_memory": str(95 << 20)}, False, "95 of its 100 MiB"),
            ({"aof_last_write_status": "err"}, False, "its disk has room"),
            ({"min_slaves_good_slaves": "0"}, False, "min-replicas-to-write"),
        ],
    )
    def test_each_complaint_says_what_to_do(self, said: dict[str, str], fatal: bool, words: str) -> None:
        (finding,) = checks.judge(FIT | said)
        assert finding.fatal == fatal
        assert words in finding.message

    async def test_a_server_that_keeps_its_info_to_itself(self) -> None:
        class Mute:
            async def command(self, *args: object) -> None:
                raise ScriptError("NOPERM")

        (finding,) = await checks.check(Mute())  # type: ignore[arg-type] # all it is asked is one command
        assert not finding.fatal
        assert "could not be checked" in finding.message


class TestConnect:
    async def test_it_opens_the_pool(self, store: Store) -> None:
        assert store.findings == ()
        assert (await store.queue.extra())["server"] == "valkey"
        assert store.queue.keys.prefix.startswith("foreman:t")

    async def test_pools_do_not_see_each_other(self, store: Store, valkey: str) -> None:
        from tests.store.ground import new_job

        await store.queue.submit(new_job())
        other = await connect(StoreSettings("another-pool"), valkey)
        assert (await other.queue.counts()).queued == 0
        await other.close()

    async def test_nothing_answers(self, tmp_path: Path) -> None:
        with pytest.raises(StoreUnavailableError, match="does not answer"):
            await connect(StoreSettings("x"), f"unix://{tmp_path}/none", wait=0.05)

    async def test_a_cluster_is_refused(self, tmp_path: Path) -> None:
        bus = str(free_port())  # else 10,000 above its port, which a fifth of the free ones don't bear
        cluster = ("--cluster-enabled", "yes", "--cluster-port", bus)
        with running(tmp_path, *cluster) as port, pytest.raises(StoreRefusedError, match="Cluster"):
            await connect(StoreSettings("x"), f"redis://127.0.0.1:{port}", wait=60.0)

    async def test_a_careless_server_is_used_and_complained_of(self, tmp_path: Path) -> None:
        with running(tmp_path, "--maxmemory-policy", "allkeys-lru", "--maxmemory", "100mb") as port:
            store = await connect(StoreSettings("x"), f"redis://127.0.0.1:{port}", wait=60.0)
            assert len(store.findings) == 2
            await store.close()

    async def test_through_sentinels(self, tmp_path: Path, pool: str) -> None:
        (tmp_path / "p").mkdir()
        (tmp_path / "s").mkdir()
        with running(tmp_path / "p", "--appendonly", "yes") as port:
            conf = tmp_path / "s" / "sentinel.conf"
            conf.write_text(f"sentinel monitor mine 127.0.0.1 {port} 1\n")
            with running(tmp_path / "s", "--sentinel", conf=conf) as sentinel:
                url = f"redis+sentinel://127.0.0.1:1,127.0.0.1:{sentinel}/mine"
                store = await connect(StoreSettings(pool), url, wait=60.0)
                assert await locator(parse(url))() == ("127.0.0.1", port)
                assert (await store.queue.counts()).queued == 0
                with pytest.raises(ValueError, match="are Sentinels"):
                    redis_client(url)
                await store.close()
                unknown = parse(f"redis+sentinel://127.0.0.1:{sentinel}/other")
                with pytest.raises(StoreUnavailableError, match="No Sentinel names a primary for 'other'"):
                    await locator(unknown)()


def free_port() -> int:
    """A port nobody uses; low enough that a Cluster's bus, 10000 above, has one too."""
    while True:
        port = random.randrange(20_000, 30_000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


@contextlib.contextmanager
def running(folder: Path, *options: str, conf: Path | None = None) -> Iterator[int]:
    """A server on a TCP port of its own."""
    port = free_port()
    command = [str(find_binary()), *([str(conf)] if conf else []), "--port", str(port), "--bind", "127.0.0.1"]
    saving = [] if conf else ["--save", ""]
    process = subprocess.Popen([*command, "--dir", str(folder), "--logfile", str(folder / "log"), *saving, *options])
    try:
        yield port
    finally:
        process.terminate()
        process.wait(10)


class TestArq:
    def test_what_it_dials(self) -> None:
        for url, dialled in (
            ("unix://u:p@/run/s.sock?db=2", {"path": "/run/s.sock", "db": 2, "username": "u", "password": "p"}),
            ("rediss://h:7000/1?ssl_cert_reqs=none", {"host": "h", "port": 7000, "db": 1, "ssl_cert_reqs": "none"}),
            ("redis+sentinel://:p@a,b/mine/3", {"db": 3, "password": "p"}),
        ):
            found = arq_client(url).connection_pool.connection_kwargs
            assert dialled.items() <= found.items(), url
            assert found["retry"]._retries == 1000, "a blip of the server ends no worker"

    async def test_a_primary_with_tls_behind_sentinels(self, tmp_path: Path) -> None:
        (tmp_path / "p").mkdir()
        (tmp_path / "s").mkdir()
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(TLS / "cert.pem", TLS / "key.pem")
        with running(tmp_path / "p", "--requirepass", "pw") as port:
            async with asyncio.TaskGroup() as group:
                front = await asyncio.start_server(partial(forward, group, port), "127.0.0.1", 0, ssl=context)
                conf = (
                    tmp_path / "s" / "sentinel.conf"
                )  # it can't speak TLS itself, so let it take its time to find that out
                conf.write_text(
                    f"sentinel monitor mine 127.0.0.1 {front.sockets[0].getsockname()[1]} 1\n"
                    "sentinel down-after-milliseconds mine 600000\n"
                )
                with running(tmp_path / "s", "--sentinel", conf=conf) as sentinel:
                    url = f"rediss+sentinel://:pw@127.0.0.1:1,127.0.0.1:{sentinel}/mine/3?ssl_ca_certs={TLS}/cert.pem"
                    client = arq_client(url)
                    async with asyncio.timeout(60):
                        assert await client.set("arq:test", 1)
                    await close_arq(client)
                    store = await connect(StoreSettings("x"), url, wait=60.0)
                    await store.close()
                front.close()


async def forward(
    group: asyncio.TaskGroup, port: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    """A connection to a server on this machine, without TLS."""

    async def pipe(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, ssl.SSLError):
            while piece := await source.read(65536):
                sink.write(piece)
        sink.close()

    back, there = await asyncio.open_connection("127.0.0.1", port)
    group.create_task(pipe(reader, there))
    group.create_task(pipe(back, writer))


async def test_an_inbox_that_was_closed_is_forgotten(valkey: str, pool: str) -> None:
    store = await connect(StoreSettings(pool), valkey)
    for life in range(5):
        inbox = await store.inbox("worker", f"wk-{life}")
        await inbox.close()
    assert len(store._inboxes) == 1
    await store.close()


async def test_close_closes_the_inboxes_too(valkey: str, pool: str) -> None:
    store = await connect(StoreSettings(pool), valkey)
    inbox = await store.inbox("gateway", "gw-1")
    await store.close()
    with pytest.raises(StoreUnavailableError):
        await inbox.receive()
    with pytest.raises(StoreUnavailableError):
        await store.queue.ping()
