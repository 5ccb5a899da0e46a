"""What goes into the store and what comes out: plain values, no Redis in sight.

Gateways and workers build and read me; store/queue.py turns me into script arguments and back. Times are seconds since
the epoch by the store's own clock, unless a name says otherwise.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from foreman.core.jobs import Job, Priority, Slot, State, Surface


@dataclass(frozen=True, slots=True)
class NewJob:
    """A job to submit."""

    id: str
    """A ULID: 26 characters, sorts by time of arrival."""
    surface: Surface
    endpoint: str
    model: str
    """The caller's own string."""
    canonical: str
    """The canonical model name (core.lanes)."""
    lane: str
    slot: Slot
    priority: Priority
    request: bytes
    """The body as it goes upstream."""
    max_wait: float
    """Seconds until it is due (`FOREMAN_DUE_AFTER` of its class)."""
    options: dict[str, Any] = field(default_factory=dict)
    """The runner options of its lane, for the preload."""
    digest: str | None = None
    stream: bool = True
    method: str = "POST"
    gateway: str | None = None
    targets: tuple[str, ...] = ()
    """Names of the targets that may take it: whom to wake. Empty: all."""
    target_only: str | None = None
    deadline_in: float | None = None
    """Seconds from now within which it must be finished."""
    service: float = 5.0
    """Expected run in seconds, for its due."""
    caller: str | None = None
    headers: dict[str, str] = field(default_factory=dict)
    """The few request headers that go upstream (such as anthropic-version)."""
    unload: bool = False
    """A wish to unload the lane's model; carried in the side slot."""
    state_webhook_url: str | None = None
    webhook_events: tuple[State, ...] = ()
    """The states its webhook is told of; empty: all."""
    metadata: str | None = None
    """The caller's own object, JSON text, at most 4 KiB."""
    not_before: float | None = None
    """When it may start, seconds since the epoch; until then it stands in no lane. In the past: now."""
    idempotency_key: str | None = None
    """The caller's key; told apart by surface and caller."""
    fingerprint: str = ""
    """What tells one request under an idempotency key from another: a digest of the body as it came."""
    retry_of: str | None = None
    retried_by: str | None = None
    """The operator who retries it, for the audit log."""
    finish: bool = False
    """Of a sync job: it runs on when its caller leaves, and its answer is kept (a key, or `X-Foreman-On-Disconnect`)."""
    own_fields: str | None = None
    """Foreman's own fields as they stood in the body (protocols.envelope), so that the request can be shown as it came."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a queued job stands."""

    position: int
    """1 for the next to start, counted over all lanes of its slot by due; 0 where it waits for `not_before`."""
    ahead: int
    """Jobs of its lane that are due before it."""
    in_flight: int = 0
    """Jobs that any target runs or loads for, at this very moment; 0 where nobody asked."""


@dataclass(frozen=True, slots=True)
class Submitted:
    """What submit answers."""

    job_id: str
    place: Place
    queued: int
    """Jobs queued in the drain, this one included."""
    known: bool = False
    """Its idempotency key was known: `job_id` is the job that was submitted first, and its place was not looked up."""


@dataclass(frozen=True, slots=True)
class LaneFacts:
    """A lane with queued jobs as the store knows it."""

    lane: str
    model: str
    """Canonical name; what a preload names."""
    digest: str | None
    options: dict[str, Any]
    head_id: str
    head_due: float
    head_class: Priority
    head_enqueued_at: float
    head_target_only: str | None
    """The target that all asked for that stand first; None where some of them may run on another."""
    classes: tuple[int, int, int]
    """Queued by class: low, normal, high."""
    left_at: dict[str, float]
    """Target name → when the lane was last cut there."""
    paused: bool = False


@dataclass(frozen=True, slots=True)
class Survey:
    """All lanes of one slot that have queued jobs, at one moment."""

    now: float
    lanes: tuple[LaneFacts, ...]


@dataclass(frozen=True, slots=True)
class Changes:
    """What has changed in the drain's lanes since the look before."""

    now: float
    cursor: str
    """Where the next look begins."""
    whole: bool
    """These are all lanes there are, not only those that changed."""
    lanes: tuple[LaneFacts, ...]
    gone: tuple[str, ...] = ()
    """Lanes in which nothing waits any more."""
    pauses: dict[str, float] = field(default_factory=dict)
    """`lane:<lane>` or `target:<name>` → until when (infinite: until resumed), as operators paused them."""
    unloading: frozenset[str] = frozenset()
    """Those of `pauses` that are to hold nothing meanwhile."""


@dataclass(frozen=True, slots=True)
class Claimed:
    """A job that now belongs to a worker, with all it needs to run it."""

    job: Job
    request: bytes
    headers: dict[str, str]
    stream: bool
    method: str
    options: dict[str, Any]
    canonical: str
    digest: str | None
    unload: bool
    now: float


