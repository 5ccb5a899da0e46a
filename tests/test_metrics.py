"""The text of /metrics: what a parser makes of it, and how bounded it stays."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from foreman import metrics

EMPTY = metrics.Pool({}, (), 0, 0, (), {}, {}, 0, 0.0, 0.0, 0, 0.0, 0, 0, 0, {})
GATEWAY = metrics.Gateway(metrics.Own(), "1.2", 3, 4, store_up=True)


def samples(pool: metrics.Pool | None, gateway: metrics.Gateway = GATEWAY) -> dict[tuple, float]:
    """(name, *label values) → value, as a stranger's parser reads it."""
    return {
        (sample.name, *(sample.labels[label] for label in sorted(sample.labels))): sample.value
        for family in text_string_to_metric_families(metrics.render(gateway, pool).decode())
        for sample in family.samples
    }


def test_histograms_are_cumulative_and_in_seconds() -> None:
    counts = {"bucket:ttft:0": 2, "bucket:ttft:10": 1, "bucket:ttft:21": 4, "sum:ttft": 2_500_000}
    found = samples(dataclasses.replace(EMPTY, counts=counts))
    bucket = "foreman_ttft_seconds_bucket"
    assert [found[bucket, le] for le in ("0.001", "0.512", "1.024", "1048.58", "+Inf")] == [2, 2, 3, 3, 7]
    assert (found["foreman_ttft_seconds_sum",], found["foreman_ttft_seconds_count",]) == (2.5, 7)


def test_hostile_lanes_are_escaped_and_bounded() -> None:
    names = ["<script>", 'a"b', "back\\slash", "new\nline", "\u202eRTL", "x" * 120]
    lanes = [metrics.Lane(name, 100 - number, 1.0, 2.0) for number, name in enumerate(names)]
    lanes += [metrics.Lane(f"lane-{number}", 1, 3.0 + number) for number in range(180)]
    found = samples(dataclasses.replace(EMPTY, lanes=lanes, lanes_total=10_000, lanes_jobs=12_345))
    depth = {key[1]: value for key, value in found.items() if key[0] == "foreman_lane_depth"}
    assert len(depth) == metrics.LANES + 1
    assert set(names) < depth.keys()
    assert sum(depth.values()) == 12_345, "what has no series of its own is counted"
    assert found["foreman_oldest_wait_seconds", "other"] == 182.0
    assert found["foreman_lanes",] == 10_000


def test_what_is_in_no_closed_list_makes_no_label() -> None:
    counts = {"jobs:done:/api/chat": 1, "jobs:done:/x1": 2, "jobs:done:/x2": 3}
    found = samples(dataclasses.replace(EMPTY, counts=counts, endpoints=frozenset({"/api/chat"})))
    jobs = {key[1:]: value for key, value in found.items() if key[0] == "foreman_jobs_total" and value}
    assert jobs == {("/api/chat", "done"): 1, ("other", "done"): 5}


def test_targets_that_left_are_summed_up() -> None:
    swaps = {f"gpu{number:04}": {"due": 1} for number in range(300)}
    found = samples(dataclasses.replace(EMPTY, swaps=swaps))
    counted = {key: value for key, value in found.items() if key[0] == "foreman_swaps_total"}
    assert len(counted) == metrics.TARGETS + 1
    assert sum(counted.values()) == 300


def test_a_rate_has_its_first_zero() -> None:
    target = metrics.Target("gpu1", "up", 0, 0.0)
    found = samples(dataclasses.replace(EMPTY, targets=[target], endpoints=frozenset({"/api/chat"})))
    for key in (
        ("foreman_jobs_total", "/api/chat", "failed"),
        ("foreman_failures_total", "stalled"),
        ("foreman_swaps_total", "class", "gpu1"),
        ("foreman_webhook_attempts_total", "delivered"),
        ("foreman_cancels_total", "cleared"),
        ("foreman_tokens_total", "completion"),
    ):
        assert found[key] == 0


def test_with_the_store_away_there_is_no_word_of_the_pool() -> None:
    found = samples(None, dataclasses.replace(GATEWAY, store_up=False))
    assert found["foreman_store_up",] == 0
    assert {key[0] for key in found if key[0].startswith("foreman_")} == {
        *("foreman_build_info", "foreman_store_up", "foreman_callers", "foreman_feeds"),
        *(f"foreman_store_latency_seconds_{part}" for part in ("bucket", "count", "sum")),
        *(f"foreman_first_byte_seconds_{part}" for part in ("bucket", "count", "sum")),
    }


def test_names_are_those_that_come_out() -> None:
    counts = {"jobs:done:/api/chat": 1}
    lane, target = metrics.Lane("a", 1, 1.0, 1.0), metrics.Target("gpu1", "paused", 1, 2.0)
    pool = dataclasses.replace(
        EMPTY,
        jobs={"queued": 1},
        lanes=[lane],
        lanes_jobs=1,
        targets=[target],
        counts=counts,
        loop_lag={"worker": 0.1},
        endpoints=frozenset({"/api/chat"}),
    )
    assert {key[0] for key in samples(pool)} == metrics.names()


PROMISED = {
    "foreman_jobs_total": {"state", "endpoint"},
    "foreman_lane_depth": {"lane"},
    "foreman_oldest_wait_seconds": {"lane"},
    **{f"foreman_{what}_seconds_bucket": {"le"} for what in ("queue_wait", "load", "ttft", "tpot")},
    "foreman_tokens_total": {"kind"},
    "foreman_swaps_total": {"target", "reason"},
    "foreman_webhook_attempts_total": {"outcome"},
}


def test_dashboards_of_others_find_what_was_promised() -> None:
    """docs/api.md promises these names and labels for good."""
    target, lane = metrics.Target("gpu1", "up", 0, 0.0), metrics.Lane("a", 1, 1.0)
    pool = dataclasses.replace(EMPTY, targets=[target], lanes=[lane], lanes_jobs=1, endpoints=frozenset({"/api/chat"}))
    found: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(metrics.render(GATEWAY, pool).decode()):
        for sample in family.samples:
            found.setdefault(sample.name, set()).update(sample.labels)
    assert {name: found.get(name) for name in PROMISED} == PROMISED


def test_the_docs_tell_of_every_metric_and_of_no_other() -> None:
    text = (Path(__file__).parent.parent / "docs" / "api.md").read_text()
    told = {name for name in re.findall(r"`(foreman_[a-z_]+)`", text) if not name.endswith("_")}
    suffix = re.compile("_(bucket|sum|count)$")
    assert told == {suffix.sub("", name) for name in metrics.names() if name.startswith("foreman_")}
