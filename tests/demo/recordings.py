"""The recordings of a real Ollama as test data, and the means to send the same requests and to compare answers.

test_honesty and test_scenarios read me. A body is compared by its shape: keys in order and kinds of values, with the few
values that carry meaning; an error is compared word for word.
"""

from __future__ import annotations

import asyncio
import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from foreman.demo.ollama import FakeOllama, Model
from tests.exchange import Answer, read_answer, read_head

DATA = Path(__file__).parent.parent / "data" / "transcripts"
SMOL, SECOND, THIRD = (
    "db7e8ce70cf0cd17a2d1646c58d5666cec49fa51d39f0c958b3f5b2b06337617",
    "edf2b38360cf1d729a44bb87dc77b2a396eb3299c2cc9aba2ddfff8d8037bde6",
    "f" * 64,
)
MEANINGFUL = frozenset(
    [
        "model",
        "name",
        "done",
        "done_reason",
        "role",
        "object",
        "finish_reason",
        "type",
        "stop_reason",
        "status",
        "owned_by",
        "error",
        "code",
        "param",
        "version",
        "id",
    ]
)
"""Keys whose values must agree, unless they are numbers somebody drew."""
DRAWN = re.compile(r"(chatcmpl|cmpl|resp|msg|req|rs|fc|call)[-_][0-9a-f_]+")


def read(name: str) -> list[dict[str, Any]]:
    """The recordings of one file."""
    return [json.loads(line) for line in (DATA / name).read_text().splitlines()]


def recorded_server(**settings: Any) -> FakeOllama:
    """A fake with the models of the recorded server."""
    able = {"capabilities": ("completion",), "embedding_length": 576, "thinks_unasked": False}
    models = [
        Model("smollm2:135m", SMOL, **able),
        Model("alias:latest", SMOL, **able),
        Model("second:latest", SECOND, **able),
        Model("third:latest", THIRD, **able),
    ]
    return FakeOllama(models, **{"tokens": 60, **settings})


def request_bytes(request: dict[str, Any], host: str) -> bytes:
    """The recorded request as bytes, to `host`."""
    headers = [tuple(pair) for pair in request.get("headers", [])]
    named = {key.lower() for key, _ in headers}
    lines = [f"{request['method']} {request['path']} HTTP/1.1"]
    if "host" not in named:
        lines.append(f"Host: {host}")
    lines += [f"{key}: {value.replace('127.0.0.1:11434', host)}" for key, value in headers]
    body = request.get("body", "").encode()
    if body or request["method"] in {"POST", "PUT", "DELETE"}:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


async def send(fake: FakeOllama, raw: bytes, *, head_only: bool = False, interim: bool = False) -> Answer:
    """Send raw bytes, read one answer, close; `interim`: another one comes before it."""
    async with asyncio.timeout(60):
        reader, writer = await asyncio.open_connection("127.0.0.1", int(fake.url.rpartition(":")[2]))
        try:
            writer.write(raw)
            first = await read_head(reader) if interim else None
            answer = await read_answer(reader, head_only=head_only)
            if first is not None:
                answer.headers.append(("interim", str(first.status)))
            return answer
        finally:
            writer.close()


@dataclass(slots=True)
class Diff:
    """How a fake's answer differs from a recorded one: aspect → (recorded, fake)."""

    found: dict[str, tuple[Any, Any]] = field(default_factory=dict)

    def note(self, aspect: str, recorded: Any, fake: Any) -> None:
        """Enter a difference, if it is one."""
        if recorded != fake:
            self.found[aspect] = (recorded, fake)


FRAMINGS = {"length": "content-length", "close": "until-close", "chunked": "chunked", "none": "none"}


