"""The runbook's commands are run as they stand there, against a foreman in operation: a page for the night must work."""

from __future__ import annotations

import asyncio
import os
import re
import sys
from pathlib import Path

import aiohttp
import pytest

from foreman.demo.ollama import FakeOllama
from tests.needs import ROOT, needs
from tests.rig import rig

BLOCKS = re.findall(r"^```sh\n(.*?)^```", (ROOT / "docs" / "runbook.md").read_text(), re.MULTILINE | re.DOTALL)
ELSEWHERE = ("/var/log/nginx", "journalctl", "nvidia-smi")
"""What stands on other machines: lines with it are left out."""

WRONG = ("command not found", "syntax error", "parse error", "jq: error", "Traceback", "Usage:", "No such")


@pytest.mark.timeout(120)
@needs("curl", "jq")
async def test_every_command_of_the_runbook_runs(tmp_path: Path) -> None:
    async with FakeOllama(models=["llama3.2"], tokens=8) as fake, rig(tmp_path, f"main={fake.url}") as house:
        body = {"model": "llama3.2", "messages": [{"role": "user", "content": "hi"}], "stream": False}
        async with (
            aiohttp.ClientSession() as session,
            session.post(house.url + "/api/chat", json=body, headers={"Idempotency-Key": "k"}) as reply,
        ):
            job = reply.headers["X-Foreman-Job-Id"]
        env = {
            **house.env,
            "FOREMAN_URL": house.url,
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
        }
        begin, *blocks = BLOCKS
        begin = begin.replace("F=http://127.0.0.1:8080; P=https://foreman.example", f"F={house.url}; P={house.url}")
        assert house.url in begin

        async def run(block: str) -> str:
            lines = [line for line in block.splitlines() if not any(word in line for word in ELSEWHERE)]
            script = "set -uo pipefail\n" + begin + "\n".join(lines).replace("JOB", job)
            process = await asyncio.create_subprocess_exec(
                "bash", "-c", script, stdout=-1, stderr=-1, env=env, cwd=tmp_path
            )
            out, err = await asyncio.wait_for(process.communicate(), 55)
            assert out, f"{block} said nothing but {err.decode()}"
            return f"{block}\n--- out\n{out.decode()}\n--- err\n{err.decode()}"

        for said in await asyncio.gather(*map(run, blocks)):
            for wrong in WRONG:
                assert wrong not in said.partition("--- out")[2], said
