"""The policies by name, and a trace under one of them.

The command line, the benches and the tests call me.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from foreman.simulate.drain import Drainer
from foreman.simulate.policies import Ageing, InOrder, Limited, UntilEmpty
from foreman.simulate.world import World

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from foreman.core.fairness import Policy
    from foreman.core.jobs import Priority
    from foreman.simulate.parts import Chooser
    from foreman.simulate.trace import Trace

FOREMAN: Final = "foreman"
_OTHERS: Final[dict[str, Callable[[World], Chooser]]] = {
    "fifo": InOrder,
    "drain": UntilEmpty,
    "llama-swap": Limited,
    "priority-aging": Ageing,
}
POLICIES: Final = (FOREMAN, *_OTHERS)


def simulate(
    trace: Trace,
    policy: str = FOREMAN,
    *,
    max_wait: Mapping[Priority, float],
    knobs: Policy | None = None,
    known: bool = False,
) -> World:
    """A trace under a policy, run to its end.

    Args:
        trace: What comes when.
        policy: One of `POLICIES`.
        max_wait: Seconds until a job of a class is due.
        knobs: foreman's own.
        known: foreman knows loads and mean runs from the start, instead of learning them.

    Raises:
        KeyError: There is no such policy.
    """
    if policy == FOREMAN:
        return World(trace, lambda world: Drainer(world, knobs, known=known), max_wait).run()
    return World(trace, _OTHERS[policy], max_wait).run()
