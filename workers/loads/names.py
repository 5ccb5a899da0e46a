"""What one target calls its models: names, digests, and the one name of each lane.

workers/loads/residency.py is built on me. I turn `/api/tags` into identities (two names of one digest are one model) and a queue's
key into the name of its lane here; I know nothing of what is loaded.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from foreman.core.lanes import canonical

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_NAMES_KEPT: Final = 4096
"""Lanes whose first name is remembered."""


class Names:
    """The names of one target."""

    def __init__(self) -> None:
        self._digests: dict[str, str] = {}
        self._names: dict[str, str] = {}
        self._first_names: dict[tuple[str, str], str] = {}
        """Identity and runner options → the lane key by which they were met first."""

    def in_use(self) -> set[str]:
        """The lanes whose names must be kept."""
        return set()

    def named(self, entries: Iterable[Mapping[str, Any]]) -> bool:
        """Learn names and digests from the entries of `/api/tags`; whether a name means something else now."""
        before, entries = self._digests, list(entries)
        self._digests = {canonical(entry["name"]): str(entry.get("digest") or "") for entry in entries}
        self._names = {canonical(entry["name"]): str(entry["name"]) for entry in entries}
        return self._digests != before

    def knows(self, model: str) -> bool:
        """Whether the model is in the target's inventory."""
        return canonical(model) in self._digests

    def own_name(self, model: str) -> str | None:
        """How the target spells a model; None where it has it not."""
        return self._names.get(canonical(model))

    def identity(self, model: str, digest: str | None = None) -> str:
        """What makes two names one model on this target: its own digest for it, else the one given, else the name."""
        name = canonical(model)
        return self._digests.get(name) or (digest or "").removeprefix("sha256:") or name

    def name_of(self, identity: str) -> str | None:
        """A name by which the target knows a model."""
        return next((self._names[name] for name, digest in self._digests.items() if digest == identity), None)

    def lane_of(self, key: str, model: str, digest: str | None = None) -> str:
        """The one name, here, of the lane that a queue's key stands for.

        Jobs that came before a model's digest was known are queued under its name, later ones under its digest: one lane.
        """
        identity, options = self.identity(model, digest), key.partition("?")[2]
        if len(self._first_names) > _NAMES_KEPT:
            used = self.in_use()
            self._first_names = {what: name for what, name in self._first_names.items() if name in used}
        return self._first_names.setdefault((identity, options), key)
