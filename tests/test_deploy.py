"""What docs/deploy says, tried: its units verified, its commands run as processes, its backup restored, a chat through each.

No systemd, launchd or Docker engine runs here: names of hosts become ports of this machine, and paths a folder of the
test's; nothing else of the files is touched.
"""

from __future__ import annotations

import asyncio
import configparser
import contextlib
import json
import os
import plistlib
import re
import shlex
import signal
import stat
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import aiohttp
import jsonschema
import pytest
import yaml

from foreman.demo.ollama import FakeOllama
from foreman.settings import Settings
from foreman.store.embedded import find_binary
from tests.needs import needs
from tests.rig import ROOT, free_port

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

DEPLOY = ROOT / "docs" / "deploy"
UNITS = DEPLOY / "systemd"
SEVERAL: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.several.yaml").read_text())
ONE_PAGE = (DEPLOY / "one-machine.md").read_text()
SEVERAL_PAGE = (DEPLOY / "several-machines.md").read_text()
CHAT = {"model": "alpha", "messages": [{"role": "user", "content": "hi"}]}


def unit(name: str) -> dict[str, str]:
    """The [Service] section; a key that stands twice is joined by newlines."""
    parser = configparser.RawConfigParser(strict=False, interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign]  # systemd's keys have capitals
    parser.read_string((UNITS / name).read_text())
    return dict(parser["Service"])


def entry(folder: Path) -> Path:
    """A `foreman` as an installation has it."""
    program = folder / "bin" / "foreman"
    program.parent.mkdir(exist_ok=True)
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m foreman "$@"\n')
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    return program


class Processes:
    """Processes of a test, with an environment of their own; all ended with it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.running: dict[str, asyncio.subprocess.Process] = {}
        self.base = {key: value for key, value in os.environ.items() if not key.startswith(("FOREMAN_", "OLLAMA_"))}
        self.base |= {"PYTHONPATH": str(ROOT), "HOME": str(folder)}

    async def start(self, name: str, command: list[str], env: dict[str, str]) -> None:
        with (self.folder / f"{name}.log").open("ab") as log:
            self.running[name] = await asyncio.create_subprocess_exec(
                *command, cwd=self.folder, env=self.base | env, stdout=log, stderr=log
            )

    async def stop(self, name: str) -> int:
        process = self.running.pop(name)
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(45):
            return await process.wait()

    def logs(self) -> str:
        return "\n".join(f"--- {path.name}\n{path.read_text()[-2000:]}" for path in self.folder.glob("*.log"))

    async def chat(self, url: str, token: str = "") -> None:
        """Until the model is listed; then a whole answer."""
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        try:
            async with asyncio.timeout(45), aiohttp.ClientSession(headers=headers) as session:
                while True:
                    with contextlib.suppress(aiohttp.ClientError, KeyError):
                        async with session.get(f"{url}/api/tags") as reply:
                            if [entry["name"] for entry in (await reply.json())["models"]]:
                                break
                    await asyncio.sleep(0.05)
                async with session.post(f"{url}/api/chat", json=CHAT) as reply:
                    body = await reply.read()
                    assert (reply.status, b'"done":true' in body) == (200, True), body
        except TimeoutError:
            raise AssertionError(self.logs()) from None


@pytest.fixture
async def processes(tmp_path: Path) -> AsyncIterator[Processes]:
    made = Processes(tmp_path)
    try:
        yield made
    finally:
        for process in made.running.values():
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()


def here(text: str, names: dict[str, str]) -> str:
    """The same with this machine's names for things."""
    for name, value in names.items():
        text = text.replace(name, value)
    return text


# ---------------------------------------------------------------------- one machine


