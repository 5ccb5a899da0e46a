"""The async surface of a gateway for programs: submit, look, wait, cancel, retry, fetch what came of it.

`foreman submit`, `jobs`, `show`, `cancel` and `retry` call me. One call is one request and raises a JobsError with the
gateway's own words; only `wait` bears a gateway that is away for a while, because the job is not. Job objects are the
dicts that docs/api.md describes.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import TYPE_CHECKING, Any, Final, Self
from urllib.parse import quote

import aiohttp

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable
    from types import TracebackType

TERMINAL: Final = frozenset({"done", "failed", "cancelled"})
POLL: Final = 30.0
"""Seconds of one long poll: short enough for proxies."""
_AGAIN: Final = 1.0
_TIMEOUT: Final = aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=POLL + 60)


class JobsError(Exception):
    """The gateway said no; the message is its own."""

    def __init__(self, message: str, *, status: int, code: str | None = None, retryable: bool = False) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        """foreman's error code, where it gave one."""
        self.retryable = retryable
        """Whether the same may succeed later."""


class Jobs:
    """The jobs of one gateway: `async with Jobs(url, token) as jobs: …`.

    Args:
        url: the gateway's base URL.
        token: the bearer, or None.
        patience: seconds for which `wait` bears a gateway that does not answer.
    """

    def __init__(self, url: str, token: str | None = None, *, patience: float = 60.0) -> None:
        self._url = url.rstrip("/")
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._patience = patience
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(timeout=_TIMEOUT, headers=self._headers)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._session is not None
        await self._session.close()

    async def submit(self, body: bytes | dict[str, Any], *, key: str | None = None) -> dict[str, Any]:
        """Queue a job; `{"job_id", "state", "position", "eta_seconds", "links"}`.

        Args:
            body: the native payload with foreman's own fields beside it; bytes go as they are.
            key: the Idempotency-Key: the same again gives the same job.

        Raises:
            JobsError: refused. All methods raise aiohttp.ClientError where no gateway answers.
        """
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        return await self._json("POST", "/jobs", data=raw, headers={"Idempotency-Key": key} if key else {})

    async def batch(self, lines: Iterable[bytes]) -> AsyncIterator[dict[str, Any]]:
        """Queue a job per line, in one request; what the gateway answers to each, in order, an `error` among it."""

        async def body() -> AsyncIterator[bytes]:
            for line in lines:
                yield line.rstrip(b"\r\n") + b"\n"

        rest = b""
        async with self._call("POST", "/jobs/batch", data=body()) as reply:
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
        heard = loop.time()
        while True:
            try:
                job = await self.get(job_id, wait=POLL)
            except (aiohttp.ClientError, TimeoutError, JobsError) as error:
                bearable = not isinstance(error, JobsError) or error.retryable
                if not bearable or loop.time() - heard > self._patience:
                    raise
                await asyncio.sleep(_AGAIN)
                continue
            if job["state"] in TERMINAL:
                return job
            heard = loop.time()

    async def page(self, **asked: Any) -> dict[str, Any]:
        """`{"jobs", "next_cursor"}`, newest first.

        Args:
            asked: `state`, `model`, `endpoint`, `surface`, `limit`, `cursor`; None for any.
        """
        return await self._json("GET", "/jobs", params={name: str(value) for name, value in asked.items() if value})

    async def events(self, job_id: str) -> list[dict[str, Any]]:
        """Its transitions, oldest first."""
        found: list[dict[str, Any]] = (await self._json("GET", f"/jobs/{quote(job_id, safe='')}/events"))["events"]
        return found

    async def cancel(self, job_id: str) -> dict[str, Any]:
        """Cancel it in whatever state it is; the job object."""
        return await self._json("DELETE", f"/jobs/{quote(job_id, safe='')}")

    async def retry(self, job_id: str) -> dict[str, Any]:
        """A new job like this one, which must be terminal; as `submit`."""
        return await self._json("POST", f"/jobs/{quote(job_id, safe='')}/retry")

    async def artifact(self, job_id: str, name: str = "completion") -> bytes:
        """The bytes of a result."""
        async with self._call("GET", f"/jobs/{quote(job_id, safe='')}/artifacts/{quote(name, safe='')}") as reply:
            return await reply.read()

    async def result(self, job: dict[str, Any]) -> Any:
        """The completion of a job that is done: from the object, or fetched where it was too long for it; None without."""
        if job["result"] is not None or not job["artifacts"]:
            return job["result"]
        return json.loads(await self.artifact(job["job_id"]))

    async def _json(self, method: str, path: str, **more: Any) -> dict[str, Any]:
        async with self._call(method, path, **more) as reply:
            found: dict[str, Any] = json.loads(await reply.read())
            return found

    @contextlib.asynccontextmanager
    async def _call(self, method: str, path: str, **more: Any) -> AsyncIterator[aiohttp.ClientResponse]:
        assert self._session is not None, "use me as `async with Jobs(…) as jobs`"
        async with self._session.request(method, self._url + path, **more) as reply:
            if reply.status >= 300:
                raise _refusal(reply.status, await reply.text(errors="replace"))
            yield reply


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


def _refusal(status: int, body: str) -> JobsError:
    try:
        error = json.loads(body)["error"]
    except (ValueError, KeyError, TypeError):
        error = body.strip()[:500] or f"status {status}"
    if not isinstance(error, dict):
        return JobsError(str(error), status=status, retryable=status in {502, 503, 504})
    return JobsError(
        str(error.get("message")), status=status, code=error.get("code"), retryable=error.get("retryable") is True
    )
