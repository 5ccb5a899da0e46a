"""`/ops/events`: the snapshot and then what changes in it, to every page that is open, at the price of one.

The app starts and closes me. While anybody listens I ask for the snapshot each half second, keep each section of it as
bytes with the number of its last change, and give every listener what changed since it last took something: a slow one
skips what is stale by then, a returning one (`Last-Event-ID`) gets what it missed. I hold up nobody's stop.
"""

from __future__ import annotations

import asyncio
import json
import secrets
from typing import TYPE_CHECKING, Any, Final

import structlog
from aiohttp import hdrs, web

from foreman.core.errors import Code, Failure
from foreman.web.middleware import CORS_HEADERS

if TYPE_CHECKING:
    from foreman.tasks import Tasks
    from foreman.web.snapshot import Snapshots

log = structlog.get_logger(__name__)

EVERY: Final = 0.5
"""Seconds between two looks, and so between two events of a feed, at least."""
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
_MOVES: Final = frozenset({"oldest_wait_seconds", "lease_seconds"})
"""Fields that move with the clock alone: no news."""
_HEADERS: Final = (
    (hdrs.CONTENT_TYPE, "text/event-stream; charset=utf-8"),
    (hdrs.CACHE_CONTROL, "no-store"),
    ("X-Accel-Buffering", "no"),
    ("X-Content-Type-Options", "nosniff"),
)


class Feed:
    """The feed of one gateway."""

    def __init__(self, snapshots: Snapshots, tasks: Tasks) -> None:
        self._snapshots = snapshots
        self._tasks = tasks
        self._boot = secrets.token_hex(4)
        self._number = 0
        self._news: dict[str, tuple[int, Any, bytes]] = {}
        """Section → the number of its last change, what is compared, its JSON."""
        self._frames: dict[int, bytes] = {}
        """Number that a listener has seen → what it gets now."""
        self._look: asyncio.Future[None] | None = None
        """Done at the next look; None while nobody looks."""
        self._fresh = False
        """What is kept is of the last look but one at most."""
        self._listeners: set[asyncio.Task[Any]] = set()
        self._closing = False

    @property
    def listeners(self) -> int:
        """How many feeds are open."""
        return len(self._listeners)

    async def serve(self, request: web.Request) -> web.StreamResponse:
        """One feed, until either side leaves."""
        if self._closing:
            raise Failure(Code.SHUTTING_DOWN, "this gateway is leaving", retry_after=1)
        if len(self._listeners) >= MOST:
            raise Failure(Code.QUEUE_FULL, f"{MOST} feeds are open here: close some pages", retry_after=5)
        response = web.StreamResponse(headers=[*_HEADERS, *request[CORS_HEADERS]])
        task = asyncio.current_task()
        assert task is not None
        self._listeners.add(task)
        try:
            await response.prepare(request)
            await self._tell(response, request.headers.get("Last-Event-ID", ""))
        except (ConnectionError, TimeoutError):
            response.force_close()
        except asyncio.CancelledError:
            if not self._closing:
                raise
        finally:
            self._listeners.discard(task)
        return response

    async def close(self) -> None:
        """Tell every listener that this gateway leaves, and let nobody hold that up."""
        self._closing = True
        self._wake()
        listeners = set(self._listeners)
        if listeners:
            _, stuck = await asyncio.wait(listeners, timeout=_FAREWELL)
            for listener in stuck:
                listener.cancel()

    # -- one listener

    async def _tell(self, response: web.StreamResponse, last_id: str) -> None:
        seen = self._seen_by(last_id)
        looked = not self._closing if self._fresh else await self._next_look()
        if seen is None or seen > self._number:
            seen = -1
        loop = asyncio.get_running_loop()
        said_at = loop.time()
        while looked:
            if self._number > seen or loop.time() - said_at >= QUIET:
                frame, seen = self._frame(seen), self._number
                async with asyncio.timeout(STALLED):
                    await response.write(frame)
                said_at = loop.time()
            looked = await self._next_look()
        await response.write(b"event: leaving\nretry: 1000\ndata: {}\n\n")

    def _seen_by(self, last_id: str) -> int | None:
        boot, _, number = last_id.partition("-")
        return int(number) if boot == self._boot and number.isascii() and number.isdecimal() else None

    def _frame(self, seen: int) -> bytes:
        """What has changed since `seen`; -1: everything."""
        frame = self._frames.get(seen)
        if frame is None:
            sections = [
                b"%s:%s" % (json.dumps(name).encode(), text)
                for name, (number, _, text) in self._news.items()
                if number > seen or name in _ALWAYS
            ]
            kind = b"snapshot" if seen < 0 else b"change"
            head = b"id: %s-%d\nevent: %s\ndata: {" % (self._boot.encode(), self._number, kind)
            frame = self._frames[seen] = head + b",".join(sections) + b"}\n\n"
        return frame

    # -- the one look for all

    async def _next_look(self) -> bool:
        """Wait for the next look; False when this gateway leaves."""
        if self._closing:
            return False
        if self._look is None:
            self._look = asyncio.get_running_loop().create_future()
            self._tasks.spawn(self._looking(), "feed")
        await asyncio.shield(self._look)
        return not self._closing

    async def _looking(self) -> None:
        """Look while anybody listens."""
        loop = asyncio.get_running_loop()
        try:
            while self._listeners and not self._closing:
                began = loop.time()
                try:
                    self._take(await self._snapshots.state())
                    self._fresh = True
                except Exception:  # a fault of ours costs one look
                    log.exception("feed.look_failed")
                self._wake()
                took = loop.time() - began
                await asyncio.sleep(max(EVERY - took, took * SHARE))
        finally:
            self._fresh = False
            self._wake()
            self._look = None

    def _wake(self) -> None:
        look = self._look
        if look is None:
            return
        self._look = asyncio.get_running_loop().create_future()
        if not look.done():
            look.set_result(None)

    def _take(self, state: dict[str, Any]) -> None:
        """Note what has changed."""
        self._frames.clear()
        number = self._number + 1
        for name, value in state.items():
            known = self._news.get(name)
            compared = _still(value)
            if known is not None and (compared == known[1] and name not in _ALWAYS):
                continue
            changed = known[0] if known is not None and name in _ALWAYS else number
            if changed == number:
                self._number = number
            text = json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")
            self._news[name] = (changed, compared, text)


def _still(value: Any) -> Any:
    """A section without what moves with the clock alone."""
    if isinstance(value, list):
        return [
            {key: one for key, one in row.items() if key not in _MOVES} if isinstance(row, dict) else row
            for row in value
        ]
    return value
