"""Requests to /api/chat, /api/generate, /api/embed and /api/embeddings as the fake understands them.

The server gives me a body (compat gives me what it made of a /v1 body) and gets an Ask, or a Refusal with the status and
the words of Ollama v0.24, checked in Ollama's order.
"""

from __future__ import annotations

import base64
import binascii
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from foreman.core.lanes import ModelNameError, go_quote, is_cloud, parse
from foreman.protocols.goscan import EmptyBodyError, GoJSONError

from .engine import RunnerOptions
from .structs import ANY, BOOL, INT, KEEP_ALIVE, MAP, STRING, Field, Items, Struct, read

if TYPE_CHECKING:
    from .catalogue import Catalogue, Model


class RefusalError(Exception):
    """The request is answered with an error."""

    def __init__(self, status: int, words: str, *, late: bool = False, middleware: bool = False) -> None:
        super().__init__(words)
        self.status = status
        self.words = words
        self.late = late
        """Raised by the goroutine that generates: chunked, Content-Type without a charset."""
        self.middleware = middleware
        """Raised by the /v1 layer itself, before the native handler."""


@dataclass(slots=True)
class Ask:
    """An inference request that will be answered."""

    name: str
    """The model as the request spells it; answers repeat it."""
    model: Model
    stream: bool = True
    keep_alive_ns: int | None = None
    options: RunnerOptions = field(default_factory=RunnerOptions)
    prompt: str = ""
    """All the text it brings."""
    prompt_tokens: int = 0
    empty: bool = False
    """Nothing to answer: a load."""
    raw: bool = False
    num_predict: int = -1
    shift: bool = True
    truncate: bool = True
    stop: list[str] = field(default_factory=list)
    format: Any = None
    bad_format: str | None = None
    """What the runner will say about `format`."""
    tools: list[dict[str, Any]] = field(default_factory=list)
    tool_answered: bool = False
    """The last message is a tool's result."""
    think: bool = False
    logprobs: bool = False
    top_logprobs: int = 0
    images: int = 0
    render_only: bool = False
    inputs: list[str] = field(default_factory=list)
    """What is to be embedded."""
    dimensions: int = 0
    fake: dict[str, Any] = field(default_factory=dict)
    """The request's own wishes to the fake (top-level key `fake`): tokens, token_seconds, prefill_seconds."""

    @property
    def limit(self) -> int | None:
        """Tokens at most; None: as many as the model has to say."""
        limit = self.num_predict if self.num_predict > 0 else None
        if not self.shift:
            room = max(1, self.options.num_ctx - self.prompt_tokens)
            limit = room if limit is None else min(limit, room)
        return limit


MESSAGE: Final = Struct(
    "api.Message",
    {
        "role": STRING,
        "content": STRING,
        "thinking": STRING,
        "images": Items(Field("string", "[]uint8"), "[]api.ImageData"),
        "tool_calls": Items(ANY, "[]api.ToolCall"),
        "tool_name": STRING,
        "tool_call_id": STRING,
    },
)
_COMMON: Final = {
    "model": STRING,
    "stream": BOOL,
    "keep_alive": KEEP_ALIVE,
    "options": MAP,
    "format": ANY,
    "think": ANY,
    "truncate": BOOL,
    "shift": BOOL,
    "logprobs": BOOL,
    "top_logprobs": INT,
    "_debug_render_only": BOOL,
    "fake": ANY,
}
CHAT: Final = Struct(
    "api.ChatRequest",
    {**_COMMON, "messages": Items(MESSAGE, "[]api.Message"), "tools": Items(ANY, "api.Tools")},
)
GENERATE: Final = Struct(
    "api.GenerateRequest",
    {
        **_COMMON,
        "prompt": STRING,
        "suffix": STRING,
        "system": STRING,
        "template": STRING,
        "context": Items(INT, "[]int"),
        "raw": BOOL,
        "images": Items(Field("string", "[]uint8"), "[]api.ImageData"),
    },
)
EMBED: Final = Struct(
    "api.EmbedRequest",
    {
        "model": STRING,
        "input": ANY,
        "truncate": BOOL,
        "dimensions": INT,
        "keep_alive": KEEP_ALIVE,
        "options": MAP,
        "fake": ANY,
    },
)
EMBEDDINGS: Final = Struct(
    "api.EmbeddingRequest",
    {"model": STRING, "prompt": STRING, "keep_alive": KEEP_ALIVE, "options": MAP, "fake": ANY},
)
SHOW: Final = Struct(
    "api.ShowRequest", {"model": STRING, "name": STRING, "verbose": BOOL, "system": STRING, "options": MAP}
)


