"""Tokens, origins, hosts (contract 4 Browsers, 7, ADR-0010) over sockets."""

from __future__ import annotations

import contextlib
import functools
import json
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio

from foreman.demo.ollama import FakeOllama
from tests.attack.ground import CHAT, Site, site, until
from tests.exchange import exchange

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.exchange import Answer

pytestmark = pytest.mark.asyncio(loop_scope="module")
CALL = {**CHAT, "stream": False}
OWN = "http://localhost:3000"


@contextlib.asynccontextmanager
async def guarded_house(folder: Any, valkey: str) -> AsyncIterator[Site]:
    """A foreman with every kind of token. The rig's own look at it needs one; so it is started open at `/`."""
    fake = FakeOllama(models=["alpha"], tokens=2)
    async with site(
        folder,
        valkey,
        fake,
        "one",
        token="boss",
        tokens="webui=walter?priority=normal,n8n=nora?priority=low",
        read_token="reader",
        origins="https://chat.example.com,https://*.corp.example",
        models="0",
    ) as made:
        yield made


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def guarded(tmp_path_factory, valkey):
    async with guarded_house(tmp_path_factory.mktemp("guarded"), valkey) as made:
        yield made


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def loose(tmp_path_factory, valkey):
    fake = FakeOllama(models=["alpha"], tokens=2)
    async with site(
        tmp_path_factory.mktemp("loose"), valkey, fake, "one", origins="https://chat.example.com,https://*.corp.example"
    ) as made:
        yield made


async def ask(at: Site, method: str, path: str, token: str | None = None, body: Any = None, **headers: str) -> Answer:
    """One exchange with a bearer."""
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    if token is not None:
        given["Authorization"] = f"Bearer {token}"
    payload = None if body is None else json.dumps(body).encode()
    return await exchange(at.url, method, path, payload, given)


OPEN = [("GET", "/healthz"), ("GET", "/readyz"), ("GET", "/"), ("HEAD", "/")]
CLOSED = [
    *(("GET", "/api/tags"), ("GET", "/api/ps"), ("GET", "/api/version"), ("GET", "/v1/models"), ("GET", "/ops/state")),
    *(("POST", "/api/chat"), ("POST", "/v1/chat/completions"), ("POST", "/v1/messages"), ("POST", "/api/show")),
    *(("POST", "/api/pull"), ("DELETE", "/api/delete"), ("POST", "/api/blobs/sha256:a"), ("GET", "/ui")),
    *(("GET", "/metrics"), ("GET", "/jobs"), ("GET", "/nowhere"), ("PUT", "/api/chat")),
]


@pytest.mark.parametrize(("method", "path"), OPEN)
async def test_open_paths(guarded: Site, method: str, path: str) -> None:
    assert (await ask(guarded, method, path)).status in {200, 503} - ({503} if path != "/readyz" else set())
    assert (await ask(guarded, method, path, "wrong")).status == 200


@pytest.mark.parametrize("token", [None, "wrong", "bos", "boss2", "b\xf6ss"])
@pytest.mark.parametrize(("method", "path"), CLOSED)
async def test_everything_else_wants_a_token(guarded: Site, method: str, path: str, token: str | None) -> None:
    async with guarded.quiet(None):
        answer = await ask(guarded, method, path, token, CALL if method == "POST" else None)
    assert answer.status == 401, answer
    if path == "/ui":
        assert (answer.header("Content-Type") or "").startswith("text/html")
    else:
        assert answer.header("X-Foreman-Error") == "unauthorized"
        assert (answer.header("WWW-Authenticate") or "").startswith("Bearer")
        error = json.loads(answer.body)["error"]
        assert isinstance(error, str if path.startswith("/api/") else dict)
    assert not guarded.fake.requests_to("/api/chat", "/v1/chat/completions")


