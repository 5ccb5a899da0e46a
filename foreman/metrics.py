"""The numbers of `/metrics`: their names, what they mean, and how what the store has counted becomes Prometheus' text.

web/ops/metrics_api.py hands me values and I render them; I ask nobody. What is counted stands in the store (include/
meters.lua), so no counter goes back when a process restarts; every gateway tells the same of the pool. Label sets are
bounded: states, codes and endpoints from closed lists, lanes the deepest LANES and `other`, targets at most TARGETS.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from prometheus_client import CollectorRegistry, Histogram, ProcessCollector
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from foreman.core.errors import Code

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

CONTENT_TYPE: Final = CONTENT_TYPE_LATEST
LANES: Final = 20
"""Lanes with a series of their own; the rest is `other`, which no lane can be called: a key has a digest or a tag."""
TARGETS: Final = 100
OTHER: Final = "other"
BUCKETS: Final = 21
"""Of each histogram of the pool: at most 1 ms × 2^i, and one for all that is longer (include/meters.lua)."""
_LATENCIES: Final = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
_WAITS: Final = tuple(0.001 * 4**power for power in range(10))
_HISTOGRAMS: Final = {
    "queue_wait": ("foreman_queue_wait_seconds", "From submit to claim, of jobs that ran to an end"),
    "load": ("foreman_load_seconds", "Loads of lanes, as measured"),
    "ttft": ("foreman_ttft_seconds", "From the sent request to the first byte of a streamed answer"),
    "tpot": ("foreman_tpot_seconds", "Between two tokens of a streamed answer, on the mean of each"),
    "total": ("foreman_job_seconds", "From submit to the end, of jobs that ran to an end"),
    "webhook": ("foreman_webhook_seconds", "Attempts at webhooks"),
}
_COUNTERS: Final = {
    "cancels": (
        "foreman_cancels",
        "Jobs that were cancelled, by why",
        "reason",
        ("caller_gone", "cancelled", "cleared"),
    ),
    "failures": ("foreman_failures", "Jobs that failed, by code", "code", tuple(str(code) for code in Code)),
    "tokens": (
        "foreman_tokens",
        "Tokens of jobs that ended: of prompts, of completions",
        "kind",
        ("completion", "prompt"),
    ),
    "webhooks": (
        *("foreman_webhook_attempts", "Attempts at webhooks, by how they ended", "outcome"),
        ("delivered", "failed", "gone"),
    ),
}
"""Kind → name, meaning, label, and the values that are told from the beginning: a rate needs a first 0."""
_ENDS: Final = ("done", "failed", "cancelled")
_REASONS: Final = ("room", "empty", "due", "class")


@dataclass(frozen=True, slots=True)
class Lane:
    """A lane with queued jobs."""

    lane: str
    depth: int
    oldest_wait: float
    bound: float | None = None


@dataclass(frozen=True, slots=True)
class Target:
    """A target at this moment."""

    name: str
    state: str
    running: int
    tokens_per_second: float


@dataclass(frozen=True, slots=True)
class Pool:
    """What the store says of the pool."""

    jobs: Mapping[str, int]
    """Living jobs by state."""
    lanes: Iterable[Lane]
    lanes_total: int
    lanes_jobs: int
    targets: Iterable[Target]
    counts: Mapping[str, int]
    """As include/meters.lua spells them."""
    swaps: Mapping[str, Mapping[str, int]]
    """Target → reason → swaps."""
    fifo_swaps: int
    seconds_saved: float
    seconds_for_fairness: float
    webhooks_open: int
    webhook_lag: float
    pauses: int
    workers: int
    gateways: int
    loop_lag: Mapping[str, float]
    """Role → the worst of its processes, seconds."""
    endpoints: frozenset[str] = field(default_factory=frozenset)
    """Those that may stand in a label."""


class Own:
    """What one gateway measures itself."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry(auto_describe=False)
        ProcessCollector(registry=self.registry)
        self._latency = Histogram(
            "foreman_store_latency_seconds",
            "Answers of the store to this gateway, asked once a second",
            buckets=_LATENCIES,
            registry=self.registry,
        )

        self._first_byte = Histogram(
            "foreman_first_byte_seconds",
            "From a call's coming to the first byte of its answer, at this gateway: its waiting and loading too",
            buckets=_WAITS,
            registry=self.registry,
        )

    def collect(self) -> Iterator[Metric]:
        """What was measured, without the moments at which measuring began."""
        for family in self.registry.collect():
            family.samples = [sample for sample in family.samples if not sample.name.endswith("_created")]
            yield family

    def answered(self, seconds: float) -> None:
        """A caller got the first byte of its answer so many seconds after its call had come."""
        self._first_byte.observe(seconds)

    def heard(self, latency: float | None) -> None:
        """The store took so many seconds; None: it did not answer."""
        if latency is not None:
            self._latency.observe(latency)


