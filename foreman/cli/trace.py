"""`foreman trace export`: the last hours of a live foreman as a trace for `foreman simulate`.

The command line's entry calls me. The gateway makes the trace; I fetch it and put it where it is wanted.
"""

from __future__ import annotations

import gzip
from pathlib import Path  # noqa: TC003 - typer reads the annotations as it runs
from typing import TYPE_CHECKING, Annotated

import typer

from foreman.cli.asking import ask
from foreman.cli.console import Failed, check_writable, remark, say

if TYPE_CHECKING:
    from foreman.client.jobs import Jobs

app = typer.Typer(help="Write down what happened, for `foreman simulate`.", no_args_is_help=True)


@app.callback()
def _root() -> None:
    """Write down what happened, for `foreman simulate`."""


@app.command()
def export(
    file: Annotated[
        Path | None, typer.Argument(metavar="FILE", help="Where to; gzipped where it ends in .gz. Without it: stdout.")
    ] = None,
    *,
    hours: Annotated[float, typer.Option(min=0.01, max=24, help="How far back; a day is kept.")] = 24.0,
) -> None:
    """Write the jobs of the last hours as a trace: times, lanes, lengths; no content."""
    if file is not None:
        check_writable(file)

    async def fetch(jobs: Jobs) -> bytes:
        return await jobs.trace(hours)

    data = ask(fetch)
    count = max(0, data.count(b"\n") - 1)
    if file is None:
        say(data.decode().rstrip("\n"))
    else:
        try:
            file.write_bytes(gzip.compress(data) if file.suffix == ".gz" else data)
        except OSError as error:
            raise Failed(f"{file}: {error.strerror or error}") from None
    remark(f"{count} jobs of the last {hours:g} h{f': {file}' if file else ''}")
