"""A chat from socket to socket: gateway, store and link are real, the worker does what the test says."""

from __future__ import annotations

from tests.web.puppet import NDJSON

LINES = tuple(
    b'{"model":"m","message":{"role":"assistant","content":"%d"},"done":%s}\n' % (n, b"true" if n == 2 else b"false")
    for n in range(3)
)
CHAT = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}


async def test_a_chat_streams_line_by_line_while_the_target_still_speaks(gateway, worker, dial):
    caller = await dial(gateway)
    caller.ask("POST", "/api/chat", CHAT)
    run = await worker.claim()
    run.outlet.working()
    run.outlet.head(NDJSON)
    run.outlet.data(LINES[0])
    reply = await caller.head()
    assert reply.status == 200
    assert await caller.chunk() == LINES[0]
    run.outlet.data(LINES[1])
    assert await caller.chunk() == LINES[1]
    run.outlet.data(LINES[2])
    run.outlet.end()
    rest = await caller.rest(reply)
    assert rest.chunks == [LINES[2]]
    assert rest.complete
    assert rest.header("X-Foreman-Job-Id") == run.job.id
