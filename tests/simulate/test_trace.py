"""Traces: what is written comes back, what is no trace is refused by name, and what happened becomes one."""

import json

import pytest

from foreman.core.jobs import Priority
from foreman.simulate.export import PastJob, PastTarget, past_trace
from foreman.simulate.run import simulate
from foreman.simulate.trace import TraceError, TraceTarget, read, write
from foreman.simulate.workloads import WORKLOADS, workload

HEAD = '{"trace": 1, "lanes": [{"lane": "a", "load_seconds": 8}], "targets": [{"target": "t"}]}'
WAITS = {Priority.HIGH: 5.0, Priority.NORMAL: 120.0, Priority.LOW: 1800.0}


@pytest.mark.parametrize("name", WORKLOADS)
def test_what_was_written_comes_back(name):
    trace = workload(name, seed=2)
    assert read(write(trace)) == trace
    assert (trace.name, trace.seed) == (name, 2)
    assert workload(name, seed=2) == trace
    assert workload(name, seed=3) != trace


def test_what_is_left_out_has_its_usual_value():
    trace = read([HEAD, "", '{"job": {"at": 1, "lane": "a", "run_seconds": 2}}'], "file")
    assert trace.name == "file"
    assert trace.targets == (TraceTarget("t", 1.0, 1.0, 1, 1, 0.15, 0.9),)
    assert (trace.lanes[0].model, trace.lanes[0].embedding) == ("a", False)
    (job,) = trace.jobs
    assert (job.priority, job.deadline_seconds, job.cancel_after) == (Priority.NORMAL, None, None)


@pytest.mark.parametrize(
    ("lines", "why"),
    [
        ([], "file: empty"),
        (["{"], "file, line 1: no JSON"),
        (["[]"], "file, line 1: no JSON object"),
        (["{}"], "file, line 1: the first line"),
        (['{"trace": 2}'], "file, line 1: the first line"),
        (['{"trace": 1}'], "file, line 1: there is no 'lanes'"),
        (['{"trace": 1, "lanes": [], "targets": []}'], "at least one"),
        ([HEAD, "{}"], "file, line 2: there is no 'agent'"),
        ([HEAD, "[" * 100_000], "file, line 2: no JSON"),
        ([HEAD, '{"job": 5}'], "file, line 2: job is 5: use a JSON object"),
        (["", HEAD.replace('"lane": "a"', '"lane": 7')], "file, line 2: lane is 7: use a name"),
        ([HEAD.replace("8}", '8, "embedding": "false"}')], "embedding is 'false': use true or false"),
        ([HEAD.replace("8}", '8}, {"lane": "a", "load_seconds": 9}')], "'a' is named twice"),
        ([HEAD.replace('"t"}', '"t"}, {"target": "t"}')], "'t' is named twice"),
        ([HEAD.replace('[{"target": "t"}]', '{"t": 1}')], "targets is .*: use a list of JSON objects"),
        ([HEAD.replace('"trace": 1', '"trace": 1, "seed": "x"')], "seed is 'x': use a whole number"),
        ([HEAD, '{"job": {"at": 1e308, "lane": "a", "run_seconds": 1}}'], "at is 1e.308: use a number from 0 to 1e.10"),
        ([HEAD, '{"job": {"at": 1}}'], "file, line 2: there is no 'lane'"),
        ([HEAD, "", '{"job": {"at": -1, "lane": "a", "run_seconds": 1}}'], "file, line 3: at is -1"),
        ([HEAD, '{"job": {"at": "x", "lane": "a", "run_seconds": 1}}'], "line 2: at is 'x'"),
        ([HEAD, '{"job": {"at": NaN, "lane": "a", "run_seconds": 1}}'], "line 2: at is nan"),
        ([HEAD, '{"job": {"at": 1, "lane": "a", "run_seconds": 1, "priority": "urgent"}}'], "is no priority"),
        ([HEAD, '{"job": {"at": 1, "lane": "b", "run_seconds": 1}}'], "lane 'b' is called"),
        ([HEAD, '{"agent": {"at": 1, "steps": [1]}}'], "line 2: one of steps is 1: use a JSON object"),
        ([HEAD.replace('"t"}', '"t", "slots": 0}')], "slots is 0"),
        ([HEAD.replace('"t"}', '"t", "speed": 0}')], "speed is 0"),
    ],
)
def test_what_is_no_trace_is_refused_by_name(lines, why):
    with pytest.raises(TraceError, match=why.replace("[", r"\[")):
        read(lines, "file")


def past(came, lane="a", *, run=2.0, waited=1.0, state="done", target="t", priority=Priority.HIGH, deadline=None):
    started = None if run is None else came + waited
    ended = came + waited + (run or 0.0)
    return PastJob(came, lane, lane == "embed", priority, state, started, ended, deadline, target)


def test_what_happened_becomes_a_trace_from_its_first_job_on():
    jobs = [past(1010.0, run=4.0), past(1000.0), past(1005.0, "b?num_ctx=8192", deadline=1065.0), past(1007.0, "embed")]
    trace = past_trace("pool", jobs, [PastTarget("t", 2, 1, {"a": 6.0})])
    assert [(job.at, job.lane, job.run_seconds) for job in trace.jobs] == [
        (0.0, "a", 2.0),
        (5.0, "b?num_ctx=8192", 2.0),
        (7.0, "embed", 2.0),
        (10.0, "a", 4.0),
    ]
    assert trace.jobs[1].deadline_seconds == 60.0
    assert [(lane.lane, lane.model, lane.load_seconds, lane.embedding) for lane in trace.lanes] == [
        ("a", "a", 6.0, False),
        ("b?num_ctx=8192", "b", 6.0, False),
        ("embed", "embed", 6.0, True),
    ]
    assert trace.targets == (TraceTarget("t", 1.0, 1.0, 2, 1, 0.0, 0.0),)
    assert simulate(trace, max_wait=WAITS).jobs[-1].state == "done"
    assert read(write(trace)) == trace


def test_of_a_job_that_was_cancelled_in_the_queue_the_run_is_its_lanes_mean():
    jobs = [past(0.0, run=2.0), past(1.0, run=4.0), past(2.0, run=None, waited=7.0, state="cancelled", target=None)]
    cancelled = past_trace("pool", jobs, []).jobs[-1]
    assert (cancelled.run_seconds, cancelled.cancel_after) == (3.0, 7.0)


def test_a_target_that_runs_and_loads_in_half_the_time_is_as_fast_in_the_trace():
    jobs = [past(float(n), run=2.0 if n % 2 else 4.0, target="fast" if n % 2 else "slow") for n in range(20)]
    targets = [PastTarget("fast", 1, 1, {"a": 4.0}), PastTarget("slow", 1, 1, {"a": 8.0})]
    trace = past_trace("pool", jobs, targets)
    fast, slow = trace.targets
    assert fast.speed == pytest.approx(1.5, abs=0.01)
    assert slow.speed == pytest.approx(0.75, abs=0.01)
    assert (fast.load_factor, slow.load_factor) == (0.667, 1.333)
    assert {job.run_seconds for job in trace.jobs} == {3.0}


def test_nothing_that_happened_is_a_trace_without_jobs():
    with pytest.raises(TraceError, match="at least one lane"):
        read(write(past_trace("pool", [], [])))
    assert json.loads(next(write(past_trace("pool", [], []))))["lanes"] == []
