"""How foreman's processes log: structlog events, as lines for a person or as JSON, on stderr.

The command line calls `configure` once at start; everybody else asks structlog for a logger and names events by dotted,
stable names (`job.done`). I turn foreign libraries' log records into the same lines, and blank what must never be
logged (a prompt, an answer, a token), should a caller pass it by mistake; tracebacks never show local variables.
"""

from __future__ import annotations

import json
import logging
import re
import sys
from typing import TYPE_CHECKING, Any, Final, TextIO

import structlog

if TYPE_CHECKING:
    from structlog.typing import EventDict, Processor, WrappedLogger

PRIVATE: Final = frozenset(
    {
        *("prompt", "messages", "message_content", "content", "request", "body", "answer", "delta", "completion"),
        *("token", "authorization", "headers", "secret", "api_key", "password", "cookie"),
    }
)
"""Keys of a log event whose values are blanked."""
_CONTROL: Final = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
"""What a terminal may take for an order; lines and tabs are the renderer's to spell."""


def hide_private(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Blank the values of `PRIVATE` keys. A structlog processor."""
    for key in PRIVATE & event.keys():
        event[key] = "[hidden]"
    return event


def tame_controls(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Spell out the control characters of values: a name that a caller chose must not steer a terminal. A processor."""
    for key, value in event.items():
        if isinstance(value, str) and _CONTROL.search(value):
            event[key] = _CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", value)
    return event


def configure(kind: str | None = None, stream: TextIO | None = None, level: int = logging.INFO) -> None:
    """Set up logging for this process; calling it again replaces the former setup.

    Args:
        kind: `console`, `json`, or None for console on a terminal and JSON elsewhere (`FOREMAN_LOG`).
        stream: where the lines go; stderr by default.
        level: the lowest level of foreman's own events; other libraries are heard from WARNING on.
    """
    out = stream or sys.stderr
    terminal = out.isatty()
    shared: list[Processor] = [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        hide_private,
    ]
    render = _console(colors=terminal) if (kind or ("console" if terminal else "json")) == "console" else _json()
    structlog.configure(
        processors=[*shared, *render],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(out),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(out)
    handler.setFormatter(structlog.stdlib.ProcessorFormatter(foreign_pre_chain=shared, processors=[_plain, *render]))
    root = logging.getLogger()
    for old in root.handlers[:]:
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(logging.WARNING)


def _plain(logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
    return structlog.stdlib.ProcessorFormatter.remove_processors_meta(logger, method, event)


def _console(*, colors: bool) -> list[Processor]:
    # The plain traceback: the default one of rich prints local variables, prompts among them.
    plain = structlog.dev.plain_traceback
    return [tame_controls, structlog.dev.ConsoleRenderer(colors=colors, exception_formatter=plain)]


def _json() -> list[Processor]:
    return [structlog.processors.format_exc_info, structlog.processors.JSONRenderer(serializer=_dumps)]


_ENCODER: Final = json.JSONEncoder(ensure_ascii=False, default=repr)  # json.dumps makes one a line


def _dumps(event: Any, **_options: Any) -> str:
    return _ENCODER.encode(event)
