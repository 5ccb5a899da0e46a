"""`foreman trace export` on a living foreman, and `foreman simulate` of what it wrote."""

from __future__ import annotations

import gzip
import json
from typing import TYPE_CHECKING

from foreman.demo.ollama import FakeOllama
from tests.cli.process import ran
from tests.rig import rig

if TYPE_CHECKING:
    from pathlib import Path

SECRET = "a very private question"


async def test_what_a_foreman_did_is_exported_without_content_and_replayed(tmp_path: Path):
    async with FakeOllama(models=["alpha", "beta"], tokens=2) as fake, rig(tmp_path, f"main={fake.url}") as house:
        for model, priority in (("alpha", "high"), ("beta", "low"), ("alpha", "normal")):
            body = {"model": model, "messages": [{"role": "user", "content": SECRET}], "priority": priority}
            code, _, err = await ran(tmp_path, "submit", "-", "--wait", stdin=json.dumps(body), URL=house.url)
            assert code == 0, err
        code, out, err = await ran(tmp_path, "trace", "export", URL=house.url)
        assert code == 0, err
        assert "3 jobs" in err
        assert SECRET not in out
        head, *lines = map(json.loads, out.splitlines())
        assert head["trace"] == 1
        assert [target["target"] for target in head["targets"]] == ["main"]
        jobs = [line["job"] for line in lines]
        assert [job["priority"] for job in jobs] == ["high", "low", "normal"]
        assert jobs[0]["at"] == 0.0
        assert jobs[0]["lane"] == jobs[2]["lane"] != jobs[1]["lane"]
        assert all(job["run_seconds"] > 0 for job in jobs)
        code, _, err = await ran(tmp_path, "trace", "export", "past.jsonl.gz", "--hours", "1", URL=house.url)
        assert code == 0, err
        code, _, err = await ran(tmp_path, "trace", "export", "--hours", "99", URL=house.url)
        assert code == 2
    assert gzip.decompress((tmp_path / "past.jsonl.gz").read_bytes()).count(b"\n") == 4
    code, out, err = await ran(tmp_path, "simulate", "past.jsonl.gz", "--json", "--policy", "all")
    assert code == 0, err
    assert [report["jobs"]["done"] for report in json.loads(out)] == [3] * 5
