"""From a request to a ticket: read the body, peek into it, find who has the model, decide slot and lane.

The APIs call me with the path a request came by. I refuse what Ollama would refuse and models that nobody has, in the
words of that path; I submit nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from foreman.core import lanes
from foreman.core.errors import Code, Failure
from foreman.core.jobs import Slot
from foreman.protocols import paths
from foreman.protocols.ollama import peek
from foreman.protocols.words import not_found_message
from foreman.tasks import aside
from foreman.web.auth import Role
from foreman.web.body import read_body
from foreman.web.calls import wishes
from foreman.web.calls.call import WRAPPED, Ticket
from foreman.web.dialect import Dialect
from foreman.web.middleware import CALLER

if TYPE_CHECKING:
    from aiohttp import web

    from foreman.protocols.ollama import Peek
    from foreman.settings import Settings
    from foreman.store.records import TargetStatus
    from foreman.web.pool.inventory import Found, Inventory

_OLLAMA_ONLY: Final = frozenset({*paths.EMBED, paths.SHOW})
"""Paths that an `openai` target has no answer to."""
PASSED: Final = ("anthropic-version", "anthropic-beta")
"""The only request headers that go upstream."""
_NAME_LIMIT: Final = 512
NO_LANE: Final = "none"
"""The lane of a side job that names no model."""


@dataclass(frozen=True, slots=True)
class Intake:
    """Reads requests for one gateway."""

    settings: Settings
    inventory: Inventory

    async def inference(self, request: web.Request) -> Ticket:
        """The ticket of an inference call, an embedding or a `show`.

        Raises:
            Failure: the body, the model or a header will not do; the store does not answer.
        """
        path = request.path
        body = await read_body(request, self.settings.max_body)
        await self.inventory.fresh()
        seen = await aside(len(body), peek, path, body, self.inventory.foreign)
        return await self.ticket(
            *(path, body, seen, self._picked(request)),
            headers=passed(request),
            wrap=seen.stream and path in WRAPPED and wishes.wants_events(request),
        )

    async def ticket(
        self, path: str, body: bytes, seen: Peek, only: TargetStatus | None = None, *, hurry: bool = False, **more: Any
    ) -> Ticket:
        """The ticket of a body that was peeked into, on whatever surface it came; `only`: the target asked for.

        Where nobody has the model, or not the target asked for, it says so (`refused`); `hurry`: without waiting a
        second for a second look; `more`: what only that surface knows of it.
        """
        found = await self.inventory.find(seen.model, hurry=hurry)
        if found is not None and path in _OLLAMA_ONLY:
            found = found.on_ollama()
        targets = () if found is None else tuple(target.name for target in found.targets)
        refused = None
        if found is None and self.inventory.reachable() and not lanes.is_cloud(seen.model):
            refused = Failure(Code.MODEL_NOT_FOUND, not_found_message(path, seen.model))
        elif only is not None and targets and only.name not in targets:
            words = f"{not_found_message(path, seen.model)} on target {only.name!r}"
            refused = Failure(Code.MODEL_NOT_FOUND, words)
        digest = None if found is None else found.digest
        return Ticket(
            dialect=Dialect(path),
            endpoint=path,
            body=body,
            model=seen.model,
            canonical=lanes.canonical(seen.model) if found is None else found.canonical,
            lane=lanes.lane_key(seen.model, digest, seen.options),
            slot=_slot(path, seen),
            stream=seen.stream,
            targets=targets,
            target_only=only.name if only else self._holder(found) if seen.is_unload else None,
            digest=digest,
            options=seen.options,
            unload=seen.is_unload,
            refused=refused,
            **more,
        )

    async def management(self, request: web.Request) -> Ticket:
        """The ticket of a call that changes a target's models. Raises Failure where that is not allowed."""
        if request[CALLER].role is not Role.OPERATOR:
            raise Failure(Code.FORBIDDEN, "model management wants the operator's token (FOREMAN_TOKEN)")
        if not self.settings.model_management:
            raise Failure(
                Code.FORBIDDEN,
                "model management is off here: set FOREMAN_MODEL_MANAGEMENT=true, or ask the target itself",
            )
        await self.inventory.fresh()
        target = self._picked(request) or self._only_target()
        body = await read_body(request, self.settings.max_body)
        seen = await aside(len(body), peek, request.path, body)
        model = seen.model[:_NAME_LIMIT]  # here the target judges names, so one may be anything
        return Ticket(
            dialect=Dialect(request.path),
            endpoint=request.path,
            body=body,
            model=model,
            canonical=lanes.canonical(model),
            lane=lanes.lane_key(model, None, {}) or NO_LANE,
            slot=Slot.SIDE,
            stream=seen.stream,
            target_only=None if target is None else target.name,
            targets=() if target is None else (target.name,),
        )

    def addresses(self) -> str:
        """The Ollama targets' own addresses, for what must go there directly."""
        published = [target.url for target in self.inventory.targets if target.kind == "ollama"]
        return " or ".join(published or [target.url for target in self.settings.target_list])

    def _picked(self, request: web.Request) -> TargetStatus | None:
        """The target of an X-Foreman-Target header."""
        name = wishes.header(request, "X-Foreman-Target")
        if name is None:
            return None
        target = self.inventory.named(name)
        if target is None:
            raise Failure(Code.BAD_REQUEST, f"X-Foreman-Target is {name[:64]!r}: use one of {self._names()}")
        return target

    def _only_target(self) -> TargetStatus | None:
        """The one target that management can mean; None while none is known."""
        able = [target for target in self.inventory.targets if target.kind == "ollama"]
        if len(able) > 1:
            raise Failure(Code.BAD_REQUEST, f"there are several targets: name one by X-Foreman-Target: {self._names()}")
        if not able and self.inventory.targets:
            raise Failure(Code.BAD_REQUEST, "no target here manages models: they are of kind openai")
        return able[0] if able else None

    def _names(self) -> str:
        return ", ".join(target.name for target in self.inventory.targets) or "(no target is known yet)"

    @staticmethod
    def _holder(found: Found | None) -> str | None:
        """The target that holds a model loaded: where a wish to unload it belongs."""
        for target in found.targets if found else ():
            for entry in target.ps:
                if entry.get("digest") == found.digest or lanes.canonical(str(entry.get("name"))) == found.canonical:  # type: ignore[union-attr]  # the loop runs only where there is one
                    return target.name
        return None


def passed(request: web.Request) -> dict[str, str]:
    """The headers that go upstream, all lines of one name as one (RFC 9110 5.3). Raises Failure unless they are ASCII."""
    found = {name: ", ".join(values) for name in PASSED if (values := request.headers.getall(name, ()))}
    for name, value in found.items():
        if not value.isascii():
            raise Failure(Code.BAD_REQUEST, f"{name} holds more than ASCII")
    return found


def _slot(path: str, seen: Peek) -> Slot:
    if path in paths.EMBEDDINGS:
        return Slot.EMBED
    if path == "/api/show" or seen.is_unload or lanes.is_cloud(seen.model):
        return Slot.SIDE
    return Slot.DRAIN
