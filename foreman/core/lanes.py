"""Which jobs can run one after another without the target reloading anything: names, runner options, lane keys.

The gateway calls me at submit, the worker when it compares what a target holds with what a lane needs. I only compute
strings; I know Ollama's rules for names (types/model/name.go) and reloads (server/sched.go, needsReload).
"""

from __future__ import annotations
