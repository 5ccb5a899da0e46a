"""What the store and the receivers say after a fault run, held against the ledger: each promise, and what breaks it.

The run calls me once everything is quiet. I read the store past all wires, key by key, with my own copy of the table of
legal moves, so that a mistake in foreman's is seen. What I return is a list of promises with their breaches.
"""

from __future__ import annotations

import json
import math
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from foreman.store.keys import ARQ, PERMANENT, Keys
from tests.faults.ledger import Said
from tests.faults.topology import POOL

if TYPE_CHECKING:
    from tests.faults.ledger import Ledger, Sent, Try
    from tests.faults.topology import Topology
    from tests.receivers import Receivers

TERMINAL: Final = frozenset({"done", "failed", "cancelled"})
EDGES: Final = {
    "": {"queued"},
    "queued": {"loading", "working", "failed", "cancelled"},
    "loading": {"queued", "working", "failed", "cancelled"},
    "working": {"queued", "done", "failed", "cancelled"},
}
SLACK: Final = 0.05
"""Seconds by which two processes' readings of one clock may differ."""
LOST: Final = frozenset({"poison", "interrupted"})
TARGETS_OWN: Final = frozenset({"upstream_error", "upstream_truncated", "upstream_unreachable", "stalled"})
OUTAGES: Final = ("SIGKILL store", "store full (OOM)", "store read-only", "zombie", "frozen for nothing", "cable cut", "cable slow",
                  "cable black hole", "cable black hole one way", "lease forgotten")  # fmt: skip
"""What a span must be free of for its seconds to be judged."""


@dataclass(slots=True)
class Promise:
    """One line of the table."""

    name: str
    seen: str = ""
    """What was counted or measured."""
    breaches: list[str] = field(default_factory=list)
    unjudged: str = ""
    """Why a promise about time was not judged."""


@dataclass(slots=True)
class Kept:
    """A job as the store has it."""

    id: str
    row: dict[str, str]
    events: list[dict[str, str]]
    answer: str | None

    @property
    def end(self) -> str | None:
        return self.row["state"] if self.row["state"] in TERMINAL else None

    @property
    def code(self) -> str:
        return str(json.loads(self.row.get("error") or "{}").get("code", ""))

    def claims(self) -> list[dict[str, str]]:
        return [event for event in self.events if event["reason"] == "claimed"]


async def read(pool: Topology) -> dict[str, Kept]:
    """Every job of the store."""
    prefix = f"{pool.key}job:"
    names = [key.removeprefix(prefix) async for key in pool.look.scan_iter(match=f"{prefix}*", count=1000)]
    return await read_some(pool, [name for name in names if ":" not in name])


async def read_some(pool: Topology, names: list[str]) -> dict[str, Kept]:
    """These jobs, each as it is at one moment; without those that are no more."""
    found = {}
    for job_id in names:
        key = f"{pool.key}job:{job_id}"
        async with pool.look.pipeline(transaction=True) as pipe:
            pipe.hgetall(key)
            pipe.xrange(f"{key}:events")
            pipe.get(f"{key}:artifact:completion")
            row, entries, answer = await pipe.execute()
        if "state" in row:
            found[job_id] = Kept(job_id, row, [dict(entry) for _, entry in entries], answer)
    return found


