"""`foreman retry JOB`: a new job like one that has ended.

The command line's entry calls me. The new job's id goes to stdout; the old one stays as it is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from foreman.cli.asking import AsJSON, JobId, accepted, ask, wait_and_show
from foreman.cli.console import remark

if TYPE_CHECKING:
    from foreman.client.jobs import Jobs


def retry(
    job: JobId,
    *,
    wait: Annotated[bool, typer.Option("--wait", help="Wait for its end and print the answer.")] = False,
    json: AsJSON = False,
) -> None:
    """Run a job again that has ended, as a new one."""

    async def again(jobs: Jobs) -> None:
        answer = await jobs.retry(job)
        if not wait:
            accepted(answer, as_json=json)
            return
        remark(f"{answer['job_id']} {answer['state']}")
        await wait_and_show(jobs, answer["job_id"], as_json=json)

    ask(again)
