"""`foreman show JOB`: one job, what happened to it, and its answer.

The command line's entry calls me. The answer goes to stdout last, so that the lines before it can be read past.
"""

from __future__ import annotations

import json as codec
from typing import TYPE_CHECKING, Any, Final

from foreman.cli import tables
from foreman.cli.asking import AsJSON, JobId, ask, summary
from foreman.cli.console import remark, say, show_json
from foreman.client import ForemanError
from foreman.client.jobs import text_of

if TYPE_CHECKING:
    from foreman.client.jobs import Jobs

_SHOWN: Final = ("model", "endpoint", "priority", "target", "attempt", "created_at", "started_at", "finished_at")
_EVENTS: Final = ("SEQ", "TIME", "STATE", "WHY", "WORKER")
_WAITING: Final = ("position", "eta_seconds", "waiting_for", "not_before")


def show(job: JobId, *, json: AsJSON = False) -> None:
    """Show a job, its transitions and its answer."""

    async def look(jobs: Jobs) -> tuple[dict[str, Any], list[dict[str, Any]], Any]:
        found = await jobs.get(job)
        return found, [] if json else await jobs.events(job), None if json else await _result(jobs, found)

    found, events, result = ask(look)
    if json:
        show_json(found)
        return
    say(summary(found))
    facts = [
        (f"  {name.replace('_', ' ')}", found[name]) for name in (*_SHOWN, *_WAITING) if found.get(name) is not None
    ]
    if found.get("metadata"):
        facts.append(("  metadata", codec.dumps(found["metadata"], ensure_ascii=False)))
    tables.show(tables.pairs(facts))
    say()
    rows = [(event["seq"], event["time"], event["state"], event["reason"], event["worker"]) for event in events]
    tables.show(tables.table(_EVENTS, rows))
    if result is not None:
        say()
        say(text_of(result))


async def _result(jobs: Jobs, job: dict[str, Any]) -> Any:
    """Its answer; where that is kept no longer a remark, since all the rest still is."""
    try:
        return await jobs.result(job)
    except ForemanError as error:
        if error.status != 410:
            raise
        remark(str(error))
        return None
