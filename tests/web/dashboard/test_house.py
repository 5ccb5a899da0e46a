"""The page before a foreman in operation: real processes, a stateful target, a receiver of webhooks."""

from __future__ import annotations

import aiohttp
import pytest

from foreman.demo.ollama import FakeOllama
from tests.needs import needs
from tests.receivers import Receivers
from tests.rig import rig

pytestmark = [needs("chromium"), pytest.mark.timeout(120), pytest.mark.slow]

JOB = {"model": "alpha", "messages": [{"role": "user", "content": "hello"}]}


async def test_an_operators_morning(tmp_path, eyes):
    async with (
        FakeOllama(models=["alpha", "beta"], tokens=12, token_seconds=0.02, load_seconds=0.3) as fake,
        Receivers() as receivers,
        rig(tmp_path, f"gpu1={fake.url}?resident=1", webhook_allow="127.0.0.1", models=2) as house,
    ):
        receivers.kinds["/hook"] = ["410"]
        async with aiohttp.ClientSession() as session:
            job = JOB | {"state_webhook_url": receivers.url + "/hook"}
            async with session.post(house.url + "/jobs", json=job) as reply:
                assert reply.status == 202
        await receivers.until(lambda it: it.seen["/hook"])

        # a chat, from the first state to its numbers
        page = await eyes.open(house.url + "/ui/playground")
        await page.select_option("main select", "beta:latest")
        await page.fill(".ask textarea", "hello")
        await page.keyboard.press("Enter")
        await page.get_by_text("first token after").wait_for()
        assert await page.locator(".ask textarea").input_value() == ""

        # the webhook that met 410 is sent again
        await page.goto(house.url + "/ui/webhooks")
        receivers.kinds["/hook"] = ["ok"]
        told = len(receivers.seen["/hook"])
        await page.get_by_role("button", name="Send again").first.click()
        await receivers.until(lambda it: len(it.seen["/hook"]) > told)
        await page.locator("tbody .s-done").first.wait_for()

        # what was loaded, and the GPU for somebody else
        await page.goto(house.url + "/ui")
        await page.wait_for_selector(".timeline .held")
        card = page.locator("article", has_text="gpu1")
        await card.locator(".chips", has_text="beta").wait_for()
        await card.get_by_role("button", name="Free this GPU").click()
        await page.click("#ask button[value=yes]")
        await fake.until(lambda it: not it.residents)
        await card.get_by_text("holds nothing").wait_for()
        await card.get_by_role("button", name="Resume").click()
        await card.locator(".s-up").wait_for()
        eyes.expected = "ERR_CONNECTION_REFUSED"  # the house ends before the page does