class Judge:
    """All checks of one run of what must hold exactly."""

    def __init__(self, pool: Topology, ledger: Ledger, jobs: dict[str, Kept]) -> None:
        self.pool = pool
        self.ledger = ledger
        self.jobs = jobs
        self._given_up: dict[int, list[Kept]] = defaultdict(list)
        """Jobs that ended because their caller had enough, by the second of it and those around."""
        self._keyed = {job.row["idempotency_key"]: job for job in jobs.values() if "idempotency_key" in job.row}
        for job in jobs.values():
            if job.code == "caller_gone":
                second = int(job.row["finished_at"]) // 1000
                for around in range(second - 5, second + 6):
                    self._given_up[around].append(job)

    def all(self) -> list[Promise]:
        """The promises about jobs; those about time, webhooks and keys come from elsewhere."""
        return [
            self.lost(), self.one_end(), self.edges(), self.epochs(), self.splices(), self.stale(), self.explained(),
            self.sockets(), self.idempotency(), self.processes(),
        ]  # fmt: skip

    def so_far(self) -> list[str]:
        """What is broken already of what must hold exactly, in jobs that have ended."""
        promises = (self.one_end(), self.edges(), self.epochs(), self.splices(), self.stale())
        return [f"{promise.name}: {breach}" for promise in promises for breach in promise.breaches]

    # ------------------------------------------------------------------ exactly

    def lost(self) -> Promise:
        """Whatever was accepted is there, and has come to an end."""
        promise = Promise("every accepted job has ended")
        known = [(f"job {one.number}", one.job_id) for one in self.ledger.sent if one.job_id]
        known += [(f"call {one.call}", one.job_id) for one in self.ledger.tries if one.job_id]
        for name, job_id in known:
            if job_id not in self.jobs:
                promise.breaches.append(f"{name} ({job_id}) is not in the store")
        promise.breaches += [f"{job.id} is {job.row['state']}" for job in self.jobs.values() if not job.end]
        promise.seen = f"{len(known)} acknowledged, {len(self.jobs)} in the store, {len(promise.breaches)} lost"
        return promise

    def one_end(self) -> Promise:
        promise = Promise("no job has two terminal states")
        for job in self.jobs.values():
            ends = [event["state"] for event in job.events if event["state"] in TERMINAL]
            if len(ends) != 1 or job.events[-1]["state"] != ends[-1] or job.row["state"] != ends[-1]:
                promise.breaches.append(f"{job.id}: events end in {ends}, the record says {job.row['state']}")
        promise.seen = f"{len(promise.breaches)} of {len(self.jobs)} jobs"
        return promise

    def edges(self) -> Promise:
        promise = Promise("no illegal edge")
        count = 0
        for job in self.jobs.values():
            before = ""
            for event in job.events:
                count += 1
                if event["state"] not in EDGES.get(before, set()) or event["previous_state"] != before:
                    promise.breaches.append(f"{job.id}: {before or '-'} to {event['state']} ({event['reason']})")
                before = event["state"]
        promise.seen = f"{len(promise.breaches)} of {count} transitions"
        return promise

    def epochs(self) -> Promise:
        """A claim's epoch is above all before it; none ever falls."""
        promise = Promise("no epoch regression")
        claims = 0
        for job in self.jobs.values():
            last = -1
            for event in job.events:
                if "epoch" not in event:  # written by an older version
                    continue
                epoch = int(event["epoch"])
                claims += event["reason"] == "claimed"
                if epoch < last or (event["reason"] == "claimed" and epoch == last):
                    promise.breaches.append(f"{job.id}: epoch {epoch} after {last} ({event['reason']})")
                last = max(last, epoch)
            if int(job.row["epoch"]) < last:
                promise.breaches.append(f"{job.id}: its record says {job.row['epoch']}, an event {last}")
        promise.breaches += [line for line in self.ledger.trouble if line.startswith("target epoch")]
        promise.seen = f"{len(promise.breaches)} in {claims} claims"
        return promise

    def splices(self) -> Promise:
        """An answer is of one run, without a gap, and whole where it says so."""
        promise = Promise("no answer spliced or cut silently")
        count = 0
        for one in self.ledger.tries:
            count += one.said is not None
            where = f"call {one.call} ({one.job_id}, {one.path}, {one.outcome})"
            if one.said is not None and one.said.spliced:
                promise.breaches.append(f"{where}: runs {one.said.runs}, places {one.said.places}")
            if one.outcome == "whole" and (one.said is None or len(one.said.places) != one.tokens):
                promise.breaches.append(f"{where}: {len(one.said.places) if one.said else 0} of {one.tokens} tokens")
            if one.outcome == "silent":
                promise.breaches.append(f"{where}: it ended without an end mark: {one.words}")
        for sent, job in self._async():
            if job.end == "done":
                count += 1
                said = Said.of(job.answer or "")
                if said.spliced or len(said.places) != sent.tokens:
                    promise.breaches.append(f"{job.id}: {len(said.places)} of {sent.tokens} tokens, runs {said.runs}")
        promise.seen = f"{len(promise.breaches)} of {count} answers"
        return promise

    def stale(self) -> Promise:
        """What was kept or told as the end of a job comes from its last claim, not from a zombie's."""
        promise = Promise("no answer of a fenced run")
        count = 0
        said = [(job, Said.of(job.answer or ""), math.inf) for _, job in self._async() if job.end == "done"]
        for one in self.ledger.tries:
            job = self.jobs.get(one.job_id)
            if one.outcome == "whole" and one.said is not None and job is not None and job.end == "done":
                said.append((job, one.said, one.ended))
        for job, answer, told in said:
            claims = [claim for claim in job.claims() if int(claim["time"]) / 1000 <= told]
            count += 1  # a caller who has all of it may see its job run again: the worker died before it could say so
            if claims and answer.began and answer.began < int(claims[-1]["time"]) / 1000 - SLACK:
                late = int(claims[-1]["time"]) / 1000 - answer.began
                promise.breaches.append(f"{job.id}: its answer's run began {late:.2f} s before its last claim")
        promise.seen = f"{len(promise.breaches)} of {count} answers"
        return promise

    def explained(self) -> Promise:
        """A job that failed has a reason that was done to it."""
        promise = Promise("every failure has its cause")
        codes: Counter[str] = Counter()
        faults = sum(blow.kind.startswith("upstream") for blow in self.ledger.blows) + self.ledger.count(
            "SIGKILL target"
        )
        for sent, job in self._async():
            if job.end == "done":
                continue
            codes[job.code] += 1
            lost = [event for event in job.events if event["state"] == "queued" and event["reason"] == "interrupted"]
            if job.code == "poison" and len(lost) != 2:
                promise.breaches.append(f"{job.id}: poison after {len(lost) + 1} lost workers")
            elif job.code in TARGETS_OWN:
                faults -= 1
            elif job.code not in LOST:
                promise.breaches.append(f"job {sent.number} ({job.id}): {job.end}, {job.row.get('error')}")
        if faults < 0:
            promise.breaches.append(f"{-faults} more failures of targets than faults of targets")
        ended = Counter(job.end or "" for _, job in self._async())
        promise.seen = ", ".join(f"{count} {name}" for name, count in [*ended.items(), *codes.items()])
        return promise

    def sockets(self) -> Promise:
        """A sync caller gets an answer or an error, unless its gateway died or its cable broke."""
        promise = Promise("every sync call gets an answer or an error")
        outcomes: Counter[str] = Counter()
        for one in self.ledger.tries:
            outcomes[one.outcome] += 1
            if (one.outcome == "hung" and not self._waited(one)) or (one.outcome == "broken" and not self._broken(one)):
                promise.breaches.append(
                    f"call {one.call} at {one.gateway} ({one.job_id or 'no head'}): {one.outcome} after "
                    f"{one.ended - one.began:.1f} s at +{one.began - self.ledger.began:.1f} s: {one.words}"
                )
            if one.outcome.startswith("error") and not self._fair(one):
                promise.breaches.append(
                    f"call {one.call} ({one.job_id}): {one.outcome} at +{one.ended - self.ledger.began:.1f} s: {one.words}"
                )
        calls = ", ".join(f"{count} {name}" for name, count in self.ledger.calls.items())
        promise.seen = f"{calls}; tries: " + ", ".join(f"{count} {name}" for name, count in outcomes.most_common())
        promise.breaches += [line for line in self.ledger.trouble if line.startswith("call ")]
        return promise

    def idempotency(self) -> Promise:
        promise = Promise("one key, one job")
        promise.breaches = [f"job {one.number} became {one.ids}" for one in self.ledger.sent if len(one.ids) > 1]
        promise.breaches += [line for line in self.ledger.trouble if line.startswith("job ")]
        owners: dict[str, list[str]] = defaultdict(list)
        for job in self.jobs.values():
            if job.row.get("surface") == "async":
                owners[job.row.get("metadata", "")].append(job.id)
        promise.breaches += [f"{what}: {ids}" for what, ids in owners.items() if len(ids) > 1]
        keyed: dict[int, list[str]] = defaultdict(list)
        for one in self.ledger.tries:  # a sync call's key is free again once its job has failed or was cancelled
            if one.keyed and one.job_id and one.job_id not in keyed[one.call]:
                keyed[one.call].append(one.job_id)
        for call, ids in keyed.items():
            for job_id in ids[:-1]:
                if job_id in self.jobs and self.jobs[job_id].end == "done":
                    promise.breaches.append(f"call {call}: {ids}, although {job_id} was done")
        promise.seen = f"{len(self.ledger.sent)} async keys, {len(keyed)} sync ones"
        return promise

    def processes(self) -> Promise:
        promise = Promise("no process ends by itself", breaches=list(self.pool.strays))
        for (
            at,
            words,
        ) in self.pool.refusals:  # with the store away a start ends in a sentence, and its supervisor tries again
            if not self.ledger.between(at - 12, at, *OUTAGES):
                promise.breaches.append(words)
        lives = sum(len(seat.lives) for seat in self.pool.seats.values())
        promise.seen = f"{lives} lives, {len(self.pool.refusals)} starts refused while the store was away"
        return promise

    # ------------------------------------------------------------------ help

    def _async(self) -> list[tuple[Sent, Kept]]:
        return [(one, self.jobs[one.job_id]) for one in self.ledger.sent if one.job_id in self.jobs]

    def _broken(self, one: Try) -> bool:
        """Whether the gateway died, or the cable to it was cut, while this request was under way."""
        began, ended = one.began - 0.1, one.ended + 0.1
        lives = self.pool.seats[one.gateway].lives
        died = any(life.ended is not None and life.ended <= ended and began <= (life.gone or ended) for life in lives)
        died = died or any(
            life.told is not None and life.told <= ended and (life.ended or ended) >= began for life in lives
        )
        return died or any(began <= cut <= ended for cut in self.pool.wires[one.gateway].cuts)

    def _waited(self, one: Try) -> bool:
        """Whether its job was still waiting or at work when the caller gave up: then the pool was starved, not deaf."""
        job = self.jobs.get(one.job_id) or (self._keyed.get(f"call-{one.call}") if one.keyed else None)
        if job is not None:
            return int(job.row.get("finished_at", "0")) / 1000 > one.ended - 5
        return any(
            abs(int(found.row.get("finished_at", "0")) / 1000 - one.ended) < 5
            for found in self._given_up.get(int(one.ended), [])
        )

    def _fair(self, one: Try) -> bool:
        """Whether an error is one that something done to the pool asked for."""
        code = one.outcome.removeprefix("error ")
        if code in {"shutting_down", "interrupted", "poison"} or code in TARGETS_OWN:
            return True
        if code == "store_unavailable":
            spans = [(began - 0.2, ended + 5) for began, ended in self.pool.store_lives]
            spans += [(blow.at - 0.2, blow.till + 5) for blow in self.ledger.blows if blow.kind in OUTAGES]
            return any(began <= one.ended and ended >= one.began for began, ended in spans)
        return code == "in the stream"


