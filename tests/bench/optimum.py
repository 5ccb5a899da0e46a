"""The shortest makespan that any schedule of a small trace can have, by search over all of them.

The scheduling bench compares foreman with me. One target, one slot, one place. I know all arrivals beforehand; yet I load no
lane before one of its jobs has come, as nobody can who is asked now.
"""

import functools
import math
import random

from foreman.core.jobs import Priority
from foreman.simulate.trace import Step, Trace, TraceAgent, TraceJob, TraceLane, TraceTarget


def small_open_trace(seed):
    """4 to 12 calls to 2 to 4 lanes that know nothing of one another."""
    chance = random.Random(f"open {seed}")
    lanes = [TraceLane(name, name, chance.choice([2.0, 5.0, 8.0, 20.0])) for name in "abcd"[: chance.randint(2, 4)]]
    gap = chance.choice([0.5, 2.0, 5.0, 10.0])
    moment, jobs = 0.0, []
    for _ in range(chance.randint(4, 12)):
        moment += chance.expovariate(1 / gap)
        jobs.append(TraceJob(moment, chance.choice(lanes).lane, chance.lognormvariate(0.9, 0.6), Priority.HIGH))
    return Trace(f"open-{seed}", seed, tuple(lanes), (TraceTarget("t"),), tuple(jobs))


def small_agents_trace(seed):
    """2 or 3 agents with 4 to 8 calls each, each agent in one lane."""
    chance = random.Random(f"agents {seed}")
    lanes = [TraceLane(name, name, chance.choice([5.0, 8.0, 12.0])) for name in "ab"]
    agents = [
        TraceAgent(
            round(chance.uniform(0, 3), 3),
            Priority.HIGH,
            tuple(
                Step(chance.lognormvariate(-0.2, 0.6), lanes[number % 2].lane, chance.lognormvariate(0.9, 0.6))
                for _ in range(chance.randint(4, 8))
            ),
        )
        for number in range(chance.randint(2, 3))
    ]
    return Trace(f"agents-{seed}", seed, tuple(lanes), (TraceTarget("t"),), agents=tuple(agents))


def open_optimum(trace):
    """The least makespan of calls that come at fixed times.

    Inside a lane jobs may run in order of arrival: another order ends no earlier. So how many of each lane have run, and
    which lane is loaded, say all that matters; of two ways there, the one that is there first is never worse.
    """
    load = {lane.lane: lane.load_seconds for lane in trace.lanes}
    queues = {name: sorted((job.at, job.run_seconds) for job in trace.jobs if job.lane == name) for name in load}
    names = [name for name in load if queues[name]]

    @functools.cache
    def earliest(done, loaded):
        """When that many of each lane can have ended, with that lane loaded last."""
        if not any(done):
            return 0.0 if loaded == -1 else math.inf
        best = math.inf
        if loaded == -1 or not done[loaded]:
            return best
        before = (*done[:loaded], done[loaded] - 1, *done[loaded + 1 :])
        at, run = queues[names[loaded]][before[loaded]]
        for other in range(-1, len(names)):
            since = earliest(before, other)
            if since < math.inf:
                ready = max(since, at)
                best = min(best, ready + run if other == loaded else ready + load[names[loaded]] + run)
        return best

    return min(earliest(tuple(len(queues[name]) for name in names), last) for last in range(len(names)))


def agents_optimum(trace):
    """The least makespan of agents, whose next call waits for the end of the last: every order of their calls is tried."""
    load = {lane.lane: lane.load_seconds for lane in trace.lanes}
    agents = [(agent.at, agent.steps) for agent in trace.agents]
    rest = [[sum(step.run_seconds for step in steps[n:]) for n in range(len(steps) + 1)] for _, steps in agents]
    best = math.inf
    seen = {}

    def go(now, loaded, done, ready):
        nonlocal best
        left = [index for index, (_, steps) in enumerate(agents) if done[index] < len(steps)]
        if not left:
            best = min(best, now)
            return
        if now + sum(rest[index][done[index]] for index in left) >= best:
            return
        key = loaded, done
        others = seen.setdefault(key, [])
        mine = (now, *ready)
        if any(all(theirs <= own for theirs, own in zip(other, mine, strict=True)) for other in others):
            return
        others.append(mine)
        for index in sorted(left, key=lambda index: ready[index]):
            step = agents[index][1][done[index]]
            start = max(now, ready[index]) + (0 if step.lane == loaded else load[step.lane])
            end = start + step.run_seconds
            number = done[index] + 1
            steps = agents[index][1]
            think = steps[number].think_seconds if number < len(steps) else 0.0
            go(
                end,
                step.lane,
                (*done[:index], number, *done[index + 1 :]),
                (*ready[:index], end + think, *ready[index + 1 :]),
            )

    go(0.0, None, (0,) * len(agents), tuple(at for at, _ in agents))
    return best
