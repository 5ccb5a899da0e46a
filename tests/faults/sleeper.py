"""The controls of a fault run: a process that only sleeps, and one that works a little now and then; both tell when they were late.

`sleeper.py` prints a JSON line `{"at", "late"}` (seconds since 1970, seconds) for each nap that took SHOWN longer than
asked; `sleeper.py --work` one for each piece of WORK of which NEED seconds would have been so late. What they were late by, the
machine was late by: a time promise is judged only where both were in time. A kernel wakes who sleeps before who works, so on a
crowded machine the first alone is in time while everybody else starves.
"""

from __future__ import annotations

import json
import signal
import sys
import time

NAP = 0.01
SHOWN = 0.02
WORK = 0.05
"""Seconds of a processor: more than a kernel gives at once where others wait."""
PAUSE = 0.45
NEED = 0.1
"""Seconds of a processor that are taken for what a promise costs: with a seventh of one they take 0.7 s."""


def nap() -> float:
    """By how much one was late."""
    due = time.monotonic() + NAP
    time.sleep(NAP)
    return time.monotonic() - due


def work() -> float:
    """By how much NEED seconds of work would have been late."""
    time.sleep(PAUSE)
    began, used = time.monotonic(), time.thread_time()
    while time.thread_time() - used < WORK:
        sum(range(1000))
    return (time.monotonic() - began - WORK) / WORK * NEED


def main() -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    print("READY", flush=True)
    step = work if "--work" in sys.argv else nap
    while True:
        late = step()
        if late > SHOWN:
            print(json.dumps({"at": round(time.time(), 3), "late": round(late, 3)}), flush=True)


if __name__ == "__main__":
    main()
