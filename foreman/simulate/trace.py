"""A trace: which lanes and targets there are, and what arrives when. The format is described in docs/scheduling.md.

The command line hands me the lines of a file and gets a Trace; workloads and `foreman trace export` hand me a Trace and get
lines. A line that is no such thing is a TraceError that names it. I open no file.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from foreman.core.jobs import Priority

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

VERSION: Final = 1
_MOST: Final = 1e10
"""Seconds at most, three centuries: past that the clock of a simulation would lose its milliseconds."""
_FACTOR: Final = 1000.0
"""How much faster or slower a target is at most."""


class TraceError(ValueError):
    """A trace that can't be read; the message names the line and what would be right."""


@dataclass(frozen=True, slots=True)
class TraceLane:
    """A lane. Its load is in seconds on a target whose `load_factor` is 1."""

    lane: str
    model: str
    load_seconds: float
    embedding: bool = False
    """Runs in the target's embedding slot and causes no swap."""


@dataclass(frozen=True, slots=True)
class TraceTarget:
    """A target."""

    target: str
    speed: float = 1.0
    """How much faster than `run_seconds` it runs a job alone."""
    load_factor: float = 1.0
    """How much slower than `load_seconds` it loads."""
    slots: int = 1
    """Jobs in flight at once per resident lane."""
    resident: int = 1
    """Lanes it holds at once."""
    slowdown_same: float = 0.15
    """What each other running job of the same lane adds to a run."""
    slowdown_other: float = 0.9
    """What each running job of another lane adds to a run."""


@dataclass(frozen=True, slots=True)
class TraceJob:
    """A call that comes at its time, whatever happens."""

    at: float
    """Seconds from the start of the trace."""
    lane: str
    run_seconds: float
    """Alone, on a target of speed 1."""
    priority: Priority
    deadline_seconds: float | None = None
    """From its arrival; not started by then, it is dropped."""
    cancel_after: float | None = None
    """From its arrival; running or not, it ends then."""


@dataclass(frozen=True, slots=True)
class Step:
    """One call of an agent, `think_seconds` after its previous one ended."""

    think_seconds: float
    lane: str
    run_seconds: float


@dataclass(frozen=True, slots=True)
class TraceAgent:
    """Calls that follow one another."""

    at: float
    priority: Priority
    steps: tuple[Step, ...]


@dataclass(frozen=True, slots=True)
class Trace:
    """A workload, whole."""

    name: str
    seed: int
    lanes: tuple[TraceLane, ...]
    targets: tuple[TraceTarget, ...]
    jobs: tuple[TraceJob, ...] = ()
    agents: tuple[TraceAgent, ...] = ()
    calls: tuple[tuple[str, float], ...] = field(init=False, repr=False)
    """Lane and run of every call, agents' included."""

    def __post_init__(self) -> None:
        steps = ((step.lane, step.run_seconds) for agent in self.agents for step in agent.steps)
        object.__setattr__(self, "calls", (*((job.lane, job.run_seconds) for job in self.jobs), *steps))
        known = {lane.lane for lane in self.lanes}
        for lane, _ in self.calls:
            if lane not in known:
                raise TraceError(f"trace {self.name!r}: lane {lane!r} is called, and its first line does not name it")

    def mean_runs(self) -> dict[str, float]:
        """Lane → the mean of its runs, for the lanes that are called; 5 s for the others."""
        runs: dict[str, list[float]] = {lane.lane: [] for lane in self.lanes}
        for lane, seconds in self.calls:
            runs[lane].append(seconds)
        return {lane: sum(each) / len(each) if each else 5.0 for lane, each in runs.items()}


_Head = tuple[str, int, tuple[TraceLane, ...], tuple[TraceTarget, ...]]
"""Name, seed, lanes and targets."""


def read(lines: Iterable[str], source: str = "trace") -> Trace:
    """A trace from its lines. Raises TraceError with `source` and the number of the line that is wrong."""
    head: _Head | None = None
    jobs: list[TraceJob] = []
    agents: list[TraceAgent] = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        where = f"{source}, line {number}"
        entry = _object(line, where)
        try:
            if head is None:
                head = _head(entry, source)
            elif "job" in entry:
                jobs.append(_job(_fields(entry["job"], "job")))
            else:
                agents.append(_agent(_fields(entry["agent"], "agent")))
        except (KeyError, ValueError) as error:
            raise TraceError(f"{where}: {_missing(error)}") from None
    if head is None:
        raise TraceError(f"{source}: empty; its first line names the lanes and targets")
    name, seed, lanes, targets = head
    return Trace(name, seed, lanes, targets, tuple(jobs), tuple(agents))


def write(trace: Trace) -> Iterator[str]:
    """The lines of a trace, without line ends."""
    head = {
        "trace": VERSION,
        "name": trace.name,
        "seed": trace.seed,
        "lanes": [_plain(lane) for lane in trace.lanes],
        "targets": [_plain(target) for target in trace.targets],
    }
    yield json.dumps(head)
    for job in trace.jobs:
        yield json.dumps({"job": _plain(job)})
    for agent in trace.agents:
        steps = [_plain(step) for step in agent.steps]
        yield json.dumps({"agent": {"at": agent.at, "priority": agent.priority.word, "steps": steps}})


