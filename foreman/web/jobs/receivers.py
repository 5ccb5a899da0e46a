"""Whether a webhook may go where a submitted job wants it, as far as that can be told before it is sent.

web/jobs/submission.py asks me once per job. I read the URL's text, and look its name up where the text doesn't tell, so that a
receiver on the own network is refused here, with the line to add, and not an hour later in a log. What I let pass is
checked again at the socket, each time.
"""

from __future__ import annotations

import asyncio
import ipaddress
from typing import TYPE_CHECKING, Final

import structlog

from foreman.core import destinations
from foreman.core.destinations import RefusedDestinationError
from foreman.hosts import Hosts
from foreman.protocols.job_request import wrong

if TYPE_CHECKING:
    from foreman.core.destinations import Destination, Rule

log = structlog.get_logger(__name__)

LOOK_UP: Final = 1.0
"""Seconds a name's look-up may take; one that is slower is left to the socket's check."""
REMEMBERED: Final = 30.0
"""Seconds a look-up serves: a batch asks thousands of times for one receiver."""
NAMES: Final = 1000
"""Look-ups remembered at most."""
_FIELD: Final = "state_webhook_url"


class Receivers:
    """The webhook URLs that one gateway lets in."""

    def __init__(self, rules: tuple[Rule, ...], hosts: Hosts | None = None) -> None:
        """`hosts`: others than the system's, for tests."""
        self._rules = rules
        self._hosts = hosts or Hosts()
        self._verdicts: dict[tuple[str, int], tuple[float, str | None]] = {}
        """Host and port → until when, and why it is refused."""

    async def check(self, url: str) -> None:
        """Raises Failure (422) where it may not go; the message names the field and the line to add."""
        try:
            unresolved = destinations.check(url, self._rules)
        except RefusedDestinationError as error:
            wrong(_FIELD, str(error))
        if unresolved is None:
            return
        now = asyncio.get_running_loop().time()
        place = (unresolved.host, unresolved.port)
        until, refused = self._verdicts.get(place, (0.0, None))
        if until <= now:
            refused = await self._looked_up(unresolved)
            if len(self._verdicts) >= NAMES:
                self._verdicts.clear()
            self._verdicts[place] = (now + REMEMBERED, refused)
        if refused is not None:
            wrong(_FIELD, refused)

    async def _looked_up(self, destination: Destination) -> str | None:
        """Why the name leads nowhere that is allowed; None where it does, or where nobody knows."""
        try:
            async with asyncio.timeout(LOOK_UP):
                found = await self._hosts.look_up(destination.host)
        except (OSError, UnicodeError, TimeoutError) as error:
            log.debug("webhook.name_unknown", error=repr(error))
            return None
        addresses = [ipaddress.ip_address(str(entry[4][0]).partition("%")[0]) for entry in found]
        if not addresses or any(destinations.dialable(one, destination.port, self._rules) for one in addresses):
            return None
        return destinations.refusal(destination, addresses[0])
