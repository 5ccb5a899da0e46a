"""A streamed chat through a gateway: one POST, its NDJSON chunks as they come, and what they add up to.

`foreman chat` calls me. I retry nothing and keep nothing; an error the gateway words, before or after the first chunk,
becomes a ChatError with its code, and so does an answer that ends without its end mark. Closing the iterator closes the
connection, and that cancels the job.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import aiohttp

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

_NO_LIMIT: Final = aiohttp.ClientTimeout(total=None, sock_connect=10)
"""Waiting in the queue is no error: only the connect is timed."""


class ChatError(Exception):
    """The gateway, or the target behind it, said no; the message is its own words."""

    def __init__(self, message: str, *, status: int | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        """The HTTP status, or None when it came after the first byte."""
        self.code = code
        """foreman's error code (`X-Foreman-Error`), where it gave one."""


@dataclass(slots=True)
class Answer:
    """What the chunks of one answer add up to, and how fast they came. Moments are seconds of the caller's clock."""

    sent_at: float
    text: list[str] = field(default_factory=list)
    thinking: list[str] = field(default_factory=list)
    first_at: float | None = None
    last_at: float | None = None
    deltas: int = 0
    end: dict[str, Any] = field(default_factory=dict)
    """The last chunk, with `done_reason` and the counts."""

    def add(self, chunk: dict[str, Any], now: float) -> tuple[str, str]:
        """Take a chunk; the text and the thinking it brought."""
        message = chunk.get("message") or {}
        text, thinking = message.get("content") or "", message.get("thinking") or ""
        if text or thinking or message.get("tool_calls"):
            self.deltas += 1
            self.first_at = now if self.first_at is None else self.first_at
            self.last_at = now
        self.text.append(text)
        self.thinking.append(thinking)
        if chunk.get("done"):
            self.end = chunk
        return text, thinking

    @property
    def tokens(self) -> int:
        """Tokens generated, as the target counts them; the deltas where it doesn't."""
        return int(self.end.get("eval_count") or self.deltas)

    @property
    def ttft(self) -> float | None:
        """Time to first token in seconds, waiting included; None without an answer."""
        return None if self.first_at is None else self.first_at - self.sent_at

    @property
    def tpot(self) -> float | None:
        """Time per output token after the first, in seconds; None below two."""
        if self.first_at is None or self.last_at is None or self.tokens < 2:
            return None
        return (self.last_at - self.first_at) / (self.tokens - 1)


async def stream(
    url: str, request: dict[str, Any], *, token: str | None = None, path: str = "/api/chat"
) -> AsyncGenerator[dict[str, Any]]:
    """The chunks of a streamed answer, each as it comes, the last with `done` true.

    Args:
        url: the gateway's base URL.
        request: the body as Ollama's `/api/chat` takes it; `stream` is set to true.
        token: the bearer, or None.
        path: `/api/chat` or `/api/generate`.

    Raises:
        ChatError: the gateway refused, the run failed, or the answer ended early.
        aiohttp.ClientError: no gateway answers there.
    """
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    async with (
        aiohttp.ClientSession(timeout=_NO_LIMIT) as session,
        session.post(f"{url}{path}", json=request | {"stream": True}, headers=headers) as reply,
    ):
        if reply.status != 200:
            raise _refusal(reply.status, await reply.text(errors="replace"), reply.headers.get("X-Foreman-Error"))
        async for line in _lines(reply.content):
            chunk = json.loads(line)
            if "error" in chunk:
                raise ChatError(_words(chunk))
            yield chunk
            if chunk.get("done"):
                return
    raise ChatError("the answer ended before its end mark: the gateway or the target behind it went away")


async def _lines(content: aiohttp.StreamReader) -> AsyncGenerator[bytes]:
    """Whole lines of any length; blank ones and the spaces of heartbeats left out."""
    rest = b""
    async for piece in content.iter_any():
        *lines, rest = (rest + piece).split(b"\n")
        for line in lines:
            if line.strip():
                yield line
    if rest.strip():
        yield rest


def _refusal(status: int, body: str, code: str | None) -> ChatError:
    try:
        words = _words(json.loads(body))
    except ValueError:
        words = body.strip() or "no reason given"
    return ChatError(words, status=status, code=code)


def _words(body: Any) -> str:
    """The sentence in an error body: Ollama's string, or the `message` in an object."""
    error = body.get("error", body) if isinstance(body, dict) else body
    return str(error.get("message", error)) if isinstance(error, dict) else str(error)
