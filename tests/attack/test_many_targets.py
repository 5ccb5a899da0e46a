"""Several targets, of both kinds (contract 4, Several targets; model management; blobs)."""

from __future__ import annotations

import json
from typing import Any

import pytest
import pytest_asyncio

from foreman.demo.ollama import FakeOllama
from tests.attack.ground import ASK, MODES, Site, site
from tests.exchange import Answer, exchange

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=MODES)
async def three(request, tmp_path_factory, valkey):
    """gpu1 and gpu2 are Ollamas that share `alpha`; cloud is a plain /v1 server."""
    async with (
        FakeOllama(models=["alpha", "beta"], version="0.33.0", tokens=4) as gpu1,
        FakeOllama(models=["alpha", "gamma", "embedder"], version="0.24.1", tokens=4) as gpu2,
        FakeOllama(models=["delta"], kind="openai", tokens=4) as cloud,
    ):
        targets = f"gpu1={gpu1.url},gpu2={gpu2.url},cloud={cloud.url}/v1?kind=openai"
        async with site(tmp_path_factory.mktemp("many"), valkey, gpu1, request.param, targets, models="5") as at:
            yield at, gpu2, cloud


Three = tuple[Site, FakeOllama, FakeOllama]


async def get(at: Site, path: str, method: str = "GET") -> Answer:
    return await exchange(at.url, method, path)


async def test_tags_are_the_union_and_name_openai_models_without_a_digest(three: Three) -> None:
    at, _, _ = three
    models = json.loads((await get(at, "/api/tags")).body)["models"]
    names = sorted(model["name"] for model in models)
    assert names == ["alpha:latest", "beta:latest", "delta:latest", "embedder:latest", "gamma:latest"]
    delta = next(model for model in models if model["name"] == "delta:latest")
    assert delta["digest"] == ""
    assert set(next(model for model in models if model["name"] == "beta:latest")) - {"capabilities"} <= set(delta) | {
        "capabilities"
    }
    listed = {model["id"] for model in json.loads((await get(at, "/v1/models")).body)["data"]}
    assert listed == set(names)


async def test_version_is_the_lowest(three: Three) -> None:
    at, _, _ = three
    assert json.loads((await get(at, "/api/version")).body) == {"version": "0.24.1"}


async def test_ps_is_the_union_without_openai(three: Three) -> None:
    at, _, _ = three
    for model in ("beta", "gamma", "delta"):
        answer = await at.post("/v1/chat/completions", {"model": model, "messages": ASK})
        assert answer.status == 200, answer
    state = await at.house.until(lambda ps: len(ps["models"]) >= 2, "/api/ps")
    assert sorted(model["name"] for model in state["models"]) == ["beta:latest", "gamma:latest"]
    swaps = {target["name"]: target["resident"] for target in (await at.house.get("/ops/state"))["targets"]}
    assert set(swaps) == {"gpu1", "gpu2", "cloud"}


async def test_a_picked_target_gets_the_job(three: Three) -> None:
    at, gpu2, _ = three
    for name, fake in (("gpu1", at.fake), ("gpu2", gpu2)):
        before = len(fake.requests_to("/api/chat"))
        answer = await at.post(
            "/api/chat", {"model": "alpha", "messages": ASK, "stream": False}, {"X-Foreman-Target": name}
        )
        assert answer.status == 200
        assert len(fake.requests_to("/api/chat")) == before + 1
    answer = await at.post("/api/chat", {"model": "beta", "messages": ASK}, {"X-Foreman-Target": "gpu2"})
    assert (answer.status, answer.header("X-Foreman-Error")) == (404, "model_not_found")
    answer = await at.post("/api/chat", {"model": "beta", "messages": ASK}, {"X-Foreman-Target": "gpu9"})
    assert answer.status == 400
    assert all(name in json.loads(answer.body)["error"] for name in ("gpu1", "gpu2", "cloud"))


async def test_show_of_an_openai_model_is_a_404(three: Three) -> None:
    at, _, _ = three
    answer = await at.post("/api/show", {"model": "delta"})
    assert (answer.status, json.loads(answer.body)) == (404, {"error": "model 'delta' not found"})
    assert (await at.post("/api/show", {"model": "gamma"})).status == 200
    answer = await at.post("/api/embed", {"model": "delta", "input": "x"})
    assert answer.status == 404


@pytest.mark.parametrize("path", ["/api/chat", "/api/generate"])
@pytest.mark.parametrize("stream", [True, False])
async def test_native_calls_to_an_openai_target_are_translated(three: Three, path: str, stream: bool) -> None:
    at, _, cloud = three
    body: dict[str, Any] = {"model": "delta", "messages": ASK, "prompt": "x", "stream": stream}
    answer = await at.post(path, {**body, "options": {"temperature": 0.5, "num_predict": 3}})
    assert answer.status == 200, answer
    if stream:
        assert answer.header("Content-Type") == "application/x-ndjson"
        lines = [json.loads(line) for line in answer.body.splitlines()]
        assert len(lines) > 2
    else:
        assert answer.header("Content-Type") == "application/json; charset=utf-8"
        lines = [json.loads(answer.body)]
    assert lines[-1]["done"] is True
    assert lines[-1]["done_reason"] in {"stop", "length"}
    assert lines[-1]["model"] == "delta"
    assert isinstance(lines[-1]["total_duration"], int)
    if path == "/api/chat":
        assert "".join(line["message"]["content"] for line in lines)
    else:
        assert "".join(line["response"] for line in lines)
    assert "keep_alive" not in json.loads(cloud.requests[-1].body)


