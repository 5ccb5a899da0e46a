"""`/ops/events`: the snapshot and then what changes in it, to every page that is open, at the price of one.

The app starts and closes me. While anybody listens I ask for the snapshot each half second (each second while nothing but
tokens flow), keep each section of it as bytes with the number of its last change, and give every listener what changed
since it last took something: a slow one skips what is stale by then, a returning one (`Last-Event-ID`) gets what it missed.
I hold up nobody's stop.
"""

from __future__ import annotations

import asyncio
import json
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import structlog
from aiohttp import HttpVersion11, hdrs, web

from foreman.core.errors import Code, Failure
from foreman.web.middleware import CORS_HEADERS

if TYPE_CHECKING:
    from foreman.tasks import Tasks
    from foreman.web.ops.snapshot import Snapshots

log = structlog.get_logger(__name__)

EVERY: Final = 0.5
"""Seconds between two looks, and so between two events of a feed, at least."""
CALM: Final = 1.0
"""Seconds between two looks while nothing but the running jobs' token counts moves."""
WHOLE: Final = 2.5
"""Seconds within which everything is looked at anew, however calm it seems."""
SHARE: Final = 20.0
"""A look that takes long is followed by a pause of so many times that: looking never takes more than a 21st of the time."""
QUIET: Final = 2.0
"""Seconds after which a feed says that nothing has changed."""
MOST: Final = 500
"""Feeds open at once."""
STALLED: Final = 60.0
"""Seconds for which a listener may take nothing at all."""
_FAREWELL: Final = 0.25
"""Seconds for the last event at a stop."""
_ALWAYS: Final = ("now", "store")
_TARGETS: Final = "targets"
_TOKENS: Final = "tokens"
"""Instead of the targets, where only their jobs' token counts have moved: a tenth of the bytes."""
_MOVES: Final = frozenset({"oldest_wait_seconds", "lease_seconds"})
"""Fields that move with the clock alone: no news."""
_HEADERS: Final = (
    (hdrs.CONTENT_TYPE, "text/event-stream; charset=utf-8"),
    (hdrs.CACHE_CONTROL, "no-store"),
    ("X-Accel-Buffering", "no"),
    ("X-Content-Type-Options", "nosniff"),
)


