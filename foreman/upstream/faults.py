"""What can go wrong between a worker and a model server, by whose fault it is.

The client raises me; whoever ends a job with me asks for `failure()`, the one translation into the codes of core.errors.
"""

from __future__ import annotations

import enum
from typing import Final

from foreman.core.errors import Code, Failure


class Kind(enum.Enum):
    """How a call broke."""

    REFUSED = "refused"
    """No connection: the target is down. Nothing was asked of it."""
    RESET = "reset"
    """Connected, then closed before the first byte of the answer's body: safe to ask again."""
    TRUNCATED = "truncated"
    """Cut in the middle of the answer."""
    GARBAGE = "garbage"
    """Not HTTP, or an answer past every bound."""
    STALLED = "stalled"
    """Silent for too long."""


_CODES: Final = {
    Kind.REFUSED: Code.UPSTREAM_UNREACHABLE,
    Kind.RESET: Code.UPSTREAM_UNREACHABLE,
    Kind.TRUNCATED: Code.UPSTREAM_TRUNCATED,
    Kind.GARBAGE: Code.UPSTREAM_ERROR,
    Kind.STALLED: Code.STALLED,
}


class Fault(Exception):  # noqa: N818 - a value that is handed to `Receiver.failed` first, an exception second
    """A call to a model server that broke."""

    def __init__(self, kind: Kind, message: str) -> None:
        super().__init__(message)
        self.kind = kind
        self.message = message

    def failure(self, target: str) -> Failure:
        """The same as the failure of a job on `target`, the cause kept."""
        failure = Failure(_CODES[self.kind], f"target {target}: {self.message}")
        failure.__cause__ = self
        return failure
