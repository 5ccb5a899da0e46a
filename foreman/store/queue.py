"""The queue's verbs, one script each: submit, survey, claim, transition, cancel, renew, own, recover.

Gateways and workers call me; I turn values into script arguments, run the script atomically on the store, and turn its
reply back. I decide nothing: the scripts check state and epoch against the table in core/jobs.py, which I pass in.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from foreman.core.errors import Failure
    from foreman.core.jobs import Job, Slot, State
    from foreman.store.records import (
        CancelOutcome,
        Claimed,
        Counts,
        GatewayPresence,
        NewJob,
        Ownership,
        Submitted,
        Survey,
        TargetStatus,
        WorkerPresence,
    )


class Queue:
    """The queue of one pool. All methods raise `StoreUnavailableError` when the store does not answer."""

    async def submit(self, new: NewJob) -> Submitted:
        """Queue a job (state `queued`, event 1, wake-up). Raises Failure(QUEUE_FULL)."""
        raise NotImplementedError

    async def survey(self, slot: Slot) -> Survey:
        """All lanes of `slot` with queued jobs: advice for a choice, never a gate."""
        raise NotImplementedError

    async def claim(self, own: Ownership, lane: str, slot: Slot, to: State) -> Claimed | None:
        """Take the head of `lane` (loading or working): epoch + 1. None: empty, paused, or `own` is fenced off.

        Raises FencedError when another worker owns the target by now.
        """
        raise NotImplementedError

    async def transition(
        self,
        job_id: str,
        epoch: int | None,
        to: State,
        *,
        reason: str,
        failure: Failure | None = None,
        usage: dict[str, int] | None = None,
        timings: dict[str, float] | None = None,
        notify: bool = True,
    ) -> bool:
        """Move a job; False when the state or the epoch forbids it (nothing changed).

        `epoch=None`: only while it is queued. `notify`: tell the job's gateway through its inbox; False where the link
        tells it anyway.
        """
        raise NotImplementedError

    async def hand_back(self, job_id: str, epoch: int, *, reason: str, failure: Failure | None, notify: bool = True) -> State | None:
        """A running job back to the head of its lane. With a `failure` an attempt is used up (attempt + 1, or `failed`
        with it when none is left); without, not. The state it is in now, or None when fenced."""
        raise NotImplementedError

    async def cut(self, target: str, lane: str) -> None:
        """Note that `lane` was left on `target` with jobs still queued: its `left_at` is now."""
        raise NotImplementedError

    async def cancel(self, job_id: str, failure: Failure) -> CancelOutcome:
        """A wish to cancel, in any state. Queued: `cancelled` at once. Running: flag, and an order to its worker."""
        raise NotImplementedError

    async def get(self, job_id: str) -> Job | None:
        raise NotImplementedError

    async def position(self, job_id: str) -> int | None:
        """1 for the next to start among the queued of its slot by due; None when it isn't queued."""
        raise NotImplementedError

    async def enroll(self, worker: WorkerPresence) -> None:
        """Begin a worker's lease (4 s); store.lease renews it from a thread of its own."""
        raise NotImplementedError

    async def retire(self, worker_id: str) -> None:
        """End a worker's lease, and its targets, at once."""
        raise NotImplementedError

    async def own(self, target: str, worker_id: str) -> Ownership | None:
        """Become a target's owner (epoch + 1, everything of older epochs orphaned) unless a living worker is."""
        raise NotImplementedError

    async def release(self, own: Ownership) -> None:
        raise NotImplementedError

    async def announce(self, gateway: GatewayPresence) -> None:
        """Keep a gateway's presence for 4 s; call it each second."""
        raise NotImplementedError

    async def leave(self, gateway_id: str) -> None:
        raise NotImplementedError

    async def gateways(self) -> list[GatewayPresence]:
        raise NotImplementedError

    async def workers(self) -> list[WorkerPresence]:
        raise NotImplementedError

    async def publish(self, own: Ownership, status: TargetStatus) -> None:
        """Publish a target's inventory; dropped when `own` is fenced."""
        raise NotImplementedError

    async def targets(self) -> list[TargetStatus]:
        """All inventories, in order of name; those of targets without a living owner say `down`."""
        raise NotImplementedError

    async def ask_probe(self, targets: list[str]) -> None:
        """Ask for a fresh probe, at most once a second per target."""
        raise NotImplementedError

    async def recover(self) -> list[str]:
        """Bring back what the dead left: expired workers' jobs, running jobs without a lease, dead gateways' callers,
        queued jobs past their deadline. Idempotent; the ids it moved."""
        raise NotImplementedError

    async def counts(self) -> Counts:
        raise NotImplementedError

    async def running(self) -> list[Job]:
        raise NotImplementedError

    async def recent(self, states: frozenset[State], limit: int) -> list[Job]:
        """The newest jobs in these states (queued by due; ended ones by their end)."""
        raise NotImplementedError

    async def ping(self) -> float:
        """Round trip in seconds."""
        raise NotImplementedError

    async def extra(self) -> dict[str, Any]:
        raise NotImplementedError
