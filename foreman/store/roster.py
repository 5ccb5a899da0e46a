"""Who lives and who owns what: workers, gateways, targets and their inventories.

Workers and gateways call me through Queue, which is a Roster; I turn values into script arguments and back. Whether a
lease lives is decided by the scripts alone, on the store's clock.
"""

from __future__ import annotations

import dataclasses
import json
import secrets
from typing import TYPE_CHECKING, Any, Final

from foreman.core.errors import Code, Failure
from foreman.store import rows
from foreman.store.errors import FencedError
from foreman.store.keys import ARQ_HEALTH, LEARNED, LINK_SECRET, Keys
from foreman.store.records import Ownership, Pause
from foreman.store.scripts import EDGES, POISON

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from foreman.store.records import GatewayPresence, TargetStatus, WorkerPresence
    from foreman.store.wire import Arg, Connection

LEASE: Final = 4.0
"""Seconds a worker's lease and a gateway's presence last; both are renewed each second."""
RECOVER: Final = 0.5
"""Seconds between two calls of `recover` by each worker and each gateway."""
SYNC_TTL: Final = 600.0
"""Seconds a sync job's record is kept after its end."""


def error_json(code: Code, message: str) -> str:
    """A job's error as the scripts write it."""
    return json.dumps(Failure(code, message).as_dict())


INTERRUPTED: Final = error_json(Code.INTERRUPTED, "The worker that ran this job was lost. Send it again.")
CALLER_GONE: Final = error_json(Code.CALLER_GONE, "The gateway that held the caller's connection is gone.")
LATE: Final = error_json(
    Code.DEADLINE_EXCEEDED, "The job was not finished by its deadline. Allow more time, or send less."
)


@dataclasses.dataclass(frozen=True, slots=True)
class Limits:
    """What the scripts are told of the settings."""

    max_queue: int = 10_000
    max_attempts: int = 3
    job_ttl: float = 86_400.0
    """Seconds an async job's record is kept after its end."""
    lease: float = LEASE
    store_bytes: int = 1 << 30
    """Bytes of requests, kept answers and delivery bodies in sum."""


