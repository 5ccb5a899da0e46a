"""Story: the same bytes. Each request goes straight to the model server and through foreman; the answers are compared."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
import pytest_asyncio

from foreman.demo.ollama import FakeOllama
from tests.clients.cases import ASK, CHAT, EMBED, PIXEL, SCHEMA, TOOLS
from tests.exchange import Answer, exchange
from tests.rig import House, rig

pytestmark = pytest.mark.asyncio(loop_scope="module")


def j(value: Any) -> bytes:
    return json.dumps(value).encode()


def chat(**more: Any) -> bytes:
    return j({"model": CHAT, "messages": ASK, **more})


def generate(**more: Any) -> bytes:
    return j({"model": CHAT, "prompt": "Once", **more})


Row = tuple[str, str, bytes | None, dict[str, str]]
NONE: dict[str, str] = {}

TABLE: dict[str, Row] = {
    "chat stream absent": ("POST", "/api/chat", chat(), NONE),
    "chat stream null": ("POST", "/api/chat", chat(stream=None), NONE),
    "chat stream true": ("POST", "/api/chat", chat(stream=True), NONE),
    "chat stream false": ("POST", "/api/chat", chat(stream=False), NONE),
    "chat long answer": ("POST", "/api/chat", chat(stream=False, options={"num_predict": 600}), NONE),
    "chat form content type": (
        *("POST", "/api/chat", chat()),
        {"Content-Type": "application/x-www-form-urlencoded"},
    ),
    "chat unknown fields": ("POST", "/api/chat", chat(nonsense={"a": [1]}, options={"zzz": 1}), NONE),
    "chat keys in any case": (
        "POST",
        "/api/chat",
        b'{"MODEL":"alpha:latest","Messages":[{"role":"user","content":"x"}],"Stream":false}',
        NONE,
    ),
    "chat bytes after the value": ("POST", "/api/chat", chat(stream=False) + b" trailing", NONE),
    "chat duplicate keys": (
        "POST",
        "/api/chat",
        b'{"model":"nobody","model":"alpha","messages":[{"role":"user","content":"x"}],"stream":false}',
        NONE,
    ),
    "chat keep_alive": ("POST", "/api/chat", chat(keep_alive="10m"), NONE),
    "chat tools": ("POST", "/api/chat", chat(tools=TOOLS), NONE),
    "chat images": (
        "POST",
        "/api/chat",
        j({"model": CHAT, "messages": [{"role": "user", "content": "?", "images": [PIXEL]}]}),
        NONE,
    ),
    "chat format": ("POST", "/api/chat", chat(format=SCHEMA, stream=False), NONE),
    "chat think": ("POST", "/api/chat", chat(think=True), NONE),
    "chat logprobs": ("POST", "/api/chat", chat(logprobs=True, top_logprobs=2), NONE),
    "chat unicode": (
        "POST",
        "/api/chat",
        j({"model": CHAT, "messages": [{"role": "user", "content": "é\u2028🙂"}]}),
        NONE,
    ),
    "chat accept ndjson": ("POST", "/api/chat", chat(), {"Accept": "application/x-ndjson"}),
    "chat load": ("POST", "/api/chat", j({"model": CHAT}), NONE),
    "chat unload": ("POST", "/api/chat", j({"model": CHAT, "keep_alive": 0}), NONE),
    "chat empty body": ("POST", "/api/chat", b"", NONE),
    "chat bad json": ("POST", "/api/chat", b"{x", NONE),
    "chat truncated json": ("POST", "/api/chat", b'{"model":"alpha"', NONE),
    "chat wrong type": ("POST", "/api/chat", b'{"model":7}', NONE),
    "chat no model": ("POST", "/api/chat", j({"messages": ASK}), NONE),
    "chat unknown model": ("POST", "/api/chat", j({"model": "nobody", "messages": ASK}), NONE),
    "chat malformed name": ("POST", "/api/chat", j({"model": "a b!", "messages": ASK}), NONE),
    "chat on an embedder": ("POST", "/api/chat", j({"model": EMBED, "messages": ASK}), NONE),
    "chat bad option": ("POST", "/api/chat", chat(options={"num_ctx": "x"}), NONE),
    "generate stream": ("POST", "/api/generate", generate(), NONE),
    "generate false": ("POST", "/api/generate", generate(stream=False), NONE),
    "generate raw": ("POST", "/api/generate", generate(raw=True, stream=False), NONE),
    "generate load": ("POST", "/api/generate", j({"model": CHAT}), NONE),
    "generate unload": ("POST", "/api/generate", j({"model": CHAT, "keep_alive": "0s"}), NONE),
    "generate no model": ("POST", "/api/generate", j({"prompt": "x"}), NONE),
    "generate unknown model": ("POST", "/api/generate", j({"model": "nobody", "prompt": "x"}), NONE),
    "generate empty body": ("POST", "/api/generate", b"", NONE),
    "embed one": ("POST", "/api/embed", j({"model": EMBED, "input": "one"}), NONE),
    "embed many": ("POST", "/api/embed", j({"model": EMBED, "input": ["one"] * 20}), NONE),
    "embed empty": ("POST", "/api/embed", j({"model": EMBED, "input": []}), NONE),
    "embed wrong type": ("POST", "/api/embed", j({"model": EMBED, "input": 7}), NONE),
    "embed no model": ("POST", "/api/embed", j({"input": "x"}), NONE),
    "embed unknown model": ("POST", "/api/embed", j({"model": "nobody", "input": "x"}), NONE),
    "embeddings": ("POST", "/api/embeddings", j({"model": EMBED, "prompt": "one"}), NONE),
    "show": ("POST", "/api/show", j({"model": CHAT}), NONE),
    "show by name": ("POST", "/api/show", j({"name": CHAT}), NONE),
    "show unknown": ("POST", "/api/show", j({"model": "nobody"}), NONE),
    "v1 chat": ("POST", "/v1/chat/completions", chat(), NONE),
    "v1 chat stream": ("POST", "/v1/chat/completions", chat(stream=True), NONE),
    "v1 chat usage": ("POST", "/v1/chat/completions", chat(stream=True, stream_options={"include_usage": True}), NONE),
    "v1 chat tools": ("POST", "/v1/chat/completions", chat(stream=True, tools=TOOLS), NONE),
    "v1 chat no messages": ("POST", "/v1/chat/completions", j({"model": CHAT, "messages": []}), NONE),
    "v1 chat empty body": ("POST", "/v1/chat/completions", b"", NONE),
    "v1 chat bad json": ("POST", "/v1/chat/completions", b"{x", NONE),
    "v1 chat unknown model": ("POST", "/v1/chat/completions", j({"model": "nobody", "messages": ASK}), NONE),
    "v1 completions": ("POST", "/v1/completions", generate(), NONE),
    "v1 completions stream": ("POST", "/v1/completions", generate(stream=True), NONE),
    "v1 embeddings": ("POST", "/v1/embeddings", j({"model": EMBED, "input": "one"}), NONE),
    "v1 responses": ("POST", "/v1/responses", j({"model": CHAT, "input": "one"}), NONE),
    "v1 responses stream": ("POST", "/v1/responses", j({"model": CHAT, "input": "one", "stream": True}), NONE),
    "v1 messages": ("POST", "/v1/messages", j({"model": CHAT, "messages": ASK, "max_tokens": 20}), NONE),
    "v1 messages stream": (
        "POST",
        "/v1/messages",
        j({"model": CHAT, "messages": ASK, "max_tokens": 20, "stream": True}),
        NONE,
    ),
    "v1 messages unknown model": (
        "POST",
        "/v1/messages",
        j({"model": "nobody", "messages": ASK, "max_tokens": 2}),
        NONE,
    ),
    "root": ("GET", "/", None, NONE),
    "root head": ("HEAD", "/", None, NONE),
    "version": ("GET", "/api/version", None, NONE),
    "version head": ("HEAD", "/api/version", None, NONE),
    "tags": ("GET", "/api/tags", None, NONE),
    "tags head": ("HEAD", "/api/tags", None, NONE),
    "v1 models": ("GET", "/v1/models", None, NONE),
    "v1 model": ("GET", f"/v1/models/{CHAT}", None, NONE),
    "v1 model unknown": ("GET", "/v1/models/nobody", None, NONE),
    "unknown path": ("GET", "/api/nothing", None, NONE),
    "unknown path post": ("POST", "/v1/nothing", b"{}", NONE),
    "wrong method": ("GET", "/api/chat", None, NONE),
    "wrong method delete": ("DELETE", "/api/chat", None, NONE),
    "trailing slash get": ("GET", "/api/tags/", None, NONE),
    "trailing slash post": ("POST", "/api/chat/", chat(), NONE),
    "preflight": (
        "OPTIONS",
        "/api/chat",
        None,
        {"Origin": "http://localhost:3000", "Access-Control-Request-Method": "POST"},
    ),
    "origin allowed": ("POST", "/api/chat", chat(stream=False), {"Origin": "http://localhost:3000"}),
    "origin refused": ("POST", "/api/chat", chat(), {"Origin": "https://evil.example"}),
    "origin null": ("GET", "/api/tags", None, {"Origin": "null"}),
}

VOLATILE = re.compile(
    rb'"(created_at|created|total_duration|load_duration|prompt_eval_duration|eval_duration|expires_at|completed_at)":\s*("[^"]*"|[\d.]+)'
    rb'|"(id|item_id|response_id|request_id|call_id)":\s*"[^"]*"'
)

UNIT = re.compile(rb"data: .*?\n\n|event: .*?\n\n|[^\n]*\n|[^\n]+$", re.DOTALL)
"""A line of NDJSON or an event of SSE."""

HEADERS = ("content-type", "allow", "location", "access-control-allow-origin", "access-control-max-age")
"""Headers whose value a client acts on."""


def calm(data: bytes) -> bytes:
    return VOLATILE.sub(b"~", data)


def comparable(answer: Answer, *, ordered: bool) -> dict[str, Any]:
    """What must be equal: status, the headers that matter, whole, and the body; a stream also chunk by chunk."""
    kind = answer.header("content-type") or ""
    stream = kind.startswith(("application/x-ndjson", "text/event-stream"))
    # Ollama's own server may put its last event and [DONE] into one chunk; through foreman each event is one.
    body: Any = UNIT.findall(calm(answer.body)) if stream else calm(answer.body)
    if not ordered and isinstance(body, bytes):
        body = sorted(body)
    return {
        "status": answer.status,
        "headers": {name: answer.header(name) for name in HEADERS},
        "whole": answer.whole,
        "body": body,
    }


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=["one", "apart"])
async def pair(request, tmp_path_factory):
    async with (
        FakeOllama(models=["alpha", "beta", "embedder"], repeatable=True) as fake,
        rig(tmp_path_factory.mktemp("parity"), f"main={fake.url}", request.param, models=3) as house,
    ):
        yield fake, house


@pytest.mark.parametrize("name", TABLE)
async def test_through_foreman_as_if_direct(pair: tuple[FakeOllama, House], name: str) -> None:
    fake, house = pair
    method, path, body, headers = TABLE[name]
    direct = await exchange(fake.url, method, path, body, headers)
    through = await exchange(house.url, method, path, body, headers)
    ordered = "models" not in path and "tags" not in path
    assert comparable(through, ordered=ordered) == comparable(direct, ordered=ordered)
    if path.startswith(("/api/chat", "/api/generate", "/v1/chat")) and through.status == 200 and method == "POST":
        assert through.header("x-foreman-job-id")


async def test_http_1_0_ends_with_the_connection(pair: tuple[FakeOllama, House]) -> None:
    fake, house = pair
    direct = await exchange(fake.url, "POST", "/api/chat", chat(), version="1.0")
    through = await exchange(house.url, "POST", "/api/chat", chat(), version="1.0")
    assert through.framing == direct.framing == "close"
    assert calm(through.body) == calm(direct.body)


async def test_each_line_is_its_own_chunk(pair: tuple[FakeOllama, House]) -> None:
    _, house = pair
    answer = await exchange(house.url, "POST", "/api/chat", chat())
    assert answer.framing == "chunked"
    assert all(chunk.count(b"\n") == 1 and chunk.endswith(b"\n") for chunk in answer.chunks)
    assert answer.header("x-accel-buffering") == "no"
    assert answer.header("cache-control") == "no-cache"
