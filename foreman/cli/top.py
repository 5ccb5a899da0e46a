"""`foreman top`: what is loaded, what runs and who waits, live in a terminal.

The command line's entry calls me. I ask the gateway each second and draw what it says; in a pipe, or with `--once`, I do
it once. While the gateway is away I show what was seen last, and say how old it is.
"""

from __future__ import annotations

import asyncio
import signal
import sys
import time
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer
from rich.console import Group
from rich.live import Live
from rich.text import Text

from foreman.cli.asking import AsJSON, refused
from foreman.cli.console import cancel_by, settings_in_force, show_json
from foreman.cli.tables import cell, console, plain, show, span, table
from foreman.client import ForemanError
from foreman.client.overview import Overview

if TYPE_CHECKING:
    from collections.abc import Awaitable, Sequence

    from rich.console import RenderableType

    from foreman.settings import Settings

_LANES: Final = ("MODEL", "LANE", "QUEUED", "OLDEST", "BOUND", "ETA", "RUNNING", "TTFT", "TPOT", "")
_TARGETS: Final = ("TARGET", "STATE", "LOADED", "RUNNING", "TOK/S", "NEXT")
_RUNNING: Final = ("JOB", "MODEL", "TARGET", "STATE", "FOR", "TOKENS", "TOK/S", "CALLER")
_RIGHT: Final = ("QUEUED", "OLDEST", "BOUND", "ETA", "RUNNING", "TTFT", "TPOT", "TOK/S", "FOR", "TOKENS")
_ROWS: Final = 30
"""Lanes and running jobs shown at most, each; the rest is counted."""


def top(
    *,
    once: Annotated[bool, typer.Option("--once", help="Show it once and end.")] = False,
    every: Annotated[float, typer.Option(min=0.2, max=60.0, help="Seconds between two looks.")] = 1.0,
    json: AsJSON = False,
) -> None:
    """Show the pool live: targets, running jobs, lanes."""
    settings = settings_in_force()
    live = not once and not json and sys.stdout.isatty()
    try:
        asyncio.run(_show(settings, _follow(settings, every) if live else _once(settings, as_json=json)))
    except (asyncio.CancelledError, KeyboardInterrupt):
        return  # Ctrl-C is how one leaves


async def _show(settings: Settings, picture: Awaitable[None]) -> None:
    try:
        await picture
    except ForemanError as error:
        raise await refused(error, settings) from None


async def _once(settings: Settings, *, as_json: bool) -> None:
    async with Overview(settings.gateway_url, settings.token) as pool:
        state = await pool.state()
    if as_json:
        show_json(state)
    else:
        show(drawn(state))


async def _follow(settings: Settings, every: float) -> None:
    cancel_by(signal.SIGINT)
    async with Overview(settings.gateway_url, settings.token) as pool:
        state, seen_at = await pool.state(), time.monotonic()
        with Live(drawn(state, tidy=True), console=console(), screen=True, auto_refresh=False) as screen:
            while True:
                await asyncio.sleep(every)
                away = ""
                try:
                    state, seen_at = await pool.state(), time.monotonic()
                except ForemanError as error:
                    away = f"{error} · this was {span(time.monotonic() - seen_at)} ago"
                screen.update(drawn(state, away, tidy=True), refresh=True)


def drawn(state: dict[str, Any], away: str = "", *, tidy: bool = False) -> RenderableType:
    """The whole picture of a snapshot.

    Args:
        state: as `/ops/state` gives it.
        away: why it is old.
        tidy: leave out columns that are empty, for a screen; a pipe gets them all, each in its place.
    """
    now = datetime.fromisoformat(state["now"]).timestamp()
    parts: list[RenderableType] = [_head(state)]
    parts += [Text(f"! {plain(reason)}", style="red") for reason in (*filter(None, [away]), *state.get("reasons", ()))]
    parts += [Text(), _targets(state, tidy=tidy)]
    running = [(target["name"], job) for target in state["targets"] for job in target["running"]]
    if running:
        parts += [Text(), _running(running, now, tidy=tidy)]
    parts += [Text(), _lanes(state, tidy=tidy) if state["lanes"] else Text("nobody waits", style="dim")]
    return Group(*parts)


