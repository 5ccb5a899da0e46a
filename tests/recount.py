"""A recount of the store, job by job, against which the numbers that operators see are held.

One script reads the records themselves, so it sees one moment; it uses none of the counters and indexes from which
`/ops/state` and `/metrics` are made, but the list of ids.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

LIVING = ("queued", "loading", "working")
_RECORDS = """
local found = {}
for _, id in ipairs(redis.call('ZRANGE', KEYS[1] .. 'jobs', 0, -1)) do
  local v = redis.call('HMGET', KEYS[1] .. 'job:' .. id, 'state', 'lane', 'slot', 'target', 'endpoint', 'not_before',
    'seq')
  if v[1] then found[#found + 1] = {id, v[1], v[2], v[3], v[4] or '', v[5], v[6] or '', v[7]} end
end
return found
"""


@dataclass(frozen=True)
class Recount:
    """All jobs that are kept, at one moment: (id, state, lane, slot, target, endpoint, not before, seq)."""

    jobs: tuple[tuple[str, ...], ...]

    @property
    def counts(self) -> Counter[str]:
        """Jobs by state."""
        return Counter(job[1] for job in self.jobs)

    @property
    def ended(self) -> Counter[tuple[str, str]]:
        """Ended jobs by state and endpoint."""
        return Counter((job[1], job[5]) for job in self.jobs if job[1] not in LIVING)

    def differs(self, state: dict[str, Any], *, kept_all: bool = True) -> list[str]:
        """What `/ops/state` says otherwise, a sentence each.

        Args:
            state: of the same moment, with fewer than 200 lanes.
            kept_all: no ended job has been forgotten yet; else there may have been more than are found.
        """
        found = []
        counts = self.counts
        for name, told in state["jobs"].items():
            here = counts[name]
            if told != here and (name in LIVING or kept_all or told < here):
                found.append(f"{told} {name} are told, {here} are there")
        shown = {(lane["lane"], lane["slot"]): lane["depth"] for lane in state["lanes"] if lane["depth"]}
        waiting = [job for job in self.jobs if job[1] == "queued" and job[3] != "side"]
        least = Counter((job[2], job[3]) for job in waiting if not job[6])
        most = Counter((job[2], job[3]) for job in waiting)  # those that have waited for their time stand in it, too
        found += [
            f"lane {key}: depth {shown.get(key, 0)} is told, {least[key]} to {most[key]} are there"
            for key in {*shown, *most}
            if not least[key] <= shown.get(key, 0) <= most[key]
        ]
        running = {(job[0], job[4]) for job in self.jobs if job[1] in {"loading", "working"}}
        told_running = {(job["job_id"], target["name"]) for target in state["targets"] for job in target["running"]}
        if told_running != running:
            found.append(f"running: {sorted(told_running ^ running)} differ")
        lanes = Counter(job[2] for job in self.jobs if job[1] in {"loading", "working"} and job[3] != "side")
        if {lane["lane"]: lane["running"] for lane in state["lanes"] if lane["running"]} != dict(lanes):
            found.append("the lanes' running differ")
        return found


async def recount(look: Any, prefix: str) -> Recount:
    """Read all records in one step; `look` is a redis-py client that decodes."""
    return Recount(tuple(tuple(job) for job in await look.eval(_RECORDS, 1, prefix)))
