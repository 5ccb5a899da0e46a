"""The paths of which jobs are made, each spelled once.

Whoever lists paths takes them from here: the APIs' routes, the words of a 405, `endpoint` of `/jobs`, the page's filter, the
labels of `/metrics`. What each path's body holds, protocols/ollama.py knows.
"""

from __future__ import annotations

from typing import Final

EMBED: Final = ("/api/embed", "/api/embeddings")
OLLAMA: Final = ("/api/chat", "/api/generate", *EMBED)
"""Ollama's own inference paths, of which each may carry `keep_alive`."""
OPENAI: Final = ("/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/responses", "/v1/messages")
"""OpenAI's and Anthropic's."""
INFERENCE: Final = (*OLLAMA, *OPENAI)
EMBEDDINGS: Final = frozenset({*EMBED, "/v1/embeddings"})
"""Those that run in the embedding slot."""
SHOW: Final = "/api/show"
MANAGEMENT: Final = {
    "/api/pull": "POST",
    "/api/create": "POST",
    "/api/copy": "POST",
    "/api/push": "POST",
    "/api/delete": "DELETE",
}
"""What changes a target's models → its method."""
