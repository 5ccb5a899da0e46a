"""Is this server one that can hold the queue? Asked once at start, and by `doctor`.

connect() calls me with a line to the server; I read its INFO and return findings, each a sentence that says what to do.
Fatal ones refuse the start; I change nothing on the server.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from foreman.store.errors import ScriptError

if TYPE_CHECKING:
    from foreman.store.wire import Connection

OLDEST: Final = (6, 2)
"""The oldest Redis whose commands the scripts keep to; every Valkey is newer."""
SHORT: Final = 0.9
"""Share of the server's `maxmemory` from which on it is short of it."""


@dataclass(frozen=True, slots=True)
class Finding:
    """Something about the server that should be otherwise."""

    fatal: bool
    message: str


async def check(connection: Connection) -> tuple[Finding, ...]:
    """What is wrong with the server. Raises StoreUnavailableError."""
    try:
        text = await connection.command("INFO")
    except ScriptError as error:
        return (Finding(False, f"The store does not answer INFO ({error}): its settings could not be checked."),)
    return judge(dict(line.split(":", 1) for line in text.decode().splitlines() if ":" in line))


def judge(info: dict[str, str]) -> tuple[Finding, ...]:
    """The findings for what INFO said."""
    found: list[Finding] = []
    version = tuple(int(part) for part in re.findall(r"\d+", info.get("redis_version", "")))[:2]
    if version and version < OLDEST:
        found.append(
            Finding(
                True, f"The store is Redis {info['redis_version']}: foreman needs Redis 6.2 or newer, or any Valkey."
            )
        )
    if info.get("cluster_enabled") == "1" or info.get("redis_mode") == "cluster":
        found.append(
            Finding(
                True,
                "The store is a Redis Cluster: foreman needs one primary (with Sentinel, if you like). "
                "To grow past one primary, run more pools (FOREMAN_POOL), each with a store of its own.",
            )
        )
    policy = info.get("maxmemory_policy", "noeviction")
    if policy != "noeviction":
        limited = info.get("maxmemory", "0") != "0"
        consequence = "it throws queued jobs away when memory is short" if limited else "it would once maxmemory is set"
        found.append(
            Finding(
                False,
                f"The store's maxmemory-policy is {policy}: {consequence}. Run `CONFIG SET maxmemory-policy noeviction`.",
            )
        )
    if info.get("aof_enabled") == "0":
        found.append(
            Finding(
                False,
                "The store keeps no append-only file: queued jobs are lost when it stops. "
                "Run `CONFIG SET appendonly yes` and keep it in its configuration file.",
            )
        )
    most, used = int(info.get("maxmemory", "0")), int(info.get("used_memory", "0"))
    if most and used > SHORT * most:
        found.append(
            Finding(
                False,
                f"The store uses {used >> 20} of its {most >> 20} MiB (maxmemory): full, it refuses every write and calls get "
                "503. Raise maxmemory, or lower FOREMAN_STORE_BYTES.",
            )
        )
    if info.get("aof_last_write_status", "ok") != "ok":
        found.append(
            Finding(
                False,
                "The store can't write its append-only file (aof_last_write_status): it refuses writes, or loses them when "
                "it stops. See that its disk has room and works.",
            )
        )
    if info.get("min_slaves_good_slaves") == "0":  # told only where min-replicas-to-write is set; `slaves` is its word
        found.append(
            Finding(
                False,
                "The store waits for replicas before it takes a write (min-replicas-to-write), and no good one is there: "
                "calls get 503. Bring a replica back, or set it to 0.",
            )
        )
    if info.get("role", "master") != "master":
        found.append(Finding(True, "The store is a replica: give FOREMAN_REDIS_URL the address of its primary."))
    return tuple(found)
