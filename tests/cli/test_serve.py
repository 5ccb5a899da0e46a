"""`foreman serve` as a process: what it says, what it refuses, how it leaves."""

from __future__ import annotations

import resource
import signal
import socket
from typing import TYPE_CHECKING

import aiohttp
import pytest

from foreman.cli import house
from foreman.demo.ollama import FakeOllama
from tests.cli.process import ran, shell, started
from tests.needs import needs
from tests.waiting import wait_until

if TYPE_CHECKING:
    from pathlib import Path

ASK = {"model": "alpha", "messages": [{"role": "user", "content": "hi"}]}


async def test_the_lines_it_prints_work_in_a_new_terminal_in_any_folder(tmp_path: Path):
    needs.path("curl")
    elsewhere = tmp_path / "else where"
    elsewhere.mkdir()
    async with (
        FakeOllama(models=["alpha"]) as fake,
        started(tmp_path, "serve", ADDR="127.0.0.1:0", TARGETS=f"main={fake.url}") as foreman,
    ):
        url = (await foreman.line("listens on")).split()[-1]
        page = (await foreman.line("  page ")).split()[-1]
        chat = (await foreman.line("  chat ")).removeprefix("  chat ").strip()
        curl = (await foreman.line("  curl ")).removeprefix("  curl ").strip()
        assert page == f"{url}/ui"
        # PYTHONPATH is the one thing a new terminal lacks: the tests may run from a tree that isn't installed.
        code, out, err = await shell(elsewhere, ["sh", "-c", chat.replace("MODEL", "alpha")])
        assert (code, bool(out.strip())) == (0, True), err
        assert "TTFT" in err
        code, out, _ = await shell(elsewhere, ["sh", "-c", curl.replace("MODEL", "alpha")])
        assert code == 0
        assert out.strip().endswith("}")
        assert '"done":true' in out


async def test_sigterm_lets_a_stream_end_and_leaves_nothing(tmp_path: Path):
    async with FakeOllama(models=["alpha"], tokens=5) as fake:
        gate = fake.gate(after=1)
        async with (
            started(tmp_path, "serve", ADDR="127.0.0.1:0", TARGETS=f"main={fake.url}") as foreman,
            aiohttp.ClientSession() as session,
        ):
            url = (await foreman.line("listens on")).split()[-1]
            async with session.post(f"{url}/api/chat", json=ASK) as reply:
                assert await reply.content.readany()
                foreman.process.send_signal(signal.SIGTERM)
                await foreman.until(lambda: any("gateway.leaving" in line for line in foreman.err))
                gate.open()
                rest = await reply.content.read()
            assert b'"done":true' in rest
            assert await foreman.end() == 0, foreman.everything
            assert any("house.stopped" in line for line in foreman.err)


async def test_sighup_reads_the_targets_again_and_a_wrong_file_changes_nothing(tmp_path: Path):
    async with (
        FakeOllama(models=["alpha"]) as one,
        FakeOllama(models=["beta"]) as two,
        aiohttp.ClientSession() as session,
    ):
        file = tmp_path / "targets"
        file.write_text(f"one={one.url}\n")
        async with started(tmp_path, "serve", ADDR="127.0.0.1:0", TARGETS_FILE=str(file), LOG="json") as foreman:
            url = (await foreman.line("listens on")).split()[-1]

            async def models(wanted: set[str]) -> None:
                async def there() -> bool:
                    async with session.get(f"{url}/api/tags") as reply:
                        return {entry["name"] for entry in (await reply.json())["models"]} == wanted

                await wait_until(there)

            await models({"alpha:latest"})
            file.write_text("nonsense\n")
            foreman.process.send_signal(signal.SIGHUP)
            await foreman.until(lambda: any("FOREMAN_TARGETS_FILE is wrong" in line for line in foreman.err))
            await models({"alpha:latest"})
            file.write_text(f"two={two.url}\n")
            foreman.process.send_signal(signal.SIGHUP)
            await models({"beta:latest"})
            async with session.get(f"{url}/ops/state") as reply:
                assert [target["name"] for target in (await reply.json())["targets"]] == ["two"]


async def test_a_second_signal_ends_it_at_once(tmp_path: Path):
    async with FakeOllama(models=["alpha"], tokens=5) as fake:
        gate = fake.gate(after=1)
        async with (
            started(tmp_path, "serve", ADDR="127.0.0.1:0", TARGETS=f"main={fake.url}", SHUTDOWN_GRACE="1h") as foreman,
            aiohttp.ClientSession() as session,
        ):
            url = (await foreman.line("listens on")).split()[-1]
            async with session.post(f"{url}/api/chat", json=ASK) as reply:
                assert await reply.content.readany()
                foreman.process.send_signal(signal.SIGINT)
                await foreman.until(lambda: any("gateway.leaving" in line for line in foreman.err))
                foreman.process.send_signal(signal.SIGINT)
                assert await foreman.end() == 128 + signal.SIGINT
        gate.open()


