"""pytest's side of tests/needs.py: skips what lacks an outside part, and says so in the run's last lines.

FOREMAN_TEST_REQUIRE=all (set by .ci/run) turns every skip red, whatever its reason.
"""

from __future__ import annotations

import os
from collections import Counter

import pytest

from tests.needs import PARTS, missing

REQUIRE_ALL = "FOREMAN_TEST_REQUIRE"


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "needs(part, …): outside parts the test can't do without (tests/needs.py)")


def pytest_runtest_setup(item: pytest.Item) -> None:
    for mark in item.iter_markers("needs"):
        for part in mark.args:
            if PARTS[part].find() is None:
                pytest.skip(missing(part))


def _redden(report: pytest.TestReport | pytest.CollectReport) -> None:
    """A skip is a failure where everything is required. An expected failure is none."""
    if os.environ.get(REQUIRE_ALL) != "all" or not report.skipped or hasattr(report, "wasxfail"):
        return
    report.outcome = "failed"
    report.longrepr = f"skipped where {REQUIRE_ALL}=all: {_reason(report)}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport():
    report = yield
    _redden(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report():
    report = yield
    _redden(report)
    return report


def _reason(report: pytest.TestReport | pytest.CollectReport) -> str:
    text = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    return text.removeprefix("Skipped: ")


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter):
    yield  # the outermost wrapper: what follows is printed after everybody else's summary
    skipped = Counter(_reason(report) for report in terminalreporter.stats.get("skipped", []))
    if not skipped:
        return
    terminalreporter.section(f"{skipped.total()} skipped; FOREMAN_TEST_REQUIRE=all makes them red")
    for reason, count in skipped.most_common():
        terminalreporter.line(f"{count:4d}  {reason}")
