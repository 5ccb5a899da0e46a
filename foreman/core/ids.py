"""Names for jobs, gateways and workers: ULIDs, which sort by the moment they were made.

Gateways and workers call me at start and per job; I turn a moment and random bits into 26 characters. I own neither a
clock nor a source of randomness: both are passed in.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

ALPHABET: Final = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
"""Crockford's base 32: no I, L, O, U (github.com/ulid/spec)."""
LENGTH: Final = 26
RANDOM_BITS: Final = 80
_RANDOM_LIMIT: Final = 1 << RANDOM_BITS
_TIME_LIMIT: Final = 1 << 48


def ulid(now_ms: int, randomness: int) -> str:
    """The ULID of a moment.

    Args:
        now_ms: Milliseconds since the epoch, below 2**48.
        randomness: 80 random bits.

    Returns:
        26 characters; their order as strings is the order of `(now_ms, randomness)`.

    Raises:
        ValueError: One of the two does not fit.
    """
    if not 0 <= now_ms < _TIME_LIMIT or not 0 <= randomness < _RANDOM_LIMIT:
        raise ValueError(f"a ULID takes 48 bits of time and 80 random bits, not {now_ms} and {randomness}")
    value = now_ms << RANDOM_BITS | randomness
    return "".join(ALPHABET[value >> shift & 31] for shift in range(125, -1, -5))


def is_ulid(text: str) -> bool:
    """Whether `text` is a ULID in its canonical (upper case) spelling."""
    return len(text) == LENGTH and text[0] <= "7" and all(letter in ALPHABET for letter in text)


class UlidFactory:
    """ULIDs that strictly rise within this factory, also within one millisecond and when the clock steps back."""

    def __init__(self, clock_ms: Callable[[], int], randbits: Callable[[int], int]) -> None:
        """Take the clock (milliseconds since the epoch) and the randomness (`secrets.randbits`)."""
        self._clock_ms = clock_ms
        self._randbits = randbits
        self._last_ms = -1
        self._last_random = 0

    def __call__(self) -> str:
        """The next name."""
        now_ms = self._clock_ms()
        if now_ms > self._last_ms:
            self._last_ms, self._last_random = now_ms, self._randbits(RANDOM_BITS)
        elif self._last_random + 1 < _RANDOM_LIMIT:
            self._last_random += 1
        else:  # 2**80 names in one millisecond: borrow the next one rather than repeat a name
            self._last_ms, self._last_random = self._last_ms + 1, self._randbits(RANDOM_BITS)
        return ulid(self._last_ms, self._last_random)
