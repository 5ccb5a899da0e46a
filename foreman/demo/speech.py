"""What a fake model says: the same words for the same question, in as many tokens as asked for.

The answering code gives me an Ask and gets the pieces of an answer, one per token, and why it ended. No clock, no
chance: two calls with one question are equal, two questions differ.
"""

from __future__ import annotations

import json
import math
import re
import struct
import zlib
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from .asks import Ask

WORDS: Final = [
    "The",
    "foreman",
    "walks",
    "along",
    "the",
    "yard",
    "and",
    "looks",
    "at",
    "every",
    "crane",
    "before",
    "the",
    "shift",
    "begins",
    ".",
    "He",
    "knows",
    "which",
    "load",
    "is",
    "heavy",
    ",",
    "who",
    "waits",
    "since",
    "morning",
    "and",
    "what",
    "may",
    "stand",
    "until",
    "night",
    ".",
    "Nobody",
    "shouts",
    ";",
    "each",
    "truck",
    "is",
    "filled",
    "in",
    "its",
    "turn",
    ",",
    "and",
    "the",
    "gate",
    "stays",
    "open",
    "for",
    "the",
    "next",
    ".",
]

STARTS: Final = tuple(index for index, word in enumerate(WORDS) if word.isalpha())
"""Where an answer may begin."""

THOUGHTS: Final = ("Let", " me", " see", " what", " is", " asked", ".")

_TOKEN = re.compile(r"\w{1,6}|\s+|[^\w\s]")


@dataclass(frozen=True, slots=True)
class Piece:
    """One token, or one tool call."""

    text: str
    thinking: bool = False
    tool_calls: tuple[dict[str, Any], ...] = ()


@dataclass(slots=True)
class Speech:
    """A whole answer."""

    pieces: list[Piece] = field(default_factory=list)
    reason: str = "stop"

    @property
    def text(self) -> str:
        """What it says."""
        return "".join(piece.text for piece in self.pieces if not piece.thinking)

    @property
    def thinking(self) -> str:
        """What it thought."""
        return "".join(piece.text for piece in self.pieces if piece.thinking)

    @property
    def tool_calls(self) -> list[dict[str, Any]]:
        """All its calls of tools."""
        return [call for piece in self.pieces for call in piece.tool_calls]


def speak(ask: Ask, tokens: int) -> Speech:
    """The answer to `ask`: `tokens` tokens, fewer where num_predict, a stop sequence or the context says so."""
    pieces = [Piece(text, thinking=True) for text in THOUGHTS] if ask.think else []
    if ask.tools and not ask.tool_answered:
        pieces.append(Piece("", tool_calls=(_call(ask),)))
    elif ask.format is not None:
        pieces += [Piece(text) for text in _TOKEN.findall(json.dumps(_example(ask), indent=1))]
    else:
        pieces += _words(ask, tokens)
    reason = "stop"
    pieces, stopped = _stopped(pieces, ask.stop)
    limit = ask.limit
    if limit is not None and len(pieces) > limit:
        pieces, reason = pieces[:limit], "length"
    elif limit is not None and len(pieces) == limit and not stopped:
        reason = "length"
    return Speech(pieces, reason)


def mark(speech: Speech, run: str) -> None:
    """Replace each word by `<run>.<place>`, so that an answer made of two runs shows, and one with a gap."""
    speech.pieces = [replace(piece, text=f" {run}.{place}") for place, piece in enumerate(speech.pieces)]


def logprob(token: str, place: int = 0) -> float:
    """A steady log probability for a token, the likelier the smaller its `place` among the alternatives."""
    return -((zlib.crc32(token.encode()) % 9000 + 1) / 10_000 + place)


def embedding(text: str, length: int) -> list[float]:
    """A vector of length 1 and `length` numbers, the same for the same text."""
    seed = zlib.crc32(text.encode())
    numbers = [math.sin((seed % 9973 + 1) * (index + 1) * 0.7) for index in range(length)]
    norm = math.sqrt(sum(number * number for number in numbers)) or 1.0
    return [struct.unpack("<f", struct.pack("<f", number / norm))[0] for number in numbers]


def _words(ask: Ask, tokens: int) -> list[Piece]:
    start = STARTS[zlib.crc32(ask.prompt.encode()) % len(STARTS)]
    words = [WORDS[(start + index) % len(WORDS)] for index in range(tokens)]
    return [Piece(f" {word}" if index and word.isalpha() else word) for index, word in enumerate(words)]


def _stopped(pieces: list[Piece], stops: list[str]) -> tuple[list[Piece], bool]:
    """Cut the answer before the first stop sequence."""
    text = ""
    for index, piece in enumerate(pieces):
        if piece.thinking:
            continue
        text += piece.text
        for stop in stops:
            at = text.find(stop) if stop else -1
            if at >= 0:
                rest = piece.text[: max(0, at - (len(text) - len(piece.text)))]
                return pieces[:index] + ([Piece(rest)] if rest else []), True
    return pieces, False


def _call(ask: Ask) -> dict[str, Any]:
    function = ask.tools[0].get("function") or {}
    arguments = _instance(function.get("parameters") or {}, ask)
    number = zlib.crc32(ask.prompt.encode()) % 36**6
    return {
        "id": f"call_{number:08x}",
        "function": {
            "index": 0,
            "name": function.get("name", ""),
            "arguments": arguments if isinstance(arguments, dict) else {},
        },
    }


def _example(ask: Ask) -> Any:
    if isinstance(ask.format, dict):
        return _instance(ask.format, ask)
    return {"answer": " ".join(piece.text.strip() for piece in _words(ask, 4))}


def _instance(schema: dict[str, Any], ask: Ask) -> Any:
    """A small value that a JSON schema allows."""
    if schema.get("enum"):
        return schema["enum"][0]
    if "const" in schema:
        return schema["const"]
    for choice in ("anyOf", "oneOf", "allOf"):
        if schema.get(choice):
            return _instance(schema[choice][0], ask)
    kind = schema.get("type", "object" if "properties" in schema else "string")
    if isinstance(kind, list):
        kind = kind[0]
    if kind == "object":
        return {key: _instance(inner, ask) for key, inner in (schema.get("properties") or {}).items()}
    if kind == "array":
        return [_instance(schema.get("items") or {}, ask)]
    simple = {"integer": 42, "number": 4.2, "boolean": True, "null": None}
    return simple.get(kind, WORDS[zlib.crc32(ask.prompt.encode()) % len(WORDS)])