def read_native(body: bytes, shape: Struct) -> dict[str, Any]:
    """A native body, or a 400 in Go's words."""
    try:
        return read(body, shape)
    except EmptyBodyError:
        raise RefusalError(400, "missing request body") from None
    except GoJSONError as error:
        raise RefusalError(400, str(error)) from None


def find(
    catalogue: Catalogue, name: str, *, missing: str = "model '{}' not found", empty: str = "model is required"
) -> Model:
    """The model a request names.

    Raises:
        RefusalError: it is cloud, badly spelled, or not there; in the words given by the route.
    """
    try:
        parse(name)
    except ModelNameError as error:
        if name.strip():
            raise RefusalError(400, str(error)) from None
        status = 404 if "not found" in empty else 400
        raise RefusalError(status, empty) from None
    if is_cloud(name):
        raise RefusalError(403, "ollama cloud is disabled: remote model is unavailable")
    model = catalogue.find(name)
    if model is None:
        raise RefusalError(404, missing.format(go_quote(name)[1:-1] if '"' in missing else name))
    return model


EMBED_MISSING: Final = 'model "{}" not found, try pulling it first'


def chat(request: dict[str, Any], catalogue: Catalogue) -> Ask:
    """An Ask from the fields of api.ChatRequest."""
    _check_top(request)
    name = request.get("model", "")
    ask = Ask(name, find(catalogue, name))
    messages = request.get("messages") or []
    ask.empty = not messages
    _common(ask, request)
    if not unloads(ask):
        ask.tools = request.get("tools") or []
        _capabilities(ask, "chat", insert=False)
        _options(ask, request.get("options") or {})
    ask.prompt = "\n".join(f"{message.get('role', '')}: {message.get('content', '')}" for message in messages)
    ask.prompt_tokens = sum(3 + len(message.get("content", "").split()) for message in messages)
    ask.images = _images([image for message in messages for image in message.get("images") or []])
    ask.tool_answered = bool(messages) and messages[-1].get("role", "").lower() == "tool"
    return _fit(ask)


def generate(request: dict[str, Any], catalogue: Catalogue) -> Ask:
    """An Ask from the fields of api.GenerateRequest."""
    _check_top(request)
    name = request.get("model", "")
    ask = Ask(name, find(catalogue, name, empty="model '' not found"))
    prompt = request.get("prompt", "")
    ask.empty = not prompt
    ask.raw = bool(request.get("raw"))
    if ask.raw and (request.get("template") or request.get("system") or request.get("context")):
        raise RefusalError(400, "raw mode does not support template, system, or context")
    _common(ask, request)
    if not unloads(ask):
        _capabilities(ask, "generate", insert=bool(request.get("suffix")))
        _options(ask, request.get("options") or {})
    ask.prompt = f"{request.get('system', '')}{prompt}{request.get('suffix', '')}"
    ask.prompt_tokens = 3 + len(ask.prompt.split()) + len(request.get("context") or [])
    ask.images = _images(request.get("images") or [])
    return _fit(ask)


def embed(request: dict[str, Any], catalogue: Catalogue) -> Ask:
    """An Ask from the fields of api.EmbedRequest."""
    inputs = request.get("input")
    if isinstance(inputs, str):
        inputs = [inputs] if inputs else []
    elif inputs is None:
        inputs = []
    elif not isinstance(inputs, list) or not all(isinstance(item, str) for item in inputs):
        raise RefusalError(400, "invalid input type")
    name = request.get("model", "")
    ask = Ask(name, find(catalogue, name, missing=EMBED_MISSING, empty="model '' not found"), stream=False)
    _embedding(ask, request, inputs)
    return ask


def embeddings(request: dict[str, Any], catalogue: Catalogue) -> Ask:
    """An Ask from the fields of the older api.EmbeddingRequest."""
    name = request.get("model", "")
    ask = Ask(name, find(catalogue, name, missing=EMBED_MISSING), stream=False)
    prompt = request.get("prompt", "")
    _embedding(ask, request, [prompt] if prompt else [])
    return ask


def unloads(ask: Ask) -> bool:
    """Whether it only asks for the model to go: nothing to answer and `keep_alive` 0."""
    return ask.empty and ask.keep_alive_ns == 0


def _embedding(ask: Ask, request: dict[str, Any], inputs: list[str]) -> None:
    ask.keep_alive_ns = request.get("keep_alive")
    _options(ask, request.get("options") or {})
    ask.fake = request["fake"] if isinstance(request.get("fake"), dict) else {}
    ask.inputs = inputs
    ask.empty = not inputs
    ask.dimensions = request.get("dimensions", 0)
    ask.truncate = request.get("truncate", True)
    counts = [len(text.split()) for text in inputs]
    room = min(ask.options.num_ctx, ask.model.context_length)
    if not ask.truncate and any(count > room for count in counts):
        raise RefusalError(400, "the input length exceeds the context length")
    ask.prompt_tokens = sum(min(count, room) for count in counts)


