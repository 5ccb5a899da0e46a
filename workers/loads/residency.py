"""What one target holds loaded, as far as the drain is concerned.

The dispatcher and the loader tell me what foreman loaded; each `/api/ps` tells me what is true. I turn both into the
residents of a choice: matched by digest (ps lists only the name that loaded a runner), others' loads, reloads and evictions
noticed, embedding and pinned models left out, the number of places learned. I ask nobody anything.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from foreman.core.estimates import LOAD_CLAMP, LOAD_PRIOR, LOAD_WEIGHT
from foreman.core.lanes import canonical, lane_key
from workers.loads.names import Names

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

_LOADS_KEPT: Final = 512
UNSEEN: Final = 3
"""Looks in a row after which a lane that runs and is not listed counts as put out."""
CROWDED: Final = 600.0
"""Seconds for which it counts that a lane did not fit beside the others."""


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
    linger_spent: float = 0.0
    """Seconds it stood empty while others waited, up to `idle_since`."""
    linger_since: float | None = None
    """Since when it stands empty while others wait, this time."""
    ours: bool = True
    """Foreman loaded it, now or in a life before."""
    session: float = math.inf
    """Seconds that the target keeps it after its last call."""
    expires_at: float = math.inf
    """When it goes unless it is called before."""
    context: int | None = None
    """The context length that ps told of it first: another one means that somebody had it loaded anew."""


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


class Residency(Names):
    """The memory of one target.

    Args:
        places: how many lanes it can hold at once where the operator said so (`resident=N`), else None: learned.
        pin: models that are loaded at start and never leave; their lanes are none of the drain's.
    """

    def __init__(self, places: int | None = None, pin: Iterable[str] = ()) -> None:
        self._configured = places
        self._pin = tuple(pin)
        self._pinned: dict[str, Held] = {}
        self._most = 1
        self._fitted: int | None = None
        self._crowded_until = 0.0
        self._full = False
        super().__init__()
        self._embedding: set[str] = set()
        self._embedding_loaded: set[str] = set()
        self._may_expire = False
        self.embed_used: dict[str, float] = {}
        """Identity → when a job of the embedding slot last used it."""
        self._lost = False
        self.embed_fits = True
        """False once the load of an embedding model was seen to push out a resident; True again once both were seen."""
        self._held: dict[str, Held] = {}
        self._loads: dict[str, float] = {}
        self._known: dict[str, str] = {}
        """Identity → the lane as which it was held before it was out of sight; good for one look."""
        self._unseen: dict[str, int] = {}
        """Lane → looks in a row that did not list it although it runs."""
        self._lost_lane: dict[str, str] = {}

    # -- what a choice reads

    @property
    def held(self) -> tuple[Held, ...]:
        """The lanes it holds, longest first."""
        return tuple(sorted(self._held.values(), key=lambda held: (held.loaded_at, held.lane)))

    @property
    def places(self) -> int:
        """Lanes the drain can hold at once: as configured, less the pins, else the most `/api/ps` ever listed; at least 1."""
        thought = max(1, self._configured - len(self._pin)) if self._configured else self._most
        return thought if self._fitted is None else min(thought, self._fitted)

    @property
    def must_unload(self) -> bool:
        """Whether a load needs a victim unloaded first.

        The number of places is known (configured, or a load was seen to push somebody out) and all are taken. Else the
        target may have room that nobody has tried yet.
        """
        known = self._configured is not None or self._full or self._fitted is not None
        return len(self._held) >= self.places and known

    def in_use(self) -> set[str]:
        """The lanes it holds."""
        return {*self._held, *self._pinned}

    def holds(self, lane: str) -> bool:
        """Whether the lane is resident."""
        return lane in self._held or lane in self._pinned

    @property
    def pinned(self) -> tuple[Held, ...]:
        """The pinned lanes it holds."""
        return tuple(self._pinned.values())

    def pins(self, identity: str) -> bool:
        """Whether the model is pinned here."""
        return any(self.identity(name) == identity for name in self._pin)

    @property
    def full(self) -> bool:
        """Whether one more would need a place that is taken, as far as the number of places is known."""
        if self._configured is not None:
            return len(self._held) + len(self._pinned) >= max(self._configured, len(self._pin))
        return self._full and len(self._held) >= self._most

    def only_embeds(self, identity: str) -> bool:
        """Whether it is an embedding model."""
        return identity in self._embedding

    def unpinned(self) -> list[str]:
        """Pinned models that it has and does not hold."""
        held = {held.identity for held in self._pinned.values()}
        return [name for name in self._pin if self.knows(name) and self.identity(name) not in held]

    @property
    def embedding_loaded(self) -> frozenset[str]:
        """Identities of the embedding models that it holds beside the drain, by the last look."""
        return frozenset(self._embedding_loaded)

    def load_seconds(self, lane: str) -> float:
        """The expected load of a lane in seconds."""
        known = self._loads.get(lane)
        if known is not None:
            return known
        return sum(self._loads.values()) / len(self._loads) if self._loads else LOAD_PRIOR

    @property
    def loads(self) -> dict[str, float]:
        """Lane → expected load in seconds, for the lanes that were measured."""
        return dict(self._loads)

    # -- what happened

    def remember(self, resident: Iterable[Mapping[str, Any]], loads: Mapping[str, float]) -> None:
        """Take over what the former owner published: under which lanes it held what it held, and its loads."""
        for entry in resident:
            lane, model = entry.get("lane"), entry.get("model")
            if isinstance(lane, str) and isinstance(model, str):
                self._known[self.identity(model)] = lane
                self.lane_of(lane, model)
        self._loads.update(loads)

    def inventory(self, tags: Iterable[Mapping[str, Any]]) -> bool:
        """Learn names, digests and which models only embed, from `/api/tags`; whether a name means something else now."""
        entries = list(tags)
        changed = self.named(entries)
        self._embedding |= {self.identity(entry["name"]) for entry in entries if _only_embeds(entry)}
        return changed

    def embeds(self, model: str, digest: str | None, now: float) -> None:
        """A job of the embedding slot used this model: it takes none of the drain's places, unless it is drained too."""
        if not self.knows(model):
            return  # callers ask for names without end
        identity = self.identity(model, digest)
        self.embed_used[identity] = now
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
        seconds = min(max(seconds, LOAD_CLAMP[0]), LOAD_CLAMP[1])
        before = self._loads.pop(lane, None)
        self._loads[lane] = seconds if before is None else before + LOAD_WEIGHT * (seconds - before)
        while len(self._loads) > _LOADS_KEPT:
            del self._loads[next(iter(self._loads))]
        self._place(Held(lane, identity, model, now, seconds, now))

    def _place(self, held: Held) -> None:
        (self._pinned if self.pins(held.identity) else self._held)[held.lane] = held

    def unloaded(self, lane: str) -> None:
        """Foreman put it out."""
        self._held.pop(lane, None)
        self._pinned.pop(lane, None)

    def crowded(self, now: float) -> None:
        """One lane more did not fit beside those held now: for a while there are no more places than that.

        Models differ in size, so what was seen together once, or configured, is no promise for others; after a while it
        is tried again.
        """
        self._fitted, self._crowded_until = max(1, len(self._held)), now + CROWDED

    def forget(self) -> None:
        """The target is away: what it holds is unknown until the next look, which may find it as it was."""
        self._known = {held.identity: held.lane for held in (*self._held.values(), *self._pinned.values())}
        self._held.clear()
        self._pinned.clear()

    def idle(self, queued: Collection[str], running: Collection[str], now: float) -> None:
        """Note since when nothing of a resident is queued or running."""
        for lane, held in self._held.items():
            busy = lane in queued or lane in running
            if busy and held.idle_since is not None:
                spent = 0.0 if held.linger_since is None else max(0.0, now - held.linger_since)
                self._held[lane] = replace(
                    held, idle_since=None, linger_since=None, linger_spent=held.linger_spent + spent
                )
            elif not busy and held.idle_since is None:
                self._held[lane] = replace(held, idle_since=now)

    def used(self, lane: str, session: float | None, now: float) -> None:
        """A call of it has ended; `session`: seconds that it is to stay from now on, None: as long as before."""
        for there in (self._held, self._pinned):
            if (held := there.get(lane)) is not None:
                span = held.session if session is None else session
                if span == held.session == math.inf:
                    return
                self._may_expire = True
                there[lane] = replace(held, session=span, expires_at=now + span)

    def expire(self, now: float, busy: Collection[str]) -> bool:
        """Let go of what the target has put out by now, as its callers asked; whether there was any."""
        if not self._may_expire:
            return False
        gone = [
            (there, lane)
            for there in (self._held, self._pinned)
            for lane, held in there.items()
            if held.expires_at <= now and lane not in busy
        ]
        for there, lane in gone:
            del there[lane]
        return bool(gone)

    def lingers(self, lane: str, now: float) -> None:
        """It is kept although it is empty and others wait."""
        held = self._held.get(lane)
        if held is not None and held.linger_since is None:
            self._held[lane] = replace(held, linger_since=now)

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
        entries = list(ps)
        if self._fitted is not None and now >= self._crowded_until:
            self._fitted = None
        everything = {self._listed_identity(entry): str(entry.get("name")) for entry in entries}
        self._look_at_pins(everything, now=now, asked_at=asked_at, busy=busy)
        pinned = {identity for identity in everything if self.pins(identity)}
        reloaded = self._look_at_contexts(entries, busy)
        beside = (self._embedding & everything.keys()) - {held.identity for held in self._held.values()} | pinned
        listed = {identity: name for identity, name in everything.items() if identity not in beside}
        vanished = self._vanished(listed, asked_at, busy)
        for lane in vanished:
            del self._held[lane]
        if self._held and any(lane in busy for lane in vanished):
            self.crowded(now)  # what runs does not expire: another one pushed it out
        appeared = []
        for identity, name in listed.items():
            if all(held.identity != identity for held in self._held.values()):
                known = self._known.get(identity)
                lane = known or self._found(identity, name, reloaded.get(identity))
                self._held[lane] = Held(lane, identity, name, now, self.load_seconds(lane), now, ours=known is not None)
                appeared.append(lane)
        self._known.clear()
        self._learn(len(listed))
        embedding = beside - pinned
        lost = bool(vanished) or self._lost
        if lost and embedding - self._embedding_loaded:
            self.embed_fits = False
        elif self._embedding & everything.keys() and everything.keys() - self._embedding:
            self.embed_fits = True
        # A look may fall between the two: the resident has gone, the embedding model that pushed it out still loads.
        self._lost = lost and not listed and any(lane not in self._held for lane in busy)
        self._embedding_loaded = embedding
        return Change(tuple(appeared), (*vanished, *self._renamed(reloaded)))

    def _vanished(self, listed: Collection[str], asked_at: float, busy: Collection[str]) -> tuple[str, ...]:
        """Lanes that are resident no longer; a busy one may be out of sight for a moment, while somebody reloads it."""
        missing = [
            lane for lane, held in self._held.items() if held.identity not in listed and held.loaded_at <= asked_at
        ]
        self._unseen = {lane: self._unseen.get(lane, 0) + 1 for lane in missing}
        return tuple(lane for lane in missing if lane not in busy or self._unseen[lane] >= UNSEEN)

    def _found(self, identity: str, name: str, context: int | None) -> str:
        """The lane of what somebody else loaded: with the model's own options, as far as ps tells."""
        key = lane_key(
            name, identity if identity != canonical(name) else None, {} if context is None else {"num_ctx": context}
        )
        return self.lane_of(key, name, identity)

    def _look_at_pins(self, listed: Mapping[str, str], *, now: float, asked_at: float, busy: Collection[str]) -> None:
        for lane, held in list(self._pinned.items()):
            if held.identity not in listed and held.loaded_at <= asked_at and lane not in busy:
                del self._pinned[lane]
        there = {held.identity for held in self._pinned.values()}
        for identity, name in listed.items():
            if identity not in there and self.pins(identity):
                lane = self._known.get(identity) or self._found(identity, name, None)
                self._pinned[lane] = Held(lane, identity, name, now, self.load_seconds(lane), now)

    def _look_at_contexts(self, entries: Iterable[Mapping[str, Any]], busy: Collection[str]) -> dict[str, int]:
        """Identity → context length, of residents that somebody had loaded anew with another one: ours are gone by that."""
        reloaded = {}
        for entry in entries:
            context = entry.get("context_length")
            if not isinstance(context, int):
                continue
            identity = self._listed_identity(entry)
            for lane, held in list(self._held.items()):
                if held.identity != identity or lane in busy:
                    continue
                if held.context is None:
                    self._held[lane] = replace(held, context=context)
                elif held.context != context:
                    del self._held[lane]
                    self._lost_lane[identity] = lane
                    reloaded[identity] = context
        return reloaded

    def _renamed(self, reloaded: Mapping[str, int]) -> tuple[str, ...]:
        return tuple(self._lost_lane.pop(identity) for identity in reloaded)

    def pushed_out(self, now: float) -> None:
        """A load, without an unload before it, put another lane out: the places are all taken."""
        self._full = True
        if len(self._held) < self.places:
            self.crowded(now)

    def _learn(self, count: int) -> None:
        if count > self._most:
            self._most = count
            self._full = False

    def _listed_identity(self, entry: Mapping[str, Any]) -> str:
        digest = str(entry.get("digest") or "").removeprefix("sha256:")
        return digest or self.identity(str(entry.get("name")))

    def _put_out(self, identity: str) -> None:
        for there in (self._held, self._pinned):
            for lane in [lane for lane, held in there.items() if held.identity == identity]:
                del there[lane]


def _only_embeds(entry: Mapping[str, Any]) -> bool:
    """Whether an entry of `/api/tags` is an embedding model: by its capabilities, else (v0.24) by its family."""
    capabilities = entry.get("capabilities")
    if isinstance(capabilities, list):
        return "embedding" in capabilities and "completion" not in capabilities
    details = entry.get("details")
    return isinstance(details, dict) and "bert" in str(details.get("family") or "").lower()
