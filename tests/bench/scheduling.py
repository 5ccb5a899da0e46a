"""The scheduler in numbers: `python -m tests.bench.scheduling [table|goals|optimum|eta|cost] [--traces DIR]`.

Without a part, all of them. The sixteen workloads are foreman.simulate's own; `--traces DIR` takes files instead. Prints
tables and, for a goal, whether it is met; asserts nothing. The figures in docs/scheduling.md come from here.
"""

import argparse
import dataclasses
import gzip
import math
import random
import statistics
import time
from pathlib import Path

from foreman.core.fairness import Policy
from foreman.core.index import LaneIndex
from foreman.core.jobs import Priority
from foreman.core.scheduler import choose
from foreman.core.views import LaneView, Offer, Resident, TargetView
from foreman.settings import DUE_AFTER
from foreman.simulate.report import Report
from foreman.simulate.run import FOREMAN, POLICIES, simulate
from foreman.simulate.trace import read
from foreman.simulate.workloads import WORKLOADS, two_lanes, workload
from foreman.simulate.world import REFERENCE_WAITS, World
from tests.bench.foretold import Foreteller
from tests.bench.optimum import agents_optimum, open_optimum, small_agents_trace, small_open_trace

SEEDS = range(1, 6)
OPEN_ONE_TARGET = ("hot_trickle", "embed_chat", "burst", "zipf20", "overload", "slow_load", "rho90")
FEWER = ("two_agents", "burst", "overload", "saturated", "slow_load", "embed_chat")
"""Workloads on which foreman shall swap at most a fifth as often as in order of arrival."""


def report(trace, policy=FOREMAN, waits=REFERENCE_WAITS):
    return Report.of(simulate(trace, policy, max_wait=waits, known=True), policy)


def verdict(text, met):
    print(f"  {'met   ' if met else 'MISSED'}  {text}", flush=True)


# ------------------------------------------------------------------------------------------------ the table


def table(traces):
    """Each trace under each policy, and foreman with the default of FOREMAN_DUE_AFTER."""
    print("high=15s,normal=2m,low=30m; *: the default, high=5s. Waits in s; high: p95 of the class high.\n")
    print(f"{'trace':14}{'policy':16}{'swaps':>6}{'makespan':>10}{'mean':>9}{'p95':>9}{'high':>9}{'past due':>10}")
    for trace in traces:
        rows = [(name, REFERENCE_WAITS) for name in reversed(POLICIES)] + [(FOREMAN, DUE_AFTER)]
        for policy, waits in rows:
            got = report(trace, policy, waits)
            high = got.by_priority.get("high")
            name = policy + ("*" if waits is DUE_AFTER else "")
            print(
                f"{trace.name:14}{name:16}{got.swaps:>6}{got.makespan:>10.1f}{got.waits.mean:>9.2f}{got.waits.p95:>9.2f}"
                f"{f'{high.p95:.2f}' if high else '':>9}{got.waits.past_due:>10.1f}",
                flush=True,
            )


# ------------------------------------------------------------------------------------------------ the goals


def goals():
    """What the drain is to be worth, each with the figures."""
    for busy in (0.7, 0.8, 0.85, 0.9):
        ours, drain = (
            statistics.median(report(two_lanes(busy, seed=seed), policy).waits.mean for seed in SEEDS)
            for policy in (FOREMAN, "drain")
        )
        text = f"two lanes busy for {busy}: mean wait {ours:.1f} s, until empty {drain:.1f} s ({ours / drain:.2f} ×)"
        verdict(f"{text}; goal at 0.8: 1.25 ×", ours <= 1.25 * drain or busy > 0.8)
    for name in OPEN_ONE_TARGET:
        empties, drains = [], []
        for seed in SEEDS:
            empties.append(report(workload(name, seed)).reasons["empty"])
            drains.append(report(workload(name, seed), "drain").swaps)
        ours, drain = statistics.median(empties), statistics.median(drains)
        verdict(f"{name}: {ours:g} swaps for the reason empty, until empty swaps {drain:g}", ours <= drain)
    for name in FEWER:
        ours, fifo = (
            statistics.median(report(workload(name, seed), policy).swaps for seed in SEEDS)
            for policy in (FOREMAN, "fifo")
        )
        verdict(
            f"{name}: {ours:g} swaps, in order of arrival {fifo:g}: {fifo / ours:.1f} × fewer; goal 5 ×",
            fifo >= 5 * ours,
        )
    ours, drain = (
        sorted(report(workload("adversary", seed), policy).waits.past_due for seed in SEEDS)
        for policy in (FOREMAN, "drain")
    )
    text = f"adversary: worst past due {ours[2]:.0f} s ({ours[0]:.0f} to {ours[-1]:.0f} by seed), until empty {drain[2]:.0f} s"
    verdict(f"{text}; goal 80 s", ours[2] <= 80)
    for quanta in (1, 2, 4, 8):
        knobs = Policy(stay_quanta=quanta)
        worlds = [
            simulate(two_lanes(0.9, seed=seed), max_wait=REFERENCE_WAITS, knobs=knobs, known=True) for seed in SEEDS
        ]
        waits = [Report.of(world, FOREMAN).waits for world in worlds]
        mean, p95 = (statistics.median(getattr(wait, what) for wait in waits) for what in ("mean", "p95"))
        print(f"          stay of {quanta} quanta, two lanes busy for 0.9: mean / p95 {mean:.0f} / {p95:.0f} s")


