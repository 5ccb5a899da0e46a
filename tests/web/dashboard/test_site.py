"""The page's door without a browser: its files, who gets to see what, and what a page without scripts says."""

from __future__ import annotations

import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from foreman.core.jobs import State, Surface
from foreman.store.errors import StoreUnavailableError
from foreman.web.auth import to_cookie
from foreman.web.dashboard import markup
from foreman.web.dashboard.site import FILES, STAMP
from tests.web.calls.test_chat import CHAT
from tests.web.conftest import wait_until

ROOT = Path(__file__).parent.parent.parent.parent
LIMIT = 60 * 1024
TOKENS = {"token": "operator-1", "tokens": "webui=web-1,n8n=night-1", "read_token": "look-1"}
VIEWS = ("/ui", "/ui/jobs", "/ui/failures", "/ui/webhooks", "/ui/playground", "/ui/health", "/ui/audit")
NASTY = "<script>alert(1)</script>&\"'"


def test_the_page_is_small():
    assert FILES.keys() >= {"app.js", "foreman-client.js", "style.css"}
    assert sum(len(file.body) for file in FILES.values()) <= LIMIT, {name: len(FILES[name].body) for name in FILES}


def test_it_loads_nothing_from_elsewhere_and_runs_no_text():
    for name, file in FILES.items():
        text = file.body.decode()
        assert not re.search(r"(?:src|href|import|url)\W{1,3}https?://", text), name
        assert not re.search(r"\beval\(|new Function|innerHTML|outerHTML|insertAdjacentHTML|document\.write", text), (
            name
        )


def test_nothing_moves_by_itself():
    """For those who asked for reduced motion there is nothing to take away."""
    assert not re.search(r"animation|transition|@keyframes|scroll-behavior", FILES["style.css"].body.decode())


def test_a_wheel_brings_the_files(tmp_path):
    told = subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert told.returncode == 0, told.stderr
    (wheel,) = tmp_path.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    assert names >= {f"foreman/web/dashboard/{name}" for name in FILES}


async def test_files_are_kept_by_browsers_until_they_change(gateway, dial):
    caller = await dial(gateway)
    for name in FILES:
        reply = await caller.get(f"/ui/static/{STAMP}/{name}")
        assert reply.status == 200
        assert reply.body == FILES[name].body
        assert "immutable" in reply.header("Cache-Control")
        assert reply.header("X-Content-Type-Options") == "nosniff"
        assert reply.header("Content-Type").startswith(FILES[name].content_type)
        again = await caller.get(f"/ui/static/{STAMP}/{name}", If_None_Match=reply.header("ETag"))
        assert again.status == 304
    other = await caller.get("/ui/static/0123/app.js")
    assert (other.status, other.header("Cache-Control")) == (200, "no-cache"), "a page of another version gets ours"
    for name in ("page.py", "..%2Fpage.py", "nothing.js", "__init__.py"):
        assert (await caller.get(f"/ui/static/{STAMP}/{name}")).status == 404


async def test_every_view_forbids_what_it_does_not_need(gateway, dial):
    caller = await dial(gateway)
    for path in VIEWS:
        reply = await caller.get(path)
        assert reply.status == 200, path
        policy = reply.header("Content-Security-Policy")
        assert "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        assert reply.header("Cache-Control") == "no-store"
        text = reply.body.decode()
        assert not re.search(r"\son\w+=|\sstyle=|<style", text), path
        assert re.findall(r"<script[^>]*>", text) == [
            f'<script type="module" src="/ui/static/{STAMP}/app.js">',
            '<script type="application/json" id="boot">',
        ]


