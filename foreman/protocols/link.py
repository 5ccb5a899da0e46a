"""The frames of the link between a worker and a gateway: bytes in, frames out, and the table of what may follow what.

link/wire.py feeds me what a socket gave and sends what I encode; link/run.py asks my table about each call of a run. I
own no socket, clock or randomness and refuse frames past `MAX_FRAME`. How two ends prove who they are before the first
frame of a job stands in link_hello.py. A frame: length u32 · kind u8 · job number u32 · payload, big-endian.
"""

from __future__ import annotations

import enum
import json
import struct
from typing import Any, Final

from foreman.core.errors import Code, Failure

HEADER: Final = struct.Struct("!IBI")
"""Payload length in bytes, kind, job number (0: the connection itself)."""
HEADER_SIZE: Final = HEADER.size
MAX_FRAME: Final = 16 * 1024 * 1024
"""The longest payload in bytes, and so the longest unit of an answer. A longer one is skipped and ends its job."""
MAX_SKIP: Final = 4 * MAX_FRAME
"""Past this a length is no length: the border between frames is lost, and with it the connection."""

_EPOCH: Final = struct.Struct("!Q")

Frame = tuple[int, int, bytes]
"""Kind, job number, payload. The kind stays a bare int: a newer end may send kinds this one has no word for."""


class Kind(enum.IntEnum):
    """What a frame says. Numbers are fixed on the wire; whoever meets an unknown one skips the frame."""

    BROKEN = 0
    """Never sent: the decoder's word for a frame it had to skip; the payload says why."""

    HELLO = 1
    """Worker → gateway: versions, ids, nonce."""
    CHALLENGE = 2
    """Gateway → worker: the version chosen, its nonce."""
    PROOF = 3
    """Worker → gateway: it knows the secret."""
    WELCOME = 4
    """Gateway → worker: so does the gateway. From here on jobs may travel."""
    REJECT = 5
    """Gateway → worker: no link, and why (JSON); the connection ends."""
    PING = 6
    PONG = 7

    STARTED = 16
    """Worker → gateway, as all up to BACK: a job was claimed (epoch u64, job id); binds the job number."""
    WORKING = 17
    HEAD = 18
    """Status, headers and framing (JSON)."""
    DATA = 19
    """One unit of the answer, as it is."""
    END = 20
    ERROR = 21
    """The failure (JSON)."""
    BACK = 22
    """The job went back into its lane."""
    HELD = 24
    """The target waits for its reader (1), or goes on (0): one byte."""

    CREDIT = 32
    """Gateway → worker, as all that follow: the caller took so many bytes of DATA more (u64)."""
    CANCEL = 33
    """Stop this run (code)."""
    REFUSED = 34
    """Nobody waits for this job here, or a later epoch runs it already (code)."""
    SPOOL = 36
    """So far the worker may run ahead of what is credited, from now on (u64)."""


class Stage(enum.Enum):
    """How far a run has come, as both ends see it."""

    STARTED = enum.auto()
    WORKING = enum.auto()
    BODY = enum.auto()
    """The head was said; units follow."""
    OVER = enum.auto()


MOVES: Final[dict[tuple[Stage, Kind], Stage]] = {
    (Stage.STARTED, Kind.WORKING): Stage.WORKING,
    (Stage.STARTED, Kind.HEAD): Stage.BODY,
    (Stage.STARTED, Kind.ERROR): Stage.OVER,
    (Stage.STARTED, Kind.BACK): Stage.OVER,
    (Stage.WORKING, Kind.HEAD): Stage.BODY,
    (Stage.WORKING, Kind.ERROR): Stage.OVER,
    (Stage.WORKING, Kind.BACK): Stage.OVER,
    (Stage.BODY, Kind.DATA): Stage.BODY,
    (Stage.BODY, Kind.HELD): Stage.BODY,
    (Stage.BODY, Kind.END): Stage.OVER,
    (Stage.BODY, Kind.ERROR): Stage.OVER,
    (Stage.BODY, Kind.BACK): Stage.OVER,
}
"""Every legal move of a run. STARTED → HEAD: a job claimed straight into `working`. What isn't here ends its job."""


class FrameError(ValueError):
    """A frame that says nothing: its payload is not what its kind promises, or its length is no length."""


class Decoder:
    """Cuts the bytes of one direction of a connection back into frames. Time and copies are linear in the bytes."""

    __slots__ = ("_have", "_need", "_parts", "_skip", "limit")

    def __init__(self, limit: int = MAX_FRAME) -> None:
        self.limit = limit
        """The longest payload taken, in bytes: small until the hello is over."""
        self._parts: list[bytes] = []
        self._have = 0
        self._need = 0
        self._skip = 0

    def feed(self, chunk: bytes) -> list[Frame]:
        """The frames that are complete with `chunk`, in order.

        A payload past `limit` is never held: it comes as one BROKEN frame with its job number, and is swallowed.

        Raises:
            FrameError: a length past `MAX_SKIP`; nothing more can be read from this connection.
        """
        if self._parts:
            self._parts.append(chunk)
            self._have += len(chunk)
            if self._have < self._need:
                return []
            chunk = b"".join(self._parts)
            self._parts.clear()
        position = min(self._skip, len(chunk))
        self._skip -= position
        size = len(chunk)
        frames: list[Frame] = []
        need = HEADER_SIZE
        while size - position >= HEADER_SIZE:
            length, kind, job = HEADER.unpack_from(chunk, position)
            start = position + HEADER_SIZE
            end = start + length
            if length > self.limit:
                frames.append(self._oversized(length, kind, job))
                position = min(end, size)
                self._skip = end - position
                continue
            if end > size:
                need += length
                break
            frames.append((kind, job, chunk[start:end]))
            position = end
        if position < size:
            self._parts.append(chunk[position:])
            self._have = size - position
            self._need = need
        return frames

    @staticmethod
    def _oversized(length: int, kind: int, job: int) -> Frame:
        if length > MAX_SKIP:
            raise FrameError(f"a frame of kind {kind} claims {length} bytes: the border between frames is lost")
        return (int(Kind.BROKEN), job, b"kind %d with %d bytes" % (kind, length))


