"""Model management on a fake Ollama: pull, push, create, copy, delete, blobs. Anything that is asked for can be pulled.

The server's routes call me; the catalogue changes, what is loaded stays loaded. Faults and gates reach me only by path.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final

from foreman.core.lanes import ModelNameError, go_quote, parse
from foreman.protocols.gojson import dumps

from .asks import RefusalError, read_native
from .catalogue import model
from .dialects import JSON_UTF8
from .structs import ANY, BOOL, MAP, STRING, Struct

if TYPE_CHECKING:
    from collections.abc import Iterable

    from aiohttp import web

    from .catalogue import Catalogue
    from .engine import Pace
    from .faults import Plan
    from .server import Call, Handler

PULL: Final = Struct("api.PullRequest", {"model": STRING, "name": STRING, "insecure": BOOL, "stream": BOOL})
COPY: Final = Struct("api.CopyRequest", {"source": STRING, "destination": STRING})
DELETE: Final = Struct("api.DeleteRequest", {"model": STRING, "name": STRING})
CREATE: Final = Struct(
    "api.CreateRequest",
    {
        "model": STRING,
        "name": STRING,
        "from": STRING,
        "files": MAP,
        "system": STRING,
        "template": STRING,
        "parameters": MAP,
        "stream": BOOL,
        "quantize": STRING,
        "messages": ANY,
    },
)

_STEPS: Final = 4
"""Progress lines of one layer."""


@dataclass(slots=True)
class Management:
    """What the management routes work on."""

    catalogue: Catalogue
    pace: Pace
    plan: Plan
    blobs: set[str] = field(default_factory=set)
    """Digests that were uploaded, `sha256:…`."""

    def routes(self) -> dict[str, dict[str, Handler]]:
        """The table of their paths."""
        return {
            "/api/pull": {"POST": self.pull},
            "/api/push": {"POST": self.push},
            "/api/create": {"POST": self.create},
            "/api/copy": {"POST": self.copy},
            "/api/delete": {"DELETE": self.delete},
            "/api/blobs/*": {"POST": self.upload, "HEAD": self.look},
        }

    async def pull(self, call: Call) -> web.StreamResponse:
        """Fetch a model: it is in the catalogue afterwards."""
        request = read_native(call.body, PULL)
        name = _valid(request)
        pulled = self.catalogue.find(name) or model(name)
        layer = f"sha256:{pulled.digest}"
        steps = [{"status": "pulling manifest"}]
        steps += [_progress(f"pulling {pulled.digest[:12]}", layer, pulled.size, step) for step in range(_STEPS + 1)]
        steps += [{"status": words} for words in ("verifying sha256 digest", "writing manifest")]
        response = await self._tell(call, name, steps, stream=request.get("stream", True))
        self.catalogue.add(pulled)
        return response

    async def push(self, call: Call) -> web.StreamResponse:
        """Send a model to a registry that takes everything."""
        request = read_native(call.body, PULL)
        name = _valid(request)
        pushed = self.catalogue.find(name)
        if pushed is None:
            raise RefusalError(404, f"model '{name}' not found")
        layer = f"sha256:{pushed.digest}"
        steps = [{"status": "retrieving manifest"}]
        steps += [_progress(f"pushing {pushed.digest[:12]}", layer, pushed.size, step) for step in range(_STEPS + 1)]
        steps += [{"status": "pushing manifest"}]
        return await self._tell(call, name, steps, stream=request.get("stream", True))

    async def create(self, call: Call) -> web.StreamResponse:
        """Make a model from another; what changes it changes its digest."""
        request = read_native(call.body, CREATE)
        name = _valid(request)
        if not request.get("from") and not request.get("files"):
            raise RefusalError(400, "neither 'from' or 'files' was specified", late=True)
        origin = self.catalogue.find(request["from"]) if request.get("from") else model(name)
        if origin is None:
            raise RefusalError(500, "pull model manifest: file does not exist", late=True)
        changes = {key: request[key] for key in ("system", "template", "parameters") if request.get(key)}
        digest = hashlib.sha256(origin.digest.encode() + dumps(changes)).hexdigest() if changes else origin.digest
        steps = [{"status": f"using existing layer sha256:{origin.digest}"}, {"status": "writing manifest"}]
        response = await self._tell(call, name, steps, stream=request.get("stream", True))
        self.catalogue.add(replace(origin, name=parse(name).short(), digest=digest, modified_ns=time.time_ns()))
        return response

    async def copy(self, call: Call) -> web.StreamResponse:
        """Give a model a second name."""
        request = read_native(call.body, COPY)
        source, destination = request.get("source", ""), request.get("destination", "")
        for what, name in (("source", source), ("destination", destination)):
            if not _is_name(name):
                raise RefusalError(400, f"{what} {go_quote(name)} is invalid")
        origin = self.catalogue.find(source)
        if origin is None:
            raise RefusalError(404, f"model {go_quote(source)} not found")
        self.catalogue.copy(origin, destination, time.time_ns())
        return await call.reply.whole(200, "", b"")

    async def delete(self, call: Call) -> web.StreamResponse:
        """Take a name away; what is loaded stays until it expires."""
        request = read_native(call.body, DELETE)
        name = _valid(request)
        gone = self.catalogue.find(name)
        if gone is None:
            raise RefusalError(404, f"model '{name}' not found")
        self.catalogue.delete(gone)
        return await call.reply.whole(200, "", b"")

    async def look(self, call: Call) -> web.StreamResponse:
        """Whether a blob is there."""
        digest = call.path.rpartition("/")[2]
        if digest not in self.blobs:
            raise RefusalError(404, f"blob {go_quote(digest)} not found")
        return await call.reply.whole(200, "", b"")

    async def upload(self, call: Call) -> web.StreamResponse:
        """Take a blob."""
        digest = call.path.rpartition("/")[2]
        if digest in self.blobs:
            return await call.reply.whole(200, "", b"")
        true = f"sha256:{hashlib.sha256(call.body).hexdigest()}"
        if true != digest:
            raise RefusalError(400, f"digest mismatch, expected {go_quote(digest)}, got {go_quote(true)}")
        self.blobs.add(digest)
        return await call.reply.whole(201, "", b"")

    async def _tell(
        self, call: Call, name: str, steps: Iterable[dict[str, Any]], *, stream: bool
    ) -> web.StreamResponse:
        """Progress, a line a step, and success; or success alone."""
        reply = call.reply
        reply.fault = self.plan.fault_for(name, call.path, by_path=True)
        reply.gate = self.plan.gate_for(name, call.path, by_path=True)
        await reply.first()
        if not stream:
            for _ in steps:
                await asyncio.sleep(self.pace.token_seconds)
            return await reply.whole(200, JSON_UTF8, dumps({"status": "success"}))
        await reply.open("application/x-ndjson", {})
        for step in steps:
            await reply.unit(dumps(step) + b"\n")
            await asyncio.sleep(self.pace.token_seconds)
        await reply.unit(dumps({"status": "success"}) + b"\n")
        return await reply.finish()


def _progress(status: str, digest: str, total: int, step: int) -> dict[str, Any]:
    line: dict[str, Any] = {"status": status, "digest": digest, "total": total}
    completed = total * step // _STEPS
    return {**line, "completed": completed} if completed else line


def _valid(request: dict[str, Any]) -> str:
    name = str(request.get("model") or request.get("name") or "")
    if not _is_name(name):
        raise RefusalError(400, "invalid model name")
    return name


def _is_name(name: str) -> bool:
    try:
        parse(name)
    except ModelNameError:
        return False
    return True
