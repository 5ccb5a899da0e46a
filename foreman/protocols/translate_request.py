"""A native request in OpenAI's words: `/api/chat` and `/api/generate` for a target of kind `openai`.

The worker calls me once per run. I keep what both dialects can say, leave out what only tells Ollama how to load a
model, and refuse the rest with a 400 that names the field (docs/adr/0003). Types are judged as Ollama's decoder would.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from foreman.core.errors import Code, Failure
from foreman.core.lanes import go_quote
from foreman.protocols import gojson
from foreman.protocols.goscan import GoJSONError
from foreman.protocols.gostruct import ANY_MAP, BOOL, BOOL_POINTER, INT, TEXT, Field, Struct, decode, list_of
from foreman.protocols.native import Shape
from foreman.protocols.translate_messages import messages_of, user_content

if TYPE_CHECKING:
    from collections.abc import Mapping

CHAT: Final = "/v1/chat/completions"
COMPLETIONS: Final = "/v1/completions"


@dataclass(frozen=True, slots=True)
class Translated:
    """A native request as an `openai` target gets it."""

    path: str
    """CHAT, or COMPLETIONS for a raw prompt and for a text to fill in."""
    body: bytes
    shape: Shape
    """What the answers must look like."""
    stream: bool


def _check_think(value: object) -> None:
    if isinstance(value, str) and value not in {"high", "medium", "low", "max"}:
        raise GoJSONError(
            f'invalid think value: {go_quote(value)} (must be "high", "medium", "low", "max", true, or false)'
        )
    if not isinstance(value, str | bool):
        raise GoJSONError('think must be a boolean or string ("high", "medium", "low", "max", true, or false)')


def _anything(_: object) -> None:
    """A json.RawMessage takes whatever comes."""


_BOTH: Final = {
    "model": TEXT,
    "stream": BOOL_POINTER,
    "format": Field("", "json.RawMessage", null_clears=True, check=_anything),
    "options": ANY_MAP,
    "think": Field("", "api.ThinkValue", null_clears=True, check=_check_think),
    "_debug_render_only": BOOL,
    "logprobs": BOOL,
    "top_logprobs": INT,
}
_CHAT_REQUEST: Final = Struct(
    "api.ChatRequest",
    {**_BOTH, "messages": list_of("api.Message"), "tools": Field("array", "api.Tools", null_clears=True)},
)
_GENERATE_REQUEST: Final = Struct(
    "api.GenerateRequest",
    {
        **_BOTH,
        **dict.fromkeys(("prompt", "suffix", "system", "template"), TEXT),
        "context": list_of("int"),
        "raw": BOOL,
        "images": list_of("api.ImageData"),
    },
)

_INTEGERS: Final = {"seed": "seed", "num_predict": "max_tokens", "top_k": "top_k", "repeat_last_n": "repeat_last_n"}
_FLOATS: Final = (
    "temperature",
    "top_p",
    "presence_penalty",
    "frequency_penalty",
    "min_p",
    "typical_p",
    "repeat_penalty",
)
"""Sampling options under the names they have in `/v1`. `top_k`, `repeat_last_n`, `min_p`, `typical_p` and
`repeat_penalty` are no OpenAI's but llama.cpp's, in part vLLM's too: the target takes them, or refuses them by name."""

_EFFORTS: Final = {True: "medium", False: "none", "low": "low", "medium": "medium", "high": "high", "max": "xhigh"}


def translate_request(path: str, body: bytes, model: str | None = None) -> Translated:
    """Translate a request that asks for an answer (a call that only loads gets `native.load_answer`).

    Args:
        path: `/api/chat` or `/api/generate`.
        body: as it came.
        model: the target's own name of the model; the caller's where None.

    Raises:
        Failure: BAD_REQUEST: the status and words of Ollama for what it would refuse, else a sentence with the field
            that OpenAI's dialect has no word for.
    """
    chat = path == "/api/chat"
    try:
        given, _ = decode(_CHAT_REQUEST if chat else _GENERATE_REQUEST, body, whole=True)
    except GoJSONError as error:
        raise Failure(Code.BAD_REQUEST, str(error)) from error
    if given.get("raw") and (given.get("template") or given.get("system") or given.get("context")):
        raise Failure(Code.BAD_REQUEST, "raw mode does not support template, system, or context")
    _refuse(given, ("_debug_render_only", "template", "context"))
    stream = bool(given.get("stream", True))
    asked: dict[str, Any] = {"model": model or given.get("model", ""), "stream": stream}
    if stream:
        asked["stream_options"] = {"include_usage": True}
    raw = not chat and (bool(given.get("raw")) or bool(given.get("suffix")))
    asked |= _completion(given) if raw else _conversation(given, chat)
    asked |= _sampling(given.get("options", {}))
    asked |= _logprobs(given, raw)
    shape = Shape(gojson.mend(given.get("model", "")), chat)
    return Translated(COMPLETIONS if raw else CHAT, gojson.dumps(asked), shape, stream)


