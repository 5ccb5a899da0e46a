"""What a model server says of itself: its models, what it holds, its version.

The dispatcher calls me at start, each `FOREMAN_POLL_INTERVAL`, and when something may have changed. I turn a few small
GETs into an `Inventory` in Ollama's own words, whatever the kind; anything but a sound answer is a `Fault`.
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from foreman.upstream.faults import Fault, Kind

if TYPE_CHECKING:
    from foreman.upstream.client import Client, Reply

TIMEOUT: Final = 5.0
"""Seconds for each question."""
_LIMIT: Final = 8 * 1024 * 1024
_LACKING: Final = frozenset({404, 405, 501})


@dataclass(frozen=True, slots=True)
class Inventory:
    """One probe's findings. The entries are the server's own, unchanged."""

    version: str | None
    tags: tuple[dict[str, Any], ...]
    """`/api/tags`; for `openai` made from `/v1/models`, with an empty digest."""
    ps: tuple[dict[str, Any], ...]
    """`/api/ps`: latest expiry first, nothing of what is being loaded, and only the name that loaded a runner."""


async def probe(client: Client, kind: str) -> Inventory:
    """Ask everything. Raises Fault, whose message names the question that got no sound answer."""
    if kind == "openai":
        return Inventory(None, await _openai_models(client), ())
    async with asyncio.TaskGroup() as group:
        asked = [group.create_task(_settled(ask(client))) for ask in (_version, _tags, loaded)]
    version, tags, ps = (task.result() for task in asked)
    for answer in (tags, ps, version):
        if isinstance(answer, Fault):
            raise answer
    assert isinstance(tags, tuple)
    assert isinstance(ps, tuple)
    return Inventory(version if isinstance(version, str) else None, tags, ps)


async def loaded(client: Client) -> tuple[dict[str, Any], ...]:
    """What an Ollama holds now (`/api/ps`). Raises Fault."""
    return _entries(await _get(client, "/api/ps", optional=True), "models", "name")


async def _settled(question: Any) -> Any:
    """The answer or its fault: three questions at once, and the group is for their end, not for their errors."""
    try:
        return await question
    except Fault as fault:
        return fault


async def _version(client: Client) -> str | None:
    answer = await _get(client, "/api/version", optional=True)
    version = answer.get("version") if isinstance(answer, dict) else None
    return version if isinstance(version, str) else None


async def _tags(client: Client) -> tuple[dict[str, Any], ...]:
    return _entries(await _get(client, "/api/tags"), "models", "name")


async def _openai_models(client: Client) -> tuple[dict[str, Any], ...]:
    """`/v1/models` as entries of `/api/tags`."""
    models = _entries(await _get(client, "/v1/models", optional=True), "data", "id")
    return tuple(
        {
            "name": model["id"],
            "model": model["id"],
            "modified_at": _rfc3339(model.get("created")),
            "size": 0,
            "digest": "",
            "details": {
                "parent_model": "",
                "format": "",
                "family": "",
                "families": None,
                "parameter_size": "",
                "quantization_level": "",
            },
        }
        for model in models
    )


def _rfc3339(seconds: object) -> str:
    """Seconds since the epoch as Ollama writes times; its beginning where a server says nothing of use."""
    known = seconds if isinstance(seconds, int | float) and 0 <= seconds < 253_402_300_800 else 0
    return datetime.fromtimestamp(known, UTC).isoformat().replace("+00:00", "Z")


def _entries(answer: object, field: str, name: str) -> tuple[dict[str, Any], ...]:
    """The entries that have a name; `null` is an empty list (`/v1/models` of an Ollama without models)."""
    found = answer.get(field) if isinstance(answer, dict) else None
    if found is not None and not isinstance(found, list):
        raise Fault(Kind.GARBAGE, f"its list of models has no list under {field!r}")
    return tuple(entry for entry in found or () if isinstance(entry, dict) and isinstance(entry.get(name), str))


async def _get(client: Client, path: str, *, optional: bool = False) -> Any:
    """The JSON; None where a server that is no stock one lacks an optional path."""
    reply = await client.fetch("GET", path, timeout=TIMEOUT, limit=_LIMIT)
    if optional and reply.status in _LACKING:
        return None
    if reply.status != 200:
        raise Fault(Kind.GARBAGE, f"GET {path} was answered {reply.status}{_advice(reply)}")
    try:
        return json.loads(reply.body)
    except ValueError as error:
        raise Fault(Kind.GARBAGE, f"GET {path} was answered with something that is no JSON") from error


def _advice(reply: Reply) -> str:
    return ": give the target its token (token_env=…, or FOREMAN_OLLAMA_TOKEN)" if reply.status in {401, 403} else ""
