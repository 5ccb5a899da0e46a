"""One streamed call: posted, followed to its end, gone after where its connection broke, cancelled when it is left.

`Foreman.chat` makes me; a program iterates over me. A call with a key survives its connection and its gateway: I ask for
the rest from the byte I had, or repeat the whole call under the same key and read over what I had. A run that was lost
is said (`on_restart`) or raised: two runs are never spliced. Whoever leaves me early cancels the job.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, Self
from urllib.parse import quote

from foreman.client.answer import Answer, Delta
from foreman.client.errors import ForemanError, UnreachableError, said_in_stream
from foreman.client.gateways import Patience
from foreman.client.pieces import ends
from foreman.client.reader import DONE, Chunk, Reader, State
from foreman.core.errors import Code

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable
    from types import TracebackType

    import aiohttp

    from foreman.client.gateways import Gateways

_CANCEL_WITHIN: Final = 3.0
"""Seconds that leaving may take: the job's id may have to be learnt first."""
SILENCE: Final = 20.0
"""Seconds beyond ten heartbeats after which a silent connection is a lost one, whatever TCP says."""
_NOT_HERE: Final = frozenset({404, 409, 410, 416})
"""Statuses of `GET /jobs/{id}/stream` where nothing is left to resume; with another code they say how the job ended."""


@dataclass(frozen=True, slots=True)
class Ask:
    """What a chat asks for."""

    path: str
    body: bytes
    headers: dict[str, str]
    key: str | None
    """The Idempotency-Key; None: the job ends with its connection."""
    on_state: Callable[[State], None]
    on_restart: Callable[[], None] | None
    patience: float
    """Seconds without a sign of life after which a lost answer is given up."""
    progress: float
    """Seconds between two heartbeats, as asked for."""


class LostError(ForemanError):
    """The run is over without its answer; another one begins at the first byte."""


class RestartError(ForemanError):
    """The answer would begin anew, and nobody who could throw away what was shown of it was named."""

    def __init__(self, job_id: str | None) -> None:
        message = "the answer was lost and begins anew: send the request again"
        super().__init__(message, code=Code.INTERRUPTED, retryable=True, job_id=job_id)


