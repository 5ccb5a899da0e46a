"""The roles a process of foreman may have; `serve` takes them as words, the house builds them."""

from __future__ import annotations

from enum import StrEnum
from typing import Final


class Role(StrEnum):
    """What a process does."""

    GATEWAY = "gateway"
    WORKER = "worker"
    BACKGROUND = "background"


ALL: Final = frozenset(Role)
