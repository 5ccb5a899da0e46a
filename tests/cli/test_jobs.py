"""`foreman submit|jobs|show|cancel|retry` as processes: ids on stdout, words on stderr, exit codes."""

from __future__ import annotations

import json
import signal
import time
from typing import TYPE_CHECKING

import pytest
import pytest_asyncio

from foreman.demo.ollama import FakeOllama
from foreman.protocols.job_object import rfc3339
from tests.cli.process import ran, started
from tests.rig import House, rig

if TYPE_CHECKING:
    from pathlib import Path

CHAT = {"model": "alpha", "messages": [{"role": "user", "content": "Say hi"}], "metadata": {"ticket": 7}}


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def pair(tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("house")
    async with FakeOllama(models=["alpha"], tokens=5) as fake, rig(folder, f"main={fake.url}") as house:
        yield fake, house


pytestmark = pytest.mark.asyncio(loop_scope="module")
Pair = tuple[FakeOllama, House]


async def test_a_job_is_handed_in_and_its_answer_waited_for(pair: Pair, tmp_path: Path):
    _, house = pair
    (tmp_path / "job.json").write_text(json.dumps(CHAT))
    code, out, err = await ran(tmp_path, "submit", "job.json", "--wait", URL=house.url)
    assert code == 0, err
    assert len(out.split()) >= 3
    assert "done" in err
    assert "5 tokens" in err


async def test_json_is_what_the_gateway_says(pair: Pair, tmp_path: Path):
    _, house = pair
    code, out, err = await ran(tmp_path, "submit", "-", stdin=json.dumps(CHAT), URL=house.url)
    assert (code, len(out.strip())) == (0, 26), err
    code, out, err = await ran(tmp_path, "submit", "-", "--json", stdin=json.dumps(CHAT), URL=house.url)
    assert (code, err) == (0, "")
    accepted = json.loads(out)
    assert accepted["links"]["self"] == f"/jobs/{accepted['job_id']}"
    code, out, _ = await ran(tmp_path, "submit", "-", "--json", "--wait", stdin=json.dumps(CHAT), URL=house.url)
    job = json.loads(out)
    assert (code, job["state"], job["metadata"]) == (0, "done", {"ticket": 7})
    assert job["result"]["message"]["content"]
    code, out, _ = await ran(tmp_path, "show", job["job_id"], "--json", URL=house.url)
    assert json.loads(out) == job


async def test_a_job_is_shown_listed_and_run_again(pair: Pair, tmp_path: Path):
    _, house = pair
    _, out, _ = await ran(tmp_path, "submit", "-", "--json", "--wait", stdin=json.dumps(CHAT), URL=house.url)
    job_id = json.loads(out)["job_id"]
    code, out, err = await ran(tmp_path, "show", job_id, URL=house.url)
    assert code == 0, err
    assert f"{job_id} done" in out
    rows = [line.split() for line in out.splitlines()]
    assert ["metadata", '{"ticket":', "7}"] in rows
    assert ["1", "queued", "submitted"] in [[row[0], *row[2:4]] for row in rows if len(row) > 3]
    code, out, err = await ran(tmp_path, "retry", job_id, "--wait", URL=house.url)
    assert code == 0, err
    assert len(out.split()) >= 3
    code, out, err = await ran(tmp_path, "jobs", "--state", "done", "--limit", "2", URL=house.url)
    assert code == 0
    head, *rows = out.splitlines()
    assert head.split()[:3] == ["JOB", "STATE", "MODEL"]
    assert [row.split()[1:3] for row in rows] == [["done", "alpha"]] * 2
    assert "--cursor" in err
    code, out, _ = await ran(tmp_path, "jobs", "--json", URL=house.url)
    assert job_id in {job["job_id"] for job in json.loads(out)["jobs"]}


async def test_a_running_job_is_cancelled_and_its_waiter_told(pair: Pair, tmp_path: Path):
    fake, house = pair
    gate = fake.gate(after=1)
    (tmp_path / "job.json").write_text(json.dumps(CHAT))
    async with started(tmp_path, "submit", "job.json", "--wait", URL=house.url) as waiter:
        await gate.reached()
        await waiter.until(lambda: waiter.err)
        job_id = waiter.err[0].split()[0]
        code, out, err = await ran(tmp_path, "cancel", job_id, URL=house.url)
        assert (code, out.split()[:2]) == (0, [job_id, "cancelled:"]), err
        assert await waiter.end() == 1
        assert "cancelled" in waiter.err[-1]
    gate.open()
    code, out, _ = await ran(tmp_path, "cancel", job_id, "--json", URL=house.url)
    assert (code, json.loads(out)["state"]) == (0, "cancelled")


async def test_ctrl_c_leaves_the_job_to_itself(pair: Pair, tmp_path: Path):
    fake, house = pair
    gate = fake.gate(after=1)
    (tmp_path / "job.json").write_text(json.dumps(CHAT))
    async with started(tmp_path, "submit", "job.json", "--wait", URL=house.url) as waiter:
        await gate.reached()
        await waiter.until(lambda: waiter.err)
        waiter.process.send_signal(signal.SIGINT)
        assert await waiter.end() == 1
        assert "foreman show" in waiter.err[-1]
    gate.open()
    job_id = waiter.err[0].split()[0]
    code, out, _ = await ran(tmp_path, "show", job_id, "--json", URL=house.url)
    assert (code, json.loads(out)["state"] in {"working", "done"}) == (0, True)


async def test_a_failed_job_is_an_exit_code_of_one(pair: Pair, tmp_path: Path):
    fake, house = pair
    fake.fault("status", status=418, words="no such brew")
    code, out, err = await ran(tmp_path, "submit", "-", "--wait", stdin=json.dumps(CHAT), URL=house.url)
    assert (code, out) == (1, "")
    assert "no such brew" in err
    assert "upstream_error" in err


async def test_many_jobs_go_in_one_request(pair: Pair, tmp_path: Path):
    _, house = pair
    lines = "\n".join([json.dumps(CHAT), json.dumps(CHAT | {"priority": "urgent"}), "", json.dumps(CHAT)])
    seen = set()
    for _ in range(2):
        code, out, err = await ran(tmp_path, "submit", "-", "--batch", "--key", "night", stdin=lines, URL=house.url)
        assert code == 1
        assert len(out.split()) == 2
        assert "priority" in err
        assert "1 of 3" in err
        seen |= set(out.split())
    assert len(seen) == 2, "under a key, all lines again are the same jobs"


@pytest.mark.parametrize(
    ("args", "stdin", "code", "words"),
    [
        (("submit", "missing.json"), "", 2, "missing.json can't be read"),
        (("submit", "-"), " \n", 2, "nothing to submit"),
        (("submit", "-", "--batch", "--wait"), "{}", 2, "--batch"),
        (("submit", "-"), '{"model":', 1, "unexpected"),
        (("submit", "-"), '{"model":"alpha","priority":3}', 1, "priority"),
        (("show", "01ARZ3NDEKTSV4RRFFQ69G5FAV"), "", 1, "01ARZ3NDEKTSV4RRFFQ69G5FAV"),
        (("retry", "nonsense"), "", 1, "nonsense"),
        (("jobs", "--state", "odd"), "", 2, "--state"),
        (("submit", "-", "--key", "a\nb"), "{}", 2, "--key"),
        (("submit", "-", "--key", ""), "{}", 2, "--key"),
        (("cancel", "nonsense", "other"), "", 1, "2 of 2"),
    ],
)
async def test_what_is_wrong_is_said(
    pair: Pair, tmp_path: Path, args: tuple[str, ...], stdin: str, code: int, words: str
):
    _, house = pair
    ended, out, err = await ran(tmp_path, *args, stdin=stdin, URL=house.url)
    assert (ended, out) == (code, ""), err
    assert words in err


async def test_one_that_is_not_known_keeps_no_other_from_its_end(pair: Pair, tmp_path: Path):
    _, house = pair
    later = {"model": "alpha", "messages": [], "not_before": rfc3339(time.time() + 3600)}
    _, out, _ = await ran(tmp_path, "submit", "-", stdin=json.dumps(later), URL=house.url)
    code, out, err = await ran(tmp_path, "cancel", "nonsense", out.strip(), URL=house.url)
    assert (code, "cancelled" in out) == (1, True), out + err
    assert "nonsense" in err


async def test_a_server_that_is_no_foreman(pair: Pair, tmp_path: Path):
    fake, _ = pair
    code, _, err = await ran(tmp_path, "jobs", URL=fake.url)
    assert (code, "is it a foreman" in err) == (1, True), err


async def test_no_gateway_is_said_with_what_to_do(tmp_path: Path):
    code, _, err = await ran(tmp_path, "jobs", URL="http://127.0.0.1:9")
    assert code == 1
    assert "foreman serve" in err