@needs("systemd")
@pytest.mark.parametrize(
    "name", ["foreman.service", "foreman@gateway.service", "foreman@worker.service", "foreman@background.service"]
)
def test_the_units_are_sound(tmp_path: Path, name: str) -> None:
    source = UNITS / re.sub(r"@\w+", "@", name)
    text = source.read_text().replace("/opt/foreman/bin/foreman", str(entry(tmp_path)))
    where = tmp_path / source.name
    where.write_text(text)
    target = tmp_path / name
    if target != where:
        target.symlink_to(where)
    ran = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(target)], capture_output=True, text=True, check=False
    )
    assert (ran.returncode, ran.stderr) == (0, "")
    where.write_text(text.replace("KillMode=mixed", "KillMode=sometimes"))
    ran = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(target)], capture_output=True, text=True, check=False
    )
    assert "sometimes" in ran.stderr, "a mistake would be seen"


async def test_the_unit_for_one_machine_runs(tmp_path: Path, processes: Processes) -> None:
    service = unit("foreman.service")
    data, port = tmp_path / "data", free_port()
    assert float(service["TimeoutStopSec"]) > Settings(_env_file=None).shutdown_grace  # type: ignore[call-arg]
    assert service["KillMode"] == "mixed"
    env = dict(pair.split("=", 1) for pair in here(service["Environment"], {"/var/lib/foreman": str(data)}).split())
    command = shlex.split(here(service["ExecStart"], {"/opt/foreman": str(entry(tmp_path).parents[1])}))
    async with FakeOllama(models=["alpha"]) as fake:
        await processes.start(
            "foreman", command, env | {"FOREMAN_OLLAMA_URL": fake.url, "FOREMAN_ADDR": f"127.0.0.1:{port}"}
        )
        await processes.chat(f"http://127.0.0.1:{port}")
        assert (data / "store" / "appendonlydir").is_dir(), "where the page says that it is"
        assert await processes.stop("foreman") == 0


def test_the_plist_is_one_and_runs_the_same_command() -> None:
    found = plistlib.loads((DEPLOY / "launchd" / "foreman.plist").read_bytes())
    assert found["ProgramArguments"] == shlex.split(unit("foreman.service")["ExecStart"])
    assert found["KeepAlive"] is True
    assert {name for name in found["EnvironmentVariables"] if name.startswith("FOREMAN_")} <= {
        f"FOREMAN_{name.upper()}" for name in Settings.model_fields
    }


@pytest.mark.parametrize("running", [False, True])
async def test_backup_and_restore(tmp_path: Path, processes: Processes, running: bool) -> None:
    """As the page says, with its own `tar` lines: what was queued, ran and had ended is there again."""
    tars = re.findall(r"^(tar .*)$", ONE_PAGE, re.MULTILINE)
    assert len(tars) == 3
    assert tars[0] == tars[1]
    data, backup, port = tmp_path / "data", tmp_path / "backup", free_port()
    backup.mkdir()
    names = {"/var/lib/foreman": str(data), "/backup": str(backup)}
    url, command = f"http://127.0.0.1:{port}", [str(entry(tmp_path)), "serve"]
    async with FakeOllama(models=["alpha"]) as fake, aiohttp.ClientSession() as session:
        env = {"FOREMAN_OLLAMA_URL": fake.url, "FOREMAN_ADDR": f"127.0.0.1:{port}", "FOREMAN_DATA_DIR": str(data)}
        env |= {"FOREMAN_SHUTDOWN_GRACE": "0s"}

        async def submit() -> str:
            async with session.post(f"{url}/jobs", json=CHAT) as reply:
                assert reply.status == 202
                return str((await reply.json())["job_id"])

        async def until(job_id: str, state: str) -> dict[str, Any]:
            async with asyncio.timeout(60):
                while True:
                    with contextlib.suppress(aiohttp.ClientError):
                        async with session.get(f"{url}/jobs/{job_id}") as reply:
                            job: dict[str, Any] = await reply.json()
                            if job.get("state") == state:
                                return job
                    await asyncio.sleep(0.02)

        await processes.start("foreman", command, env)
        await processes.chat(url)
        ended = await submit()
        before = await until(ended, "done")
        gate = fake.gate()
        at_work, waiting = await submit(), await submit()
        await until(at_work, "working")
        if running:
            from foreman.store.client import redis_client

            async with redis_client(f"unix://{data}/store.sock", decode_responses=True) as look:
                await look.config_set("auto-aof-rewrite-percentage", "0")
                assert (await look.info("persistence"))["aof_rewrite_in_progress"] == 0
                subprocess.run(shlex.split(here(tars[1], names)), check=True)
                await look.config_set("auto-aof-rewrite-percentage", "100")
            await processes.stop("foreman")
        else:
            await processes.stop("foreman")
            subprocess.run(shlex.split(here(tars[0], names)), check=True)
        assert any(line in ONE_PAGE for line in ("rm -rf /var/lib/foreman/store",))
        subprocess.run(["rm", "-rf", str(data / "store")], check=True)
        subprocess.run(shlex.split(here(tars[2], names)), check=True)
        gate.open()
        fake.clear()
        await processes.start("again", command, env)
        assert await until(ended, "done") == before
        for job_id in (at_work, waiting):
            assert (await until(job_id, "done"))["error"] is None


