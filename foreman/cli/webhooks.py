"""`foreman webhooks listen` and `verify`: a receiver to try webhooks with, and a check of one that was kept.

The command line's entry calls me. The listener verifies by foreman.protocols.webhook, prints a line per event, and
answers what it is told to, so that retries can be watched; it belongs to nobody's production.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import shlex
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path  # noqa: TC003 - typer reads the annotations as it runs
from typing import TYPE_CHECKING, Annotated, Final

import typer

from foreman.cli.console import Failed, Refusal, read_file, remark, say, settings_in_force, show_json
from foreman.cli.tables import plain
from foreman.core import destinations
from foreman.protocols import webhook

if TYPE_CHECKING:
    from collections.abc import Mapping

    from aiohttp import web

    from foreman.settings import Settings

PORT: Final = 9009
LISTENER: Final = f"localhost:{PORT},127.0.0.1:{PORT},[::1]:{PORT}"
"""What `foreman run` and `foreman demo` allow beside FOREMAN_WEBHOOK_ALLOW."""
_LARGEST: Final = 8 << 20
"""Bytes of a body that the listener takes: a job's object with its result twice inline stays far below."""

app = typer.Typer(help="Try and check webhooks.", no_args_is_help=True)


class Answer(StrEnum):
    """What the listener answers."""

    OK = "200"
    BROKEN = "500"
    GONE = "410"
    BUSY = "429"
    REDIRECT = "302"
    SLOW = "slow"
    RESET = "reset"


def with_listener(settings: Settings) -> Settings:
    """The same settings, with webhooks to the listener allowed."""
    return settings.model_copy(update={"webhook_allow": settings.webhook_allow + destinations.parse(LISTENER)})


@dataclass
class Listener:
    """What `listen` was told, and what it has seen."""

    secrets: tuple[str, ...]
    answer: Answer
    fails: int | None
    """How many requests get `answer` before all others get 200; None: all get it."""
    as_json: bool
    wanted: int | None
    """Requests after which it ends."""
    keep: Path | None = None
    """Where bodies are kept, each in a file that bears its webhook-id."""
    requests: int = 0
    newest: dict[str, int] = field(default_factory=dict)
    """Job → the highest `seq` seen."""
    over: asyncio.Event = field(default_factory=asyncio.Event)

    async def receive(self, request: web.Request) -> web.StreamResponse:
        """One webhook."""
        from aiohttp import web  # noqa: PLC0415 - heavy: `foreman chat` should not wait for it

        body = await request.read()
        self.requests += 1
        answer = self.answer if self.fails is None or self.requests <= self.fails else Answer.OK
        self._print(dict(request.headers), body, answer)
        if self.keep is not None:
            _keep(self.keep, request.headers, body)
        if self.wanted is not None and self.requests >= self.wanted:
            self.over.set()
        if answer is Answer.SLOW:
            await asyncio.sleep(60)
        if answer is Answer.RESET and request.transport is not None:
            request.transport.abort()
        headers = {Answer.BUSY: {"Retry-After": "5"}, Answer.REDIRECT: {"Location": "/elsewhere"}}.get(answer, {})
        return web.Response(status=int(answer) if answer.isdecimal() else 200, headers=headers)

    def _print(self, headers: dict[str, str], body: bytes, answer: Answer) -> None:
        signed = _signed(self.secrets, headers, body)
        try:
            event = json.loads(body)
            job, seq, kind = str(event["job_id"]), int(event["seq"]), str(event["type"])
        except (ValueError, KeyError, TypeError):
            event, job, seq, kind = None, "", 0, "no job's event"
        known = seq <= self.newest.get(job, 0)
        self.newest[job] = max(seq, self.newest.get(job, 0))
        if self.as_json:
            show_json({"headers": headers, "signature": signed, "known": known, "answer": answer.value, "event": event})
        else:
            note = " (seen before: ignore it)" if known and job else ""
            line = f"{kind:14} {job} seq={seq} {signed}, answered {answer.value}{note}"
            say(f"{time.strftime('%H:%M:%S')} {plain(line)}")


