"""What a fake Ollama has seen and done, for tests to count and to wait for.

Every other part of the fake writes here and nobody reads here to decide anything. Times are the loop's clock, seconds.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from .bell import Bell

if TYPE_CHECKING:
    from collections.abc import Callable

KEPT: Final = 4096
"""Requests, loads and unloads remembered, each; counters go on."""

BODIES_KEPT: Final = 256 << 20
"""Bytes of request bodies remembered, in sum."""

_TICK: Final = 0.01
"""Seconds between two looks at what fires no event (open sockets)."""


@dataclass(slots=True)
class Seen:
    """One request, as it came."""

    number: int
    """1, 2, 3 … in order of arrival."""
    at: float
    """Loop time of its head, s."""
    method: str
    path: str
    """With its query, as sent."""
    headers: list[tuple[bytes, bytes]]
    """As sent: spelling and order kept."""
    body: bytes = b""
    model: str = ""
    """The name it asked for, as sent."""
    phase: str = "new"
    """new, queued, loading, waiting (for a slot), prefill, answering, then done, cancelled or cut."""
    status: int | None = None
    lines: int = 0
    """Lines or events of the answer written so far."""
    left_in: str = ""
    """The phase in which its caller left, for the cancelled."""
    phase_at: dict[str, float] = field(default_factory=dict)
    """Loop time at which it came into each of its phases, s."""

    def header(self, name: str) -> str | None:
        """The first header of that name, upper or lower case."""
        wanted = name.lower().encode()
        return next((value.decode("latin-1") for key, value in self.headers if key.lower() == wanted), None)


@dataclass(frozen=True, slots=True)
class Load:
    """One load of a runner, or one unload."""

    at: float
    """Loop time of its start, s."""
    model: str
    """Short name with tag."""
    digest: str
    options: dict[str, Any]
    """Runner options that differ from the default."""


@dataclass(slots=True)
class Ledger:
    """Counters and records of one server."""

    requests: deque[Seen] = field(default_factory=lambda: deque(maxlen=KEPT))
    loads: deque[Load] = field(default_factory=lambda: deque(maxlen=KEPT))
    """Begun, in order."""
    unloads: deque[Load] = field(default_factory=lambda: deque(maxlen=KEPT))
    """Ended, in order."""
    load_count: int = 0
    loads_stopped: int = 0
    """Loads whose caller left before they were through."""
    request_count: int = 0
    tokens: int = 0
    """Tokens generated, thinking included."""
    body_bytes: int = 0
    """Bytes of the bodies that are kept."""
    cancels: int = 0
    """Inference requests whose caller left before the answer's end."""
    _bell: Bell = field(default_factory=Bell)

    def note(self) -> None:
        """Something has changed: wake those who wait."""
        self._bell.ring()

    def saw(self, seen: Seen) -> Seen:
        """Enter a request."""
        self.request_count += 1
        seen.number = self.request_count
        if len(self.requests) == KEPT:
            self.body_bytes -= len(self.requests[0].body)
        self.requests.append(seen)
        self.note()
        return seen

    def keep(self, seen: Seen, body: bytes) -> None:
        """Enter its body; past BODIES_KEPT in sum the oldest are forgotten."""
        seen.body = body
        self.body_bytes += len(body)
        for old in self.requests:
            if self.body_bytes <= BODIES_KEPT or old is seen:
                return
            self.body_bytes -= len(old.body)
            old.body = b""

    def phase(self, seen: Seen, phase: str) -> None:
        """Move a request on."""
        seen.phase = phase
        seen.phase_at[phase] = asyncio.get_running_loop().time()
        self.note()

    def left(self, seen: Seen) -> None:
        """Its caller has closed the connection."""
        seen.left_in = seen.phase
        self.cancels += 1
        self.phase(seen, "cancelled")

    def loading(self, load: Load) -> None:
        """A load begins."""
        self.load_count += 1
        self.loads.append(load)
        self.note()

    def unloaded(self, unload: Load) -> None:
        """A runner is gone."""
        self.unloads.append(unload)
        self.note()

    def reset(self) -> None:
        """Forget all that was counted and recorded."""
        for kept in (self.requests, self.loads, self.unloads):
            kept.clear()
        self.load_count = self.loads_stopped = self.request_count = 0
        self.tokens = self.cancels = self.body_bytes = 0

    async def until(self, what: Callable[[], Any], timeout: float) -> Any:
        """Wait until `what()` is true and return it; it is asked at every change and each 10 ms.

        Raises:
            TimeoutError: it did not become true in `timeout` seconds.
        """
        async with asyncio.timeout(timeout):
            while not (result := what()):
                try:
                    await asyncio.wait_for(self._bell.wait(), _TICK)
                except TimeoutError:
                    continue
        return result
