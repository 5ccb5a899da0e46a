"""A run that hangs ends, with a word and without leaving processes behind."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.faults.lastresort import HUNG
from tests.waiting import wait_until

HANGS = """
import subprocess, sys, time
from tests.faults.lastresort import LastResort
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print(child.pid, flush=True)
def tell():
    print("a phase", flush=True)
    raise RuntimeError("the loop is no more")
with LastResort(0.3, lambda: [child.pid], tell):
    time.sleep(600)
"""


async def test_it_ends_and_takes_the_pool_along():
    ran = subprocess.run(
        [sys.executable, "-c", HANGS],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ran.returncode == HUNG, ran
    child, _, told = ran.stdout.partition("\n")
    assert "hangs" in told
    assert "a phase" in told
    assert "time.sleep" not in ran.stderr  # the stacks: files, lines and functions
    assert 'File "<string>"' in ran.stderr

    def gone() -> bool:
        try:
            os.kill(int(child), 0)
        except ProcessLookupError:
            return True
        return Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[0] == "Z"

    await wait_until(gone)
