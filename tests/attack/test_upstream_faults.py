"""Targets that misbehave (contract 3, 4 Failing, 11): the code, the status, the words of each dialect, and then all is well.

After each fault the slot is free, the worker alive, and nothing of the job is queued, running or held.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio

from foreman.demo.ollama import FakeOllama
from tests.attack.ground import CHAT, MODES, STREAMS, Site, site

if TYPE_CHECKING:
    from tests.exchange import Answer

pytestmark = pytest.mark.asyncio(loop_scope="module")
STALL = 0.4


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=MODES)
async def at(request, tmp_path_factory, valkey):
    fake = FakeOllama(models=["alpha", "embedder"], tokens=6)
    async with site(
        tmp_path_factory.mktemp("faults"), valkey, fake, request.param, models="2", upstream_timeout=f"{STALL}s"
    ) as made:
        await made.alive()
        yield made


@pytest.fixture
def fault(at: Site):
    """Script a fault for one path; nothing of it is left afterwards."""

    def script(kind: str, path: str, **how: Any) -> None:
        at.fake.fault(kind, path=path, **how)

    yield script
    at.fake.clear()


def told(answer: Answer, dialect: str) -> str:
    """The words of the in-band error that ends a stream; the stream must end properly after it."""
    assert answer.status == 200, answer.body
    assert answer.whole, answer.chunks
    if dialect in {"chat", "generate"}:
        lines = answer.body.split(b"\n")
        assert lines[-1] == b"", "the error is a line"
        return str(json.loads(lines[-2])["error"])
    assert answer.body.endswith(b"\n\n")
    event = answer.body.split(b"\n\n")[-2]
    fields = dict(line.split(b": ", 1) for line in event.split(b"\n"))
    data = json.loads(fields[b"data"])
    if dialect == "v1-messages":
        assert fields[b"event"] == b"error"
        assert data["type"] == "error"
        return str(data["error"]["message"])
    if dialect == "v1-responses":
        assert fields[b"event"] == b"error"
        return str(data.get("message") or data["error"]["message"])
    assert b"event" not in fields
    said = data["error"]  # a native error line of the target's own is one of "the same chunks"
    return str(said if isinstance(said, str) and dialect == "chat-sse" else said["message"])


def refused(answer: Answer, path: str, code: str, status: int) -> str:
    """The words of a failure before the first byte."""
    assert (answer.status, answer.header("X-Foreman-Error")) == (status, code), answer
    assert answer.header("X-Foreman-Job-Id")
    error = json.loads(answer.body)["error"]
    if path.startswith("/v1/"):
        return str(error["message"])
    return str(error)


MAIN = ("chat", "chat-sse", "v1-chat")
MID = {
    "reset-mid": "cut",
    "half-line": "cut",
    "close-mid": "cut",
    "clean-end": "end",
    "hang-mid": "silent",
    "wrong-length": "",
    "garbage": "",
}


@pytest.mark.parametrize(
    ("kind", "dialect"),
    [(kind, dialect) for kind in MID for dialect in STREAMS if kind in {"close-mid", "clean-end"} or dialect in MAIN],
)
async def test_a_fault_in_mid_stream_is_told_in_band(at: Site, fault, dialect: str, kind: str) -> None:
    path, body, headers = STREAMS[dialect]
    fault(kind, path, after=2)
    answer = await at.post(path, body, headers)
    words = told(answer, dialect)
    assert MID[kind] in words, words
    assert answer.header("X-Foreman-Job-Id")
    if kind != "wrong-length":  # there the whole answer has come, and more was promised
        for mark in (b'"done":true', b"data: [DONE]", b"event: message_stop", b"event: response.completed"):
            assert mark not in answer.body
    await at.alive()


@pytest.mark.parametrize("dialect", STREAMS)
async def test_a_runner_that_dies_in_mid_stream_is_told_in_band(at: Site, fault, dialect: str) -> None:
    path, body, headers = STREAMS[dialect]
    fault("error-line", path, after=2)
    answer = await at.post(path, body, headers)
    assert told(answer, dialect)
    await at.alive()


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("path", ["/api/chat", "/v1/chat/completions", "/v1/messages"])
@pytest.mark.parametrize(
    ("kind", "code", "status"),
    [("garbage-http", "upstream_error", 502), ("reset-first", "upstream_unreachable", 502)],
)
async def test_a_fault_before_the_first_byte_keeps_its_status(
    at: Site, fault, path: str, stream: bool, kind: str, code: str, status: int
) -> None:
    fault(kind, path, times=3 if kind == "reset-first" else 1)
    answer = await at.post(path, {**CHAT, "max_tokens": 5, "stream": stream})
    assert "main" in refused(answer, path, code, status)
    await at.alive()


@pytest.mark.parametrize("path", ["/api/chat", "/v1/chat/completions"])
async def test_a_reset_before_the_first_byte_is_run_again(at: Site, fault, path: str) -> None:
    fault("reset-first", path, times=2)
    before = len(at.fake.requests_to(path))
    answer = await at.post(path, {**CHAT, "stream": False})
    assert answer.status == 200
    assert len(at.fake.requests_to(path)) == before + 3
    await at.alive()


async def test_a_hang_before_the_first_byte_is_a_504(at: Site, fault) -> None:
    fault("hang-first", "/v1/chat/completions")
    answer = await at.post("/v1/chat/completions", {**CHAT, "stream": True})
    assert "silent" in refused(answer, "/v1/chat/completions", "stalled", 504)
    await at.alive()


@pytest.mark.parametrize("path", ["/api/chat", "/v1/chat/completions"])
@pytest.mark.parametrize("kind", ["half-line", "wrong-length", "close-mid"])
async def test_a_cut_answer_that_is_no_stream_is_a_502(at: Site, fault, path: str, kind: str) -> None:
    fault(kind, path)
    answer = await at.post(path, {**CHAT, "stream": False})
    assert answer.status == 502, answer
    assert answer.header("X-Foreman-Error") in {"upstream_truncated", "upstream_unreachable"}
    await at.alive()


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages"])
async def test_garbage_for_an_answer_is_a_502(at: Site, fault, path: str) -> None:
    fault("garbage", path)
    answer = await at.post(path, {**CHAT, "max_tokens": 5, "stream": False})
    assert "no JSON" in refused(answer, path, "upstream_error", 502)
    await at.alive()


@pytest.mark.parametrize("path", ["/api/chat", "/v1/chat/completions", "/v1/messages", "/api/generate"])
@pytest.mark.parametrize(("status", "stream"), [(400, True), (404, False), (429, True), (500, False), (503, True)])
async def test_a_status_of_the_target_is_passed_on(at: Site, fault, path: str, status: int, stream: bool) -> None:
    fault("status", path, times=2, status=status, words="no such luck")
    body = {**CHAT, "prompt": "x", "max_tokens": 5, "stream": stream}
    direct = await at_target(at, path, body)
    answer = await at.post(path, body)
    assert (answer.status, answer.body.replace(b" ", b"")[:30]) == (status, direct.body.replace(b" ", b"")[:30])
    assert answer.header("Content-Type") == direct.header("Content-Type")
    assert answer.header("X-Foreman-Error") == "upstream_error"
    await at.alive()


async def at_target(at: Site, path: str, body: dict[str, Any]) -> Answer:
    """The same call straight to the target."""
    from tests.exchange import exchange

    return await exchange(at.fake.url, "POST", path, json.dumps(body).encode())


@pytest.mark.parametrize("path", ["/api/chat", "/v1/chat/completions"])
async def test_a_100_mb_line_ends_its_job_and_nothing_else(at: Site, fault, path: str) -> None:
    fault("endless-line", path, after=1, size=100_000_000)
    answer = await at.post(path, {**CHAT, "stream": True})
    assert b"error" in answer.body[-1000:]
    assert len(answer.body) < 20_000_000
    await at.alive()


async def test_faults_of_embeddings(at: Site, fault) -> None:
    for path in ("/api/embed", "/v1/embeddings"):
        for kind, code in (("reset-first", "upstream_unreachable"), ("garbage-http", "upstream_error")):
            fault(kind, path, times=3 if kind == "reset-first" else 1)
            answer = await at.post(path, {"model": "embedder", "input": "x"})
            refused(answer, path, code, 502)
            await at.alive()
    answer = await at.post("/api/embed", {"model": "embedder", "input": "x"})
    assert answer.status == 200


async def test_a_load_that_fails_says_the_targets_own_words(at: Site) -> None:
    at.fake.fault("load-fails", times=-1, status=500)
    try:
        for path in ("/api/chat", "/v1/chat/completions"):
            answer = await at.post(path, {**CHAT, "options": {"num_ctx": 1024 + len(path)}, "stream": True})
            if path == "/api/chat":
                assert answer.status == 500, answer
                assert "failed to load" in json.loads(answer.body)["error"]
                assert answer.header("X-Foreman-Error") == "upstream_error"
    finally:
        at.fake.clear()
    await at.alive()


async def test_the_counts_tell_failures_and_nothing_is_left(at: Site) -> None:
    await at.settled()
    jobs = await at.jobs()
    assert (jobs["queued"], jobs["loading"], jobs["working"]) == (0, 0, 0)
    assert jobs["failed"] > 10
    left = {key for key in await at.job_keys() if key.startswith(("lane", "queued", "running", "deadlines", "gateway"))}
    assert left == set()
    assert "Traceback" not in at.log()