def compare(recorded: dict[str, Any], answer: Answer, *, head_only: bool = False) -> Diff:
    """Hold an answer against the recorded one."""
    diff = Diff()
    diff.note("status", recorded["status"], answer.status)
    diff.note("headers", sorted(map(tuple, recorded["headers"])), _headers(answer))
    diff.note(
        "interim",
        [str(status) for status in recorded.get("interim", [])],
        [value for key, value in answer.headers if key == "interim"],
    )
    framing = "none" if recorded["status"] == 204 else FRAMINGS[answer.framing]
    if not head_only:
        diff.note("framing", recorded["framing"], framing)
    body = answer.body.decode()
    if recorded["status"] >= 400:
        diff.note("body", _undrawn(recorded["body"]), _undrawn(body))
        return diff
    kind = answer.header("content-type") or ""
    if kind.startswith("application/x-ndjson"):
        _compare_lines(diff, recorded, answer, body)
    elif kind.startswith("text/event-stream"):
        _compare_events(diff, recorded, answer)
    elif kind.startswith("application/json") and body:
        diff.note("ending", recorded["body"].endswith("\n"), body.endswith("\n"))
        diff.note("shape", shape(json.loads(recorded["body"])), shape(json.loads(body)))
    else:
        diff.note("body", recorded["body"], body)
    return diff


def _headers(answer: Answer) -> list[tuple[str, str]]:
    left_out = {"date", "content-length", "transfer-encoding", "interim"}
    return sorted((key, value) for key, value in answer.headers if key.lower() not in left_out)


def _undrawn(text: str) -> str:
    return DRAWN.sub("drawn", text)


def _compare_lines(diff: Diff, recorded: dict[str, Any], answer: Answer, body: str) -> None:
    """NDJSON: one line a chunk, every line of the recorded kind."""
    told = [json.loads(line) for line in recorded["body"].splitlines() if line.strip()]
    said = [json.loads(line) for line in body.splitlines()]
    if answer.framing == "chunked":
        per_chunk = {(chunk.count(b"\n"), chunk[-1:]) for chunk in answer.chunks}
        diff.note("one line a chunk", {(1, b"\n")}, per_chunk)
    diff.note("first line", shape(told[0]), shape(said[0]))
    diff.note("last line", shape(told[-1]), shape(said[-1]))
    diff.note("lines between", {_key(line) for line in told[:-1]}, {_key(line) for line in said[:-1]})


def _compare_events(diff: Diff, recorded: dict[str, Any], answer: Answer) -> None:
    """SSE: the same kinds of events, in the same groups of chunks."""
    told, said = recorded["body"], answer.body.decode()
    diff.note("events", _runs(_events(told)), _runs(_events(said)))
    sizes = [size for size in recorded.get("chunks", []) if isinstance(size, int) and size]
    if len(sizes) == len(recorded.get("chunks", [])) - 1:  # none cut
        pieces, at = [], 0
        for size in sizes:
            pieces.append(told.encode()[at : at + size])
            at += size
        diff.note(
            "events a chunk",
            _runs([piece.count(b"\n\n") for piece in pieces]),
            _runs([chunk.count(b"\n\n") for chunk in answer.chunks]),
        )


def _events(text: str) -> list[Any]:
    events: list[Any] = []
    for block in text.split("\n\n"):
        lines = dict(line.split(": ", 1) for line in block.splitlines() if line)
        if lines:
            data = lines["data"]
            events.append((lines.get("event"), data if data == "[DONE]" else json.dumps(shape(json.loads(data)))))
    return events


def _runs(events: list[Any]) -> list[Any]:
    """Events without repetition: how many tokens there are does not matter."""
    return [event for index, event in enumerate(events) if index == 0 or events[index - 1] != event]


def _key(line: dict[str, Any]) -> str:
    return json.dumps(shape(line))


def shape(value: Any, key: str = "") -> Any:
    """The kinds of values under their keys, in order; meaningful strings as they are."""
    if isinstance(value, dict):
        return {name: shape(inner, name) for name, inner in value.items()}
    if key == "tensors":
        return [list(item) for item in value[:1]]
    if isinstance(value, list):
        kinds: list[Any] = []
        for item in value:
            if isinstance(item, str) and item.startswith("…cut"):
                continue
            found = shape(item, key)
            if found not in kinds:
                kinds.append(found)
        # Ollama's own order of models of one second changes from call to call.
        return sorted(kinds, key=json.dumps) if key in {"models", "data"} else kinds
    if isinstance(value, bool) or value is None:
        return value
    if isinstance(value, int | float):
        return "number"
    return _undrawn(value) if key in MEANINGFUL else "text"
