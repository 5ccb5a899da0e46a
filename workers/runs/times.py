"""The moments of a run, and the `timings` a job shows of them (docs/api.md).

The executor notes them; I only subtract.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Times:
    """Moments in seconds of the monotonic clock (uvloop's own stands still within a turn)."""

    claimed: float
    working: float | None = None
    """The request was sent."""
    first: float | None = None
    """The first unit of the answer; comments of a stream, by which a target says that it lives, are none."""
    ended: float | None = None
    loading: float | None = None
    """Seconds it waited for its lane's load; None where the lane was resident."""

    @property
    def ran(self) -> float | None:
        """Seconds from the request to the end; None before it."""
        return None if self.working is None or self.ended is None else self.ended - self.working

    def timings(self, queued: float, now: float, tokens: int) -> dict[str, float]:
        """Milliseconds.

        Args:
            queued: seconds between submit and claim.
            now: the same clock, for a run that has not ended.
            tokens: of a streamed answer; 0 for one that came as a whole.

        Returns:
            `queued_ms`, `total_ms` (since submit); `loading_ms` where there was a load; `ttft_ms` from the sent request
            to the first byte; `tpot_ms` between two tokens from there on, up to the end mark: there the last token shows,
            the one that ends an answer. Targets count it and give it no delta (transcript 020: 13 deltas, 14 tokens).
        """
        ended = self.ended or now
        found = {"queued_ms": queued, "total_ms": queued + (ended - self.claimed)}
        if self.loading is not None:
            found["loading_ms"] = self.loading
        if self.first is not None and self.working is not None:
            found["ttft_ms"] = self.first - self.working
            if tokens > 1:
                found["tpot_ms"] = (ended - self.first) / (tokens - 1)
        return {name: round(seconds * 1000, 3) for name, seconds in found.items()}
