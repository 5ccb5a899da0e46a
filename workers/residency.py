"""What one target holds loaded, as far as the drain is concerned.

The dispatcher and the loader tell me what foreman loaded; each `/api/ps` tells me what is true. I turn both into the
residents of a choice: matched by digest (ps lists only the name that loaded a runner), others' loads and evictions
noticed, embedding models left out, the number of places learned. I ask nobody anything.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from foreman.core.lanes import canonical, lane_key

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

_DEFAULT_LOAD: Final = 10.0
"""Seconds a load is thought to take before one was measured (core.scheduler's prior)."""
_LOAD_WEIGHT: Final = 0.3
_LOAD_BOUNDS: Final = (0.2, 600.0)
_LOADS_KEPT: Final = 512


@dataclass(frozen=True, slots=True)
class Held:
    """A lane that the target holds."""

    lane: str
    identity: str
    """The model's identity here: its digest, or its canonical name where there is none."""
    name: str
    """A name by which the target knows it, for the unload."""
    loaded_at: float
    """Seconds since the epoch, by the store's clock."""
    load_seconds: float
    idle_since: float | None = None


@dataclass(frozen=True, slots=True)
class Change:
    """What a look at `/api/ps` showed that was not known."""

    appeared: tuple[str, ...] = ()
    """Lanes that somebody else loaded."""
    vanished: tuple[str, ...] = ()
    """Lanes that somebody else, or the target itself, put out."""

    def __bool__(self) -> bool:
        """Whether anything changed."""
        return bool(self.appeared or self.vanished)


class Residency:
    """The memory of one target.

    Args:
        places: how many lanes it can hold at once where the operator said so (`resident=N`), else None: learned.
    """

    def __init__(self, places: int | None = None) -> None:
        self._configured = places
        self._most = 1
        self._full = False
        self._digests: dict[str, str] = {}
        self._names: dict[str, str] = {}
        self._embedding: set[str] = set()
        self._embedding_loaded: set[str] = set()
        self.embed_fits = True
        """False once the load of an embedding model was seen to push out a resident; True again once both were seen."""
        self._held: dict[str, Held] = {}
        self._loads: dict[str, float] = {}
        self._known: dict[str, str] = {}
        """Identity → the lane as which it was held before it was out of sight; good for one look."""

    # -- what a choice reads

    @property
    def held(self) -> tuple[Held, ...]:
        """The lanes it holds, longest first."""
        return tuple(sorted(self._held.values(), key=lambda held: (held.loaded_at, held.lane)))

    @property
    def places(self) -> int:
        """Lanes it can hold at once: as configured, else the most `/api/ps` ever listed, at least 1."""
        return self._configured or self._most

    @property
    def must_unload(self) -> bool:
        """Whether a load needs a victim unloaded first.

        The number of places is known (configured, or a load was seen to push somebody out) and all are taken. Else the
        target may have room that nobody has tried yet.
        """
        return len(self._held) >= self.places and (self._configured is not None or self._full)

    def holds(self, lane: str) -> bool:
        """Whether the lane is resident."""
        return lane in self._held

    def load_seconds(self, lane: str) -> float:
        """The expected load of a lane in seconds."""
        known = self._loads.get(lane)
        if known is not None:
            return known
        return sum(self._loads.values()) / len(self._loads) if self._loads else _DEFAULT_LOAD

    @property
    def loads(self) -> dict[str, float]:
        """Lane → expected load in seconds, for the lanes that were measured."""
        return dict(self._loads)

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

    # -- what happened

    def remember(self, resident: Iterable[Mapping[str, Any]], loads: Mapping[str, float]) -> None:
        """Take over what the former owner published: under which lanes it held what it held, and its loads."""
        for entry in resident:
            lane, model = entry.get("lane"), entry.get("model")
            if isinstance(lane, str) and isinstance(model, str):
                self._known[self.identity(model)] = lane
        self._loads.update(loads)

    def inventory(self, tags: Iterable[Mapping[str, Any]]) -> None:
        """Learn names, digests and which models only embed, from `/api/tags`."""
        entries = list(tags)
        self._digests = {canonical(entry["name"]): str(entry.get("digest") or "") for entry in entries}
        self._names = {canonical(entry["name"]): str(entry["name"]) for entry in entries}
        self._embedding |= {self.identity(entry["name"]) for entry in entries if _only_embeds(entry)}

    def embeds(self, model: str, digest: str | None) -> None:
        """A job of the embedding slot used this model: it takes none of the drain's places, unless it is drained too."""
        identity = self.identity(model, digest)
        if all(held.identity != identity for held in self._held.values()):
            self._embedding.add(identity)

    def loaded(
        self, lane: str, model: str, digest: str | None, *, now: float, seconds: float, embedding: bool = False
    ) -> None:
        """Foreman loaded a lane in `seconds`; another lane of the same model has gone by that."""
        identity = self.identity(model, digest)
        if not embedding:
            self._embedding.discard(identity)
        self._put_out(identity)
        seconds = min(max(seconds, _LOAD_BOUNDS[0]), _LOAD_BOUNDS[1])
        before = self._loads.pop(lane, None)
        self._loads[lane] = seconds if before is None else before + _LOAD_WEIGHT * (seconds - before)
        while len(self._loads) > _LOADS_KEPT:
            del self._loads[next(iter(self._loads))]
        self._held[lane] = Held(lane, identity, model, now, seconds, now)

    def unloaded(self, lane: str) -> None:
        """Foreman put it out."""
        self._held.pop(lane, None)

    def forget(self) -> None:
        """The target is away: what it holds is unknown until the next look, which may find it as it was."""
        self._known = {held.identity: held.lane for held in self._held.values()}
        self._held.clear()

    def idle(self, queued: Collection[str], running: Collection[str], now: float) -> None:
        """Note since when nothing of a resident is queued or running."""
        for lane, held in self._held.items():
            busy = lane in queued or lane in running
            if busy and held.idle_since is not None:
                self._held[lane] = replace(held, idle_since=None)
            elif not busy and held.idle_since is None:
                self._held[lane] = replace(held, idle_since=now)

    def observe(
        self, ps: Iterable[Mapping[str, Any]], *, now: float, asked_at: float, busy: Collection[str] = ()
    ) -> Change:
        """Compare with what the target says it holds.

        Args:
            ps: entries of `/api/ps`.
            now: the store's clock.
            asked_at: when the question was sent, by the same clock: what was loaded since is not judged by it.
            busy: lanes with runs in flight; a reload that somebody else caused hides them from ps for a moment.
        """
        everything = {self._listed_identity(entry): str(entry.get("name")) for entry in ps}
        beside = (self._embedding & everything.keys()) - {held.identity for held in self._held.values()}
        listed = {identity: name for identity, name in everything.items() if identity not in beside}
        vanished = tuple(
            lane
            for lane, held in self._held.items()
            if held.identity not in listed and held.loaded_at <= asked_at and lane not in busy
        )
        for lane in vanished:
            del self._held[lane]
        appeared = []
        for identity, name in listed.items():
            if all(held.identity != identity for held in self._held.values()):
                lane = self._known.get(identity) or lane_key(
                    name, identity if identity != canonical(name) else None, {}
                )
                self._held[lane] = Held(lane, identity, name, now, self.load_seconds(lane), now)
                appeared.append(lane)
        self._known.clear()
        self._learn(len(listed))
        if vanished and beside - self._embedding_loaded:
            self.embed_fits = False
        elif self._embedding & everything.keys() and everything.keys() - self._embedding:
            self.embed_fits = True
        self._embedding_loaded = beside
        return Change(tuple(appeared), vanished)

    def pushed_out(self) -> None:
        """A load, without an unload before it, put another lane out: the places are all taken."""
        self._full = True

    def _learn(self, count: int) -> None:
        if count > self._most:
            self._most = count
            self._full = False

    def _listed_identity(self, entry: Mapping[str, Any]) -> str:
        digest = str(entry.get("digest") or "").removeprefix("sha256:")
        return digest or self.identity(str(entry.get("name")))

    def _put_out(self, identity: str) -> None:
        for lane in [lane for lane, held in self._held.items() if held.identity == identity]:
            del self._held[lane]


def _only_embeds(entry: Mapping[str, Any]) -> bool:
    """Whether an entry of `/api/tags` is an embedding model: by its capabilities, else (v0.24) by its family."""
    capabilities = entry.get("capabilities")
    if isinstance(capabilities, list):
        return "embedding" in capabilities and "completion" not in capabilities
    details = entry.get("details")
    return isinstance(details, dict) and "bert" in str(details.get("family") or "").lower()
