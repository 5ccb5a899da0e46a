"""The overview while things happen: its numbers are the store's, it says how old they are, and it catches up by itself."""

from __future__ import annotations

import asyncio
import json

import pytest

from foreman.core.errors import Code, Failure
from foreman.core.jobs import Slot, State
from foreman.store.errors import StoreUnavailableError
from tests.needs import needs
from tests.store.ground import new_job
from tests.web.calls.test_chat import CHAT
from tests.web.conftest import wait_until

pytestmark = [needs("chromium"), pytest.mark.timeout(120)]

GONE = "ERR_CONNECTION_REFUSED"
NASTY = "<img src=x onerror=alert(1)>&\"'"
RTL = "\u0646\u0645\u0648\u0630\u062c\u202eevil"
LONG = "x" * 200


async def test_its_numbers_are_the_stores_at_each_step(gateway, worker, dial, eyes, store):
    page = await eyes.open(gateway.url + "/ui")
    caller = await dial(gateway)
    await equal(page, gateway, store, dial)
    ids = []
    for number in range(5):
        reply = await caller.post("/jobs", CHAT | {"stream": False, "options": {"num_ctx": 9 + number % 2}})
        ids.append(reply.json()["job_id"])
    await equal(page, gateway, store, dial)
    runs = [await worker.claim(), await worker.claim()]
    await worker.publish(
        *("gpu1", "m:latest"),
        resident=[{"lane": runs[0].job.lane, "model": "m:latest", "since": 1.0}],
        running=[{"job_id": run.job.id, "tokens": 1234, "tokens_per_second": 31.25} for run in runs],
        next={"lane": runs[0].job.lane, "reason": "due"},
    )
    await equal(page, gateway, store, dial)
    await page.get_by_text("1,234 tokens").first.wait_for()
    await page.get_by_text("its turn has come").wait_for()
    await runs[0].end(State.DONE)
    await runs[1].end(State.FAILED, Failure(Code.STALLED, "nothing came"))
    await equal(page, gateway, store, dial)
    assert (await caller.get(f"/jobs/{ids[4]}", method="DELETE")).status == 200
    await equal(page, gateway, store, dial)


async def test_it_catches_up_by_itself_after_a_restart(open_gateway, worker, dial, eyes, store):
    eyes.expected = GONE
    gateway = await open_gateway()
    page = await eyes.open(gateway.url + "/ui")
    feed = page.locator("#feed")
    await feed.get_by_text("live").wait_for()
    await page.evaluate("window.mark = 1")
    await gateway.stop(0)
    await feed.get_by_text("reconnecting").wait_for()
    await store.queue.submit(new_job(gateway=None))
    again = await open_gateway(addr=gateway.url.removeprefix("http://"))
    await feed.get_by_text("live").wait_for()
    await equal(page, again, store, dial)
    assert await page.evaluate("window.mark") == 1, "the same page, not loaded anew"


async def test_a_token_that_holds_no_longer_is_asked_for_anew(open_gateway, worker, eyes):
    eyes.expected = "Failed to load resource"
    gateway = await open_gateway(token="before")
    page = await eyes.open(gateway.url + "/ui")
    await page.fill("#token", "before")
    await page.press("#token", "Enter")
    await page.locator("#feed", has_text="live").wait_for()
    await gateway.stop(0)
    await open_gateway(addr=gateway.url.removeprefix("http://"), token="after")
    await page.wait_for_selector("#token")


async def test_a_page_that_is_held_stands_still_and_says_how_old_it_is(gateway, worker, dial, eyes):
    page = await eyes.open(gateway.url + "/ui")
    queued = page.locator("[data-n=queued]")
    await page.locator("#feed", has_text="live").wait_for()
    await page.get_by_role("button", name="Hold").click()
    caller = await dial(gateway)
    await caller.post("/jobs", CHAT | {"stream": False})
    await page.locator("#feed", has_text="paused data 2 s old").wait_for()
    assert await queued.inner_text() == "0"
    await page.get_by_role("button", name="Go on").click()
    await wait_until(lambda: shows(queued, "1"))