class Listener:
    """One open feed: what it has seen, and whether it takes more."""

    def __init__(self, request: web.Request, seen: int) -> None:
        self.seen = seen
        self.left: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Done when the feed is over."""
        self._protocol, self._transport = request.protocol, request.transport
        self._chunked = request.version >= HttpVersion11
        self._said_at = self._took_at = asyncio.get_running_loop().time()

    def wants(self, number: int, now: float) -> bool:
        """Whether there is something to say, and it takes it. One that takes nothing for STALLED is let go."""
        if self._protocol.writing_paused:
            if now - self._took_at > STALLED and self._transport is not None:
                self._transport.abort()
            return False
        self._took_at = now
        return number > self.seen or now - self._said_at >= QUIET

    def say(self, frame: Frame, number: int, now: float) -> None:
        """Hand bytes to the connection; never waits. Past aiohttp: the same bytes serve every page."""
        if self._transport is None or self._transport.is_closing():
            return
        self._transport.write(frame.chunk if self._chunked else frame.data)
        self.seen, self._said_at = number, now

    def leave(self) -> None:
        """End it."""
        if not self.left.done():
            self.left.set_result(None)


class Frame:
    """Some events, as they are and as an HTTP chunk."""

    __slots__ = ("chunk", "data")

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.chunk = b"%x\r\n%b\r\n" % (len(data), data)


_LEAVING: Final = Frame(b"event: leaving\nretry: 1000\ndata: {}\n\n")


@dataclass(slots=True)
class _Section:
    """A part of the snapshot."""

    number: int
    """Of its last change."""
    compared: Any
    """What of it makes a change."""
    value: Any
    text: bytes | None = None
    """Its JSON, once somebody gets it."""

    def json(self) -> bytes:
        """As it is now."""
        if self.text is None:
            written = json.dumps(self.value, ensure_ascii=False, separators=(",", ":"))
            self.text = written.encode("utf-8", "replace")
        return self.text


class Feed:
    """The feed of one gateway."""

    def __init__(self, snapshots: Snapshots, tasks: Tasks) -> None:
        self._snapshots = snapshots
        self._tasks = tasks
        self._boot = secrets.token_hex(4)
        self._number = 0
        self._news: dict[str, _Section] = {}
        self._frames: dict[int, Frame] = {}
        """Number that a listener has seen → what it gets now."""
        self._look: asyncio.Future[None] | None = None
        """Done at the first look; None while nobody looks."""
        self._listeners: set[Listener] = set()
        self._handlers: set[asyncio.Task[Any]] = set()
        self._closing = False
        self._whole_at = float("-inf")
        """When everything was looked at last, loop clock."""

    @property
    def listeners(self) -> int:
        """How many feeds are open."""
        return len(self._handlers)

    async def serve(self, request: web.Request) -> web.StreamResponse:
        """One feed, until either side leaves."""
        if self._closing:
            raise Failure(Code.SHUTTING_DOWN, "this gateway is leaving", retry_after=1)
        if len(self._handlers) >= MOST:
            raise Failure(Code.QUEUE_FULL, f"{MOST} feeds are open here: close some pages", retry_after=5)
        response = web.StreamResponse(headers=[*_HEADERS, *request[CORS_HEADERS]])
        task = asyncio.current_task()
        assert task is not None
        self._handlers.add(task)
        try:
            await self._first_look()
            if not self._news:
                raise Failure(Code.STORE_UNAVAILABLE, "there is no snapshot yet: see the gateway's log", retry_after=1)
            await response.prepare(request)
            await self._tell(request, response)
        except ConnectionError:
            response.force_close()
        except asyncio.CancelledError:
            if not self._closing:
                raise
        finally:
            self._handlers.discard(task)
        return response

    async def close(self) -> None:
        """Tell every listener that this gateway leaves, and let nobody hold that up."""
        self._closing = True
        now = asyncio.get_running_loop().time()
        for listener in list(self._listeners):
            listener.say(_LEAVING, self._number, now)
            listener.leave()
        if self._look is not None and not self._look.done():
            self._look.set_result(None)
        handlers = set(self._handlers)
        if handlers:
            _, stuck = await asyncio.wait(handlers, timeout=_FAREWELL)
            for handler in stuck:
                handler.cancel()

    # -- one listener

    async def _tell(self, request: web.Request, response: web.StreamResponse) -> None:
        seen = self._seen_by(request.headers.get("Last-Event-ID", ""))
        listener = Listener(request, self._number)
        await response.write(self._frame(seen).data)  # with it aiohttp sends the head
        if self._closing:
            return
        self._listeners.add(listener)
        try:
            await listener.left
        finally:
            self._listeners.discard(listener)

    def _seen_by(self, last_id: str) -> int:
        """The number of an event that is still known; -1: begin anew."""
        boot, _, text = last_id.partition("-")
        number = int(text) if boot == self._boot and text.isascii() and text.isdecimal() and len(text) < 16 else -1
        return number if number <= self._number else -1

    def _frame(self, seen: int) -> Frame:
        """What has changed since `seen`; -1: everything."""
        frame = self._frames.get(seen)
        if frame is None:
            targets = self._news[_TARGETS].number > seen  # the tokens stand in them
            sections = [
                b'"%s":%s' % (name.encode(), section.json())
                for name, section in self._news.items()
                if (section.number > seen or name in _ALWAYS) and not (targets and name == _TOKENS)
            ]
            kind = b"snapshot" if seen < 0 else b"change"
            head = b"id: %s-%d\nevent: %s\ndata: {" % (self._boot.encode(), self._number, kind)
            frame = self._frames[seen] = Frame(head + b",".join(sections) + b"}\n\n")
        return frame

    # -- the one look for all

    async def _first_look(self) -> None:
        """Until what is kept is of now."""
        if self._look is None:
            self._look = asyncio.get_running_loop().create_future()
            self._tasks.spawn(self._looking(self._look), "feed")
        await asyncio.shield(self._look)

    async def _looking(self, first: asyncio.Future[None]) -> None:
        """Look while anybody listens."""
        loop = asyncio.get_running_loop()
        pace = EVERY
        try:
            while self._handlers and not self._closing:
                began = loop.time()
                try:
                    pace = EVERY if self._take(await self._seen(calm=pace > EVERY)) else CALM
                except Exception:  # a fault of ours costs one look
                    log.exception("feed.look_failed")
                    pace = EVERY
                if not first.done():
                    first.set_result(None)
                for listener in list(self._listeners):
                    if listener.wants(self._number, began):
                        listener.say(self._frame(listener.seen), self._number, began)
                took = loop.time() - began
                await asyncio.sleep(max(pace - took, took * SHARE))
        finally:
            self._look = None
            if not first.done():
                first.set_result(None)

    async def _seen(self, *, calm: bool) -> dict[str, Any]:
        """The snapshot; a cheap one where it was calm and the last whole one is young."""
        now = asyncio.get_running_loop().time()
        state = await self._snapshots.calm() if calm and now - self._whole_at < WHOLE else None
        if state is None:
            self._whole_at = now
            state = await self._snapshots.state()
        return state

    def _take(self, state: dict[str, Any]) -> bool:
        """Note what has changed; False where that is nothing, or how far jobs have come: then only that is told."""
        self._frames.clear()
        number, moved = self._number + 1, False
        for name, value in (state | {_TOKENS: _tokens(state[_TARGETS])}).items():
            known = self._news.get(name)
            compared = _without_tokens(value) if name == _TARGETS else _still(value)
            if known is None:
                self._news[name] = _Section(number, compared, value)
            else:
                changed = compared != known.compared
                known.value, known.text = value, None
                if not changed or name in _ALWAYS:
                    continue
                known.number, known.compared = number, compared
            self._number = number
            moved = moved or name != _TOKENS
        return moved


def _still(value: Any) -> Any:
    """A section without what moves with the clock alone."""
    if isinstance(value, list):
        return [
            {key: one for key, one in row.items() if key not in _MOVES} if isinstance(row, dict) else row
            for row in value
        ]
    return value


def _without_tokens(targets: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The targets without how far their jobs have come."""
    return [
        target | {"running": [(job["job_id"], job["state"], job["since"]) for job in target["running"]]}
        for target in targets
    ]


def _tokens(targets: list[dict[str, Any]]) -> dict[str, list[float | None]]:
    """Job → its tokens, and tokens a second."""
    return {job["job_id"]: [job["tokens"], job["tokens_per_second"]] for target in targets for job in target["running"]}
