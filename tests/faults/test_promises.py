"""The fault run as `make faults` starts it: whole, or with a minute's worth of blows where QUICK is set."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import pytest


@pytest.mark.timeout(600)
async def test_the_promises_hold_under_fire(capsys):
    arguments = ["--quick"] if os.environ.get("QUICK") else []
    with capsys.disabled():
        print(file=sys.stderr, flush=True)
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-u", str(Path(__file__).with_name("run.py")), *arguments),
            stdout=sys.stderr.fileno(),  # where tests run side by side, the first stream is none to be seen
            cwd=Path(__file__).parents[2],
        )
        code = await process.wait()
    assert code == 0, "a promise was broken: see the table"
