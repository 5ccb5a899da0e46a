"""The Lua scripts by name: source, SHA1, and what every script that moves jobs is told.

store/wire.py asks me for a script when it calls one; I join a file of store/lua with its includes, spell its keys as
keys.py does, and leave out what it does not use: a server makes each function anew at each call. I run nothing.
"""

from __future__ import annotations

import functools
import hashlib
import json
import re
from dataclasses import dataclass
from importlib import resources
from typing import TYPE_CHECKING, Final, NamedTuple

from foreman.core.errors import Code, Failure
from foreman.core.jobs import State, sources
from foreman.store.keys import TEMPLATES

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

_INCLUDE: Final = re.compile(r"^-- include: ([\w, ]+)$", re.MULTILINE)
_KEY: Final = re.compile(r"\bk_(\w+)\(((?:[^()]|\([^()]*\))*)\)")
"""A key in a script: `k_<template>(part, …)`."""
_PART: Final = re.compile(r"(?:[^(),]|\([^()]*\))+")
_FUNCTION: Final = re.compile(r"^local function (\w+)\((?:.* end|.*\n(?:.*\n)*?end)$", re.MULTILINE)
"""A function of a file: on one line, or until the first `end` that is not indented."""
_WORD: Final = re.compile(r"\w+")
_TEMPLATES: Final = {template.name: template for template in TEMPLATES}

EDGES: Final = f" {' '.join(f'{source}>{to}' for to in State for source in sources(to))} "
"""The transition table as scripts read it: ` queued>loading … `; an edge is found with its blanks around it."""

POISON: Final = json.dumps(
    Failure(
        Code.POISON,
        "Three workers in a row were lost while they ran this job; it is not tried again. "
        "Look into the workers' logs, then send it anew.",
    ).as_dict()
)


@dataclass(frozen=True, slots=True)
class Script:
    """One script as the server gets it."""

    name: str
    source: str
    sha: str


class _Piece(NamedTuple):
    """A part of a file."""

    name: str
    """Of the function that it is; "" for what lies between functions."""
    text: str
    words: frozenset[str]


@functools.cache
def script(name: str) -> Script:
    """The script `store/lua/<name>.lua` with its includes in front. Raises FileNotFoundError."""
    files: dict[str, None] = {}
    _collect(f"{name}.lua", files)
    pieces = [piece for path in files for piece in _pieces(path)]
    functions = {piece.name: piece.words for piece in pieces if piece.name}
    used: set[str] = set()
    new = _named(functions, [piece.words for piece in pieces if not piece.name])
    while new:
        used |= new
        new = _named(functions, [functions[one] for one in new]) - used
    source = "".join(piece.text for piece in pieces if not piece.name or piece.name in used)
    return Script(name, source, hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest())


@functools.cache
def names() -> tuple[str, ...]:
    """The names of all scripts, in order."""
    folder = resources.files("foreman.store").joinpath("lua")
    return tuple(sorted(entry.name[:-4] for entry in folder.iterdir() if entry.name.endswith(".lua")))


def _collect(path: str, files: dict[str, None]) -> None:
    """All files of a script, in the order in which they need each other."""
    for line in _INCLUDE.findall(_read(path)):
        for name in line.split(","):
            if (include := f"include/{name.strip()}.lua") not in files:
                _collect(include, files)
    files[path] = None


@functools.cache
def _pieces(path: str) -> tuple[_Piece, ...]:
    """A file, its keys spelled where they are named: no function to make for them, and none to call."""
    text, at, found = _KEY.sub(_spelled, _read(path)), 0, []
    for function in _FUNCTION.finditer(text):
        found += [("", text[at : function.start()]), (function[1], function[0])]
        at = function.end()
    found.append(("", text[at:]))
    return tuple(_Piece(name, part, frozenset(_WORD.findall(part))) for name, part in found)


def _spelled(key: re.Match[str]) -> str:
    return _TEMPLATES[key[1]].lua([part.strip() for part in _PART.findall(key[2])])


def _named(functions: Collection[str], by: Iterable[frozenset[str]]) -> set[str]:
    return {name for words in by for name in words if name in functions}


@functools.cache
def _read(path: str) -> str:
    return resources.files("foreman.store").joinpath("lua", *path.split("/")).read_text("utf-8")
