"""What the judge of a fault run takes for a breach, and what it doesn't: on jobs and events made here."""

from __future__ import annotations

import json

import pytest

from tests.faults.judge import Kept, _untrue
from tests.faults.ledger import Ledger, Sent
from tests.faults.timed import Timed
from tests.faults.topology import WORKER_GRACE

TOLD = 1000.0
"""When the worker got its SIGTERM, seconds since 1970."""


def event(state: str, reason: str, at: float, attempt: int = 1) -> dict[str, str]:
    return {"state": state, "reason": reason, "time": str(int(at * 1000)), "attempt": str(attempt), "worker": "wk-1"}


@pytest.mark.parametrize("reason", ["shutdown", "retired"])
@pytest.mark.parametrize(
    ("seconds", "attempt", "late", "broken"),
    [(0.2, 1, 0.0, False), (1.5, 1, 0.0, True), (1.5, 1, 0.2, False), (0.2, 2, 0.0, True)],
)
def test_handed_back(reason: str, seconds: float, attempt: int, late: float, broken: bool):
    ledger = Ledger(1)
    ledger.terms["wk-1"] = TOLD
    ended = TOLD + WORKER_GRACE + seconds
    job = Kept(
        "J", {"state": "queued"}, [event("working", "claimed", TOLD - 1), event("queued", reason, ended, attempt)], None
    )
    promise = Timed(ledger, {"J": job}, [(TOLD + 1, late)] if late else [], [(TOLD + 1, 9.0)]).handed_back()
    assert bool(promise.breaches) is broken
    assert bool(promise.unjudged) is bool(late)


@pytest.mark.parametrize(
    ("naps", "work", "broken"), [([], [], True), ([0.7], [], False), ([], [0.7], False), ([0.3], [0.3], True)]
)
def test_back_in_its_lane(naps: list[float], work: list[float], broken: bool):
    ledger = Ledger(1)
    ledger.kills["wk-1"] = TOLD
    job = Kept("J", {}, [event("working", "claimed", TOLD - 1), event("queued", "interrupted", TOLD + 7, 2)], None)
    lates = ([(TOLD + 3, one) for one in some] for some in (naps, work))
    assert bool(Timed(ledger, {"J": job}, *lates).back().breaches) is broken


def test_a_webhook_that_says_what_is_not_so():
    sent = Sent(1, "/ok/1", 2, TOLD)
    job = Kept("J", {"state": "done"}, [event("queued", "submitted", TOLD), event("done", "answered", TOLD)], None)
    whole = {"message": {"content": "1-2-1000000.0 1-2-1000000.1"}}
    assert _untrue({"seq": 1, "state": "queued", "result": None}, sent, job) == ""
    assert _untrue({"seq": 2, "state": "done", "result": whole}, sent, job) == ""
    assert "does not" in _untrue({"seq": 2, "state": "failed", "result": None}, sent, job)
    assert "does not" in _untrue({"seq": 3, "state": "done", "result": whole}, sent, job)
    assert "0 of 2 tokens" in _untrue({"seq": 2, "state": "done", "result": None}, sent, job)
    half = json.loads(json.dumps(whole).replace(" 1-2-1000000.1", ""))
    assert "1 of 2 tokens" in _untrue({"seq": 2, "state": "done", "result": half}, sent, job)
