"""In a real Chromium through a real nginx: tokens appear one by one, the wait shows, and Stop stops the model server."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import aiohttp

from foreman.demo.ollama import FakeOllama
from tests.clients.cases import ASK, CHAT
from tests.needs import needs
from tests.proxies.browser import browsing
from tests.rig import rig

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = needs("nginx", "chromium")

BODY = {"model": CHAT, "messages": ASK, "stream": False}
TOKENS = 300


async def test_tokens_appear_one_by_one_and_stop_stops_the_model_server(tmp_path: Path) -> None:
    async with (
        FakeOllama(models=["alpha"], tokens=TOKENS, token_seconds=0.02) as fake,
        rig(tmp_path, f"main={fake.url}") as house,
        browsing(tmp_path, house.url, CHAT) as page,
        aiohttp.ClientSession() as session,
    ):
        busy = fake.gate(after=1)
        async with asyncio.timeout(50):
            before = await session.post(house.url + "/api/chat", json={**BODY, "stream": True})
            await busy.reached()  # the one slot is taken: the page's call waits, and shows it
            await page.click("#ask")
            await page.wait_for_function(
                "document.getElementById('state').textContent.startsWith('queued · position 1')"
            )
            gate = fake.gate(after=1)
            before.close()

        await page.wait_for_function("document.getElementById('text').textContent.length > 0")
        for _ in range(3):
            await gate.reached()
            shown = await page.text_content("#text")
            await gate.release(1)
            await page.wait_for_function(
                "shown => document.getElementById('text').textContent.length > shown.length", arg=shown
            )
        gate.open()

        cancels = fake.cancels
        clicked = time.monotonic()
        await page.click("#stop")
        await fake.until(lambda fake: fake.cancels == cancels + 1)
        print(f"from the click to the closed connection: {(time.monotonic() - clicked) * 1000:.0f} ms")  # noqa: T201
        made = fake.tokens
        assert made < TOKENS
        await page.wait_for_function("document.getElementById('state').textContent === 'stopped'")
        shown = await page.text_content("#text")
        async with session.post(house.url + "/api/chat", json={**BODY, "options": {"num_predict": 5}}) as reply:
            await reply.read()
        assert fake.tokens == made + 5, "nothing was made for the page since"
        assert await page.text_content("#text") == shown
        assert {"queued", "answering"} <= set(await page.evaluate("window.seen"))
