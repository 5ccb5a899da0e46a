"""`foreman run`, what `make run` starts: foreman in front of the best model server there is, without being told which.

The command line's entry calls me. In this order: the targets that are set; the Ollama that answers at
FOREMAN_OLLAMA_URL (or its default port) and has a chat model; a true small model on this CPU; simulated targets. I say
which it is and why, and print lines to try it with.
"""

from __future__ import annotations

import contextlib
import json
from typing import TYPE_CHECKING, Any

from foreman import logs
from foreman.cli.console import say, settings_in_force
from foreman.cli.demo import MODELS, settings_with, simulated_targets, small_model_target
from foreman.cli.serve import greet
from foreman.cli.webhooks import with_listener
from foreman.demo import small_model
from foreman.upstream.client import Client
from foreman.upstream.faults import Fault, Kind
from foreman.upstream.probe import TIMEOUT, probe

if TYPE_CHECKING:
    from foreman.settings import Settings

_EMBEDS = ("bert", "embed")
"""In an old Ollama's family or model name: no chat model. Newer ones tell capabilities."""


def run() -> None:
    """Serve in front of the Ollama that answers, else of a true small model on this CPU."""
    from foreman.cli.house import until_told  # noqa: PLC0415 - heavy: `foreman chat` should not wait for it

    settings = settings_in_force()
    logs.configure(settings.log)
    until_told(_run(settings))


async def _run(settings: Settings) -> None:
    from foreman.cli.house import House, check_port, live  # noqa: PLC0415 - as above

    check_port(settings)
    async with contextlib.AsyncExitStack() as stack:
        settings, model = await _choose(with_listener(settings), stack)

        async def announce(house: House) -> None:
            greet(settings, house.url, model)

        await live(House(settings), announce)


async def _choose(settings: Settings, stack: contextlib.AsyncExitStack) -> tuple[Settings, str]:
    """The settings with the targets to stand in front of, and a model they have."""
    if settings.targets_source != "ollama_url":
        say(
            f"In front of {', '.join(f'{target.name} ({target.url})' for target in settings.target_list)}, as FOREMAN_TARGETS says."
        )
        return settings, "MODEL"
    url = settings.ollama_url
    try:
        model = await chat_model(url, settings.ollama_token)
        why = f"the Ollama at {url} has no chat model yet (`ollama pull llama3.2` gets one)"
    except Fault as fault:
        model, why = None, f"no Ollama answers at {url}"
        if fault.kind is not Kind.REFUSED:
            why += f" ({fault.message})"
    if model is not None:
        say(f"In front of the Ollama at {url}.")
        return settings, model
    targets = await stack.enter_async_context(small_model_target(settings))
    if targets is not None:
        say(f"In front of a true small model, {small_model.ALIAS}, on this CPU: {why}.")
        return settings_with(settings, targets=targets), small_model.ALIAS
    targets = await stack.enter_async_context(simulated_targets())
    say(f"In front of simulated targets, whose answers are made up: {why}.")
    return settings_with(settings, targets=targets), MODELS[0]


async def chat_model(url: str, token: str | None) -> str | None:
    """A model of that Ollama one can chat with, the most recently changed first; None when it has none.

    Raises:
        Fault: it does not answer, or is no Ollama.
    """
    client = Client(url, token, connect_timeout=2.0)
    try:
        entries = (await probe(client, "ollama")).tags
        for entry in sorted(entries, key=lambda entry: str(entry.get("modified_at")), reverse=True):
            if await _chats(client, entry):
                return str(entry["name"])
    finally:
        await client.close()
    return None


async def _chats(client: Client, entry: dict[str, Any]) -> bool:
    """Whether a model completes text, by its capabilities, or by its family where Ollama is too old to tell them."""
    name = str(entry["name"])
    reply = await client.fetch("POST", "/api/show", json.dumps({"model": name}).encode(), timeout=TIMEOUT)
    with contextlib.suppress(ValueError, AttributeError):
        capabilities = json.loads(reply.body).get("capabilities")
        if isinstance(capabilities, list):
            return "completion" in capabilities
    family = str((entry.get("details") or {}).get("family", ""))
    return reply.status == 200 and not any(sign in f"{family} {name}" for sign in _EMBEDS)
