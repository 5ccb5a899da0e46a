"""foreman where the locale has nothing but ASCII: files are UTF-8 all the same, and what can't be printed ends nothing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ASCII = {"PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "LC_ALL": "C"}


def say(program: str, folder: Path) -> bytes:
    """What a program of this installation prints there; it must end well."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("FOREMAN_")} | ASCII
    env["PYTHONPATH"] = str(Path(__file__).parents[1])
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr.decode(errors="replace")
    return done.stdout


def test_our_own_files_and_the_operators_are_utf_8(tmp_path: Path) -> None:
    (tmp_path / "targets").write_text("# Büro\ngpu=http://127.0.0.1:1\n", "utf-8")
    program = """
from foreman.settings import load
from foreman.web.dashboard import page
print([target.name for target in load(targets_file="targets").target_list], len(page.STYLE) > 1000)
"""
    assert say(program, tmp_path) == b"['gpu'] True\n"


def test_half_a_character_of_an_answer_is_printed_as_a_question_mark(tmp_path: Path) -> None:
    program = r"""
from foreman import cli
cli.app = lambda: cli.say("half \ud83d, a smile \u263a")
cli.main()
"""
    assert say(program, tmp_path) == b"half ?, a smile ?\n"
