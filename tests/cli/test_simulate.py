"""`foreman simulate` as people call it: files and workloads in, text, JSON and a log out, refusals by exit code."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from foreman.cli import app
from foreman.cli.console import Failed, Refusal
from foreman.simulate.trace import write
from foreman.simulate.workloads import workload


@pytest.fixture
def trace(tmp_path: Path) -> str:
    file = tmp_path / "agents.jsonl"
    file.write_text("\n".join(write(workload("two_agents"))))
    return str(file)


def simulate(*args: str) -> str:
    result = CliRunner().invoke(app, ["simulate", *args])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.stdout


def test_a_trace_is_told_of_in_words(trace: str):
    told = simulate(trace, "--policy", "foreman", "--policy", "fifo")
    assert "two_agents · foreman" in told
    assert "two_agents · fifo" in told
    assert "swaps     120" in told
    for word in ("makespan", "p50", "p95", "p99", "max", "past due", "room 1", "of the time", "▒ loading", "a high"):
        assert word in told, word


def test_json_holds_the_same_for_every_trace_and_policy(trace: str):
    reports = json.loads(simulate(trace, trace, "--policy", "all", "--json"))
    assert len(reports) == 10
    assert reports[0]["trace"] == "two_agents"
    assert reports[0].keys() >= {
        "policy", "swaps", "swaps_by_reason", "makespan", "swap_share", "wait", "past_due", "priorities", "lanes"
    }  # fmt: skip
    assert {report["swaps"] for report in reports if report["policy"] == "fifo"} == {120}
    assert simulate(trace, "--json") == simulate(trace, "--json")


def test_gzip_is_read_and_known_estimates_and_waits_are_heard(trace: str, tmp_path: Path):
    packed = tmp_path / "agents.jsonl.gz"
    packed.write_bytes(gzip.compress((tmp_path / "agents.jsonl").read_bytes()))
    known = simulate(str(packed), "--json", "--known-estimates", "--due-after", "high=15s,normal=2m,low=30m")
    assert (
        json.loads(known)[0]["past_due"]
        < json.loads(simulate(trace, "--json", "--due-after", "high=1s"))[0]["past_due"]
    )


def test_policies_may_stand_one_after_another(trace: str):
    assert len(json.loads(simulate(trace, "--json", "--policy", "fifo", "drain"))) == 2
    assert len(json.loads(simulate(trace, "--json", "--policy", "fifo,drain"))) == 2


def test_a_workload_is_made_by_its_seed():
    one, same, other = (
        json.loads(simulate("--workload", "two_agents", "--seed", seed, "--json"))[0]["makespan"] for seed in "778"
    )
    assert one == same != other


def test_a_log_holds_all_loads_and_jobs(trace: str, tmp_path: Path):
    simulate(trace, "--log", str(tmp_path / "log.json"))
    told = json.loads((tmp_path / "log.json").read_text())
    assert (told["beta"], told["k"], told["cap"]) == (0.2, 4, 300)
    assert len(told["jobs"]) == 120
    assert told["loads"][-1]["end"] is None
    assert told["loads"][0].keys() == {"target", "lane", "t0", "loaded", "end", "reason"}


@pytest.mark.parametrize(
    ("args", "kind", "why"),
    [
        ((), Refusal, "name a trace"),
        (("--workload", "x"), Refusal, "--workload x: use two_agents"),
        (("--workload", "two_agents", "--policy", "x"), Refusal, "--policy x: use foreman"),
        (("--workload", "two_agents", "--due-after", "x"), Refusal, "class=duration"),
        (("--workload", "two_agents", "--swap-budget", "2"), Refusal, "strictly between 0 and 1"),
        (("--workload", "all", "--log", "x"), Refusal, "one trace"),
        (("nowhere.jsonl",), Refusal, "nowhere.jsonl can't be read: No such file"),
    ],
)
def test_wrong_use_is_refused_with_what_would_be_right(args: tuple[str, ...], kind: type[Exception], why: str):
    with pytest.raises(kind, match=why):
        simulate(*args)


def test_a_file_from_another_system_is_read_and_a_name_moves_no_cursor(trace: str, tmp_path: Path):
    head, *jobs = Path(trace).read_text().split("\n")
    file = tmp_path / "other.jsonl"
    named = head.replace('"name": "two_agents"', r'"name": "\u001b[2J"')
    file.write_bytes(b"\xef\xbb\xbf" + "\r\n".join([named, *jobs]).encode())
    assert "\ufffd[2J" in simulate(str(file))
    raw = head.replace('"name": "two_agents"', '"name": "\u2028"')
    file.write_text("\n".join([raw, *jobs]))
    assert json.loads(simulate(str(file), "--json"))[0]["trace"] == "\u2028"


def test_a_broken_file_fails_by_its_line(tmp_path: Path):
    for content, why in (
        (b"\x1f\x8bbroken", "nor gzip"),
        (gzip.compress(b"{}" * 99)[:-9] + b"broken", "nor gzip"),
        ('{"trace"'.encode("utf-16"), "neither JSON lines in UTF-8"),
        (b"{}", "line 1"),
    ):
        (tmp_path / "broken").write_bytes(content)
        with pytest.raises(Failed, match=why):
            simulate(str(tmp_path / "broken"))
