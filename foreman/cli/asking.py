"""How the commands about jobs ask the gateway, and how they show one job.

submit, jobs, show, cancel and retry call me; chat, top and bench for what was refused alone. What the gateway refuses is
a Failed in its own words, and so is a gateway that is not there.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from foreman.cli.console import Failed, cancel_by, remark, say, settings_in_force, show_json
from foreman.cli.tables import plain
from foreman.client import ForemanError, Jobs, UnreachableError
from foreman.client.jobs import text_of
from foreman.client.overview import Overview
from foreman.core.errors import Code

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from foreman.settings import Settings

T = TypeVar("T")

AsJSON = Annotated[bool, typer.Option("--json", help="The gateway's own JSON instead of text.")]
JobId = Annotated[str, typer.Argument(metavar="JOB", help="Its id, as `foreman submit` and `foreman jobs` print it.")]


def ask(what: Callable[[Jobs], Awaitable[T]]) -> T:
    """Run `what` against the gateway of the settings.

    Raises:
        Failed: refused, not there, or Ctrl-C.
    """
    settings = settings_in_force()

    async def run() -> T:
        cancel_by(signal.SIGINT)
        try:
            async with Jobs(settings.gateway_url, settings.token) as jobs:
                return await what(jobs)
        except ForemanError as error:
            raise await refused(error, settings) from None

    try:
        return asyncio.run(run())
    except asyncio.CancelledError:
        raise Failed("interrupted") from None


async def refused(error: ForemanError, settings: Settings) -> Failed:
    """What the gateway refused, or that it is not there, in words that say what to do."""
    if isinstance(error, UnreachableError):
        return Failed(f"{error}: start one with `foreman serve`, or set FOREMAN_URL")
    hint = ": set FOREMAN_TOKEN" if error.status == 401 else ""
    if error.status == 404 and not error.code:
        hint = f": is it a foreman at {settings.gateway_url}? Set FOREMAN_URL"
    if error.code == Code.MODEL_NOT_FOUND:
        with contextlib.suppress(ForemanError):
            async with Overview(settings.gateway_url, settings.token) as pool:
                hint = f": there is {', '.join(await pool.models()) or 'no model yet'}"
    return Failed(f"{error}{f' ({error.code})' if error.code else ''}{hint}")


async def wait_and_show(jobs: Jobs, job_id: str, *, as_json: bool) -> None:
    """Wait for a job's end and print what came of it: the words of its answer, or the job object.

    Raises:
        Failed: it failed or was cancelled, or Ctrl-C: then it goes on without us.
    """
    try:
        job = await jobs.wait(job_id)
        result = await jobs.result(job) if job["state"] == "done" and not as_json else None
    except asyncio.CancelledError:
        raise Failed(
            f"{job_id} goes on: `foreman show {job_id}` looks at it, `foreman cancel {job_id}` ends it"
        ) from None
    if as_json:
        show_json(job)
    elif job["state"] == "done":
        say(text_of(result))
        remark(summary(job))
    if job["state"] != "done":
        raise Failed(summary(job))


def accepted(answer: dict[str, Any], *, as_json: bool) -> None:
    """Tell of a job that was queued: its id on stdout, for `$(…)`; when it may begin on stderr."""
    if as_json:
        show_json(answer)
        return
    say(answer["job_id"])
    eta = answer.get("eta_seconds")
    place = f", position {answer['position']}" if answer.get("position") else ""
    remark(f"{answer['state']}{place}{'' if eta is None else f', starts in about {eta:.0f} s'}")


def summary(job: dict[str, Any]) -> str:
    """One line: state, why, tokens, seconds."""
    usage, timings, error = job.get("usage") or {}, job.get("timings") or {}, job.get("error")
    parts = [f"{job['job_id']} {job['state']}" + (f": {error['message']} ({error['code']})" if error else "")]
    if usage.get("completion_tokens"):
        parts.append(f"{usage['completion_tokens']} tokens")
    parts += [
        f"{word} {timings[name] / 1000:.1f} s"
        for word, name in (("queued", "queued_ms"), ("in all", "total_ms"))
        if timings.get(name) is not None
    ]
    return plain(", ".join(parts))
