"""`foreman bench` as a process: both ways measured on the same work, and failures told."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from foreman.demo.ollama import FakeOllama
from tests.cli.process import ran
from tests.rig import rig

if TYPE_CHECKING:
    from pathlib import Path


async def test_both_ways_do_the_same_work(tmp_path: Path):
    (tmp_path / "house").mkdir()
    async with (
        FakeOllama(models=["alpha"], tokens=5) as fake,
        rig(tmp_path / "house", f"main={fake.url}") as house,
    ):
        command = ("bench", "alpha", "--straight", fake.url, "--calls", "7", "--streams", "2")
        code, out, err = await ran(tmp_path, *command, "--json", URL=house.url)
        assert (code, err) == (0, "")
        ways = json.loads(out)["ways"]
        assert set(ways) == {"through foreman", "straight"}
        for figures in ways.values():
            assert (figures["answered"], figures["failed"], figures["tokens"]) == (7, 0, 35)
            assert 0 < figures["ttft_seconds"]["p50"] <= figures["ttft_seconds"]["p95"]
            assert figures["tokens_per_second"] > 0
        chats = [request for request in fake.ledger.requests if request.path == "/api/chat" and request.lines]
        assert len(chats) == 2 * (7 + 1), "the calls of both ways, and one each to warm up"

        code, out, err = await ran(tmp_path, *command, URL=house.url)
        assert code == 0, err
        assert [line.split("  ")[0] for line in out.splitlines()] == ["WAY", "through foreman", "straight", "ratio"]

        code, out, err = await ran(tmp_path, "bench", "alpha", "--calls", "2", URL=house.url)
        assert code == 0, err
        assert "ratio" not in out
        assert "--straight" in err

        code, out, err = await ran(tmp_path, "bench", "nobody", URL=house.url)
        assert (code, out) == (1, "")
        assert "through foreman" in err
        assert "not found" in err
        assert "there is alpha:latest" in err


async def test_without_a_gateway_it_says_so(tmp_path: Path):
    code, out, err = await ran(tmp_path, "bench", "alpha", URL="http://127.0.0.1:9")
    assert (code, out) == (1, "")
    assert "127.0.0.1:9" in err
