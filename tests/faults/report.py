"""The table of a fault run: what was done, and a line per promise. What `make faults` prints and docs/reliability.md shows."""

from __future__ import annotations

import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.faults.judge import Promise
    from tests.faults.ledger import Ledger
    from tests.faults.topology import Topology

SHOWN = 12
"""Breaches printed of each promise."""


Lates = list[tuple[float, float]]
"""When a control process was late, and by how much, s."""


def table(ledger: Ledger, promises: list[Promise], naps: Lates, work: Lates, pool: Topology) -> str:
    """It, as lines."""
    lines: list[str] = []
    say = lines.append

    done = Counter(blow.kind for blow in ledger.blows)
    kills = sum(count for kind, count in done.items() if kind.startswith("SIGKILL"))
    calls = len({one.call for one in ledger.tries})
    say(
        f"\njobs   {len(ledger.sent) + calls}: {calls} sync calls in {len(ledger.tries)} tries, {len(ledger.sent)} async with webhooks"
    )
    say(f"blows  {sum(done.values())}, {kills} of them SIGKILLs")
    for kind, count in sorted(done.items()):
        say(f"       {count:4} {kind}")
    old = sum(life.old for seat in pool.seats.values() for life in seat.lives)
    say(
        f"       {old:4} lives of an older version beside the new one"
        if pool.old
        else "       no older version that could share this pool"
    )
    worst, toil = (max((late for _, late in lates), default=0.0) for lates in (naps, work))
    say(
        f"clock  a process that only sleeps was late by {worst * 1000:.0f} ms at most, one that works by {toil * 1000:.0f} ms\n"
    )
    width = max(len(promise.name) for promise in promises)
    for promise in promises:
        mark = "BROKEN" if promise.breaches else "kept"
        say(f"{mark:7}{promise.name:{width}}  {promise.seen}")
        if promise.unjudged:
            say(f"{'':7}{'':{width}}  {promise.unjudged}")
        for breach in promise.breaches[:SHOWN]:
            say(f"{'':9}- {breach}")
        if len(promise.breaches) > SHOWN:
            say(f"{'':9}- and {len(promise.breaches) - SHOWN} more")
    return "\n".join(lines)


def into(page: Path, script: str, text: str) -> None:
    """The text into the page, between the script's two marks there, with the commit, the date and what was called."""
    here = Path(__file__).parents[2]
    said = subprocess.run(
        ["git", "-C", str(here), "log", "-1", "--format=%h"], capture_output=True, text=True, check=False
    )
    commit = said.stdout.strip() or "?"
    called = " ".join([script, *sys.argv[1:]])
    made = f"Commit {commit}, {time.strftime('%Y-%m-%d', time.gmtime())}, `{called}`:\n\n```\n{text.strip()}\n```"
    begin, end = f"<!-- made by {script} --write -->\n", "<!-- end -->"
    head, mark, rest = page.read_text().partition(begin)
    if not mark:
        raise SystemExit(f"{page} has no place for it: {begin.strip()} and {end.strip()}")
    page.write_text(f"{head}{begin}{made}\n{end}{rest.partition(end)[2]}")
