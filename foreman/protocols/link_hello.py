"""The hello of a link: two ends agree on a version and prove to each other that they know the pool's secret.

link/client.py and link/server.py step me with the frames they get and send what I return; nonces are their gift, so I
am pure. Four frames: HELLO → CHALLENGE → PROOF → WELCOME. The dialling worker proves first, so that a stranger who
dials a gateway gets nothing to guess the secret from. I refuse other versions, other gateways, other secrets, garbage.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from typing import Any, Final

from foreman.protocols.link import Kind, frame

VERSIONS: Final = (1, 1)
"""The lowest and the highest version of the protocol this code speaks."""
HELLO_LIMIT: Final = 2048
"""The longest payload of a hello's frame in bytes: all a stranger can make an end hold."""
NONCE_SIZE: Final = 32
"""Bytes of a nonce; each connection draws a fresh one at both ends, so an old hello proves nothing."""

_WORKER: Final = b"foreman-link worker"
_GATEWAY: Final = b"foreman-link gateway"
# Different labels: an end's own proof, sent back to it, proves nothing (no reflection).


class HelloError(Exception):
    """No link comes of this connection. The message says whose fault it is and what to do."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        """One stable word for logs: `garbage`, `version`, `gateway`, `secret` or `rejected`."""


def proof(secret: bytes, label: bytes, hello: bytes, challenge: bytes) -> bytes:
    """HMAC-SHA256 over a role's label and both first payloads as they went over the wire: ids, versions, nonces."""
    text = b"%b\0%d\0%b%b" % (label, len(hello), hello, challenge)
    return hmac.new(secret, text, hashlib.sha256).digest()


def reject(error: HelloError) -> bytes:
    """REJECT: tells the dialling end why, before the connection ends. Holds nothing of the secret."""
    return frame(Kind.REJECT, 0, _json({"reason": error.reason, "message": str(error)}))


class WorkerHello:
    """The dialling end. `open()` is sent first, then the answer to each frame; `done` once the gateway has proved."""

    def __init__(self, secret: bytes, worker: str, gateway: str, nonce: bytes) -> None:
        self._secret = secret
        self._gateway = gateway
        says = {"versions": VERSIONS, "worker": worker, "gateway": gateway, "nonce": nonce.hex()}
        self._hello = _json(says)
        self._expected: bytes | None = None
        self.version = 0
        self.done = False

    def open(self) -> bytes:
        """The first bytes on the wire."""
        return frame(Kind.HELLO, 0, self._hello)

    def step(self, kind: int, payload: bytes) -> bytes:
        """What to send in answer to a frame (maybe nothing). Raises HelloError: close the connection."""
        if kind == Kind.REJECT:
            says = _parse(payload)
            raise HelloError("rejected", f"the gateway refuses the link: {says.get('message')}")
        if kind == Kind.CHALLENGE and self._expected is None:
            says = _parse(payload)
            _nonce(says)
            version = says.get("version")
            if type(version) is not int or not VERSIONS[0] <= version <= VERSIONS[1]:
                raise HelloError("version", f"the gateway chose link version {version!r}, not one of {VERSIONS}")
            if says.get("gateway") != self._gateway:
                raise HelloError("gateway", f"dialled {self._gateway}, but {says.get('gateway')!r} answers there")
            self.version = version
            self._expected = proof(self._secret, _GATEWAY, self._hello, payload)
            return frame(Kind.PROOF, 0, proof(self._secret, _WORKER, self._hello, payload))
        if kind == Kind.WELCOME and self._expected is not None:
            if not hmac.compare_digest(payload, self._expected):
                raise HelloError("secret", "the gateway does not know the pool's secret: check FOREMAN_LINK_SECRET")
            self.done = True
            return b""
        raise _garbage(kind)


class GatewayHello:
    """The listening end. Answers each frame of the hello; `done` once the worker has proved, then `worker` is true."""

    def __init__(self, secret: bytes, gateway: str, nonce: bytes) -> None:
        self._secret = secret
        self._gateway = gateway
        self._nonce = nonce
        self._hello: bytes | None = None
        self._challenge = b""
        self.version = 0
        self.worker = ""
        self.done = False

    def step(self, kind: int, payload: bytes) -> bytes:
        """What to send in answer to a frame. Raises HelloError: send `reject(error)` and close the connection."""
        if kind == Kind.HELLO and self._hello is None:
            return self._challenged(payload)
        if kind == Kind.PROOF and self._hello is not None and not self.done:
            if not hmac.compare_digest(payload, proof(self._secret, _WORKER, self._hello, self._challenge)):
                raise HelloError("secret", "the worker does not know the pool's secret: check FOREMAN_LINK_SECRET")
            self.done = True
            return frame(Kind.WELCOME, 0, proof(self._secret, _GATEWAY, self._hello, self._challenge))
        raise _garbage(kind)

    def _challenged(self, payload: bytes) -> bytes:
        says = _parse(payload)
        _nonce(says)
        match says.get("versions"):
            case [int(lowest), int(highest)]:
                self.version = min(highest, VERSIONS[1])
            case _:
                raise HelloError("garbage", "the hello names no versions")
        if self.version < max(lowest, VERSIONS[0]):
            ours = f"{VERSIONS[0]} to {VERSIONS[1]}"
            raise HelloError(
                "version", f"the worker speaks link {lowest} to {highest}, this gateway {ours}: update one"
            )
        if says.get("gateway") != self._gateway:
            raise HelloError("gateway", f"this is {self._gateway}, not {says.get('gateway')!r}")
        worker = says.get("worker")
        if not isinstance(worker, str) or not worker:
            raise HelloError("garbage", "the hello names no worker")
        self.worker = worker
        self._hello = payload
        self._challenge = _json({"version": self.version, "gateway": self._gateway, "nonce": self._nonce.hex()})
        return frame(Kind.CHALLENGE, 0, self._challenge)


def _nonce(says: dict[str, Any]) -> None:
    nonce = says.get("nonce")
    if not isinstance(nonce, str) or len(nonce) < 2 * NONCE_SIZE:
        raise HelloError("garbage", f"a nonce of {NONCE_SIZE} bytes is missing")


def _garbage(kind: int) -> HelloError:
    return HelloError("garbage", f"no link speaks like this (frame kind {kind} in the hello)")


def _json(value: dict[str, Any]) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def _parse(payload: bytes) -> dict[str, Any]:
    try:
        value = json.loads(payload)
    except (ValueError, RecursionError) as error:
        raise HelloError("garbage", "the hello is no JSON") from error
    if not isinstance(value, dict):
        raise HelloError("garbage", "the hello is no JSON object")
    return value
