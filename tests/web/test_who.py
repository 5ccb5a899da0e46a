"""Who gets in: tokens, classes, the page's cookie, browser origins, hosts."""

from __future__ import annotations

import pytest

from foreman.core.errors import Failure
from foreman.core.jobs import Priority, Slot
from foreman.settings import load
from foreman.web import auth
from foreman.web.auth import Gatekeeper, Role
from foreman.web.cors import Origins, host_is_local
from tests.web.calls.test_chat import CHAT, WHOLE
from tests.web.puppet import JSON

TOKENS = {
    "token": "operator-1",
    "tokens": "webui=web-1?priority=high,n8n=night-1?priority=low,free=free-1",
    "read_token": "look-1",
}


# ------------------------------------------------------------------ tokens


@pytest.fixture
def keeper(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    return Gatekeeper(load(**TOKENS))


def test_every_token_has_its_caller(keeper):
    assert keeper.who("operator-1").role is Role.OPERATOR
    assert (keeper.who("web-1").role, keeper.who("web-1").name) == (Role.NAMED, "webui")
    assert keeper.who("look-1").role is Role.READER
    for wrong in (None, "", "operator-", "operator-11", "OPERATOR-1", "öperator"):
        assert keeper.who(wrong) is None


def test_without_tokens_everybody_is_the_operator(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    for settings in (load(), load(read_token="look-1")):
        keeper = Gatekeeper(settings)
        assert keeper.who(None).role is Role.OPERATOR
        assert keeper.who("anything").role is Role.OPERATOR
    assert keeper.who("look-1").role is Role.READER


@pytest.mark.parametrize(
    ("token", "asked", "given"),
    [
        ("operator-1", None, Priority.HIGH),
        ("operator-1", "low", Priority.LOW),
        ("web-1", None, Priority.HIGH),
        ("web-1", "normal", Priority.NORMAL),
        ("night-1", None, Priority.LOW),
        ("night-1", "high", Priority.LOW),
        ("free-1", None, Priority.HIGH),
        ("free-1", "HIGH", Priority.HIGH),
    ],
)
def test_a_tokens_class_is_default_and_ceiling(keeper, token, asked, given):
    assert keeper.who(token).priority(asked, Priority.HIGH) is given


def test_an_unknown_class_is_refused_whatever_the_ceiling(keeper):
    with pytest.raises(Failure, match="X-Foreman-Priority"):
        keeper.who("night-1").priority("urgent", Priority.HIGH)


@pytest.mark.parametrize(
    ("header", "token"),
    [
        ("Bearer abc", "abc"),
        ("bearer  abc ", "abc"),
        ("Basic abc", None),
        ("Bearer", None),
        ("Bearer ", None),
        (None, None),
    ],
)
def test_bearer(header, token):
    assert auth.bearer(header) == token


def test_a_token_survives_its_cookie():
    for token in ("abc", 'a"b;c=d, e', "~" * 77):
        assert auth.from_cookie(auth.to_cookie(token)) == token
    for broken in (None, "", "?", "/w"):
        assert auth.from_cookie(broken) is None


async def test_with_a_token_set_only_these_are_open(open_gateway, worker, dial):
    caller = await dial(await open_gateway(**TOKENS))
    for method, path in (("GET", "/healthz"), ("GET", "/readyz"), ("GET", "/"), ("HEAD", "/")):
        assert (await caller.get(path, method=method)).status == 200
    preflight = await caller.get("/api/chat", method="OPTIONS", Origin="http://localhost")
    assert preflight.status == 204
    for method, path in (
        *(
            ("GET", path)
            for path in ("/api/tags", "/api/ps", "/api/version", "/v1/models", "/ops/state", "/ui", "/nope")
        ),
        *(("POST", path) for path in ("/api/chat", "/v1/messages", "/api/pull", "/")),
    ):
        caller.ask(method, path)
        reply = await caller.reply(method=method)
        assert reply.status == 401, path
        assert reply.header("WWW-Authenticate") == 'Bearer realm="foreman"' or path == "/ui"
        assert reply.header("X-Foreman-Error") == "unauthorized"


async def test_a_refusal_speaks_the_paths_dialect(open_gateway, worker, dial):
    caller = await dial(await open_gateway(**TOKENS))
    assert isinstance((await caller.get("/api/tags")).json()["error"], str)
    assert (await caller.get("/v1/models")).json()["error"]["type"] == "authentication_error"
    assert (await caller.get("/ops/state")).json()["error"]["code"] == "unauthorized"
    wrong = await caller.get("/api/tags", Authorization="Bearer nope")
    assert wrong.status == 401


async def test_a_named_caller_gets_its_class_and_its_name_on_the_job(open_gateway, worker, dial):
    caller = await dial(await open_gateway(**TOKENS))
    caller.ask(
        "POST", "/api/chat", {**CHAT, "stream": False}, Authorization="Bearer night-1", X_Foreman_Priority="high"
    )
    run = await worker.claim()
    assert (run.job.caller, run.job.priority) == ("n8n", Priority.LOW)
    await run.done(WHOLE, head=JSON)
    assert (await caller.reply()).status == 200


async def test_anthropics_clients_show_their_key_their_way(open_gateway, worker, dial):
    caller = await dial(await open_gateway(**TOKENS))
    caller.ask("POST", "/v1/messages", {**CHAT, "max_tokens": 1}, X_Api_Key="web-1")
    run = await worker.claim()
    assert run.job.caller == "webui"
    await run.done(WHOLE, head=JSON)
    assert (await caller.reply()).status == 200


async def test_model_management_wants_the_operator(open_gateway, worker, dial):
    caller = await dial(await open_gateway(**TOKENS))
    refused = await caller.post("/api/pull", {"model": "x"}, Authorization="Bearer web-1")
    assert refused.status == 403
    caller.ask("POST", "/api/pull", {"model": "x"}, Authorization="Bearer operator-1")
    await (await worker.claim(Slot.SIDE)).done(b'{"status":"success"}\n')
    assert (await caller.reply()).status == 200


async def test_a_reader_may_only_look(open_gateway, worker, dial):
    caller = await dial(await open_gateway(**TOKENS))
    look = {"Authorization": "Bearer look-1"}
    for path in ("/ops/state", "/ui"):
        assert (await caller.get(path, **look)).status == 200
    for method, path in (("POST", "/api/chat"), ("GET", "/api/tags"), ("GET", "/v1/models"), ("POST", "/ops/state")):
        caller.ask(method, path, **look)
        reply = await caller.reply()
        assert reply.status == 403
        assert reply.header("X-Foreman-Error") == "forbidden"


async def test_the_page_asks_once_and_keeps_the_token_where_no_script_sees_it(open_gateway, worker, dial):
    caller = await dial(await open_gateway(**TOKENS))
    asked = await caller.get("/ui")
    assert asked.status == 401
    assert b'<form method="post"' in asked.body
    wrong = await caller.post("/ui", b"token=nope")
    assert wrong.status == 401
    assert wrong.header("Set-Cookie") is None
    right = await caller.post("/ui", b"token=operator-1")
    assert (right.status, right.header("Location")) == (303, "/ui")
    cookie = right.header("Set-Cookie")
    assert "HttpOnly" in cookie
    assert "SameSite=Strict" in cookie
    kept = cookie.partition(";")[0]
    assert (await caller.get("/ui", Cookie=kept)).status == 200
    assert (await caller.get("/ops/state", Cookie=kept)).status == 200
    assert (await caller.get("/api/tags", Cookie=kept)).status == 401, "a cookie opens the page, not the APIs"


async def test_no_token_reaches_the_log(open_gateway, worker, dial, capsys):
    caller = await dial(await open_gateway(**TOKENS))
    await caller.get("/api/tags", Authorization="Bearer operator-1")
    await caller.get("/api/tags", Authorization="Bearer wrong-one")
    await caller.post("/ui", b"token=wrong-one")
    said = capsys.readouterr()
    assert "operator-1" not in said.out + said.err
    assert "wrong-one" not in said.out + said.err


# ------------------------------------------------------------------ origins


@pytest.mark.parametrize(
    ("origin", "allowed"),
    [
        ("http://localhost", True),
        ("http://localhost:3000", True),
        ("https://127.0.0.1:8443", True),
        ("http://0.0.0.0:1", True),
        ("app://obsidian.md", True),
        ("file://", True),
        ("tauri://localhost", True),
        ("vscode-webview://abc", True),
        ("vscode-file://vscode-app", True),
        ("http://gateway.lan:8080", True),
        ("https://evil.example", False),
        ("http://localhost.evil.example", False),
        ("null", False),
        ("", False),
    ],
)
def test_ollamas_own_list_of_origins(origin, allowed):
    assert Origins().allows(origin, "gateway.lan:8080") is allowed


def test_origins_of_our_own():
    origins = Origins(["https://*.example.com", "https://chat.example.org"])
    assert origins.allows("https://a.example.com", None)
    assert origins.allows("https://chat.example.org", None)
    assert not origins.allows("https://example.com", None)
    assert not origins.allows("https://chat.example.org.evil.example", None)
    assert Origins(["*"]).allows("null", None)
    assert ("Access-Control-Allow-Origin", "*") in Origins(["*"]).headers("null", None)


async def test_a_foreign_page_gets_an_empty_403(gateway, dial):
    caller = await dial(gateway)
    for method, path in (("GET", "/api/version"), ("POST", "/api/chat"), ("OPTIONS", "/api/chat"), ("GET", "/nope")):
        reply = await caller.get(path, method=method, Origin="https://evil.example")
        assert (reply.status, reply.body) == (403, b"")
        assert reply.header("Access-Control-Allow-Origin") is None


async def test_a_preflight_is_answered_as_ollama_does_and_allows_our_headers(gateway, dial):
    caller = await dial(gateway)
    reply = await caller.get(
        "/api/chat", method="OPTIONS", Origin="http://localhost:3000", Access_Control_Request_Method="POST"
    )
    assert (reply.status, reply.body) == (204, b"")
    assert reply.header("Access-Control-Allow-Origin") == "http://localhost:3000"
    assert reply.header("Access-Control-Allow-Methods") == "GET,POST,PUT,PATCH,DELETE,HEAD,OPTIONS"
    assert reply.header("Access-Control-Max-Age") == "43200"
    assert reply.header("Allow") == "POST"
    assert [value for name, value in reply.headers if name == "Vary"] == [
        *("Origin", "Access-Control-Request-Method", "Access-Control-Request-Headers")
    ]
    allowed = reply.header("Access-Control-Allow-Headers")
    assert allowed.startswith(
        "Authorization,Content-Type,User-Agent,Accept,X-Requested-With,Openai-Beta,X-Stainless-Arch,"
    )
    assert {"X-Foreman-Priority", "X-Foreman-Deadline", "Idempotency-Key"} <= set(allowed.split(","))
    unknown = await caller.get("/nope", method="OPTIONS", Origin="http://localhost:3000")
    assert (unknown.status, unknown.header("Allow")) == (204, None)


async def test_every_answer_to_an_allowed_page_says_so(gateway, worker, dial):
    caller = await dial(gateway)
    page = {"Origin": "http://localhost:3000"}
    for reply in (
        await caller.get("/api/version", **page),
        await caller.get("/nope", **page),
        await caller.post("/api/chat", {**CHAT, "model": "nope"}, **page),
    ):
        assert reply.header("Access-Control-Allow-Origin") == "http://localhost:3000"
        assert reply.header("Vary") == "Origin"
        assert "X-Foreman-Job-Id" in reply.header("Access-Control-Expose-Headers")
        assert "Retry-After" in reply.header("Access-Control-Expose-Headers")
    caller.ask("POST", "/api/chat", {**CHAT, "stream": False}, **page)
    await (await worker.claim()).done(WHOLE, head=JSON)
    assert (await caller.reply()).header("Access-Control-Allow-Origin") == "http://localhost:3000"


async def test_our_own_page_needs_no_leave(gateway, dial):
    caller = await dial(gateway)
    reply = await caller.get("/api/version", Origin=f"http://{caller.host}")
    assert reply.status == 200
    assert reply.header("Access-Control-Allow-Origin") is None


# ------------------------------------------------------------------ hosts


@pytest.mark.parametrize(
    ("host", "local"),
    [
        ("localhost:8080", True),
        ("127.0.0.1", True),
        ("[::1]:8080", True),
        ("192.168.1.7:8080", True),
        ("gpu.local", True),
        ("host.docker.internal:8080", True),
        ("app.localhost", True),
        ("", True),
        (None, True),
        ("evil.example", False),
        ("8.8.8.8", False),
        ("localhost.evil.example", False),
    ],
)
def test_hosts_of_this_machine_and_its_network(host, local):
    assert host_is_local(host) is local


async def test_a_foreign_name_for_a_loopback_gateway_gets_an_empty_403(gateway, open_gateway, dial, capsys):
    caller = await dial(gateway)
    caller.host = "rebound.evil.example"
    reply = await caller.get("/api/version")
    assert (reply.status, reply.body) == (403, b"")
    told = capsys.readouterr().out
    assert "rebound.evil.example" in told, "nobody finds out otherwise"
    behind_a_proxy = await dial(await open_gateway(origins="https://*.example.org"))
    behind_a_proxy.host = "chat.example.org:8443"
    assert (await behind_a_proxy.get("/api/version")).status == 200
    with_a_token = await dial(await open_gateway(token="t"))
    with_a_token.host = "rebound.evil.example"
    assert (await with_a_token.get("/api/version", Authorization="Bearer t")).status == 200
