"""Runs as a program of its own between foreman and its embedded server: sees to it that the server dies with foreman.

store/embedded.py starts me with `python -I -S`; on Linux I ask the kernel for a signal at my parent's death and become
the server; elsewhere I stay, hold a pipe whose other end is foreman's, and stop the server when it closes. Standard
library only: I must start in milliseconds and without foreman's environment.
"""

import ctypes
import os
import signal
import subprocess
import sys
import threading

PR_SET_PDEATHSIG = 1
STOP_TIMEOUT = 8.0
"""Seconds the server may take to write its file and leave."""


def become(parent: int, command: list[str]) -> None:
    """Turn into the server, to be sent SIGTERM when the thread that started me ends (prctl(2); survives execve)."""
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    if os.getppid() != parent:  # it died before the kernel knew whom to tell
        sys.exit(1)
    os.execv(command[0], command)  # noqa: S606 - the very purpose; no shell, fixed arguments


def watch(command: list[str], lock: int) -> None:
    """Run the server as a child until it ends or stdin, the pipe to foreman, closes."""
    server = subprocess.Popen(command, stdin=subprocess.DEVNULL, pass_fds=[lock])  # noqa: S603 - arguments are foreman's own
    signal.signal(signal.SIGTERM, lambda *_: server.terminate())

    def until_closed() -> None:
        while os.read(0, 1024):
            pass
        server.terminate()
        try:
            server.wait(STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            server.kill()

    threading.Thread(target=until_closed, daemon=True).start()
    sys.exit(server.wait())


if __name__ == "__main__":
    _, way, parent_pid, lock_fd, *server_command = sys.argv
    if way == "signal":
        become(int(parent_pid), server_command)
    else:
        watch(server_command, int(lock_fd))
