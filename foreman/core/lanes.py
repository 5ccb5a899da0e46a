"""Which jobs can run one after another without the target reloading anything: names, runner options, lane keys.

The gateway calls me at submit, the worker when it compares what a target holds with what a lane needs. I only compute
strings; I know Ollama's rules for names (types/model/name.go, internal/modelref) and for reloads (server/sched.go,
needsReload). A name Ollama would refuse stays as it is: an `openai` target may well have it.
"""

from __future__ import annotations

import functools
import hashlib
import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

DEFAULT_HOST: Final = "registry.ollama.ai"
DEFAULT_NAMESPACE: Final = "library"
DEFAULT_TAG: Final = "latest"

RUNNER_OPTIONS: Final = (
    "num_ctx",
    "num_batch",
    "num_gpu",
    "main_gpu",
    "use_mmap",
    "num_thread",
    "draft_num_predict",
    "shift",
)
"""What makes Ollama load the same model anew when it differs. `shift` stands beside `options` in a request, not in it."""

BOOLEAN_OPTIONS: Final = frozenset({"use_mmap", "shift"})
"""The runner options that are true or false; the others are integers."""

KEY_LIMIT: Final = 120
"""Characters of a lane key at most: it is a Redis member, a label and a part of a URL."""

_FINGERPRINT_LIMIT: Final = 55
_HEAD_LIMIT: Final = KEY_LIMIT - _FINGERPRINT_LIMIT - 1
_INT_DIGITS: Final = 12
_NAME_LIMIT: Final = 1000  # the parts of a valid name make 600 characters at most
_MISSING: Final = "!MISSING!"
_GO_SPACE: Final = "\t\n\v\f\r \x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u2028\u2029\u202f\u205f\u3000"

_HOST = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:-]{0,349}")
_NAMESPACE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,79}")
_MODEL = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,79}")


class ModelNameError(ValueError):
    """A model name that Ollama refuses; the message is Ollama's own."""


@dataclass(frozen=True, slots=True)
class ModelName:
    """A model name with all its parts, as Ollama reads it; the caller's upper and lower case kept."""

    host: str
    namespace: str
    model: str
    tag: str
    cloud: bool
    """Named with an explicit `:cloud` or `-cloud`: runs elsewhere, costs no swap."""

    def short(self) -> str:
        """Ollama's short form: default host and namespace left out, the tag always there."""
        if self.host.lower() != DEFAULT_HOST:
            head = f"{self.host}/{self.namespace}/"
        elif self.namespace.lower() != DEFAULT_NAMESPACE:
            head = f"{self.namespace}/"
        else:
            head = ""
        return f"{head}{self.model}:{self.tag}"


def parse(name: str) -> ModelName:
    """Read a model name as Ollama does (model.ParseName after modelref.ParseRef).

    Space around it is dropped, a `:local` is taken off, `x:8b:cloud` is the same as `x:8b-cloud`.

    Raises:
        ModelNameError: Ollama would answer 400 with these words (an empty name: `model is required`).
    """
    raw = name.strip(_GO_SPACE)
    if not raw:
        raise ModelNameError("model is required")
    if len(name) > _NAME_LIMIT:
        raise ModelNameError("invalid model name")
    base, source = _cut_source(raw)
    if source and _cut_source(base)[1]:
        raise ModelNameError(f"use either :local or :cloud, not both: {go_quote(raw)}")
    host, namespace, model, tag = _parts(base)
    parts = (_HOST, host), (_NAMESPACE, namespace), (_MODEL, model), (_MODEL, tag)
    if not all(pattern.fullmatch(part) for pattern, part in parts):
        raise ModelNameError("invalid model name")
    if source == "cloud":
        # The form that /api/tags lists: `x:cloud`, or `x:8b-cloud` where there is a tag.
        tag = f"{tag}-cloud" if base.rfind(":") > base.rfind("/") else "cloud"
    return ModelName(host, namespace, model, tag, source == "cloud")


def canonical(name: str) -> str:
    """The one spelling of all names Ollama takes for the same model: lower case, defaults filled in, short form.

    `Llama3.2` → `llama3.2:latest`, `hf.co/Org/M` → `hf.co/org/m:latest`. A name Ollama would refuse comes back unchanged.
    """
    return _spelled(name) if len(name) <= _NAME_LIMIT else name


@functools.lru_cache(maxsize=2048)  # of names that are short: callers choose them
def _spelled(name: str) -> str:
    try:
        return parse(name).short().lower()
    except ModelNameError:
        return name


