"""The client of /jobs: what it sends, what it makes of refusals, and that a wait outlives its gateway's absence."""

from __future__ import annotations

import contextlib
import json
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import web

from foreman.client import ForemanError, Jobs, UnreachableError, gateways
from foreman.client.jobs import text_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

JOB: dict[str, Any] = {"job_id": "01J", "state": "working", "result": None, "artifacts": None}
DONE = JOB | {"state": "done", "result": {"a": 1}, "artifacts": [{"name": "completion"}]}
Scripted = tuple[int, Any]


class Gateway:
    """Answers what it is told, in order, the last for ever; keeps what it was asked."""

    def __init__(self, *answers: Scripted) -> None:
        self.answers = list(answers)
        self.asked: list[tuple[str, str, bytes]] = []
        self.headers: list[Any] = []

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.asked.append((request.method, request.path_qs, await request.read()))
        self.headers.append(request.headers)
        status, body = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if status == 0:
            assert request.transport is not None
            request.transport.abort()
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        return web.Response(status=status or 200, body=raw)


@contextlib.asynccontextmanager
async def served(gateway: Gateway, **options: Any) -> AsyncIterator[Jobs]:
    app = web.Application()
    app.router.add_route("*", "/{tail:.*}", gateway.answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        async with Jobs(f"http://127.0.0.1:{runner.addresses[0][1]}/", "s3cret", **options) as jobs:
            yield jobs
    finally:
        await runner.cleanup()


async def test_each_call_is_its_request():
    gateway = Gateway((200, JOB))
    raw = b' {"model":"a" , "x":1.0}'
    async with served(gateway) as jobs:
        await jobs.submit(raw, key="k1")
        await jobs.get("01J")
        await jobs.get("01J", wait=2.5)
        await jobs.page(state="done", model=None, limit=5, cursor="01H")
        await jobs.cancel("01J")
        await jobs.retry("01J")
        assert await jobs.artifact("01J") == json.dumps(JOB).encode()
        await jobs.get("a/../b?c")
    assert [(method, path) for method, path, _ in gateway.asked] == [
        ("POST", "/jobs"),
        ("GET", "/jobs/01J"),
        ("GET", "/jobs/01J?wait=2.5"),
        ("GET", "/jobs?state=done&limit=5&cursor=01H"),
        ("DELETE", "/jobs/01J"),
        ("POST", "/jobs/01J/retry"),
        ("GET", "/jobs/01J/artifacts/completion"),
        ("GET", "/jobs/a%2F..%2Fb%3Fc"),
    ]
    assert gateway.asked[0][2] == raw
    assert gateway.headers[0]["Idempotency-Key"] == "k1"
    assert {headers["Authorization"] for headers in gateway.headers} == {"Bearer s3cret"}


async def test_a_batch_answers_line_by_line():
    error = {"error": {"code": "bad_request", "message": "model: is missing", "retryable": False}}
    gateway = Gateway((200, json.dumps(JOB).encode() + b"\n" + json.dumps(error).encode() + b"\n"))
    async with served(gateway) as jobs:
        found = [answer async for answer in jobs.batch([b'{"model":"a"}\r\n', b"{}"])]
    assert found == [JOB, error]
    assert gateway.asked[0][2] == b'{"model":"a"}\n{}\n'


@pytest.mark.parametrize(
    ("body", "message", "code"),
    [
        ({"error": {"code": "queue_full", "message": "busy", "retryable": True}}, "busy", "queue_full"),
        ({"error": "busy"}, "busy", None),
        (b"<html>", "<html>", None),
        (b"", "status 503, no reason given", None),
    ],
)
async def test_a_refusal_has_the_gateways_words(body: Any, message: str, code: str | None):
    async with served(Gateway((503, body))) as jobs:
        with pytest.raises(ForemanError, match=message) as refused:
            await jobs.submit({})
    assert (refused.value.status, refused.value.code, refused.value.retryable) == (503, code, True)


async def test_a_wait_polls_until_the_end_and_bears_an_absence(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(gateways, "PAUSES", (0.001,))
    gateway = Gateway((200, JOB), (0, b""), (503, b""), (0, b""), (200, JOB), (200, DONE))
    async with served(gateway) as jobs:
        assert await jobs.wait("01J") == DONE
    assert len(gateway.asked) == 6
    assert gateway.asked[0][1] == "/jobs/01J?wait=30"


async def test_a_wait_ends_with_its_patience(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(gateways, "PAUSES", (0.001,))
    async with served(Gateway((0, b"")), patience=0.05) as jobs:
        with pytest.raises(UnreachableError):
            await jobs.wait("01J")


async def test_what_may_be_asked_twice_is_asked_again_where_that_is_wanted(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(gateways, "PAUSES", (0.001,))
    gateway = Gateway((0, b""), (503, b""), (202, JOB), (503, b""), (200, DONE), (503, b""))
    async with served(gateway, again=10.0) as jobs:
        assert await jobs.submit({"model": "a"}) == JOB
        assert await jobs.get("01J") == DONE
        with pytest.raises(ForemanError):
            await jobs.retry("01J")  # each one that arrives is a job
    keys = {headers.get("Idempotency-Key") for headers in gateway.headers[:3]}
    assert len(keys) == 1, "the same submit, under the key that was made up for it"
    assert None not in keys
    assert len(gateway.asked) == 6


async def test_a_list_goes_on_page_after_page():
    pages = [{"jobs": [JOB, DONE], "next_cursor": "c1"}, {"jobs": [JOB], "next_cursor": None}]
    gateway = Gateway(*((200, page) for page in pages))
    async with served(gateway) as jobs:
        assert [job async for job in jobs.list(state="done")] == [JOB, DONE, JOB]
    assert [path for _, path, _ in gateway.asked] == ["/jobs?state=done", "/jobs?state=done&cursor=c1"]


async def test_a_wait_for_what_is_unknown_ends_at_once():
    gateway = Gateway((404, {"error": {"code": "bad_request", "message": "no job", "retryable": False}}))
    async with served(gateway) as jobs:
        with pytest.raises(ForemanError, match="no job"):
            await jobs.wait("01J")
    assert len(gateway.asked) == 1


async def test_a_result_too_long_for_the_object_is_fetched():
    gateway = Gateway((200, {"long": True}))
    async with served(gateway) as jobs:
        assert await jobs.result(DONE) == {"a": 1}
        assert await jobs.result(JOB) is None
        assert not gateway.asked
        assert await jobs.result(DONE | {"result": None}) == {"long": True}
    assert gateway.asked[0][1] == "/jobs/01J/artifacts/completion"


@pytest.mark.parametrize(
    "result",
    [
        {"message": {"role": "assistant", "content": "hi"}},
        {"response": "hi"},
        {"choices": [{"message": {"content": "hi"}}]},
        {"choices": [{"text": "hi"}]},
        {"type": "message", "content": [{"type": "text", "text": "h"}, {"type": "text", "text": "i"}]},
        {"output": [{"type": "reasoning"}, {"content": [{"type": "output_text", "text": "hi"}]}]},
    ],
)
def test_the_words_of_an_answer_in_each_dialect(result: Any):
    assert text_of(result) == "hi"


@pytest.mark.parametrize("result", [{"embeddings": [[1.5]]}, {"choices": []}, [1], None, {"message": "x", "output": 3}])
def test_what_has_no_words_is_shown_as_json(result: Any):
    assert json.loads(text_of(result)) == result