async def test_translated_failures(three: Three) -> None:
    at, _, cloud = three
    for kind, status, code in (
        ("status", 500, "upstream_error"),
        ("reset-first", 502, "upstream_unreachable"),
        ("garbage-http", 502, "upstream_error"),
    ):
        cloud.fault(kind, times=3 if kind == "reset-first" else 1, words="no luck")
        answer = await at.post("/api/chat", {"model": "delta", "messages": ASK})
        assert (answer.status, answer.header("X-Foreman-Error")) == (status, code), answer
        assert isinstance(json.loads(answer.body)["error"], str)
    for kind in ("clean-end", "reset-mid", "half-line", "garbage"):
        cloud.fault(kind, after=2)
        answer = await at.post("/api/chat", {"model": "delta", "messages": ASK})
        assert answer.status == 200
        assert json.loads(answer.body.splitlines()[-1]).get("error"), (kind, answer.body)
        assert b'"done":true' not in answer.body, kind
    cloud.clear()
    answer = await at.post("/api/chat", {"model": "delta", "messages": ASK, "stream": False})
    assert json.loads(answer.body)["done"] is True


async def test_load_and_unload_of_an_openai_model(three: Three) -> None:
    at, _, _ = three
    for more, reason in (({}, "load"), ({"keep_alive": 0}, "unload")):
        answer = await at.post("/api/generate", {"model": "delta", **more})
        assert (answer.status, json.loads(answer.body)["done_reason"]) == (200, reason)


MANAGED = [
    ("POST", "/api/pull", {"model": "new"}),
    ("POST", "/api/push", {"model": "alpha"}),
    ("POST", "/api/create", {"model": "new", "from": "alpha"}),
    ("POST", "/api/copy", {"source": "alpha", "destination": "alpha2"}),
    ("DELETE", "/api/delete", {"model": "alpha"}),
]


@pytest.mark.parametrize(("method", "path", "body"), MANAGED)
async def test_model_management_is_off_with_several_targets(
    three: Three, method: str, path: str, body: dict[str, str]
) -> None:
    at, _, _ = three
    async with at.quiet():
        answer = await at.post(path, body, {"X-Foreman-Target": "gpu1"}, method=method)
    assert (answer.status, answer.header("X-Foreman-Error")) == (403, "forbidden")
    assert "FOREMAN_MODEL_MANAGEMENT" in json.loads(answer.body)["error"]
    assert not at.fake.requests_to(path)


@pytest.mark.parametrize("method", ["HEAD", "POST"])
async def test_blobs_are_refused_with_the_targets_own_address(three: Three, method: str) -> None:
    at, gpu2, _ = three
    answer = await at.post("/api/blobs/sha256:abc", b"x" * 1000, method=method)
    assert answer.status == 403
    if method == "POST":
        said = json.loads(answer.body)["error"]
        assert at.fake.url in said
        assert gpu2.url in said


async def test_one_target_down_leaves_the_others(three: Three) -> None:
    at, gpu2, _ = three
    await gpu2.stop()
    try:
        answer = await at.post("/api/chat", {"model": "beta", "messages": ASK, "stream": False})
        assert answer.status == 200
        answer = await at.post(
            "/api/chat", {"model": "gamma", "messages": ASK}, {"X-Foreman-Deadline": "1.5"}, timeout=20
        )
        assert (answer.status, answer.header("X-Foreman-Error")) == (504, "deadline_exceeded"), answer
        health = json.loads((await get(at, "/healthz")).body)
        assert health["degraded"] is True
        assert any("gpu2" in reason for reason in health["reasons"])
    finally:
        await gpu2.start()
    await at.house.until(lambda state: all(target["state"] == "up" for target in state["targets"]))
    await at.settled()


async def test_management_where_it_is_on(tmp_path_factory, valkey) -> None:
    """Several targets and the setting: a target must be picked; progress streams; the inventory follows."""
    async with FakeOllama(models=["alpha"]) as fake, FakeOllama(models=["beta"]) as other:
        targets = f"gpu1={fake.url},gpu2={other.url}"
        async with site(
            tmp_path_factory.mktemp("manage"), valkey, fake, "one", targets, models="2", model_management="true"
        ) as at:
            answer = await at.post("/api/pull", {"model": "new"})
            assert answer.status == 400
            assert "gpu1" in json.loads(answer.body)["error"]
            assert "gpu2" in json.loads(answer.body)["error"]
            answer = await at.post("/api/pull", {"model": "new"}, {"X-Foreman-Target": "gpu2"})
            assert (answer.status, answer.header("Content-Type")) == (200, "application/x-ndjson")
            assert json.loads(answer.body.splitlines()[-1]) == {"status": "success"}
            await at.house.until(lambda tags: any("new" in m["name"] for m in tags["models"]), "/api/tags")
            answer = await at.post("/api/copy", {"source": "new", "destination": "copy"}, {"X-Foreman-Target": "gpu2"})
            assert (answer.status, answer.body) == (200, b"")
            answer = await at.post("/api/delete", {"model": "new"}, {"X-Foreman-Target": "gpu2"}, method="DELETE")
            assert (answer.status, answer.body) == (200, b"")
            answer = await at.post("/api/delete", {"model": "new"}, {"X-Foreman-Target": "gpu2"}, method="DELETE")
            assert answer.status == 404
            await at.settled()
