"""A stranger who has read nothing but /openapi.json: whatever it sends, no 500 and no answer that isn't described."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from foreman.demo.ollama import FakeOllama
from foreman.protocols.job_request import EXAMPLE
from tests.rig import rig

CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"
SEED = "4"


async def test_no_500_and_no_undocumented_answer(tmp_path) -> None:
    tmp_path.joinpath("schemathesis.toml").write_text("[parameters]\nwait = 0.5\n")  # else it gives a long poll up
    async with (
        FakeOllama(models=[str(EXAMPLE["model"])], tokens=3) as fake,
        rig(tmp_path, f"main={fake.url}", max_body="1MiB") as house,
    ):
        stranger = await asyncio.create_subprocess_exec(
            *(Path(sys.executable).with_name("schemathesis"), "run", f"{house.url}/openapi.json"),
            *("--checks", CHECKS, "--max-examples", "15", "--seed", SEED, "--no-color"),
            *("--exclude-path", "/ops/events"),  # it never ends
            cwd=tmp_path,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        said, _ = await stranger.communicate()
        assert stranger.returncode == 0, said.decode()
        assert "request.died" not in house.log("serve")
        ended = (await house.get("/ops/state"))["jobs"]
        assert ended["done"] > 0, "it got as far as jobs that ran"
