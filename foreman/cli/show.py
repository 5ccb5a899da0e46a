"""`foreman show JOB`: one job, what happened to it, and its answer.

The command line's entry calls me. The answer goes to stdout last, so that the lines before it can be read past.
"""

from __future__ import annotations

import json as codec
from typing import TYPE_CHECKING, Any, Final

from foreman.cli.asking import AsJSON, JobId, ask, summary
from foreman.cli.console import say, show_json
from foreman.client.jobs import text_of

if TYPE_CHECKING:
    from foreman.client.jobs import Jobs

_SHOWN: Final = ("model", "endpoint", "priority", "target", "attempt", "created_at", "started_at", "finished_at")
_WAITING: Final = ("position", "eta_seconds", "waiting_for", "not_before")


def show(job: JobId, *, json: AsJSON = False) -> None:
    """Show a job, its transitions and its answer."""

    async def look(jobs: Jobs) -> tuple[dict[str, Any], list[dict[str, Any]], Any]:
        found = await jobs.get(job)
        return found, [] if json else await jobs.events(job), None if json else await jobs.result(found)

    found, events, result = ask(look)
    if json:
        show_json(found)
        return
    say(summary(found))
    for name in (*_SHOWN, *_WAITING):
        if found.get(name) is not None:
            say(f"  {name.replace('_', ' ')}: {found[name]}")
    if found.get("metadata"):
        say(f"  metadata: {codec.dumps(found['metadata'], ensure_ascii=False)}")
    for event in events:
        say(f"  {event['time']}  {event['state']}: {event['reason']}")
    if result is not None:
        say()
        say(text_of(result))