@dataclass(frozen=True, slots=True)
class Gateway:
    """One gateway at this moment."""

    own: Own
    version: str
    callers: int
    feeds: int
    store_up: bool


def render(gateway: Gateway, pool: Pool | None) -> bytes:
    """The text of `/metrics`; `pool` is None while the store is away: then nothing is said of it."""
    families = [*gateway.own.collect(), *_of_gateway(gateway), *(() if pool is None else _of_pool(pool))]
    return generate_latest(_Listed(families))


def names() -> frozenset[str]:
    """Every name that `/metrics` can hold, as it stands in a query: what docs and dashboards may ask for."""
    pool = Pool({}, (), 0, 0, (), {}, {}, 0, 0.0, 0.0, 0, 0.0, 0, 0, 0, {})
    own = Own()
    found: set[str] = set()
    for family in [*own.collect(), *_of_gateway(Gateway(own, "", 0, 0, store_up=True)), *_of_pool(pool)]:
        suffixes = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count")}.get(family.type, ("",))
        found |= {family.name + suffix for suffix in suffixes}
    return frozenset(found)


class _Listed(CollectorRegistry):
    """Families that stand already, in the shape `generate_latest` asks for."""

    def __init__(self, families: list[Metric]) -> None:
        super().__init__(auto_describe=False)
        self._families = families

    def collect(self) -> Iterator[Metric]:
        yield from self._families


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(name, text, value=value)


def _of_gateway(gateway: Gateway) -> Iterator[Metric]:
    info = GaugeMetricFamily("foreman_build_info", "The version of this gateway", labels=["version"])
    info.add_metric([gateway.version], 1)
    yield info
    yield _gauge("foreman_store_up", "Whether the store answers this gateway", float(gateway.store_up))
    yield _gauge("foreman_callers", "Callers that wait at this gateway", gateway.callers)
    yield _gauge("foreman_feeds", "Pages that follow this gateway's feed", gateway.feeds)


def _of_pool(pool: Pool) -> Iterator[Metric]:
    yield from _living(pool)
    yield from _lanes(pool)
    yield from _targets(pool)
    yield from _ended(pool)
    yield from _swaps(pool)
    yield _gauge("foreman_webhook_open", "Deliveries that have their turn and have not ended", pool.webhooks_open)
    yield _gauge(
        "foreman_webhook_lag_seconds", "How long the delivery that waits longest has had its turn", pool.webhook_lag
    )
    yield _gauge("foreman_pauses", "Lanes and targets that operators paused", pool.pauses)
    yield _gauge("foreman_workers", "Living workers", pool.workers)
    yield _gauge("foreman_gateways", "Living gateways", pool.gateways)
    lag = GaugeMetricFamily(
        "foreman_loop_lag_seconds",
        "How far behind the slowest process of a role was in the last second",
        labels=["role"],
    )
    for role, seconds in sorted(pool.loop_lag.items()):
        lag.add_metric([role], seconds)
    yield lag
    for name, (metric, text) in _HISTOGRAMS.items():
        yield _histogram(metric, text, name, pool.counts)


def _living(pool: Pool) -> Iterator[Metric]:
    jobs = GaugeMetricFamily("foreman_jobs_now", "Living jobs by state", labels=["state"])
    for state, count in pool.jobs.items():
        jobs.add_metric([state], count)
    yield jobs


