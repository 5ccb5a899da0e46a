"""The picture of a job's states, drawn from the one table in core/jobs.py.

scripts/docs puts what I return into docs/architecture.md, and a test compares. I only make text.
"""

from __future__ import annotations

from foreman.core.jobs import TERMINAL, TRANSITIONS, State


def states() -> str:
    """The transition table as a Mermaid state diagram, in the table's own order."""
    lines = ["stateDiagram-v2", f"    [*] --> {State.QUEUED}"]
    for state, nexts in TRANSITIONS.items():
        lines += [f"    {state} --> {following}" for following in State if following in nexts]
    lines += [f"    {state} --> [*]" for state in State if state in TERMINAL]
    return "\n".join(lines) + "\n"
