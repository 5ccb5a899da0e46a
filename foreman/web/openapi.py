"""The OpenAPI 3.1 description of the surface that is foreman's own, made from the models that make its answers.

The app serves me at /openapi.json. What calls to Ollama's and OpenAI's paths look like, their own pages say.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from aiohttp import hdrs, web
from pydantic.json_schema import models_json_schema

import foreman
from foreman.core.jobs import State, Surface
from foreman.protocols import gojson, history_shapes, job_object, ops_shapes
from foreman.protocols.job_request import ENDPOINTS, JobRequest

PATH: Final = "/openapi.json"
_JSON: Final = "application/json"
_NDJSON: Final = "application/x-ndjson"
_SSE: Final = "text/event-stream"
_ANSWERS: Final = (
    *(job_object.JobObject, job_object.WaitingJobObject, job_object.Accepted, job_object.JobList, job_object.EventList),
    *(
        job_object.DeliveryList,
        job_object.Redelivery,
        job_object.ErrorBody,
        ops_shapes.Health,
        ops_shapes.Ready,
        ops_shapes.PoolState,
        ops_shapes.LaneList,
        ops_shapes.Paused,
        ops_shapes.Cleared,
        ops_shapes.Audit,
        history_shapes.FailureList,
        history_shapes.SwapHistory,
        history_shapes.TallyList,
        history_shapes.ReceiverList,
    ),
)
_WHY: Final = {
    400: "no JSON, or no job",
    401: "a token is wanted",
    403: "this token, or this page, may not",
    404: "not known here (any more), or another caller's",
    408: "the body stopped coming",
    409: "not while the job lives",
    410: "kept no longer",
    413: "larger than FOREMAN_MAX_BODY",
    416: "past the end",
    422: "a wrong field, its name first",
    502: "it failed: the error says why",
    504: "it stalled, or missed its deadline",
    503: "the queue is full, the store is away, or this gateway leaves; Retry-After says when",
}


class _Operation(NamedTuple):
    method: str
    path: str
    name: str
    summary: str
    answers: dict[int, Any]
    """Status → schema; None for no body of ours."""
    refusals: tuple[int, ...] = ()
    """Beside 401, 403 and 503, which all have."""
    query: tuple[tuple[str, dict[str, Any], str], ...] = ()
    headers: tuple[tuple[str, dict[str, Any], str], ...] = ()
    body: tuple[tuple[str, ...], Any] | None = None
    """The types it is sent as, and its schema."""
    kind: str = _JSON
    open: bool = False


def _ref(name: str) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{name}"}


_STATES: Final = "|".join(State)
_KEY: Final = (
    "Idempotency-Key",
    {"type": "string", "minLength": 1, "maxLength": 255},
    "The same key and body again is the same job: 200 instead of 202",
)
_TARGET: Final = ("X-Foreman-Target", {"type": "string"}, "The one target that may run it")
_LIST_QUERY: Final = (
    ("state", {"type": "string", "pattern": f"^(({_STATES})(,({_STATES}))*)?$"}, "One or more, joined by commas"),
    ("model", {"type": "string"}, "By any of its names"),
    ("endpoint", {"enum": list(ENDPOINTS)}, "The path whose payload it carries"),
    ("surface", {"enum": list(Surface)}, "Through which door it came"),
    ("limit", {"type": "integer", "minimum": 1, "maximum": 500, "default": 50}, "A page may be shorter"),
    ("cursor", {"type": "string", "pattern": "^[0-7][0-9A-HJKMNP-TV-Z]{25}$"}, "The next_cursor of the page before"),
)
_OBJECT: Final = {"anyOf": [_ref("WaitingJobObject"), _ref("JobObject")]}
_ACCEPTED: Final = _ref("Accepted")
_SUBMITTED: Final = {202: _ACCEPTED, 200: _ACCEPTED}
_LINKS: Final = {
    name: {"operationId": name, "parameters": {"job_id": "$response.body#/job_id"}}
    for name in ("show", "cancel", "request", "events", "retry", "deliveries")
}
_BYTES: Final = {"type": "string", "format": "binary"}

_FOR: Final = (
    "for",
    {"type": "string", "examples": ["2h"]},
    "Resume by itself after so long: a number with ms, s, m or h, at most 30 days",
)
_UNLOAD: Final = ("unload", {"enum": ["true", "false"]}, "Free the GPU: all that was loaded is unloaded, and stays out")
_PAUSED: Final = {200: _ref("Paused")}
_LIMIT: Final = ("limit", {"type": "integer", "minimum": 1, "maximum": 1000, "default": 100}, "So many at most")

_OPERATIONS: Final = (
    _Operation(
        "post", "/jobs", "submit", "Queue a job", _SUBMITTED, (400, 404, 408, 413, 422),
        headers=(_KEY, _TARGET), body=((_JSON,), _ref("JobRequest")),
    ),
    _Operation("get", "/jobs", "list", "Jobs, newest first", {200: _ref("JobList")}, (422,), query=_LIST_QUERY),
    _Operation(
        "post", "/jobs/batch", "batch", "Queue a job a line; an answer a line, in order", {200: _BYTES}, (400,),
        headers=(_KEY, _TARGET), body=((_NDJSON, "text/plain"), _BYTES), kind=_NDJSON,
    ),
    _Operation(
        "get", "/jobs/{job_id}", "show", "A job, at once or at its end", {200: _OBJECT}, (404, 422),
        query=(("wait", {"type": "number", "minimum": 0, "maximum": 600}, "Seconds to wait for its end"),),
    ),
    _Operation(
        "delete", "/jobs/{job_id}", "cancel", "Cancel; answers once it is over", {200: _OBJECT, 202: _OBJECT}, (404,)
    ),
    _Operation("get", "/jobs/{job_id}/request", "request", "The request as it came", {200: {}}, (404, 410)),
    _Operation("get", "/jobs/{job_id}/events", "events", "Its transitions", {200: _ref("EventList")}, (404,)),
    _Operation(
        "post", "/jobs/{job_id}/retry", "retry", "A new job of an ended one", _SUBMITTED, (400, 404, 409, 410, 422),
        headers=(_KEY, _TARGET),
    ),
    _Operation(
        "get", "/jobs/{job_id}/artifacts/{name}", "artifact", "The bytes of a result", {200: {}, 304: None}, (404, 410)
    ),
    _Operation(
        "get", "/jobs/{job_id}/stream", "stream", "The answer of a sync job with a key or `finish`, from any byte on",
        {200: _BYTES}, (400, 404, 409, 410, 416, 502, 504),
        query=(("offset", {"type": "integer", "minimum": 0, "default": 0}, "Bytes of the answer that you have"),),
        kind="application/x-ndjson",
    ),
    _Operation(
        "get", "/jobs/{job_id}/deliveries", "deliveries", "Its webhook log, oldest first",
        {200: _ref("DeliveryList")}, (404,),
    ),
    _Operation(
        "post", "/deliveries/{delivery}/redeliver", "redeliver", "Send an event again", {202: _ref("Redelivery")}, (404, 410)
    ),
    _Operation("get", "/ops/state", "state", "The whole pool at one moment", {200: _ref("PoolState")}),
    _Operation(
        "get", "/ops/events", "feed", "The snapshot, then its changes, twice a second at most", {200: {"type": "string"}},
        headers=(("Last-Event-ID", {"type": "string"}, "Go on behind this event where it is still known"),), kind=_SSE,
    ),
    _Operation(
        "get", "/ops/lanes", "lanes", "The lanes that have a word in their model or key", {200: _ref("LaneList")}, (422,),
        query=(
            ("search", {"type": "string"}, "The word, in any case"),
            ("limit", {"type": "integer", "minimum": 1, "maximum": 200, "default": 200}, "So many at most"),
        ),
    ),
    _Operation("post", "/ops/lanes/{lane}/pause", "pauseLane", "Start nothing more of a lane", _PAUSED, (404, 422), query=(_FOR,)),
    _Operation("post", "/ops/lanes/{lane}/resume", "resumeLane", "Let a lane go on", _PAUSED, (404,)),
    _Operation(
        "post", "/ops/lanes/{lane}/clear", "clearLane", "Cancel all that is queued in a lane",
        {200: _ref("Cleared")}, (404,),
    ),
    _Operation(
        "post", "/ops/targets/{target}/pause", "pauseTarget", "Start nothing more on a target", _PAUSED, (404, 422),
        query=(_FOR, _UNLOAD),
    ),
    _Operation("post", "/ops/targets/{target}/resume", "resumeTarget", "Let a target go on", _PAUSED, (404,)),
    _Operation(
        "get", "/ops/audit", "audit", "What operators did, newest first", {200: _ref("Audit")}, (422,), query=(_LIMIT,)
    ),
    _Operation(
        "get", "/ops/trace", "trace", "The last hours as a trace for `foreman simulate`", {200: _BYTES}, (422,),
        query=(("hours", {"type": "number", "exclusiveMinimum": 0, "maximum": 24, "default": 24}, "How far back"),),
        kind="application/x-ndjson",
    ),
    _Operation("get", "/ops/failures", "failures", "The last failures, by code", {200: _ref("FailureList")}),
    _Operation(
        "get", "/ops/swaps", "swaps", "What each target held and ran", {200: _ref("SwapHistory")}, (422,),
        query=(("hours", {"type": "number", "exclusiveMinimum": 0, "maximum": 24, "default": 1}, "How far back"),),
    ),
    _Operation(
        "get", "/ops/counts", "counts", "What ended in each of the last hours or days",
        {200: _ref("TallyList")}, (422,), query=(("by", {"enum": ["hour", "day"], "default": "hour"}, "What is counted together"),),
    ),
    _Operation(
        "get", "/ops/receivers", "receivers", "Who is told by webhooks, and how they take it",
        {200: _ref("ReceiverList")},
    ),
    _Operation(
        "get", "/metrics", "metrics", "The pool's numbers and this gateway's, for Prometheus", {200: {"type": "string"}},
        kind="text/plain",
    ),
    _Operation("get", "/healthz", "health", "Is it alive?", {200: _ref("Health")}, open=True),
    _Operation("get", "/readyz", "ready", "Does it take calls?", {200: _ref("Ready"), 503: _ref("Ready")}, open=True),
)  # fmt: skip


def document() -> dict[str, Any]:
    """The whole description."""
    _, answers = models_json_schema(
        [(shape, "serialization") for shape in _ANSWERS], ref_template="#/components/schemas/{model}"
    )
    schemas = answers["$defs"] | {"JobRequest": JobRequest.model_json_schema(mode="validation")}
    paths: dict[str, dict[str, Any]] = {}
    for operation in _OPERATIONS:
        paths.setdefault(operation.path, {})[operation.method] = _described(operation)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "foreman",
            "version": foreman.__version__,
            "description": "A job queue in front of LLM servers. Ollama's and OpenAI's own calls are answered beside "
            "this surface, on their own paths.",
        },
        "paths": paths,
        "components": {"schemas": schemas, "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}}},
        "security": [{"token": []}, {}],
    }


async def serve(_request: web.Request) -> web.Response:
    """The description as an answer."""
    return web.Response(body=gojson.dumps(document()) + b"\n", headers={hdrs.CONTENT_TYPE: _JSON})


def _described(operation: _Operation) -> dict[str, Any]:
    described: dict[str, Any] = {
        "operationId": operation.name,
        "summary": operation.summary,
        "parameters": [
            *_path_parameters(operation.path),
            *_parameters("query", operation.query),
            *_parameters("header", operation.headers),
        ],
        "responses": _responses(operation),
    }
    if operation.body is not None:
        kinds, schema = operation.body
        described["requestBody"] = {"required": True, "content": {kind: {"schema": schema} for kind in kinds}}
    if operation.open:
        described["security"] = []
    return described


def _responses(operation: _Operation) -> dict[str, Any]:
    responses: dict[str, Any] = {
        str(status): {"description": "as asked"}
        | ({} if schema is None else {"content": {operation.kind: {"schema": schema}}})
        | ({"links": _LINKS} if schema == _ACCEPTED else {})
        for status, schema in operation.answers.items()
    }
    refusals = () if operation.open else (*operation.refusals, 401, 403, 503)
    for status in sorted(refusals):
        content = {_JSON: {"schema": _ref("ErrorBody")}}
        responses[str(status)] = {"description": _WHY[status], "content": content}
    return responses


def _path_parameters(path: str) -> list[dict[str, Any]]:
    names = [part[1:-1] for part in path.split("/") if part.startswith("{")]
    return [{"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in names]


def _parameters(place: str, listed: tuple[tuple[str, dict[str, Any], str], ...]) -> list[dict[str, Any]]:
    return [{"name": name, "in": place, "schema": schema, "description": text} for name, schema, text in listed]
