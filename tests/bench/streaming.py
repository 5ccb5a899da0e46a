"""Write docs/streaming.md: what streams are like through foreman and a real nginx, measured here and now.

    .venv/bin/python tests/bench/streaming.py [--only SECTION…] [--stdout]

Every number of the page is printed by this one command, every picture taken by it; the prose around them stands in
streaming_page.py. It takes about two minutes, and says which part it leaves out where an outside part is missing.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp

ROOT = Path(__file__).parent.parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "bench")]

import streaming_page as page  # noqa: E402 - the path is set above

from foreman.client import Foreman, State  # noqa: E402
from foreman.demo import small_model  # noqa: E402
from foreman.demo.ollama import FakeOllama  # noqa: E402
from tests.client.test_resume import another_gateway  # noqa: E402
from tests.clients.test_official_clients import node, ollama_async, ollama_sync, openai_async  # noqa: E402
from tests.needs import CACHE, PARTS  # noqa: E402
from tests.proxies.browser import browsing  # noqa: E402
from tests.proxies.proxies import DEFAULTS, DEPLOY, GZIP, Arrivals, nginx, plain  # noqa: E402
from tests.rig import rig  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

NGINX = (DEPLOY / "nginx.conf").read_text()
ASK = [{"role": "user", "content": "Why does a foreman look at every crane? Two sentences."}]
RUNS = 9
LIVE = 0.3
"""Seconds between two lines where a flush is to be seen."""
ONE_SECOND = "proxy_read_timeout 1s;"


def _ms(seconds: float | None) -> str:
    return "–" if seconds is None else f"{seconds * 1000:.0f}"


# ------------------------------------------------------------------ a true model


async def true_model(folder: Path) -> str:
    """TTFT, TPOT and total of a small model, straight and through foreman and nginx."""
    model = small_model.SmallModel(await small_model.fetch(CACHE, print))
    await model.start()
    ask = {"model": small_model.ALIAS, "messages": ASK, "temperature": 0, "seed": 1, "max_tokens": 60}
    try:
        async with (
            rig(folder, f"cpu={model.url}?kind=openai&slots=1") as house,
            nginx(folder / "nginx", house.url, NGINX) as proxy,
        ):
            ways = {"straight": model.url, "foreman": house.url, "nginx and foreman": proxy.url}
            passes = [{name: await _timed(url, ask) for name, url in ways.items()} for _ in range(RUNS + 1)]
            rows = []
            for name in ways:
                answers = [found[name] for found in passes[1:]]  # the first fills the model's cache
                rows.append((name, *(_median(answers, at) for at in range(3)), answers[0][3]))
            async with Foreman(proxy.url) as foreman, foreman.chat(ask, path="/v1/chat/completions") as chat:
                answer = await chat.whole()
                job = await foreman.jobs.get(str(chat.job_id))
            said = answer.text.strip().replace("\n", " ")
    finally:
        await model.stop()
    return page.true_model(rows, job["timings"], said)


async def _timed(url: str, ask: dict[str, Any]) -> tuple[float, float, float, int]:
    """TTFT, TPOT, total in seconds, and tokens."""
    began = time.monotonic()
    async with Foreman(url) as foreman:
        answer = await foreman.chat(ask, path="/v1/chat/completions", key=None).whole()
    assert answer.ttft is not None
    assert answer.tpot is not None
    return answer.ttft, answer.tpot, time.monotonic() - began, answer.tokens


def _median(answers: list[tuple[float, float, float, int]], at: int) -> float:
    return statistics.median(answer[at] for answer in answers)


# ------------------------------------------------------------------ ten seconds of silence


async def first_sign(folder: Path) -> str:
    """A model that says nothing for 10 s and then thinks: when a person first sees that something happens."""
    ask = {"model": "alpha", "messages": ASK, "think": True}
    signs: dict[str, float] = {}

    async def look(name: str, url: str, progress: float | None) -> None:
        began = time.monotonic()

        def sign(what: str) -> None:
            signs.setdefault(f"{name}: {what}", time.monotonic() - began)

        def state(told: State) -> None:
            if told.name in {"queued", "loading", "working"}:
                sign("state")

        headers = {} if progress is not None else {"X-Foreman-Progress": "3600"}
        async with Foreman(url) as foreman:
            chat = foreman.chat(ask, key=None, on_state=state, progress=progress or 3600, headers=headers)
            async for delta in chat:
                sign("thinking" if delta.thinking else "answer")

    async with (
        FakeOllama(models=["alpha"], tokens=12, token_seconds=0.3, prefill_seconds=10.0, slots=2) as fake,
        rig(folder, f"main={fake.url}?slots=2") as house,
        nginx(folder / "nginx", house.url, NGINX) as proxy,
        asyncio.TaskGroup() as group,
    ):
        group.create_task(look("without", proxy.url, None))
        group.create_task(look("with", proxy.url, 1.0))
    return page.first_sign(signs)


# ------------------------------------------------------------------ Stop


async def stop(folder: Path) -> str:
    """Stop in mid-answer: foreman's log line beside the model server's own counter."""
    async with (
        FakeOllama(models=["alpha"], tokens=2000, token_seconds=0.02) as fake,
        rig(folder, f"main={fake.url}") as house,
        nginx(folder / "nginx", house.url, NGINX) as proxy,
        Foreman(proxy.url) as foreman,
    ):
        async with foreman.chat({"model": "alpha", "messages": ASK}) as chat:
            async for _ in chat:
                if chat.answer.deltas == 25:
                    break
            at = time.monotonic()
        await fake.until(lambda fake: fake.cancels == 1)
        took = time.monotonic() - at
        counts = [fake.tokens]
        for _ in range(2):
            await asyncio.sleep(1)  # this is the measure: a counter that stands still
            counts.append(fake.tokens)
        lines = [json.loads(line) for line in house.log("serve").splitlines() if '"job.cancelled"' in line]
        line = next(line for line in lines if "tokens" in line)
    shown = {key: line[key] for key in ("event", "job_id", "target", "code", "tokens") if key in line}
    return page.stop(took, json.dumps(shown), counts)


# ------------------------------------------------------------------ nginx, line by line


async def flush(folder: Path) -> str:
    """When bytes come through nginx 1.22, from foreman and from a server that says nothing to proxies."""
    v11 = DEFAULTS.replace("; }", "; proxy_http_version 1.1; }")
    cases = (
        ("another server", "nginx's defaults", DEFAULTS, False),
        ("another server", "`proxy_buffering off`", DEFAULTS.replace("; }", "; proxy_buffering off; }"), False),
        ("another server", "`gzip on`, HTTP/1.1", GZIP + v11, False),
        ("foreman", "nginx's defaults", DEFAULTS, True),
        ("foreman", "`gzip on`", GZIP + DEFAULTS, True),
        (
            "foreman",
            "`proxy_ignore_headers X-Accel-Buffering`",
            DEFAULTS.replace("; }", "; proxy_ignore_headers X-Accel-Buffering; }"),
            True,
        ),
    )
    rows = []
    async with (
        FakeOllama(models=["alpha"], tokens=6, token_seconds=LIVE) as fake,
        rig(folder, f"main={fake.url}") as house,
    ):
        for number, (who, how, server, ours) in enumerate(cases):
            async with plain(pause=LIVE) as control:
                upstream = house.url if ours else control.url
                async with nginx(folder / f"nginx{number}", upstream, server) as proxy:
                    rows.append((who, how, str(await _arrivals(proxy.url))))
    version = subprocess.run([str(PARTS["nginx"].find()), "-v"], capture_output=True, text=True, check=True).stderr
    return page.flush(rows, version.strip().rpartition("/")[2])


async def _arrivals(url: str) -> Arrivals:
    """The moments at which pieces of an answer are read; gzip is taken off by whoever asks for it."""
    arrivals = Arrivals()
    async with (
        aiohttp.ClientSession() as session,
        session.post(url + "/api/chat", json={"model": "alpha", "messages": ASK}) as reply,
    ):
        async for piece in reply.content.iter_any():
            arrivals.came(piece)
    return arrivals


# ------------------------------------------------------------------ n8n's case


async def whole_answers(folder: Path) -> str:
    """A call without streaming that waits 5 s behind a proxy that waits 1 s, with the setting and without."""
    native = {"chat": ("chat", {"model": "alpha", "messages": ASK, "stream": False})}
    v1 = {"chat": ("chat.completions.create", {"model": "alpha", "messages": ASK})}
    clients: dict[str, Callable[[str], Awaitable[dict[str, Any]]]] = {
        "ollama (Python, async)": lambda url: ollama_async(url, native),
        "ollama (Python)": lambda url: ollama_sync(url, native),
        "ollama (JavaScript)": lambda url: node("ollama", url, native),
        "openai (Python)": lambda url: openai_async(url, v1),
        "openai (JavaScript)": lambda url: node("openai", url, v1),
    }
    found: dict[str, dict[str, str]] = {name: {} for name in clients}

    async def case(setting: str) -> None:
        home = folder / setting
        home.mkdir()
        async with (
            FakeOllama(models=["alpha"], prefill_seconds=5.0, slots=5) as fake,
            rig(home, f"main={fake.url}?slots=5", json_headers_after=setting, heartbeat="500ms") as house,
            nginx(home / "nginx", house.url, ONE_SECOND + DEFAULTS) as proxy,
            asyncio.TaskGroup() as group,
        ):
            for name, ask in clients.items():
                group.create_task(one(setting, name, ask(proxy.url)))

    async def one(setting: str, name: str, call: Awaitable[dict[str, Any]]) -> None:
        began = time.monotonic()
        (answer,) = (await call).values()
        seconds = f"after {time.monotonic() - began:.1f} s"
        if "error" in answer:
            found[name][setting] = f"{answer['error']['status']} {seconds}"
            return
        (item,) = answer["items"]
        text = (item.get("message") or item["choices"][0]["message"])["content"]
        found[name][setting] = f"an answer of {len(text.split())} words {seconds}"

    await case("0")
    await case("500ms")
    return page.whole_answers([(name, told["0"], told["500ms"]) for name, told in found.items()])


async def long_queue(folder: Path) -> str:
    """A stream that is queued for 5 s behind a proxy that waits 1 s."""
    early = {"headers_after": "500ms", "heartbeat": "500ms"}
    async with (
        FakeOllama(models=["alpha"], tokens=6) as fake,
        rig(folder, f"main={fake.url}", **early) as house,
        nginx(folder / "nginx", house.url, ONE_SECOND + DEFAULTS) as proxy,
        aiohttp.ClientSession() as session,
    ):
        gate = fake.gate(after=1)
        first = await session.post(house.url + "/api/chat", json={"model": "alpha", "messages": ASK})
        await gate.reached()
        async with asyncio.TaskGroup() as group:
            waits = group.create_task(_arrivals(proxy.url))
            await asyncio.sleep(5)  # the queue
            gate.open()
        await first.read()
        return page.long_queue(str(waits.result()))


# ------------------------------------------------------------------ a browser


async def browser(folder: Path) -> str:
    """A chat in Chromium through nginx: a picture in mid-answer, and how soon Stop is felt by the model server."""
    async with (
        FakeOllama(models=["alpha"], tokens=400, token_seconds=0.03) as fake,
        rig(folder, f"main={fake.url}") as house,
        browsing(folder, house.url, "alpha") as tab,
    ):
        await tab.click("#ask")
        await tab.wait_for_function("document.getElementById('text').textContent.split(' ').length > 45")
        picture = ROOT / "docs" / "pictures" / "streaming.png"
        picture.parent.mkdir(exist_ok=True)
        await tab.screenshot(path=picture)
        at = time.monotonic()
        await tab.click("#stop")
        await fake.until(lambda fake: fake.cancels == 1)
        took, made = time.monotonic() - at, fake.tokens
        await asyncio.sleep(1)  # a counter that stands still
        version = str(tab.context.browser.version if tab.context.browser else "")
        return page.browser(took, made, fake.tokens, version)


# ------------------------------------------------------------------ a killed gateway


async def killed(folder: Path) -> str:
    """The gateway that streams is killed: what the client module gets by the other one."""

    ask = {"model": "alpha", "messages": ASK}
    async with (
        FakeOllama(models=["alpha"], tokens=200, token_seconds=0.02, repeatable=True) as fake,
        rig(folder, f"main={fake.url}", "apart") as house,
    ):
        async with Foreman(fake.url) as straight:
            expected = [delta.chunk async for delta in straight.chat(ask, key=None)]
        victim = await another_gateway(house, "victim")
        chunks, gap, last = [], 0.0, time.monotonic()
        async with Foreman([victim, house.url]) as foreman, foreman.chat(ask) as chat:
            async for delta in chat:
                gap, last = max(gap, time.monotonic() - last if chunks else 0.0), time.monotonic()
                chunks.append(delta.chunk)
                if len(chunks) == 50:
                    await house.stop("victim", signal.SIGKILL)
    return page.killed(len(chunks), len(expected), chunks == expected, gap, chat.resumed)


SECTIONS: dict[str, tuple[Callable[[Path], Awaitable[str]], tuple[str, ...]]] = {
    "true_model": (true_model, ("nginx", "small-model")),
    "first_sign": (first_sign, ("nginx",)),
    "stop": (stop, ("nginx",)),
    "flush": (flush, ("nginx",)),
    "long_queue": (long_queue, ("nginx",)),
    "whole_answers": (whole_answers, ("nginx", "node-clients")),
    "browser": (browser, ("nginx", "chromium")),
    "killed": (killed, ()),
}


async def measure(names: list[str]) -> dict[str, str]:
    """Each section's text."""
    texts = {}
    for name in names:
        section, parts = SECTIONS[name]
        lacking = [part for part in parts if PARTS[part].find() is None]
        if lacking:
            texts[name] = page.left_out(lacking)
            continue
        print(f"{name} …", file=sys.stderr, flush=True)
        with tempfile.TemporaryDirectory() as folder:
            texts[name] = await section(Path(folder))
    return texts


def main() -> None:
    """Measure, and write the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", nargs="*", choices=list(SECTIONS), help="print these sections; write nothing")
    given = parser.parse_args()
    texts = asyncio.run(measure(given.only or list(SECTIONS)))
    if given.only:
        print("\n\n".join(texts.values()))
        return
    commit = subprocess.run(
        ["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    ).stdout.strip()
    when = datetime.now(UTC).strftime("%Y-%m-%d")
    (ROOT / "docs" / "streaming.md").write_text(page.whole(texts, when, commit, platform.python_version()))


if __name__ == "__main__":
    main()
