"""`foreman doctor`: what it sees, what it advises, and that it works beside a running foreman."""

from __future__ import annotations

import json
import socket
from typing import TYPE_CHECKING

import aiohttp
import pytest

from foreman.cli import checkup
from foreman.cli.checkup import Level, advice, examine, in_container
from foreman.demo.ollama import FakeOllama
from foreman.settings import TargetSettings, load
from foreman.upstream.faults import Kind
from tests.cli.process import PATIENCE, ran, started
from tests.waiting import wait_until

if TYPE_CHECKING:
    from pathlib import Path


def nobody() -> str:
    """A URL at which nobody listens."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{sock.getsockname()[1]}"


async def healthy(url: str) -> None:
    """Wait until a gateway that has just started finds all well."""
    async with aiohttp.ClientSession() as session:

        async def well() -> bool:
            async with session.get(f"{url}/healthz") as reply:
                return not (await reply.json())["degraded"]

        await wait_until(well, PATIENCE)


async def test_beside_a_running_foreman_all_is_well(tmp_path: Path):
    async with (
        FakeOllama(models=["alpha"]) as fake,
        started(tmp_path, "serve", ADDR="127.0.0.1:0", TARGETS=f"main={fake.url}") as foreman,
    ):
        url = (await foreman.line("listens on")).split()[-1]
        await healthy(url)
        code, out, err = await ran(tmp_path, "doctor", "--json", URL=url, TARGETS=f"main={fake.url}")
        assert (code, err) == (0, ""), out
        findings = json.loads(out)["findings"]
        assert [(one["level"], one["subject"]) for one in findings] == [
            ("ok", "settings"),
            ("ok", "gateway"),
            ("ok", "store"),
            ("ok", "target main"),
        ], out
        code, out, _ = await ran(tmp_path, "doctor", URL=url)
        assert code == 0, "the gateway knows its targets where no setting names one"
        assert "target main: " in out
        assert "11434" not in out


async def test_a_gateway_that_wants_another_token_is_a_finding(tmp_path: Path):
    async with (
        FakeOllama(models=["alpha"]) as fake,
        started(tmp_path, "serve", ADDR="127.0.0.1:0", TARGETS=f"main={fake.url}", TOKEN="right") as foreman,
    ):
        url = (await foreman.line("listens on")).split()[-1]
        await healthy(url)
        code, out, _ = await ran(tmp_path, "doctor", "--json", URL=url, TARGETS=f"main={fake.url}", TOKEN="wrong")
    assert code == 1
    (finding,) = (one for one in json.loads(out)["findings"] if one["subject"] == "gateway")
    assert finding["level"] == "problem"
    assert "this token is not known here" in finding["message"]


async def test_another_server_in_the_gateways_place_is_a_finding():
    async with FakeOllama(models=["alpha"]) as fake:
        found = await examine(load(url=fake.url, ollama_url=fake.url), container=False)
    assert "is no foreman" in next(one for one in found if one.subject == "gateway").message


@pytest.mark.parametrize(
    ("bound", "told"), [(":7480", True), ("0.0.0.0:7480,gateway:7480", False), ("127.0.0.1:0", False)]
)
def test_links_that_announce_no_host_are_told(bound: str, told: bool):
    found = checkup._links(load(link_addr=bound))
    assert any("announces no host" in finding.message for finding in found) is told


async def test_several_findings_each_with_what_to_do(tmp_path: Path):
    settings = {
        "URL": nobody(),
        "ADDR": ":8080",
        "LINK_ADDR": "0.0.0.0:7480,gateway:7480",
        "REDIS_URL": nobody().replace("http", "redis"),
        "TARGETS": f"one={nobody()},two={nobody()}?kind=openai",
        "HEARBEAT": "1s",
        "WEBHOOK_ALLOW": "*.lan",
    }
    code, out, _ = await ran(tmp_path, "doctor", "--json", **settings)
    assert code == 1
    findings = json.loads(out)["findings"]
    assert [(one["level"], one["subject"]) for one in findings] == [
        ("warning", "settings"),
        ("problem", "settings"),
        ("warning", "webhooks"),
        ("warning", "gateway"),
        ("problem", "store"),
        ("warning", "links"),
        ("problem", "target one"),
        ("problem", "target two"),
    ]
    assert all(one["advice"] for one in findings)
    code, out, _ = await ran(tmp_path, "doctor", **settings)
    assert code == 1
    assert out.count("→") == 8


async def test_a_wrong_setting_is_a_finding(tmp_path: Path):
    code, out, _ = await ran(tmp_path, "doctor", HEARTBEAT="soon")
    assert code == 1
    assert "FOREMAN_HEARTBEAT is 'soon'" in out


async def test_a_data_directory_that_can_not_be_made_is_a_finding_where_no_foreman_runs():
    for there, level in ((False, Level.PROBLEM), (True, Level.OK)):
        (found,) = await checkup._store(load(data_dir="/dev/null/foreman"), running=there)
        assert found.level is level
    (found,) = await checkup._store(load(data_dir="/tmp/not/yet/there"), running=False)
    assert found.level is Level.OK, "what is missing is made"


async def test_an_ollama_without_models_is_told_how_to_get_one():
    async with FakeOllama(models=[]) as fake:
        found = await examine(load(targets=f"main={fake.url}", url=nobody()), container=False)
    assert found[-1].level is Level.WARNING
    assert "ollama pull" in found[-1].advice


async def test_an_ollama_that_wants_a_token_is_told_so():
    async with FakeOllama(models=["alpha"], token="s3cret") as fake:
        found = await examine(load(targets=f"main={fake.url}", url=nobody()), container=False)
    assert found[-1].level is Level.PROBLEM
    assert "token_env" in f"{found[-1].message} {found[-1].advice}"


async def test_an_ollama_on_loopback_only_seen_from_a_container(monkeypatch: pytest.MonkeyPatch):
    """The server answers on 127.0.0.1 and refuses on the address by which a container knows its host."""
    async with FakeOllama(models=["alpha"]) as fake:
        port = fake.url.rpartition(":")[2]
        resolve = socket.getaddrinfo

        def as_in_a_container(host: str, *args: object, **kwargs: object) -> object:
            return resolve("127.0.0.77" if host == "host.docker.internal" else host, *args, **kwargs)

        monkeypatch.setattr(socket, "getaddrinfo", as_in_a_container)
        settings = load(targets=f"host=http://host.docker.internal:{port}", url=nobody())
        found = await examine(settings, container=True)
    assert found[-1].level is Level.PROBLEM
    assert f"OLLAMA_HOST=0.0.0.0:{port}" in found[-1].advice
    assert "the host" in found[-1].advice


@pytest.mark.parametrize(
    ("url", "kind", "fault", "container", "says"),
    [
        ("http://127.0.0.1:11434", "ollama", Kind.REFUSED, True, "http://host.docker.internal:11434"),
        ("http://localhost:11434", "openai", Kind.REFUSED, True, "http://host.docker.internal:11434"),
        ("http://127.0.0.1:11434", "ollama", Kind.REFUSED, False, "ollama serve"),
        ("http://gpu1:11434", "ollama", Kind.REFUSED, False, "on gpu1 set OLLAMA_HOST=0.0.0.0:11434"),
        ("http://gpu1", "ollama", Kind.REFUSED, False, "0.0.0.0:80"),
        ("http://gpu1:8000", "openai", Kind.REFUSED, False, "127.0.0.1:8000"),
        ("http://gpu1:8000", "openai", Kind.GARBAGE, False, "kind openai"),
    ],
)
def test_advice(url: str, kind: str, fault: Kind, container: bool, says: str):
    assert says in advice(TargetSettings("t", url, kind), fault, container=container)


def test_signs_of_a_container(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    assert not in_container(tmp_path)
    (tmp_path / ".dockerenv").touch()
    assert in_container(tmp_path)


def test_how_full_the_store_is():
    assert checkup._room({"store": {"status": "ok", "latency_ms": 1.0, "used_bytes": 0, "limit_bytes": None}}) == []
    [well] = checkup._room({"store": {"used_bytes": 800 << 20, "limit_bytes": 1 << 30}})
    assert (well.level, "800.0 of 1,024 MiB" in well.message) == (Level.OK, True)
    [full] = checkup._room({"store": {"used_bytes": 1000 << 20, "limit_bytes": 1 << 30}})
    assert full.level is Level.WARNING
    assert "FOREMAN_STORE_BYTES" in full.advice


async def test_a_store_that_answers_late_is_told(valkey: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(checkup, "LATE", 0.0)
    found = await checkup._store(load(redis_url=valkey), running=False)
    assert Level.WARNING in [one.level for one in found]
    assert "network" in found[-1].advice
