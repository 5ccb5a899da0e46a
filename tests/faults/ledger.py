"""The ledger of a fault run: what was asked, what came back, what was done to whom. Outside of the system, and append-only.

Callers and receivers write here, the injectors note each blow, the judge reads it afterwards. It knows nothing of the
store: whatever foreman says of itself is checked against this.
"""

from __future__ import annotations

import json
import re
import time
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import Any

MARK = re.compile(r"(\d+-\d+-\d+)\.(\d+)")


@dataclass(slots=True)
class Said:
    """The marks in one answer (foreman.demo.ollama --marked)."""

    runs: list[str]
    """The runs it was made of, in order of appearance."""
    places: list[int]

    @classmethod
    def of(cls, text: str) -> Said:
        found = MARK.findall(text)
        return cls(list(dict.fromkeys(run for run, _ in found)), [int(place) for _, place in found])

    @property
    def spliced(self) -> bool:
        """Made of more than one run, or with a gap or a repetition in it."""
        return len(self.runs) > 1 or self.places != list(range(len(self.places)))

    @property
    def began(self) -> float:
        """When its run reached the target, seconds since 1970."""
        return int(self.runs[-1].rpartition("-")[2]) / 1000 if self.runs else 0.0


@dataclass(slots=True)
class Try:
    """One request of a sync call. Times are seconds since 1970."""

    call: int
    gateway: str
    path: str
    tokens: int
    began: float
    ended: float = 0.0
    status: int | None = None
    job_id: str = ""
    outcome: str = ""
    """`whole`, `error <code>` (in words, before or after the first byte), `broken` (the connection), `silent` (an end
    without an end mark or an error), `hung`."""
    said: Said | None = None
    words: str = ""
    keyed: bool = False
    """It came with the call's Idempotency-Key."""


@dataclass(slots=True)
class Sent:
    """One async job."""

    number: int
    path: str
    """Of its receiver."""
    tokens: int
    began: float
    job_id: str = ""
    accepted: float | None = None
    refused: str = ""
    """An answer that was none of yes, no, or later."""
    ids: set[str] = field(default_factory=set)


@dataclass(slots=True)
class Blow:
    """One thing that was done."""

    kind: str
    whom: str
    at: float
    till: float


@dataclass
class Ledger:
    """All of it."""

    seed: int
    tries: list[Try] = field(default_factory=list)
    calls: Counter[str] = field(default_factory=Counter)
    """How the sync calls ended for their callers."""
    sent: list[Sent] = field(default_factory=list)
    blows: list[Blow] = field(default_factory=list)
    kills: dict[str, float] = field(default_factory=dict)
    """Worker id → when it was killed."""
    terms: dict[str, float] = field(default_factory=dict)
    """Worker id → when it got its SIGTERM."""
    trouble: list[str] = field(default_factory=list)
    """Breaches that were seen while it ran."""
    began: float = field(default_factory=time.time)
    lane_of: dict[str, list[tuple[float, int]]] = field(default_factory=lambda: defaultdict(list))

    def blow(self, kind: str, whom: str, at: float, till: float | None = None) -> None:
        """Note what was done, and when it was over."""
        self.blows.append(Blow(kind, whom, at, till or time.time()))

    def count(self, *kinds: str) -> int:
        """How many blows of these kinds."""
        return sum(blow.kind in kinds for blow in self.blows)

    def between(self, began: float, ended: float, *kinds: str) -> list[Blow]:
        """The blows of these kinds that touch a span of time."""
        return [blow for blow in self.blows if blow.kind in kinds and blow.at <= ended and blow.till >= began]


def words_of(path: str, body: bytes) -> tuple[str, bool, str]:
    """What an answer said, whether it came to its end mark, and its error (empty: none)."""
    text: list[str] = []
    whole, error = False, ""
    events = path.startswith("/v1/") and not body.lstrip().startswith(b"{")
    lines = (line.strip() for line in body.decode(errors="replace").split("\n"))
    for line in (line[5:].strip() for line in lines if line.startswith("data:")) if events else lines:
        if line == "[DONE]":
            whole = True
        if line in {"", "[DONE]"}:
            continue
        try:
            item: Any = json.loads(line)
        except ValueError:
            error = f"no JSON: {line[:80]}"
            continue
        if "error" in item:
            error = item["error"]["message"] if isinstance(item["error"], dict) else str(item["error"])
        for choice in item.get("choices", ()):
            part = choice.get("delta") or choice.get("message") or {}
            text.append(part.get("content") or "")
        text.append((item.get("message") or {}).get("content", ""))
        whole = whole or item.get("done") is True or item.get("object") == "chat.completion"
    return "".join(text), whole, error
