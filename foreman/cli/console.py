"""What the commands say to a person, and how they end: stdout for what was asked for, stderr for remarks.

Every command calls me, for the files it is named and the signals it minds too. I print plain lines; logs are foreman.logs' business. A `Refusal` is a start or a use that can't
be right (exit code 2), a `Failed` an honest try that went wrong (exit code 1).
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from foreman.settings import SettingsError, load, unknown_variables

if TYPE_CHECKING:
    import signal

    from foreman.settings import Settings

QUESTION = "Why is the sky blue?"
"""What the lines that are printed for pasting ask."""


class Refusal(Exception):  # noqa: N818 - a way to end, not a bug
    """Wrong usage, or a start that is refused; the message says what to do. Exit code 2."""


class Failed(Exception):  # noqa: N818 - a way to end, not a bug
    """It did not work out; the message says why. Exit code 1."""


def print_anything() -> None:
    """Print a question mark for what stdout has no letter for: half a character of an answer is no reason to end."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")


def say(text: str = "") -> None:
    """A line on stdout, at once."""
    print(text, flush=True)  # noqa: T201 - the command line's one way to speak


def remark(text: str) -> None:
    """A line on stderr, at once."""
    print(text, file=sys.stderr, flush=True)  # noqa: T201 - as above


def show_json(value: Any) -> None:
    """A value on stdout as JSON, for pipes."""
    say(json.dumps(value, ensure_ascii=False))


def settings_in_force(**given: Any) -> Settings:
    """The settings, or a Refusal with the sentence that says what is wrong. Unknown variables get a remark."""
    for sentence in unknown_variables():
        remark(f"warning: {sentence}")
    try:
        return load(**given)
    except SettingsError as error:
        raise Refusal(str(error)) from None


def read_file(name: str) -> bytes:
    """What a file that was named holds, or with `-` stdin. Raises Refusal where it can't be read."""
    try:
        return sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes()
    except OSError as error:
        raise Refusal(f"{name} can't be read: {error.strerror or error}") from None


def check_writable(file: Path) -> None:
    """Refuse a file that can't be written, before any work is done for it. Raises Refusal."""
    if file.is_dir() or not os.access(file if file.exists() else file.parent, os.W_OK):
        raise Refusal(f"{file} can't be written: name a file, in a folder that is there and yours")


def cancel_by(*signals: signal.Signals) -> None:
    """Let each of these signals cancel the task that calls me, where the platform's loop can."""
    task = asyncio.current_task()
    assert task is not None
    with contextlib.suppress(NotImplementedError):
        for number in signals:
            asyncio.get_running_loop().add_signal_handler(number, task.cancel)


def foreman_command() -> str:
    """The `foreman` of this very installation, as a shell in any folder finds it."""
    beside = Path(sys.executable).parent / "foreman"
    return shlex.quote(str(beside)) if beside.is_file() else f"{shlex.quote(sys.executable)} -m foreman"


def chat_line(settings: Settings, url: str, model: str) -> str:
    """A line that chats, whatever folder and terminal it is pasted into."""
    before = f"FOREMAN_URL={url} " if url != "http://127.0.0.1:8080" else ""
    before += "FOREMAN_TOKEN=… " if settings.guarded else ""
    return f"{before}{foreman_command()} chat {shlex.quote(model)} {shlex.quote(QUESTION)}"


def curl_line(settings: Settings, url: str, model: str) -> str:
    """The same question by curl."""
    body = json.dumps({"model": model, "messages": [{"role": "user", "content": QUESTION}]}, ensure_ascii=False)
    token = " -H 'Authorization: Bearer …'" if settings.guarded else ""
    return f"curl -N{token} {url}/api/chat -d {shlex.quote(body)}"
