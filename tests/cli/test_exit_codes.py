"""Every command's ways to end, in one table: 0 it went well, 1 it did not work out, 2 wrong usage or a refused start.

In this process and without a gateway: what a command does with one is told by its own tests.
"""

from __future__ import annotations

import io
import logging
import os
import shlex
import sys
from typing import TYPE_CHECKING

import pytest
import structlog

from foreman import cli

if TYPE_CHECKING:
    from pathlib import Path

COMMANDS = (
    *(
        "serve",
        "demo",
        "run",
        "chat",
        "submit",
        "jobs",
        "show",
        "cancel",
        "retry",
        "top",
        "doctor",
        "bench",
        "simulate",
    ),
    *("trace export", "webhooks listen", "webhooks verify"),
)
UNUSABLE = ("nowhere.json", "a-folder", "nowhere/file")


@pytest.fixture(autouse=True)
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A folder with a few files, no settings but a gateway that isn't there, and logging as it was before."""
    for name in [name for name in os.environ if name.startswith("FOREMAN_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("FOREMAN_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("FOREMAN_OLLAMA_URL", "http://127.0.0.1:9")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "job.json").write_text('{"model": "alpha"}')
    (tmp_path / "broken.jsonl").write_text("{}")
    (tmp_path / "a-folder").mkdir()
    handlers, level, structured = logging.root.handlers[:], logging.root.level, structlog.get_config()
    yield
    logging.root.handlers[:] = handlers
    logging.root.setLevel(level)
    structlog.configure(**structured)


def ended(monkeypatch: pytest.MonkeyPatch, line: str, stdin: str = "") -> int:
    """The exit code of `foreman LINE`."""
    monkeypatch.setattr(sys, "argv", ["foreman", *shlex.split(line)])
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin.encode())))
    with pytest.raises(SystemExit) as end:
        cli.main()
    return int(end.value.code or 0)


def test_the_table_knows_every_command():
    names = {command.name or command.callback.__name__ for command in cli.app.registered_commands}
    for group in cli.app.registered_groups:
        names |= {
            f"{group.name} {each.name or each.callback.__name__}" for each in group.typer_instance.registered_commands
        }
    assert names == set(COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_goes_well_and_an_unknown_option_is_wrong_usage(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    assert ended(monkeypatch, f"{command} --help") == 0
    assert f"foreman {command}" in capsys.readouterr().out
    assert ended(monkeypatch, f"{command} --nonsense") == 2


@pytest.mark.parametrize(
    "line",
    [
        *("", "nonsense", "trace", "webhooks", "chat", "submit", "show", "cancel", "retry", "bench", "webhooks verify"),
        *("chat alpha ' '", "chat alpha", "submit -", "submit - --batch --wait", "jobs --limit 0", "top --every 0"),
        *("serve --role chef", "serve --role gateway", "bench alpha --calls 0", "bench alpha --straight nonsense"),
        *("simulate", "simulate --workload x", "simulate --workload two_agents --policy x", "trace export --hours 99"),
        *("webhooks listen --port 99999", "webhooks listen --keep nowhere", "webhooks listen --secret whsec_!"),
        "webhooks verify job.json -H a:b",
        *(f"submit {name}" for name in UNUSABLE),
        *(f"simulate {name}" for name in UNUSABLE),
        *(f"webhooks verify {name} -H a:b --secret s" for name in UNUSABLE),
        *(f"trace export {name}" for name in UNUSABLE[1:]),
        *(f"simulate --workload two_agents --log {name}" for name in UNUSABLE[1:]),
    ],
)
def test_wrong_usage_is_2(line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    assert ended(monkeypatch, line) == 2
    assert "".join(capsys.readouterr()).strip(), "it says why"


@pytest.mark.parametrize("command", [command for command in COMMANDS if command not in {"doctor", "simulate"}])
def test_a_wrong_setting_is_2(command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    given = {"chat": "m hi", "submit": "job.json", "bench": "m", "webhooks verify": "job.json -H a:b"}
    given |= dict.fromkeys(("show", "cancel", "retry"), "JOB")
    monkeypatch.setenv("FOREMAN_HEARTBEAT", "soon")
    assert ended(monkeypatch, f"{command} {given.get(command, '')}") == 2
    assert "FOREMAN_HEARTBEAT is 'soon'" in capsys.readouterr().err


@pytest.mark.parametrize(
    "line",
    [
        *("chat alpha hi", "submit job.json", "submit job.json --batch", "jobs", "show J", "cancel J", "retry J"),
        *("top --once", "bench alpha", "trace export", "trace export new.jsonl", "doctor"),
        *("simulate broken.jsonl", "webhooks verify job.json -H a:b --secret s"),
    ],
)
def test_what_did_not_work_out_is_1(line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    assert ended(monkeypatch, line) == 1
    assert "".join(capsys.readouterr()).strip(), "it says why"


@pytest.mark.parametrize("line", ["--version", "simulate --workload two_agents --json"])
def test_what_went_well_is_0(line: str, monkeypatch: pytest.MonkeyPatch):
    assert ended(monkeypatch, line) == 0
