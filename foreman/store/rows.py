"""Replies of the scripts turned back into values: jobs, lanes, presences, inventories.

store/queue.py, roster.py and inbox.py call me; I know how each value is spelled in Redis (times in ms, JSON in strings,
an absent field for None) and nothing of how it got here.
"""

from __future__ import annotations

import json
import math
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from foreman.core.jobs import Artifact, Job, Priority, Slot, State, Surface
from foreman.store.records import (
    Changes,
    Claimed,
    Event,
    GatewayPresence,
    LaneFacts,
    NewJob,
    Notice,
    Order,
    Survey,
    TargetStatus,
    WorkerPresence,
)

if TYPE_CHECKING:
    from collections.abc import Sequence


def ms(seconds: float) -> int:
    """Seconds as the whole milliseconds that scripts count in."""
    return round(seconds * 1000)


def table(flat: Sequence[bytes]) -> dict[str, str]:
    """A flat reply as a dict of text."""
    return {flat[i].decode(): flat[i + 1].decode() for i in range(0, len(flat), 2)}


def new_job_fields(new: NewJob) -> list[str]:
    """The fields of a new record beside those that submit.lua sets itself, flat; what is empty is left out."""
    row = {
        "surface": new.surface.value,
        "endpoint": new.endpoint,
        "model": new.model,
        "canonical": new.canonical,
        "method": new.method,
        "stream": "1" if new.stream else "0",
        "unload": "1" if new.unload else "",
        "gateway": new.gateway or "",
        "targets": "\n".join(new.targets),
        "target_only": new.target_only or "",
        "caller": new.caller or "",
        "digest": new.digest or "",
        "options": json.dumps(new.options) if new.options else "",
        "headers": json.dumps(new.headers) if new.headers else "",
        "state_webhook_url": new.state_webhook_url or "",
        "webhook_events": " ".join(new.webhook_events) if new.state_webhook_url else "",
        "metadata": new.metadata or "",
        "retry_of": new.retry_of or "",
        "idempotency_key": new.idempotency_key or "",
        "own_fields": new.own_fields or "",
        "finish": "1" if new.finish else "",
        "retried_by": new.retried_by or "",  # the last one: submit.lua looks for it there
    }
    return [text for field, value in row.items() if value for text in (field, value)]


def job(job_id: str, row: dict[str, str]) -> Job:
    """A job from its hash."""
    return Job(
        id=job_id,
        state=State(row["state"]),
        surface=Surface(row["surface"]),
        endpoint=row["endpoint"],
        model=row.get("model", ""),
        lane=row["lane"],
        slot=Slot(row["slot"]),
        priority=Priority(int(row["priority"])),
        attempt=int(row["attempt"]),
        epoch=int(row["epoch"]),
        seq=int(row["seq"]),
        created_at=int(row["created_at"]) / 1000,
        due=int(row["due"]) / 1000,
        changed_at=int(row.get("changed_at", row["created_at"])) / 1000,
        deadline=_moment(row, "deadline"),
        started_at=_moment(row, "started_at"),
        finished_at=_moment(row, "finished_at"),
        claimed_at=_moment(row, "claimed_at"),
        previous_state=State(row["previous_state"]) if row.get("previous_state") else None,
        gateway=row.get("gateway"),
        worker=row.get("worker"),
        target=row.get("target"),
        targets=tuple(row["targets"].split("\n")) if "targets" in row else (),
        target_only=row.get("target_only"),
        caller=row.get("caller"),
        cancel_reason=row.get("cancel_reason"),
        error=json.loads(row["error"]) if row.get("error") else None,
        usage=_json(row, "usage"),
        timings=_json(row, "timings"),
        artifacts=tuple(Artifact(*fields) for fields in json.loads(row.get("artifacts", "[]"))),
        state_webhook_url=row.get("state_webhook_url"),
        webhook_events=frozenset(map(State, row.get("webhook_events", "").split())) or frozenset(State),
        metadata=json.loads(row["metadata"]) if "metadata" in row else None,
        not_before=_moment(row, "not_before"),
        retry_of=row.get("retry_of"),
        idempotency_key=row.get("idempotency_key"),
        stream=row.get("stream") == "1",
        finish=row.get("finish") == "1",
        readers=_readers(row.get("readers", "")),
        answer_head=row.get("head"),
    )


def event(entry: Sequence[Any]) -> Event:
    """One entry of a job's stream: `[b"<seq>-0", [field, value, …]]`."""
    row = table(entry[1])
    return Event(
        seq=int(entry[0].partition(b"-")[0]),
        state=State(row["state"]),
        previous_state=State(row["previous_state"]) if row["previous_state"] else None,
        time=int(row["time"]) / 1000,
        worker=row["worker"] or None,
        reason=row["reason"],
        attempt=int(row["attempt"]),
    )


def taken(reply: Sequence[Any] | int) -> Claimed | None:
    """What a claim got: `{now ms, id, request, record}`, or 0 for nothing."""
    if isinstance(reply, int):
        return None
    now, job_id, request, flat = reply
    return claimed(job_id.decode(), int(now), request, flat)