def _plain(value: TraceLane | TraceTarget | TraceJob | Step) -> dict[str, Any]:
    """Its fields as JSON takes them; what is not set or false is left out."""
    fields = {name: getattr(value, name) for name in value.__slots__}
    return {
        name: item.word if isinstance(item, Priority) else item
        for name, item in fields.items()
        if item is not None and item is not False
    }


def _object(line: str, where: str) -> dict[str, Any]:
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError):
        raise TraceError(f"{where}: no JSON") from None
    if not isinstance(entry, dict):
        raise TraceError(f"{where}: no JSON object")
    return entry


def _head(entry: dict[str, Any], source: str) -> _Head:
    if entry.get("trace") != VERSION:
        raise ValueError(f'the first line is {{"trace": {VERSION}, "lanes": […], "targets": […]}}')
    seed = entry.get("seed") or 0
    if not isinstance(seed, int):
        raise ValueError(f"seed is {seed!r}: use a whole number")  # noqa: TRY004 - a wrong trace, not a wrong call
    lanes, targets = tuple(map(_lane, _list(entry, "lanes"))), tuple(map(_target, _list(entry, "targets")))
    if not lanes or not targets:
        raise ValueError("name at least one lane and one target")
    for names in ([lane.lane for lane in lanes], [target.target for target in targets]):
        name, count = Counter(names).most_common(1)[0]
        if count > 1:
            raise ValueError(f"{name!r} is named twice")
    return str(entry.get("name") or source), seed, lanes, targets


def _missing(error: Exception) -> str:
    return f"there is no {error.args[0]!r}" if isinstance(error, KeyError) else str(error)


def _fields(value: object, what: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"{what} is {value!r}: use a JSON object")  # noqa: TRY004 - as above
    return value


def _list(entry: Mapping[str, Any], key: str) -> list[Mapping[str, Any]]:
    value = entry[key]
    if not isinstance(value, list):
        raise ValueError(f"{key} is {value!r}: use a list of JSON objects")  # noqa: TRY004 - as above
    return [_fields(item, f"one of {key}") for item in value]


def _name(entry: Mapping[str, Any], key: str) -> str:
    value = entry[key]
    if not isinstance(value, str) or not value:
        raise ValueError(f"{key} is {value!r}: use a name")
    return value


def _number(
    entry: Mapping[str, Any], key: str, default: float | None = None, *, least: float = 0.0, most: float = _MOST
) -> float:
    value = entry[key] if default is None else entry.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
        raise ValueError(f"{key} is {value!r}: use a number from {least:g} to {most:g}")
    return float(value)


def _maybe(entry: Mapping[str, Any], key: str) -> float | None:
    return None if entry.get(key) is None else _number(entry, key)


def _count(entry: Mapping[str, Any], key: str) -> int:
    value = entry.get(key, 1)
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{key} is {value!r}: use a whole number from 1 on")
    return value


def _flag(entry: Mapping[str, Any], key: str) -> bool:
    value = entry.get(key, False)
    if not isinstance(value, bool):
        raise ValueError(f"{key} is {value!r}: use true or false")  # noqa: TRY004 - as above
    return value


def _lane(entry: Mapping[str, Any]) -> TraceLane:
    lane = _name(entry, "lane")
    model = _name(entry, "model") if entry.get("model") else lane
    return TraceLane(lane, model, _number(entry, "load_seconds"), _flag(entry, "embedding"))


def _target(entry: Mapping[str, Any]) -> TraceTarget:
    return TraceTarget(
        _name(entry, "target"),
        _number(entry, "speed", 1.0, least=1 / _FACTOR, most=_FACTOR),
        _number(entry, "load_factor", 1.0, most=_FACTOR),
        _count(entry, "slots"),
        _count(entry, "resident"),
        _number(entry, "slowdown_same", 0.15, most=_FACTOR),
        _number(entry, "slowdown_other", 0.9, most=_FACTOR),
    )


def _job(entry: Mapping[str, Any]) -> TraceJob:
    return TraceJob(
        _number(entry, "at"),
        _name(entry, "lane"),
        _number(entry, "run_seconds"),
        Priority.of(entry.get("priority", Priority.NORMAL.word)),
        _maybe(entry, "deadline_seconds"),
        _maybe(entry, "cancel_after"),
    )


def _agent(entry: Mapping[str, Any]) -> TraceAgent:
    steps = tuple(
        Step(_number(step, "think_seconds"), _name(step, "lane"), _number(step, "run_seconds"))
        for step in _list(entry, "steps")
    )
    return TraceAgent(_number(entry, "at"), Priority.of(entry.get("priority", Priority.HIGH.word)), steps)