async def test_a_connection_that_died_without_a_word_is_not_called_live(gateway, worker, eyes):
    """A laptop that slept, a cable that was pulled: neither the stream nor a question comes to an end."""
    page = await eyes.open(gateway.url + "/ui/audit")  # for a page of this origin
    await page.clock.install()
    await page.goto(gateway.url + "/ui")
    await page.locator("#feed", has_text="live").wait_for()
    await page.route("**/ops/*", lambda _: None)
    await page.evaluate("dispatchEvent(new Event('online'))")  # a new stream, which says nothing
    await page.clock.fast_forward(8_000)
    await page.locator("#feed", has_text="reconnecting").wait_for()
    await page.unroute("**/ops/*")


async def test_a_held_page_stays_held_whatever_comes_late(gateway, worker, eyes):
    asked = asyncio.get_running_loop().create_future()
    page = await eyes.open(gateway.url + "/ui/audit")
    await page.clock.install()
    await page.goto(gateway.url + "/ui")
    await page.locator("#feed", has_text="live").wait_for()
    await page.route("**/ops/state", lambda route: asked.done() or asked.set_result(route))
    await page.route("**/ops/events", lambda _: None)
    await page.evaluate("dispatchEvent(new Event('online'))")
    await page.clock.fast_forward(8_000)
    route = await asyncio.wait_for(asked, 60)
    await page.keyboard.press("p")
    await page.locator("#feed", has_text="paused").wait_for()
    async with page.expect_response("**/ops/state"):
        await route.continue_()
    await page.clock.fast_forward(1_000)
    assert (await page.inner_text("#feed")).startswith("paused")


async def test_with_the_store_away_it_says_that_numbers_are_old(gateway, worker, dial, eyes, store, monkeypatch):
    caller = await dial(gateway)
    await caller.post("/jobs", CHAT | {"stream": False})
    page = await eyes.open(gateway.url + "/ui")
    await wait_until(lambda: shows(page.locator("[data-n=queued]"), "1"))

    async def away(*_args, **_kwargs):
        raise StoreUnavailableError("The store at unix:///x does not answer (connection refused).")

    with monkeypatch.context() as patch:
        patch.setattr(store.queue, "ping", away)
        await page.get_by_text("what you see is of").wait_for()
        assert await page.locator("[data-n=queued]").inner_text() == "1"
        assert (await page.inner_text("#feed")).startswith("store away data "), "what is old is not live"
    await page.get_by_text("what you see is of").wait_for(state="detached")
    await page.locator("#feed", has_text="live").wait_for()


@pytest.mark.parametrize("script", [True, False], ids=["live", "without scripts"])
async def test_nothing_is_an_answer_too(open_gateway, eyes, script):
    gateway = await open_gateway()
    page = await eyes.open(gateway.url + "/ui", script=script)
    await page.get_by_text("No worker has announced a target").first.wait_for()
    await page.get_by_text("Nothing is waiting").first.wait_for()
    assert "start `foreman serve --role worker`" in await page.inner_text("main")


@pytest.mark.parametrize("width", [1280, 360])
async def test_names_of_any_kind_leave_it_readable(gateway, worker, dial, eyes, store, width):
    names = [NASTY, RTL, LONG]
    await worker.publish(
        "gpu1", "m:latest", url=f"http://{LONG}", resident=[{"lane": LONG, "model": LONG, "since": 1.0}]
    )
    for name in names:
        await store.queue.submit(
            new_job(model=name, canonical=name, lane=name, caller=name, gateway=None, targets=("gpu1",))
        )
    page = await eyes.open(gateway.url + "/ui", width=width)
    for name in names:
        await page.locator("tbody bdi", has_text=name.replace("\u202e", "\ufffd")).first.wait_for()
    assert "\u202e" not in await page.inner_text("main")
    assert await page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert await page.evaluate("document.querySelectorAll('main img').length") == 0
    assert await page.evaluate(
        "[...document.querySelectorAll('tbody bdi')].every(it => it.getBoundingClientRect().width < 400)"
    )
    await page.goto(f"{gateway.url}/ui/jobs")
    await page.locator("tbody bdi", has_text=LONG).first.wait_for()
    assert await page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    await page.locator("tbody tr", has_text=LONG).locator("a.id").click()
    await page.get_by_text("Waits for").wait_for()
    assert await page.evaluate("document.documentElement.scrollWidth <= innerWidth")