def _check_top(request: dict[str, Any]) -> None:
    if not 0 <= request.get("top_logprobs", 0) <= 20:
        raise RefusalError(400, "top_logprobs must be between 0 and 20")
    think = request.get("think")
    if isinstance(think, str) and think not in {"high", "medium", "low", "max"}:
        raise RefusalError(
            400, f'invalid think value: {go_quote(think)} (must be "high", "medium", "low", "max", true, or false)'
        )
    if think is not None and not isinstance(think, str | bool):
        raise RefusalError(400, 'think must be a boolean or string ("high", "medium", "low", "max", true, or false)')


def _common(ask: Ask, request: dict[str, Any]) -> None:
    ask.stream = request.get("stream", True)
    ask.keep_alive_ns = request.get("keep_alive")
    ask.shift = request.get("shift", True)
    ask.truncate = request.get("truncate", True)
    ask.logprobs = request.get("logprobs", False)
    ask.top_logprobs = request.get("top_logprobs", 0)
    ask.render_only = request.get("_debug_render_only", False)
    think = request.get("think")
    ask.think = bool(think) if think is not None else ask.model.thinks_unasked
    ask.fake = request["fake"] if isinstance(request.get("fake"), dict) else {}
    wanted = request.get("format")
    if wanted in (None, ""):
        pass
    elif wanted == "json":
        ask.format = "json"
    elif isinstance(wanted, dict):
        if wanted.get("type") in _JSON_TYPES or "type" not in wanted:
            ask.format = wanted
        else:
            ask.bad_format = "invalid JSON schema in format"
    else:
        spelled = go_quote(json.dumps(wanted, ensure_ascii=False))
        ask.bad_format = f'invalid format: {spelled}; expected "json" or a valid JSON Schema object'


_JSON_TYPES: Final = ("object", "array", "string", "integer", "number", "boolean", "null")

_OPTION_TYPES: Final = {
    "integer": [
        "num_keep",
        "seed",
        "num_predict",
        "top_k",
        "repeat_last_n",
        "num_ctx",
        "num_batch",
        "num_gpu",
        "main_gpu",
        "num_thread",
        "draft_num_predict",
    ],
    "float32": [
        "top_p",
        "min_p",
        "typical_p",
        "temperature",
        "repeat_penalty",
        "presence_penalty",
        "frequency_penalty",
    ],
    "boolean": ["use_mmap"],
    "array": ["stop"],
}


def _options(ask: Ask, options: dict[str, Any]) -> None:
    """Check and take over `options` (api.Options.FromMap); unknown ones are ignored."""
    for kind, names in _OPTION_TYPES.items():
        for name in names:
            value = options.get(name)
            if value is not None and not _is(kind, value):
                raise RefusalError(500, f"option {go_quote(name)} must be of type {kind}")
    ask.options = RunnerOptions.of(options)
    ask.num_predict = int(options.get("num_predict") or -1)
    ask.stop = [stop for stop in options.get("stop") or [] if isinstance(stop, str)]


def _is(kind: str, value: Any) -> bool:
    if kind == "boolean":
        return isinstance(value, bool)
    if kind == "array":
        return isinstance(value, list)
    return isinstance(value, int | float) and not isinstance(value, bool)


def _capabilities(ask: Ask, what: str, *, insert: bool) -> None:
    able = ask.model.capabilities
    if ask.think and "thinking" not in able:
        raise RefusalError(400, f"{go_quote(ask.name)} does not support thinking")
    if "completion" not in able:
        raise RefusalError(400, f"{go_quote(ask.name)} does not support {what}")
    if ask.tools and "tools" not in able:
        raise RefusalError(400, f"{ask.model.full_name} does not support tools")
    if insert and "insert" not in able:
        raise RefusalError(400, f"{ask.model.full_name} does not support insert")


def _images(images: list[str]) -> int:
    for image in images:
        try:
            base64.b64decode(image, validate=True)
        except binascii.Error:
            raise RefusalError(400, "illegal base64 data at input byte 0") from None
    return len(images)


def _fit(ask: Ask) -> Ask:
    """Cut the prompt to the context."""
    room = min(ask.options.num_ctx, ask.model.context_length)
    if ask.prompt_tokens > room:
        if not ask.truncate:
            raise RefusalError(400, "the input length exceeds the context length", late=True)
        ask.prompt_tokens = room
    return ask
