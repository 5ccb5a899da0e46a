"""One chat of the client against a gateway that does what the test says: lost connections, refusals, lost runs, leaving."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import web

from foreman.client import Delta, Foreman, ForemanError, State, UnreachableError, gateways
from foreman.client import chat as chats
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

CHAT: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
WORDS = ("Ä\u2028", " b", " c", " d")
EVENTS = (
    *(b"data: " + json.dumps({"message": {"content": word}, "done": False}).encode() + b"\n\n" for word in WORDS),
    b'data: {"message":{"content":""},"done":true,"done_reason":"stop","eval_count":4}\n\n',
    b"data: [DONE]\n\n",
)
BODY = b"".join(EVENTS)
CUT = object()
"""Cuts the connection."""
HOLD = object()
"""Says nothing more until the test ends."""


@dataclass
class Reply:
    """One scripted answer."""

    pieces: tuple[Any, ...] = EVENTS
    status: int = 200
    job: str | None = "01J"
    headers: dict[str, str] = field(default_factory=dict)


@dataclass
class Gateway:
    """Answers as scripted, the last for ever; keeps what it was asked."""

    replies: list[Reply]
    asked: list[tuple[str, str]] = field(default_factory=list)
    keys: list[str | None] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    url: str = ""

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.sizes.append(len(await request.read()))
        self.asked.append((request.method, request.path_qs))
        self.keys.append(request.headers.get("Idempotency-Key"))
        if request.method == "DELETE":
            return web.json_response({"state": "cancelled"})
        reply = self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]
        kind = "text/event-stream" if reply.status == 200 else "application/json"
        job = {"X-Foreman-Job-Id": reply.job} if reply.job else {}
        response = web.StreamResponse(status=reply.status, headers={"Content-Type": kind, **job, **reply.headers})
        for piece in reply.pieces:
            if piece is CUT:
                assert request.transport is not None
                request.transport.abort()
                return response
            if piece is HOLD:
                if not response.prepared and job:
                    await response.prepare(request)
                await asyncio.Event().wait()
            if not response.prepared:
                await response.prepare(request)
            await response.write(piece)
        return response


@contextlib.asynccontextmanager
async def served(*replies: Reply) -> AsyncIterator[Gateway]:
    gateway = Gateway(list(replies))
    app = web.Application(client_max_size=8 << 20)
    app.router.add_route("*", "/{tail:.*}", gateway.answer)
    runner = web.AppRunner(app, shutdown_timeout=0.01, handler_cancellation=True)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        gateway.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        yield gateway
    finally:
        await runner.cleanup()


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(gateways, "PAUSES", (0.001,))


async def ask(*urls: str, patience: float = 20, **options: Any) -> tuple[str, list[Delta], Any]:
    """A whole chat: its text as the deltas brought it, the deltas, the chat."""
    async with Foreman(urls, "s3cret", patience=patience) as foreman, foreman.chat(CHAT, **options) as chat:
        deltas = [delta async for delta in chat]
    return "".join(delta.text for delta in deltas), deltas, chat


TEXT = "".join(WORDS)


async def test_a_chat_is_its_deltas_and_what_they_add_up_to():
    async with served(Reply()) as gateway:
        text, deltas, asked = await ask(gateway.url)
    assert text == TEXT == asked.answer.text
    assert len(deltas) == 5
    assert (asked.answer.finish, asked.answer.tokens, asked.job_id) == ("stop", 4, "01J")
    assert asked.answer.ttft > 0
    assert gateway.asked == [("POST", "/api/chat")]
    assert gateway.keys[0]


@pytest.mark.parametrize("at", [*range(1, len(BODY), 7)])
async def test_a_lost_connection_is_resumed_from_its_offset(at: int):
    """Whatever byte it broke at: what was whole is kept, the rest is asked for from there."""
    kept = BODY[:at].rfind(b"\n\n") + 2 if b"\n\n" in BODY[:at] else 0
    kept = min(kept, len(b"".join(EVENTS[:5])))
    second = Reply((BODY[kept:],))
    async with served(Reply((BODY[:at], CUT)), second) as gateway:
        text, deltas, _ = await ask(gateway.url)
    assert text == TEXT
    assert len(deltas) == 5
    assert gateway.asked == [
        ("POST", "/api/chat"),
        ("GET", f"/jobs/01J/stream?offset={kept}") if kept else ("POST", "/api/chat"),
    ]
    assert len(set(gateway.keys) - {None}) == 1


async def test_offsets_add_up_over_several_losses_and_heartbeats():
    beat = b": working elapsed=1s\n"
    replies = (
        Reply((beat, EVENTS[0], beat, CUT)),
        Reply((beat, CUT)),
        Reply((EVENTS[1], beat, EVENTS[2], CUT)),
        Reply((b"".join(EVENTS[3:]),)),
    )
    async with served(*replies) as gateway:
        text, _, asked = await ask(gateway.url)
    assert text == TEXT
    assert asked.resumed == 3
    sizes = [len(event) for event in EVENTS]
    offsets = [int(path.rpartition("=")[2]) for _, path in gateway.asked[1:]]
    assert offsets == [sizes[0], sizes[0], sum(sizes[:3])]


async def test_a_gateway_that_falls_silent_is_lost(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(chats, "SILENCE", 0.0)
    rest = Reply((BODY[len(EVENTS[0]) :],))
    async with served(Reply((EVENTS[0], HOLD))) as frozen, served(rest) as living:
        text, _, _ = await ask(frozen.url, living.url, progress=0.01)
    assert text == TEXT
    assert living.asked == [("GET", f"/jobs/01J/stream?offset={len(EVENTS[0])}")]


async def test_another_gateway_takes_over():
    async with served(Reply((EVENTS[0], CUT))) as dead, served(Reply((BODY[len(EVENTS[0]) :],))) as living:
        text, _, _ = await ask(dead.url, living.url)
    assert text == TEXT
    assert living.asked == [("GET", f"/jobs/01J/stream?offset={len(EVENTS[0])}")]


@pytest.mark.parametrize("chats", [2, 3, 4])
async def test_many_answers_are_lost_at_once_and_all_go_on(chats: int):
    async with (
        served(Reply((EVENTS[0], CUT))) as dead,
        served(Reply((BODY[len(EVENTS[0]) :],))) as living,
        Foreman([dead.url, living.url], patience=20) as foreman,
    ):
        answers = await asyncio.gather(*(foreman.chat(CHAT).whole() for _ in range(chats)))
    assert {answer.text for answer in answers} == {TEXT}
    assert len(living.asked) == chats


async def test_an_address_without_a_scheme_is_http():
    async with served(Reply()) as gateway:
        assert (await ask(gateway.url.removeprefix("http://") + "/"))[0] == TEXT


async def test_where_nothing_is_left_to_resume_the_same_key_reads_over_what_it_had():
    async with served(Reply((*EVENTS[:2], CUT)), Reply((b"{}",), 404, None), Reply()) as gateway:
        text, deltas, _ = await ask(gateway.url)
    assert text == TEXT
    assert len(deltas) == 5
    assert [method for method, _ in gateway.asked] == ["POST", "GET", "POST"]
    assert gateway.keys[0] == gateway.keys[2]


async def test_what_was_cancelled_meanwhile_is_not_run_anew():
    error = b'{"error":{"code":"cancelled","message":"cancelled by who keeps this shop","retryable":false}}'
    cancelled = Reply((error,), 410, None, {"X-Foreman-Error": "cancelled"})
    async with served(Reply((*EVENTS[:2], CUT)), cancelled) as gateway:
        with pytest.raises(ForemanError, match="keeps this shop") as said:
            await ask(gateway.url)
    assert (said.value.code, said.value.retryable) == ("cancelled", False)
    assert [method for method, _ in gateway.asked] == ["POST", "GET", "DELETE"]


LOST = b'data: {"error":{"message":"the worker was lost","code":"interrupted"}}\n\n'


async def test_a_lost_run_begins_anew_where_the_caller_knows_of_it():
    restarts = []
    async with served(Reply((*EVENTS[:2], LOST)), Reply(job="01K")) as gateway:
        text, _, asked = await ask(gateway.url, on_restart=lambda: restarts.append(1))
    assert restarts == [1]
    assert text == WORDS[0] + WORDS[1] + TEXT, "what was given before the restart, and all of the second run"
    assert (asked.answer.text, asked.job_id) == (TEXT, "01K")
    assert gateway.keys[0] == gateway.keys[1]


async def test_a_lost_run_is_an_error_where_it_would_be_spliced():
    async with served(Reply((*EVENTS[:2], LOST)), Reply(job="01K")) as gateway:
        with pytest.raises(ForemanError, match="begins anew") as lost:
            await ask(gateway.url)
    assert (lost.value.code, lost.value.retryable) == ("interrupted", True)
    assert gateway.asked[1:] == [("POST", "/api/chat"), ("DELETE", "/jobs/01K")], "the second run is nobody's"


async def test_a_lost_run_before_its_first_chunk_is_nobodys_business():
    async with served(Reply((LOST,)), Reply(job="01K")) as gateway:
        assert (await ask(gateway.url))[0] == TEXT


@pytest.mark.parametrize("key", ["k1", None])
async def test_what_may_pass_is_asked_again(key: str | None):
    full = b'{"error":"server busy"}'
    busy = Reply((full,), 503, None, {"X-Foreman-Error": "queue_full", "Retry-After": "0"})
    async with served(busy, busy, Reply()) as gateway:
        assert (await ask(gateway.url, key=key))[0] == TEXT
    assert gateway.keys == [key] * 3


async def test_what_does_not_pass_is_said():
    unknown = Reply((b'{"error":"model \'m\' not found"}',), 404, None, {"X-Foreman-Error": "model_not_found"})
    async with served(unknown) as gateway:
        with pytest.raises(ForemanError, match=r"^model 'm' not found$") as said:
            await ask(gateway.url)
    assert (said.value.status, said.value.code, said.value.retryable) == (404, "model_not_found", False)
    assert gateway.asked == [("POST", "/api/chat")]


@pytest.mark.parametrize("words", ['{"error":"boom"}', '{"error":{"message":"boom","code":"upstream_error"}}'])
async def test_an_error_in_the_stream_is_an_error_in_its_own_words(words: str):
    async with served(Reply((EVENTS[0], f"data: {words}\n\n".encode()))) as gateway:
        with pytest.raises(ForemanError, match=r"^boom$"):
            await ask(gateway.url)
    looked_up = ("GET", "/jobs/01J")
    rest = [asked for asked in gateway.asked if asked != looked_up]
    assert rest == [("POST", "/api/chat")], "the run is over: nothing is left to cancel or to resume"


@pytest.mark.parametrize(("code", "retryable"), [("interrupted", True), ("upstream_error", False)])
async def test_an_error_without_a_code_is_looked_up(code: str, *, retryable: bool):
    """Anthropic's error event has no room for foreman's code; the job knows it."""
    broken = b'event: error\ndata: {"type":"error","error":{"type":"api_error","message":"boom"}}\n\n'
    job = json.dumps({"error": {"code": code, "message": "boom", "retryable": retryable}}).encode()
    stop = b'data: {"type":"message_stop"}\n\n'
    async with served(Reply((broken,)), Reply((job,), job=None), Reply((stop,), job="01K")) as gateway:
        if retryable:
            await ask(gateway.url, path="/v1/messages")
        else:
            with pytest.raises(ForemanError, match=r"^boom$") as said:
                await ask(gateway.url, path="/v1/messages")
            assert said.value.code == code
    assert gateway.asked[:2] == [("POST", "/v1/messages"), ("GET", "/jobs/01J")]
    assert len(gateway.asked) == (3 if retryable else 2)


@pytest.mark.parametrize("end", [(), (CUT,)])
async def test_without_a_key_a_broken_answer_is_an_error(end: tuple[Any, ...]):
    async with served(Reply((EVENTS[0], *end))) as gateway:
        with pytest.raises(UnreachableError):
            await ask(gateway.url, key=None)
    assert gateway.asked == [("POST", "/api/chat")]


async def test_patience_ends():
    async with served(Reply((EVENTS[0], CUT))) as gateway:
        with pytest.raises(UnreachableError):
            await ask(gateway.url, patience=0.0)
    assert gateway.asked[-1] == ("DELETE", "/jobs/01J"), "nobody will read it"


async def test_nobody_there_is_said_at_once():
    with pytest.raises(UnreachableError, match=r"no foreman answers at http://127\.0\.0\.1:1 "):
        await ask("http://127.0.0.1:1", patience=1e9)


async def cancelled(task: asyncio.Task[Any]) -> None:
    """Cancel it, and wait until it is."""
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@pytest.mark.parametrize("way", ["break", "cancel", "forget"])
async def test_leaving_cancels_the_job(way: str):
    async with served(Reply((EVENTS[0], HOLD))) as gateway:
        async with Foreman(gateway.url) as foreman:
            chat = foreman.chat(CHAT)
            if way == "break":
                async with chat:
                    await anext(chat)
            elif way == "cancel":
                whole = asyncio.get_running_loop().create_task(chat.whole())
                await wait_until(lambda: chat.job_id)
                await cancelled(whole)
            else:
                await anext(chat)
                assert len(gateway.asked) == 1
        assert gateway.asked == [("POST", "/api/chat"), ("DELETE", "/jobs/01J")]


async def test_leaving_before_the_head_cancels_by_the_same_key():
    async with served(Reply((HOLD,), job=None), Reply()) as gateway, Foreman(gateway.url) as foreman:
        whole = asyncio.get_running_loop().create_task(foreman.chat(CHAT).whole())
        await wait_until(lambda: gateway.asked)
        await cancelled(whole)
        assert [method for method, _ in gateway.asked] == ["POST", "POST", "DELETE"]
        assert gateway.keys[0] == gateway.keys[1]


async def test_without_a_key_leaving_is_closing_the_connection():
    async with served(Reply((EVENTS[0], HOLD))) as gateway, Foreman(gateway.url) as foreman:
        async with foreman.chat(CHAT, key=None) as chat:
            await anext(chat)
        assert gateway.asked == [("POST", "/api/chat")]


async def test_a_large_request_is_sent_and_sent_again():
    picture = {**CHAT, "messages": [{"role": "user", "content": "?", "images": ["A" * (2 << 20)]}]}
    async with served(Reply((b"{}",), 503, None), Reply()) as gateway, Foreman(gateway.url) as foreman:
        assert (await foreman.chat(picture).whole()).text == TEXT
    assert gateway.sizes[0] == gateway.sizes[1] > 2 << 20


async def test_waiting_and_thinking_are_told():
    thought = b'data: {"message":{"content":"","thinking":"hm"},"done":false}\n\n'
    waits = b": queued position=2 eta=3s\n: loading elapsed=1s\n: working elapsed=2s\n"
    states: list[State] = []
    async with served(Reply((waits[:20], waits[20:], thought, BODY))) as gateway:
        _, _, asked = await ask(gateway.url, on_state=states.append)
    names = [name for name, _ in itertools.groupby(state.name for state in states)]
    assert names == ["sent", "queued", "loading", "working", "thinking", "answering", "done"]
    assert states[1] == State("queued", "01J", position=2, eta=3.0)
    assert states[4].tokens == 1
    assert asked.answer.thinking == "hm"


DIALECTS = {
    "/v1/chat/completions": b'data: {"choices":[{"delta":{"content":"x"}}]}\n\ndata: [DONE]\n\n',
    "/v1/messages": b'event: content_block_delta\ndata: {"type":"content_block_delta","index":0,"delta":{"text":"x"}}\n\n'
    b'event: message_stop\ndata: {"type":"message_stop"}\n\n',
    "/v1/responses": b'data: {"type":"response.output_text.delta","delta":"x"}\n\ndata: {"type":"response.completed"}\n\n',
    "/api/generate": b'data: {"response":"x"}\n\ndata: {"response":"","done":true}\n\n',
}


@pytest.mark.parametrize("path", DIALECTS)
async def test_every_dialect_has_its_end_mark(path: str):
    body = DIALECTS[path]
    async with served(Reply((body,))) as gateway:
        assert (await ask(gateway.url, path=path))[0] == "x"
    whole = body[: body.rfind(b"\n\n", 0, -2) + 2]
    rest = Reply((body[len(whole) :],))
    async with served(Reply((whole,)), rest) as gateway:  # a proper end of the connection is none of the answer
        assert (await ask(gateway.url, path=path))[0] == "x"
        assert gateway.asked[1] == ("GET", f"/jobs/01J/stream?offset={len(whole)}")
