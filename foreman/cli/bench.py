"""`foreman bench MODEL`: how fast answers come through the gateway, and what foreman costs against the model server alone.

The command line's entry calls me; foreman.client.pace makes the calls, I show what came of them. Where `--straight` names
the model server, both ways take turns on the same work and a ratio stands beside them.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from foreman.cli import tables
from foreman.cli.asking import refused
from foreman.cli.console import QUESTION, Failed, Refusal, remark, settings_in_force, show_json
from foreman.client.pace import Pace, measure
from foreman.core import targets
from foreman.simulate.report import quantile

if TYPE_CHECKING:
    from foreman.settings import Settings

ROUNDS: Final = 3
"""Turns that each way takes, so that what else the machine does meets both."""
_THROUGH: Final = "through foreman"
_STRAIGHT: Final = "straight"
_COLUMNS: Final = ("WAY", "CALLS", "FAILED", "TTFT P50", "P95", "TPOT P50", "P95", "TOKENS/S")


def bench(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="The model, as the target names it.")],
    prompt: Annotated[str, typer.Argument(metavar="PROMPT", help="What each call asks.")] = QUESTION,
    *,
    straight: Annotated[
        str | None,
        typer.Option(metavar="URL", help="The model server itself, to compare with (FOREMAN_OLLAMA_TOKEN goes along)."),
    ] = None,
    calls: Annotated[int, typer.Option(min=1, help="Calls in all, on each way.")] = 24,
    streams: Annotated[int, typer.Option(min=1, max=100, help="Calls at a time.")] = 4,
    tokens: Annotated[int, typer.Option(min=1, help="The most tokens an answer may have (num_predict).")] = 64,
    json: Annotated[bool, typer.Option("--json", help="One JSON object instead of a table.")] = False,
) -> None:
    """Measure TTFT and TPOT through the gateway, and beside it."""
    settings = settings_in_force()
    try:
        straight = None if straight is None else targets.url(straight)
    except ValueError as error:
        raise Refusal(f"--straight {straight}: {error}") from None
    request = {
        "model": model,
        "messages": [{"role": "user", "content": prompt}],
        "options": {"num_predict": tokens, "temperature": 0},
    }
    paces = asyncio.run(_measured(settings, request, straight, calls, streams, quiet=json))
    if json:
        show_json(
            {"model": model, "calls": calls, "streams": streams, "ways": {n: _report(p) for n, p in paces.items()}}
        )
    else:
        _show(paces)
    failures = [failure for pace in paces.values() for failure in pace.failures]
    if failures:
        raise Failed(f"{len(failures)} calls failed, the first with: {failures[0]}")


async def _measured(
    settings: Settings, request: dict[str, Any], straight: str | None, calls: int, streams: int, *, quiet: bool
) -> dict[str, Pace]:
    """Both ways in turns, after one call each that warms up and isn't counted; `quiet` tells no rounds."""
    ways = {_THROUGH: (settings.gateway_url, settings.token)}
    if straight is not None:
        ways[_STRAIGHT] = (straight, settings.ollama_token)
    for name, (url, token) in ways.items():
        first = Pace()
        await measure(first, url, token, request, calls=1, streams=1)
        if first.failures and name == _STRAIGHT:
            reason = first.failures[0].__cause__ or first.failures[0]
            raise Failed(f"--straight {url} can't be asked as Ollama is: {reason}")
        if first.failures:
            raise Failed(f"{name}: {await refused(first.failures[0], settings)}")
    paces = {name: Pace() for name in ways}
    for turn in range(ROUNDS):
        share = calls // ROUNDS + (turn < calls % ROUNDS)
        for name, (url, token) in ways.items() if turn % 2 == 0 else reversed(ways.items()):
            if share and not quiet:
                remark(f"round {turn + 1} of {ROUNDS}: {share} calls {name}")
            await measure(paces[name], url, token, request, calls=share, streams=streams)
    return paces


def _show(paces: dict[str, Pace]) -> None:
    rows = [
        (
            name,
            pace.answered,
            len(pace.failures),
            *(_milliseconds(_at(times, share)) for times in (pace.ttft, pace.tpot) for share in (0.5, 0.95)),
            f"{pace.tokens_per_second:.1f}",
        )
        for name, pace in paces.items()
    ]
    if _STRAIGHT in paces:
        rows.append(("ratio", "", "", *_ratios(paces[_THROUGH], paces[_STRAIGHT])))
    tables.show(tables.table(_COLUMNS, rows, right=_COLUMNS[1:]))
    if _STRAIGHT not in paces:
        remark("--straight http://…:11434 runs the same against the model server alone, beside it")


def _ratios(through: Pace, straight: Pace) -> list[str]:
    pairs = [
        (_at(getattr(through, name), share), _at(getattr(straight, name), share))
        for name in ("ttft", "tpot")
        for share in (0.5, 0.95)
    ]
    pairs.append((through.tokens_per_second, straight.tokens_per_second))
    return [f"{ours / theirs:.2f}" if ours is not None and theirs else "–" for ours, theirs in pairs]


def _report(pace: Pace) -> dict[str, Any]:
    """The figures of one way; times in seconds, null without an answer to take them from."""
    return {
        "answered": pace.answered,
        "failed": len(pace.failures),
        "ttft_seconds": {"p50": _at(pace.ttft, 0.5), "p95": _at(pace.ttft, 0.95)},
        "tpot_seconds": {"p50": _at(pace.tpot, 0.5), "p95": _at(pace.tpot, 0.95)},
        "tokens": pace.tokens,
        "tokens_per_second": pace.tokens_per_second,
    }


def _at(times: list[float], share: float) -> float | None:
    """The value at this share of the ordered ones; None for none."""
    return quantile(sorted(times), share) if times else None


def _milliseconds(seconds: float | None) -> str:
    return "–" if seconds is None else f"{seconds * 1000:.1f} ms"
