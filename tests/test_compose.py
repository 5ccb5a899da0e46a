"""compose.yaml without a Docker engine: it keeps to the specification's rules, and its commands run as written there.

The processes stand in one network instead of four: the services' names are put for by this machine's ports, nothing
else of their settings is touched.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import stat
import sys
from pathlib import Path
from typing import Any

import aiohttp
import jsonschema
import pytest
import yaml

from foreman.demo.ollama import FakeOllama
from foreman.settings import Settings
from foreman.store.embedded import find_binary
from tests.rig import free_port

ROOT = Path(__file__).parent.parent
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text())
SERVICES: dict[str, Any] = COMPOSE["services"]
FOREMEN = ("gateway", "worker", "background")


def test_it_keeps_to_the_specification():
    schema = json.loads((ROOT / "tests" / "data" / "compose.schema.json").read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.Draft202012Validator(schema).validate(COMPOSE)


@pytest.mark.parametrize(
    ("where", "what"),
    [(("services", "gateway", "comand"), []), (("services", "gateway", "restart"), "sometimes"), (("ports",), [])],
)
def test_the_rules_see_a_mistake(where: tuple[str, ...], what: object):
    schema = json.loads((ROOT / "tests" / "data" / "compose.schema.json").read_text())
    broken: dict[str, Any] = json.loads(json.dumps(COMPOSE))
    at = broken
    for key in where[:-1]:
        at = at[key]
    at[where[-1]] = what
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.Draft202012Validator(schema).validate(broken)


def test_what_names_what_is_there():
    for name, service in SERVICES.items():
        for needed in service.get("depends_on", {}):
            assert needed in SERVICES, f"{name} needs {needed}"
            assert "healthcheck" in SERVICES[needed]
        for volume in service.get("volumes", []):
            assert volume.split(":")[0] in COMPOSE["volumes"]
        for variable in service.get("environment", {}):
            assert variable.removeprefix("FOREMAN_").lower() in Settings.model_fields, variable


def test_it_is_open_to_this_machine_only():
    for name, service in SERVICES.items():
        for port in service.get("ports", []):
            assert port.startswith("127.0.0.1:"), f"{name} publishes {port}"
    assert SERVICES["gateway"]["environment"]["FOREMAN_INSECURE"] == "true"
    assert SERVICES["gateway"]["environment"]["FOREMAN_LINK_ADDR"] == "0.0.0.0:7480,gateway:7480"
    assert SERVICES["ollama"]["profiles"] == ["ollama"]
    for name in FOREMEN:
        assert "host.docker.internal:host-gateway" in SERVICES[name]["extra_hosts"]


def interpolated(value: str, environ: dict[str, str]) -> str:
    """`${NAME:-default}` as Compose fills it in."""
    return re.sub(r"\$\{(\w+):-([^}]*)\}", lambda found: environ.get(found[1]) or found[2], value)


async def test_its_commands_run_as_processes_exactly_as_written(tmp_path: Path):
    """valkey, gateway, worker and background, each by its own `command`, and a chat through all of them."""
    ports = {"valkey:6379": free_port(), ":8080": free_port(), "gateway:7480": free_port()}
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "valkey-server").symlink_to(find_binary())
    entry = programs / "foreman"
    entry.write_text(f'#!/bin/sh\nexec {sys.executable} -m foreman "$@"\n')
    entry.chmod(entry.stat().st_mode | stat.S_IXUSR)

    async with FakeOllama(models=["alpha"]) as fake, contextlib.AsyncExitStack() as stack:
        # Only where the networks differ: names become addresses of this machine.
        here = {
            "redis://valkey:6379/0": f"redis://127.0.0.1:{ports['valkey:6379']}/0",
            "http://host.docker.internal:11434": fake.url,
            ":8080": f"127.0.0.1:{ports[':8080']}",
            "0.0.0.0:7480,gateway:7480": f"127.0.0.1:{ports['gateway:7480']}",
        }
        base = {key: value for key, value in os.environ.items() if not key.startswith(("FOREMAN_", "OLLAMA_"))}
        base |= {"PATH": f"{programs}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT), "HOME": str(tmp_path)}

        async def up(name: str, *more: str) -> None:
            service = SERVICES[name]
            settings = {key: interpolated(str(value), {}) for key, value in service.get("environment", {}).items()}
            environ = base | {key: here.get(value, value) for key, value in settings.items()}
            (tmp_path / name).mkdir()
            with (tmp_path / f"{name}.log").open("ab") as log:
                process = await asyncio.create_subprocess_exec(
                    *service["command"], *more, cwd=tmp_path / name, env=environ, stdout=log, stderr=log
                )
            stack.push_async_callback(_down, process)

        # The image's own port stays inside its network; here it must be one that is free.
        await up("valkey", "--port", str(ports["valkey:6379"]), "--bind", "127.0.0.1")
        for name in FOREMEN:
            await up(name)
        url = f"http://{here[':8080']}"
        logs = lambda: "\n".join(f"--- {path.name}\n{path.read_text()[-2000:]}" for path in tmp_path.glob("*.log"))  # noqa: E731
        try:
            async with asyncio.timeout(50), aiohttp.ClientSession() as session:
                await _until_listed(session, url, "alpha:latest")
                body = {"model": "alpha", "messages": [{"role": "user", "content": "hi"}]}
                async with session.post(f"{url}/api/chat", json=body) as reply:
                    assert reply.status == 200
                    assert b'"done":true' in await reply.read()
                async with session.get(f"{url}/healthz") as reply:
                    assert reply.status == 200
        except TimeoutError:
            raise AssertionError(logs()) from None


async def _until_listed(session: aiohttp.ClientSession, url: str, model: str) -> None:
    while True:
        with contextlib.suppress(aiohttp.ClientError):
            async with session.get(f"{url}/api/tags") as reply:
                if model in {entry["name"] for entry in (await reply.json())["models"]}:
                    return
        await asyncio.sleep(0.05)


async def _down(process: asyncio.subprocess.Process) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.terminate()
    try:
        async with asyncio.timeout(40):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()


def test_the_image_is_slim_not_root_and_has_a_health_check():
    text = (ROOT / "Dockerfile").read_text()
    assert re.search(r"^FROM python:3\.\d+-slim$", text, re.MULTILINE)
    assert re.search(r"^USER foreman$", text, re.MULTILINE)
    assert re.search(r"^HEALTHCHECK ", text, re.MULTILINE)
    assert 'CMD ["foreman", "serve"]' in text
    wanted = re.findall(r"^COPY (?!--from)(.+) \S+$", text, re.MULTILINE)
    ignored = (ROOT / ".dockerignore").read_text()
    for name in " ".join(wanted).split():
        assert (ROOT / name).exists()
        assert f"!{name}\n" in ignored, f"{name} is copied and ignored"


async def test_the_health_check_is_a_command_that_works():
    """The image's own HEALTHCHECK against a gateway that is well, and against nobody."""
    text = (ROOT / "Dockerfile").read_text().replace("\\\n", " ")
    (command,) = re.findall(r"^HEALTHCHECK .*CMD (\[.+\])$", text, re.MULTILINE)
    program, *arguments = json.loads(command)
    assert program == "python"

    async def code(port: str) -> int:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, *arguments),
            env=os.environ | {"FOREMAN_ADDR": f":{port}"},
            stderr=asyncio.subprocess.DEVNULL,
        )
        return await process.wait()

    async def healthz(_request: aiohttp.web.Request) -> aiohttp.web.Response:
        return aiohttp.web.json_response({"status": "ok"})

    app = aiohttp.web.Application()
    app.router.add_get("/healthz", healthz)
    runner = aiohttp.web.AppRunner(app)
    await runner.setup()
    try:
        site = aiohttp.web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        assert await code(str(runner.addresses[0][1])) == 0
    finally:
        await runner.cleanup()
    assert await code(str(free_port())) == 1