async def test_each_token_and_its_rights(guarded: Site) -> None:
    async def status(token: str, method: str, path: str, body: Any = None, **headers: str) -> int:
        return (await ask(guarded, method, path, token, body, **headers)).status

    assert await status("boss", "POST", "/api/chat", CALL) == 200
    assert await status("walter", "POST", "/api/chat", CALL) == 200
    assert await status("walter", "POST", "/api/pull", {"model": "x"}) == 403
    assert await status("nora", "DELETE", "/api/delete", {"model": "alpha"}) == 403
    assert await status("reader", "GET", "/ops/state") == 200
    assert await status("reader", "GET", "/ui") == 200
    assert await status("reader", "POST", "/api/chat", CALL) == 403
    assert await status("reader", "GET", "/api/tags") == 403
    answer = await exchange(
        guarded.url, "POST", "/v1/messages", json.dumps({**CALL, "max_tokens": 4}).encode(), {"X-Api-Key": "walter"}
    )
    assert answer.status == 200
    assert (await exchange(guarded.url, "GET", "/api/tags", None, {"X-Api-Key": "boss"})).status == 401
    for word in ("boss", "walter", "nora", "reader"):
        assert word not in guarded.log()


async def test_a_named_callers_class_is_its_default_and_ceiling(guarded: Site) -> None:
    gate = guarded.fake.gate(path="/api/generate")
    first = await guarded.dial()
    first.ask("/api/generate", {"model": "alpha", "prompt": "x"}, Authorization="Bearer boss")
    await gate.reached()
    guarded.fake.ledger.reset()
    asked = [("n1", "nora", "high"), ("w1", "walter", None), ("b1", "boss", "low"), ("b2", "boss", None)]
    waiting = []
    for words, token, wanted in asked:
        caller = await guarded.dial()
        more = {} if wanted is None else {"X_Foreman_Priority": wanted}
        caller.ask(
            "/api/chat",
            {**CALL, "messages": [{"role": "user", "content": words}]},
            Authorization=f"Bearer {token}",
            **more,
        )
        waiting.append(caller)
        await until(functools.partial(queued, guarded, len(waiting)))
    gate.open()
    for caller in [first, *waiting]:
        assert (await caller.answer()).status == 200
    order = [json.loads(seen.body)["messages"][0]["content"] for seen in guarded.fake.requests_to("/api/chat")]
    assert order == ["b2", "w1", "n1", "b1"]


async def queued(at: Site, count: int) -> bool:
    """Whether so many jobs are queued."""
    return bool(json.loads((await ask(at, "GET", "/ops/state", "boss")).body)["jobs"]["queued"] == count)


async def test_the_pages_cookie(guarded: Site) -> None:
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    wrong = await exchange(guarded.url, "POST", "/ui", b"token=wrong", form)
    assert wrong.status == 401
    assert wrong.header("Set-Cookie") is None
    right = await exchange(guarded.url, "POST", "/ui", b"token=boss", form)
    assert (right.status, right.header("Location")) == (303, "/ui")
    cookie = right.header("Set-Cookie") or ""
    assert "HttpOnly" in cookie
    assert "SameSite" in cookie
    value = cookie.partition(";")[0]
    assert "boss" not in value
    assert (await exchange(guarded.url, "GET", "/ui", None, {"Cookie": value})).status == 200
    assert (await exchange(guarded.url, "GET", "/ops/state", None, {"Cookie": value})).status == 200
    assert (
        await exchange(guarded.url, "POST", "/api/chat", json.dumps(CALL).encode(), {"Cookie": value})
    ).status == 401
    foreign = {"Content-Type": "application/x-www-form-urlencoded", "Origin": "https://evil.example"}
    assert (await exchange(guarded.url, "POST", "/ui", b"token=boss", foreign)).status == 403


# ------------------------------------------------------------------ browsers

