"""`foreman run` (what `make run` starts) and `foreman demo`: what they stand in front of, and that they say so."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import aiohttp
import pytest

from foreman.cli.run import chat_model
from foreman.demo.ollama import FakeOllama
from foreman.upstream.faults import Fault
from tests.cli.process import started
from tests.needs import CACHE, needs


def nobody() -> str:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{sock.getsockname()[1]}"


async def test_an_ollama_with_a_chat_model_is_taken(tmp_path: Path):
    async with (
        FakeOllama(models=["embedder", "alpha"]) as fake,
        started(tmp_path, "run", ADDR="127.0.0.1:0", OLLAMA_URL=fake.url) as foreman,
    ):
        await foreman.line(f"In front of the Ollama at {fake.url}")
        assert " chat alpha" in await foreman.line("  chat ")
        foreman.process.send_signal(signal.SIGTERM)
        assert await foreman.end() == 0


async def test_targets_that_are_set_are_taken(tmp_path: Path):
    target = nobody()
    async with started(tmp_path, "run", ADDR="127.0.0.1:0", TARGETS=f"gpu1={target}") as foreman:
        assert f"gpu1 ({target})" in await foreman.line("In front of")


async def test_without_an_ollama_it_is_the_small_model(tmp_path: Path):
    needs.path("small-model")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "models").symlink_to(CACHE / "models")
    settings = {"ADDR": "127.0.0.1:0", "OLLAMA_URL": nobody(), "DATA_DIR": str(tmp_path / "data")}
    async with started(tmp_path, "run", **settings) as foreman:
        said = await foreman.line("In front of")
        assert "true small model" in said
        assert f"no Ollama answers at {settings['OLLAMA_URL']}" in said
        assert " chat smollm2:135m" in await foreman.line("  chat ")


async def test_where_the_small_model_cannot_be_had_it_is_simulated_and_said(tmp_path: Path):
    """No download: the data directory is none that a folder can be made in."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "models").touch()
    async with started(
        tmp_path, "run", ADDR="127.0.0.1:0", OLLAMA_URL=nobody(), DATA_DIR=str(tmp_path / "data")
    ) as foreman:
        assert "simulated targets" in await foreman.line("In front of")
        assert any("No true small model here" in line for line in foreman.err)


async def test_which_model_one_can_chat_with():
    async with FakeOllama(models=["embedder"]) as fake:
        assert await chat_model(fake.url, None) is None
    async with FakeOllama(models=["embedder", "alpha"]) as fake:
        assert await chat_model(fake.url, None) == "alpha:latest"
    with pytest.raises(Fault):
        await chat_model(nobody(), None)


async def test_the_demo_shows_traffic_and_keeps_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    temporary = tempfile.mkdtemp()  # not below tmp_path: a socket's path is short
    monkeypatch.setenv("TMPDIR", temporary)
    async with started(tmp_path, "demo", ADDR="127.0.0.1:0") as foreman:
        url = (await foreman.line("listens on")).split()[-1]
        assert (await foreman.line("  chat ")).endswith("'Why is the sky blue?'")
        await foreman.until(lambda: sum("job.done" in line for line in foreman.err) >= 3)
        async with aiohttp.ClientSession() as session, session.get(f"{url}/api/tags") as reply:
            names = {entry["name"] for entry in (await reply.json())["models"]}
        assert names >= {"llama3.2:latest", "qwen3:8b", "gemma3:4b"}
        foreman.process.send_signal(signal.SIGTERM)
        assert await foreman.end() == 0, foreman.everything
    Path(temporary).rmdir()  # it is empty again
    assert not (tmp_path / "xdg").exists()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_an_output_that_cannot_be_written_is_one_sentence():
    with Path("/dev/full").open("w") as full:
        said = subprocess.run(
            [sys.executable, "-m", "foreman", "--version"], stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert said.returncode == 1
    assert said.stderr == "foreman: the output can't be written: No space left on device\n"
