"""What the targets have and hold, as the workers' probes published it; the gateway never dials a target.

The APIs ask me for models, tags and versions; web/calls/waiting.py asks who is down. I keep one snapshot of the store's
inventory, refreshed at most each half second, and turn it into Ollama's and OpenAI's answers.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from foreman.core import lanes
from foreman.store.errors import StoreUnavailableError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from foreman.store.queue import Queue
    from foreman.store.records import TargetStatus

MAX_AGE: Final = 0.5
"""Seconds a snapshot serves."""
PROBE_WAIT: Final = 1.0
"""Seconds a call for an unknown model waits for a fresh probe."""
OPENAI_ONLY_VERSION: Final = "0.24.0"
"""The version told where no Ollama stands behind: clients ask it for the features of the protocol."""
_PROBE_POLL: Final = 0.05
_ASK_GAP: Final = 0.2
"""Seconds between two wishes for a probe; the store lets one a second through, whoever asks."""
_RETRY_AFTER: Final = 0.2
"""Seconds after a failed attempt in which the next ones fail at once."""
_SILENT: Final = 3.0
"""Seconds without a snapshot after which the store counts as away."""


@dataclass(frozen=True, slots=True)
class Found:
    """A model that at least one target has."""

    canonical: str
    digest: str | None
    """None where its targets have different weights under the name, or no digests."""
    targets: tuple[TargetStatus, ...]
    """Those that have it, reachable or not, in order of name."""

    def on_ollama(self) -> Found | None:
        """The same without the targets of kind `openai`; None where no other has it."""
        able = tuple(target for target in self.targets if target.kind == "ollama")
        return replace(self, targets=able) if able else None


class Inventory:
    """The gateway's view of all targets."""

    def __init__(self, queue: Queue) -> None:
        self._queue = queue
        self._lock = asyncio.Lock()
        self._loop = asyncio.get_running_loop()
        self._failed_at = float("-inf")
        self.failure: StoreUnavailableError | None = None
        """Why the last attempt to read the store failed; None where it did not."""
        self.unwritten: StoreUnavailableError | None = None
        """Why the store took not what this gateway wrote last (it may still be read: a full disk, a replica)."""
        self._at = float("-inf")
        self._looking = asyncio.Lock()
        self._looked_at = self._known_at = float("-inf")
        """When a look for an unknown model was over, and when what it found was so; loop clock."""
        self._index: dict[str, list[tuple[TargetStatus, str]]] = {}
        self.targets: tuple[TargetStatus, ...] = ()
        """The last snapshot, in order of name."""
        self.foreign: frozenset[str] = frozenset()
        """Names that `openai` targets list: no rule of Ollama's holds for them."""

    async def fresh(self, max_age: float = MAX_AGE) -> tuple[TargetStatus, ...]:
        """A snapshot less than `max_age` seconds old; 0: taken from now on. Raises StoreUnavailableError.

        While the store is away everybody shares one attempt in a while, so that nobody waits behind others' time-outs.
        """
        began = self._loop.time()
        if began - self._at < max_age:
            return self.targets
        async with self._lock:
            if self._at > began or self._loop.time() - self._at < max_age:
                return self.targets
            if self.failure is not None and self._failed_at >= began - _RETRY_AFTER:
                raise self.failure
            asked_at = self._loop.time()
            try:
                self.targets = tuple(await self._queue.targets())
            except StoreUnavailableError as error:
                self.failure, self._failed_at = error, self._loop.time()
                raise
            self._at, self.failure = asked_at, None
            self._index = _index(self.targets)
            self.foreign = frozenset(
                str(entry.get("name")) for target in self.targets if target.kind == "openai" for entry in target.tags
            )
        return self.targets

    def store_answers(self) -> bool:
        """Whether the store was heard lately (a snapshot is due each half second) and takes what is written."""
        return self.failure is None and self.unwritten is None and self._loop.time() - self._at < _SILENT

    async def find(self, model: str, *, hurry: bool = False) -> Found | None:
        """Who has `model`; asks for one fresh probe and waits up to a second for it before it says None.

        None as well where no target can be reached: see `reachable`. Raises StoreUnavailableError.

        Args:
            model: as the caller has it.
            hurry: what was probed within the last second is fresh enough.
        """
        await self.fresh()
        found = self._look_up(model)
        if found is None and self.reachable():
            await self._probe_again(model, hurry=hurry)
            found = self._look_up(model)
        return found

    def reachable(self) -> bool:
        """Whether any target is up or paused: its inventory can be believed."""
        return any(target.state != "down" for target in self.targets)

    def named(self, name: str) -> TargetStatus | None:
        """The target of that name."""
        return next((target for target in self.targets if target.name == name), None)

    async def _probe_again(self, model: str, *, hurry: bool) -> None:
        """At most one probe a second, and one that began after the call came: the model may be new by then."""
        came = self._loop.time()
        if hurry and came - self._looked_at < PROBE_WAIT:
            return
        async with self._looking:  # one looks, for all who came before it began to
            if came > self._known_at and self._look_up(model) is None:
                await self._look(model)

    async def _look(self, model: str) -> None:
        """Have every target probed, unless the model turns up before; gives up a second after a probe was possible."""
        began, asked_at, since, ahead = self._loop.time(), float("-inf"), 0.0, 0.0
        pause = max(0.0, self._looked_at + PROBE_WAIT - began)
        for _ in range(round((pause + PROBE_WAIT) / _PROBE_POLL)):
            if self._loop.time() - asked_at >= _ASK_GAP:
                asked_at = self._loop.time()
                now = await self._queue.ask_probe([target.name for target in self.targets if target.state != "down"])
                since, ahead = since or now, now - asked_at
            await self.fresh(_PROBE_POLL)
            if self._look_up(model) is not None:
                return
            probed_at = min((target.probed_at for target in self.targets if target.state != "down"), default=since)
            if probed_at >= since:
                began = probed_at - ahead
                break
            await asyncio.sleep(_PROBE_POLL)
        self._known_at, self._looked_at = began, self._loop.time()

    def _look_up(self, model: str) -> Found | None:
        canonical = lanes.canonical(model)
        hits = self._index.get(canonical)
        if not hits:
            return None
        digests = {digest for _, digest in hits if digest}
        return Found(canonical, digests.pop() if len(digests) == 1 else None, tuple(target for target, _ in hits))


