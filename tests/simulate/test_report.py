"""What the simulator tells: numbers, log and timeline of a small world whose course is known; and the other policies."""

import json

import pytest

from foreman.core.fairness import Policy
from foreman.core.jobs import Priority
from foreman.simulate.drain import Drainer
from foreman.simulate.policies import UntilEmpty
from foreman.simulate.report import Report, log, quantile
from foreman.simulate.run import POLICIES, simulate
from foreman.simulate.timeline import timeline
from foreman.simulate.trace import Trace, TraceJob, TraceLane, TraceTarget
from foreman.simulate.workloads import workload
from foreman.simulate.world import REFERENCE_WAITS, World
from tests.simulate.worlds import HIGH, LOW, agent, job, lane

NO_LINGER = Policy(linger_round_trips=0.0)
LANES = (TraceLane("a", "a", 8.0), TraceLane("b", "b", 4.0))


def run(jobs, policy="foreman", lanes=LANES, target=None, agents=()):
    trace = Trace("small", 1, tuple(lanes), (target or TraceTarget("t"),), tuple(jobs), tuple(agents))
    return simulate(trace, policy, max_wait=REFERENCE_WAITS, knobs=NO_LINGER, known=True)


def small():
    """a is loaded until 8, runs until 10; then b until 14, which runs until 20."""
    return run([job("a", 2.0), job("b", 6.0, 1.0, LOW)])


@pytest.mark.parametrize(("share", "value"), [(0.0, 1.0), (0.5, 2.5), (0.95, 3.85), (1.0, 4.0)])
def test_quantiles_lie_between_neighbours(share, value):
    assert quantile([1.0, 2.0, 3.0, 4.0], share) == pytest.approx(value)
    assert quantile([], share) == 0.0


def test_the_numbers_of_a_small_world():
    report = Report.of(small(), "foreman")
    assert (report.swaps, report.makespan) == (2, 20.0)
    assert report.reasons == {"room": 1, "empty": 1, "due": 0, "class": 0}
    assert report.swap_share == pytest.approx(12 / 20)
    assert (report.waits.mean, report.waits.max) == (10.5, 13.0)
    assert {word: waits.mean for word, waits in report.by_priority.items()} == {"high": 8.0, "low": 13.0}
    assert report.by_lane["b"]["low"].past_due == 0.0
    assert report.ends == {"done": 2, "cancelled": 0, "failed": 0}
    assert json.loads(json.dumps(report.plain()))["wait"]["p50"] == 10.5


def test_the_log_says_what_the_bounds_can_be_checked_on():
    told = log(small(), Policy())
    assert (told["beta"], told["k"], told["cap"]) == (0.2, 4.0, 300.0)
    assert told["load"] == {"a": 8.0, "b": 4.0}
    assert told["loads"] == [
        {"target": "t", "lane": "a", "t0": 0.0, "loaded": 8.0, "end": 10.0, "reason": "room"},
        {"target": "t", "lane": "b", "t0": 10.0, "loaded": 14.0, "end": None, "reason": "empty"},
    ]
    assert told["jobs"] == [
        {"lane": "a", "cls": 2, "t": 0.0, "due": 15.0, "start": 8.0, "end": 10.0, "state": "done"},
        {"lane": "b", "cls": 0, "t": 1.0, "due": 1801.0, "start": 14.0, "end": 20.0, "state": "done"},
    ]


def test_the_timeline_shows_loads_and_who_has_the_place():
    rows = timeline(small(), width=20)
    assert rows[0].split()[1] == "▒▒▒▒▒▒▒▒AA▒▒▒▒BBBBBB"
    assert "A a" in rows[-1]
    assert "B b" in rows[-1]
    assert timeline(run([])) == []


def test_a_job_past_its_deadline_is_dropped_and_a_cancelled_one_stops():
    made = run([job("a", 2.0), job("b", 6.0, 0.0, HIGH, 3.0), job("a", 30.0, 0.0, LOW, None, 15.0)])
    assert [each.state for each in made.jobs] == ["done", "failed", "cancelled"]
    assert made.jobs[2].ended == 15.0


def test_jobs_that_run_side_by_side_slow_each_other_down():
    target = TraceTarget("t", slots=2, slowdown_same=0.5)
    ends = [each.ended for each in run([job("a", 3.0), job("a", 6.0)], target=target).jobs]
    assert ends == [pytest.approx(8 + 4.5), pytest.approx(8 + 4.5 + 3.0)]
    fast = TraceTarget("t", speed=2.0, load_factor=0.5)
    assert run([job("a", 3.0)], target=fast).jobs[0].ended == pytest.approx(4 + 1.5)


def test_embeddings_run_beside_the_drain_one_after_another():
    lanes = (*LANES, TraceLane("embed", "embed", 1.0, embedding=True))
    made = run([job("a", 9.0), TraceJob(1.0, "embed", 2.0, HIGH), TraceJob(1.5, "embed", 2.0, HIGH)], lanes=lanes)
    assert [each.ended for each in made.jobs] == [17.0, 3.0, 5.0]
    report = Report.of(made, "foreman")
    assert (report.swaps, report.waits.jobs) == (1, 1)
    assert report.by_lane["embed"]["high"].jobs == 2
    assert {each["lane"] for each in log(made, Policy())["jobs"]} == {"a"}


def test_an_agents_first_call_comes_at_its_time_and_each_next_one_after_its_thought():
    made = run([], agents=[agent([(99.0, "a", 2.0), (1.5, "a", 1.0)], at=3.0)])
    assert [each.arrived for each in made.jobs] == [3.0, 14.5]


# ------------------------------------------------------------------------------------------------ the other policies


def test_in_order_of_arrival_each_alternation_costs_a_load():
    calls = [job(name, 1.0, float(n)) for n, name in enumerate("abababab")]
    assert len(run(calls, "fifo").residencies) == 8
    assert len(run(calls, "drain").residencies) == 2


def test_until_empty_a_fed_lane_keeps_its_place():
    def late(policy):
        fed = Trace("fed", 1, (lane("a"), lane("b")), (TraceTarget("t"),), (job("b", 1.0, 10.0),))
        made = World(fed, policy, REFERENCE_WAITS)
        made.feed("a", 3.0, HIGH, until=3000, depth=3)
        return next(each.started for each in made.run().jobs if each.lane == "b")

    assert late(UntilEmpty) > 3000
    assert late(Drainer) < 200


def test_a_limit_refuses_what_is_beyond_it():
    made = run([job("a", 1.0) for _ in range(30)], "llama-swap")
    assert sum(each.state == "failed" for each in made.jobs) == 20


def test_with_ageing_a_higher_class_comes_first_until_the_lower_has_waited():
    calls = [job("a", 5.0), job("b", 1.0, 1.0, LOW), job("a", 1.0, 2.0, LOW), job("a", 1.0, 3.0, HIGH)]
    started = [each.started for each in run(calls, "priority-aging").jobs]
    assert started[3] < started[2]


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("name", ["zipf20", "num_ctx", "three_targets", "mixed", "embed_chat", "two_agents"])
def test_every_policy_brings_every_workload_to_its_end(name, policy):
    world = simulate(workload(name), policy, max_wait=dict.fromkeys(Priority, 60.0))
    assert all(each.state in {"done", "cancelled", "failed"} for each in world.jobs)
    assert world.residencies
