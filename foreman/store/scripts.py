"""The Lua scripts by name: source, SHA1, and what every script that moves jobs is told.

store/wire.py asks me for a script when it calls one; I join a file of store/lua with its includes, spell its keys as
keys.py does, and leave out what it does not use: a server makes each function anew at each call. I run nothing.
"""

from __future__ import annotations

import functools
import hashlib
import json
import re
from collections import Counter
from dataclasses import dataclass
from importlib import resources
from typing import Final

from foreman.core.errors import Code, Failure
from foreman.core.jobs import State, sources
from foreman.store.keys import TEMPLATES

_INCLUDE: Final = re.compile(r"^-- include: ([\w, ]+)$", re.MULTILINE)
_KEY: Final = re.compile(r"\bk_(\w+)\(((?:[^()]|\([^()]*\))*)\)")
"""A key in a script: `k_<template>(part, …)`."""
_PART: Final = re.compile(r"(?:[^(),]|\([^()]*\))+")
_FUNCTION: Final = re.compile(r"^local function (\w+)\((?:.* end|.*\n(?:.*\n)*?end)$", re.MULTILINE)
"""A function of a file: on one line, or until the first `end` that is not indented."""
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


@functools.cache
def script(name: str) -> Script:
    """The script `store/lua/<name>.lua` with its includes in front. Raises FileNotFoundError."""
    body = _read(f"{name}.lua")
    included: dict[str, str] = {}
    _collect(body, included)
    source = _only_used(_KEY.sub(_spelled, "\n".join([*included.values(), body])))
    return Script(name, source, hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest())


@functools.cache
def names() -> tuple[str, ...]:
    """The names of all scripts, in order."""
    folder = resources.files("foreman.store").joinpath("lua")
    return tuple(sorted(entry.name[:-4] for entry in folder.iterdir() if entry.name.endswith(".lua")))


def _collect(body: str, included: dict[str, str]) -> None:
    for line in _INCLUDE.findall(body):
        for name in (part.strip() for part in line.split(",")):
            if name not in included:
                text = _read(f"include/{name}.lua")
                _collect(text, included)
                included[name] = text


def _spelled(key: re.Match[str]) -> str:
    """A key where it is named: no function to make for it, and none to call."""
    return _TEMPLATES[key[1]].lua([part.strip() for part in _PART.findall(key[2])])


def _only_used(source: str) -> str:
    """The same without functions that nothing names."""
    words = Counter(re.findall(r"\w+", source))
    rest = _FUNCTION.sub(lambda found: found[0] if words[found[1]] > 1 else "", source)
    return source if rest == source else _only_used(rest)


def _read(path: str) -> str:
    return resources.files("foreman.store").joinpath("lua", *path.split("/")).read_text("utf-8")
