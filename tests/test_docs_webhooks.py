"""docs/webhooks.md: its receivers run and its examples are what is sent."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import sys
import time
from pathlib import Path

import aiohttp
import pytest
from jsonschema import Draft202012Validator

from foreman.core.jobs import State
from foreman.protocols import webhook
from foreman.protocols.job_object import JobObject
from tests.needs import needs
from tests.rig import free_port

TEXT = (Path(__file__).parent.parent / "docs" / "webhooks.md").read_text()
SECRET = "correct horse"


def block(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", TEXT, re.DOTALL)


def test_there_is_a_valid_example_of_each_state():
    examples = [json.loads(text) for text in block("json")]
    for example in examples:
        Draft202012Validator(JobObject.model_json_schema()).validate(example)
    assert {example["state"] for example in examples} == {state.value for state in State}


async def built(language: str, file: Path) -> list[str]:
    """The command that runs a receiver."""
    if language != "go":
        return [sys.executable if language == "python" else needs.path("node"), str(file)]
    binary = file.with_suffix("")
    build = await asyncio.create_subprocess_exec(needs.path("go"), "build", "-o", str(binary), str(file))
    assert await build.wait() == 0
    return [str(binary)]


LANGUAGES = ["python", pytest.param("js", marks=needs("node")), pytest.param("go", marks=needs("go"))]


@pytest.mark.parametrize("language", LANGUAGES)
async def test_the_receiver_takes_ours_once_and_no_other(language: str, tmp_path: Path):
    [source] = block(language)
    handler = source[source.index("\nfunc receive(") :] if language == "go" else source
    assert len(handler.strip().splitlines()) <= (17 if language == "go" else 15), "fifteen lines and a pair of braces"
    file = tmp_path / f"receiver.{language}"
    file.write_text(source)
    command = await built(language, file)
    port = free_port()
    env = os.environ | {"WEBHOOK_SECRET": SECRET, "PORT": str(port)}
    process = await asyncio.create_subprocess_exec(
        *command, env=env, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL
    )
    body = json.dumps({"type": "job.done", "job_id": "01A", "seq": 4, "result": {"a": "ü"}}).encode()
    now = int(time.time())
    good = webhook.headers([SECRET, "old"], "evt_01A_4", now, body)
    bad = webhook.headers(["other"], "evt_01A_5", now, body)
    late = webhook.headers([SECRET], "evt_01A_4", now - 400, body)
    unsigned = webhook.headers([], "evt_01A_4", now, body)
    try:
        async with aiohttp.ClientSession() as session:
            statuses = [await _post(session, port, headers, body) for headers in (good, good, bad, late, unsigned, {})]
        assert statuses == [204, 204, 401, 401, 401, 401]
    finally:
        process.kill()
    out, _ = await process.communicate()
    assert len(out.splitlines()) == 1, "the second one is ignored by its seq"


async def _post(session: aiohttp.ClientSession, port: int, headers: dict[str, str], body: bytes) -> int:
    async with asyncio.timeout(60):
        while True:
            with contextlib.suppress(aiohttp.ClientConnectorError):
                async with session.post(f"http://127.0.0.1:{port}/", data=body, headers=headers) as reply:
                    return reply.status
            await asyncio.sleep(0.05)
