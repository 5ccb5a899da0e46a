"""What `/jobs` keeps of answers and shows of jobs (contract 5): the object in every state, `result`, artifacts; over sockets."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
from typing import TYPE_CHECKING, Any, Self

import pytest
import pytest_asyncio

from foreman.demo.ollama import FakeOllama
from foreman.protocols.job_object import NINE
from tests.attack.ground import CHAT, Site, site
from tests.exchange import exchange
from tests.receivers import Receivers

if TYPE_CHECKING:
    from tests.exchange import Answer

pytestmark = pytest.mark.asyncio(loop_scope="module")
INLINE = 262_144


class Scribe:
    """A server of kind `openai` that answers every call with `body`, whatever that is."""

    answering = 0

    def __init__(self) -> None:
        self.body = b"{}"
        self.url = ""

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
                size = next((line for line in head.split("\r\n") if line.startswith("content-length:")), ":0")
                await reader.readexactly(int(size.partition(":")[2]))
                known = b'{"object":"list","data":[{"id":"alpha","object":"model"}]}'
                body = self.body if head.startswith("post") else known
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n")
                writer.write(b"Content-Length: %d\r\n\r\n%b" % (len(body), body))
        writer.close()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def receivers():
    async with Receivers() as made:
        yield made


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def at(tmp_path_factory, valkey, receivers):
    fake = FakeOllama(models=["alpha", "embed-one"], tokens=5, repeatable=True)
    allow = f"127.0.0.1:{receivers.port}"
    folder = tmp_path_factory.mktemp("answers")
    async with site(folder, valkey, fake, "one", models="2", webhook_allow=allow, webhook_schedule="0s,100ms") as made:
        yield made


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def verbatim(tmp_path_factory, valkey, receivers):
    allow = f"127.0.0.1:{receivers.port}"
    async with Scribe() as scribe:
        target = f"main={scribe.url}?kind=openai"
        folder = tmp_path_factory.mktemp("verbatim")
        async with site(folder, valkey, scribe, "one", target, webhook_allow=allow) as made:  # type: ignore[arg-type]  # a stand-in
            yield made


async def get(at: Site, path: str, method: str = "GET", **headers: str) -> Answer:
    return await exchange(
        at.url, method, path, None, {name.replace("_", "-"): value for name, value in headers.items()}
    )


async def submitted(at: Site, **fields: Any) -> str:
    answer = await at.post("/jobs", {**CHAT, **fields})
    assert answer.status == 202, answer.body
    return str(json.loads(answer.body)["job_id"])


def strictly(body: bytes) -> Any:
    """The JSON of a body, read as a strict reader does."""

    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is no JSON")

    return json.loads(body.decode(), parse_constant=refuse)


async def ended(at: Site, job_id: str) -> dict[str, Any]:
    answer = await get(at, f"/jobs/{job_id}?wait=20")
    assert answer.status == 200
    found: dict[str, Any] = strictly(answer.body)
    return found


PROMPT = {"model": "alpha", "prompt": "x"}
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}
CALLS: dict[str, tuple[str, dict[str, Any]]] = {
    "chat": ("/api/chat", CHAT),
    "generate": ("/api/generate", PROMPT),
    "thinking": ("/api/chat", {**CHAT, "think": True}),
    "tools": ("/api/chat", {**CHAT, "tools": [TOOL]}),
    "format": ("/api/chat", {**CHAT, "format": "json"}),
    "load": ("/api/chat", {"model": "alpha", "messages": []}),
    "load-generate": ("/api/generate", {"model": "alpha"}),
    "raw": ("/api/generate", {**PROMPT, "raw": True}),
    "logprobs": ("/api/chat", {**CHAT, "logprobs": True}),
    "embed": ("/api/embed", {"model": "embed-one", "input": ["a", "b"]}),
    "embeddings": ("/api/embeddings", {"model": "embed-one", "prompt": "a"}),
    "v1-chat": ("/v1/chat/completions", CHAT),
    "v1-completions": ("/v1/completions", PROMPT),
    "v1-embeddings": ("/v1/embeddings", {"model": "embed-one", "input": "a"}),
    "v1-responses": ("/v1/responses", {"model": "alpha", "input": "x"}),
    "v1-messages": ("/v1/messages", {**CHAT, "max_tokens": 9}),
}


@pytest.mark.parametrize("stream", [None, True, False, ...])
@pytest.mark.parametrize("call", CALLS)
async def test_the_result_is_what_stream_false_gives_byte_for_byte(at: Site, call: str, stream: Any) -> None:
    path, body = CALLS[call]
    asked = body if stream is ... else {**body, "stream": stream}
    job = await ended(at, await submitted_as(at, path, asked))
    assert job["state"] == "done", job["error"]
    (artifact,) = job["artifacts"]
    kept = await get(at, artifact_path(job))
    direct = await exchange(at.fake.url, "POST", path, json.dumps({**body, "stream": False}).encode())
    assert kept.body == direct.body.rstrip(b"\n") or kept.body == direct.body
    assert job["result"] == artifact["inline"] == json.loads(kept.body)
    assert (artifact["size"], artifact["sha256"]) == (len(kept.body), hashlib.sha256(kept.body).hexdigest())
    assert (kept.header("Content-Type"), artifact["url"]) == (artifact["content_type"], None)
    asked_for = await get(at, f"/jobs/{job['job_id']}/request")
    assert json.loads(asked_for.body) == {**asked, "endpoint": path}


async def submitted_as(at: Site, path: str, body: dict[str, Any]) -> str:
    answer = await at.post("/jobs", {**body, "endpoint": path})
    assert answer.status == 202, answer.body
    return str(json.loads(answer.body)["job_id"])


def artifact_path(job: dict[str, Any]) -> str:
    return f"/jobs/{job['job_id']}/artifacts/completion"


@pytest.mark.parametrize("size", [INLINE - 1, INLINE, INLINE + 1, 5 << 20])
async def test_inline_up_to_256_kib(verbatim: Site, receivers: Receivers, size: int) -> None:
    body = b'{"a":"' + b"x" * (size - 8) + b'"}'
    job = await told(verbatim, receivers, f"/size-{size}", body)
    (artifact,) = job["artifacts"]
    assert (artifact["size"], artifact["sha256"]) == (size, hashlib.sha256(body).hexdigest())
    path = artifact_path(job)
    if size <= INLINE:
        assert (job["result"], artifact["inline"], artifact["url"]) == (json.loads(body), json.loads(body), None)
    else:
        assert (job["result"], artifact["inline"], artifact["url"]) == (None, None, path)
    kept = await get(verbatim, path)
    tag = kept.header("ETag")
    assert (kept.status, kept.body, tag) == (200, body, f'"{artifact["sha256"]}"')
    for given in (tag, f"W/{tag}", "*", f'"x", {tag}'):
        again = await get(verbatim, path, If_None_Match=given)
        assert (again.status, again.body, again.header("ETag")) == (304, b"", tag)
    for given in ('"x"', artifact["sha256"], "", "%", '"'):
        assert (await get(verbatim, path, If_None_Match=given)).status == 200
    head = await get(verbatim, path, "HEAD")
    assert (head.status, head.header("Content-Length"), head.header("ETag")) == (200, str(size), tag)


async def told(verbatim: Site, receivers: Receivers, path: str, body: bytes) -> dict[str, Any]:
    """The object of a job that is answered with `body`, the same for a poller and a receiver, and strict JSON."""
    verbatim.fake.body = body  # type: ignore[attr-defined]  # a Scribe
    more = {
        "endpoint": "/v1/chat/completions",
        "state_webhook_url": receivers.url + path,
        "webhook_events": ["done", "failed"],
    }
    job = await ended(verbatim, await submitted(verbatim, **more))
    await receivers.until(lambda it: it.seen[path])
    assert strictly(receivers.seen[path][0].body) == job
    assert strictly((await get(verbatim, "/jobs?limit=1")).body)["jobs"][0] == job
    return job


GOOD = {
    "object": b'{"a":1}\n',
    "surrogate": b'{"a":"\\ud800"}',
    "deep": b"[" * 900 + b"]" * 900,
    "exponents": b'{"a":[1e-999,1E+3,2.5e-05,1e308,"1e999","NaN"]}',
    "string": b'"x"',
    "twice": b'{"a":1,"a":2}',
}
BAD = {
    "nan": b'{"a":NaN}',
    "infinity": b'{"a":[-Infinity]}',
    "too-large": b'{"a":1e999}',
    "much-too-large": b'{"a":-%s.5}' % (b"9" * 400),
    "long-and-large": b'{"a":%se99}' % (b"9" * 250),
    "broken-utf-8": b'{"a":"\xff"}',
    "abyss": b"[" * 5000 + b"]" * 5000,
    "empty": b"",
    "words": b"<html>",
}


@pytest.mark.parametrize("name", [*GOOD, *BAD])
async def test_whatever_a_target_says_everybody_reads_json(verbatim: Site, receivers: Receivers, name: str) -> None:
    job = await told(verbatim, receivers, f"/{name}", (GOOD | BAD)[name])
    if name in GOOD:
        assert (job["state"], job["result"]) == ("done", json.loads(GOOD[name]))
    else:
        assert (job["state"], job["error"]["code"]) == ("failed", "upstream_error")
        assert (job["result"], job["artifacts"]) == (None, None)
        assert (await get(verbatim, artifact_path(job))).status == 404


async def test_the_object_in_every_state_for_a_poller_and_a_receiver(at: Site, receivers: Receivers) -> None:
    seen: dict[str, dict[str, Any]] = {}
    for name in ("done", "cancelled"):
        url = f"{receivers.url}/{name}"
        gate = at.fake.gate(after=2, model="alpha", times=1)
        job_id = await submitted(at, state_webhook_url=url, metadata={"n": name})
        await gate.reached()
        working = strictly((await get(at, f"/jobs/{job_id}")).body)
        assert (working["state"], "position" in working, working["result"], working["artifacts"]) == (
            "working",
            False,
            None,
            None,
        )
        behind = strictly((await get(at, f"/jobs/{await submitted(at)}")).body)
        assert (behind["state"], behind["position"] >= 1, bool(behind["waiting_for"])) == ("queued", True, True)
        seen["queued"] = behind
        if name == "cancelled":
            deleted = await get(at, f"/jobs/{job_id}", "DELETE")
            assert (deleted.status, strictly(deleted.body)["state"]) == (200, "cancelled")
        gate.open()
        job = await ended(at, job_id)
        seen[job["state"]] = job
        await receivers.until(
            lambda it, path=f"/{name}", last=job["seq"]: it.seen[path] and it.seen[path][-1].event["seq"] == last
        )
        hooks = [strictly(one.body) for one in receivers.seen[f"/{name}"]]
        assert [hook["seq"] for hook in hooks] == list(range(1, job["seq"] + 1))
        assert hooks[-1] == job
        assert next(hook for hook in hooks if hook["state"] == "working") == working
        previous = None
        events = strictly((await get(at, f"/jobs/{job_id}/events")).body)["events"]
        for hook, event in zip(hooks, events, strict=True):
            assert set(NINE) <= set(hook)
            assert set(hook) == set(job)
            assert hook["type"] == f"job.{hook['state']}"
            assert hook["previous_state"] == event["previous_state"] == previous
            assert (hook["seq"], hook["timestamp"], hook["state"]) == (event["seq"], event["time"], event["state"])
            previous = hook["state"]
        assert strictly((await get(at, f"/jobs/{job_id}", "DELETE")).body) == job
    assert {"done", "cancelled", "queued"} <= set(seen)


async def test_a_retry_of_a_sync_call_and_of_a_retry(at: Site) -> None:
    plain = await at.post("/api/chat", {**CHAT, "stream": False})
    sync_id = plain.header("X-Foreman-Job-Id")
    retried = await get(at, f"/jobs/{sync_id}/retry", "POST", Content_Length="0")
    assert retried.status == 410, retried.body
    shown = strictly((await get(at, f"/jobs/{sync_id}")).body)
    assert (shown["surface"], shown["result"], shown["artifacts"]) == ("sync", None, None)
    look = await at.post("/api/show", {"model": "alpha"}, {"X-Foreman-On-Disconnect": "finish"})
    refused = await get(at, f"/jobs/{look.header('X-Foreman-Job-Id')}/retry", "POST", Content_Length="0")
    assert (refused.status, "/api/show: send that anew" in refused.body.decode()) == (422, True)
    job = await ended(at, await submitted(at, metadata={"a": 1}))
    for _ in range(2):
        again = await get(at, f"/jobs/{job['job_id']}/retry", "POST", Content_Length="0")
        assert again.status == 202, again.body
        new = await ended(at, strictly(again.body)["job_id"])
        assert (new["state"], new["retry_of"], new["metadata"]) == ("done", job["job_id"], {"a": 1})
        job = new


async def test_a_failed_one_tells_why(at: Site, receivers: Receivers) -> None:
    at.fake.fault("status", status=507, words="no room", times=1)
    job = await ended(
        at, await submitted(at, state_webhook_url=f"{receivers.url}/failed", webhook_events=["job.failed"])
    )
    assert (job["state"], job["error"]["code"], job["result"], job["artifacts"]) == (
        "failed",
        "upstream_error",
        None,
        None,
    )
    assert set(job["error"]) == {"code", "message", "retryable"}
    await receivers.until(lambda it: it.seen["/failed"])
    assert [strictly(one.body) for one in receivers.seen["/failed"]] == [job]
