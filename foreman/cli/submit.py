"""`foreman submit FILE|-`: hand a job to the gateway, or many, and wait for what comes of it where that is wanted.

The command line's entry calls me. FILE is what `POST /jobs` takes, sent byte for byte; the gateway judges it. Job ids go
to stdout, one a line, remarks to stderr.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from foreman.cli.asking import AsJSON, accepted, ask, wait_and_show
from foreman.cli.console import Failed, Refusal, read_file, remark, say, show_json

if TYPE_CHECKING:
    from foreman.client.jobs import Jobs


def submit(
    file: Annotated[str, typer.Argument(metavar="FILE|-", help="The job as JSON; - reads it from stdin.")],
    *,
    wait: Annotated[bool, typer.Option("--wait", help="Wait for its end and print the answer.")] = False,
    key: Annotated[
        str | None, typer.Option("--key", help="Idempotency-Key: sent again, it is the same job, or batch.")
    ] = None,
    batch: Annotated[bool, typer.Option("--batch", help="FILE is NDJSON: a job a line.")] = False,
    json: AsJSON = False,
) -> None:
    """Queue a job, fire and forget; exit code 1 with --wait where it fails."""
    if batch and wait:
        raise Refusal("--batch goes without --wait: what is sent in bulk is waited for by webhook or `foreman jobs`")
    if key is not None and not (1 <= len(key) <= 255 and key.isascii() and key.isprintable()):
        raise Refusal("--key: use 1 to 255 visible ASCII characters")
    body = read_file(file)
    if not body.strip():
        raise Refusal(
            'nothing to submit: give {"model": "…", "messages": […]} in a file, or pipe it into `foreman submit -`'
        )

    async def one(jobs: Jobs) -> None:
        answer = await jobs.submit(body, key=key)
        if not wait:
            accepted(answer, as_json=json)
            return
        remark(f"{answer['job_id']} {answer['state']}")
        await wait_and_show(jobs, answer["job_id"], as_json=json)

    async def many(jobs: Jobs) -> None:
        lines = [line for line in body.splitlines() if line.strip()]
        refused = 0
        async for answer in jobs.batch(lines, key=key):
            refused += _told(answer, as_json=json)
        if refused:
            raise Failed(f"{refused} of {len(lines)} jobs were refused")

    ask(many if batch else one)


def _told(answer: dict[str, Any], *, as_json: bool) -> bool:
    """Tell of one line of a batch; whether it was refused."""
    error = answer.get("error")
    if as_json:
        show_json(answer)
    elif error is None:
        say(answer["job_id"])
    else:
        remark(f"refused: {error['message']} ({error['code']})")
    return error is not None
