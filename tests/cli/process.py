"""A `foreman` command as a process of its own, in a clean environment; its output is waited for, line by line."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

ROOT = Path(__file__).parent.parent.parent
PATIENCE = 50.0
"""Seconds: ten times what any of it takes on a busy machine."""


@dataclass
class Foreman:
    """A running command."""

    process: asyncio.subprocess.Process
    seen: dict[str, bytearray] = field(default_factory=lambda: {"out": bytearray(), "err": bytearray()})
    _changed: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def out(self) -> list[str]:
        """The lines of stdout so far; the last may still grow."""
        return self.seen["out"].decode(errors="replace").splitlines()

    @property
    def err(self) -> list[str]:
        """The lines of stderr so far; the last may still grow."""
        return self.seen["err"].decode(errors="replace").splitlines()

    async def line(self, holds: str) -> str:
        """The first line of stdout that holds this text; waits for it."""

        def found() -> str | None:
            text = self.seen["out"].decode(errors="replace")
            return next(
                (line for line in text.splitlines(keepends=True) if holds in line and line.endswith("\n")), None
            )

        try:
            return str(await self.until(found)).rstrip("\n")
        except TimeoutError:
            raise AssertionError(f"no line with {holds!r}:\n{self.everything}") from None

    async def until(self, what: Callable[[], object]) -> object:
        """Wait until `what()` is true, asked at each line; the command's end is the end of waiting too."""
        async with asyncio.timeout(PATIENCE):
            while not (result := what()):
                self._changed.clear()
                await self._changed.wait()
        return result

    async def end(self) -> int:
        """Its exit code; waits for it."""
        async with asyncio.timeout(PATIENCE):
            return await self.process.wait()

    async def read(self, stream: asyncio.StreamReader, name: str) -> None:
        while piece := await stream.read(65536):
            self.seen[name] += piece
            self._changed.set()
        self._changed.set()

    @property
    def everything(self) -> str:
        return "\n".join(["--- out", *self.out, "--- err", *self.err])


def environment(folder: Path, **settings: str) -> dict[str, str]:
    """The variables of a process that sees no settings but these."""
    env = {key: value for key, value in os.environ.items() if not key.startswith(("FOREMAN_", "OLLAMA_"))}
    env |= {"PYTHONPATH": str(ROOT), "HOME": str(folder), "XDG_DATA_HOME": str(folder / "xdg")}
    env["SSL_CERT_FILE"] = os.devnull  # as in tests/rig.py
    return env | {f"FOREMAN_{key}": value for key, value in settings.items()}


@contextlib.asynccontextmanager
async def started(folder: Path, *args: str, **settings: str) -> AsyncIterator[Foreman]:
    """`foreman args` with these settings; killed at the end if it still runs."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "foreman", *args),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=environment(folder, **settings),
        cwd=folder,
    )
    assert process.stdout
    assert process.stderr
    foreman = Foreman(process)
    async with asyncio.TaskGroup() as group:
        group.create_task(foreman.read(process.stdout, "out"))
        group.create_task(foreman.read(process.stderr, "err"))
        try:
            yield foreman
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()


async def ran(folder: Path, *args: str, stdin: str = "", **settings: str) -> tuple[int, str, str]:
    """Run `foreman args` to its end: exit code, stdout, stderr."""
    return await shell(folder, [sys.executable, "-m", "foreman", *args], stdin=stdin, **settings)


async def shell(folder: Path, command: list[str], *, stdin: str = "", **settings: str) -> tuple[int, str, str]:
    """Run any command to its end: exit code, stdout, stderr."""
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=environment(folder, **settings),
        cwd=folder,
    )
    try:
        async with asyncio.timeout(PATIENCE):
            out, err = await process.communicate(stdin.encode())
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()