# ---------------------------------------------------------------------- several machines


def certificate(folder: Path, line: str, hosts: str) -> None:
    """Run the page's openssl line, for this machine's name."""
    line = re.sub(r"subjectAltName=\S+", f"subjectAltName={hosts}", line)
    subprocess.run(shlex.split(line), cwd=folder, check=True, capture_output=True)


def test_the_compose_file_keeps_to_the_specification() -> None:
    schema = json.loads((ROOT / "tests" / "data" / "compose.schema.json").read_text())
    jsonschema.Draft202012Validator(schema).validate(SEVERAL)
    known = {f"FOREMAN_{name.upper()}" for name in Settings.model_fields}
    for name, service in SEVERAL["services"].items():
        assert set(service.get("environment", {})) <= known, name
        for needed in service.get("depends_on", {}):
            assert "healthcheck" in SEVERAL["services"][needed]
    roles = [service["command"][-1] for service in SEVERAL["services"].values() if service["command"][0] == "foreman"]
    assert {role: roles.count(role) for role in roles} == {"gateway": 2, "worker": 3, "background": 2}


async def test_the_compose_files_commands_run_and_a_chat_goes_through_each_gateway(
    tmp_path: Path, processes: Processes
) -> None:
    ports = {name: free_port() for name in ("valkey", "a", "b", "link-a", "link-b")}
    program = entry(tmp_path)
    line = re.search(
        r"^# +mkdir -p tls && (openssl .*\\\n# .*)$", (DEPLOY / "compose.several.yaml").read_text(), re.MULTILINE
    )
    assert line is not None
    (tmp_path / "tls").mkdir()
    certificate(tmp_path, line[1].replace("\\\n#", ""), "IP:127.0.0.1")
    async with FakeOllama(models=["alpha"]) as one, FakeOllama(models=["alpha"]) as two:
        names = {
            "redis://valkey:6379": f"redis://127.0.0.1:{ports['valkey']}",
            "0.0.0.0:7480,gateway-a:7480": f"127.0.0.1:{ports['link-a']}",
            "0.0.0.0:7480,gateway-b:7480": f"127.0.0.1:{ports['link-b']}",
            "${GPU1:-http://gpu1:11434}": one.url,
            "${GPU2:-http://gpu2:11434}": two.url,
            "${FOREMAN_TOKEN:?set FOREMAN_TOKEN}": "secret",
            "${FOREMAN_WEBHOOK_ALLOW:-}": "",
            "${FOREMAN_WEBHOOK_SECRET:-}": "",
            "/tls/": f"{tmp_path}/tls/",
        }
        for name, service in SEVERAL["services"].items():
            command = list(service["command"])
            if command[0] == "valkey-server":
                command = [str(find_binary()), *command[1:], "--port", str(ports["valkey"]), "--bind", "127.0.0.1"]
            else:
                command[0] = str(program)
            env = {key: here(str(value), names) for key, value in service.get("environment", {}).items()}
            if name.startswith("gateway"):
                env["FOREMAN_ADDR"] = env["FOREMAN_ADDR"].replace(":8080", f"127.0.0.1:{ports[name[-1]]}")
            await processes.start(name, command, env)
        for gateway in "ab":
            await processes.chat(f"http://127.0.0.1:{ports[gateway]}", "secret")


