"""What the store says after a fault run of the promises about time: how long it took, and what broke its bound.

The run calls me beside the judge. A span is judged unless something else was done to the pool in it, or a process that
only sleeps, or of recovery one that works now and then, was late by a tenth of the bound: then the machine was too busy.
"""

from __future__ import annotations

import itertools
import json
from collections import defaultdict
from typing import TYPE_CHECKING, Final

from tests.faults.injectors import NUMBERS
from tests.faults.judge import OUTAGES, Promise
from tests.faults.topology import WORKER_GRACE

if TYPE_CHECKING:
    from tests.faults.judge import Kept
    from tests.faults.ledger import Ledger
    from tests.faults.report import Lates

RECOVERY: Final = 6.0
HANDED_BACK: Final = 1.0
"""Seconds, contract of docs/reliability.md."""


class Timed:
    """The promises about time of one run."""

    def __init__(self, ledger: Ledger, jobs: dict[str, Kept], naps: Lates, work: Lates) -> None:
        self.ledger = ledger
        self.jobs = jobs
        self.naps = naps
        """When the control process that only sleeps was late, and by how much, in seconds."""
        self.both = [*naps, *work]
        """The same, and of the one that works: to bring back what the dead left takes work, to hand back a job hardly any."""

    def all(self) -> list[Promise]:
        return [self.claimed(), self.again(), self.back(), self.handed_back()]

    def claimed(self) -> Promise:
        """From a worker's SIGKILL to the next claim of what it ran; of all jobs.

        Judged where their target had room: whoever owned it next claimed nothing else there first. Where it did (a job
        that was due before, or of a lane that was resident), the job waited for its turn among others, as any other does.
        """
        promise = Promise(f"claimed again within {RECOVERY:g} s of a worker's SIGKILL")
        claims = self._claims()
        first, later = [], []
        for job in self.jobs.values():
            for last, back, next_ in _triples(job.events):
                if back["reason"] == "interrupted" and next_["reason"] == "claimed":
                    since, its = self.ledger.kills.get(last["worker"], 0.0), int(next_["time"]) / 1000
                    others = claims[next_["worker"], job.row.get("target", "")]
                    (later if any(since < at < its for at in others) else first).append((last, its))
        calm, storm = self._recovery(promise, first)
        behind, _ = self._recovery(Promise(""), later)
        promise.seen = f"{_spread(calm)}; in turn behind others {_spread(behind)}; amid other blows {_spread(storm)}"
        return promise

    def again(self) -> Promise:
        """From a worker's SIGKILL to the first claim on its target of whoever owns that next: of that job or another."""
        promise = Promise(f"its target works again within {RECOVERY:g} s of a worker's SIGKILL")
        claims = self._claims()
        spans = []
        for job in self.jobs.values():
            for last, back, next_ in _triples(job.events) if _number(job) >= NUMBERS else ():
                if back["reason"] == "interrupted" and next_["reason"] == "claimed":
                    since, its = self.ledger.kills.get(last["worker"], 0.0), int(next_["time"]) / 1000
                    there = claims[next_["worker"], job.row.get("target", "")]
                    spans.append((last, min((at for at in there if at >= since), default=its)))
        calm, storm = self._recovery(promise, spans)
        promise.seen = f"{_spread(calm)}; amid other blows {_spread(storm)}"
        return promise

    def _claims(self) -> dict[tuple[str, str], list[float]]:
        """Worker and target → when it claimed jobs there, seconds since 1970."""
        claims: dict[tuple[str, str], list[float]] = defaultdict(list)
        for job in self.jobs.values():
            for claim in job.claims():
                claims[claim["worker"], job.row.get("target", "")].append(int(claim["time"]) / 1000)
        return claims

    def back(self) -> Promise:
        """From a worker's SIGKILL to the moment in which what it ran stands at the head of its lane; of all jobs."""
        promise = Promise(f"back in its lane within {RECOVERY:g} s of a worker's SIGKILL")
        steps = [pair for job in self.jobs.values() for pair in itertools.pairwise(job.events)]
        spans = [(last, int(back["time"]) / 1000) for last, back in steps if back["reason"] == "interrupted"]
        calm, storm = self._recovery(promise, spans)
        promise.seen = f"{_spread(calm)}; amid other blows {_spread(storm)}"
        return promise

    def _recovery(self, promise: Promise, spans: list[tuple[dict[str, str], float]]) -> tuple[list[float], list[float]]:
        """The seconds it took, those that are judged and those amid other blows.

        Args:
            spans: what the lost worker had written last, and when it was made good.
        """
        calm: list[float] = []
        storm: list[float] = []
        for last, ended in spans:
            killed = self.ledger.kills.get(last["worker"])
            if killed is None or ended < killed:
                continue
            took = ended - killed
            if self.ledger.between(killed, min(ended, killed + RECOVERY), *OUTAGES) or (
                took > RECOVERY and self._heir_died(killed, ended, last["worker"])
            ):
                storm.append(took)
                continue
            calm.append(took)
            if took > RECOVERY:
                if (late := _late(self.both, killed, killed + took)) > RECOVERY / 10:
                    promise.unjudged = f"some not judged: the machine was late by {late:.2f} s"
                else:
                    promise.breaches.append(f"{took:.2f} s after the kill of {last['worker']}")
        return calm, storm

    def handed_back(self) -> Promise:
        """From the end of a worker's grace to the hand-back of what it still ran."""
        promise = Promise(f"handed back within {HANDED_BACK:g} s of a SIGTERM's grace, no attempt used")
        took: list[float] = []
        for job in self.jobs.values():
            for before, event in itertools.pairwise(job.events):
                told = self.ledger.terms.get(event["worker"])
                if event["state"] != "queued" or told is None or int(event["time"]) / 1000 < told:
                    continue
                if event["reason"] not in {"shutdown", "released", "retired"}:  # the last: claimed as the signal came
                    promise.breaches.append(f"{job.id}: {event['reason']} after SIGTERM")
                    continue
                if event["attempt"] != before["attempt"]:
                    promise.breaches.append(f"{job.id}: the hand-back used an attempt")
                after = int(event["time"]) / 1000 - told - WORKER_GRACE
                took.append(max(0.0, after))
                if after > HANDED_BACK and not self.ledger.between(told, told + after, *OUTAGES):
                    if (late := _late(self.naps, told, told + after)) > HANDED_BACK / 10:
                        promise.unjudged = f"not judged: the machine was late by {late:.2f} s"
                    else:
                        promise.breaches.append(f"{job.id}: {after:.2f} s after the grace")
        promise.seen = _spread(took)
        return promise

    def _heir_died(self, began: float, ended: float, worker: str) -> bool:
        """Whether another worker was ended in that span too, or had just been: the one that would have taken over."""
        blows = [*self.ledger.kills.items(), *self.ledger.terms.items()]
        return any(other != worker and began - 2.0 <= at <= ended for other, at in blows)


def _late(lates: Lates, began: float, ended: float) -> float:
    """By how much the control processes were late in a span, at most."""
    return max((late for at, late in lates if began <= at and at - late <= ended), default=0.0)


def _number(job: Kept) -> int:
    return int(json.loads(job.row.get("metadata") or "{}").get("number", 0))


def _triples(events: list[dict[str, str]]) -> list[tuple[dict[str, str], ...]]:
    return list(zip(events, events[1:], events[2:], strict=False))


def _spread(took: list[float]) -> str:
    """p50, p99 and max of some seconds."""
    if not took:
        return "none"
    took = sorted(took)
    return (
        f"{len(took)}: p50 {took[len(took) // 2]:.2f}, p99 {took[min(len(took) - 1, int(len(took) * 0.99))]:.2f}, "
        f"max {took[-1]:.2f} s"
    )
