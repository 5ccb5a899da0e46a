"""`foreman simulate`: what the scheduler would have made of a trace, beside what other policies would.

The command line's entry calls me. I read files, have foreman.simulate run them, and print; no gateway is asked.
"""

from __future__ import annotations

import gzip
import json
import shutil
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from foreman.cli.console import Failed, Refusal, check_writable, read_file, remark, say, show_json
from foreman.cli.tables import plain
from foreman.core.fairness import Policy
from foreman.settings import due_after as read_due_after
from foreman.simulate.report import Report, log
from foreman.simulate.run import FOREMAN, POLICIES
from foreman.simulate.run import simulate as run
from foreman.simulate.timeline import timeline
from foreman.simulate.trace import Trace, TraceError, read
from foreman.simulate.workloads import WORKLOADS, workload

if TYPE_CHECKING:
    from foreman.simulate.world import World

_GZIP = b"\x1f\x8b"


def simulate(
    traces: Annotated[
        list[str] | None, typer.Argument(metavar="TRACE…", help="Files of JSON lines, gzipped or not; - is stdin.")
    ] = None,
    *,
    policy: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help=f"{', '.join(POLICIES)}, or all; may be repeated.")
    ] = None,
    workload: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help=f"Make a trace: {', '.join(WORKLOADS)}, or all.")
    ] = None,
    due_after: Annotated[
        str, typer.Option(metavar="CLASS=SPAN,…", help="As FOREMAN_DUE_AFTER; a class left out keeps its default.")
    ] = "",
    swap_budget: Annotated[float, typer.Option(help="As FOREMAN_SWAP_BUDGET.")] = 0.2,
    seed: Annotated[int, typer.Option(help="For --workload; a trace holds its own chances.")] = 1,
    known_estimates: Annotated[
        bool, typer.Option("--known-estimates", help="Loads and mean runs are known, not learned.")
    ] = False,
    log_file: Annotated[
        Path | None,
        typer.Option("--log", metavar="FILE", help="All loads and jobs, as JSON; for one trace and policy."),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="A JSON list instead of text.")] = False,
) -> None:
    """Replay traces through the scheduler, and through other policies."""
    try:
        waits, knobs = read_due_after(due_after), Policy(swap_budget=swap_budget)
    except ValueError as error:
        raise Refusal(str(error)) from None
    names, files = _policies(policy or [], traces or [])
    found = [*(_read(file) for file in files), *_made(workload or [], seed)]
    if not found:
        raise Refusal("name a trace, or make one: foreman simulate --workload two_agents")
    if log_file is not None and (len(found) != 1 or len(names) != 1):
        raise Refusal("--log holds one trace under one policy")
    if log_file is not None:
        check_writable(log_file)
    reports = []
    for trace in found:
        for name in names:
            world = run(trace, name, max_wait=waits, knobs=knobs, known=known_estimates)
            reports.append(Report.of(world, name))
            if log_file is not None:
                _write(log_file, world, knobs)
            if not json:
                _show(reports[-1], world)
    if json:
        show_json([report.plain() for report in reports])


def _policies(named: list[str], traces: list[str]) -> tuple[list[str], list[str]]:
    """The policies, and the arguments that are files: `--policy fifo drain` names two policies."""
    names = [name for given in named for name in given.split(",") if name]
    files = []
    for given in traces:
        if names and given in POLICIES and not Path(given).exists():
            names.append(given)
        else:
            files.append(given)
    if "all" in names:
        names = list(POLICIES)
    for name in names:
        if name not in POLICIES:
            raise Refusal(f"--policy {name}: use {', '.join(POLICIES)} or all")
    return list(dict.fromkeys(names)) or [FOREMAN], files


def _made(named: list[str], seed: int) -> list[Trace]:
    names = [name for given in named for name in given.split(",") if name]
    if "all" in names:
        names = list(WORKLOADS)
    for name in names:
        if name not in WORKLOADS:
            raise Refusal(f"--workload {name}: use {', '.join(WORKLOADS)} or all")
    return [workload(name, seed) for name in names]


def _read(name: str) -> Trace:
    data = read_file(name)
    try:
        text = (gzip.decompress(data) if data.startswith(_GZIP) else data).decode("utf-8-sig")
    except (OSError, EOFError, UnicodeDecodeError, zlib.error):
        raise Failed(f"{name}: neither JSON lines in UTF-8 nor gzip of such") from None
    try:
        return read(text.split("\n"), name)
    except TraceError as error:
        raise Failed(str(error)) from None


def _write(file: Path, world: World, knobs: Policy) -> None:
    try:
        file.write_text(json.dumps(log(world, knobs)) + "\n")
    except OSError as error:
        raise Failed(f"{file}: {error.strerror or error}") from None
    remark(f"log: {file}")


def _show(report: Report, world: World) -> None:
    width = max(40, min(120, shutil.get_terminal_size((112, 24)).columns - 14))
    for line in [*report.text(), *timeline(world, width), ""]:
        say(plain(line))