def optimum():
    """Makespan against the exact optimum of small random traces."""
    for make, best, count in ((small_open_trace, open_optimum, 400), (small_agents_trace, agents_optimum, 60)):
        traces = [make(seed) for seed in range(count)]
        least = [best(trace) for trace in traces]
        for policy in (FOREMAN, "drain", "fifo"):
            shares = sorted(
                report(trace, policy).makespan / shortest for trace, shortest in zip(traces, least, strict=True)
            )
            mean, p95 = statistics.mean(shares), shares[int(0.95 * count)]
            text = f"{make.__name__}: {policy} takes {mean:.3f} × the optimum (p95 {p95:.2f}, worst {shares[-1]:.2f})"
            if policy == FOREMAN and make is small_open_trace:
                verdict(f"{text}; goal 1.10 ×", mean <= 1.1)
            else:
                print(f"          {text}", flush=True)


# ------------------------------------------------------------------------------------------------ the forecast


def eta(traces):
    """Median relative error of the first ETA over jobs that waited a second or more."""
    print(f"  {'trace':14}{'jobs':>6}{'error':>8}{'jobs of one length':>20}")
    for trace in traces:
        errors = []
        for each in (trace, one_length(trace)):
            run = World(each, Foreteller, REFERENCE_WAITS).run()
            errors.append(run.chooser.median_error())
        (count, mixed), (_, equal) = errors
        print(f"  {trace.name:14}{count:>6}{mixed:>8.0%}{equal:>20.0%}", flush=True)


def one_length(trace):
    """The same with all runs of a lane as long as their mean."""
    mean = trace.mean_runs()
    jobs = tuple(dataclasses.replace(job, run_seconds=mean[job.lane]) for job in trace.jobs)
    agents = tuple(
        dataclasses.replace(
            agent, steps=tuple(dataclasses.replace(step, run_seconds=mean[step.lane]) for step in agent.steps)
        )
        for agent in trace.agents
    )
    return dataclasses.replace(trace, jobs=jobs, agents=agents)


# ------------------------------------------------------------------------------------------------ the cost of a choice


def facts(chance, number, now, homes=()):
    """A lane with a few jobs."""
    counts = [0, 0, 0]
    priority = chance.choice(list(Priority))
    counts[priority] = chance.randint(1, 5)
    return LaneView(
        f"lane{number:06}", f"m{number}", now + chance.uniform(-60, 900), priority, tuple(counts), homes=homes
    )


def cost():
    """Microseconds of one event, a lane's change and a choice, by lanes and targets; beside it a scan of all lanes."""
    print(f"  {'lanes':>7}{'targets':>9}{'put, µs':>9}{'choose, µs':>12}{'both':>8}{'all lanes read, µs':>20}")
    for count in (10, 100, 1_000, 10_000, 100_000):
        for targets in (1, 10, 100):
            print("  " + cost_row(count, targets), flush=True)


def cost_row(count, targets, events=600, repeats=5):
    chance, policy, now = random.Random(count), Policy(), 1000.0
    # Each other target holds a lane, and will soon have worked it off.
    homes = [(Offer(f"t{n}", 0.1),) if n < targets - 1 else () for n in range(count)]
    index = LaneIndex(policy, (facts(chance, n, now, homes[n]) for n in range(count)), now)
    here = Resident(f"lane{count - 1:06}", f"m{count - 1}", now - 10, 1)
    view = TargetView("t", 1, 1, (here,))
    put = chosen = math.inf
    for _ in range(repeats):  # the best of them: the machine may have other things to do
        views = [facts(chance, number, now, homes[number]) for number in chance.choices(range(count), k=events)]
        put = min(put, seconds(lambda views=views: [index.put(each, now) for each in views]) / events)
        chosen = min(
            chosen, seconds(lambda: [choose(index, view, now + n * 0.01, policy) for n in range(events)]) / events
        )
    scan = math.nan
    if count <= 10_000:
        lanes = list(index)
        scan = min(seconds(lambda: choose(lanes, view, now, policy)) for _ in range(repeats))
    both = put + chosen
    return f"{count:>7}{targets:>9}{put * 1e6:>9.1f}{chosen * 1e6:>12.1f}{both * 1e6:>8.1f}{scan * 1e6:>20.0f}"


def seconds(what):
    """Of this process on a core: others may use the machine, too."""
    began = time.process_time()
    what()
    return time.process_time() - began


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parts = {"table": table, "goals": goals, "optimum": optimum, "eta": eta, "cost": cost}
    parser.add_argument("parts", nargs="*", metavar="part", help=", ".join(parts))
    parser.add_argument("--traces", type=Path, metavar="DIR", help="files of this folder instead of our own workloads")
    given = parser.parse_args()
    if given.traces:
        files = sorted(given.traces.glob("*.jsonl*"))
        texts = [gzip.decompress(f.read_bytes()) if f.suffix == ".gz" else f.read_bytes() for f in files]
        traces = [read(text.decode().splitlines(), f.name) for text, f in zip(texts, files, strict=True)]
    else:
        traces = [workload(name) for name in WORKLOADS]
    for name in given.parts or parts:
        print(f"\n== {name}")
        parts[name](*([traces] if name in {"table", "eta"} else []))


if __name__ == "__main__":
    main()
