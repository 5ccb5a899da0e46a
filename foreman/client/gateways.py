"""The gateways a program may talk to: their addresses, the token, one session, and who is asked next.

Chats and jobs send through me. I turn refusals and connections that can't be made into a ForemanError, and move on to
the next address after each that failed; I repeat nothing by myself but what `again` is asked to.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
from typing import TYPE_CHECKING, Any, Final, Self, TypeVar

import aiohttp

from foreman.client.errors import ForemanError, UnreachableError, refusal

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
    from types import TracebackType

T = TypeVar("T")

PAUSES: Final = (0.1, 0.5, 1.0, 2.0)
"""Seconds before a try is repeated; the last for ever."""
LONGEST_PAUSE: Final = 30.0
"""Seconds of a Retry-After that are borne."""
_TIMEOUT: Final = aiohttp.ClientTimeout(total=None, sock_connect=10)
"""Waiting in the queue is no error: only the connect is timed."""


class Gateways:
    """Addresses of one pool's gateways.

    Args:
        urls: base URLs, asked one after the other; without a scheme: http.
        token: the bearer, or None.
    """

    def __init__(self, urls: Sequence[str], token: str | None) -> None:
        self._urls = [(url if "://" in url else f"http://{url}").rstrip("/") for url in urls]
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._session: aiohttp.ClientSession | None = None

    async def open(self) -> None:
        """Make the session; on the loop that uses it."""
        self._session = aiohttp.ClientSession(timeout=_TIMEOUT, headers=self._headers)

    async def close(self) -> None:
        """Close every connection."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    @property
    def url(self) -> str:
        """The one that is asked next."""
        return self._urls[0]

    def __len__(self) -> int:
        return len(self._urls)

    def next(self, failed: ForemanError) -> None:
        """Ask another one than the one that failed from now on, where there is one; many calls may fail at once."""
        if failed.url == self.url:
            self._urls.append(self._urls.pop(0))

    @contextlib.asynccontextmanager
    async def ask(
        self, method: str, path: str, body: bytes | None = None, **more: Any
    ) -> AsyncGenerator[aiohttp.ClientResponse]:
        """One request, its answer's head read; `more` as aiohttp takes it.

        Raises:
            UnreachableError: no connection, or it broke before or within the answer.
            ForemanError: a status ≥ 300.
        """
        assert self._session is not None, "use it as `async with Foreman(…) as foreman`"
        url = self.url
        if body is not None:
            more["data"] = io.BytesIO(body)  # aiohttp warns of large bytes, and sends a file piece by piece
        try:
            async with self._session.request(method, url + path, **more) as reply:
                if reply.status >= 300:
                    raise refusal(reply.status, await reply.text(errors="replace"), reply.headers)
                yield reply
        except ForemanError as error:
            error.url = url
            raise
        except (aiohttp.ClientError, TimeoutError, ConnectionError) as error:
            connected = not isinstance(error, aiohttp.ClientConnectorError | aiohttp.ConnectionTimeoutError)
            unreachable = UnreachableError(f"no foreman answers at {url} ({reason(error)})", connected=connected)
            unreachable.url = url
            raise unreachable from error

    async def again(self, call: Callable[[], Awaitable[T]], patience: float) -> T:
        """Make a call, and make it again while what it raises may pass; for calls that may be made twice.

        Args:
            call: what is to be done.
            patience: seconds after which the last error is raised.
        """
        loop = asyncio.get_running_loop()
        borne = Patience(patience, loop.time())
        while True:
            try:
                return await call()
            except ForemanError as error:
                pause = borne.after(error, loop.time())
                if pause is None:
                    raise
                self.next(error)
            await asyncio.sleep(pause)


def reason(error: Exception) -> str:
    """Why there was no connection, or none any more, without what aiohttp writes around it."""
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


class Opened:
    """What speaks to gateways, and opens and closes them with itself: `async with`."""

    def __init__(self, gateways: Gateways) -> None:
        self._gateways = gateways

    async def __aenter__(self) -> Self:
        await self._gateways.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close what was opened."""
        await self._gateways.close()


class Patience:
    """Decides how long failures are borne, and how long to pause after each.

    Args:
        seconds: how long without a sign of life.
        now: a moment of the caller's clock, s.
    """

    def __init__(self, seconds: float, now: float) -> None:
        self._seconds = seconds
        self._until = now + seconds
        self.failures = 0
        """In a row."""

    def heard(self, now: float) -> None:
        """A sign of life."""
        self._until, self.failures = now + self._seconds, 0

    def after(self, error: ForemanError, now: float) -> float | None:
        """Seconds to pause before the next try; None: it won't pass, or took too long."""
        self.failures += 1
        pause = PAUSES[min(self.failures, len(PAUSES)) - 1]
        if error.retry_after is not None:
            pause = min(error.retry_after, LONGEST_PAUSE)
        return pause if error.retryable and now + pause <= self._until else None
