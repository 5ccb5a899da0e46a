"""One inference request from its Ask to its last byte: lease, slot, prefill, tokens at their pace, faults, gates.

The server's routes call me with an Ask and the dialect to answer in. Time is real: I am a simulator and sleep.
"""

from __future__ import annotations

import asyncio
import base64
import os
import struct
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from foreman.protocols.gojson import dumps

from .asks import RefusalError, unloads
from .dialects import JSON_BARE, JSON_UTF8, Native, NativeChat, NativeGenerate, Stats, error_body
from .engine import Engine, EngineError, Pace, Turn
from .faults import RUNNER_DIED, Kind, Plan
from .golang import NANOSECONDS
from .reply import BrokenRunnerError, CleanEndError, Reply
from .speech import Speech, embedding, mark, speak

if TYPE_CHECKING:
    from aiohttp import web

    from .asks import Ask
    from .dialects import Dialect
    from .ledger import Ledger, Seen

FAST_BUFFER: Final = 1 << 20
"""Bytes that wait for a slow reader before the fast path stops making more."""


@dataclass(slots=True)
class Answering:
    """What it takes to answer."""

    engine: Engine
    plan: Plan
    pace: Pace
    ledger: Ledger
    fast: bool = False
    """Write pre-built lines straight to the transport."""
    repeatable: bool = False
    """Answers tell no true times."""
    marked: bool = False
    """Each token names its run and its place in it."""

    async def infer(self, reply: Reply, seen: Seen, ask: Ask, dialect: Dialect) -> web.StreamResponse:
        """Answer a chat or a completion.

        Raises:
            RefusalError: Ollama says no; nothing has been sent.
        """
        began = _now()
        if unloads(ask):
            self.engine.expire(ask.model)
            assert isinstance(dialect, Native)
            return await reply.whole(200, JSON_UTF8, dialect.single("unload"))
        if not ask.empty:
            reply.fault = self.plan.fault_for(ask.model.name, seen.path)
            reply.gate = self.plan.gate_for(ask.model.name, seen.path)
        try:
            async with self.engine.lease(ask.model, ask.options, ask.keep_alive_ns, seen) as runner:
                leased = _now()
                if ask.empty and isinstance(dialect, Native):
                    return await reply.whole(200, JSON_UTF8, dialect.single("load"))
                if ask.empty:  # the middleware of a /v1 path translates it like any other answer
                    nothing, none = Speech([], "load"), Stats(load=_ns(leased - began))
                    units = (
                        [*dialect.begin(), *dialect.end(nothing, none)]
                        if ask.stream
                        else [dialect.whole(nothing, none)]
                    )
                    return await reply.whole(
                        200, dialect.stream_type if ask.stream else dialect.whole_type, b"".join(units)
                    )
                if ask.render_only and isinstance(dialect, NativeChat | NativeGenerate):
                    return await reply.whole(200, JSON_UTF8, dialect.rendered())
                self.ledger.phase(seen, "waiting")
                async with self.engine.slot(runner) as turn:
                    stats = Stats(load=_ns(leased - began), prompt_tokens=ask.prompt_tokens)
                    return await self._speak(reply, seen, ask, dialect, turn, stats, began)
        except EngineError as error:
            raise RefusalError(error.status, error.words) from None

    async def embed(self, reply: Reply, seen: Seen, ask: Ask, style: str, extra: dict[str, Any]) -> web.StreamResponse:
        """Answer a call for embeddings; `style` is embed, embeddings or openai."""
        began = _now()
        if unloads(ask):
            self.engine.expire(ask.model)
        reply.fault = self.plan.fault_for(ask.model.name, seen.path)
        reply.gate = self.plan.gate_for(ask.model.name, seen.path)
        try:
            async with self.engine.lease(ask.model, ask.options, ask.keep_alive_ns, seen) as runner:
                stats = Stats(load=_ns(_now() - began), prompt_tokens=ask.prompt_tokens)
                self.ledger.phase(seen, "waiting")
                async with self.engine.slot(runner):
                    self.ledger.phase(seen, "answering")
                    await self._before(reply)
                    await asyncio.sleep(float(ask.fake.get("embed_seconds", self.pace.embed_seconds)))
                stats.total = _ns(_now() - began)
                body, content_type = _vectors(ask, style, extra, self._settled(stats))
                return await reply.whole(200, content_type, body)
        except EngineError as error:
            raise RefusalError(error.status, error.words) from None

    # ------------------------------------------------------------------------------------------- one answer

    async def _before(self, reply: Reply) -> None:
        """Gates and faults ahead of the first byte."""
        await reply.first()
        if reply.fault is not None and reply.fault.kind == Kind.STATUS:
            raise EngineError(reply.fault.status, reply.fault.said)

    async def _speak(
        self, reply: Reply, seen: Seen, ask: Ask, dialect: Dialect, turn: Turn, stats: Stats, began: float
    ) -> web.StreamResponse:
        self.ledger.phase(seen, "prefill")
        started = _now()
        await turn.prefill(self._prefill_seconds(ask))
        stats.prompt = _ns(_now() - started)
        self.ledger.phase(seen, "answering")
        if ask.bad_format is not None:
            raise RefusalError(500, ask.bad_format, late=ask.stream)
        await self._before(reply)
        speech = speak(ask, int(ask.fake.get("tokens", self.pace.tokens)))
        if self.marked:
            mark(speech, f"{os.getpid()}-{seen.number}-{time.time_ns() // 1_000_000}")
        first = _now()
        if not ask.stream:
            try:
                await self._think(reply, ask, speech)
            except BrokenRunnerError:
                turn.crash()
                raise RefusalError(500, reply.fault.said if reply.fault else RUNNER_DIED) from None
            self._measure(stats, speech, first, began)
            return await reply.whole(200, dialect.whole_type, dialect.whole(speech, self._settled(stats)))
        response = await reply.open(dialect.stream_type, dialect.stream_headers)
        try:
            for unit in dialect.begin():
                await reply.unit(unit)
            await self._stream(reply, ask, dialect, speech)
            self._measure(stats, speech, first, began)
            for unit in dialect.end(speech, self._settled(stats)):
                await reply.unit(unit)
        except BrokenRunnerError:
            turn.crash()
            for unit in dialect.broken(reply.fault.said if reply.fault else RUNNER_DIED):
                await response.write(unit)
            return response
        except CleanEndError:
            return response
        return await reply.finish()

    async def _stream(self, reply: Reply, ask: Ask, dialect: Dialect, speech: Speech) -> None:
        pause = self._token_seconds(ask)
        if self.fast and dialect.steady and reply.plain and reply.request.version >= (1, 1):
            await self._stream_fast(reply, dialect, speech, pause)
            return
        for index, piece in enumerate(speech.pieces):
            if index:
                await asyncio.sleep(pause)
            self.ledger.tokens += 1
            for unit in dialect.piece(piece):
                await reply.unit(unit)

    async def _stream_fast(self, reply: Reply, dialect: Dialect, speech: Speech, pause: float) -> None:
        """Lines made beforehand, written by timer: no task is woken per token."""
        units = _units(dialect, speech)
        if not units:
            return
        await reply.unit(units[0])
        frames = iter([b"%x\r\n%b\r\n" % (len(unit), unit) for unit in units[1:]])
        self.ledger.tokens += len(units)
        loop = asyncio.get_running_loop()
        through: asyncio.Future[None] = loop.create_future()
        due = loop.time() + pause

        def write() -> None:
            nonlocal due
            transport = reply.request.transport
            if through.done():
                return
            if transport is None or transport.is_closing():
                through.set_result(None)
                return
            if transport.get_write_buffer_size() < FAST_BUFFER:
                frame = next(frames, None)
                if frame is None:
                    through.set_result(None)
                    return
                transport.write(frame)
            due += pause
            loop.call_at(due, write)

        loop.call_at(due, write)
        await through

    async def _think(self, reply: Reply, ask: Ask, speech: Speech) -> None:
        """Generate without a word, for an answer that is sent whole."""
        pause = self._token_seconds(ask)
        if reply.plain:
            await asyncio.sleep(pause * max(0, len(speech.pieces) - 1))
            self.ledger.tokens += len(speech.pieces)
            return
        for index in range(len(speech.pieces)):
            if index:
                await asyncio.sleep(pause)
            self.ledger.tokens += 1
            await reply.token()

    # ------------------------------------------------------------------------------------------- measures

    def _prefill_seconds(self, ask: Ask) -> float:
        seconds = float(ask.fake.get("prefill_seconds", self.pace.prefill_seconds))
        return seconds + (ask.prompt_tokens / self.pace.prefill_rate if self.pace.prefill_rate else 0.0)

    def _token_seconds(self, ask: Ask) -> float:
        return float(ask.fake.get("token_seconds", self.pace.token_seconds))

    @staticmethod
    def _measure(stats: Stats, speech: Speech, first: float, began: float) -> None:
        now = _now()
        stats.tokens = len(speech.pieces)
        stats.eval = _ns(now - first) if stats.tokens > 1 else 0
        stats.total = _ns(now - began)

    def _settled(self, stats: Stats) -> Stats:
        """The measurements as they are told."""
        if not self.repeatable:
            return stats
        evaluated = 98_000_000 if stats.tokens > 1 else 0
        return Stats(144_000_000, 31_000_000, stats.prompt_tokens, 11_000_000, stats.tokens, evaluated)


