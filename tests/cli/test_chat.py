"""`foreman chat` as a process: live text, timings, cancels, and what went wrong in the gateway's words."""

from __future__ import annotations

import json
import signal
import socket
from typing import TYPE_CHECKING

import pytest
import pytest_asyncio

from foreman.demo.ollama import FakeOllama
from tests.cli.process import ran, started
from tests.rig import House, rig

if TYPE_CHECKING:
    from pathlib import Path


pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def house_and_fake(tmp_path_factory):
    folder = tmp_path_factory.mktemp("house")
    async with FakeOllama(models=["alpha"], tokens=5) as fake, rig(folder, f"main={fake.url}") as house:
        yield fake, house


@pytest.fixture
def pair(house_and_fake: tuple[FakeOllama, House]) -> tuple[FakeOllama, House]:
    """A model server that remembers nothing, and foreman in front of it."""
    house_and_fake[0].clear()
    return house_and_fake


async def test_a_piped_prompt_is_answered_with_timings(pair: tuple[FakeOllama, House], tmp_path: Path):
    fake, house = pair
    code, out, err = await ran(tmp_path, "chat", "alpha", stdin="Say hi\n", URL=house.url)
    assert code == 0, err
    assert len(out.split()) >= 3
    assert "TTFT" in err
    assert "TPOT" in err
    (sent,) = [request.body for request in fake.ledger.requests if request.path == "/api/chat" and request.lines]
    assert json.loads(sent)["messages"] == [{"role": "user", "content": "Say hi"}]


async def test_json_is_one_object(pair: tuple[FakeOllama, House], tmp_path: Path):
    _, house = pair
    code, out, err = await ran(tmp_path, "chat", "alpha", "Say hi", "--json", URL=house.url)
    assert (code, err) == (0, "")
    answer = json.loads(out)
    assert answer["model"] == "alpha"
    assert answer["content"]
    assert answer["ttft_ms"] > 0
    assert answer["done_reason"] == "stop"


async def test_text_is_shown_as_it_comes(pair: tuple[FakeOllama, House], tmp_path: Path):
    fake, house = pair
    gate = fake.gate(after=1)
    async with started(tmp_path, "chat", "alpha", "Say hi", URL=house.url) as chat:
        await gate.reached()
        await chat.until(lambda: chat.seen["out"])  # the first token, while the second isn't made yet
        gate.open()
        assert await chat.end() == 0


async def test_waiting_and_thinking_are_shown_beside_the_answer(pair: tuple[FakeOllama, House], tmp_path: Path):
    fake, house = pair
    gate = fake.gate(after=1)
    async with (
        started(tmp_path, "chat", "alpha", "first", URL=house.url) as busy,
        started(tmp_path, "chat", "alpha", "second", URL=house.url) as chat,
    ):
        await gate.reached()
        waiting = next(iter((await house.until(lambda found: found["jobs"], "/jobs?state=queued"))["jobs"]))
        second = busy if "first" in str(await house.get(f"/jobs/{waiting['job_id']}/request")) else chat
        await second.until(lambda: "[queued, position 1" in second.everything)
        gate.open()
        assert (await busy.end(), await chat.end()) == (0, 0)
        assert "queued" not in "".join(second.out)


async def test_a_stopped_chat_leaves_nothing_behind(pair: tuple[FakeOllama, House], tmp_path: Path):
    """Its job has a key and would outlive the connection: the end of the terminal cancels it too."""
    fake, house = pair
    fake.gate(after=1)
    async with started(tmp_path, "chat", "alpha", "Say hi", URL=house.url) as chat:
        await chat.until(lambda: chat.seen["out"])
        chat.process.send_signal(signal.SIGHUP)
        assert await chat.end() == 1
    await house.until(lambda state: state["jobs"]["working"] == 0)
    assert fake.cancels == 1


async def test_ctrl_c_cancels_the_answer(pair: tuple[FakeOllama, House], tmp_path: Path):
    fake, house = pair
    fake.gate(after=1)
    async with started(tmp_path, "chat", "alpha", "Say hi", URL=house.url) as chat:
        await fake.ledger.until(lambda: any(request.lines for request in fake.ledger.requests), 20)
        chat.process.send_signal(signal.SIGINT)
        assert await chat.end() == 1
        assert "cancelled" in chat.everything
    await fake.ledger.until(lambda: fake.ledger.cancels == 1, 20)


async def test_what_the_gateway_says_is_passed_on(pair: tuple[FakeOllama, House], tmp_path: Path):
    _, house = pair
    code, out, err = await ran(tmp_path, "chat", "nobody", "Say hi", URL=house.url)
    assert (code, out) == (1, "")
    assert "model 'nobody' not found" in err


async def test_no_gateway_is_said_with_what_to_do(tmp_path: Path):
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        code, _, err = await ran(tmp_path, "chat", "alpha", "Say hi", ADDR=f"127.0.0.1:{nobody.getsockname()[1]}")
    assert code == 1
    assert "foreman serve" in err


async def test_nothing_to_say_is_wrong_usage(tmp_path: Path):
    code, _, err = await ran(tmp_path, "chat", "alpha", stdin="\n")
    assert code == 2
    assert "say something" in err
