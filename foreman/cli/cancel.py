"""`foreman cancel JOB…`: end jobs, whatever they are doing.

The command line's entry calls me. A job that has ended already stays as it ended: that is no error.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from foreman.cli.asking import AsJSON, ask, summary
from foreman.cli.console import say, show_json

if TYPE_CHECKING:
    from foreman.client.jobs import Jobs


def cancel(
    jobs: Annotated[list[str], typer.Argument(metavar="JOB…", help="Their ids.")], *, json: AsJSON = False
) -> None:
    """Cancel jobs in any state."""

    async def end(gateway: Jobs) -> list[dict[str, Any]]:
        return [await gateway.cancel(job_id) for job_id in jobs]

    for found in ask(end):
        if json:
            show_json(found)
        else:
            say(summary(found))
