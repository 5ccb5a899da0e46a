"""House rules that a machine can hold: sizes, door signs, docs that agree with the code, what the wheel carries."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from foreman.core import diagram
from foreman.core.jobs import TRANSITIONS
from foreman.core.targets import _OPTIONS
from foreman.settings import Settings

ROOT = Path(__file__).parent.parent
SOURCES = sorted(path for package in ("foreman", "workers") for path in (ROOT / package).rglob("*.py"))
DOCS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
LINES = 400
SCREEN = 60
"""Lines of a function that do something."""


def ids(paths: list[Path]) -> list[str]:
    return [str(path.relative_to(ROOT)) for path in paths]


@pytest.mark.parametrize("path", SOURCES, ids=ids(SOURCES))
def test_a_file_is_one_noun(path: Path):
    text = path.read_text()
    assert len(text.splitlines()) <= LINES, "a file past 400 lines asks to be two nouns"
    tree = ast.parse(text)
    door = ast.get_docstring(tree)
    assert door, "each file says who calls it, what it turns into what, what it refuses"
    assert len(door.splitlines()) <= 8, "a door sign is read in passing: two to six lines"
    assert path.stem not in {"utils", "common", "helpers", "manager"}
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert lines_of(node) <= SCREEN, f"{node.name} is past a screen"


def lines_of(node: ast.AST) -> int:
    """The lines of a function that do something: no docstrings, blank lines or comments."""
    texts = {
        line
        for inner in ast.walk(node)
        if isinstance(inner, ast.Expr) and isinstance(inner.value, ast.Constant)
        for line in range(inner.lineno, (inner.end_lineno or 0) + 1)
    }
    return len({inner.lineno for inner in ast.walk(node) if isinstance(inner, ast.expr | ast.stmt)} - texts)


SCRIPTS = sorted((ROOT / "foreman" / "store" / "lua").rglob("*.lua"))


@pytest.mark.parametrize("path", SCRIPTS, ids=ids(SCRIPTS))
def test_a_lua_script_has_an_honest_header(path: Path):
    head = re.match(r"(--.*\n)+", path.read_text())
    assert head, "a script begins with its purpose, KEYS, ARGV and what it returns"


def test_every_setting_stands_in_the_docs_with_its_default():
    text = (ROOT / "docs" / "configuration.md").read_text()
    for name in Settings.model_fields:
        assert re.search(rf"`{name.upper()}`", text), f"FOREMAN_{name.upper()} is not in docs/configuration.md"
    for option in _OPTIONS:
        assert re.search(rf"`{option}=", text), f"the target option {option} is not in docs/configuration.md"
    known = {name.upper() for name in Settings.model_fields}
    for name in re.findall(r"^\| `([A-Z_]+)`", text, re.MULTILINE):
        assert name in known, f"docs/configuration.md tells of FOREMAN_{name}, which is no setting"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("addr", "`127.0.0.1:8080`"),
        ("poll_interval", "`30s`"),
        ("upstream_timeout", "`5m`"),
        ("max_body", "`64MiB`"),
        ("spool_bytes", "`1MiB`"),
        ("job_ttl", "`24h`"),
        ("headers_after", "`20s`"),
        ("heartbeat", "`15s`"),
        ("shutdown_grace", "`30s`"),
        ("max_queue", "`10000`"),
        ("due_after", "`high=5s,normal=2m,low=30m`"),
        ("swap_budget", "`0.2`"),
        ("link_addr", "`127.0.0.1:0`"),
    ],
)
def test_the_defaults_in_the_docs_are_the_defaults(name: str, text: str):
    row = re.search(rf"^\| `{name.upper()}`.*$", (ROOT / "docs" / "configuration.md").read_text(), re.MULTILINE)
    assert row is not None
    assert text in row[0]
    written = Settings.model_validate({name: text.strip("`")})
    assert getattr(written, name) == Settings.model_fields[name].default


def test_no_setting_in_the_docs_is_unknown():
    """A variable named anywhere in the docs is a setting, but where the page says that it comes later."""
    known = {f"FOREMAN_{name.upper()}" for name in Settings.model_fields}
    for path in DOCS:
        for name in re.findall(r"\bFOREMAN_[A-Z][A-Z_]*[A-Z]\b", path.read_text()):
            assert name in known or name.startswith("FOREMAN_TEST_") or "later" in path.read_text(), (path, name)


def test_what_the_docs_hold_of_the_code_is_fresh():
    told = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "docs"), "--check"], capture_output=True, text=True, check=False
    )
    assert told.returncode == 0, told.stderr


def test_the_diagram_holds_every_move_and_no_other():
    drawn = set(re.findall(r"(\w+) --> (\w+)", diagram.states()))
    assert drawn == {(str(state), str(following)) for state, nexts in TRANSITIONS.items() for following in nexts}


@pytest.mark.parametrize("path", DOCS, ids=ids(DOCS))
def test_links_in_the_docs_lead_somewhere(path: Path):
    for link in re.findall(r"\]\(([^)#\s]+)[^)]*\)", path.read_text()):
        if "://" not in link:
            assert (path.parent / link).exists(), f"{link} leads nowhere"


def test_the_makefile_and_the_contributors_page_agree():
    goals = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert goals >= {"setup", "check", "test", "faults", "bench", "run", "soak"}
    told = re.findall(
        r"(?m)(?:^|`)make ([a-z]+)", (ROOT / "CONTRIBUTING.md").read_text() + (ROOT / "README.md").read_text()
    )
    assert set(told) <= goals


def test_the_wheel_carries_scripts_and_pages(tmp_path: Path):
    """Built from a copy of what is in the tree, without isolation: hatchling is among the test tools."""
    pytest.importorskip("hatchling")
    for name in ("foreman", "workers"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path)
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel"], cwd=tmp_path, check=True, capture_output=True
    )
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    assert wheel.name.startswith("foreman_gateway-")
    names = set(zipfile.ZipFile(wheel).namelist())
    wanted = {
        str(path.relative_to(ROOT))
        for package in ("foreman", "workers")
        for path in (ROOT / package).rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    }
    assert wanted <= names
    assert any(name.endswith(".lua") for name in names)
    assert not any(name.startswith("tests/") for name in names)
