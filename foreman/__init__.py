"""foreman: an always-on job-queue gateway in front of LLM servers.

A folder is named after the one outsider it may talk to; imports only go down (docs/architecture.md).
"""

__version__ = "0.1.0"
