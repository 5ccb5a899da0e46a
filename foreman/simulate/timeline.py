"""Who had which place when: a world's residencies as lines for a terminal.

The command line prints me under a report. A place is a row, a column a slice of time; I show the lane that held the place
longest in it, and loads only where they fill most of it.
"""

from __future__ import annotations

import string
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from foreman.simulate.parts import Residency
    from foreman.simulate.world import World

_LOAD: Final = "▒"
_NOBODY: Final = "·"
_LETTERS: Final = string.ascii_uppercase + string.digits


def timeline(world: World, width: int = 100) -> list[str]:
    """The lines: per target and place one of `width` columns, then which letter is which lane."""
    end = max((job.ended for job in world.jobs if job.ended is not None), default=0.0)
    if not end or not world.residencies:
        return []
    seen = dict.fromkeys(residency.lane for residency in world.residencies)
    letters = {lane: _LETTERS[number] if number < len(_LETTERS) else "+" for number, lane in enumerate(seen)}
    name_width = max(len(server.name) for server in world.servers)
    lines = []
    for server in world.servers:
        for place in _places([r for r in world.residencies if r.target == server.name]):
            row = "".join(
                _column(place, letters, column * end / width, (column + 1) * end / width) for column in range(width)
            )
            lines.append(f"    {server.name:<{name_width}} {row}")
    scale = f"0 s{f'{end:.0f} s':>{width - 3}}"
    lines.append(f"    {'':<{name_width}} {scale}")
    known = "  ".join(f"{letter} {lane}" for lane, letter in letters.items() if letter != "+")
    lines.append(f"    {known}  {_LOAD} loading{'  + others' if '+' in letters.values() else ''}")
    return lines


def _places(residencies: list[Residency]) -> list[list[Residency]]:
    """The residencies of a target, one list for each of its places."""
    place_of: dict[int, int] = {}
    places: list[list[Residency]] = []
    for residency in residencies:
        number = len(places) if residency.victim is None else place_of[id(residency.victim)]
        place_of[id(residency)] = number
        if number == len(places):
            places.append([])
        places[number].append(residency)
    return places


def _column(place: list[Residency], letters: dict[str, str], start: float, end: float) -> str:
    shares: dict[str, float] = {}
    for residency in place:
        left = residency.ended if residency.ended is not None else float("inf")
        ready = residency.load_began + residency.load_seconds
        if residency.load_began >= end or left <= start:
            continue
        for sign, since, until in (
            (_LOAD, residency.load_began, ready),
            (letters[residency.lane], ready, left),
        ):
            share = min(until, end) - max(since, start)
            if share > 0:
                shares[sign] = shares.get(sign, 0.0) + share
    return max(shares, key=lambda sign: shares[sign]) if shares else _NOBODY