def _conversation(given: Mapping[str, Any], chat: bool) -> dict[str, Any]:
    """What goes to `/v1/chat/completions`."""
    asked: dict[str, Any] = {}
    if chat:
        asked["messages"] = messages_of(given.get("messages", []))
    else:
        system = given.get("system", "")
        said = user_content(given.get("prompt", ""), given.get("images", []), "images")
        asked["messages"] = [{"role": "system", "content": system}] if system else []
        asked["messages"].append({"role": "user", "content": said})
    if given.get("tools"):
        asked["tools"] = given["tools"]
    if "think" in given:
        asked["reasoning_effort"] = _EFFORTS[given["think"]]
    if response_format := _response_format(given.get("format", "")):
        asked["response_format"] = response_format
    return asked


def _completion(given: Mapping[str, Any]) -> dict[str, Any]:
    """What goes to `/v1/completions`: a prompt as it is, or a gap to fill."""
    _refuse(given, ("system", "images", "format", "think"))
    asked = {"prompt": given.get("prompt", "")}
    if given.get("suffix") and not given.get("raw"):  # Ollama, too, looks at no suffix beside a raw prompt
        asked["suffix"] = given["suffix"]
    return asked


def _refuse(given: Mapping[str, Any], names: tuple[str, ...]) -> None:
    for name in names:
        if given.get(name):
            message = f"{name}: this model is served in OpenAI's dialect, which has no word for it; leave the field out"
            raise Failure(Code.BAD_REQUEST, message)


def _response_format(given: Any) -> dict[str, Any] | None:
    if given in ("", None):
        return None
    if given == "json":
        return {"type": "json_object"}
    if isinstance(given, dict):
        return {"type": "json_schema", "json_schema": {"name": "response", "schema": given}}
    text = go_quote(gojson.dumps(given).decode()[:1000])
    message = f'invalid format: {text}; expected "json" or a valid JSON Schema object'
    raise Failure(Code.BAD_REQUEST, message, status=500)


def _sampling(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options of an answer. Those of the runner (`num_ctx` …), `num_keep` and unknown ones are left out.

    They say how Ollama loads a model and shifts its context; here somebody else has loaded it. Nearly every Ollama
    client sends `num_ctx`: a refusal would lock all of them out.
    """
    asked: dict[str, Any] = {}
    for name, word in _INTEGERS.items():
        value = options.get(name)
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise _wrong_option(name, "of type integer")
        if name != "num_predict" or value >= 1:  # 0, -1 and -2 are no limit
            asked[word] = int(value)
    for name in _FLOATS:
        value = options.get(name)
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise _wrong_option(name, "of type float32")
        asked[name] = value
    stop = options.get("stop")
    if stop is not None:
        if not isinstance(stop, list):
            raise _wrong_option("stop", "of type array")
        if not all(isinstance(word, str) for word in stop):
            raise _wrong_option("stop", "of an array of strings")
        asked |= {"stop": stop} if stop else {}
    return asked


def _wrong_option(name: str, kind: str) -> Failure:
    """Ollama's 500 (api.Options.FromMap)."""
    return Failure(Code.BAD_REQUEST, f'option "{name}" must be {kind}', status=500)


def _logprobs(given: Mapping[str, Any], raw: bool) -> dict[str, Any]:
    top = given.get("top_logprobs", 0)
    if not 0 <= top <= 20:
        raise Failure(Code.BAD_REQUEST, "top_logprobs must be between 0 and 20")
    if not given.get("logprobs"):
        return {}
    if raw:
        return {"logprobs": top}
    return {"logprobs": True, "top_logprobs": top} if top else {"logprobs": True}