async def test_a_taken_port_is_one_sentence_with_the_command_that_helps(tmp_path: Path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        code, out, err = await ran(tmp_path, "serve", ADDR=f"127.0.0.1:{port}")
    assert (code, out) == (2, "")
    assert err.count("\n") == 1, err
    assert f"port {port} is taken" in err
    assert f"FOREMAN_ADDR=127.0.0.1:{port + 1} foreman serve" in err


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"LINK_ADDR": "192.0.2.1:7480"}, "FOREMAN_LINK_ADDR binds '192.0.2.1:7480'"),
        ({"LINK_ADDR": "127.0.0.1:0", "LINK_CERT": "none.pem"}, "FOREMAN_LINK_CERT is 'none.pem'"),
        ({"LINK_CA": "none.pem"}, "FOREMAN_LINK_CA is 'none.pem'"),
    ],
)
async def test_what_the_links_cannot_use_is_named_and_not_the_callers_port(tmp_path: Path, settings, says):
    code, _, err = await ran(tmp_path, "serve", ADDR="127.0.0.1:0", LOG="json", **settings)
    assert code == 2, err
    last = err.splitlines()[-1]
    assert last.startswith(f"foreman: {says}")
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("settings", "args", "says"),
    [
        ({}, ["--role", "worker"], "FOREMAN_REDIS_URL"),
        ({}, ["--role", "gateway", "--role", "worker"], "FOREMAN_REDIS_URL"),
        ({"ADDR": ":0"}, [], "FOREMAN_TOKEN"),
        ({"HEARTBEAT": "soon"}, [], "FOREMAN_HEARTBEAT is 'soon'"),
        ({"REDIS_URL": "redis://host:port"}, [], "FOREMAN_REDIS_URL"),
        ({"ADDR": "192.0.2.1:8080", "TOKEN": "t"}, [], "address of this machine"),
    ],
)
async def test_a_refused_start_is_one_sentence_and_code_2(
    tmp_path: Path, settings: dict[str, str], args: list[str], says: str
):
    code, out, err = await ran(tmp_path, "serve", *args, **({"ADDR": "127.0.0.1:0"} | settings))
    assert (code, out) == (2, "")
    assert says in err.splitlines()[-1]
    assert "Traceback" not in err


async def test_a_role_that_is_none_is_wrong_usage(tmp_path: Path):
    code, _, err = await ran(tmp_path, "serve", "--role", "cook")
    assert code == 2
    assert "cook" in err


async def test_a_store_that_is_away_is_said_after_a_while(tmp_path: Path):
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        port = nobody.getsockname()[1]
        code, _, err = await ran(tmp_path, "serve", ADDR="127.0.0.1:0", REDIS_URL=f"redis://127.0.0.1:{port}")
    assert code == 1
    assert "the store does not answer" in err


def test_it_lets_itself_have_as_many_files_open_as_it_may():
    """A shell's 1024 are so many waiting callers; the next one would find a connection that is closed without a word."""
    before = soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    few = min(soft, 512) if soft != resource.RLIM_INFINITY else 512
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (few, hard))
        house._more_files()
        enough = house.FILES[0]
        most = hard if hard != resource.RLIM_INFINITY else enough
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (max(few, min(most, enough)), hard)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_where_so_many_are_refused_it_takes_fewer(monkeypatch: pytest.MonkeyPatch):
    asked = []

    def refuses(_: int, limits: tuple[int, int]) -> None:
        asked.append(limits)
        if limits[0] > 20000:
            raise ValueError("current limit exceeds maximum limit")

    monkeypatch.setattr(resource, "getrlimit", lambda _: (256, resource.RLIM_INFINITY))
    monkeypatch.setattr(resource, "setrlimit", refuses)
    house._more_files()
    assert asked == [(many, resource.RLIM_INFINITY) for many in house.FILES]


async def test_unknown_variables_get_a_warning(tmp_path: Path):
    _, _, err = await ran(tmp_path, "serve", ADDR=":0", HEARBEAT="1s")
    assert "did you mean FOREMAN_HEARTBEAT?" in err


async def test_version_and_help(tmp_path: Path):
    import foreman

    assert await ran(tmp_path, "--version") == (0, f"{foreman.__version__}\n", "")
    code, out, _ = await ran(tmp_path, "--help")
    assert code == 0
    for command in ("serve", "demo", "chat", "doctor"):
        assert command in out
