"""Paths, methods and redirects as Ollama answers them, and the inventory's own paths."""

from __future__ import annotations

import pytest

from tests.web.conftest import wait_until
from tests.web.puppet import tag


@pytest.mark.parametrize(
    ("method", "path", "status", "headers", "body"),
    [
        ("GET", "/", 200, {"Content-Type": "text/plain; charset=utf-8", "Content-Length": "17"}, b"Ollama is running"),
        ("HEAD", "/", 200, {"Content-Type": "text/plain; charset=utf-8", "Content-Length": "17"}, b""),
        ("GET", "/api/version", 200, {"Content-Type": "application/json; charset=utf-8"}, b'{"version":"0.24.0"}'),
        ("HEAD", "/api/version", 200, {"Content-Length": "20"}, b""),
        ("GET", "/api/version?x=1", 200, {}, b'{"version":"0.24.0"}'),
        ("HEAD", "/api/tags", 200, {"Content-Type": "application/json; charset=utf-8"}, b""),
        ("GET", "/api/ps", 200, {}, b'{"models":[]}'),
        ("GET", "/api/chat", 405, {"Content-Type": "text/plain", "Allow": "POST"}, b"405 method not allowed"),
        ("PUT", "/api/chat", 405, {"Allow": "POST"}, b"405 method not allowed"),
        ("OPTIONS", "/api/chat", 405, {"Allow": "POST"}, b"405 method not allowed"),
        ("POST", "/api/tags", 405, {"Allow": "HEAD, GET"}, b"405 method not allowed"),
        ("HEAD", "/api/ps", 405, {"Allow": "GET", "Content-Length": "22"}, b""),
        ("HEAD", "/api/chat", 405, {"Allow": "POST", "Content-Length": "22"}, b""),
        ("GET", "/v1/chat/completions", 405, {"Allow": "POST"}, b"405 method not allowed"),
        ("POST", "/v1/models", 405, {"Allow": "GET"}, b"405 method not allowed"),
        ("POST", "/api/delete", 405, {"Allow": "DELETE"}, b"405 method not allowed"),
        ("GET", "/api/nope", 404, {"Content-Type": "text/plain", "Content-Length": "18"}, b"404 page not found"),
        ("POST", "/nope", 404, {}, b"404 page not found"),
        ("GET", "/v1/nope", 404, {}, b"404 page not found"),
        ("GET", "/API/tags", 404, {}, b"404 page not found"),
        ("POST", "/v1/messages/count_tokens", 404, {}, b"404 page not found"),
        (
            *("GET", "/api/tags/", 301),
            {"Location": "/api/tags", "Content-Type": "text/html; charset=utf-8"},
            b'<a href="/api/tags">Moved Permanently</a>.\n\n',
        ),
        ("POST", "/api/chat/", 307, {"Location": "/api/chat", "Content-Length": "0"}, b""),
        (
            *("GET", "//api/tags", 307),
            {"Location": "/api/tags"},
            b'<a href="/api/tags">Temporary Redirect</a>.\n\n',
        ),
        ("GET", "/api/./x/../tags", 307, {"Location": "/api/tags"}, None),
        ("POST", "/../api/chat", 307, {"Location": "/api/chat"}, b""),
        ("GET", "/api/%2e/tags", 404, {}, b"404 page not found"),
        ("GET", "/api/../nope", 404, {}, b"404 page not found"),
        ("GET", "/api/tags/?a=b&c", 301, {"Location": "/api/tags?a=b&c"}, None),
        ("GET", "//evil.example/", 404, {}, b"404 page not found"),
        ("GET", "/api/nope/", 404, {}, b"404 page not found"),
        ("GET", "/v1/models/m/", 301, {"Location": "/v1/models/m"}, None),
    ],
)
async def test_as_ollama_answers(gateway, dial, method, path, status, headers, body):
    caller = await dial(gateway)
    reply = await caller.get(path, method=method)
    assert reply.status == status
    if body is not None:
        assert reply.body == body
    assert {name: reply.header(name) for name in headers} == headers
    assert reply.header("Server") is None
    assert (await caller.get("/api/version")).status == 200, "the connection is kept"


async def test_a_browser_is_sent_to_the_page(gateway, dial):
    caller = await dial(gateway)
    reply = await caller.get("/", Accept="text/html,application/xhtml+xml;q=0.9,*/*;q=0.8")
    assert reply.status == 307
    assert reply.header("Location") == "/ui"
    assert (await caller.get("/", Accept="*/*")).status == 200


async def test_tags_are_the_targets_own(gateway, dial):
    reply = await (await dial(gateway)).get("/api/tags")
    assert reply.json() == {"models": [tag("m:latest")]}
    assert list(reply.json()["models"][0]) == list(tag("m:latest")), "in the target's own order"


async def test_models_in_openais_shape(gateway, worker, dial):
    caller = await dial(gateway)
    one = {"id": "m:latest", "object": "model", "created": 1795244689, "owned_by": "library"}
    reply = await caller.get("/v1/models")
    assert reply.json() == {"object": "list", "data": [one]}
    assert reply.body.endswith(b"\n")
    assert reply.header("Content-Type") == "application/json"
    assert (await caller.get("/v1/models/M")).json() == {**one, "id": "M"}
    missing = await caller.get("/v1/models/nope")
    assert missing.status == 404
    assert missing.json()["error"]["message"] == "model 'nope' not found"
    await worker.publish("gpu1")
    await wait_until(lambda: not gateway.inventory.targets[0].tags)
    assert (await caller.get("/v1/models")).body == b'{"object":"list","data":null}\n'


async def test_ps_is_fresh_at_once(gateway, worker, dial):
    caller = await dial(gateway)
    held = {"name": "m:latest", "model": "m:latest", "digest": "d1" * 32, "expires_at": "2026-11-21T07:10:26.8Z"}
    await worker.publish("gpu1", "m:latest", ps=[held])
    assert (await caller.get("/api/ps")).json() == {"models": [held]}
    await worker.publish("gpu1", "m:latest")
    assert (await caller.get("/api/ps")).json() == {"models": []}


async def test_several_targets_are_told_as_one(gateway, worker, dial):
    old, new = tag("old:latest", "aa" * 32), {**tag("new:latest", "bb" * 32), "modified_at": "2026-12-01T00:00:00Z"}
    same = tag("m:latest")
    await worker.publish(
        "gpu2", version="0.9.12", tags=[same, old], ps=[{"name": "x", "expires_at": "2026-01-01T00:00:00Z"}]
    )
    await worker.publish("gpu3", version="0.33.0", tags=[new], ps=[{"name": "y", "expires_at": "2318-01-01T00:00:00Z"}])
    await worker.publish("vllm", kind="openai", version=None, tags=[tag("gpt", "")], ps=[])
    await wait_until(lambda: len(gateway.inventory.targets) == 4)
    caller = await dial(gateway)
    names = [entry["name"] for entry in (await caller.get("/api/tags")).json()["models"]]
    assert names[0] == "new:latest"
    assert sorted(names) == ["gpt", "m:latest", "new:latest", "old:latest"]
    assert [entry["name"] for entry in (await caller.get("/api/ps")).json()["models"]] == ["y", "x"]
    assert (await caller.get("/api/version")).json() == {"version": "0.9.12"}


async def test_the_version_with_none_but_openai_targets(gateway, worker, dial):
    await worker.publish("gpu1", kind="openai", version=None)
    await wait_until(lambda: gateway.inventory.targets[0].kind == "openai")
    assert (await (await dial(gateway)).get("/api/version")).json() == {"version": "0.24.0"}
