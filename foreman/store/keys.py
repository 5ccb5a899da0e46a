"""Every key of a pool, spelled once, with its type and its life.

store/queue.py asks me for names, store/scripts.py turns me into the first lines of each Lua script, and the tests ask me
whether a key that was left behind may live. A key that isn't here must not exist.
"""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass
from typing import Final

LAYOUT: Final = 1
"""Raised when a version can't share a pool with the one before: `make faults` mixes those that say the same."""


class Life(enum.Enum):
    """How a key ends."""

    FOREVER = "one of its kind per pool; small, never removed"
    OWNED = "goes with its owner, in the same script that ends the owner; no TTL while the owner lives"
    EXPIRES = "always carries a TTL"


@dataclass(frozen=True, slots=True)
class Template:
    """The spelling of one kind of key. `<name>` stands for a part; the last part may hold any character."""

    name: str
    pattern: str
    kind: str
    """Redis type: string, hash, list, set, zset, stream."""
    life: Life
    holds: str

    @property
    def parts(self) -> list[str]:
        """The names of the parts, in order."""
        return re.findall(r"<(\w+)>", self.pattern)

    def matches(self, name: str) -> bool:
        """Whether `name` (without the pool's prefix) is spelled this way."""
        pieces = re.split(r"<\w+>", self.pattern)
        middle = "[^:]+".join(map(re.escape, pieces[:-1]))
        last = ".+" if self.pattern.endswith(">") else "[^:]+"
        return (
            re.fullmatch(middle + (last if len(pieces) > 1 else "") + re.escape(pieces[-1]), name, re.DOTALL)
            is not None
        )

    def lua(self, parts: list[str]) -> str:
        """The Lua expression that spells this key of expressions for its parts; KEYS[1] is the pool's prefix."""
        first, *pieces = re.split(r"<\w+>", self.pattern)
        spelled = ["KEYS[1]", f"'{first}'"]
        for part, piece in zip(parts, pieces, strict=True):
            spelled += [f"({part})", f"'{piece}'"] if piece else [f"({part})"]
        return " .. ".join(spelled)