class Chat:
    """An async iterator of deltas, and a context manager: leaving it early cancels the job."""

    def __init__(self, gateways: Gateways, ask: Ask) -> None:
        self._gateways = gateways
        self._ask = ask
        self.answer = Answer(time.monotonic())
        """What has come so far, with TTFT and TPOT."""
        self.job_id: str | None = None
        self.resumed = 0
        """How often the answer was gone after, from the byte where it broke off."""
        self._offset = 0
        self._given = False
        self._connected = False
        self._taken = False
        self.over = False
        """It has ended: nothing is left to cancel."""
        self._deltas = self._follow()

    # ------------------------------------------------------------------ for programs

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Delta:
        return await anext(self._deltas)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Leave: a job that is not over is cancelled."""
        await self._deltas.aclose()
        await self._leave()

    async def whole(self) -> Answer:
        """Follow it to its end; what it adds up to."""
        async with self:
            async for _ in self:
                pass
        return self.answer

    # ------------------------------------------------------------------ following

    async def _follow(self) -> AsyncGenerator[Delta]:
        """The deltas, over as many connections as it takes."""
        patience = Patience(self._ask.patience, time.monotonic())
        resume = False
        try:
            while True:
                try:
                    async with contextlib.aclosing(self._connection(resume=resume)) as deltas:
                        async for delta in deltas:
                            patience.heard(time.monotonic())
                            self._given = True
                            yield delta
                except ForemanError as error:
                    await self._name(error)
                    gone = resume and error.status in _NOT_HERE and error.code in {None, Code.BAD_REQUEST}
                    pause = 0.0 if gone else self._bears(error, patience)
                    if pause is None:
                        self.over = isinstance(error, LostError) or not self._taken
                        raise
                    resume = self._resumable and not gone and not isinstance(error, LostError)
                    self._gateways.next(error)
                else:
                    self.over = True
                    self._tell("done", tokens=self.answer.tokens)
                    return
                self._tell("resuming", attempt=patience.failures)
                await asyncio.sleep(pause)
        except BaseException:
            await self._leave()
            raise

    async def _name(self, error: ForemanError) -> None:
        """Look up what an error in the stream was: not every dialect has room for foreman's code."""
        if not isinstance(error, LostError) or error.code is not None or self.job_id is None:
            return
        with contextlib.suppress(ForemanError, TimeoutError, ValueError):
            async with asyncio.timeout(_CANCEL_WITHIN), self._gateways.ask("GET", self._job_path()) as reply:
                said = json.loads(await reply.read())["error"] or {}
                error.code, error.retryable = said.get("code"), said.get("retryable") is True

    def _bears(self, error: ForemanError, patience: Patience) -> float | None:
        """Seconds before the next try; None where it is the caller's to know of."""
        pause = patience.after(error, time.monotonic())
        self._connected = self._connected or not isinstance(error, UnreachableError) or error.connected
        nobody = not self._connected and patience.failures >= len(self._gateways)
        spliced = isinstance(error, RestartError) or (self._given and self._ask.key is None)
        return None if nobody or spliced else pause

    @property
    def _resumable(self) -> bool:
        return self._ask.key is not None and self.job_id is not None and self._offset > 0

    async def _connection(self, *, resume: bool) -> AsyncGenerator[Delta]:
        """The deltas of one connection, those left out that came by an earlier one."""
        if resume:
            self.resumed += 1
        else:
            self._tell("sent")
        async with self._resume() if resume else self._post() as reply:
            self._connected = self._taken = True
            before, self.job_id = self.job_id, reply.headers.get("X-Foreman-Job-Id", self.job_id)
            start, skip = (self._offset, 0) if resume else (0, self._skip(before))
            if reply.content_type == "application/json":
                yield self._add(json.loads(await reply.read()))
                return
            reader = Reader(events=reply.content_type == "text/event-stream")
            ended = False
            async for data in self._bytes(reply):
                for item in self._read(reader, data):
                    if isinstance(item, Chunk) and item.offset > skip:
                        delta = self._add(item.value)
                        self._offset = start + item.offset
                        ended = ended or ends(self._ask.path, item.value)
                        yield delta
                    ended = ended or item is DONE
            for chunk in reader.rest():
                yield self._add(chunk.value)
                ended = ended or ends(self._ask.path, chunk.value)
            if not ended:
                raise UnreachableError(
                    "the answer ended before its end mark: the gateway or the target behind it went away",
                    job_id=self.job_id,
                )

    async def _bytes(self, reply: aiohttp.ClientResponse) -> AsyncGenerator[bytes]:
        """The bytes as they come. A gateway that misses heartbeats is gone, though its machine may not have said so."""
        limit = 10 * self._ask.progress + SILENCE if "X-Foreman-Job-Id" in reply.headers else None
        while True:
            try:
                async with asyncio.timeout(limit):
                    data = await reply.content.readany()
            except TimeoutError:
                raise UnreachableError(
                    "the gateway fell silent in the middle of an answer", job_id=self.job_id
                ) from None
            if not data:
                return
            yield data

    def _read(self, reader: Reader, data: bytes) -> list[Chunk | object]:
        """The chunks in these bytes; states are told."""
        try:
            items = reader.feed(data)
        except ValueError as error:
            raise ForemanError(f"not an answer of this dialect: {error}", job_id=self.job_id) from error
        found: list[Chunk | object] = []
        for item in items:
            if isinstance(item, State):
                self._state(item)
            else:
                found.append(item)
        return found

    def _skip(self, before: str | None) -> int:
        """Bytes to read over: what came before of the same answer. Another one begins anew."""
        if not self._given:
            return 0
        if self.job_id == before:
            return self._offset
        if self._ask.on_restart is None:
            raise RestartError(self.job_id)
        self.answer.reset()
        self._offset, self._given = 0, False
        self._ask.on_restart()
        return 0

    def _add(self, chunk: dict[str, Any]) -> Delta:
        """Take a chunk. Raises ForemanError where it is one."""
        error = said_in_stream(chunk, self.job_id)
        if error is not None:
            raise LostError(str(error), code=error.code, retryable=error.retryable, job_id=self.job_id)
        delta = self.answer.add(chunk, time.monotonic())
        if delta.thinking or delta.text:
            self._tell("thinking" if delta.thinking else "answering", tokens=self.answer.deltas)
        return delta

    # ------------------------------------------------------------------ asking

    def _post(self) -> contextlib.AbstractAsyncContextManager[aiohttp.ClientResponse]:
        ask = self._ask
        headers = ask.headers | ({"Idempotency-Key": ask.key} if ask.key is not None else {})
        return self._gateways.ask("POST", ask.path, ask.body, headers=headers)

    def _resume(self) -> contextlib.AbstractAsyncContextManager[aiohttp.ClientResponse]:
        params = {"offset": str(self._offset)}
        return self._gateways.ask("GET", f"{self._job_path()}/stream", params=params, headers=self._ask.headers)

    def _job_path(self) -> str:
        return f"/jobs/{quote(self.job_id or '', safe='')}"

    async def _leave(self) -> None:
        """Cancel the job where closing the connection doesn't."""
        if self.over:
            return
        self.over = True
        if self._ask.key is None:
            return
        with contextlib.suppress(ForemanError, TimeoutError):
            async with asyncio.timeout(_CANCEL_WITHIN):
                if self.job_id is None:  # left before its head: the same key attaches, and its head comes at once
                    async with self._post() as reply:
                        self.job_id = reply.headers.get("X-Foreman-Job-Id")
                if self.job_id is not None:
                    async with self._gateways.ask("DELETE", self._job_path()):
                        pass

    def _tell(self, name: str, **more: Any) -> None:
        self._state(State(name, **more))

    def _state(self, state: State) -> None:
        self._ask.on_state(replace(state, job_id=self.job_id))
