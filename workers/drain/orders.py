"""The store's orders to runs: cancel, or one more reader. An order may come before the run it is for.

The worker hands me what its inbox brings; the target tells me of each run that begins. The reply to a claim and what the
store says of that job right after it come by two connections, in either order: so an order whose run is not here yet is
kept until it is. I keep few, and obey none of another epoch.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final

from foreman.core.errors import Code

if TYPE_CHECKING:
    from foreman.store.records import Order
    from workers.runs.executor import Run

EARLY: Final = 64
"""Orders that wait for their run at most; most of those that do were late, and their run is over."""


class Orders:
    """What is asked of the runs of one target."""

    def __init__(self) -> None:
        self._early: deque[Order] = deque(maxlen=EARLY)

    def come(self, order: Order, run: Run | None) -> None:
        """An order for this run of its job, or for one that is not here (yet), whatever runs meanwhile."""
        if run is not None and run.job.epoch == order.epoch:
            _obey(order, run)
        else:
            self._early.append(order)

    def begun(self, run: Run) -> None:
        """A run is here: what was asked of it already?"""
        early = [order for order in self._early if (order.job_id, order.epoch) == (run.job.id, run.job.epoch)]
        for order in early:
            self._early.remove(order)
            _obey(order, run)


def _obey(order: Order, run: Run) -> None:
    if order.verb == "cancel":
        run.cancel(Code(order.code) if order.code in set(Code) else Code.CANCELLED)
    elif order.gateway is not None and order.reader is not None:
        run.attach(order.gateway, order.reader)
