"""The fake is honest: each recorded request of a real Ollama is sent to it, in order, and its answer held against the record.

Where they differ, EXCEPTIONS says why not; an exception that is no longer needed is red too.
"""

from __future__ import annotations

import asyncio
import json

import pytest

from tests.demo.recordings import Diff, compare, read, recorded_server, request_bytes, send

NOT_REPLAYED = {
    "131-err-content-length-lie-short": "aiohttp closes at a half-closed connection and gives the handler no body to refuse",
}
RECORDED = {row["name"]: row for row in read("exchanges.jsonl") if row["name"] not in NOT_REPLAYED}
HI = {"model": "smollm2:135m", "messages": [{"role": "user", "content": "Say hi."}]}
EIGHT = {"options": {"temperature": 0, "seed": 0, "num_predict": 8}}


def _chunked(body: bytes) -> bytes:
    return b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in (body[:10], body[10:])) + b"0\r\n\r\n"


def _raw(name: str, host: str) -> bytes | None:
    """Requests that the recordings hold only by name: what is odd is the HTTP around the body."""
    post = f"POST /api/chat HTTP/1.1\r\nHost: {host}\r\n".encode()
    whole = json.dumps({**HI, "stream": False, **EIGHT}).encode()
    if name.startswith("019"):
        body = json.dumps({**HI, **EIGHT}).encode()
        return b"POST /api/chat HTTP/1.0\r\nHost: %b\r\nContent-Length: %d\r\n\r\n" % (host.encode(), len(body)) + body
    if name.startswith("028"):
        return post + b"Transfer-Encoding: chunked\r\n\r\n" + _chunked(whole)
    if name.startswith("127"):
        return b"GET / HTTP/3.0\r\nHost: x\r\n\r\n"
    if name.startswith("128"):
        return b"GARBAGE\r\n\r\n"
    if name.startswith("129"):
        return b"GET / HTTP/1.1\r\n\r\n"
    if name.startswith("274"):
        body = json.dumps({**HI, "stream": False, "options": {"num_predict": 1}, "junk": "x" * (20 << 20)}).encode()
        return post + b"Content-Length: %d\r\n\r\n" % len(body) + body
    return None


async def _replay() -> dict[str, Diff]:
    found = {}
    async with recorded_server() as fake:
        host = fake.url.removeprefix("http://")
        for name, row in RECORDED.items():
            head_only = row["request"]["method"] == "HEAD"
            raw = _raw(name, host) or request_bytes(row["request"], host)
            answer = await send(fake, raw, head_only=head_only, interim="interim" in row["response"])
            found[name] = compare(row["response"], answer, head_only=head_only)
    return found


@pytest.fixture(scope="module")
def replayed() -> dict[str, Diff]:
    """Every recorded request, answered by one fake in the recorded order."""
    return asyncio.run(_replay())


_PARSER = "aiohttp refuses it before the fake sees it"
_WORDS = "whether an answer ends within 16 tokens is up to the model's own words"
EXCEPTIONS: dict[str, dict[str, str]] = {
    "020-chat-done-stop": {"last line": _WORDS},
    "022-chat-stop-sequence": {"last line": _WORDS},
    "127-err-bad-http-version": dict.fromkeys(("status", "headers", "framing", "body"), _PARSER),
    "128-err-garbage-request": dict.fromkeys(("headers", "framing", "body"), _PARSER),
    "129-err-no-host-header": dict.fromkeys(("headers", "framing", "body"), _PARSER),
    "152-format-schema": {"shape": _WORDS},
    "180-v1-chat-json-schema": {"shape": _WORDS},
}
"""Recording → aspect → why the fake differs there."""


@pytest.mark.parametrize("name", RECORDED)
def test_agrees_with_the_recorded_server(replayed: dict[str, Diff], name: str) -> None:
    found = {aspect: pair for aspect, pair in replayed[name].found.items() if aspect not in EXCEPTIONS.get(name, {})}
    assert not found
    needless = set(EXCEPTIONS.get(name, {})) - set(replayed[name].found)
    assert not needless, f"no longer an exception: {needless}"