def tags(targets: Iterable[TargetStatus]) -> list[dict[str, Any]]:
    """The union of all targets' models; newest first where there are several targets, else as the target has them."""
    return _union([target.tags for target in targets], "modified_at")


def loaded(targets: Iterable[TargetStatus]) -> list[dict[str, Any]]:
    """The union of what all targets hold loaded, latest expiry first; `openai` targets never load."""
    return _union([target.ps for target in targets if target.kind == "ollama" and target.state != "down"], "expires_at")


def version(targets: Iterable[TargetStatus]) -> str:
    """The lowest version of the Ollama targets: what all of them can do."""
    versions = [target.version for target in targets if target.kind == "ollama" and target.version]
    return min(versions, key=_version_key, default=OPENAI_ONLY_VERSION)


def v1_model(entry: dict[str, Any], model_id: str | None = None) -> dict[str, Any]:
    """A model of `/api/tags` as `/v1/models` shows it (openai.ToModel)."""
    name = str(entry.get("name") or entry.get("model") or "")
    try:
        owner = lanes.parse(name).namespace
    except lanes.ModelNameError:
        owner = lanes.DEFAULT_NAMESPACE
    return {
        "id": model_id or name,
        "object": "model",
        "created": _unix(entry.get("modified_at")),
        "owned_by": entry.get("owned_by") or owner,
    }


def _index(targets: Iterable[TargetStatus]) -> dict[str, list[tuple[TargetStatus, str]]]:
    index: dict[str, list[tuple[TargetStatus, str]]] = {}
    for target in targets:
        seen = set()
        for entry in target.tags:
            for name in (entry.get("name"), entry.get("model")):
                canonical = lanes.canonical(str(name)) if name else ""
                if canonical and canonical not in seen:
                    seen.add(canonical)
                    index.setdefault(canonical, []).append((target, str(entry.get("digest") or "")))
    return index


def _union(lists: list[list[dict[str, Any]]], newest_by: str) -> list[dict[str, Any]]:
    filled = [entries for entries in lists if entries]
    if len(filled) <= 1:
        return filled[0] if filled else []
    union: dict[tuple[Any, Any], dict[str, Any]] = {}
    for entries in filled:
        for entry in entries:
            union.setdefault((entry.get("name"), entry.get("digest")), entry)
    return sorted(union.values(), key=lambda entry: _unix(entry.get(newest_by)), reverse=True)


def _version_key(text: str) -> tuple[int, ...]:
    release = text.partition("-")[0].partition("+")[0]
    return tuple(int(part) if part.isdecimal() and len(part) < 10 else 0 for part in release.split("."))


def _unix(stamp: object) -> int:
    """Whole seconds since the epoch of an RFC 3339 stamp; 0 for anything else."""
    try:
        return int(datetime.fromisoformat(str(stamp)).timestamp())
    except (ValueError, OverflowError):
        return 0