def claimed(job_id: str, now_ms: int, request: bytes, flat: Sequence[bytes]) -> Claimed:
    """What claim.lua answers for the job it took."""
    row = table(flat)
    return Claimed(
        job=job(job_id, row),
        request=request,
        headers=_json(row, "headers"),
        stream=row.get("stream") == "1",
        method=row.get("method", "POST"),
        options=_json(row, "options"),
        canonical=row.get("canonical", ""),
        digest=row.get("digest"),
        unload=row.get("unload") == "1",
        now=now_ms / 1000,
    )


def survey(reply: Sequence[Any]) -> Survey:
    """What survey.lua answers."""
    return Survey(int(reply[0]) / 1000, tuple(_lane(entry) for entry in reply[1:]))


def changes(reply: Sequence[Any]) -> Changes:
    """What changes.lua answers, and claim.lua and take.lua beside what they took."""
    now, cursor, whole, paused = reply[:4]
    pauses, unloading = {}, set()
    for name, text in table(paused).items():
        till, unload, *_ = text.split(" ")
        pauses[name] = int(till) / 1000 or math.inf
        if unload == "1":
            unloading.add(name)
    return Changes(
        now=int(now) / 1000,
        cursor=cursor.decode(),
        whole=bool(whole),
        lanes=tuple(_lane(entry) for entry in reply[4:] if len(entry) > 1),
        gone=tuple(entry[0].decode() for entry in reply[4:] if len(entry) == 1),
        pauses=pauses,
        unloading=frozenset(unloading),
    )


def _lane(entry: Sequence[bytes]) -> LaneFacts:
    lane, head_id, due, priority, created, only = entry[:6]
    row = table(entry[6:])
    return LaneFacts(
        lane=lane.decode(),
        model=row.get("model", ""),
        digest=row.get("digest") or None,
        options=_json(row, "options"),
        head_id=head_id.decode(),
        head_due=float(due) / 1000,
        head_class=Priority(int(priority)),
        head_enqueued_at=int(created) / 1000,
        head_target_only=only.decode() or None,
        classes=(int(row.get("n0", "0")), int(row.get("n1", "0")), int(row.get("n2", "0"))),
        left_at={name[8:]: int(value) / 1000 for name, value in row.items() if name.startswith("left_at:")},
        paused=row.get("paused") == "1",
    )


def gateway(entry: Sequence[bytes]) -> GatewayPresence:
    """One entry of gateways.lua."""
    row = table(entry[1:])
    return GatewayPresence(
        id=entry[0].decode(),
        link=row.get("link", ""),
        callers=int(row.get("callers", "0")),
        since=float(row.get("since", "0")),
        version=row.get("version", ""),
    )


def worker(entry: Sequence[Any]) -> WorkerPresence:
    """One entry of workers.lua."""
    row = table(entry[3:])
    return WorkerPresence(
        id=entry[0].decode(),
        since=int(row.get("since", "0")) / 1000,
        expires=float(entry[1]) / 1000,
        targets=tuple(sorted(name.decode() for name in entry[2])),
        version=row.get("version", ""),
        unreachable=tuple(json.loads(row.get("unreachable") or "[]")),
    )


_STATUS_FIELDS = tuple(field.name for field in fields(TargetStatus))


def status_json(status: TargetStatus) -> str:
    """An inventory as publish.lua stores it."""
    return json.dumps({name: getattr(status, name) for name in _STATUS_FIELDS}, separators=(",", ":"))


def status(text: bytes) -> TargetStatus:
    """An inventory; fields of a newer version are dropped."""
    return TargetStatus(**{name: value for name, value in json.loads(text).items() if name in _STATUS_FIELDS})


def order(text: bytes) -> Order:
    """An entry of a worker's inbox."""
    message = json.loads(text)
    return Order(
        verb=message["verb"],
        target=message.get("target"),
        job_id=message.get("job_id"),
        epoch=message.get("epoch", 0),
        code=message.get("code"),
        gateway=message.get("gateway"),
        reader=message.get("reader"),
    )


def notice(text: bytes) -> Notice:
    """An entry of a gateway's inbox."""
    message = json.loads(text)
    if message.get("missed"):
        return Notice("", State.QUEUED, 0, None, missed=True)
    return Notice(
        job_id=message["job_id"],
        state=State(message["state"]),
        epoch=message["epoch"],
        error=json.loads(message["error"]) if message["error"] else None,
        watched=message.get("watched", False),
    )


def _moment(row: dict[str, str], name: str) -> float | None:
    return int(row[name]) / 1000 if name in row else None


def _readers(lines: str) -> tuple[tuple[str, str], ...]:
    return tuple(
        (gateway, reader) for gateway, _, reader in (line.partition(" ") for line in lines.split("\n")) if reader
    )


def _json(row: dict[str, str], name: str) -> dict[str, Any]:
    text = row.get(name)
    return json.loads(text) if text else {}
