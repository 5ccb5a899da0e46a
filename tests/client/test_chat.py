"""The command line's reader of streamed chats: any cut of the bytes, every way to fail, and the timings."""

from __future__ import annotations

import contextlib
import json
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import web

from foreman.client.chat import Answer, ChatError, stream

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

CHUNKS: list[dict[str, Any]] = [
    {"message": {"role": "assistant", "content": "", "thinking": "Hm"}, "done": False},
    {"message": {"role": "assistant", "content": "Ä\u2028b"}, "done": False},
    {"message": {"role": "assistant", "content": "c"}, "done": False},
    {"message": {"role": "assistant", "content": ""}, "done": True, "done_reason": "stop", "eval_count": 3},
]
BYTES = "".join(json.dumps(chunk, ensure_ascii=False) + "\n" for chunk in CHUNKS).encode()


@contextlib.asynccontextmanager
async def gateway(
    pieces: Sequence[bytes], status: int = 200, **headers: str
) -> AsyncIterator[tuple[str, list[web.Request]]]:
    """A server that answers `/api/chat` with these pieces, each a write of its own."""
    seen: list[web.Request] = []

    async def answer(request: web.Request) -> web.StreamResponse:
        await request.read()
        seen.append(request)
        reply = web.StreamResponse(
            status=status, headers={name.replace("_", "-"): value for name, value in headers.items()}
        )
        await reply.prepare(request)
        for piece in pieces:
            await reply.write(piece)
        return reply

    app = web.Application()
    app.router.add_post("/api/chat", answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}", seen
    finally:
        await runner.cleanup()


async def read(url: str, **options: Any) -> list[dict[str, Any]]:
    return [chunk async for chunk in stream(url, {"model": "alpha"}, **options)]


@pytest.mark.parametrize("size", [1, 2, 3, 7, 64, len(BYTES)])
async def test_chunks_whatever_the_cut(size: int):
    pieces = [BYTES[at : at + size] for at in range(0, len(BYTES), size)]
    async with gateway(pieces) as (url, seen):
        assert await read(url, token="s3cret") == CHUNKS
    assert seen[0].headers["Authorization"] == "Bearer s3cret"
    assert (await seen[0].json())["stream"] is True


async def test_heartbeats_are_read_over():
    async with gateway([b" ", b"  ", BYTES]) as (url, _):
        assert await read(url) == CHUNKS


@pytest.mark.parametrize("error", ["boom", {"message": "boom", "code": "x"}])
async def test_an_error_line_is_an_error_in_its_own_words(error: Any):
    async with gateway([BYTES.splitlines(keepends=True)[0], json.dumps({"error": error}).encode() + b"\n"]) as (url, _):
        with pytest.raises(ChatError, match=r"^boom$") as caught:
            await read(url)
    assert caught.value.status is None


async def test_an_answer_without_its_end_mark_is_an_error():
    async with gateway([b"".join(BYTES.splitlines(keepends=True)[:2])]) as (url, _):
        with pytest.raises(ChatError, match="before its end mark"):
            await read(url)


@pytest.mark.parametrize(
    ("body", "words"),
    [(b'{"error":"model \'x\' not found"}', "model 'x' not found"), (b"<html>", "<html>"), (b"", "no reason given")],
)
async def test_a_refusal_has_status_code_and_words(body: bytes, words: str):
    async with gateway([body], 404, X_Foreman_Error="model_not_found") as (url, _):
        with pytest.raises(ChatError) as caught:
            await read(url)
    assert (str(caught.value), caught.value.status, caught.value.code) == (words, 404, "model_not_found")


def test_what_an_answer_adds_up_to():
    answer = Answer(sent_at=10.0)
    shown = [answer.add(chunk, 11.0 + at / 10) for at, chunk in enumerate(CHUNKS)]
    assert shown == [("", "Hm"), ("Ä\u2028b", ""), ("c", ""), ("", "")]
    assert "".join(answer.text) == "Ä\u2028bc"
    assert answer.ttft == 1.0
    assert answer.tpot == pytest.approx(0.1)
    assert answer.tokens == 3


def test_no_token_has_no_times():
    answer = Answer(sent_at=10.0)
    answer.add({"message": {"content": ""}, "done": True}, 11.0)
    assert (answer.ttft, answer.tpot, answer.tokens) == (None, None, 0)
