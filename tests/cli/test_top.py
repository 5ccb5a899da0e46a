"""`foreman top`: once in a pipe, live in a terminal."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import pty
import signal
import struct
import sys
import termios
from typing import TYPE_CHECKING

import pytest
import pytest_asyncio

from foreman.cli.top import _table
from foreman.demo.ollama import FakeOllama
from tests.cli.process import PATIENCE, ROOT, ran
from tests.rig import House, rig

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def house(tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("house")
    async with FakeOllama(models=["alpha"], tokens=5) as fake, rig(folder, f"main={fake.url}") as house:
        yield house


async def test_once_in_a_pipe(house: House, tmp_path: Path) -> None:
    code, out, err = await ran(tmp_path, "top", URL=house.url)
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0].startswith("foreman ")
    assert "store ok" in lines[0]
    assert any(line.split()[:2] == ["main", "up"] for line in lines)
    assert lines[-1] == "nobody waits"
    assert "\x1b" not in out


async def test_json_is_the_snapshot(house: House, tmp_path: Path) -> None:
    code, out, _ = await ran(tmp_path, "top", "--json", URL=house.url)
    assert code == 0
    assert json.loads(out).keys() == (await house.get("/ops/state")).keys()


async def test_no_gateway_there(tmp_path: Path) -> None:
    code, out, err = await ran(tmp_path, "top", "--once", URL="http://127.0.0.1:9")
    assert (code, out) == (1, "")
    assert "foreman serve" in err


async def test_live_in_a_terminal_until_ctrl_c(house: House, tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    env = {key: value for key, value in os.environ.items() if not key.startswith("FOREMAN_")}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "foreman", "top", "--every", "0.2"),
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=env | {"FOREMAN_URL": house.url, "PYTHONPATH": str(ROOT), "TERM": "xterm"},
        cwd=tmp_path,
    )
    os.close(theirs)
    seen, drawn_twice = bytearray(), asyncio.Event()

    def read() -> None:
        with contextlib.suppress(OSError):
            seen.extend(os.read(ours, 65536))
        if seen.count(b"store ") >= 3:
            drawn_twice.set()

    loop = asyncio.get_running_loop()
    loop.add_reader(ours, read)
    try:
        async with asyncio.timeout(PATIENCE):
            await drawn_twice.wait()
            process.send_signal(signal.SIGINT)
            assert await process.wait() == 0
    finally:
        loop.remove_reader(ours)
        os.close(ours)
    assert b"\x1b[?1049h" in seen, "on a screen of its own"
    assert b"main" in seen


@pytest.mark.parametrize(("tidy", "heads"), [(True, "A"), (False, "AB")])
async def test_a_screen_leaves_out_what_is_empty_and_a_pipe_keeps_each_column_in_its_place(
    tidy: bool, heads: str
) -> None:
    made = _table(("A", "B"), [("x", ""), ("y", None)], tidy=tidy)
    assert "".join(str(column.header) for column in made.columns) == heads
