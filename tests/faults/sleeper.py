"""The control of a fault run: a process that only sleeps, and says when it woke up late.

`sleeper.py` prints a JSON line `{"at", "late"}` (seconds since 1970, seconds) for each nap that took SHOWN longer than
asked. What it was late by, the machine was late by: a time promise is judged only where it was in time.
"""

from __future__ import annotations

import json
import signal
import sys
import time

NAP = 0.01
SHOWN = 0.02


def main() -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    print("READY", flush=True)
    while True:
        due = time.monotonic() + NAP
        time.sleep(NAP)
        late = time.monotonic() - due
        if late > SHOWN:
            print(json.dumps({"at": round(time.time(), 3), "late": round(late, 3)}), flush=True)


if __name__ == "__main__":
    main()