async def test_the_template_unit_runs_as_each_role_through_a_sentinel(tmp_path: Path, processes: Processes) -> None:
    """The page's `redis+sentinel://…` and its openssl line with it: roles apart, a chat through them."""
    service = unit("foreman@.service")
    line = re.search(r"^openssl req .*\\\n.*$", SEVERAL_PAGE, re.MULTILINE)
    assert line is not None
    certificate(tmp_path, line[0].replace("\\\n", ""), "IP:127.0.0.1")
    port, link, sentinel, primary = (free_port() for _ in range(4))
    valkey = str(find_binary())
    await processes.start("valkey", [valkey, "--port", str(primary), "--bind", "127.0.0.1", "--appendonly", "yes"], {})
    (tmp_path / "sentinel.conf").write_text(
        f"port {sentinel}\nbind 127.0.0.1\ndir {tmp_path}\nsentinel monitor mymaster 127.0.0.1 {primary} 1\n"
    )
    await processes.start("sentinel", [valkey, str(tmp_path / "sentinel.conf"), "--sentinel"], {})
    assert "redis+sentinel://sentinel-a:26379,sentinel-b:26379/mymaster/0" in SEVERAL_PAGE
    settings = {"FOREMAN_REDIS_URL": f"redis+sentinel://127.0.0.1:{sentinel}/mymaster/0"}
    of_role = {
        "gateway": {
            "FOREMAN_ADDR": f"127.0.0.1:{port}",
            "FOREMAN_LINK_ADDR": f"127.0.0.1:{link}",
            "FOREMAN_LINK_CERT": f"{tmp_path}/link.pem",
            "FOREMAN_LINK_KEY": f"{tmp_path}/link.key",
        },
        "worker": {"FOREMAN_LINK_CA": f"{tmp_path}/link.pem"},
        "background": {},
    }
    async with FakeOllama(models=["alpha"]) as fake:
        of_role["worker"]["FOREMAN_TARGETS"] = f"gpu1={fake.url}"
        for role, env in of_role.items():
            names = {"%i": role, "/opt/foreman": str(entry(tmp_path).parents[1]), "/var/lib": str(tmp_path)}
            own = dict(pair.split("=", 1) for pair in here(service["Environment"], names).split())
            await processes.start(role, shlex.split(here(service["ExecStart"], names)), own | settings | env)
        await processes.chat(f"http://127.0.0.1:{port}")
        for role in of_role:
            assert await processes.stop(role) == 0


def test_the_pages_name_settings_that_exist() -> None:
    known = {f"FOREMAN_{name.upper()}" for name in Settings.model_fields}
    for page in (ONE_PAGE, SEVERAL_PAGE, (DEPLOY / "compose.several.yaml").read_text()):
        assert set(re.findall(r"FOREMAN_[A-Z_]+[A-Z]", page)) <= known | {"FOREMAN_STORE_BYTES"}


async def test_a_cluster_is_refused_at_the_start(tmp_path: Path, processes: Processes) -> None:
    """With the sentence that the page promises, and the exit code of a refused start."""
    port = free_port()
    await processes.start(
        "cluster", [str(find_binary()), "--port", str(port), "--bind", "127.0.0.1", "--cluster-enabled", "yes",
                    "--cluster-port", str(free_port()), "--dir", str(tmp_path)], {},
    )  # fmt: skip
    env = {"FOREMAN_REDIS_URL": f"redis://127.0.0.1:{port}/0", "FOREMAN_DATA_DIR": str(tmp_path / "data")}
    await processes.start("background", [str(entry(tmp_path)), "serve", "--role", "background"], env)
    async with asyncio.timeout(40):
        assert await processes.running.pop("background").wait() == 2
    assert "run more pools" in (tmp_path / "background.log").read_text()
