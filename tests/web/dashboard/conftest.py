"""The page in headless Chromium, before a gateway on a real store, and hands to fill that store with a past."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import subprocess
import tempfile
from typing import TYPE_CHECKING

import pytest
from playwright.async_api import async_playwright

from foreman.store.client import redis_client
from tests.needs import needs
from tests.web.dashboard.past import Past

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from playwright.async_api import Page

FLAGS = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *(
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-dev-shm-usage",
        "--remote-debugging-port=0",
    ),
)


def pytest_asyncio_loop_factories(config, item):
    """One loop: what is tested here runs in the browser."""
    return {"asyncio": asyncio.new_event_loop}


@pytest.fixture(scope="session")
def chromium():
    """The address of a Chromium that lives as long as this run."""
    folder = tempfile.mkdtemp(prefix="foreman-chromium-")
    process = subprocess.Popen(
        [needs.path("chromium"), *FLAGS, f"--user-data-dir={folder}", "about:blank"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": folder},  # what it leaves lying goes with the folder
    )
    try:
        assert process.stderr is not None
        for line in process.stderr:
            found = re.search(r"ws://(\S+?)/devtools", line)
            if found:
                break
        else:
            raise AssertionError("Chromium ended before it listened")
        yield f"http://{found[1]}"
    finally:
        process.terminate()
        process.wait(20)
        process.stderr.close()
        subprocess.run(["rm", "-rf", folder], check=False)


class Eyes:
    """Opens pages and notes what a good one never does: console errors, requests to anywhere else."""

    def __init__(self, browser) -> None:
        self._browser = browser
        self._heard: list[str] = []
        self.expected = ""
        """What a test knows will be complained of: a part of the sentence."""

    @property
    def complaints(self) -> list[str]:
        """What nobody expected."""
        return [said for said in self._heard if not self.expected or self.expected not in said]

    async def open(self, url: str, *, width: int = 1280, scheme: str = "light", script: bool = True) -> Page:
        """A page on `url`; its origin is the only one it may talk to."""
        context = await self._browser.new_context(
            viewport={"width": width, "height": 900},
            color_scheme=scheme,
            java_script_enabled=script,
            reduced_motion="reduce",
        )
        page = await context.new_page()
        origin = "/".join(url.split("/")[:3])
        page.set_default_timeout(20_000)
        page.on("console", lambda said: said.type in {"error", "warning"} and self._heard.append(said.text))
        page.on("pageerror", lambda error: self._heard.append(f"{error} {error.stack}"))
        page.on("request", lambda asked: asked.url.startswith((origin, "data:")) or self._heard.append(asked.url))
        await page.goto(url)
        return page


@pytest.fixture
async def eyes(chromium) -> AsyncIterator[Eyes]:
    """Pages; closed at the end, when nobody may have complained."""
    async with async_playwright() as playwright:
        browser = await playwright.chromium.connect_over_cdp(chromium)
        made = Eyes(browser)
        yield made
        for context in browser.contexts:
            with contextlib.suppress(Exception):
                await context.close()
        await browser.close()
    assert made.complaints == []


@pytest.fixture
async def past(store, worker, valkey) -> AsyncIterator[Past]:
    """Fills the store with ended jobs, and takes them out again faster than one by one."""
    await worker.publish("gpu1", "m:latest", "n:latest")
    yield Past(store, worker)
    async with redis_client(valkey) as client:
        kept = [key async for key in client.scan_iter(match=f"{store.queue.keys.prefix}job:*", count=5000)]
        for start in range(0, len(kept), 5000):
            await client.unlink(*kept[start : start + 5000])
