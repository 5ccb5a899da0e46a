"""`foreman jobs`: the newest jobs of the gateway, a line each, and by filters.

The command line's entry calls me. I show a page; its cursor, on stderr, leads to the next.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from foreman.cli.asking import AsJSON, ask
from foreman.cli.console import remark, show_json
from foreman.cli.tables import show, span, table
from foreman.core.jobs import State

if TYPE_CHECKING:
    from foreman.client.jobs import Jobs

_COLUMNS: Final = ("JOB", "STATE", "MODEL", "PRIORITY", "AGE", "ERROR")


def jobs(
    *,
    state: Annotated[
        str | None, typer.Option(help="queued, loading, working, done, failed, cancelled; several by commas.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="Only jobs of this model.")] = None,
    endpoint: Annotated[str | None, typer.Option(help="Only jobs of this path, such as /api/chat.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="How many.")] = 20,
    cursor: Annotated[str | None, typer.Option(help="Where the page before ended.")] = None,
    json: AsJSON = False,
) -> None:
    """List jobs, newest first."""
    if state is not None and not set(state.split(",")) <= set(State):
        raise typer.BadParameter(f"use one or more of {', '.join(State)}, joined by commas", param_hint="--state")

    async def page(asked: Jobs) -> dict[str, Any]:
        return await asked.page(state=state, model=model, endpoint=endpoint, limit=limit, cursor=cursor)

    found = ask(page)
    if json:
        show_json(found)
        return
    now = datetime.now(UTC)
    show(table(_COLUMNS, [_row(job, now) for job in found["jobs"]], right=("AGE",)))
    if found["next_cursor"]:
        remark(f"more: --cursor {found['next_cursor']}")


def _row(job: dict[str, Any], now: datetime) -> tuple[str, ...]:
    age = (now - datetime.fromisoformat(job["created_at"])).total_seconds()
    error = job["error"]["code"] if job["error"] else ""
    return job["job_id"], job["state"], job["model"], job["priority"], span(age), error
