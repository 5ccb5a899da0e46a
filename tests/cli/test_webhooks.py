"""`foreman webhooks`: what was sent is verified, printed, answered as told; what was not is refused."""

from __future__ import annotations

import json
import shlex
import time

import aiohttp
import pytest

from foreman.cli.webhooks import with_listener
from foreman.core import destinations
from foreman.protocols import webhook
from foreman.settings import load
from tests.cli.process import ran, started

BODY = json.dumps({"type": "job.done", "job_id": "01ABC", "seq": 3}).encode()


def signed(secret: str = "s3cret", seq: int = 3, stamp: int | None = None) -> dict[str, str]:
    return webhook.headers([secret], f"evt_01ABC_{seq}", int(time.time()) if stamp is None else stamp, BODY)


async def test_listen_verifies_prints_and_answers_as_told(tmp_path):
    async with started(tmp_path, "webhooks", "listen", "--port", "0", "--secret", "s3cret", "--answer", "500", "--fails", "1",
                       "--count", "4") as command:  # fmt: skip
        await command.until(lambda: any("FOREMAN_WEBHOOK_ALLOW" in line for line in command.err))
        url = command.err[0].split('"')[3]
        async with aiohttp.ClientSession() as session:
            statuses = []
            for headers in (signed(), signed(), signed("other"), {}):
                async with session.post(url.replace("localhost", "127.0.0.1"), data=BODY, headers=headers) as reply:
                    statuses.append(reply.status)
        assert await command.end() == 0
    assert statuses == [500, 200, 200, 200]
    first, second, third, fourth = command.out
    assert "job.done" in first
    assert "seq=3 verified, answered 500" in first
    assert "seen before" in second
    assert "NOT VERIFIED: " in third
    assert "NOT VERIFIED: not signed" in fourth


async def test_what_is_kept_is_verified_by_the_command_it_prints(tmp_path):
    options = ("--port", "0", "--secret", "s3cret", "--count", "2", "--keep", ".")
    async with started(tmp_path, "webhooks", "listen", *options) as command:
        await command.until(lambda: any("FOREMAN_WEBHOOK_ALLOW" in line for line in command.err))
        url = command.err[0].split('"')[3].replace("localhost", "127.0.0.1")
        async with aiohttp.ClientSession() as session:
            for headers in (signed(), {"webhook-id": "../../up"}):
                await session.post(url, data=BODY, headers=headers)
        assert await command.end() == 0
    printed, nameless = (shlex.split(line.partition("foreman ")[2]) for line in command.err[-2:])
    assert nameless[2] == "up.json"
    assert tmp_path.joinpath("up.json").read_bytes() == BODY
    ended, out, err = await ran(tmp_path, *printed, "--secret", "s3cret")
    assert (ended, out.startswith("verified: evt_01ABC_3")) == (0, True), err


@pytest.mark.parametrize(
    ("headers", "more", "code", "words"),
    [
        (signed, [], 0, "verified: evt_01ABC_3, sent at 20"),
        (lambda: signed("other"), [], 1, "another secret, or another body"),
        (lambda: signed(stamp=1_700_000_000), [], 1, "away from now"),
        (lambda: signed(stamp=1_700_000_000), ["--any-age"], 0, "sent at 2023-11-14T22:13:20Z"),
        (lambda: signed(stamp=10**18), ["--any-age"], 0, f"sent at {10**18}"),
        (lambda: {"webhook-id": "x"}, [], 1, "lacks one of the headers"),
    ],
)
async def test_verify(tmp_path, headers, more, code, words):
    tmp_path.joinpath("body").write_bytes(BODY)
    named = [part for name, value in headers().items() for part in ("-H", f"{name}: {value}")]
    ended, out, err = await ran(tmp_path, "webhooks", "verify", "body", *named, "--secret", "s3cret", *more)
    assert ended == code
    assert words in out + err


async def test_verify_without_a_secret(tmp_path):
    ended, _, err = await ran(tmp_path, "webhooks", "verify", "-", "-H", "webhook-id: x")
    assert ended == 2
    assert "FOREMAN_WEBHOOK_SECRET" in err


def test_run_and_demo_allow_the_listener(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    settings = with_listener(load(webhook_allow="n8n.lan"))
    for url in ("http://localhost:9009/", "http://127.0.0.1:9009/x", "http://n8n.lan/"):
        assert destinations.check(url, settings.webhook_allow) is None
    with pytest.raises(destinations.RefusedDestinationError):
        destinations.check("http://localhost:9010/", settings.webhook_allow)