async def webhooks(pool: Topology, ledger: Ledger, receivers: Receivers, jobs: dict[str, Kept]) -> Promise:
    """Per job in order of seq, none missing that was not superseded, the last one above all; identical bytes.

    Each says what its transition said, and `done` has the whole answer with it.
    """
    promise = Promise("webhooks: in order, no unexplained gap, the end always")
    arrived: dict[str, list[Any]] = defaultdict(list)
    for requests in receivers.seen.values():
        for seen in requests:
            arrived[seen.event["job_id"]].append(seen)
    superseded = 0
    for sent in ledger.sent:
        job = jobs.get(sent.job_id)
        if job is None:
            continue
        seen = sorted(arrived[job.id], key=lambda one: one.began)
        order = [one.event["seq"] for one in seen]
        if order != sorted(order):
            promise.breaches.append(f"{job.id}: arrived as {order}")
        bodies: dict[str, set[bytes]] = defaultdict(set)
        for one in seen:
            bodies[one.id].add(one.body)
        promise.breaches += [
            f"{name}: {len(kinds)} different bodies" for name, kinds in bodies.items() if len(kinds) > 1
        ]
        log = [entry for _, entry in await pool.look.xrange(f"{pool.key}attempts:{job.id}")]
        skipped = {int(line["seq"]) for line in log if line["error"] == "superseded"}
        superseded += len(skipped)
        missing = {seq for seq in range(1, len(job.events) + 1) if seq not in order} - skipped
        if missing:
            promise.breaches.append(f"{job.id}: {sorted(missing)} of {len(job.events)} never came to {sent.path}")
        if job.end and len(job.events) not in order:
            promise.breaches.append(f"{job.id}: its end never came to {sent.path}")
        promise.breaches += [f"{job.id}: {wrong}" for one in seen if (wrong := _untrue(one.event, sent, job))]
    promise.breaches += receivers.trouble
    events = sum(len(jobs[one.job_id].events) for one in ledger.sent if one.job_id in jobs)
    promise.seen = f"{events} events, {sum(map(len, arrived.values()))} requests, {superseded} superseded"
    return promise


