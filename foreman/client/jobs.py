"""The async surface of a gateway for programs: submit, look, wait, cancel, retry, fetch what came of it.

`foreman submit`, `jobs`, `show`, `cancel` and `retry` call me, and `Foreman.jobs` is me. What fails is a ForemanError with
the gateway's own words; what may be asked twice is asked again where I am told to, and `wait` bears a gateway that is
away for a while, because the job is not. Job objects are the dicts that docs/api.md describes.
"""

from __future__ import annotations

import asyncio
import json
import uuid
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

import aiohttp

from foreman.client.errors import ForemanError
from foreman.client.gateways import Gateways, Opened, Patience

if TYPE_CHECKING:
    import builtins
    from collections.abc import AsyncIterator, Iterable

TERMINAL: Final = frozenset({"done", "failed", "cancelled"})
POLL: Final = 30.0
"""Seconds of one long poll: short enough for proxies."""
_TIMEOUT: Final = aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=POLL + 60)


class Jobs(Opened):
    """The jobs of one pool: `async with Jobs(url, token) as jobs: …`, or ready-made as `Foreman.jobs`.

    Args:
        gateways: the gateway's base URL, or the gateways of a Foreman.
        token: the bearer, or None.
        patience: seconds for which `wait` bears a gateway that does not answer.
        again: seconds for which any other call is repeated after what may pass; 0: one call is one request.
    """

    def __init__(
        self, gateways: str | Gateways, token: str | None = None, *, patience: float = 60.0, again: float = 0.0
    ) -> None:
        super().__init__(Gateways([gateways], token) if isinstance(gateways, str) else gateways)
        self._patience = patience
        self._again = again

    async def submit(self, body: bytes | dict[str, Any], *, key: str | None = None) -> dict[str, Any]:
        """Queue a job; `{"job_id", "state", "position", "eta_seconds", "links"}`.

        Args:
            body: the native payload with foreman's own fields beside it; bytes go as they are.
            key: the Idempotency-Key: the same again gives the same job. One is made up where calls are repeated.

        Raises:
            ForemanError: refused. All methods raise UnreachableError where no gateway answers.
        """
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        named = key or (str(uuid.uuid4()) if self._again else None)
        return await self._json("POST", "/jobs", body=raw, headers={"Idempotency-Key": named} if named else {})

    async def batch(self, lines: Iterable[bytes], *, key: str | None = None) -> AsyncIterator[dict[str, Any]]:
        """Queue a job per line, in one request; what the gateway answers to each, in order, an `error` among it.

        Args:
            lines: a job each, as `submit`.
            key: the Idempotency-Key: all lines again, after whatever went wrong, are the same jobs.
        """

        async def body() -> AsyncIterator[bytes]:
            for line in lines:
                yield line.rstrip(b"\r\n") + b"\n"

        rest = b""
        headers = {"Idempotency-Key": key} if key else {}
        async with self._gateways.ask("POST", "/jobs/batch", timeout=_TIMEOUT, data=body(), headers=headers) as reply:
            async for piece in reply.content.iter_any():
                *whole, rest = (rest + piece).split(b"\n")
                for line in whole:
                    if line.strip():
                        yield json.loads(line)
        if rest.strip():
            yield json.loads(rest)

    async def get(self, job_id: str, *, wait: float = 0.0) -> dict[str, Any]:
        """The job object, once it is terminal or `wait` seconds are over."""
        return await self._json("GET", f"/jobs/{quote(job_id, safe='')}", params={"wait": f"{wait:g}"} if wait else {})

    async def wait(self, job_id: str) -> dict[str, Any]:
        """The job object once it is terminal, however long that takes."""
        loop = asyncio.get_running_loop()
        borne = Patience(self._patience, loop.time())
        while True:
            try:
                job = await self.get(job_id, wait=POLL)
            except ForemanError as error:
                pause = borne.after(error, loop.time())
                if pause is None:
                    raise
                self._gateways.next(error)
                await asyncio.sleep(pause)
                continue
            if job["state"] in TERMINAL:
                return job
            borne.heard(loop.time())

    async def list(self, **asked: Any) -> AsyncIterator[dict[str, Any]]:
        """All jobs that fit, newest first, page after page.

        Args:
            asked: as `page`.
        """
        while True:
            found = await self.page(**asked)
            for job in found["jobs"]:
                yield job
            asked["cursor"] = found["next_cursor"]
            if asked["cursor"] is None:
                return

    async def page(self, **asked: Any) -> dict[str, Any]:
        """`{"jobs", "next_cursor"}`, newest first.

        Args:
            asked: `state`, `model`, `endpoint`, `surface`, `limit`, `cursor`; None for any.
        """
        return await self._json("GET", "/jobs", params={name: str(value) for name, value in asked.items() if value})

    async def events(self, job_id: str) -> builtins.list[dict[str, Any]]:
        """Its transitions, oldest first."""
        found: builtins.list[dict[str, Any]] = (await self._json("GET", f"/jobs/{quote(job_id, safe='')}/events"))[
            "events"
        ]
        return found

    async def cancel(self, job_id: str) -> dict[str, Any]:
        """Cancel it in whatever state it is; the job object."""
        return await self._json("DELETE", f"/jobs/{quote(job_id, safe='')}")

    async def retry(self, job_id: str) -> dict[str, Any]:
        """A new job like this one, which must be terminal; as `submit`. Never asked twice: each time is a job."""
        return await self._json("POST", f"/jobs/{quote(job_id, safe='')}/retry", again=0.0)

    async def artifact(self, job_id: str, name: str = "completion") -> bytes:
        """The bytes of a result."""

        async def fetch() -> bytes:
            path = f"/jobs/{quote(job_id, safe='')}/artifacts/{quote(name, safe='')}"
            async with self._gateways.ask("GET", path, timeout=_TIMEOUT) as reply:
                return await reply.read()

        return await self._gateways.again(fetch, self._again)

    async def trace(self, hours: float) -> bytes:
        """The jobs that ended in the last hours as a trace for `foreman simulate`: JSON lines (docs/scheduling.md)."""

        async def fetch() -> bytes:
            path = "/ops/trace"
            async with self._gateways.ask("GET", path, timeout=_TIMEOUT, params={"hours": f"{hours:g}"}) as reply:
                return await reply.read()

        return await self._gateways.again(fetch, self._again)

    async def result(self, job: dict[str, Any]) -> Any:
        """The completion of a job that is done: from the object, or fetched where it was too long for it; None without."""
        if job["result"] is not None or not job["artifacts"]:
            return job["result"]
        return json.loads(await self.artifact(job["job_id"]))

    async def _json(self, method: str, path: str, *, again: float | None = None, **more: Any) -> dict[str, Any]:
        async def fetch() -> dict[str, Any]:
            async with self._gateways.ask(method, path, timeout=_TIMEOUT, **more) as reply:
                found: dict[str, Any] = json.loads(await reply.read())
                return found

        return await self._gateways.again(fetch, self._again if again is None else again)


def text_of(result: Any) -> str:
    """The words of a completion in any of the dialects; the JSON itself where it has none (an embedding, a tool call)."""
    if isinstance(result, dict):
        choices = result.get("choices")
        first = choices[0] if isinstance(choices, list) and choices and isinstance(choices[0], dict) else {}
        for found in (result.get("response"), _content(result.get("message")), first.get("text")):
            if isinstance(found, str) and found:
                return found
        for parts in (_content(first.get("message")), result.get("content"), _outputs(result.get("output"))):
            if words := _words(parts):
                return words
    return json.dumps(result, ensure_ascii=False)


def _content(message: Any) -> Any:
    return message.get("content") if isinstance(message, dict) else None


def _outputs(output: Any) -> list[Any]:
    """The parts of all items of a response (`/v1/responses`)."""
    items = output if isinstance(output, list) else []
    return [part for item in items if isinstance(_content(item), list) for part in item["content"]]


def _words(parts: Any) -> str:
    """A string, or the texts of a list of parts."""
    if isinstance(parts, list):
        texts = (part.get("text") for part in parts if isinstance(part, dict))
        return "".join(text for text in texts if isinstance(text, str))
    return parts if isinstance(parts, str) else ""
