"""Workloads with a seed: sixteen kinds of traffic, each of which has undone some policy.

`foreman simulate --workload`, the benches and the tests call me and get a Trace. Times in seconds; a run is lognormal with a
coefficient of variation of 0.7, a load 8 s where nothing else is said.
"""

from __future__ import annotations

import math
import random
from typing import TYPE_CHECKING, Final

from foreman.core.jobs import Priority
from foreman.simulate.trace import Step, Trace, TraceAgent, TraceJob, TraceLane, TraceTarget

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

LOW, NORMAL, HIGH = Priority
SPREAD: Final = 0.7
"""Coefficient of variation of a run."""
ONE: Final = (TraceTarget("t0"),)

_Mix = dict[Priority, float]
_MIXED: Final[_Mix] = {HIGH: 0.3, NORMAL: 0.4, LOW: 0.3}
_PEOPLE: Final[_Mix] = {HIGH: 0.5, NORMAL: 0.3, LOW: 0.2}
_TWO: Final[_Mix] = {HIGH: 0.5, NORMAL: 0.5}


class Chance:
    """Draws of one workload."""

    def __init__(self, name: str, seed: int) -> None:
        self.random = random.Random(f"{name} {seed}")  # noqa: S311 - a workload, not a secret

    def run(self, mean: float) -> float:
        """A run with that mean."""
        spread = math.sqrt(math.log(1 + SPREAD**2))
        return round(self.random.lognormvariate(math.log(mean) - spread**2 / 2, spread), 4)

    def priority(self, mix: _Mix) -> Priority:
        """A class, by its share."""
        return self.random.choices(list(mix), list(mix.values()))[0]

    def arrivals(self, per_second: float, until: float) -> Iterator[float]:
        """Moments of calls that don't know of one another."""
        moment = self.random.expovariate(per_second)
        while moment < until:
            yield round(moment, 4)
            moment += self.random.expovariate(per_second)

    def calls(
        self, shares: Mapping[str, float], per_second: float, until: float, mean: float, mix: _Mix
    ) -> list[TraceJob]:
        """Calls to several lanes, each with its share of them."""
        lanes, weights = list(shares), list(shares.values())
        return [
            TraceJob(at, self.random.choices(lanes, weights)[0], self.run(mean), self.priority(mix))
            for at in self.arrivals(per_second, until)
        ]

    def agent(self, at: float, lanes: Sequence[str], count: int, mean: float, think: Callable[[], float]) -> TraceAgent:
        """An agent that calls the lanes in turn."""
        steps = tuple(Step(round(think(), 4), lanes[n % len(lanes)], self.run(mean)) for n in range(count))
        return TraceAgent(at, HIGH, steps)

    def bursts(self, pause: float, length: int) -> Callable[[], float]:
        """Thinking of one who calls tools: a second between calls, and about every `length` calls a long pause."""
        return lambda: (
            self.random.uniform(pause / 3, pause)
            if self.random.random() < 1 / length
            else self.random.uniform(0.2, 2.0)
        )


def _lanes(**loads: float) -> tuple[TraceLane, ...]:
    return tuple(TraceLane(lane, lane, load) for lane, load in loads.items())


def two_agents(chance: Chance) -> Trace:
    """Two agents, each on a lane of its own, a second of thought between calls."""
    agents = [
        chance.agent(at, lane, 60, 3.0, lambda: chance.random.lognormvariate(-0.2, 0.6))
        for at, lane in ((0.0, "a"), (0.5, "b"))
    ]
    return Trace("", 0, _lanes(a=8, b=8), ONE, agents=tuple(agents))


def nightly(chance: Chance) -> Trace:
    """People beside a batch of two thousand jobs of the lowest class."""
    batch = [TraceJob(0.0, "batch", chance.run(1.55), LOW) for _ in range(2000)]
    people = [
        chance.agent(chance.random.uniform(5, 50), [lane], 130, 5.0, lambda: chance.random.expovariate(1 / 90))
        for lane in ("chat", "chat", "code")
    ]
    return Trace("", 0, _lanes(chat=8, batch=8, code=10), ONE, tuple(batch), tuple(people))


