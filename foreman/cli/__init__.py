"""Top floor: the command line. One command per file; I name them and turn their ends into exit codes.

0 ok, 1 it did not work out, 2 wrong usage or a refused start (docs/configuration.md).
"""

from __future__ import annotations

import errno
import os
import sys
from typing import Annotated, Final

import typer

import foreman
from foreman.cli.bench import bench
from foreman.cli.cancel import cancel
from foreman.cli.chat import chat
from foreman.cli.console import Failed, Refusal, print_anything, remark, say
from foreman.cli.demo import demo
from foreman.cli.doctor import doctor
from foreman.cli.jobs import jobs
from foreman.cli.retry import retry
from foreman.cli.run import run
from foreman.cli.serve import serve
from foreman.cli.show import show
from foreman.cli.simulate import simulate
from foreman.cli.submit import submit
from foreman.cli.top import top
from foreman.cli.trace import app as trace
from foreman.cli.webhooks import app as webhooks

_UNWRITTEN: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO})
"""What a write to a full or broken place says. A pipe whose reader has gone is click's business."""

app = typer.Typer(
    name="foreman",
    help="An always-on job-queue gateway in front of LLM servers.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def _version(*, wanted: bool) -> None:
    if wanted:
        say(foreman.__version__)
        raise typer.Exit


@app.callback()
def _root(
    *,
    version: Annotated[
        bool, typer.Option("--version", callback=lambda value: _version(wanted=value), is_eager=True, help="Print it.")
    ] = False,
) -> None:
    """An always-on job-queue gateway in front of LLM servers."""


for command in (serve, demo, run, chat, submit, jobs, show, cancel, retry, top, doctor, bench, simulate):
    app.command()(command)
app.add_typer(trace, name="trace")
app.add_typer(webhooks, name="webhooks")


def main() -> None:
    """The `foreman` command."""
    print_anything()
    try:
        app()
    except Refusal as refusal:
        remark(f"foreman: {refusal}")
        sys.exit(2)
    except Failed as failed:
        remark(f"foreman: {failed}")
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(1)
    except OSError as error:
        if error.errno not in _UNWRITTEN:
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what is left in the buffer has nowhere to go at the exit
        remark(f"foreman: the output can't be written: {error.strerror}")
        sys.exit(1)