JOB: Final = Template("job", "job:<id>", "hash", Life.OWNED, "the job's record; a TTL from its end on")
REQUEST: Final = Template("request", "job:<id>:request", "string", Life.OWNED, "the body as it goes upstream")
EVENTS: Final = Template(
    "events", "job:<id>:events", "stream", Life.OWNED, "its transitions; entry <seq>-0 is event seq"
)
ARTIFACT: Final = Template(
    "artifact", "job:<id>:artifact:<name>", "string", Life.OWNED, "the bytes of a result; goes with its ended job"
)
PAYLOAD: Final = Template(
    "payload", "payload", "hash", Life.FOREVER, "bytes of all requests, kept answers and delivery bodies; their limit"
)
PAYLOADS: Final = Template(
    "payloads",
    "payloads:<surface>",
    "zset",
    Life.EXPIRES,
    "`<id> <bytes> <ended ms>` of ended jobs that still have a payload; score until when, ms",
)
LANE: Final = Template(
    "lane", "lane:<slot>:<lane>", "zset", Life.OWNED, "queued jobs of a lane; score due ms, ties by ULID"
)
FACTS: Final = Template(
    "facts", "facts:<slot>:<lane>", "hash", Life.OWNED, "a lane's model, options, counts; a TTL while empty"
)
LANES: Final = Template("lanes", "lanes:<slot>", "set", Life.OWNED, "the lanes of a slot that have queued jobs")
CHANGES: Final = Template(
    "changes", "changes:<slot>", "stream", Life.FOREVER, "lanes that changed, the last thousand changes; for the drain"
)
DELAYED: Final = Template(
    "delayed",
    "delayed:<slot>",
    "zset",
    Life.OWNED,
    "queued jobs that may not start yet, in no lane; score not_before ms",
)
QUEUED: Final = Template("queued", "queued:<slot>", "zset", Life.OWNED, "all queued jobs of a slot; score due ms")
RUNNING: Final = Template(
    "running", "running:<state>", "zset", Life.OWNED, "jobs in loading or working; score claimed ms"
)
ENDED: Final = Template(
    "ended", "ended:<surface>:<state>", "zset", Life.EXPIRES, "ended jobs; score end ms; trimmed at ends and by recover"
)
JOBS: Final = Template(
    "jobs", "jobs", "zset", Life.OWNED, "all jobs that are kept, by ULID; trimmed with ended; a TTL while none lives"
)
IDEMPOTENCY: Final = Template(
    "idempotency",
    "idempotency:<digest>",
    "string",
    Life.OWNED,
    "`<job id> <fingerprint>` of a caller's key; goes with its job, at once where that fails or is cancelled",
)
DEADLINES: Final = Template(
    "deadlines", "deadlines", "zset", Life.OWNED, "living jobs with a deadline; score deadline ms"
)
DELIVERY: Final = Template(
    "delivery", "delivery:<id>", "hash", Life.OWNED, "a webhook event on its way; a TTL from its end on"
)
DELIVERY_BODY: Final = Template(
    "delivery_body", "delivery:<id>:body", "string", Life.OWNED, "the bytes of all its attempts, until it ends"
)
OUTBOX: Final = Template("outbox", "outbox:<id>", "zset", Life.OWNED, "a job's open deliveries; score seq")
DELIVERIES: Final = Template(
    "deliveries", "deliveries", "zset", Life.OWNED, "open deliveries and resends; score since when it is their turn, ms"
)
ATTEMPTS: Final = Template("attempts", "attempts:<id>", "stream", Life.EXPIRES, "a job's webhook log, kept 7 days")
RECEIVER: Final = Template(
    "receiver",
    "receiver:<url>",
    "hash",
    Life.OWNED,
    "how a URL took what was sent: counts, failures in a row, when it is tried next; a TTL while nothing is open there",
)
RECEIVERS: Final = Template(
    "receivers", "receivers", "zset", Life.EXPIRES, "the last URLs that something was told; score when, ms"
)
BUSY: Final = Template(
    "busy",
    "busy:<url>",
    "zset",
    Life.OWNED,
    "deliveries that have a place at a URL, in arq's queue or under way; score when somebody looks after them, ms; the same by host, and of all (`*`), for a minute",
)
WAITING: Final = Template(
    "waiting",
    "waiting:<url>",
    "zset",
    Life.OWNED,
    "deliveries in line for a place at a URL; score from when on, ms; 0: whatever the breaker says; and URLs, at a host that is full",
)
CALLS: Final = Template(
    "calls", "calls", "zset", Life.OWNED, "URLs with something in line or under way; score when to look at them, ms"
)
TALLY: Final = Template(
    "tally",
    "tally:<span>",
    "hash",
    Life.EXPIRES,
    "counts of an hour (h<hours since the epoch>, kept 4 days) or a day (d<days>, kept 90): `job:<surface> <state>`, `webhook:<how> <host>`",
)
ARQ: Final = Template("arq", "arq", "zset", Life.OWNED, "arq's queue; score a day before it is to run, ms")
ARQ_HEALTH: Final = Template("arq_health", "arq:health", "string", Life.EXPIRES, "the background worker's sign of life")
PAUSES: Final = Template(
    "pauses",
    "pauses",
    "hash",
    Life.FOREVER,
    "what operators paused: `lane:<lane>` or `target:<name>` → `<until ms, 0: until resumed> <1: unload> <since ms>`",
)
AUDIT: Final = Template(
    *("audit", "audit", "stream", Life.EXPIRES),
    "what operators did to lanes and targets: the last 1000, 90 days after the last",
)
AUDIT_JOBS: Final = Template(
    *("audit_jobs", "audit:jobs", "stream", Life.EXPIRES), "the same of jobs and deliveries, with a limit of its own"
)
METERS: Final = Template(
    "meters", "meters", "hash", Life.FOREVER, "what was counted and timed since the pool began, for /metrics"
)
RECENT: Final = Template("recent", "recent:<lane>", "list", Life.EXPIRES, "how a lane's last 32 runs went, for an hour")
LIVE: Final = Template(
    "live", "live", "hash", Life.EXPIRES, "how each process does: `<role>:<id>` → `<since ms> <JSON>`; out after 10 s"
)
TOTALS: Final = Template("totals", "totals", "hash", Life.FOREVER, "jobs ended since the pool began, by state")
EPOCHS: Final = Template("epochs", "epochs", "string", Life.FOREVER, "the last target epoch given out")
PULSE: Final = Template("pulse", "pulse", "string", Life.FOREVER, "when somebody last renewed or recovered, ms")
WORKERS: Final = Template("workers", "workers", "zset", Life.OWNED, "worker ids; score lease until ms")
WORKER: Final = Template("worker", "worker:<id>", "hash", Life.OWNED, "what a worker says of itself")
WORKER_JOBS: Final = Template("worker_jobs", "worker:<id>:jobs", "set", Life.OWNED, "jobs it runs")
WORKER_TARGETS: Final = Template("worker_targets", "worker:<id>:targets", "set", Life.OWNED, "targets it owns")
GATEWAYS: Final = Template("gateways", "gateways", "zset", Life.OWNED, "gateway ids; score presence until ms")
GATEWAY: Final = Template("gateway", "gateway:<id>", "hash", Life.EXPIRES, "what a gateway says of itself")
GATEWAY_JOBS: Final = Template(
    "gateway_jobs", "gateway:<id>:jobs", "set", Life.OWNED, "sync jobs whose callers wait there"
)
TARGETS: Final = Template("targets", "targets", "set", Life.EXPIRES, "names of all targets that were published")
TARGET: Final = Template("target", "target:<name>", "hash", Life.OWNED, "its owner and the epoch of that right")
ORPHANED: Final = Template(
    "orphaned", "orphaned:<name>", "string", Life.EXPIRES, "since when a target has no owner, ms"
)
STATUS: Final = Template("status", "status:<name>", "string", Life.EXPIRES, "a target's inventory, JSON")
PROBE: Final = Template("probe", "probe:<name>", "string", Life.EXPIRES, "a probe was asked for within the last second")
WAKE: Final = Template("wake", "wake:<name>", "list", Life.EXPIRES, "wake-ups for a target's owner: slots, `probe`")
INBOX: Final = Template(
    "inbox", "inbox:<kind>:<id>", "list", Life.EXPIRES, "orders to a worker, notices to a gateway, JSON"
)
SWAPS: Final = Template("swaps", "swaps:<name>", "stream", Life.EXPIRES, "a target's last loads and what ended them")
PAST: Final = Template(
    "past",
    "past",
    "stream",
    Life.EXPIRES,
    "a line per job that ended, of the last 20000, for a day: `foreman trace export`",
)
LEDGER: Final = Template("ledger", "ledger", "hash", Life.FOREVER, "what swapping has cost since the pool began")
LEARNED: Final = Template(
    "learned", "learned:<name>", "hash", Life.EXPIRES, "lane → what its target's worker learned of it, JSON"
)
LINK_SECRET: Final = Template("link_secret", "link_secret", "string", Life.FOREVER, "what links prove they know, hex")

