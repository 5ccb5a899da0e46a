"""What all runs on one target share: its client, the queue, the ways to gateways, and whom to tell of what.

workers/drain/target.py lays me out once per owned target; each run of workers/runs/executor.py works on me. I do nothing myself.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from foreman.core.targets import TargetSettings
    from foreman.link.channel import Channels
    from foreman.store.queue import Queue
    from foreman.upstream.client import Client
    from foreman.upstream.faults import Fault
    from workers.loads.loader import Load
    from workers.runs.executor import Run


@dataclass(slots=True)
class RunContext:
    """What all runs on one target share."""

    target: TargetSettings
    client: Client
    queue: Queue
    channels: Channels
    keep_alive: str
    """JSON."""
    own_name: Callable[[str], str | None]
    """How the target spells a model, by its canonical name."""
    upstream_timeout: float
    window: int
    """Bytes of answer that may be on their way (`FOREMAN_SPOOL_BYTES`)."""
    max_answer: int
    """Bytes of an answer that is kept (`FOREMAN_MAX_ANSWER`)."""
    ended: Callable[[Run], None]
    """The target is free of this run; called once, before the store knows."""
    down: Callable[[Fault], None]
    """The target took no connection."""
    unwanted: Callable[[Load], None]
    """The job for which this load was begun is cancelled."""
    spawn: Callable[[Coroutine[Any, Any, Any], str], object]
    """Runs what a run doesn't wait for."""