def hot_trickle(chance: Chance) -> Trace:
    """One lane that is called four times a minute's worth of the target, another now and then."""
    jobs = chance.calls({"hot": 0.955, "trickle": 0.045}, 0.26, 7200, 3.0, {HIGH: 1.0})
    return Trace("", 0, _lanes(hot=8, trickle=8), ONE, tuple(jobs))


def num_ctx(chance: Chance) -> Trace:
    """One model with two context lengths: its lanes are never resident together, though there are two places."""
    lanes = TraceLane("m-4k", "m", 6), TraceLane("m-8k", "m", 6)
    jobs = chance.calls({"m-4k": 0.5, "m-8k": 0.5}, 0.164, 3600, 3.0, {NORMAL: 1.0})
    agent = chance.agent(5.0, ["m-4k", "m-8k"], 80, 3.3, lambda: chance.random.lognormvariate(0.3, 0.6))
    return Trace("", 0, lanes, (TraceTarget("t0", resident=2),), tuple(jobs), (agent,))


def embed_chat(chance: Chance) -> Trace:
    """An embedding each second beside two lanes of chat."""
    chat = chance.calls({"a": 0.5, "b": 0.5}, 0.116, 3600, 5.3, _TWO)
    embeddings = [TraceJob(at, "embed", 0.034, HIGH) for at in chance.arrivals(1.0, 3600)]
    lanes = (*_lanes(a=8, b=8), TraceLane("embed", "embed", 1.5, embedding=True))
    return Trace("", 0, lanes, ONE, (*chat, *embeddings))


def burst(chance: Chance) -> Trace:
    """A thousand jobs in five seconds, in four lanes."""
    shares = {"a": 0.375, "b": 0.3, "c": 0.2, "d": 0.125}
    lanes, weights = list(shares), list(shares.values())
    jobs = [
        TraceJob(
            round(chance.random.uniform(0, 5), 4), chance.random.choices(lanes, weights)[0], chance.run(2.0), NORMAL
        )
        for _ in range(1000)
    ]
    return Trace("", 0, _lanes(a=8, b=10, c=5, d=12), ONE, tuple(jobs))


def three_targets(chance: Chance) -> Trace:
    """Five lanes on three targets of unequal speed."""
    shares = {"m0": 0.35, "m1": 0.27, "m2": 0.2, "m3": 0.12, "m4": 0.06}
    targets = (
        TraceTarget("t0", speed=2.0, load_factor=0.7),
        TraceTarget("t1"),
        TraceTarget("t2", speed=0.5, load_factor=1.5),
    )
    jobs = chance.calls(shares, 0.43, 3600, 5.1, _PEOPLE)
    return Trace("", 0, _lanes(m0=8, m1=6, m2=12, m3=8, m4=20), targets, tuple(jobs))


def adversary(chance: Chance) -> Trace:
    """Three agents feed one lane so that it never runs empty; two other lanes are called seldom."""
    fed = [chance.agent(0.3 * n, ["fed"], 400, 3.0, lambda: 0.05) for n in range(3)]
    seldom = [TraceJob(at, "b", chance.run(3.0), NORMAL) for at in chance.arrivals(0.02, 3600)]
    lowest = [TraceJob(at, "c", chance.run(3.0), LOW) for at in chance.arrivals(0.002, 3600)]
    return Trace("", 0, _lanes(fed=8, b=8, c=8), ONE, (*seldom, *lowest), tuple(fed))


def bursty_agents(chance: Chance) -> Trace:
    """Six agents in four lanes that call tools: a few calls in a row, then a pause of minutes."""
    agents = [
        chance.agent(chance.random.uniform(0, 60), [lane], 80, 4.0, chance.bursts(180, 6))
        for lane in ("a", "b", "c", "d", "a", "b")
    ]
    return Trace("", 0, _lanes(a=8, b=8, c=12, d=5), ONE, agents=tuple(agents))


def zipf20(chance: Chance) -> Trace:
    """Twenty lanes, called the seldomer the higher their number, on a target that holds three."""
    loads = (3, 8, 5, 12, 20)
    lanes = tuple(TraceLane(f"z{n:02}", f"z{n:02}", loads[n % 5]) for n in range(20))
    shares = {f"z{n:02}": 1 / (n + 1) for n in range(20)}
    jobs = chance.calls(shares, 0.117, 7200, 4.0, {HIGH: 0.4, NORMAL: 0.4, LOW: 0.2})
    return Trace("", 0, lanes, (TraceTarget("t0", resident=3),), tuple(jobs))


