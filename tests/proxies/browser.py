"""A real Chromium on a page of somebody's own, served by the nginx that stands before the gateway."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from playwright.async_api import async_playwright

from tests.needs import ROOT, needs
from tests.proxies.proxies import DEPLOY, nginx

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from playwright.async_api import Page

ARGS = ("--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-quic", "--no-first-run")
ARGS += ("--disable-background-networking", "--disable-component-update", "--disable-sync")


@contextlib.asynccontextmanager
async def browsing(folder: Path, gateway: str, model: str) -> AsyncIterator[Page]:
    """The page, loaded through docs/deploy/nginx.conf; any error of its script is raised at the end."""
    files = ROOT / "tests" / "proxies"
    server = (DEPLOY / "nginx.conf").read_text()
    server = server.replace("listen 80;", f"listen 80; location /try/ {{ alias {files}/; }}")
    errors: list[str] = []
    async with nginx(folder / "nginx", gateway, server) as proxy, async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=needs.path("chromium"), args=ARGS)
        try:
            page = await browser.new_page(viewport={"width": 760, "height": 330})
            page.on("pageerror", lambda error: errors.append(str(error)))
            await page.goto(f"{proxy.url}/try/page.html?model={model}")
            yield page
        finally:
            await browser.close()
    assert not errors
