"""scripts/setup: which Python it takes, and the one sentence for what is missing. The Pythons are stand-ins."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

STAND_IN = """#!/bin/sh
# version {version}, venv module: {venv}
case "$*" in
*version_info*"< (3, 11)"*) exit {too_old} ;;
*"import venv"*) exit {no_venv} ;;
*python%d.%d-venv*) echo python{version}-venv ;;
--version) echo Python {version} ;;
"-m venv "*) mkdir -p "$3/bin" && cp "$0" "$3/bin/python" && echo "$0" > "$3/made-by" ;;
"-m pip "*) echo "$*" >> "$(dirname "$0")/pip.log"; {pip} ;;
esac
"""


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    (tmp_path / "scripts").mkdir()
    shutil.copy(ROOT / "scripts" / "setup", tmp_path / "scripts")
    (tmp_path / "pyproject.toml").touch()
    (tmp_path / "bin").mkdir()
    return tmp_path


def python(tree: Path, name: str, version: str, *, venv: bool = True, pip: str = ":") -> None:
    """A stand-in on the PATH."""
    old = tuple(int(part) for part in version.split(".")) < (3, 11)
    path = tree / "bin" / name
    path.write_text(STAND_IN.format(version=version, venv=venv, too_old=int(old), no_venv=int(not venv), pip=pip))
    path.chmod(0o755)


def setup(tree: Path, candidates: str, kind: str = "run") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(tree / "scripts" / "setup"), kind],
        env={"PATH": f"{tree / 'bin'}:{os.environ['PATH']}", "PYTHON": candidates},
        capture_output=True,
        text=True,
        check=False,
    )


def test_it_takes_the_first_that_suits_and_does_nothing_twice(tree: Path):
    python(tree, "py14", "3.14", venv=False)
    python(tree, "py13", "3.13")
    python(tree, "py10", "3.10")
    told = setup(tree, "py15 py10 py14 py13")
    assert told.returncode == 0, told.stderr
    assert (tree / ".venv" / "made-by").read_text().strip().endswith("py13")
    log = tree / ".venv" / "bin" / "pip.log"
    assert "--editable .[demo]" in log.read_text()
    assert "--group dev" not in log.read_text()
    before = log.read_text()
    assert setup(tree, "py13").stdout == ""
    assert log.read_text() == before
    assert setup(tree, "py13", "dev").returncode == 0
    assert "--group dev" in log.read_text()
    (tree / ".venv" / ".foreman-run").unlink()
    assert setup(tree, "py13").stdout == "", "the tools hold foreman itself"
    os.utime(tree / "pyproject.toml", (2e9, 2e9))
    assert "installing" in setup(tree, "py13").stdout


@pytest.mark.parametrize(
    ("version", "venv", "says"),
    [
        ("3.10", True, "no Python 3.11 or newer here: sudo apt-get install python3"),
        ("3.12", False, "has no venv module: sudo apt-get install python3.12-venv"),
    ],
)
def test_what_is_missing_is_one_sentence_with_the_command(tree: Path, version: str, venv: bool, says: str):
    python(tree, "py", version, venv=venv)
    told = setup(tree, "py")
    assert told.returncode == 1
    assert says in told.stderr
    assert told.stderr.count("\n") == 1
    assert not (tree / ".venv").exists()


def test_a_failed_install_is_tried_again_next_time(tree: Path):
    python(tree, "py", "3.12", pip="exit 1")
    told = setup(tree, "py")
    assert told.returncode == 1
    assert "run make again" in told.stderr
    python(tree, "py", "3.12")
    assert setup(tree, "py").returncode == 0


def test_a_venv_whose_making_was_broken_off_is_made_anew(tree: Path):
    python(tree, "py", "3.12", pip="kill -9 $PPID")
    assert setup(tree, "py").returncode == -signal.SIGKILL
    half = tree / ".venv" / "half"
    half.touch()
    python(tree, "py", "3.12")
    told = setup(tree, "py")
    assert told.returncode == 0, told.stderr
    assert not half.exists()
    half.touch()
    (tree / ".venv" / ".foreman-run").unlink()
    assert setup(tree, "py").returncode == 0
    assert half.exists(), "a whole one is left as it is"


def test_who_comes_second_waits_for_the_installation_that_has_begun(tree: Path):
    python(tree, "py", "3.12")
    (tree / ".venv").mkdir()
    begun = tree / ".venv" / ".foreman-begun"
    begun.write_text(f"{os.getpid()}\n")
    command = [str(tree / "scripts" / "setup"), "run"]
    env = {"PATH": f"{tree / 'bin'}:{os.environ['PATH']}", "PYTHON": "py"}
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True) as second:
        assert second.stdout is not None
        assert "waiting for the installation" in second.stdout.readline()
        assert not (tree / ".venv" / "made-by").exists()
        begun.unlink()
        assert second.wait(60) == 0
    assert (tree / ".venv" / "made-by").exists()