def _untrue(event: dict[str, Any], sent: Sent, job: Kept) -> str:
    """What a webhook says that isn't so."""
    seq, state = event["seq"], event["state"]
    if seq > len(job.events) or job.events[seq - 1]["state"] != state:
        return f"event {seq} said {state}, which the job's log does not"
    if state == "done":
        said = Said.of(json.dumps(event["result"]))
        if said.spliced or len(said.places) != sent.tokens:
            return f"the event of its end has {len(said.places)} of {sent.tokens} tokens"
    return ""


async def left_behind(pool: Topology) -> list[str]:
    """Once everybody has left: keys that would stay for ever and are none of keys.py's permanent ones; all others end."""
    names = Keys(POOL)
    left = []
    async for key in pool.look.scan_iter(count=1000):
        template = names.template(key)
        if template is ARQ and await _all_over(pool, key):
            continue
        if await pool.look.ttl(key) == -1 and template not in PERMANENT:
            left.append(f"{key} has no TTL and no owner")
        if template is None and not key.startswith("arq:"):
            left.append(f"{key} is not spelled in keys.py")
    return left


async def _all_over(pool: Topology, key: str) -> bool:
    """Whether arq holds nothing but attempts that died with their process and were made by another since.

    arq looks at them again, and drops them, once its own right to them is over (job_timeout and 10 s).
    """
    for name in await pool.look.zrange(key, 0, -1):
        if not name.startswith(key):  # a cron job's next time
            continue
        delivery = name.removeprefix(f"{key}:").rpartition(":")[0]
        if not await pool.look.hexists(f"{pool.key}delivery:{delivery}", "ending"):
            return False
    return True