def frame(kind: Kind, job: int, payload: bytes = b"") -> bytes:
    """One frame as it goes over the wire."""
    return HEADER.pack(len(payload), kind, job) + payload


def started(job: int, epoch: int, job_id: str) -> bytes:
    """STARTED: from now on `job` stands for run `epoch` of `job_id` on this connection."""
    return frame(Kind.STARTED, job, _EPOCH.pack(epoch) + job_id.encode())


def parse_started(payload: bytes) -> tuple[int, str]:
    """Epoch and job id. Raises FrameError."""
    try:
        (epoch,) = _EPOCH.unpack_from(payload)
        job_id = payload[_EPOCH.size :].decode()
    except (struct.error, UnicodeDecodeError) as error:
        raise FrameError(f"STARTED makes no sense: {error}") from error
    if not job_id:
        raise FrameError("STARTED names no job")
    return epoch, job_id


def head(job: int, status: int, headers: tuple[tuple[str, str], ...], framing: int) -> bytes:
    """HEAD: status, header pairs in the target's own order and spelling (any str survives), framing number."""
    return frame(Kind.HEAD, job, head_json(status, headers, framing))


def head_json(status: int, headers: tuple[tuple[str, str], ...], framing: int) -> bytes:
    """The payload of HEAD; a kept answer's head is written the same way."""
    return _json({"status": status, "headers": headers, "framing": int(framing)})


def parse_head(payload: bytes) -> tuple[int, tuple[tuple[str, str], ...], int]:
    """Status, headers, framing number. Raises FrameError."""
    says = _parse_json(payload, "HEAD")
    status, headers, framing = says.get("status"), says.get("headers"), says.get("framing")
    if type(status) is not int or type(framing) is not int or not isinstance(headers, list):
        raise FrameError("HEAD lacks a status, headers or a framing")
    pairs: list[tuple[str, str]] = []
    for pair in headers:
        match pair:
            case [str(name), str(value)]:
                pairs.append((name, value))
            case _:
                raise FrameError("HEAD has a header that is no pair of strings")
    return status, tuple(pairs), framing


def error(job: int, failure: Failure) -> bytes:
    """ERROR: the failure with all that HTTP needs to say it."""
    says = {**failure.as_dict(), "status": failure.status, "retry_after": failure.retry_after}
    return frame(Kind.ERROR, job, _json(says))


def parse_error(payload: bytes) -> Failure:
    """The failure; a code of a newer version becomes `interrupted` and keeps its words. Raises FrameError."""
    says = _parse_json(payload, "ERROR")
    message, status, retry_after = says.get("message"), says.get("status"), says.get("retry_after")
    if not isinstance(message, str) or not (status is None or type(status) is int):
        raise FrameError("ERROR lacks a message or a status")
    if not (retry_after is None or isinstance(retry_after, int | float)):
        raise FrameError("ERROR has a retry_after that is no number")
    code = _code(says.get("code"), Code.INTERRUPTED)
    return Failure(code, message, status=status, retryable=bool(says.get("retryable")), retry_after=retry_after)


def held(job: int, waits: bool) -> bytes:
    """HELD: the target waits for its reader, or goes on."""
    return frame(Kind.HELD, job, b"\1" if waits else b"\0")


def credit(job: int, taken: int) -> bytes:
    """CREDIT: `taken` bytes of DATA more are off the gateway's hands."""
    return frame(Kind.CREDIT, job, _EPOCH.pack(taken))


def spool(job: int, window: int) -> bytes:
    """SPOOL: `window` bytes of DATA may be on their way from now on."""
    return frame(Kind.SPOOL, job, _EPOCH.pack(window))


def parse_credit(payload: bytes) -> int:
    """Bytes of a CREDIT or a SPOOL. Raises FrameError."""
    try:
        (taken,) = _EPOCH.unpack(payload)
    except struct.error as cause:
        raise FrameError(f"CREDIT or SPOOL makes no sense: {cause}") from cause
    return int(taken)


def cancel(job: int, code: Code) -> bytes:
    """CANCEL: stop this run."""
    return frame(Kind.CANCEL, job, code.encode())


def refused(job: int, code: Code) -> bytes:
    """REFUSED: `caller_gone` when nobody waits for it here, `interrupted` when a later epoch runs it already."""
    return frame(Kind.REFUSED, job, code.encode())


def parse_code(payload: bytes) -> Code:
    """The code of a CANCEL or REFUSED; one of a newer version counts as `cancelled`: the wish is clear anyway."""
    return _code(payload.decode(errors="replace"), Code.CANCELLED)


def _code(word: Any, otherwise: Code) -> Code:
    try:
        return Code(word)
    except ValueError:
        return otherwise


def _json(value: dict[str, Any]) -> bytes:
    # ASCII escapes carry lone surrogates too: a header that was no UTF-8 comes out as it went in.
    return json.dumps(value, separators=(",", ":")).encode()


def _parse_json(payload: bytes, what: str) -> dict[str, Any]:
    try:
        value = json.loads(payload)
    except (ValueError, RecursionError) as cause:
        raise FrameError(f"{what} is no JSON: {cause}") from cause
    if not isinstance(value, dict):
        raise FrameError(f"{what} is no JSON object")
    return value
