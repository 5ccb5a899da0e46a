"""The scripts as texts: honest headers, keys from one place, nothing that another server would not run."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import pytest
from lupa.lua51 import LuaRuntime

import foreman.store
from foreman.store import keys as k
from foreman.store.scripts import names, script

FOLDER = Path(foreman.store.__file__).parent / "lua"
FILES = sorted(FOLDER.rglob("*.lua"))
NEWER = {"LMPOP", "BLMPOP", "ZMPOP", "BZMPOP", "SINTERCARD", "FUNCTION", "WAITAOF", "HEXPIRE", "HPEXPIRE", "EXPIRETIME"}
"""Commands younger than Redis 6.2."""


def code(text: str) -> str:
    return re.sub(r"--.*", "", text)


def test_each_file_is_a_script_or_an_include() -> None:
    assert {path.stem for path in FOLDER.glob("*.lua")} == set(names())
    used = {
        name.strip()
        for path in FILES
        for line in re.findall(r"^-- include: (.+)$", path.read_text(), re.MULTILINE)
        for name in line.split(",")
    }
    assert used == {path.stem for path in (FOLDER / "include").glob("*.lua")}


@pytest.mark.parametrize("name", names())
def test_it_compiles_and_says_what_it_takes_and_returns(name: str) -> None:
    text = (FOLDER / f"{name}.lua").read_text()
    header = "\n".join(itertools.takewhile(lambda line: line.startswith("--"), text.splitlines()))
    assert "-- KEYS[1] the pool's prefix" in header
    assert "-- returns" in header
    assert ("-- ARGV" in header) == ("ARGV" in code(text))
    LuaRuntime().compile(script(name).source)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_it_keeps_to_what_every_server_has(path: Path) -> None:
    text = code(path.read_text())
    commands = set(re.findall(r"redis\.call\('([A-Z ]+)'", text))
    assert commands.isdisjoint(NEWER)
    assert not re.findall(r"\b(cmsgpack|bit|struct|os|io|print|loadstring|redis\.(?!call))\b", text)
    assert not re.findall(r"(?<!k_)\bKEYS\b", text), "keys are spelled in keys.py"
    assert set(re.findall(r"\bk_(\w+)\(", text)) <= {template.name for template in k.TEMPLATES}


@pytest.mark.parametrize("name", names())
def test_a_script_brings_no_function_that_it_does_not_use(name: str) -> None:
    source = script(name).source
    assert not re.findall(r"\bk_\w+\(", source), "keys are spelled where they are named"
    for function in re.findall(r"^local function (\w+)", source, re.MULTILINE):
        assert len(re.findall(rf"\b{function}\b", source)) > 1, function


def test_keys_are_spelled_with_whatever_names_their_parts() -> None:
    assert "KEYS[1] .. 'tally:' .. ('h' .. math.floor(now / HOUR_MS))" in script("transition").source
    assert "KEYS[1] .. 'job:' .. (id) .. ':artifact:' .. ('completion')" in script("transition").source


def test_an_unknown_script() -> None:
    with pytest.raises(FileNotFoundError):
        script("nonsense")
