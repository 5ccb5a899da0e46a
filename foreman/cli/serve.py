"""`foreman serve`: the gateway, the worker and the background process in one, or the roles it is asked for.

The command line's entry calls me; the house does the work. I say where callers find us and how to try it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

import foreman
from foreman import logs
from foreman.cli.console import chat_line, curl_line, say, settings_in_force
from foreman.cli.roles import ALL, Role

if TYPE_CHECKING:
    from foreman.settings import Settings


def serve(
    role: Annotated[
        list[Role] | None, typer.Option(help="Only this role; repeatable. Roles apart need FOREMAN_REDIS_URL.")
    ] = None,
) -> None:
    """Serve: everything in one process, or the given roles."""
    from foreman.cli.house import House, live, until_told  # noqa: PLC0415 - heavy: `foreman chat` should not wait for it

    settings = settings_in_force()
    logs.configure(settings.log)

    async def announce(house: House) -> None:
        greet(settings, house.url, "MODEL")

    until_told(live(House(settings, frozenset(role) if role else ALL), announce))


def greet(settings: Settings, url: str | None, model: str) -> None:
    """Say where callers find the gateway, the page, and two lines to try it with.

    Args:
        settings: those in force.
        url: where the gateway listens; None: there is none in this process.
        model: the one that the lines ask.
    """
    if url is None:
        say(f"foreman {foreman.__version__} is up")
        return
    say(f"foreman {foreman.__version__} listens on {url}")
    say(f"  page  {url}/ui")
    say(f"  chat  {chat_line(settings, url, model)}")
    say(f"  curl  {curl_line(settings, url, model)}")