class Roster:
    """The part of a pool's queue that deals with the living and the dead."""

    def __init__(self, connection: Connection, pool: str, limits: Limits) -> None:
        self._connection = connection
        self._limits = limits
        self.keys = Keys(pool)
        self._lease_ms = rows.ms(limits.lease)
        self._statuses: dict[bytes, TargetStatus] = {}
        """Inventories as they were read last: asked for more often than they change."""
        self._rules: tuple[Arg, ...] = (EDGES, limits.max_attempts, rows.ms(SYNC_TTL), rows.ms(limits.job_ttl), POISON)

    async def _script(self, name: str, *args: Arg) -> Any:
        return await self._connection.script(name, self.keys.prefix, *args)

    async def _moving(self, name: str, *args: Arg) -> Any:
        """A script that moves jobs: it gets the rules first."""
        return await self._connection.script(name, self.keys.prefix, *self._rules, *args)

    async def enroll(self, worker: WorkerPresence) -> None:
        """Begin a worker's lease (4 s), or change what a living one says of itself.

        store.lease renews it from a thread of its own. What an earlier life of the same id held goes back into its lanes.
        """
        said = ("version", worker.version, "unreachable", json.dumps(worker.unreachable))
        await self._moving("enroll", worker.id, self._lease_ms, INTERRUPTED, *said)

    async def reach(self, worker_id: str, unreachable: tuple[str, ...]) -> bool:
        """Note which living gateways a worker can't reach: calls that wait there are not given to it. False: no lease."""
        return bool(await self._script("reach", worker_id, json.dumps(unreachable)))

    async def renew(self, worker_id: str) -> bool:
        """Prolong a worker's lease; False when it is over. store.lease does this from a thread of its own."""
        return bool(await self._script("renew", worker_id, self._lease_ms))

    async def retire(self, worker_id: str) -> None:
        """End a worker's lease, and its targets, at once; jobs it still holds go back, no attempt used."""
        await self._moving("retire", worker_id)

    async def own(self, target: str, worker_id: str) -> Ownership | None:
        """Become a target's owner (epoch + 1, everything of older epochs orphaned) unless a living worker is.

        None while another living worker owns it. Raises FencedError when `worker_id` itself has no lease.
        """
        epoch = await self._moving("own", target, worker_id, INTERRUPTED)
        if epoch == b"fenced":
            raise FencedError(f"worker {worker_id} has no lease: enroll it first")
        return Ownership(target, worker_id, int(epoch)) if epoch else None

    async def release(self, own: Ownership) -> None:
        """Give a target up and take it off the list of targets; jobs still running there go back, no attempt used."""
        await self._moving("release", own.target, own.worker, own.epoch)

    async def forget(self, target: str) -> bool:
        """Take a target without a living owner off the list of targets; False where it has one."""
        return bool(await self._script("forget", target))

    async def announce(self, gateway: GatewayPresence) -> None:
        """Keep a gateway's presence for 4 s, and what it says of itself. store.lease renews it from a thread of its own."""
        said: tuple[Arg, ...] = (
            "link", gateway.link, "callers", gateway.callers, "since", gateway.since, "version", gateway.version,
        )  # fmt: skip
        await self._script("announce", gateway.id, self._lease_ms, *said)

    async def leave(self, gateway_id: str) -> None:
        """End a gateway's presence; callers it still had count as gone."""
        await self._moving("leave", gateway_id, CALLER_GONE)

    async def gateways(self) -> list[GatewayPresence]:
        """The living ones."""
        return [rows.gateway(entry) for entry in await self._script("gateways")]

    async def workers(self) -> list[WorkerPresence]:
        """The living ones."""
        return [rows.worker(entry) for entry in await self._script("workers")]

    async def publish(
        self,
        own: Ownership,
        status: TargetStatus,
        learned: Mapping[str, str] | None = None,
        forgotten: Iterable[str] = (),
    ) -> None:
        """Publish a target's inventory; dropped when `own` is fenced.

        Args:
            own: the right to speak for it.
            status: the inventory.
            learned: lane → what was learned of it since the last time, packed (workers.drain.learned); kept for 30 days.
            forgotten: lanes of which nothing is kept any longer.
        """
        pairs = [text for pair in (learned or {}).items() for text in pair]
        text = rows.status_json(status)
        await self._script("publish", own.target, own.worker, own.epoch, text, len(pairs), *pairs, *forgotten)

    async def learned(self, target: str) -> dict[str, str]:
        """What was learned of a target's lanes, by whoever owned it: lane → packed."""
        return rows.table(await self._connection.command("HGETALL", self.keys.of(LEARNED, target)))

    async def targets(self) -> list[TargetStatus]:
        """All inventories, in order of name; those of targets without a living owner say `down`."""
        reply = await self._script("targets")
        found, known, self._statuses = [], self._statuses, {}
        for text, orphaned, paused_at, until, unload in reply[1:]:
            status = self._statuses[text] = known.get(text) or rows.status(text)
            if paused_at:
                status = _paused(status, int(paused_at) / 1000, int(until) / 1000, bool(int(unload)))
            if orphaned and status.state != "down":
                why = (
                    f"no worker looks after it (the last one was {status.worker}): start `foreman serve --role worker`"
                )
                since = max(status.since, float(orphaned) / 1000)
                status = dataclasses.replace(status, state="down", since=since, error=why)
            found.append(status)
        return sorted(found, key=lambda status: status.name)

    async def ask_probe(self, targets: list[str]) -> float:
        """Ask for a fresh probe, at most once a second per target; the store's time, seconds since the epoch."""
        return int(await self._script("ask_probe", *targets)) / 1000

    async def link_secret(self) -> str:
        """The pool's secret for links between workers and gateways; whoever asks first makes it."""
        key = self.keys.of(LINK_SECRET)
        await self._connection.command("SET", key, secrets.token_hex(32), "NX")
        reply: bytes = await self._connection.command("GET", key)
        return reply.decode()

    async def background_lives(self) -> bool:
        """Whether a background worker gave a sign of life in the last seconds."""
        return bool(await self._connection.command("EXISTS", self.keys.of(ARQ_HEALTH)))

    async def alone(self, targets: Iterable[str]) -> list[str]:
        """Bury every worker and gateway at once, and forget all targets but these; the ids of the jobs it moved.

        Only for the process that has just started the embedded store, where whoever is registered is dead, and nobody
        will ever look after a target that is not among its own.
        """
        moved = await self._moving("alone", INTERRUPTED, CALLER_GONE, *targets)
        return [job_id.decode() for job_id in moved]

    async def recover(self) -> list[str]:
        """Bring back what the dead left; idempotent, the ids it moved.

        That is: expired workers' jobs, running jobs without a lease, dead gateways' callers, queued jobs past their
        deadline. Workers and gateways call it each half second.
        """
        moved = await self._moving("recover", self._lease_ms, INTERRUPTED, CALLER_GONE, LATE)
        return [job_id.decode() for job_id in moved]


def _paused(status: TargetStatus, since: float, until: float, unload: bool) -> TargetStatus:
    """A target that an operator paused; one that is down stays down."""
    pause = Pause("target", status.name, since, until or None, unload)
    if status.state == "down":
        return dataclasses.replace(status, pause=pause)
    return dataclasses.replace(status, pause=pause, state="paused", since=max(status.since, since))