def _lanes(pool: Pool) -> Iterator[Metric]:
    depth = GaugeMetricFamily("foreman_lane_depth", "Queued jobs of a lane", labels=["lane"])
    oldest = GaugeMetricFamily(
        "foreman_oldest_wait_seconds", "How long the oldest job of a lane waits", labels=["lane"]
    )
    bound = GaugeMetricFamily(
        "foreman_wait_bound_seconds", "What that wait stays below by the promise of no starvation", labels=["lane"]
    )
    lanes = sorted(pool.lanes, key=lambda lane: (-lane.depth, lane.lane))
    shown, rest = lanes[:LANES], lanes[LANES:]
    for lane in shown:
        depth.add_metric([lane.lane], lane.depth)
        oldest.add_metric([lane.lane], lane.oldest_wait)
        if lane.bound is not None:
            bound.add_metric([lane.lane], lane.bound)
    left = pool.lanes_jobs - sum(lane.depth for lane in shown)
    if left > 0:
        depth.add_metric([OTHER], left)
    if rest:
        oldest.add_metric([OTHER], max(lane.oldest_wait for lane in rest))
    yield depth
    yield oldest
    yield bound
    yield _gauge("foreman_lanes", "Lanes with queued jobs", pool.lanes_total)


def _targets(pool: Pool) -> Iterator[Metric]:
    up = GaugeMetricFamily("foreman_target_up", "1 up, 0 down", labels=["target"])
    paused = GaugeMetricFamily("foreman_target_paused", "1 where an operator paused it", labels=["target"])
    running = GaugeMetricFamily("foreman_target_running", "Jobs it runs", labels=["target"])
    pace = GaugeMetricFamily(
        "foreman_target_tokens_per_second", "Tokens a second of its running jobs", labels=["target"]
    )
    for target in list(pool.targets)[:TARGETS]:
        up.add_metric([target.name], float(target.state != "down"))
        paused.add_metric([target.name], float(target.state == "paused"))
        running.add_metric([target.name], target.running)
        pace.add_metric([target.name], target.tokens_per_second)
    yield from (up, paused, running, pace)


def _ended(pool: Pool) -> Iterator[Metric]:
    jobs = CounterMetricFamily("foreman_jobs", "Jobs that ended, by state and endpoint", labels=["state", "endpoint"])
    ended = dict.fromkeys(((state, endpoint) for state in _ENDS for endpoint in pool.endpoints), 0)
    counted = {kind: dict.fromkeys(first, 0) for kind, (_, _, _, first) in _COUNTERS.items()}
    for name, count in pool.counts.items():
        kind, _, rest = name.partition(":")
        if kind == "jobs":
            state, _, endpoint = rest.partition(":")
            key = state, endpoint if endpoint in pool.endpoints else OTHER
            ended[key] = ended.get(key, 0) + count
        elif kind in counted:
            counted[kind][rest] = count
    for (state, endpoint), count in sorted(ended.items()):
        jobs.add_metric([state, endpoint], count)
    yield jobs
    for kind, (metric, text, label, _) in _COUNTERS.items():
        family = CounterMetricFamily(metric, text, labels=[label])
        for value, count in sorted(counted[kind].items()):
            family.add_metric([value], count)
        yield family


def _swaps(pool: Pool) -> Iterator[Metric]:
    swaps = CounterMetricFamily("foreman_swaps", "Loads of lanes, by why they were chosen", labels=["target", "reason"])
    counted: dict[tuple[str, str], int] = defaultdict(int)
    for target in list(pool.targets)[:TARGETS]:
        counted.update(dict.fromkeys(((target.name, reason) for reason in _REASONS), 0))
    for number, (name, reasons) in enumerate(sorted(pool.swaps.items())):
        for reason, count in reasons.items():
            counted[name if number < TARGETS else OTHER, reason] += count
    for (name, reason), count in sorted(counted.items()):
        swaps.add_metric([name, reason], count)
    yield swaps
    text = "Loads that serving the same jobs in order of arrival would have taken"
    yield CounterMetricFamily("foreman_fifo_swaps", text, value=pool.fifo_swaps)
    yield _gauge("foreman_swap_seconds_saved", "Seconds of loads saved against order of arrival", pool.seconds_saved)
    text = "Seconds of loads that fairness has cost"
    yield CounterMetricFamily("foreman_fairness_seconds", text, value=pool.seconds_for_fairness)


def _histogram(metric: str, text: str, name: str, counts: Mapping[str, int]) -> Metric:
    total, buckets = 0, []
    for number in range(BUCKETS + 1):
        total += counts.get(f"bucket:{name}:{number}", 0)
        buckets.append((f"{0.001 * 2**number:g}" if number < BUCKETS else "+Inf", total))
    return HistogramMetricFamily(metric, text, buckets=buckets, sum_value=counts.get(f"sum:{name}", 0) / 1_000_000)