TEMPLATES: Final = (
    REQUEST, EVENTS, ARTIFACT, JOB, PAYLOADS, PAYLOAD, LANE, FACTS, LANES, CHANGES, DELAYED, QUEUED, RUNNING, ENDED, JOBS, IDEMPOTENCY, DEADLINES, PAUSES, AUDIT_JOBS, AUDIT, METERS, RECENT, LIVE, TOTALS, EPOCHS, PULSE,
    DELIVERY_BODY, DELIVERY, OUTBOX, DELIVERIES, ATTEMPTS, RECEIVERS, RECEIVER, BUSY, WAITING, CALLS, TALLY, ARQ_HEALTH, ARQ,
    WORKERS, WORKER_JOBS, WORKER_TARGETS, WORKER, GATEWAYS, GATEWAY_JOBS, GATEWAY,
    TARGETS, TARGET, ORPHANED, STATUS, PROBE, WAKE, INBOX, SWAPS, PAST, LEDGER, LEARNED, LINK_SECRET,
)  # fmt: skip
"""All of them; the longer spelling before the one it begins with."""

PERMANENT: Final = frozenset(template for template in TEMPLATES if template.life is Life.FOREVER)
"""Keys that may live without a TTL although nobody owns them."""


class Keys:
    """The keys of one pool."""

    def __init__(self, pool: str) -> None:
        self.pool = pool
        self.prefix = f"foreman:{pool}:"

    def of(self, template: Template, *parts: str) -> str:
        """The full key. One argument per part of the template."""
        filled = iter(parts)
        return self.prefix + re.sub(r"<\w+>", lambda _: next(filled), template.pattern)

    def template(self, key: str) -> Template | None:
        """Which template spells `key`, or None where none does or it belongs to another pool."""
        if not key.startswith(self.prefix):
            return None
        name = key[len(self.prefix) :]
        return next((template for template in TEMPLATES if template.matches(name)), None)
