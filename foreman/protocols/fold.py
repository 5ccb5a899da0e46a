"""A native stream folded into the one answer that `stream: false` would have returned.

The worker feeds me the lines of an async job's chat or generate as they come and takes the whole at the end. I go by
Ollama's own way (server/routes.go): the last line, with the texts, tool calls and logprobs of all lines joined in it.
What I join I join as the target spelled it, so that its numbers and escapes stay as they are. I refuse what is no line
of such a stream, and an answer past the limit.
"""

from __future__ import annotations

from typing import Final

from foreman.core.errors import Code, Failure
from foreman.protocols.goscan import GoJSONError, scan

PATHS: Final = frozenset({"/api/chat", "/api/generate"})
"""The paths whose streams can be folded."""

_TEXTS: Final = frozenset({"content", "thinking", "response"})
_LISTS: Final = frozenset({"tool_calls", "logprobs"})
_ORDER: Final = (
    *("model", "remote_model", "remote_host", "created_at", "message", "response", "thinking", "done", "done_reason"),
    *("context", "total_duration", "load_duration", "prompt_eval_count", "prompt_eval_duration", "eval_count"),
    *("eval_duration", "tool_calls", "_debug_info", "logprobs"),
)
"""The members of an answer as Ollama writes them (api/types.go): where one stands that the last line does not have."""
_MESSAGE_ORDER: Final = ("role", "content", "thinking", "images", "tool_calls", "tool_name", "tool_call_id")


class Fold:
    """One streamed answer on its way to a whole.

    Args:
        limit: bytes that the whole may have (`FOREMAN_MAX_ANSWER`).
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._size = 0
        self._own = _Joined()
        self._message = _Joined()
        self._last: dict[str, bytes] = {}

    def feed(self, line: bytes) -> None:
        """Take the next line; blank ones count for nothing.

        Raises:
            Failure: UPSTREAM_ERROR: no JSON object, or past the limit.
        """
        if not line.strip():
            return
        self._last = _members(line)
        self._size += self._own.take(self._last)
        message = self._last.get("message", b"")
        if message.startswith(b"{"):
            self._size += self._message.take(_members(message))
        if self._size > self._limit:
            raise too_long(self._limit)

    def whole(self) -> bytes:
        """The answer, without a newline. After the last line; raises Failure where there was none, or past the limit."""
        if not self._last:
            raise Failure(Code.UPSTREAM_ERROR, "the target's answer is empty")
        members = self._own.put(self._last, _ORDER)
        message = self._last.get("message", b"")
        if message.startswith(b"{"):
            members["message"] = _object(self._message.put(_members(message), _MESSAGE_ORDER))
        body = _object(members)
        if len(body) > self._limit:
            raise too_long(self._limit)
        return body


def too_long(limit: int) -> Failure:
    """The failure of an answer past `limit` bytes."""
    return Failure(
        Code.UPSTREAM_ERROR,
        f"the answer has more than {limit} bytes: ask for less (num_predict), or raise FOREMAN_MAX_ANSWER",
    )


class _Joined:
    """The members of one object that are joined over all lines: the insides of strings and of lists, as spelled."""

    def __init__(self) -> None:
        self._texts: dict[str, bytearray] = {}
        self._items: dict[str, bytearray] = {}

    def take(self, members: dict[str, bytes]) -> int:
        """Take what a line brings; by how many bytes the whole grows."""
        size = 0
        for name in members.keys() & _TEXTS:
            size += _join(self._texts, name, members[name], b'"', b"")
        for name in members.keys() & _LISTS:
            size += _join(self._items, name, members[name], b"[", b",")
        return size

    def put(self, last: dict[str, bytes], order: tuple[str, ...]) -> dict[str, bytes]:
        """The members of the last line with everything that was joined in them."""
        found = dict(last)
        for name, text in self._texts.items():
            found = _placed(found, name, b'"%b"' % bytes(text), order)
        for name, items in self._items.items():
            found = _placed(found, name, b"[%b]" % bytes(items), order)
        return found


def _join(joined: dict[str, bytearray], name: str, value: bytes, opening: bytes, between: bytes) -> int:
    """Put the inside of a string or a list behind what there is of it; null and what is empty bring nothing."""
    inside = value[1:-1].strip() if between else value[1:-1]
    if not value.startswith(opening) or not inside:
        return 0
    so_far = joined.setdefault(name, bytearray())
    so_far += between + inside if so_far else inside
    return len(between + inside)


def _placed(members: dict[str, bytes], name: str, value: bytes, order: tuple[str, ...]) -> dict[str, bytes]:
    """The members with one more, in its place, or with the value it has now."""
    if name in members:
        return members | {name: value}
    after = set(order[: order.index(name)])
    names = list(members)
    at = max((place + 1 for place, other in enumerate(names) if other in after), default=0)
    names.insert(at, name)
    return {other: members.get(other, value) for other in names}


def _members(text: bytes) -> dict[str, bytes]:
    """The members of a JSON object, each as it is spelled. Raises Failure."""
    try:
        kind, spans = scan(text)
    except GoJSONError as error:
        raise Failure(Code.UPSTREAM_ERROR, f"the target sent a line that is no JSON ({error})") from error
    if kind != "object":
        raise Failure(Code.UPSTREAM_ERROR, f"the target sent a line that is a JSON {kind}")
    return {
        text[span.key_start + 1 : span.key_end - 1].decode("utf-8", "replace"): text[span.start : span.end]
        for span in spans
    }


def _object(members: dict[str, bytes]) -> bytes:
    return b"{" + b",".join(b'"%s":%s' % (name.encode(), value) for name, value in members.items()) + b"}"