def _head(state: dict[str, Any]) -> Text:
    jobs, ledger, store = state["jobs"], state["ledger"], state["store"]
    latency = "" if store["latency_ms"] is None else f" {store['latency_ms']:.1f} ms"
    words = Text.assemble(("foreman ", "bold"), f"{state['version']} · store ", cell(store["status"]), f"{latency} · ")
    words.append(" ".join(f"{name} {jobs[name]}" for name in ("queued", "loading", "working", "done", "failed")))
    words.append(f" · swaps {ledger['swaps']}")
    if ledger.get("fifo_swaps") is not None:
        words.append(
            f" (in order of arrival {ledger['fifo_swaps']}; saved {span(ledger['seconds_saved'])},"
            f" paid for fairness {span(ledger['seconds_for_fairness'])})"
        )
    return words


def _models(state: dict[str, Any]) -> dict[str, str]:
    """Lane → the model's name, which says more than a digest."""
    held = [one for target in state["targets"] for one in (*target["resident"], *target["running"])]
    return {one["lane"]: one["model"] for one in (*held, *state["lanes"]) if one.get("model")}


def _targets(state: dict[str, Any], *, tidy: bool) -> RenderableType:
    rows, models = [], _models(state)
    for target in state["targets"]:
        held = ", ".join(str(one.get("model") or one["lane"]) for one in target["resident"])
        pace = sum(job["tokens_per_second"] or 0.0 for job in target["running"])
        coming = target["next"]
        rows.append(
            (
                target["name"],
                target["state"],
                f"loading {models.get(loads, loads)}" if (loads := target.get("loading")) else held or "-",
                f"{len(target['running'])}/{target['slots']}",
                f"{pace:.1f}" if pace else "",
                f"{models.get(coming['lane'], coming['lane'])} ({coming['reason']})" if coming else "",
            )
        )
    return _table(_TARGETS, rows, tidy=tidy) if rows else Text("no targets", style="red")


def _running(running: list[tuple[str, dict[str, Any]]], now: float, *, tidy: bool) -> RenderableType:
    rows = [
        (
            job["job_id"],
            job["model"],
            target,
            job["state"],
            span(now - datetime.fromisoformat(job["since"]).timestamp()) if job["since"] else "",
            job["tokens"],
            f"{job['tokens_per_second']:.1f}" if job["tokens_per_second"] else "",
            job.get("caller"),
        )
        for target, job in running[:_ROWS]
    ]
    return _with_rest(_table(_RUNNING, rows, tidy=tidy), len(running) - _ROWS, "running jobs")


def _lanes(state: dict[str, Any], *, tidy: bool) -> RenderableType:
    lanes = state["lanes"]
    rows = []
    for lane in lanes[:_ROWS]:
        recent = lane.get("recent") or {}
        rows.append(
            (
                lane["model"],
                lane["lane"],
                lane["depth"],
                span(lane["oldest_wait_seconds"]) if lane["depth"] else "",
                span(lane["bound_seconds"]),
                span(lane["eta_seconds"]),
                lane["running"],
                _milliseconds(recent.get("ttft_ms")),
                _milliseconds(recent.get("tpot_ms")),
                "paused" if lane["paused"] else "",
            )
        )
    more = max(0, len(lanes) - _ROWS) + state.get("lanes_more", {}).get("lanes", 0)
    return _with_rest(_table(_LANES, rows, tidy=tidy), more, "lanes")


def _table(columns: Sequence[str], rows: Sequence[Sequence[object]], *, tidy: bool) -> RenderableType:
    filled = [at for at in range(len(columns)) if not tidy or any(row[at] not in {None, ""} for row in rows)]
    return table([columns[at] for at in filled], [[row[at] for at in filled] for row in rows], right=_RIGHT)


def _milliseconds(spread: dict[str, float] | None) -> str:
    return "" if spread is None else f"{spread['p50']:.0f}ms"


def _with_rest(shown: RenderableType, more: int, what: str) -> RenderableType:
    return Group(shown, Text(f"and {more} more {what}", style="dim")) if more > 0 else shown
