"""What docs/deploy asks Prometheus for exists, under the labels by which it asks."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from foreman import metrics
from tests.test_metrics import EMPTY, GATEWAY

DEPLOY = Path(__file__).parent.parent / "docs" / "deploy"
DASHBOARD = json.loads((DEPLOY / "grafana.json").read_text())
RULES = [rule for group in yaml.safe_load((DEPLOY / "alerts.yaml").read_text())["groups"] for rule in group["rules"]]
_SELECTOR = re.compile(r"\b((?:foreman|process)_[a-z_]+)(?:\{([^}]*)\})?")
_FOREIGN = {"up": {"job", "instance"}}
_SCRAPED = {"instance", "job"}


def _expressions() -> dict[str, str]:
    found = {
        f"{panel['title']} {target['refId']}": target["expr"]
        for panel in DASHBOARD["panels"]
        for target in panel.get("targets", ())
    }
    return found | {rule["alert"]: rule["expr"] for rule in RULES}


def _labels() -> dict[str, set[str]]:
    """Name → labels, as they come out where everything is there."""
    pool = dataclasses.replace(
        EMPTY,
        jobs={"queued": 1},
        lanes=[metrics.Lane("a", 1, 1.0, 1.0)],
        lanes_jobs=1,
        targets=[metrics.Target("gpu1", "up", 1, 2.0)],
        loop_lag={"worker": 0.1},
        endpoints=frozenset({"/api/chat"}),
    )
    found: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(metrics.render(GATEWAY, pool).decode()):
        for sample in family.samples:
            found.setdefault(sample.name, set()).update(sample.labels)
    return found


LABELS = _labels()


@pytest.mark.parametrize("name", _expressions())
def test_what_is_asked_for_exists(name) -> None:
    expression = _expressions()[name]
    asked = _SELECTOR.findall(expression)
    assert asked or expression.startswith("up"), expression
    known = set(_SCRAPED)
    for metric, matchers in asked:
        assert metric in metrics.names(), metric
        known |= LABELS[metric]
        for matcher in filter(None, matchers.split(",")):
            assert matcher.partition("=")[0].strip() in LABELS[metric] | _SCRAPED
    for grouped in re.findall(r"\b(?:by|without) \(([^)]*)\)", expression):
        assert {label.strip() for label in grouped.split(",")} <= known
    assert expression.count("(") == expression.count(")")


def test_legends_name_labels_that_are_left() -> None:
    for panel in DASHBOARD["panels"]:
        for target in panel.get("targets", ()):
            known = _SCRAPED.union(*(LABELS[metric] for metric, _ in _SELECTOR.findall(target["expr"])))
            assert set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"])) <= known


def test_closed_values_are_those_that_exist() -> None:
    text = " ".join(_expressions().values())
    assert set(re.findall(r'state="(\w+)"', text)) <= {"queued", "loading", "working", "done", "failed", "cancelled"}
    assert set(re.findall(r'outcome="(\w+)"', text)) <= {"delivered", "failed", "gone"}
    from foreman.core.errors import Code

    assert set(re.findall(r'code="(\w+)"', text)) <= set(Code)


def test_every_alert_says_what_is_wrong_and_what_to_do() -> None:
    names = [rule["alert"] for rule in RULES]
    assert len(set(names)) == len(names)
    for rule in RULES:
        assert rule["labels"]["severity"] in {"critical", "warning", "info"}
        assert rule["annotations"].keys() == {"summary", "description"}


def test_every_number_of_the_pool_stands_on_the_dashboard() -> None:
    shown = {name for expression in _expressions().values() for name, _ in _SELECTOR.findall(expression)}
    bare = {re.sub(r"_(bucket|sum|count)$", "", name) for name in metrics.names() if name.startswith("foreman_")}
    left_out = bare - {re.sub(r"_(bucket|sum|count)$", "", name) for name in shown}
    assert left_out == {"foreman_build_info", "foreman_lanes", "foreman_pauses"}


def test_the_dashboard_has_no_two_panels_in_one_place() -> None:
    places = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in DASHBOARD["panels"]]
    assert len(set(places)) == len(places)