def _keep(folder: Path, headers: Mapping[str, str], body: bytes) -> None:
    """Write a body down, and say how it is verified from there."""
    name = "".join(char for char in headers.get(webhook.ID, "") if char.isalnum() or char == "_")[:100] or "unnamed"
    file = folder / f"{name}.json"
    file.write_bytes(body)
    named = (f"{one}: {headers[one]}" for one in (webhook.ID, webhook.TIMESTAMP, webhook.SIGNATURE) if one in headers)
    remark(
        f"kept: foreman webhooks verify {shlex.quote(str(file))} " + " ".join(f"-H {shlex.quote(one)}" for one in named)
    )


def _signed(secrets: tuple[str, ...], headers: Mapping[str, str], body: bytes) -> str:
    if not secrets:
        return "not verified: no secret"
    if not any(name.lower() == webhook.SIGNATURE for name in headers):
        return "NOT VERIFIED: not signed (foreman signs where FOREMAN_WEBHOOK_SECRET is set)"
    try:
        webhook.verify(secrets, headers, body, time.time())
    except webhook.SignatureError as error:
        return f"NOT VERIFIED: {error}"
    return "verified"


@app.command()
def listen(
    *,
    port: Annotated[int, typer.Option(help="On localhost; 0 for any free one.", min=0, max=65535)] = PORT,
    secret: Annotated[str | None, typer.Option(help="Else FOREMAN_WEBHOOK_SECRET.")] = None,
    answer: Annotated[Answer, typer.Option(help="What to answer.")] = Answer.OK,
    fails: Annotated[int | None, typer.Option(help="Answer so only this often, then 200.", min=0)] = None,
    count: Annotated[int | None, typer.Option(help="End after so many requests.", min=1)] = None,
    keep: Annotated[
        Path | None, typer.Option(help="A folder to keep the bodies in, for `verify`.", exists=True, file_okay=False)
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One line of JSON per request.")] = False,
) -> None:
    """Receive webhooks on this machine: verify, print, and answer what you say."""
    listener = Listener(_secrets(secret), answer, fails, as_json, count, keep)
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_listen(listener, port))


async def _listen(listener: Listener, port: int) -> None:
    from aiohttp import web  # noqa: PLC0415 - as above

    served = web.Application(client_max_size=_LARGEST)
    served.router.add_post("/{path:.*}", listener.receive)
    runner = web.AppRunner(served, access_log=None, shutdown_timeout=1)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "localhost" if port else "127.0.0.1", port)
        await site.start()
        bound = runner.addresses[0][1]
        remark(f'listening: "state_webhook_url": "http://localhost:{bound}/"')
        if bound != PORT:
            remark(f"foreman must allow it: FOREMAN_WEBHOOK_ALLOW=localhost:{bound}")
        await listener.over.wait()
    except OSError as error:
        raise Refusal(f"can't listen on port {port} ({error.strerror or error}): choose another with --port") from None
    finally:
        await runner.cleanup()


@app.command()
def verify(
    body: Annotated[
        str, typer.Argument(metavar="FILE|-", help="The file with the body, byte for byte; - for standard input.")
    ],
    header: Annotated[list[str], typer.Option("--header", "-H", help="'name: value', as it came; repeatable.")],
    *,
    secret: Annotated[str | None, typer.Option(help="Else FOREMAN_WEBHOOK_SECRET.")] = None,
    any_age: Annotated[bool, typer.Option("--any-age", help="Don't mind a timestamp of long ago.")] = False,
) -> None:
    """Check the signature of a webhook that was kept. Exit code 0: it is ours; 1: it is not."""
    secrets = _secrets(secret)
    if not secrets:
        raise Refusal("there is no secret: give --secret, or set FOREMAN_WEBHOOK_SECRET")
    headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in header)}
    content = read_file(body)
    stamp = headers.get(webhook.TIMESTAMP, "")
    now = float(stamp) if any_age and stamp.isdecimal() else time.time()
    try:
        webhook.verify(secrets, headers, content, now)
    except webhook.SignatureError as error:
        raise Failed(f"not verified: {error}") from None
    try:
        moment = datetime.fromtimestamp(int(stamp), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    except (OverflowError, OSError, ValueError):  # no year of ours
        moment = stamp
    say(f"verified: {plain(headers[webhook.ID])}, sent at {moment}")


def _secrets(given: str | None) -> tuple[str, ...]:
    try:
        return settings_in_force().webhook_secret if given is None else webhook.secrets(given)
    except ValueError as error:
        raise Refusal(f"--secret: {error}") from None