@dataclass(frozen=True, slots=True)
class Kept:
    """A job's request as the store keeps it."""

    body: bytes
    """As it goes upstream."""
    own_fields: str | None
    """What protocols.envelope took out of it."""
    headers: dict[str, str]


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which jobs a list shall have; None or empty: any."""

    states: frozenset[State] = frozenset()
    model: str | None = None
    """The canonical name."""
    endpoint: str | None = None
    surface: Surface | None = None
    caller: str | None = None


@dataclass(frozen=True, slots=True)
class Page:
    """A piece of the list of jobs."""

    jobs: tuple[Job, ...]
    next: str | None
    """The id below which the list goes on; None at its end."""


@dataclass(frozen=True, slots=True)
class Event:
    """One transition of a job."""

    seq: int
    state: State
    previous_state: State | None
    time: float
    worker: str | None
    reason: str
    attempt: int


@dataclass(frozen=True, slots=True)
class Taken:
    """What a take got without a choice: the head of the only lane that waited."""

    claimed: Claimed
    more: bool
    """More jobs of that lane wait."""


class CancelOutcome(enum.StrEnum):
    """What a wish to cancel met."""

    CANCELLED = "cancelled"
    """It was queued and is out of its lane now."""
    WISHED = "wished"
    """It runs; its worker has been told."""
    TERMINAL = "terminal"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Ownership:
    """A worker's right to a target: fenced by its epoch."""

    target: str
    worker: str
    epoch: int


@dataclass(frozen=True, slots=True)
class Pause:
    """A lane or target of which nothing may start."""

    kind: str
    """`lane` or `target`."""
    name: str
    since: float
    until: float | None
    """When it resumes by itself; None: when somebody resumes it."""
    unload: bool
    """A target that is to hold nothing meanwhile."""


@dataclass(frozen=True, slots=True)
class TargetStatus:
    """What a worker's probe says of its target: the inventory that gateways answer from (ADR-0007)."""

    name: str
    url: str
    kind: str
    """`ollama` or `openai`."""
    state: str
    """`up`, `down` or `paused`."""
    since: float
    """Since when it is in that state."""
    probed_at: float
    worker: str
    slots: int = 1
    places: int = 1
    version: str | None = None
    tags: list[dict[str, Any]] = field(default_factory=list)
    """The target's own `/api/tags` entries (for `openai`: made from `/v1/models`, digest empty)."""
    ps: list[dict[str, Any]] = field(default_factory=list)
    resident: list[dict[str, Any]] = field(default_factory=list)
    """`[{"lane", "model", "since", "load", "idle_since", "linger_spent", "pinned"}]`: what it holds as far as the drain is
    concerned, and what is pinned beside it."""
    running: list[dict[str, Any]] = field(default_factory=list)
    """`[{"job_id", "lane", "state", "since", "tokens", "tokens_per_second"}]`, as fresh as the last publication."""
    loading: str | None = None
    next: dict[str, Any] | None = None
    """`{"lane", "reason"}` or None."""
    error: str | None = None
    """Why it is down, in one sentence."""
    embed_fits: bool = True
    """False once loading an embedding model was seen to push out the resident."""
    loads: dict[str, float] = field(default_factory=dict)
    """Lane → last measured load in seconds."""
    swaps: int = 0
    paces: dict[str, list[float]] = field(default_factory=dict)
    """Lane → [seconds of a run, seconds between two ends, calls per second, median gap in seconds or -1 for never, seconds
    of the shortest run lately or 0]; for lanes that are queued, run or are resident there."""
    load_ends_at: float | None = None
    """When the load under way is expected to end."""
    stopping: bool = False
    """Its worker leaves, or it leaves the pool: it claims nothing more."""
    leaving: str | None = None
    """The resident that gives its place to the load under way."""
    stuck: str | None = None
    """What holds up its loads, in one sentence; None where nothing does."""
    pause: Pause | None = None
    """What an operator wants of it; never published, the store adds it when it is read."""


@dataclass(frozen=True, slots=True)
class GatewayPresence:
    """A living gateway: where workers' links find it."""

    id: str
    link: str
    """`host:port` as announced; empty where it takes no links (one process)."""
    callers: int
    since: float
    version: str = ""


@dataclass(frozen=True, slots=True)
class WorkerPresence:
    """A living worker."""

    id: str
    since: float
    expires: float
    targets: tuple[str, ...]
    """Those it owns."""
    version: str = ""
    unreachable: tuple[str, ...] = ()
    """Gateways it has no link to."""


@dataclass(frozen=True, slots=True)
class Notice:
    """What a gateway's inbox tells of one of its callers' jobs: someone else than its run moved it."""

    job_id: str
    state: State
    epoch: int
    error: dict[str, Any] | None
    watched: bool = False
    """Somebody at the gateway waits for this end by `watch`; no caller's answer hangs on it."""
    missed: bool = False
    """No job's: there was more to tell than the inbox holds, and what was first is lost."""


@dataclass(frozen=True, slots=True)
class Order:
    """What a worker's inbox asks of it."""

    verb: str
    """`wake` (look again), `cancel`, `attach` (a reader more), `probe`, or `gateways` (a new one is there: link to it)."""
    target: str | None = None
    job_id: str | None = None
    epoch: int = 0
    code: str | None = None
    slot: str | None = None
    """With `wake`: the slot that has something new, or None for any."""
    gateway: str | None = None
    """With `attach`: where the reader waits."""
    reader: str | None = None
    """With `attach`: the id by which that gateway knows it."""


@dataclass(frozen=True, slots=True)
class Counts:
    """Jobs by state: the living ones now, the ended ones since the pool began."""

    queued: int
    loading: int
    working: int
    done: int
    failed: int
    cancelled: int
