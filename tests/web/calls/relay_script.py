"""One call for the relay's tests: a worker that speaks, a wire that writes down, a clock that is virtual."""

from __future__ import annotations

import asyncio

from foreman.link.channel import Framing, Head
from foreman.web.calls.manner import Manner
from foreman.web.calls.relay import Relay
from foreman.web.dialect import Dialect

NATIVE = Dialect("/api/chat")
OPENAI = Dialect("/v1/chat/completions")
RESPONSES = Dialect("/v1/responses")
ANTHROPIC = Dialect("/v1/messages")
NDJSON = Head(200, (("Content-Type", "application/x-ndjson"),), Framing.NDJSON)
SSE = Head(200, (("Content-Type", "text/event-stream"), ("X-Request-Id", "r1")), Framing.SSE)
RAW = Head(200, (("Content-Type", "application/json; charset=utf-8"),), Framing.RAW)
REFUSED = Head(400, (("Content-Type", "application/json; charset=utf-8"),), Framing.RAW)
LINE = b'{"message":{"content":"a"},"done":false}\n'
LAST = b'{"message":{"content":""},"done":true,"done_reason":"stop"}\n'
EVENT = b'data: {"choices":[]}\n\n'
DONE = b"data: [DONE]\n\n"


class FakeWire:
    """Writes down what is sent and when."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.idle_since = self.loop.time()
        self.backlog = False
        self.status = None
        self.headers = {}
        self.length = None
        self.sent = []
        self.at = []
        self.end = None

    def commit(self, status, headers, length):
        assert self.status is None, "one head only"
        self.status, self.headers, self.length = status, dict(headers), length
        self.idle_since = self.loop.time()

    def chunk(self, data, credit=0):
        assert self.end is None, "nothing after the end"
        self.sent.append(data)
        self.at.append(round(self.loop.time(), 2))
        self.idle_since = self.loop.time()

    def held(self, waits):
        self.waits = waits

    def finish(self):
        assert self.end is None
        self.end = "finished"

    def abort(self):
        assert self.end is None
        self.end = "aborted"

    @property
    def body(self):
        return b"".join(self.sent)


class Worker:
    """The other end of a run, as the relay sees it."""

    def __init__(self) -> None:
        self.cancelled = []
        self.credits = 0

    def cancel(self, code):
        self.cancelled.append(code)

    def credit(self, taken):
        self.credits += taken


class Script:
    """One call: `relay` gets what a worker says, `wire` shows what went out."""

    def __init__(self, **manner) -> None:
        self.wire = FakeWire()
        given = {"dialect": NATIVE, "stream": True, "head_after": 20.0, "heartbeat": 15.0, **manner}
        self.relay = Relay(self.wire, Manner(**given), "JOB")
        self.workers = []

    def start(self, head=None, *units, epoch=1, working=True):
        worker = Worker()
        self.workers.append(worker)
        self.relay.started(epoch, worker)
        if working:
            self.relay.working()
        if head is not None:
            self.relay.head(head)
        for unit in units:
            self.relay.data(unit)
        return worker

    async def words(self):
        """Answer the relay's wish for words, as the handler does, until the test ends."""
        while True:
            await self.relay.event.wait()
            self.relay.event.clear()
            if self.relay.wants_words:
                self.relay.say("queued position=3 eta=41s")