def is_cloud(name: str) -> bool:
    """Whether the name asks for a model that runs in Ollama's cloud: no weights here, no swap."""
    try:
        return parse(name).cloud
    except ModelNameError:
        return False


def fingerprint(options: Mapping[str, Any]) -> str:
    """The runner options that make a lane of their own, as `num_ctx=8192&use_mmap=false`; "" when there are none.

    Values Ollama takes for the same are the same: 8192.0 and 8192; null, unset and a negative `num_gpu` (its own choice).
    At most 55 characters; longer ones and odd values become a hash.
    """
    parts = []
    for key in RUNNER_OPTIONS:
        value = options.get(key)
        if value is None:
            continue
        text = _value(key, value)
        if key == "num_gpu" and text.startswith("-"):
            continue
        parts.append(f"{key}={text}")
    whole = "&".join(parts)
    return whole if len(whole) <= _FINGERPRINT_LIMIT else f"options={_hash(whole)}"


def lane_key(model: str, digest: str | None, options: Mapping[str, Any]) -> str:
    """The key of the lane for `model` with these runner options: at most 120 characters, readable where that fits.

    Args:
        model: the name as anybody spells it.
        digest: its digest from `/api/tags`, with or without `sha256:`; None or "" where it has none. Names with one
            digest share a runner, so they share a lane.
        options: runner options; other keys are not looked at.

    Returns:
        `3f2a9c0d1e5b7a86` or `llama3.2:latest`, then `?num_ctx=8192` where there are options.
    """
    head = digest.removeprefix("sha256:")[:16].lower() if digest else canonical(model)
    if len(head) > _HEAD_LIMIT:
        head = f"{head[: _HEAD_LIMIT - 17]}~{_hash(head)}"
    tail = fingerprint(options)
    return f"{head}?{tail}" if tail else head


def go_quote(text: str) -> str:
    """The text in double quotes as Go's `%q` prints it, for messages that must match Ollama's."""
    return '"' + "".join(_escape(char) for char in text) + '"'


_ESCAPES: Final = {'"': '\\"', "\\": "\\\\"} | dict(
    zip("\a\b\f\n\r\t\v", ("\\a", "\\b", "\\f", "\\n", "\\r", "\\t", "\\v"), strict=True)
)


def _escape(char: str) -> str:
    if char in _ESCAPES:
        return _ESCAPES[char]
    if char.isprintable():
        return char
    code = ord(char)
    if code < 0x80:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def _cut_source(raw: str) -> tuple[str, str]:
    """Take an explicit source off the name: `x:8b:cloud` → (`x:8b`, "cloud"); "" where it names none."""
    head, colon, tail = raw.rpartition(":")
    if not colon:
        return raw, ""
    suffix = tail.strip(_GO_SPACE)
    if suffix.lower() in {"cloud", "local"}:
        return head, suffix.lower()
    if "/" not in suffix and suffix.lower().endswith("-cloud"):
        return f"{head}:{suffix[: -len('-cloud')]}", "cloud"
    return raw, ""


def _parts(name: str) -> tuple[str, str, str, str]:
    """Host, namespace, model and tag; a part promised by its separator but empty is one that no rule takes."""
    host, namespace, tag = "", "", ""
    rest = name
    if rest.rfind(":") > rest.rfind("/"):
        rest, tag = _cut_last(rest, ":")
    if "/" not in rest:
        model = rest
    else:
        rest, model = _cut_last(rest, "/")
        if "/" not in rest:
            namespace = rest
        else:
            rest, namespace = _cut_last(rest, "/")
            scheme, separator, after = rest.partition("://")
            host = after if separator else scheme
    return host or DEFAULT_HOST, namespace or DEFAULT_NAMESPACE, model, tag or DEFAULT_TAG


def _cut_last(text: str, separator: str) -> tuple[str, str]:
    before, _, after = text.rpartition(separator)
    return before or _MISSING, after or _MISSING


def _value(key: str, value: object) -> str:
    """One option's value as text: what Ollama makes of it, or a hash of what it would refuse."""
    if isinstance(value, bool):
        if key in BOOLEAN_OPTIONS:
            return "true" if value else "false"
    elif key not in BOOLEAN_OPTIONS and isinstance(value, int | float) and abs(value) < 10**_INT_DIGITS:
        return str(int(value))  # Ollama decodes numbers as floats and cuts them (api.Options.FromMap)
    return f"~{_hash(json.dumps(value, sort_keys=True, default=repr))[:8]}"


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]
