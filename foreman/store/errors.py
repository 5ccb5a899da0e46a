"""What can go wrong between us and the store, named by whose fault it is.

The store raises me, everybody above catches me. Connection trouble of any kind is `StoreUnavailableError`, which is a
Failure and so crosses the HTTP border by itself; a lost right is `FencedError`; a server we refuse is `StoreRefusedError`.
"""

from __future__ import annotations

from foreman.core.errors import Code, Failure


class StoreUnavailableError(Failure):
    """The store did not answer. Whether the command took effect is unknown: all verbs are safe to send again."""

    def __init__(self, message: str) -> None:
        super().__init__(Code.STORE_UNAVAILABLE, message, retry_after=1.0)


class FencedError(Exception):
    """The worker's right (to a target) has passed to somebody else: stop acting on it and ask for it anew."""


class StoreRefusedError(Exception):
    """The server answers but is none we can use (a Cluster, too old, a second owner); the message says what to do."""


class ScriptError(Exception):
    """The server refused a command for what it says: a fault of ours, never of the network."""
