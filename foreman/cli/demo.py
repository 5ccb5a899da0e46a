"""`foreman demo`: foreman in front of simulated targets and traffic, or with `--real` of a true small model.

The command line's entry calls me. I keep nothing (the store is a temporary folder) and need nothing: where the small
model can't run here I say why and show the simulated targets instead.
"""

from __future__ import annotations

import contextlib
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from foreman import logs
from foreman.cli.console import remark, say, settings_in_force
from foreman.cli.serve import greet
from foreman.cli.webhooks import with_listener
from foreman.demo import small_model

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from foreman.settings import Settings

MODELS: Final = ("llama3.2", "qwen3:8b", "gemma3:4b")
EMBEDDER: Final = "nomic-embed-text"
TARGETS: Final = ("gpu1", "gpu2")


def demo(
    *,
    real: Annotated[bool, typer.Option("--real", help="A true small model on this CPU, no traffic.")] = False,
) -> None:
    """The same as serve, in front of simulated targets and traffic: no Ollama needed. Keeps nothing."""
    from foreman.cli.house import until_told  # noqa: PLC0415 - heavy: `foreman chat` should not wait for it

    settings = settings_in_force()
    logs.configure(settings.log)
    until_told(_demo(settings, real=real))


async def _demo(settings: Settings, *, real: bool) -> None:
    async with contextlib.AsyncExitStack() as stack:
        targets = await stack.enter_async_context(small_model_target(settings)) if real else None
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="foreman-demo-"))
        if targets is not None:
            say(f"A true small model, {small_model.ALIAS}, runs on this CPU.")
            await _live(settings, folder, targets, small_model.ALIAS, traffic=False)
        else:
            targets = await stack.enter_async_context(simulated_targets())
            say(f"{len(TARGETS)} simulated targets and some traffic; what you see is made up, the queue is real.")
            await _live(settings, folder, targets, MODELS[0], traffic=True)


async def _live(settings: Settings, folder: str, targets: str, model: str, *, traffic: bool) -> None:
    from foreman.cli.house import House, live  # noqa: PLC0415 - as above
    from foreman.demo.traffic import Traffic  # noqa: PLC0415 - as above

    changes = {"targets": targets, "targets_file": None, "redis_url": None, "data_dir": Path(folder)}
    settings = with_listener(settings_with(settings, **changes))

    async def announce(house: House) -> None:
        greet(settings, house.url, model)
        if traffic and house.url is not None:
            callers = Traffic(house.url, MODELS, EMBEDDER, token=settings.token)
            house.before_leaving(callers.stop)
            await callers.start()

    await live(House(settings), announce)


def settings_with(settings: Settings, **changes: object) -> Settings:
    """The same settings with some attributes changed, and what follows from them worked out anew."""
    given = {name: getattr(settings, name) for name in settings.model_fields_set} | changes
    return settings_in_force(**given)


@contextlib.asynccontextmanager
async def simulated_targets() -> AsyncIterator[str]:
    """Simulated Ollamas with three models and an embedder; the value of FOREMAN_TARGETS for them."""
    from foreman.demo.ollama import FakeOllama  # noqa: PLC0415 - as above

    async with contextlib.AsyncExitStack() as stack:
        fakes = [
            await stack.enter_async_context(
                FakeOllama(models=[*MODELS, EMBEDDER], load_seconds=3.0, max_loaded=2, tokens=60, token_seconds=0.03)
            )
            for _ in TARGETS
        ]
        yield ",".join(f"{name}={fake.url}?resident=1" for name, fake in zip(TARGETS, fakes, strict=True))


@contextlib.asynccontextmanager
async def small_model_target(settings: Settings) -> AsyncIterator[str | None]:
    """The true small model as the value of FOREMAN_TARGETS; None, with a sentence said, where it can't run here."""
    target: str | None = None
    model: small_model.SmallModel | None = None
    reason = small_model.why_not()
    if reason is None:
        try:
            model = small_model.SmallModel(await small_model.fetch(settings.data_dir, remark))
            remark("loading the small model")
            target = f"cpu={await model.start()}?kind=openai&slots={small_model.SLOTS}"
        except (small_model.SmallModelError, OSError) as error:
            reason = str(error)
    if reason is not None:
        remark(f"No true small model here: {reason}. Simulated targets take its place.")
    try:
        yield target
    finally:
        if model is not None:
            await model.stop()
