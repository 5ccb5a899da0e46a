"""What the chunks of one answer add up to: text, thinking, tool calls, counts, and how fast they came.

A chat feeds me each chunk of any dialect with the moment it came; programs may use me on chunks of their own. The
arguments of a tool call are parsed once, at the call's own end mark and never before (half of a JSON is none), and a log
event `tool_call.parsed` says so. I do no I/O and refuse nothing: arguments that are no JSON are kept as they came.
"""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from foreman.client.pieces import Pieces, pieces

if TYPE_CHECKING:
    from foreman.client.pieces import Fragment

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call of a tool, whole."""

    id: str | None
    name: str
    arguments: Any
    """The object; the text as it came where that is no JSON."""
    error: str | None = None
    """Why the arguments could not be parsed."""


@dataclass(frozen=True, slots=True)
class Delta:
    """What one chunk brought."""

    chunk: dict[str, Any]
    """As the dialect has it."""
    text: str = ""
    thinking: str = ""
    calls: tuple[ToolCall, ...] = ()
    """Those that ended here."""


@dataclass(slots=True)
class _Open:
    """A call under way."""

    id: str | None = None
    name: str = ""
    pieces: list[Any] = field(default_factory=list)


@dataclass(slots=True)
class Answer:
    """The accumulator. Moments are seconds of the caller's clock."""

    sent_at: float = 0.0
    texts: list[str] = field(default_factory=list)
    thoughts: list[str] = field(default_factory=list)
    calls: list[ToolCall] = field(default_factory=list)
    """Tool calls in the order of their ends."""
    finish: str | None = None
    """Why it ended, in the dialect's word: stop, length, tool_calls, end_turn, completed, …"""
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    """As the target counts them; None where it doesn't tell."""
    last: dict[str, Any] = field(default_factory=dict)
    """The last chunk."""
    deltas: int = 0
    """Chunks that brought something to show."""
    first_at: float | None = None
    last_at: float | None = None
    parses: int = 0
    """How often arguments were parsed: once a call."""
    _open: dict[Any, _Open] = field(default_factory=dict)

    def add(self, chunk: dict[str, Any], now: float = 0.0) -> Delta:
        """Take a chunk that came at `now`; what it brought."""
        found = pieces(chunk)
        self.last = chunk
        self.texts.append(found.text)
        self.thoughts.append(found.thinking)
        for fragment in found.fragments:
            self._collect(fragment)
        calls = self._close(found)
        if found.text or found.thinking or found.fragments:
            self.deltas += 1
            self.first_at = now if self.first_at is None else self.first_at
            self.last_at = now
        prompt, completion = found.usage
        if isinstance(prompt, int):
            self.prompt_tokens = prompt
        if isinstance(completion, int):
            self.completion_tokens = completion
        self.finish = found.finish or self.finish
        return Delta(chunk, found.text, found.thinking, calls)

    def reset(self) -> None:
        """Forget all but when it was sent: the answer begins anew."""
        fresh = Answer(self.sent_at)
        for name in self.__slots__:
            setattr(self, name, getattr(fresh, name))

    def _collect(self, fragment: Fragment) -> None:
        call = self._open.setdefault(fragment.index, _Open())
        call.id = call.id or fragment.id
        call.name = call.name or fragment.name or ""
        if fragment.arguments is not None:
            call.pieces.append(fragment.arguments)

    def _close(self, found: Pieces) -> tuple[ToolCall, ...]:
        indexes = list(self._open) if found.ended is None else [at for at in found.ended if at in self._open]
        closed = tuple(self._parse(self._open.pop(index), found.mark) for index in indexes)
        self.calls.extend(closed)
        return closed

    def _parse(self, call: _Open, mark: str) -> ToolCall:
        """The one parse of a call's arguments."""
        self.parses += 1
        error = None
        if len(call.pieces) == 1 and not isinstance(call.pieces[0], str):
            arguments, size = call.pieces[0], 0  # Ollama's: an object already
        else:
            text = "".join(str(piece) for piece in call.pieces)
            arguments, size = text, len(text.encode())
            try:
                arguments = json.loads(text) if text.strip() else {}
            except ValueError as wrong:
                error = str(wrong)
        log.info(
            "tool_call.parsed id=%s name=%s mark=%s fragments=%d bytes=%d error=%s",
            *(call.id, call.name, mark, len(call.pieces), size, error),
        )
        return ToolCall(call.id, call.name, arguments, error)

    # ------------------------------------------------------------------ what it adds up to

    @property
    def text(self) -> str:
        """All it says."""
        return "".join(self.texts)

    @property
    def thinking(self) -> str:
        """All it thought."""
        return "".join(self.thoughts)

    @property
    def tokens(self) -> int:
        """Tokens generated, as the target counts them; the deltas where it doesn't."""
        return self.completion_tokens or self.deltas

    @property
    def ttft(self) -> float | None:
        """Time to first token in seconds, thinking counts, waiting included; None without one."""
        return None if self.first_at is None else self.first_at - self.sent_at

    @property
    def tpot(self) -> float | None:
        """Time per output token after the first, in seconds; None below two."""
        if self.first_at is None or self.last_at is None or self.tokens < 2:
            return None
        return (self.last_at - self.first_at) / (self.tokens - 1)
