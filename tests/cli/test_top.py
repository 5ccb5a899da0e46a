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
from rich.console import Console

from foreman.cli.top import _table, drawn
from foreman.demo.ollama import FakeOllama
from tests.cli.process import PATIENCE, ROOT, ran
from tests.rig import House, rig
from tests.waiting import wait_until

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


class Terminal:
    """`foreman top` in a terminal of 80 × 24, and what it has written there."""

    def __init__(self) -> None:
        self.ours, self.theirs = pty.openpty()
        fcntl.ioctl(self.theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        self.before = termios.tcgetattr(self.theirs)
        self.seen, self.drawn_twice = bytearray(), asyncio.Event()
        self.process: asyncio.subprocess.Process | None = None

    def read(self) -> None:
        with contextlib.suppress(OSError):
            self.seen.extend(os.read(self.ours, 65536))
        if self.seen.count(b"store ") >= 3:
            self.drawn_twice.set()

    async def start(self, house: House, folder: Path, kind: str) -> asyncio.subprocess.Process:
        env = {key: value for key, value in os.environ.items() if not key.startswith("FOREMAN_")}
        asyncio.get_running_loop().add_reader(self.ours, self.read)
        self.process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "foreman", "top", "--every", "0.2"),
            stdin=self.theirs,
            stdout=self.theirs,
            stderr=self.theirs,
            env=env | {"FOREMAN_URL": house.url, "PYTHONPATH": str(ROOT), "TERM": kind},
            cwd=folder,
        )
        return self.process

    def close(self) -> None:
        if self.process is not None and self.process.returncode is None:
            self.process.kill()
        asyncio.get_running_loop().remove_reader(self.ours)
        os.close(self.ours)
        os.close(self.theirs)


@pytest.fixture
def terminal():
    return Terminal()


@pytest.mark.parametrize("leave", ["q", signal.SIGINT, signal.SIGTERM], ids=str)
async def test_however_one_leaves_the_terminal_is_as_it_was(
    house: House, tmp_path: Path, terminal: Terminal, leave: str | signal.Signals
) -> None:
    process = await terminal.start(house, tmp_path, "xterm")
    try:
        async with asyncio.timeout(PATIENCE):
            await terminal.drawn_twice.wait()
            if isinstance(leave, str):
                os.write(terminal.ours, leave.encode())
            else:
                process.send_signal(leave)
            assert await process.wait() == 0
            await wait_until(lambda: b"\x1b[?1049l" in terminal.seen)
        assert b"\x1b[?1049h" in terminal.seen, "on a screen of its own"
        assert terminal.seen.rfind(b"\x1b[?25h") > terminal.seen.rfind(b"\x1b[?25l"), "with a cursor"
        assert termios.tcgetattr(terminal.theirs) == terminal.before
        assert b"main" in terminal.seen
    finally:
        terminal.close()


async def test_a_terminal_that_can_move_no_cursor_gets_it_once(
    house: House, tmp_path: Path, terminal: Terminal
) -> None:
    process = await terminal.start(house, tmp_path, "dumb")
    try:
        async with asyncio.timeout(PATIENCE):
            assert await process.wait() == 0
            await wait_until(lambda: b"nobody waits" in terminal.seen)
        assert b"\x1b" not in terminal.seen
    finally:
        terminal.close()


def state(targets: int) -> dict[str, object]:
    """A snapshot; the last target is down."""
    return {
        "now": "2026-11-21T12:00:00Z",
        "version": "1",
        "store": {"status": "ok", "latency_ms": 1.0},
        "jobs": dict.fromkeys(("queued", "loading", "working", "done", "failed"), 0),
        "ledger": {"swaps": 0},
        "reasons": [f"reason {number} " + "why " * 40 for number in range(20)],
        "targets": [
            {
                "name": f"rack-3-node-17-slot-{number}.datacentre.example.com",
                "state": "up" if number < targets - 1 else "down",
                "resident": [{"lane": "d1", "model": "a-long-name-of-a-model-70b-instruct:q4_K_M"}],
                "running": [],
                "slots": 1,
                "next": None,
            }
            for number in range(targets)
        ],
        "lanes": [
            {
                "lane": f"{number:016x}?num_ctx={2048 * number}",
                "model": "a-long-name-of-a-model-70b-instruct:q4_K_M",
                "depth": 5,
                "oldest_wait_seconds": 60.0,
                "bound_seconds": 600.0,
                "eta_seconds": 60.0,
                "running": 0,
                "paused": number == 0,
            }
            for number in range(100)
        ],
    }


@pytest.mark.parametrize(("width", "height"), [(80, 24), (100, 30), (300, 80)])
async def test_on_a_small_screen_what_matters_stays(width: int, height: int) -> None:
    out = Console(width=width, height=height, color_system=None)
    with out.capture() as captured:
        out.print(drawn(state(20), height=height))
    lines = captured.get().splitlines()
    assert len(lines) <= height
    assert any("reason 0" in line for line in lines)
    assert any(" down " in line for line in lines), "a target that is not well is not among those left out"
    assert any("more lanes" in line for line in lines)
    assert any("paused" in line and " 5 " in line for line in lines), "names give way, states and numbers don't"


@pytest.mark.parametrize(("tidy", "heads"), [(True, "A"), (False, "AB")])
async def test_a_screen_leaves_out_what_is_empty_and_a_pipe_keeps_each_column_in_its_place(
    tidy: bool, heads: str
) -> None:
    made = _table(("A", "B"), [("x", ""), ("y", None)], tidy=tidy)
    assert "".join(str(column.header) for column in made.columns) == heads