def _units(dialect: Dialect, speech: Speech) -> list[bytes]:
    """All units of an answer, the same one for the same token."""
    made: dict[tuple[str, bool], bytes] = {}
    units = []
    for piece in speech.pieces:
        key = (piece.text, piece.thinking)
        unit = made.get(key)
        if unit is None or piece.tool_calls:
            unit = b"".join(dialect.piece(piece))
            made[key] = unit
        units.append(unit)
    return units


def refusal(path: str, error: RefusalError) -> tuple[str, bytes, bool]:
    """Content-Type, body and whether it is chunked, of an error."""
    content_type, body = error_body(path, error)
    return content_type, body, error.late and not path.startswith("/v1/")


def _now() -> float:
    return asyncio.get_running_loop().time()


def _ns(seconds: float) -> int:
    return max(1, int(seconds * NANOSECONDS))


def _vectors(ask: Ask, style: str, extra: dict[str, Any], stats: Stats) -> tuple[bytes, str]:
    """Body and Content-Type of an answer of embeddings."""
    length = ask.dimensions or ask.model.embedding_length
    vectors = [embedding(text, length) for text in ask.inputs]
    if style == "embeddings":
        return dumps({"embedding": vectors[0] if vectors else []}), JSON_UTF8
    if style == "embed":
        body: dict[str, Any] = {"model": ask.name, "embeddings": vectors}
        if vectors:
            body |= {
                "total_duration": stats.total,
                "load_duration": stats.load,
                "prompt_eval_count": stats.prompt_tokens,
            }
        return dumps(body), JSON_UTF8
    told: list[Any] = list(vectors)
    if extra.get("encoding_format") == "base64":
        told = [base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode() for vector in vectors]
    data = [{"object": "embedding", "embedding": vector, "index": index} for index, vector in enumerate(told)]
    usage = {"prompt_tokens": stats.prompt_tokens, "total_tokens": stats.prompt_tokens}
    return dumps({"object": "list", "data": data, "model": ask.name, "usage": usage}) + b"\n", JSON_BARE