async def test_the_cookie_counts_for_the_pages_own_script_alone(open_gateway, worker, dial):
    gateway = await open_gateway(**TOKENS)
    caller = await dial(gateway)
    cookie = {"Cookie": f"foreman_token={to_cookie('operator-1')}"}
    page = cookie | {"X-Foreman-Page": "1"}
    own = gateway.url
    assert (await caller.get("/jobs", **cookie)).status == 401, "no header"
    assert (await caller.get("/jobs", **page)).status == 200
    assert (await caller.get("/jobs", **page, Origin=own)).status == 200
    assert (await caller.get("/jobs", **page, Origin="http://localhost:3000")).status == 401, (
        "another page on this host"
    )
    for path in ("/ops/targets/gpu1/pause", "/jobs"):
        assert (await caller.post(path, CHAT, **cookie)).status == 401, "what a form could post"
        assert (await caller.post(path, CHAT, **page, Origin="http://127.0.0.1:3000")).status in {401, 403}
        assert (await caller.post(path, CHAT, **page, Origin=own)).status in {200, 202}
    left = await caller.post("/ui", b"leave=1", **cookie)
    assert left.status == 303
    assert "Max-Age=0" in left.header("Set-Cookie")


async def test_who_only_looks_sees_no_words_of_callers_and_no_buttons(open_gateway, worker, dial, past):
    gateway = await open_gateway(**TOKENS)
    job = await past.one(1, metadata='{"order": 7}')
    caller = await dial(gateway)
    look, boss = ({"Authorization": f"Bearer {token}"} for token in ("look-1", "operator-1"))
    for path in (*VIEWS, f"/ui/jobs/{job}"):
        reply = await caller.get(path, **look)
        assert reply.status == 200, path
        text = reply.body.decode()
        assert "data-do" not in text, path
        assert f"/jobs/{job}/request" not in text
    assert "data-do" in (await caller.get(f"/ui/jobs/{job}", **boss)).body.decode()
    for path in ("/ops/targets/gpu1/pause", f"/jobs/{job}/retry"):
        assert (await caller.post(path, b"", **look)).status == 403, "whatever its page would say"
    assert b"operator-1" not in (await caller.get("/ui/health", **look)).body
    assert b"(hidden)" in (await caller.get("/ui/health", **look)).body


async def test_a_named_caller_sees_its_own(open_gateway, worker, dial, past):
    gateway = await open_gateway(**TOKENS)
    mine, other = await past.one(10, caller="webui", model="mine"), await past.one(20, caller="n8n", model="other")
    caller = await dial(gateway)
    web = {"Authorization": "Bearer web-1"}
    for path in ("/ui", "/ui/jobs", "/ui/failures", "/ui/jobs?caller=n8n"):
        text = (await caller.get(path, **web)).body.decode()
        assert mine in text, path
        assert other not in text, path
    assert (await caller.get(f"/ui/jobs/{mine}", **web)).status == 200
    assert (await caller.get(f"/ui/jobs/{other}", **web)).status == 404
    for path in ("/ui/audit", "/ui/webhooks"):
        assert (await caller.get(path, **web)).status == 403
    assert b"FOREMAN_ADDR" not in (await caller.get("/ui/health", **web)).body


async def test_without_a_token_each_path_asks_for_it(open_gateway, worker, dial):
    caller = await dial(await open_gateway(**TOKENS))
    for path in (*VIEWS, "/ui/jobs/01M7ZCNPYT4TM0MKP4Z469JRV3", "/ui/timeline", f"/ui/static/{STAMP}/app.js"):
        reply = await caller.get(path)
        assert reply.status == 401, path
        assert b'<form method="post"' in reply.body


async def test_names_from_outside_stay_text(gateway, worker, dial, past):
    await worker.publish("gpu1", NASTY, url=NASTY, error=NASTY, state="down")
    job = await past.one(10, model=NASTY, canonical=NASTY, caller=NASTY, endpoint=NASTY, lane=NASTY)
    await wait_until(lambda: gateway.inventory.targets[0].state == "down")
    caller = await dial(gateway)
    for path in (*VIEWS, f"/ui/jobs/{job}", "/ui/timeline", f"/ui/jobs?id={NASTY}&model={NASTY}".replace("&\"'", "")):
        text = (await caller.get(path.replace("<", "%3C").replace(">", "%3E"))).body.decode()
        assert "<script>" not in text, path


