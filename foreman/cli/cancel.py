"""`foreman cancel JOB…`: end jobs, whatever they are doing.

The command line's entry calls me. A job that has ended already stays as it ended: that is no error.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from foreman.cli.asking import AsJSON, ask, summary
from foreman.cli.console import Failed, remark, say, show_json
from foreman.client import ForemanError

if TYPE_CHECKING:
    from foreman.client.jobs import Jobs


def cancel(
    jobs: Annotated[list[str], typer.Argument(metavar="JOB…", help="Their ids.")], *, json: AsJSON = False
) -> None:
    """Cancel jobs in any state."""

    async def end(gateway: Jobs) -> int:
        missed = 0
        for job_id in jobs:
            try:
                found = await gateway.cancel(job_id)
            except ForemanError as error:
                if len(jobs) == 1 or error.status != 404:
                    raise
                remark(str(error))  # the others are to end all the same
                missed += 1
                continue
            if json:
                show_json(found)
            else:
                say(summary(found))
        return missed

    if missed := ask(end):
        raise Failed(f"{missed} of {len(jobs)} jobs are not known here (any more)")
