"""Between Ollama's dialect and OpenAI's: the door to the translators, for whoever serves native calls from `/v1`.

The worker takes all it needs from here. Requests: translate_request.py and translate_messages.py. Answers:
translate_answer.py and translate_tools.py. What needs no target at all: native.py.
"""

from __future__ import annotations

from typing import Final

from foreman.protocols.native import JSON_TYPE, STREAM_TYPE, load_answer
from foreman.protocols.translate_answer import StreamTranslator, translate_answer, translate_error
from foreman.protocols.translate_request import Translated, translate_request

PATHS: Final = frozenset({"/api/chat", "/api/generate"})
"""The native paths that an `openai` target serves in translation; /v1 paths go to it as they are."""

__all__ = [
    "JSON_TYPE",
    "PATHS",
    "STREAM_TYPE",
    "StreamTranslator",
    "Translated",
    "load_answer",
    "translate_answer",
    "translate_error",
    "translate_request",
]
