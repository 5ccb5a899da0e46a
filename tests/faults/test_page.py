"""The page beside dying processes: after each fault its numbers are the store's, and it was never loaded anew."""

from __future__ import annotations

import json
import signal

import aiohttp
import pytest

from foreman.demo.ollama import FakeOllama
from foreman.store.client import connect
from tests.conftest import StoreSettings
from tests.needs import needs
from tests.rig import rig
from tests.web.conftest import wait_until
from tests.web.dashboard.conftest import chromium, eyes  # noqa: F401 - fixtures
from tests.web.dashboard.test_live import READ

pytestmark = [needs("chromium"), pytest.mark.timeout(180)]

JOB = {"model": "alpha", "messages": [{"role": "user", "content": "hello"}]}


async def test_after_each_fault_its_numbers_are_the_stores(tmp_path, eyes):  # noqa: F811 - a fixture
    eyes.expected = "Failed to load resource"
    async with (
        FakeOllama(models=["alpha", "beta"], tokens=20, token_seconds=0.02, load_seconds=0.2) as fake,
        rig(tmp_path, f"gpu1={fake.url}?resident=1", mode="apart", models=2) as house,
        aiohttp.ClientSession() as session,
    ):
        store = await connect(StoreSettings("default"), house.env["FOREMAN_REDIS_URL"])
        page = await eyes.open(house.url + "/ui")
        await page.evaluate("window.mark = 1")

        async def send(count: int) -> None:
            for number in range(count):
                job = JOB | {"model": ("alpha", "beta")[number % 2]}
                async with session.post(house.url + "/jobs", json=job) as reply:
                    assert reply.status == 202

        async def true() -> bool:
            """What the page shows is what the store holds."""
            counts = await store.queue.counts()
            shown = json.loads(await page.evaluate(READ))["jobs"]
            return bool(shown == {name: getattr(counts, name) for name in shown})

        async def settled(done: int) -> None:
            await house.until(lambda state: state["jobs"]["done"] == done, timeout=60)
            await wait_until(true, 20)

        try:
            await send(4)
            await settled(4)
            for role in ("worker", "gateway", "background"):
                if role != "gateway":
                    await send(4)
                await house.stop(role, signal.SIGKILL)
                await house.spawn(role, "--role", role)
                await settled(8 if role != "background" else 12)
            await page.locator("#feed", has_text="live").wait_for()
            assert await page.evaluate("window.mark") == 1
        finally:
            await store.close()
