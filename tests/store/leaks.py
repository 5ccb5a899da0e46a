"""Keys that would stay for ever: asked after each test that touched a store, by a fixture that no test has to name.

Every key must be spelled in keys.py, be of its type there, and, where it has no TTL, be permanent by its template or have
a living owner: a job that has not ended, a worker with a lease, an open delivery, a receiver with one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from foreman.store import keys as k

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

LIVING = {"queued", "loading", "working"}


async def leaks(look: Any, pool: str | None = None) -> list[str]:
    """What is wrong with the keys of a server, or of one pool; `look` is a redis-py client that decodes replies."""
    found = []
    match = "foreman:*" if pool is None else f"foreman:{pool}:*"
    names = [key async for key in look.scan_iter(match=match, count=1000)]
    async with look.pipeline(transaction=False) as pipe:  # thousands of keys, after each test: one round trip
        for key in names:
            pipe.type(key)
            pipe.ttl(key)
        said = await pipe.execute()
    for key, kind, ttl in zip(names, said[::2], said[1::2], strict=True):
        keys = k.Keys(key.split(":", 2)[1])
        template = keys.template(key)
        if template is None:
            found.append(f"{key}: not spelled in keys.py")
        elif kind not in {template.kind, "none"}:
            found.append(f"{key}: not a {template.kind}")
        elif ttl == -1 and not await _may_live(look, keys, template, key):
            found.append(f"{key}: {template.life.name}, but it has no TTL and no owner")
    return found


async def _may_live(look: Any, keys: k.Keys, template: k.Template, key: str) -> bool:
    rest = key.removeprefix(keys.prefix).split(":", 2)

    async def lives(job_id: str) -> bool:
        return await look.hget(keys.of(k.JOB, job_id), "state") in LIVING

    async def job() -> bool:
        return await lives(rest[1]) or bool(await look.zcard(keys.of(k.OUTBOX, rest[1])))

    async def idempotency() -> bool:
        return await lives((await look.get(key) or "").partition(" ")[0])

    async def jobs() -> bool:
        named = [keys.of(k.RUNNING, state) for state in ("loading", "working")]
        named += [keys.of(template, slot) for template in (k.QUEUED, k.DELAYED) for slot in ("drain", "embed", "side")]
        return bool(await look.exists(*named))

    async def delivery() -> bool:
        return await look.zscore(keys.of(k.OUTBOX, rest[1].split("_")[1]), rest[1]) is not None

    async def receiver() -> bool:
        return int(await look.hget(key, "open") or 0) > 0

    async def busy() -> bool:
        """Places at a URL are looked after (`calls`); those by host, and of all, end by themselves."""
        return "://" in key

    async def facts() -> bool:
        return bool(await look.exists(keys.of(k.LANE, rest[1], rest[2])))

    async def worker() -> bool:
        return await look.zscore(keys.of(k.WORKERS), rest[1]) is not None

    async def gateway() -> bool:
        return await look.zscore(keys.of(k.GATEWAYS), rest[1]) is not None

    async def target() -> bool:
        return await look.zscore(keys.of(k.WORKERS), await look.hget(key, "owner") or "") is not None

    owners: dict[k.Template, Callable[[], Awaitable[bool]]] = {
        **dict.fromkeys((k.JOB, k.REQUEST, k.EVENTS, k.ARTIFACT), job),
        **dict.fromkeys((k.DELIVERY, k.DELIVERY_BODY), delivery),
        **dict.fromkeys((k.WORKER, k.WORKER_JOBS, k.WORKER_TARGETS), worker),
        k.RECEIVER: receiver, k.BUSY: busy, k.IDEMPOTENCY: idempotency, k.JOBS: jobs, k.FACTS: facts, k.GATEWAY_JOBS: gateway, k.TARGET: target,
    }  # fmt: skip
    if template in k.PERMANENT:
        return True
    if template in owners:
        return await owners[template]()
    return template.life is k.Life.OWNED  # lists of the living: Redis removes them with their last member