ALLOWED = [
    *("http://localhost", OWN, "https://127.0.0.1:8443", "http://0.0.0.0", "app://obsidian", "file://x"),
    *("tauri://localhost", "vscode-webview://abc", "vscode-file://x"),
    *("https://chat.example.com", "https://a.corp.example"),
]
FOREIGN = [
    *("https://evil.example", "null", "http://localhost.evil.example", "https://chat.example.com.evil"),
    *("https://corp.example", "http://127.0.0.1.evil", "https://chat.example.com:444", "http://[::1]:3000"),
]


@pytest.mark.parametrize("origin", ALLOWED)
async def test_allowed_origins(loose: Site, origin: str) -> None:
    pre = await ask(loose, "OPTIONS", "/api/chat", Origin=origin, Access_Control_Request_Method="POST")
    assert (pre.status, pre.body) == (204, b"")
    assert pre.header("Access-Control-Allow-Origin") == origin
    allowed = (pre.header("Access-Control-Allow-Headers") or "").lower().split(",")
    assert {"authorization", "content-type", "idempotency-key", "x-foreman-priority", "x-foreman-deadline"} <= set(
        allowed
    )
    assert {"x-foreman-target", "x-foreman-on-disconnect"} <= set(allowed)
    for body in (CALL, CHAT, {**CALL, "model": "nobody"}, {}):
        answer = await ask(loose, "POST", "/api/chat", None, body, Origin=origin)
        assert answer.header("Access-Control-Allow-Origin") == origin, (answer.status, body)
        exposed = answer.header("Access-Control-Expose-Headers") or ""
        assert {"X-Foreman-Job-Id", "X-Foreman-Error", "Retry-After"} <= set(exposed.split(","))
    assert loose.fake.requests_to("/api/chat")[-1].header("Origin") is None


@pytest.mark.parametrize("origin", FOREIGN)
async def test_foreign_origins(loose: Site, origin: str) -> None:
    before = len(loose.fake.requests_to("/api/chat"))
    for method, path in (
        ("POST", "/api/chat"),
        ("GET", "/api/tags"),
        ("OPTIONS", "/api/chat"),
        ("POST", "/ops/lanes/x/pause"),
        ("POST", "/jobs"),
    ):
        answer = await ask(loose, method, path, None, CALL if method == "POST" else None, Origin=origin)
        assert answer.status == 403, (method, path, answer)
        assert (b"FOREMAN_ORIGINS" in answer.body) if path.startswith(("/ops", "/jobs")) else not answer.body
        assert answer.header("Access-Control-Allow-Origin") is None
    assert len(loose.fake.requests_to("/api/chat")) == before


async def test_an_empty_origin_is_none(loose: Site) -> None:
    answer = await ask(loose, "POST", "/api/chat", None, CALL, Origin="")
    assert (answer.status, answer.header("Access-Control-Allow-Origin")) == (200, None)


async def test_our_own_page_is_no_foreigner(loose: Site) -> None:
    answer = await ask(loose, "POST", "/api/chat", None, CALL, Origin=loose.url)
    assert answer.status == 200
    assert answer.header("Access-Control-Allow-Origin") is None


HOSTS = {
    **dict.fromkeys(
        ["localhost", "127.0.0.1:1", "LOCALHOST:80", "x.localhost", "a.local", "b.internal", "[::1]:80"], 200
    ),
    **dict.fromkeys(["192.168.1.4", "10.0.0.1:8080", "chat.example.com", "a.corp.example:443"], 200),
    **dict.fromkeys(
        ["evil.example", "localhost.evil.example", "8.8.8.8", "evil.example:8080", "127.0.0.1.nip.io"], 403
    ),
    **dict.fromkeys(["evil.example#.localhost", "evil.example@localhost"], None),
}


@pytest.mark.parametrize("host", HOSTS)
async def test_the_host_check(loose: Site, host: str) -> None:
    caller = await loose.dial()
    caller.send(b"GET /api/version HTTP/1.1\r\nHost: %b\r\n\r\n" % host.encode())
    answer = await caller.answer()
    assert answer.status in ({HOSTS[host]} if HOSTS[host] else {400, 403, 200}), answer
    if answer.status == 403:
        assert answer.body == b""
