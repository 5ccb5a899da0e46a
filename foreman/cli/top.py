"""`foreman top`: what is loaded, what runs and who waits, live in a terminal.

The command line's entry calls me. I ask the gateway each second and draw what it says; in a pipe, or with `--once`, I do
it once. While the gateway is away I show what was seen last, and say how old it is.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
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
    from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence

    from rich.console import RenderableType

    from foreman.settings import Settings

_LANES: Final = ("QUEUED", "OLDEST", "BOUND", "ETA", "RUNNING", "TTFT", "TPOT", "")
_TARGETS: Final = ("TARGET", "STATE", "LOADED", "RUNNING", "TOK/S", "NEXT")
_RUNNING: Final = ("JOB", "MODEL", "TARGET", "STATE", "FOR", "TOKENS", "TOK/S", "CALLER")
_RIGHT: Final = ("QUEUED", "OLDEST", "BOUND", "ETA", "RUNNING", "TTFT", "TPOT", "TOK/S", "FOR", "TOKENS")
_ROWS: Final = 30
"""Lanes and running jobs shown at most, each; the rest is counted."""
_REASONS: Final = 8
"""Lines of a screen for each reason why the pool is not well; the rest is counted."""
_AROUND: Final = 12
"""Lines of a screen around the rows of its three tables."""
_ENDS: Final = ("SIGINT", "SIGTERM", "SIGHUP")
"""Signals that end it in good order: without that a terminal stays on a screen of ours, without a cursor."""


def top(
    *,
    once: Annotated[bool, typer.Option("--once", help="Show it once and end.")] = False,
    every: Annotated[float, typer.Option(min=0.2, max=60.0, help="Seconds between two looks.")] = 1.0,
    json: AsJSON = False,
) -> None:
    """Show the pool live: targets, running jobs, lanes. `q` leaves."""
    settings = settings_in_force()
    live = not once and not json and sys.stdout.isatty() and not console().is_dumb_terminal
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
    cancel_by(*(getattr(signal, name) for name in _ENDS if hasattr(signal, name)))
    task = asyncio.current_task()
    assert task is not None
    async with Overview(settings.gateway_url, settings.token) as pool:
        state, seen_at, away = await pool.state(), time.monotonic(), ""
        out = console()
        with Live(console=out, screen=True, auto_refresh=False) as screen, _keys({b"q": task.cancel}):
            while True:
                screen.update(drawn(state, away, height=out.height), refresh=True)
                await asyncio.sleep(every)
                away = ""
                try:
                    state, seen_at = await pool.state(), time.monotonic()
                except ForemanError as error:
                    away = f"{error} · this was {span(time.monotonic() - seen_at)} ago"


@contextlib.contextmanager
def _keys(deeds: Mapping[bytes, Callable[[], object]]) -> Iterator[None]:
    """Do what belongs to a key when it is pressed; nothing where stdin is no terminal. The terminal is left as it was."""
    try:
        import termios  # noqa: PLC0415 - not on Windows
        import tty  # noqa: PLC0415 - as above
    except ImportError:
        yield
        return
    if not sys.stdin.isatty():
        yield
        return
    loop, number = asyncio.get_running_loop(), sys.stdin.fileno()
    before = termios.tcgetattr(number)

    def read() -> None:
        try:
            pressed = os.read(number, 1)
        except OSError:
            pressed = b""
        if not pressed:  # nobody types there any more
            loop.remove_reader(number)
        elif pressed in deeds:
            deeds[pressed]()

    tty.setcbreak(number)
    loop.add_reader(number, read)
    try:
        yield
    finally:
        loop.remove_reader(number)
        termios.tcsetattr(number, termios.TCSADRAIN, before)


def drawn(state: dict[str, Any], away: str = "", *, height: int | None = None) -> RenderableType:
    """The whole picture of a snapshot.

    Args:
        state: as `/ops/state` gives it.
        away: why it is old.
        height: lines of the screen: each table gets a share of them, and loses the columns that are empty. None: a pipe,
            which gets all, each in its place.
    """
    tidy = height is not None
    now = datetime.fromisoformat(state["now"]).timestamp()
    reasons = [reason for reason in (away, *state.get("reasons", ())) if reason]
    shown = len(reasons) if height is None else max(1, height // _REASONS)
    rows = _ROWS if height is None else min(_ROWS, max(2, (height - min(len(reasons), shown) - _AROUND) // 3))
    parts: list[RenderableType] = [_head(state)]
    parts += [Text(f"! {plain(reason)}", style="red", no_wrap=tidy, overflow="ellipsis") for reason in reasons[:shown]]
    if len(reasons) > shown:
        parts.append(Text(f"! and {len(reasons) - shown} more: foreman doctor tells them all", style="red"))
    parts += [Text(), _targets(state, rows, tidy=tidy)]
    running = [(target["name"], job) for target in state["targets"] for job in target["running"]]
    if running:
        parts += [Text(), _running(running, now, rows, tidy=tidy)]
    parts += [Text(), _lanes(state, rows, tidy=tidy) if state["lanes"] else Text("nobody waits", style="dim")]
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


def _targets(state: dict[str, Any], most: int, *, tidy: bool) -> RenderableType:
    rows, models = [], _models(state)
    targets = state["targets"]
    if tidy and len(targets) > most:  # those that are not well must not be the ones left out
        targets = sorted(targets, key=lambda target: target["state"] == "up")
    for target in targets[:most] if tidy else targets:
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
    if not rows:
        return Text("no targets", style="red")
    return _with_rest(_table(_TARGETS, rows, tidy=tidy), len(targets) - len(rows), "targets")


def _running(running: list[tuple[str, dict[str, Any]]], now: float, most: int, *, tidy: bool) -> RenderableType:
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
        for target, job in running[:most]
    ]
    return _with_rest(_table(_RUNNING, rows, tidy=tidy), len(running) - most, "running jobs")


def _lanes(state: dict[str, Any], most: int, *, tidy: bool) -> RenderableType:
    lanes = state["lanes"]
    rows = []
    for lane in lanes[:most]:
        recent = lane.get("recent") or {}
        rows.append(
            (
                lane["model"],
                lane["lane"].partition("?")[2] if tidy else lane["lane"],
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
    more = max(0, len(lanes) - most) + state.get("lanes_more", {}).get("lanes", 0)
    return _with_rest(_table(("MODEL", "OPTIONS" if tidy else "LANE", *_LANES), rows, tidy=tidy), more, "lanes")


def _table(columns: Sequence[str], rows: Sequence[Sequence[object]], *, tidy: bool) -> RenderableType:
    filled = [at for at in range(len(columns)) if not tidy or any(row[at] not in {None, ""} for row in rows)]
    return table([columns[at] for at in filled], [[row[at] for at in filled] for row in rows], right=_RIGHT)


def _milliseconds(spread: dict[str, float] | None) -> str:
    return "" if spread is None else f"{spread['p50']:.0f}ms"


def _with_rest(shown: RenderableType, more: int, what: str) -> RenderableType:
    return Group(shown, Text(f"and {more} more {what}", style="dim")) if more > 0 else shown
