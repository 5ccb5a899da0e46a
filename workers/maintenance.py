"""Housekeeping that nobody waits for, run by the background worker's clock.

arq calls me with its context; I ask the queue's own idempotent verbs. Nothing here is needed for a promise: retention is
TTLs and trimming inside the scripts (docs/adr/0008), so a background worker that is down costs tidiness and no job.
"""

from __future__ import annotations

from typing import Any, Final

import structlog

from foreman.store.errors import StoreUnavailableError
from workers.deliveries.webhooks import COURIER

log = structlog.get_logger(__name__)

HEARTBEAT: Final = 2
"""Seconds between two signs of life in the store."""
LOOK: Final = 5
"""Seconds between two looks for deliveries that a broken receiver has outlasted; a divisor of 60."""


async def sweep(context: dict[Any, Any]) -> int:
    """Each minute: bring back what the dead left, also where every gateway and worker is gone. The jobs it moved."""
    try:
        moved = await context["queue"].recover()
    except StoreUnavailableError:
        return 0
    if moved:
        log.info("background.recovered", jobs=len(moved))
    return len(moved)


async def sweep_deliveries(context: dict[Any, Any]) -> int:
    """Each few seconds: have those tried for the last time that their receivers have put off for too long. How many."""
    try:
        sent = await context[COURIER].last_attempts()
    except StoreUnavailableError:
        return 0
    if sent:
        log.info("webhook.last_attempts", deliveries=len(sent))
    return len(sent)


async def roll_up(context: dict[Any, Any]) -> int:
    """Each hour: fold the counts of hours that are over for long into those of their days, and count the payload anew.

    Returns how many hours were folded.
    """
    try:
        folded: int = await context["tallies"].roll_up()
        wrong = await context["answers"].recount()
    except StoreUnavailableError:
        return 0
    if wrong:
        log.warning("store.miscounted", bytes=wrong)
    return folded
