"""Each view in a browser: opened over a long past, each filter used, each action done."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from foreman.core.jobs import State
from tests.needs import needs
from tests.web.calls.test_chat import CHAT
from tests.web.conftest import wait_until
from tests.web.dashboard.past import swaps

pytestmark = [needs("chromium"), pytest.mark.timeout(120)]

VIEWS = ("", "/jobs", "/failures", "/webhooks", "/playground", "/health", "/audit")


@pytest.mark.parametrize("count", [600, pytest.param(10_000, marks=pytest.mark.slow)])
async def test_every_view_over_a_long_past(gateway, past, eyes, count):
    ids = await past.of(count)
    page = await eyes.open(gateway.url + "/ui")
    counts = await gateway_counts(gateway)
    assert sum(counts.values()) == count
    for view in VIEWS:
        await page.goto(f"{gateway.url}/ui{view}")
        await page.wait_for_selector("h1")
        assert await page.evaluate("document.documentElement.scrollWidth <= innerWidth"), view
    # the list: each filter, one by one, and the next page
    for query, fits in (
        ("state=failed", lambda row: "failed" in row[1]),
        ("model=n", lambda row: row[2] == "n"),
        ("endpoint=/v1/chat/completions", lambda row: row[3] == "/v1/chat/completions"),
        ("caller=n8n", lambda row: row[5] == "n8n"),
        ("surface=sync", lambda row: True),
    ):
        await page.goto(f"{gateway.url}/ui/jobs?{query}")
        found = await rows(page)
        assert len(found) == 50, query
        assert all(fits(row) for row in found), (query, found[:3])
    await page.goto(f"{gateway.url}/ui/jobs")
    first = await listed(page)
    await page.click("text=older")
    await page.wait_for_url("**/ui/jobs?cursor=*")
    assert first + await listed(page) == ids[-1:-101:-1]
    await page.fill("[name=id]", ids[17][:20].lower())
    await page.press("[name=id]", "Enter")
    await page.wait_for_url("**/ui/jobs?id=*")
    shown = await listed(page)
    assert shown
    assert all(one.startswith(ids[17][:20]) for one in shown)
    # failures by code
    await page.goto(f"{gateway.url}/ui/failures")
    text = await page.inner_text("main")
    for code in ("upstream_error", "stalled", "upstream_unreachable", "deadline_exceeded"):
        assert code in text


async def test_a_job_is_looked_at_cancelled_and_done_again(gateway, worker, dial, eyes):
    caller = await dial(gateway)
    job = (
        await caller.post("/jobs", CHAT | {"model": "m", "stream": False, "metadata": {"order": "<b>7</b>"}})
    ).json()["job_id"]
    page = await eyes.open(f"{gateway.url}/ui/jobs/{job}")
    main = page.locator("main")
    await main.get_by_text("Waits for").wait_for()
    assert "<b>7</b>" in await main.inner_text()
    hidden = page.locator("details[data-key=request] pre")
    assert await hidden.text_content() == "", "a request is hidden until somebody asks for it"
    await page.click("details[data-key=request] summary")
    await hidden.get_by_text("messages").wait_for()
    # as curl: the same call from a terminal
    await page.click("text=Copy as curl")
    await page.wait_for_selector("#ask textarea")
    line = await page.locator("#ask textarea").input_value()
    assert line.startswith(f"curl {gateway.url}/jobs")
    assert json.loads(line.partition("-d '")[2].removesuffix("'"))["model"] == "m"
    await page.click("#ask menu button:first-child")
    # cancelled by its key, after the question
    await page.keyboard.press("c")
    await page.click("#ask button[value=yes]")
    await page.locator("#speaker", has_text="It is cancelled.").wait_for()
    await main.locator(".s-cancelled").first.wait_for()
    assert (await caller.get(f"/jobs/{job}")).json()["state"] == "cancelled"
    await page.get_by_role("button", name="Retry").dblclick()
    again = page.locator("#speaker a")
    await again.wait_for()
    assert len((await caller.get("/jobs")).json()["jobs"]) == 2, "a double click is one wish"
    path = await again.get_attribute("href")
    assert path != f"/ui/jobs/{job}"
    await page.goto(gateway.url + path)
    await main.get_by_text("Retry of").wait_for()
    run = await worker.claim()
    await run.end(State.DONE)
    await main.locator(".head .s-done").wait_for()


async def test_operators_pause_resume_clear_and_free(gateway, worker, dial, eyes, store):
    caller = await dial(gateway)
    lane = None
    for number in range(3):
        assert (
            await caller.post("/jobs", CHAT | {"stream": False, "options": {"num_ctx": 99}, "seed": number})
        ).status == 202
    page = await eyes.open(gateway.url + "/ui")
    row = page.locator("tbody tr", has_text="num_ctx=99")
    await row.wait_for()
    await row.get_by_role("button", name="Pause").click()
    await page.select_option("#ask select", "2h")
    await page.click("#ask button[value=yes]")
    await row.get_by_text("paused").wait_for()
    await row.get_by_text("for 2 h more").or_(row.get_by_text("for 1 h 59 min more")).wait_for()
    (pause,) = await store.operators.pauses()
    lane = pause.name
    assert pause.until is not None
    await row.get_by_role("button", name="Resume").click()
    await row.get_by_role("button", name="Pause").wait_for()
    await row.get_by_role("button", name="Clear").click()
    await page.click("#ask button[value=yes]")
    await wait_until(lambda: empty(store))
    await page.locator("#speaker", has_text="3 cancelled, 0 left.").wait_for()
    card = page.locator("article", has_text="gpu1")
    await card.get_by_role("button", name="Free this GPU").click()
    await page.click("#ask button[value='']")
    assert await store.operators.pauses() == [], "a question that is answered with no changes nothing"
    await card.get_by_role("button", name="Free this GPU").press("Enter")
    await page.click("#ask button[value=yes]")
    await card.get_by_role("button", name="Resume").wait_for()
    (pause,) = await store.operators.pauses()
    assert (pause.name, pause.unload) == ("gpu1", True)
    await wait_until(
        lambda: page.evaluate("document.activeElement.textContent === 'Resume'")
    )  # for who has but a keyboard
    await card.get_by_role("button", name="Resume").click()
    await card.get_by_role("button", name="Pause").wait_for()
    await page.goto(gateway.url + "/ui/audit")
    log = [row[2:5] for row in await rows(page)]
    assert log == [
        ["resume", "target", "gpu1"],
        ["pause", "target", "gpu1"],
        ["clear", "lane", lane],
        ["resume", "lane", lane],
        ["pause", "lane", lane],
    ]


async def test_two_operators_at_once_each_hear_what_came_of_it(gateway, worker, dial, eyes, store):
    caller = await dial(gateway)
    job = (await caller.post("/jobs", CHAT | {"stream": False})).json()["job_id"]
    await caller.post("/ops/targets/gpu1/pause", b"")
    page = await eyes.open(gateway.url + "/ui")
    card = page.locator("article", has_text="gpu1")
    await card.get_by_text("until resumed").wait_for()
    await page.keyboard.press("p")  # what it shows grows old
    await page.locator("#feed", has_text="paused").wait_for()
    await caller.post("/ops/targets/gpu1/resume", b"")
    await card.get_by_role("button", name="Resume").click()
    await page.locator("#speaker", has_text="It was not paused.").wait_for()
    assert len((await caller.get("/ops/audit")).json()["audit"]) == 3, "each of them stands in the log"
    await page.goto(f"{gateway.url}/ui/jobs/{job}")
    await page.wait_for_selector("html.js")
    await page.click("#cancel")
    await (await worker.claim()).end(State.DONE)
    await page.click("#ask button[value=yes]")
    await page.locator("#speaker", has_text="It is done.").wait_for()


async def test_a_chat_shows_how_it_waits_and_stops(gateway, worker, eyes):
    page = await eyes.open(gateway.url + "/ui/playground")
    await page.get_by_label("Your message").fill("hello")
    await page.keyboard.press("Enter")
    run = await worker.claim()
    await page.locator("[role=status]", has_text=" s").first.wait_for()
    run.outlet.working()
    from tests.web.puppet import NDJSON

    run.outlet.head(NDJSON)
    run.outlet.data(b'{"model":"m","message":{"role":"assistant","content":"<i>Hi</i>"},"done":false}\n')
    await page.get_by_text("<i>Hi</i>").wait_for()
    await page.get_by_role("button", name="Stop").click()
    await page.get_by_text("stopped · first token after").wait_for()
    assert await asyncio.wait_for(run.cancelled, 60) == "caller_gone"
    await run.end(State.CANCELLED)


async def test_keys_lead_everywhere(gateway, worker, eyes):
    page = await eyes.open(gateway.url + "/ui")
    await page.locator("#feed", has_text="live").wait_for()
    await page.keyboard.press("?")
    await page.get_by_text("hold the page still").wait_for()
    await page.keyboard.press("Escape")
    await page.keyboard.press("p")
    await page.locator("#feed", has_text="paused").wait_for()
    await page.keyboard.press("p")
    await page.locator("#feed", has_text="live").wait_for()
    for key, path in (("j", "/ui/jobs"), ("f", "/ui/failures"), ("h", "/ui/health"), ("o", "/ui")):
        await page.keyboard.press("g")
        await page.keyboard.press(key)
        await page.wait_for_url(f"{gateway.url}{path}")
        await page.wait_for_selector("html.js")
    await page.goto(gateway.url + "/ui/jobs")
    await page.wait_for_selector("html.js")
    await page.keyboard.press("/")
    assert await page.evaluate("document.activeElement.name") == "id"


@pytest.mark.parametrize(("scheme", "width"), [("dark", 1280), ("light", 360)])
@needs("axe")
async def test_axe_finds_no_barrier(gateway, past, worker, dial, eyes, store, scheme, width):
    ids = await past.of(40)
    await swaps(store)
    caller = await dial(gateway)
    for number in range(7):
        await caller.post("/jobs", CHAT | {"stream": False, "options": {"num_ctx": 99 + number}})
    axe = Path(needs.path("axe")).read_text()
    page = await eyes.open(gateway.url + "/ui", width=width, scheme=scheme)
    for view in (*VIEWS, f"/jobs/{ids[0]}"):
        await page.goto(f"{gateway.url}/ui{view}")
        await page.locator("#feed", has_text="live").wait_for()
        if view == "":
            await page.wait_for_selector(".timeline svg")
        await page.evaluate(axe)
        found = await page.evaluate("axe.run(document, {resultTypes: ['violations']})")
        told = [
            (one["id"], one["nodes"][0]["html"][:200], one["nodes"][0]["failureSummary"])
            for one in found["violations"]
            if one["impact"] in {"serious", "critical", "moderate"}
        ]
        assert told == [], view


async def listed(page) -> list[str]:
    """The ids in a list of jobs."""
    await page.wait_for_selector("tbody tr")
    found: list[str] = await page.eval_on_selector_all("tbody a.id", "links => links.map(link => link.title)")
    return found


async def rows(page) -> list[list[str]]:
    """The text of a table's cells."""
    await page.wait_for_selector("tbody tr")
    return await page.eval_on_selector_all(
        "tbody tr", "rows => rows.map(row => [...row.cells].map(cell => cell.innerText.trim()))"
    )


async def gateway_counts(gateway) -> dict[str, int]:
    counts = await gateway._store.queue.counts()
    return {state: getattr(counts, state) for state in ("done", "failed", "cancelled")}


async def empty(store) -> bool:
    return (await store.queue.counts()).queued == 0