async def test_filters_that_make_no_sense_are_told(gateway, dial):
    caller = await dial(gateway)
    for query, words in (("state=lost", "no state"), ("surface=x", "sync or async"), ("id=no-id!", "26 digits")):
        reply = await caller.get(f"/ui/jobs?{query}")
        assert reply.status == 200
        assert words in reply.body.decode()
    reply = await caller.get("/ui/jobs/01M7ZCNPYT4TM0MKP4Z469JRV3")
    assert reply.status == 404
    assert b"is known here (any more)" in reply.body


async def test_with_the_store_away_each_view_says_so(gateway, worker, dial, store, monkeypatch):
    await wait_until(lambda: gateway.inventory.targets)

    async def away(*_args, **_kwargs):
        raise StoreUnavailableError("The store at unix:///x does not answer (connection refused).")

    for verb in ("targets", "workers", "counts", "ping", "recent", "announce", "page", "running"):
        monkeypatch.setattr(store.queue, verb, away)
    for place, verb in ((store.views, "failures"), (store.deliveries, "receivers"), (store.operators, "audit")):
        monkeypatch.setattr(type(place), verb, away)
    caller = await dial(gateway)
    for path in VIEWS:
        reply = await caller.get(path)
        assert reply.status in {200, 503}, path
        assert "text/html" in reply.header("Content-Type")
        if path != "/ui/playground":
            assert b"does not answer" in reply.body, path


async def test_a_webhook_that_failed_is_seen_and_sent_again(gateway, worker, dial, past, store):
    job = await past.one(1, state_webhook_url="http://example.com/hook?key=s3cret")
    caller = await dial(gateway)
    text = (await caller.get(f"/ui/jobs/{job}")).body.decode()
    assert "http://example.com/hook?key=s3cret" in text
    webhooks = (await caller.get("/ui/webhooks")).body.decode()
    assert "http://example.com/hook" in webhooks
    assert "Nobody was told" not in webhooks


def test_spans_are_said_as_people_say_them():
    for seconds, said in (
        (0.04, "0.0 s"), (9.94, "9.9 s"), (9.96, "10 s"), (59.6, "1 min"), (61, "1 min 1 s"), (3599, "59 min 59 s"),
        (3600, "1 h"), (86399, "23 h 59 min"), (86400 * 3 + 7200, "3 d 2 h"), (None, None),
    ):  # fmt: skip
        assert markup.span(seconds) == said


def test_a_table_without_rows_is_a_sentence():
    assert markup.table("x", ("a", "b#"), [], "Nothing <here>.") == '<p class="none">Nothing &lt;here&gt;.</p>'


@pytest.mark.parametrize("surface", list(Surface))
async def test_a_failed_jobs_view_says_why_and_what_to_do(gateway, worker, dial, past, surface):
    job = await past.one(1, surface=surface)
    assert (await past._store.queue.get(job)).state is State.DONE
    failed = await past.one(10, surface=surface)
    caller = await dial(gateway)
    text = (await caller.get(f"/ui/jobs/{failed}")).body.decode()
    assert "it broke at number 10" in text
    assert "stalled" in text


async def test_what_cannot_be_done_is_not_offered(open_gateway, worker, dial, past):
    gateway = await open_gateway(**TOKENS)
    caller, boss = await dial(gateway), {"Authorization": "Bearer operator-1"}
    sync, handed_in = await past.one(1, surface=Surface.SYNC), await past.one(1)
    for job, kept in ((sync, False), (handed_in, True)):
        text = (await caller.get(f"/ui/jobs/{job}", **boss)).body.decode()
        assert (f"POST /jobs/{job}/retry" in text) is kept
        assert (f"/ui/jobs/{job}/curl" in text) is kept
        assert ("Show the request" in text) is kept
        assert ("Its request is not kept" in text) is not kept
        assert (await caller.post(f"/jobs/{job}/retry", b"", **boss)).status == (202 if kept else 410)
    assert f"It takes JavaScript, or the token: GET /jobs/{handed_in}/request." in text