async def test_of_many_lanes_some_are_shown_and_all_are_found(gateway, worker, eyes, store):
    for number in range(450):
        await store.queue.submit(new_job(canonical=f"model-{number}", lane=f"lane-{number}", gateway=None))
    page = await eyes.open(gateway.url + "/ui")
    await page.get_by_text("250 more with 250 jobs").wait_for()
    assert await page.locator("section:last-of-type tbody tr").count() == 200
    await page.keyboard.press("/")
    await page.keyboard.type("model-449")
    await page.locator("tbody bdi", has_text="model-449").wait_for()
    assert await page.locator("section:last-of-type tbody tr").count() == 1
    await page.fill("input[type=search]", "no such")
    await page.get_by_text("No lane fits").wait_for()


async def test_the_focus_stays_while_rows_come_and_go(gateway, worker, eyes, store):
    await store.queue.submit(new_job(canonical="kept", lane="kept", gateway=None))
    page = await eyes.open(gateway.url + "/ui")
    row = page.locator("tbody tr", has_text="kept")
    await row.get_by_role("button", name="Pause").focus()
    for number in range(3):
        await store.queue.submit(new_job(canonical=f"new-{number}", lane=f"new-{number}", gateway=None))
        await page.locator("tbody tr", has_text=f"new-{number}").wait_for()
    assert "kept" in await page.evaluate("document.activeElement.closest('tr')?.innerText ?? ''")


async def shows(place, text: str) -> bool:
    return bool(await place.inner_text() == text)


async def equal(page, gateway, store, dial) -> None:
    """Wait until the page shows what the store counts, the lanes too; and that is what /ops/state says."""
    caller = await dial(gateway)

    async def same() -> bool:
        counts = await store.queue.counts()
        shown = json.loads(await page.evaluate(READ))
        state = (await caller.get("/ops/state")).json()
        jobs = {name: getattr(counts, name) for name in state["jobs"]}
        lanes = sorted([row["depth"], row["running"]] for row in state["lanes"])
        recount = sorted(sum(lane.classes) for lane in (await store.queue.survey(Slot.DRAIN)).lanes)
        deep = [depth for depth, _ in lanes if depth]
        return bool(shown["jobs"] == jobs == state["jobs"] and shown["lanes"] == lanes and deep == recount)

    await wait_until(same)


READ = """JSON.stringify({
  jobs: Object.fromEntries([...document.querySelectorAll('dd[data-n]')].map(it => [it.dataset.n, +it.innerText.replaceAll(',', '')])),
  lanes: [...document.querySelectorAll('section:last-of-type tbody tr')]
    .map(row => ['depth', 'running'].map(name => +row.querySelector(`[data-n=${name}]`).innerText)).sort((a, b) => a[0] - b[0] || a[1] - b[1]),
})"""


async def test_somebody_signs_in_once_acts_and_leaves(open_gateway, worker, eyes, store):
    eyes.expected = "status of 401"
    gateway = await open_gateway(token="operator-1", read_token="look-1")
    page = await eyes.open(gateway.url + "/ui/jobs")
    await page.fill("#token", "wrong")
    await page.press("#token", "Enter")
    await page.get_by_text("not known here").wait_for()
    await page.fill("#token", "operator-1")
    await page.press("#token", "Enter")
    await page.locator("#feed", has_text="live").wait_for()
    assert "operator-1" not in await page.evaluate("document.cookie")
    await page.get_by_role("button", name="Pause").click()
    await page.click("#ask button[value=yes]")
    await page.get_by_role("button", name="Resume").wait_for()
    await page.get_by_role("button", name="sign out").click()
    await page.wait_for_selector("#token")
    await page.fill("#token", "look-1")
    await page.press("#token", "Enter")
    await page.get_by_text("looking only").wait_for()
    await page.locator("article", has_text="gpu1").wait_for()
    assert await page.locator("[data-do]").count() == 0
