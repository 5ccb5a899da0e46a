"""`foreman doctor`: is everything as it should be, and if not, what to do. Works beside a running foreman.

The command line's entry calls me; cli/checkup.py looks. Exit code 1 when something is a problem, 0 otherwise.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
from typing import TYPE_CHECKING, Annotated

import typer

from foreman import logs
from foreman.cli.console import say, show_json
from foreman.settings import SettingsError, load, unknown_variables

if TYPE_CHECKING:
    from foreman.cli.checkup import Finding


def doctor(*, json: Annotated[bool, typer.Option("--json", help="The findings as JSON.")] = False) -> None:
    """Check settings, gateway, store, links and targets, and say what to do."""
    found = _look()
    if json:
        show_json({"findings": [dataclasses.asdict(finding) for finding in found]})
    else:
        for finding in found:
            say(f"{finding.level.value:8} {finding.subject}: {finding.message}")
            if finding.advice:
                say(f"{'':8} → {finding.advice}")
    if any(finding.level == "problem" for finding in found):
        raise typer.Exit(1)


def _look() -> list[Finding]:
    from foreman.cli.checkup import Finding, Level, examine, in_container  # noqa: PLC0415 - heavy: not for `foreman chat`

    logs.configure(level=logging.CRITICAL)  # what goes wrong on the way is a finding, not an event
    docs = "docs/configuration.md lists the settings"
    found = [Finding(Level.WARNING, "settings", sentence, docs) for sentence in unknown_variables()]
    try:
        settings = load()
    except SettingsError as error:
        sentence, _, advice = str(error).partition(": ")
        return [*found, Finding(Level.PROBLEM, "settings", sentence, advice or docs)]
    return [*found, *asyncio.run(examine(settings, container=in_container()))]