def overload(chance: Chance) -> Trace:
    """For half an hour 1.3 times what the target can do, in three classes."""
    jobs = chance.calls({"a": 0.47, "b": 0.3, "c": 0.23}, 0.438, 1800, 3.0, _MIXED)
    return Trace("", 0, _lanes(a=8, b=8, c=8), ONE, tuple(jobs))


def slow_load(chance: Chance) -> Trace:
    """Three lanes that take a minute to load."""
    jobs = chance.calls({"a": 0.5, "b": 0.3, "c": 0.2}, 0.079, 7200, 5.1, _TWO)
    return Trace("", 0, _lanes(a=60, b=60, c=60), ONE, tuple(jobs))


def rho90(chance: Chance) -> Trace:
    """Two hours in which the runs alone take nine tenths of the time, in three classes."""
    jobs = chance.calls({"a": 0.51, "b": 0.29, "c": 0.2}, 0.3, 7200, 3.05, _MIXED)
    return Trace("", 0, _lanes(a=8, b=8, c=8), ONE, tuple(jobs))


def saturated(chance: Chance) -> Trace:
    """Two lanes that never run empty."""
    agents = [chance.agent(round(0.3 * n, 1), ["ab"[n % 2]], 171, 3.2, lambda: 0.05) for n in range(6)]
    return Trace("", 0, _lanes(a=8, b=8), ONE, agents=tuple(agents))


def four_equal(chance: Chance) -> Trace:
    """Six lanes on four equal targets; one of the lanes is more than one target can do."""
    shares = {"m0": 0.5, "m1": 0.18, "m2": 0.12, "m3": 0.08, "m4": 0.075, "m5": 0.045}
    jobs = chance.calls(shares, 0.52, 3600, 5.0, _PEOPLE)
    lanes = _lanes(**dict.fromkeys(shares, 8))
    return Trace("", 0, lanes, tuple(TraceTarget(f"t{n}") for n in range(4)), tuple(jobs))


def mixed(chance: Chance) -> Trace:
    """Calls, agents, deadlines and callers that leave, in three lanes."""
    draw = chance.random
    jobs = [
        TraceJob(
            job.at,
            job.lane,
            job.run_seconds,
            job.priority,
            round(draw.uniform(30, 120), 4) if draw.random() < 0.04 else None,
            round(draw.uniform(1, 40), 4) if draw.random() < 0.045 else None,
        )
        for job in chance.calls(
            {"a": 0.5, "b": 0.32, "c": 0.18}, 0.15, 5400, 4.05, {HIGH: 0.35, NORMAL: 0.47, LOW: 0.18}
        )
    ]
    agents = [chance.agent(at, [lane], 100, 3.0, chance.bursts(200, 6)) for at, lane in ((0.0, "a"), (20.0, "b"))]
    return Trace("", 0, _lanes(a=8, b=6, c=14), ONE, tuple(jobs), tuple(agents))


def two_lanes(load: float, loads: tuple[float, float] = (8, 8), seed: int = 1, seconds: float = 7200) -> Trace:
    """Two lanes of one class whose runs alone take the share `load` of the time."""
    chance = Chance(f"two_lanes {load} {loads}", seed)
    jobs = chance.calls({"a": 0.5, "b": 0.5}, load / 4.0, seconds, 4.0, {HIGH: 1.0})
    return Trace(f"two_lanes-{load}", seed, _lanes(a=loads[0], b=loads[1]), ONE, tuple(jobs))


WORKLOADS: Final[dict[str, Callable[[Chance], Trace]]] = {
    make.__name__: make
    for make in (
        two_agents,
        nightly,
        hot_trickle,
        num_ctx,
        embed_chat,
        burst,
        three_targets,
        adversary,
        bursty_agents,
        zipf20,
        overload,
        slow_load,
        rho90,
        saturated,
        four_equal,
        mixed,
    )
}
"""The sixteen kinds by name."""


def workload(name: str, seed: int = 1) -> Trace:
    """A trace of one of the kinds. Raises KeyError for another name."""
    made = WORKLOADS[name](Chance(name, seed))
    return Trace(name, seed, made.lanes, made.targets, made.jobs, made.agents)
