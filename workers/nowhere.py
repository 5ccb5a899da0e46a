"""The outlet of a job whose answer nobody waits for on a link.

The executor writes into me where a job has no gateway (the async surface); the answer's store takes my place there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from foreman.core.errors import Failure
    from foreman.link.channel import Head


class Nowhere:
    """Takes everything, keeps nothing. Implements `Outlet`."""

    def working(self) -> None:
        """Nobody listens."""

    def head(self, head: Head) -> None:
        """Nobody listens."""

    def data(self, unit: bytes) -> None:
        """Nobody listens."""

    def end(self) -> None:
        """Nobody listens."""

    def error(self, failure: Failure) -> None:
        """Nobody listens."""

    def back(self) -> None:
        """Nobody listens."""
