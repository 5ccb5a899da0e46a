"""The client module under fire: its gateway restarted on the spot, its worker lost. No byte lost or doubled, no two runs in one."""

from __future__ import annotations

import asyncio
import signal
from typing import TYPE_CHECKING, Any

import pytest

from foreman.client import Foreman, ForemanError
from foreman.demo.ollama import FakeOllama
from tests.rig import House, rig

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

CHAT: dict[str, Any] = {"model": "alpha", "messages": [{"role": "user", "content": "hi"}]}
TOKENS = 200
AT = 20
"""Chunks that have come when it happens."""


async def restarted(house: House, role: str, how: signal.Signals) -> None:
    await house.stop(role, how)
    await house.spawn(role, "--role", role)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
async def test_a_gateway_that_is_restarted_costs_no_byte(tmp_path: Path, how: signal.Signals) -> None:
    async with (
        FakeOllama(models=["alpha"], tokens=TOKENS, token_seconds=0.03, repeatable=True) as fake,
        rig(tmp_path, f"main={fake.url}", "apart", shutdown_grace="1s") as house,
    ):
        async with Foreman(fake.url) as straight:
            expected = [delta.chunk async for delta in straight.chat(CHAT, key=None)]
        chunks = []
        async with (
            asyncio.timeout(50),
            Foreman(house.url) as foreman,
            asyncio.TaskGroup() as group,
            foreman.chat(CHAT) as chat,
        ):
            async for delta in chat:
                chunks.append(delta.chunk)
                if len(chunks) == AT:
                    group.create_task(restarted(house, "gateway", how))
        assert chunks == expected
        assert len(fake.requests_to("/api/chat")) == 2, "the one asked straight, and one run"
        print(f"{how.name}: {len(chunks)} chunks, asked for the rest {chat.resumed} times")


@pytest.mark.parametrize("knows", [True, False])
async def test_a_lost_worker_is_never_spliced(tmp_path: Path, *, knows: bool) -> None:
    shown: list[str] = []
    async with (
        FakeOllama(models=["alpha"], tokens=60, token_seconds=0.03) as fake,
        rig(tmp_path, f"main={fake.url}", "apart") as house,
        asyncio.timeout(50),
        Foreman(house.url) as foreman,
    ):
        chat = foreman.chat(CHAT, on_restart=shown.clear if knows else None)
        lost: ForemanError | None = None
        first = None
        try:
            async for delta in chat:
                shown.append(delta.text)
                if len(shown) == AT and first is None:
                    first = chat.job_id
                    await restarted(house, "worker", signal.SIGKILL)
        except ForemanError as error:
            lost = error
        if knows:
            assert lost is None
            assert "".join(shown) == chat.answer.text
            assert chat.answer.finish == "stop"
            assert chat.job_id != first
        else:
            assert lost is not None
            assert (lost.code, lost.retryable, len(shown)) == ("interrupted", True, AT)
            await house.until(lambda state: not state["jobs"]["working"] and not state["jobs"]["queued"])
        assert (await foreman.jobs.get(str(first)))["state"] == "failed"
