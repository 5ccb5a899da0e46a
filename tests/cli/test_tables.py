"""Tables in a terminal: nothing from outside moves a cursor, however much there is stays a screen."""

from __future__ import annotations

import pytest

from foreman.cli import tables
from foreman.cli.top import drawn

NASTY = "evil\x1b[2J\u202e\u200b<b>"


def test_what_came_from_outside_stays_one_line_and_itself() -> None:
    assert tables.plain(NASTY) == "evil\ufffd[2J\ufffd\ufffd<b>"
    assert tables.plain("two\nlines") == "two\ufffdlines"
    assert tables.plain("עברית [bold]") == "עברית [bold]"


def test_ten_thousand_lanes_with_nasty_names_stay_a_screen(capsys) -> None:
    lane = {
        "lane": NASTY,
        "model": "x" * 200,
        "depth": 3,
        "oldest_wait_seconds": 65.0,
        "bound_seconds": 300.0,
        "eta_seconds": None,
        "running": 0,
        "recent": None,
        "paused": True,
    }
    state = {
        "now": "2026-11-21T12:00:00.000Z",
        "version": "1",
        "store": {"status": "unavailable", "latency_ms": None},
        "jobs": dict.fromkeys(("queued", "loading", "working", "done", "failed", "cancelled"), 0),
        "targets": [],
        "lanes": [lane] * 200,
        "lanes_more": {"lanes": 9800, "jobs": 9800},
        "ledger": {"swaps": 0, "fifo_swaps": 4, "seconds_saved": 40.0, "seconds_for_fairness": 0.0},
        "reasons": [f"bad {NASTY}"],
    }
    tables.show(drawn(state, away="no foreman answers"))
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert "\u202e" not in out
    assert len(out.splitlines()) < 45
    assert "and 9970 more lanes" in out
    assert "no targets" in out
    assert "! no foreman answers" in out
    assert "1m" in out
    assert "5m" in out


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, ""), (0.0, "0.0s"), (9.94, "9.9s"), (42.0, "42s"), (60.0, "1m"), (7200.0, "2h"), (172_800.0, "2d")],
)
def test_spans_at_a_glance(seconds, text) -> None:
    assert tables.span(seconds) == text
