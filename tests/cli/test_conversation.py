"""`foreman chat` at a terminal: turn after turn, Ctrl-C for an answer, Ctrl-D for the end."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import pty
import sys
import termios
from typing import TYPE_CHECKING

from foreman.demo.ollama import FakeOllama
from tests.cli.process import PATIENCE, environment
from tests.rig import rig

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path


class Terminal:
    """The other end of a pseudo-terminal: what is shown, and a keyboard."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._changed = asyncio.Event()
        self.shown = b""

    def read(self) -> None:
        with contextlib.suppress(OSError):  # EIO: the program has ended
            if piece := os.read(self._fd, 65536):
                self.shown += piece
                self._changed.set()
                return
        asyncio.get_running_loop().remove_reader(self._fd)

    def type(self, keys: bytes) -> None:
        self.shown = b""
        os.write(self._fd, keys)

    async def until(self, text: bytes) -> None:
        async with asyncio.timeout(PATIENCE):
            while text not in self.shown:
                self._changed.clear()
                await self._changed.wait()


@contextlib.asynccontextmanager
async def terminal(
    folder: Path, *args: str, **settings: str
) -> AsyncIterator[tuple[Terminal, asyncio.subprocess.Process]]:
    ours, theirs = pty.openpty()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "foreman", *args),
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=environment(folder, **settings),
        cwd=folder,
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # Ctrl-C is a signal only from one's own terminal
    )
    os.close(theirs)
    screen = Terminal(ours)
    asyncio.get_running_loop().add_reader(ours, screen.read)
    try:
        yield screen, process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
        asyncio.get_running_loop().remove_reader(ours)
        os.close(ours)


async def test_turns_a_cancelled_answer_and_the_end(tmp_path: Path):
    async with (
        FakeOllama(models=["alpha"], tokens=4) as fake,
        rig(tmp_path, f"main={fake.url}") as house,
        terminal(tmp_path, "chat", "alpha", URL=house.url) as (screen, process),
    ):
        await screen.until(b"> ")
        screen.type(b"first\n")
        await screen.until(b"TTFT")
        await screen.until(b"> ")
        gate = fake.gate(after=1)
        screen.type(b"second\n")
        await gate.reached()
        screen.type(b"\x03")
        await screen.until(b"cancelled")
        await screen.until(b"> ")
        await fake.ledger.until(lambda: fake.ledger.cancels == 1, PATIENCE)
        gate.open()
        screen.type(b"third\n")
        await screen.until(b"TTFT")
        await screen.until(b"> ")
        chats = [request for request in fake.ledger.requests if request.path == "/api/chat"]
        messages = json.loads(chats[-1].body)["messages"]
        assert [message["content"] for message in messages if message["role"] == "user"] == ["first", "third"]
        assert [message["role"] for message in messages] == ["user", "assistant", "user"]
        screen.type(b"\x04")
        async with asyncio.timeout(PATIENCE):
            assert await process.wait() == 0
