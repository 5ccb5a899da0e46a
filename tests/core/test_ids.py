"""ULIDs: 26 characters, in the order of their making."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foreman.core.ids import ALPHABET, UlidFactory, is_ulid, ulid


def moment(text: str) -> int:
    """The milliseconds since the epoch that a ULID begins with."""
    value = 0
    for letter in text[:10]:
        value = value << 5 | ALPHABET.index(letter)
    return value


times = st.integers(0, 2**48 - 1)
bits = st.integers(0, 2**80 - 1)


def test_the_specifications_own_example() -> None:
    assert ulid(1469918176385, 0).startswith("01ARYZ6S41")
    assert ulid(0, 0) == "0" * 26
    assert ulid(2**48 - 1, 2**80 - 1) == "7" + "Z" * 25


@given(times, bits, times, bits)
def test_their_order_is_the_order_of_their_making(t1: int, r1: int, t2: int, r2: int) -> None:
    assert (ulid(t1, r1) < ulid(t2, r2)) == ((t1, r1) < (t2, r2))


@given(times, bits)
def test_the_moment_comes_back(now: int, randomness: int) -> None:
    text = ulid(now, randomness)
    assert is_ulid(text)
    assert moment(text) == now


@pytest.mark.parametrize("text", ["", "0" * 25, "0" * 27, "8" + "0" * 25, "0" * 25 + "I", "0" * 25 + "u", "é" * 26])
def test_what_is_none(text: str) -> None:
    assert not is_ulid(text)


@pytest.mark.parametrize(("now", "randomness"), [(-1, 0), (2**48, 0), (0, -1), (0, 2**80)])
def test_what_does_not_fit(now: int, randomness: int) -> None:
    with pytest.raises(ValueError, match="48 bits"):
        ulid(now, randomness)


def test_a_factory_rises_within_a_millisecond_and_when_the_clock_steps_back() -> None:
    clock = iter([5, 5, 5, 3, 4, 5, 6])
    made = [UlidFactory(lambda: next(clock), lambda _: 7)]
    ids = [made[0]() for _ in range(7)]
    assert all(first < second for first, second in itertools.pairwise(ids))
    assert [moment(text) for text in ids] == [5, 5, 5, 5, 5, 5, 6]


def test_a_factory_that_runs_out_of_names_borrows_the_next_millisecond() -> None:
    factory = UlidFactory(lambda: 5, lambda count: 2**count - 1)
    first, second = factory(), factory()
    assert first < second
    assert moment(second) == 6


def test_no_letter_that_is_taken_for_another() -> None:
    assert set("ILOU").isdisjoint(ALPHABET)
    assert len(set(ALPHABET)) == 32
