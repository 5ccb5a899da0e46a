"""What a test makes a fake Ollama do wrong, or hold back: scripted faults and gates.

Tests (or /_fake/faults, /_fake/gates) put them into the plan; the answering code asks the plan once per inference
request, the engine once per load. A fault or gate is used up by the first request it fits; `times` makes it last.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Self

from foreman.core.lanes import canonical

from .bell import Bell

RUNNER_DIED = "an error was encountered while running the model: unexpected EOF"
"""What Ollama says when its runner was killed in the middle of an answer."""

LOAD_FAILED = (
    "model failed to load, this may be due to resource limitations or an internal error, "
    "check ollama server logs for details"
)


class Kind(StrEnum):
    """The ways to go wrong. "Mid" is after `after` lines or events of the answer."""

    HANG_FIRST = "hang-first"
    """No byte, the connection stays open until the caller leaves."""
    HANG_MID = "hang-mid"
    RESET_FIRST = "reset-first"
    """RST before any byte."""
    RESET_MID = "reset-mid"
    HALF_LINE = "half-line"
    """Mid: half of the next line, then FIN without a final chunk."""
    CLOSE_MID = "close-mid"
    """Mid: FIN without a final chunk, as a server that was stopped."""
    CLEAN_END = "clean-end"
    """Mid: a proper end of the body, but no `done`, no `[DONE]`."""
    ERROR_LINE = "error-line"
    """Mid: the runner dies. /api says so in a line; /v1 loses it, as Ollama does. Not streaming: 500."""
    STATUS = "status"
    """`status` with `words` in the error shape of the path, before any byte."""
    GARBAGE = "garbage"
    """Mid: bytes that are neither UTF-8 nor JSON, as a line, then FIN without a final chunk."""
    GARBAGE_HTTP = "garbage-http"
    """Bytes that are no HTTP in place of the head, then FIN."""
    ENDLESS_LINE = "endless-line"
    """Mid: `size` bytes without a newline, then the answer goes on."""
    WRONG_LENGTH = "wrong-length"
    """A Content-Length larger than the body, then FIN."""
    DRIP = "drip"
    """One byte each `seconds`, to the end."""
    LOAD_FAILS = "load-fails"
    """The next load ends in `status`."""


@dataclass(eq=False, slots=True)
class Fault:
    """One thing that goes wrong."""

    kind: Kind
    after: int = 0
    """Lines or events of the answer that go through before."""
    model: str | None = None
    """Only requests for this model; None: any."""
    path: str | None = None
    """Only requests to this path; None: any inference path."""
    times: int = 1
    """For so many requests; -1: for ever."""
    status: int = 500
    words: str = ""
    """What the error says; empty: Ollama's own words for it."""
    size: int = 100_000_000
    seconds: float = 0.01
    retry_after: str | None = None
    """A Retry-After header beside STATUS."""

    @property
    def said(self) -> str:
        """The words of its error."""
        return self.words or (LOAD_FAILED if self.kind == Kind.LOAD_FAILS else RUNNER_DIED)


@dataclass(eq=False, slots=True)
class Gate:
    """A place where a request is held until the test lets it go on.

    `await gate.reached()` until a request stands there; `gate.release()` lets it go, `gate.release(1)` for one line.
    """

    after: int = 0
    """Lines of the answer that go through before; 0 holds before the first byte, in the slot."""
    model: str | None = None
    path: str | None = None
    at: str = "answer"
    """`answer`, or `load`: holds the load of `model` just before it is through."""
    times: int = 1
    _allowed: int = 0
    _open: bool = False
    _standing: int = 0
    _bell: Bell = field(default_factory=Bell)

    async def reached(self, timeout: float = 60) -> Self:
        """Wait until somebody stands at the gate.

        Raises:
            TimeoutError: nobody came in `timeout` seconds.
        """
        async with asyncio.timeout(timeout):
            while not self._standing:
                await self._bell.wait()
        return self

    @property
    def standing(self) -> int:
        """Requests that are held here now."""
        return self._standing

    async def release(self, lines: int | None = None) -> None:
        """Let `lines` more lines through, or all that comes."""
        if lines is None:
            self.open()
        else:
            self._allowed += lines
            self._bell.ring()

    def open(self) -> None:
        """Let all through, now and later."""
        self._open = True
        self._bell.ring()

    async def passed(self, lines: int) -> None:
        """The answering code, about to write line number `lines` (0 is the first): wait until it may."""
        if self._lets(lines):
            return
        self._standing += 1
        self._bell.ring()
        try:
            while not self._lets(lines):
                await self._bell.wait()
        finally:
            self._standing -= 1

    def _lets(self, lines: int) -> bool:
        return self._open or lines < self.after + self._allowed


@dataclass(slots=True)
class Plan:
    """All faults and gates that still wait for their request."""

    faults: list[Fault] = field(default_factory=list)
    gates: list[Gate] = field(default_factory=list)
    all_gates: list[Gate] = field(default_factory=list)
    """Those too at which somebody stands already."""

    def add_fault(self, fault: Fault) -> Fault:
        """Script a fault."""
        self.faults.append(fault)
        return fault

    def add_gate(self, gate: Gate) -> Gate:
        """Script a gate."""
        self.gates.append(gate)
        self.all_gates.append(gate)
        return gate

    def fault_for(self, model: str, path: str, *, by_path: bool = False) -> Fault | None:
        """The fault this request runs into, used up by it; `by_path`: only one that names this path."""
        for fault in self.faults:
            if fault.kind != Kind.LOAD_FAILS and _fits(fault, model, path) and not (by_path and fault.path is None):
                _use_up(fault, self.faults)
                return fault
        return None

    def gate_for(self, model: str, path: str, *, by_path: bool = False) -> Gate | None:
        """The gate this request will stand at; `by_path`: only one that names this path."""
        for gate in self.gates:
            if gate.at == "answer" and _fits(gate, model, path) and not (by_path and gate.path is None):
                _use_up(gate, self.gates)
                return gate
        return None

    async def loading(self, model: str) -> Fault | None:
        """Called at the end of a load: waits at its gate; the fault it fails by, if it does."""
        for gate in self.gates:
            if gate.at == "load" and _fits(gate, model, None):
                _use_up(gate, self.gates)
                await gate.passed(gate.after)
                break
        for fault in self.faults:
            if fault.kind == Kind.LOAD_FAILS and _fits(fault, model, None):
                _use_up(fault, self.faults)
                return fault
        return None

    def clear(self) -> None:
        """Nothing more goes wrong; who stands at a gate goes on."""
        self.faults.clear()
        for gate in self.all_gates:
            gate.open()
        self.gates.clear()
        self.all_gates.clear()


def _fits(entry: Fault | Gate, model: str, path: str | None) -> bool:
    if entry.model is not None and canonical(entry.model) != canonical(model):
        return False
    return path is None or entry.path in {None, path}


def _use_up(entry: Fault | Gate, entries: list[Any]) -> None:
    entry.times -= 1
    if entry.times == 0:
        entries.remove(entry)
