"""What callers of `/jobs` may send (contract 5 and 11): fields, times, parameters, keys, batches; over sockets."""

from __future__ import annotations

import asyncio
import json
import time
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio

from foreman.core.ids import ulid
from foreman.demo.ollama import FakeOllama
from foreman.protocols.job_object import NINE, rfc3339
from tests.attack.ground import CHAT, Site, site, until
from tests.exchange import exchange

if TYPE_CHECKING:
    from tests.exchange import Answer

pytestmark = pytest.mark.asyncio(loop_scope="module")
NEVER = {"not_before": rfc3339(time.time() + 86_400)}
"""Of jobs that shall stay queued."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def at(tmp_path_factory, valkey):
    fake = FakeOllama(models=["alpha"], tokens=2)
    async with site(tmp_path_factory.mktemp("jobs"), valkey, fake, "one", max_body="64KiB") as made:
        yield made


async def get(at: Site, path: str, method: str = "GET", **headers: str) -> Answer:
    return await exchange(
        at.url, method, path, None, {name.replace("_", "-"): value for name, value in headers.items()}
    )


async def submitted(at: Site, headers: dict[str, str] | None = None, **fields: Any) -> str:
    answer = await at.post("/jobs", {**CHAT, **fields}, headers)
    assert answer.status == 202, answer.body
    return str(json.loads(answer.body)["job_id"])


def words(answer: Answer, status: int) -> str:
    """The message of a refusal in the shape of `/jobs`."""
    assert answer.status == status, answer.body
    error = json.loads(answer.body)["error"]
    assert set(error) == {"code", "message", "retryable"}
    assert answer.header("X-Foreman-Error") == error["code"]
    return str(error["message"])


@pytest.mark.parametrize(
    ("moment", "status"),
    [
        ("0001-01-01T00:00:00+23:59", 422),
        ("0001-01-01T00:00:00Z", 202),
        ("1969-12-31T23:59:59.123456789Z", 202),
        ("9999-12-31T23:59:59-23:59", 422),
        ("2026-13-01T00:00:00Z", 422),
        ("2026-11-21T22:00:00", 422),
        ("2026-11-21", 422),
        (1795000000, 422),
        pytest.param(rfc3339(time.time() + 8 * 86_400), 422, id="in eight days"),
        pytest.param(rfc3339(time.time() + 7 * 86_400 - 60), 202, id="in seven days"),
    ],
)
async def test_a_moment_that_is_taken_can_be_shown(at: Site, moment: Any, status: int) -> None:
    answer = await at.post("/jobs", {**CHAT, "not_before": moment})
    if status == 422:
        assert words(answer, 422).startswith("not_before: ")
    else:
        job_id = json.loads(answer.body)["job_id"]
        assert answer.status == 202
        assert (await get(at, f"/jobs/{job_id}")).status == 200
        if moment > "2026":
            assert json.loads((await get(at, f"/jobs/{job_id}")).body)["position"] is None
            assert (await get(at, f"/jobs/{job_id}", "DELETE")).status == 200
    assert (await get(at, "/jobs")).status == 200


def _nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize(
    "metadata",
    [
        {},
        {"a": "x" * (4096 - 8)},
        {"ä": "€" * 1300},
        {"a": _nested(900)},
        {"": {"a": [None, True, 1.5, -0.0, 2**70]}},
        {"\ud800": "\udfff"},
        {"state": "done", "job_id": 7},
        None,
    ],
    ids=lambda value: str(value)[:20].encode("ascii", "replace").decode(),
)
async def test_metadata_is_echoed(at: Site, metadata: Any) -> None:
    job_id = await submitted(at, metadata=metadata)
    shown = json.loads((await get(at, f"/jobs/{job_id}?wait=20")).body)
    assert shown["metadata"] == metadata
    assert shown["job_id"] == job_id
    again = json.loads((await get(at, "/jobs?limit=1")).body)["jobs"]
    assert again[0]["metadata"] == metadata


@pytest.mark.parametrize(
    ("field", "status"),
    [
        (b'"metadata":{"a":"%s"}' % (b"x" * (4096 - 7)), 422),
        (b'"metadata":[]', 422),
        (b'"metadata":"{}"', 422),
        (b'"metadata":{"a":1e400}', 422),
        (b'"metadata":{"a":%s}' % (b"1" * 5000), 400),
        (b'"metadata":{"a":%s1%s}' % (b"[" * 20000, b"]" * 20000), 400),
        (b'"deadline_seconds":NaN', 400),
        (b'"deadline_seconds":1e400', 422),
        (b'"deadline_seconds":0', 422),
        (b'"deadline_seconds":-1', 422),
        (b'"deadline_seconds":true', 422),
        (b'"deadline_seconds":"60"', 422),
        (b'"priority":"HIGHEST"', 422),
        (b'"priority":{}', 422),
        (b'"endpoint":["/api/chat"]', 422),
        (b'"endpoint":"/api/pull"', 422),
        (b'"endpoint":"/jobs"', 422),
        (b'"endpoint":"/api/chat/"', 422),
        (b'"webhook_events":[]', 422),
        (b'"webhook_events":"done"', 422),
        (b'"webhook_events":["done",["done"]]', 422),
        (b'"webhook_events":["job.job.done"]', 422),
        (b'"webhook_events":{"done":1}', 422),
        (b'"state_webhook_url":""', 422),
        (b'"state_webhook_url":["http://example.com/"]', 422),
        (b'"state_webhook_url":"http://example.com/%s"' % (b"x" * 2048), 422),
        (b'"state_webhook_url":"http://example.com/\\r\\nX: y"', 422),
    ],
    ids=lambda value: value[:36].decode() if isinstance(value, bytes) else None,
)
async def test_a_wrong_field_is_named_and_leaves_nothing(at: Site, field: bytes, status: int) -> None:
    before = await at.job_keys()
    message = words(await at.post("/jobs", b'{"model":"alpha","messages":[],%b}' % field), status)
    if status == 422:
        assert message.startswith(field[1:].split(b'"')[0].decode() + ": ")
    assert await at.job_keys() <= before


@pytest.mark.parametrize(
    ("wait", "status"),
    [
        ("NaN", 422),
        ("-1", 422),
        ("-inf", 422),
        ("x", 422),
        ("%00", 422),
        ("0", 200),
        ("-0", 200),
        ("", 200),
        ("0.01", 200),
    ],
)
async def test_no_wait_hangs_or_breaks(at: Site, wait: str, status: int) -> None:
    job_id = await submitted(at, **NEVER)
    assert (await get(at, f"/jobs/{job_id}?wait={wait}")).status == status
    assert (await get(at, f"/jobs/{job_id}", "DELETE")).status == 200


@pytest.mark.parametrize("wait", ["1e999", "inf", "99999999999999999999", "600"])
async def test_a_huge_wait_ends_with_the_job_and_costs_nothing_when_left(at: Site, wait: str) -> None:
    job_id = await submitted(at, **NEVER)
    callers = [await at.dial() for _ in range(3)]
    for caller in callers:
        caller.ask(f"/jobs/{job_id}?wait={wait}", b"", "GET")
    callers[0].close()
    assert (await get(at, f"/jobs/{job_id}", "DELETE")).status == 200
    for caller in callers[1:]:
        assert json.loads((await caller.answer()).body)["state"] == "cancelled"


@pytest.mark.parametrize(
    "query",
    [
        *("cursor=zzz", "cursor=8ZZZZZZZZZZZZZZZZZZZZZZZZZ", "cursor=%00", "cursor=%C4%B0" + "0" * 25, "limit=0"),
        *("limit=-1", "limit=1e3", "limit=99999999999", "limit=%D9%A3", "state=bogus", "state=done,,x", "surface=x"),
    ],
)
async def test_a_wrong_parameter_is_named(at: Site, query: str) -> None:
    assert words(await get(at, f"/jobs?{query}"), 422).startswith(query.partition("=")[0])


@pytest.mark.parametrize(
    "query",
    [
        *("cursor=7ZZZZZZZZZZZZZZZZZZZZZZZZZ", "cursor=" + "0" * 26, "model=%ff", "model=%ED%A0%80", "endpoint=%00"),
        *("model=" + "a" * 7000, "state=", "state=,", "limit=500", "limit=501", "model=a%0Ab", "endpoint=%20done%20"),
    ],
)
async def test_a_strange_one_finds_what_there_is(at: Site, query: str) -> None:
    answer = await get(at, f"/jobs?{query}")
    assert answer.status == 200
    assert set(json.loads(answer.body)) == {"jobs", "next_cursor"}


async def test_pages_under_churn_show_each_job_that_stays_once(at: Site) -> None:
    stay = [await submitted(at, **NEVER, priority="low") for _ in range(12)]
    go = [await submitted(at, **NEVER) for _ in range(6)]
    seen: list[str] = []
    cursor: str | None = ""
    while cursor is not None:
        page = json.loads((await get(at, f"/jobs?state=queued&limit=4&cursor={cursor}")).body)
        seen += [job["job_id"] for job in page["jobs"]]
        cursor = page["next_cursor"]
        if go:
            await get(at, f"/jobs/{go.pop()}", "DELETE")
            await submitted(at, **NEVER)
    assert [job_id for job_id in seen if job_id in stay] == stay[::-1]
    assert len(set(seen)) == len(seen)
    assert seen == sorted(seen, reverse=True)
    for page_job in json.loads((await get(at, "/jobs?state=queued&limit=500")).body)["jobs"]:
        await get(at, f"/jobs/{page_job['job_id']}", "DELETE")


@pytest.mark.parametrize("path", ["", "/request", "/events", "/deliveries", "/artifacts/completion"])
@pytest.mark.parametrize("job_id", [ulid(1, 1), "x", "%2e%2e", "a%3Ab", "01m7z7qm5ew4fffwg3dvrj75g5", "%ff", "*"])
async def test_unknown_jobs(at: Site, job_id: str, path: str) -> None:
    assert "no job" in words(await get(at, f"/jobs/{job_id}{path}"), 404)


@pytest.mark.parametrize(
    "name", ["x", "completion:", "..%2f..%2frequest", "completion%00", "%ff", "request", "Completion"]
)
async def test_unknown_artifacts_and_deliveries(at: Site, name: str) -> None:
    job_id = await submitted(at)
    await get(at, f"/jobs/{job_id}?wait=20")
    words(await get(at, f"/jobs/{job_id}/artifacts/{name}"), 404)
    for delivery in (f"evt_{job_id}_{name}", f"evt_{job_id}_1", f"evt_{name}_1", name, f"evt_{job_id}_²"):
        path = f"/deliveries/{delivery.replace('²', '%C2%B2')}/redeliver"
        words(await get(at, path, "POST", Content_Length="0"), 404)


async def test_one_key_at_two_doors_and_of_other_bodies(at: Site) -> None:
    key = {"Idempotency-Key": "k-1"}
    job_id = await submitted(at, key, **NEVER)
    again = await at.post("/jobs", {**CHAT, **NEVER}, key)
    assert (again.status, json.loads(again.body)["job_id"]) == (200, job_id)
    assert "Idempotency-Key" in words(await at.post("/jobs", {**CHAT, **NEVER, "priority": "low"}, key), 422)
    sync = await at.post("/api/chat", {**CHAT, "stream": False}, key)
    assert sync.status == 200
    both = await asyncio.gather(*(at.post("/jobs", CHAT, {"Idempotency-Key": "k-2"}) for _ in range(8)))
    assert sorted(answer.status for answer in both) == [200] * 7 + [202]
    assert len({json.loads(answer.body)["job_id"] for answer in both}) == 1
    assert (await get(at, f"/jobs/{job_id}", "DELETE")).status == 200
    fresh = await submitted(at, key, **NEVER)
    assert fresh != job_id
    assert (await get(at, f"/jobs/{fresh}", "DELETE")).status == 200


@pytest.mark.parametrize("key", ["", "x" * 256, "a\tb", "ä"])
async def test_a_key_that_is_none(at: Site, key: str) -> None:
    assert words(await at.post("/jobs", CHAT, {"Idempotency-Key": key}), 422).startswith("Idempotency-Key")


async def test_a_batch_of_a_thousand_with_bad_ones_between(at: Site) -> None:
    good = json.dumps({**CHAT, **NEVER, "webhook_events": ["done"]}).encode()
    bad = {
        b"{": 400,
        b"[]": 400,
        b'{"model":"nope","messages":[]}': 404,
        b'{"model":"alpha","messages":[],"priority":1}': 422,
        b'{"model":"alpha","x":"' + b"y" * 65536 + b'"}': 413,
        b"\xff\xfe": 400,
    }
    kinds = list(bad)
    lines = [kinds[number // 40 % len(kinds)] if number % 40 == 3 else good for number in range(1000)]
    for key in ({}, {"Idempotency-Key": "k" * 255}):
        before = await at.jobs()
        answer = await at.post("/jobs/batch", b"\r\n".join(lines) + b"\n\n", key)
        rows = [json.loads(line) for line in answer.body.splitlines()]
        assert answer.status == 200
        assert len(rows) == 1000
        assert ["error" in row for row in rows] == [line != good for line in lines]
        ids = [row["job_id"] for row in rows if "job_id" in row]
        assert ids == sorted(set(ids))
        assert (await at.jobs())["queued"] - before["queued"] == len(ids)


async def test_half_a_batch_and_gone(at: Site) -> None:
    before = (await at.jobs())["queued"]
    good = json.dumps({**CHAT, **NEVER}).encode() + b"\n"
    caller = await at.dial()
    caller.send(f"POST /jobs/batch HTTP/1.1\r\nHost: {caller.host}\r\nContent-Length: 1000000\r\n\r\n".encode())
    caller.send(good * 3 + good[:40])
    await until(lambda: _queued(at, before + 3))
    caller.close()
    await at.alive_beside()
    assert await _queued(at, before + 3)


async def _queued(at: Site, wanted: int) -> bool:
    return (await at.jobs())["queued"] == wanted


async def test_the_nine_and_no_trace_of_trouble(at: Site) -> None:
    job_id = await submitted(at)
    shown = json.loads((await get(at, f"/jobs/{job_id}?wait=20")).body)
    assert set(NINE) <= set(shown)
    assert shown["error"] is None
    assert "Traceback" not in at.log()
